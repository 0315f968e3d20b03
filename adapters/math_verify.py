"""Whether two answers are the same mathematically, by math-verify, in processes that can be killed.

math-verify guards itself by signal.alarm, which works in main threads only, and some inputs keep it busy for minutes.
So it runs in processes of its own, one line of JSON per question, and a question that takes too long ends its process.

    async with MathEquality() as equality:
        await equality.same(r"\\frac{1}{2}", "0.5")     # True
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Self

SECONDS = 2.0  # for a question
START_SECONDS = 60.0  # until the process is there: SymPy takes its time
PROCESSES = 2  # at most: so many questions are looked into at a time
KEPT = 10_000  # verdicts
LONGEST = 2000  # characters; longer answers are compared as text


def installed() -> bool:
    """Whether math-verify is there."""
    return find_spec("math_verify") is not None


class MathEquality:
    """Answers questions, up to ``processes`` at a time, each of which starts when it is needed."""

    def __init__(self, seconds: float = SECONDS, processes: int = PROCESSES) -> None:
        self._seconds = seconds
        self._all = [_Asker() for _ in range(processes)]
        self._idle: asyncio.LifoQueue[_Asker] = asyncio.LifoQueue()  # the last used is asked first: it is there
        for one in self._all:
            self._idle.put_nowait(one)
        self._known: dict[tuple[str, str], bool] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the processes."""
        for one in self._all:
            await one.close()

    @property
    def killed(self) -> int:
        """How many questions took too long, or ended their process."""
        return sum(one.killed for one in self._all)

    async def same(self, one: str, other: str) -> bool:
        """Whether they are equal; as text where math-verify cannot read them, or takes too long."""
        if one == other:
            return True
        if max(len(one), len(other)) > LONGEST:
            return False
        pair = (one, other)
        if pair not in self._known:
            asker = await self._idle.get()
            try:
                if pair not in self._known:  # nobody has asked meanwhile
                    self._keep(pair, await asker.ask(pair, self._seconds))
            finally:
                self._idle.put_nowait(asker)
        return self._known[pair]

    def _keep(self, pair: tuple[str, str], verdict: bool) -> None:
        if len(self._known) > KEPT:
            self._known.clear()
        self._known[pair] = verdict


class _Asker:
    """A process that is asked one question after the other."""

    def __init__(self) -> None:
        self.killed = 0
        self.process: asyncio.subprocess.Process | None = None

    async def ask(self, pair: tuple[str, str], seconds: float) -> bool:
        """The verdict; False where it takes longer."""
        try:
            process = await self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(pair).encode() + b"\n")
            async with asyncio.timeout(seconds):
                line = await process.stdout.readline()
        except BaseException as error:
            await self.close()  # also where the asking is cancelled: its answer would be taken for the next one's
            if isinstance(error, TimeoutError | ConnectionError):
                self.killed += 1
                return False
            raise
        if not line:  # it died
            await self.close()
            self.killed += 1
            return False
        return json.loads(line) is True

    async def close(self) -> None:
        """End the process."""
        process, self.process = self.process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _running(self) -> asyncio.subprocess.Process:
        if self.process is None or self.process.returncode is not None:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", __name__, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
            assert self.process.stdout is not None
            async with asyncio.timeout(START_SECONDS):
                await self.process.stdout.readline()
        return self.process


# --- in the process ---------------------------------------------------------------------------------------------------


def equal(one: str, other: str) -> bool:
    """math-verify's verdict, either way round: its order matters."""
    from math_verify import parse, verify

    no_alarm: Any = None
    first, second = (parse(_shown(text), parsing_timeout=no_alarm) for text in (one, other))
    if not first or not second:
        return False
    return bool(verify(first, second, timeout_seconds=no_alarm) or verify(second, first, timeout_seconds=no_alarm))


def _shown(text: str) -> str:
    """As math-verify likes to find formulas: in dollars."""
    return text if "$" in text or "\\boxed" in text else f"${text}$"


def main() -> None:
    """Answer questions from standard input until it ends."""
    import logging

    import math_verify

    logging.disable(logging.CRITICAL)
    answers = sys.stdout
    sys.stdout = sys.stderr  # what SymPy prints is no answer
    answers.write(f"{math_verify.__name__}\n")
    answers.flush()
    for line in sys.stdin:
        one, other = json.loads(line)
        try:
            verdict = equal(one, other)
        except Exception:  # whatever a parser of untrusted text may raise
            verdict = False
        answers.write(f"{json.dumps(verdict)}\n")
        answers.flush()


if __name__ == "__main__":
    main()
