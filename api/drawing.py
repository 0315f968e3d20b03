"""Drawing answers to one prompt in a rolling window, until the sampling says that it is enough.

Several draws are out at any time, but the decision sees them in the order in which they were asked for, one after the
other: what finishes first is short, and no fair sample. So the decisions are those that drawing one by one would have
made; the window buys latency with the draws that are cancelled at the end.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from suffice.optimizer import Draw, Enough, EnoughReason, Sampling

# Draws that are out at once. Simulated (lognormal lengths, prompts of all kinds), 6 take .29 to .32 of the time of one
# by one and 1.25 to 1.4 of its work; 4 take .35 and 1.15 to 1.2, 8 a little less time for a lot more work.
WINDOW = 6
AHEAD = 1  # draws by which a window may grow while a straggler holds up the decision
WIDEST = 4  # times the window, where the deadline is near
MOST_FAILURES = 3  # in a row, each after the upstreams' own retries: then what is in hand is decided upon


@dataclass(frozen=True, slots=True)
class Answer:
    """What a draw gave: the upstream's ``body``, what counts as its ``answer``, and what it took.

    ``answer`` None is a failure; ``rejected`` says why. ``prompt_tokens`` and ``tokens`` are those billed.
    """

    number: int
    answer: str | None
    tokens: int
    score: float | None = None
    prompt_tokens: int = 0
    seconds: float = 0.0
    rejected: str | None = None
    body: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Refused(Exception):
    """A draw that would fail in the same way again; ``reply`` is what to tell the client, if the upstream said it."""

    def __init__(self, reply: Any, message: str = "the upstream refuses the request") -> None:
        super().__init__(message)
        self.reply = reply


class DrawFailed(Exception):
    """A draw that failed for no fault of the request; another one may work."""


class OutOfTime(DrawFailed):
    """The deadline passed before any answer came."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How far drawing may go; ``window`` None: as it pays."""

    max_samples: int
    min_samples: int = 1
    window: int | None = None
    overissue: str = "idle"  # "none": only what is drawn for certain; "all": everything at once
    seconds: float = math.inf
    tokens: int | None = None


@dataclass(slots=True)
class Drawn:
    """What came of it: counted answers in the order asked for, and why drawing stopped."""

    counted: list[Answer]
    stop: Enough
    issued: int = 0
    completed: int = 0
    aborted: int = 0
    failed: int = 0
    unused: list[Answer] = field(default_factory=list[Answer])  # arrived, but behind the decision
    error: Exception | None = None  # the last failure, where failures ended it


class Drawing:
    """One prompt's draws. ``draw(number)`` makes one, and is cancelled where it is not needed any more.

    ``busy()`` says whether others wait for the same upstreams: then nothing is drawn that may not be needed.
    """

    def __init__(
        self,
        sampling: Sampling,
        draw: Callable[[int], Awaitable[Answer]],
        limits: Limits,
        busy: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sampling, self.limits = sampling, limits
        self._draw, self._busy, self._clock = draw, busy, clock
        self._start = clock()
        self._out: dict[asyncio.Future[Answer], tuple[int, float]] = {}
        self._arrived: dict[int, Answer | None] = {}  # None: failed, skipped
        self._next = 0  # the number that the decision waits for
        self._failures = 0
        self._spent = 0
        self._times: list[float] = []
        self._finish: str | None = None
        self.busy_seconds = 0.0  # spent deciding
        self.result: Drawn = Drawn([], Enough(EnoughReason.BUDGET, "nothing was drawn"))

    async def run(self) -> Drawn:
        """Draw until it is enough. Raises Refused or a DrawFailed where there is no answer at all."""
        try:
            await self._run()
        finally:
            await self._cancel()
        if not self.result.counted and not self.result.unused:
            raise self.result.error or OutOfTime("no answer came before the deadline")
        return self.result

    async def _run(self) -> None:
        step = self.sampling.ask()
        while True:
            if isinstance(step, Enough):
                self.result.error = None
                return self._stop(step)
            if self._failures >= MOST_FAILURES:
                return self._give_up(EnoughReason.BUDGET, "the upstreams failed; decided on what had come")
            self._fill(step)
            if not self._out:
                return self._give_up(EnoughReason.BUDGET, "the token budget is spent")
            left = self._start + self.limits.seconds - self._clock()
            timeout = None if math.isinf(left) else max(left, 0.0)
            done, _ = await asyncio.wait(self._out, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                return self._give_up(EnoughReason.DEADLINE, f"{self.limits.seconds:g} seconds have passed")
            for one in sorted(done, key=lambda future: self._out[future][0]):
                self._arrive(one)
            step = self._settle(step)

    def finish(self, message: str) -> None:
        """Stop at the next answer that is counted."""
        self._finish = message

    def go_on_with(self, sampling: Sampling) -> None:
        """Decide by another sampling, which is told what was counted so far, without scores."""
        for i, one in enumerate(self.result.counted):
            sampling.tell(one.answer, None, one.tokens, number=i)
        self.sampling = sampling

    # --- issuing ---

    def _fill(self, step: Draw) -> None:
        """Put as many draws out as pay now."""
        counted = step.samples
        certain = step.first + step.count - counted
        left = self.limits.max_samples - counted
        width = self._width(certain, left)
        pending = len(self._out) + sum(1 for drawn in self._arrived.values() if drawn is not None)
        # Behind a straggler hardly more is drawn ahead: that costs draws, and saves little time.
        while len(self._out) < width and pending < min(max(width + AHEAD, certain), left) and self._affordable():
            self._issue()
            pending += 1

    def _width(self, certain: int, left: int) -> int:
        if self.limits.overissue == "all":
            return left
        if self.limits.overissue == "none" or (self.limits.window is None and self._busy()):
            return min(certain, self.limits.window or certain, left)
        if self.limits.window is not None:
            return min(self.limits.window, left)
        width = WINDOW
        if self._times and not math.isinf(self.limits.seconds):
            # Rounds that still fit before the deadline have to hold all that may be wanted.
            remaining = self._start + self.limits.seconds - self._clock()
            rounds = max(remaining * len(self._times) / sum(self._times), 1.0)
            width = max(width, min(math.ceil(left / rounds), WIDEST * width))
        return min(max(width, certain), left)

    def _affordable(self) -> bool:
        if self.limits.tokens is None:
            return True
        mean = self._spent / self.result.completed if self.result.completed else 0.0
        return not self.result.issued or self._spent + (len(self._out) + 1) * mean <= self.limits.tokens

    def _issue(self) -> None:
        number = self.result.issued
        self.result.issued += 1
        self._out[asyncio.ensure_future(self._draw(number))] = number, self._clock()

    # --- arriving ---

    def _arrive(self, one: asyncio.Future[Answer]) -> None:
        number, issued = self._out.pop(one)
        try:
            drawn = one.result()
        except DrawFailed as error:
            self._arrived[number] = None
            self._failures += 1
            self.result.failed += 1
            self.result.error = error
            return
        except Refused as error:
            if not self.result.completed:
                raise
            self._arrived[number] = None
            self._failures = MOST_FAILURES
            self.result.failed += 1
            self.result.error = error
            return
        self._failures = 0
        self._arrived[number] = drawn
        self.result.completed += 1
        self._spent += drawn.prompt_tokens + drawn.tokens
        self._times.append(self._clock() - issued)

    def _settle(self, step: Draw | Enough) -> Draw | Enough:
        """Count what arrived in order, deciding after each."""
        while self._next in self._arrived:
            drawn = self._arrived.pop(self._next)
            self._next += 1
            if drawn is None:
                continue
            began = self._clock()
            self._count(drawn)
            step = self.sampling.ask()
            self.busy_seconds += self._clock() - began
            if self._finish is not None:
                n = len(self.result.counted)
                return Enough(EnoughReason.RULE, self._finish, step.gain, step.cost, n, step.confidence)
            if isinstance(step, Enough) and not self._too_few(step):
                return step
            if isinstance(step, Enough):
                step = Draw(
                    1, len(self.result.counted), len(self.result.counted), step.confidence, step.gain, step.cost
                )
        return step

    def _too_few(self, step: Enough) -> bool:
        few = len(self.result.counted) < min(self.limits.min_samples, self.limits.max_samples)
        return few and step.reason not in (EnoughReason.BUDGET, EnoughReason.DEADLINE)

    def _count(self, drawn: Answer) -> None:
        self.sampling.tell(drawn.answer, drawn.score, drawn.tokens, number=len(self.result.counted))
        self.result.counted.append(drawn)

    # --- stopping ---

    def _give_up(self, reason: EnoughReason, message: str) -> None:
        """Decide on all that has come, also behind a draw that has not."""
        for number in sorted(self._arrived):
            drawn = self._arrived.pop(number)
            if drawn is not None:
                self._count(drawn)
        step = self.sampling.ask()
        self._stop(Enough(reason, message, step.gain, step.cost, len(self.result.counted), step.confidence))

    def _stop(self, stop: Enough) -> None:
        self.result.stop = stop
        self.result.unused = [drawn for _, drawn in sorted(self._arrived.items()) if drawn is not None]

    async def _cancel(self) -> None:
        for one in self._out:
            one.cancel()
        if self._out:
            await asyncio.gather(*self._out, return_exceptions=True)
        for one in self._out:
            if one.cancelled() or one.exception() is not None:
                self.result.aborted += 1
            else:
                self.result.completed += 1
                self.result.unused.append(one.result())
        self._out.clear()
