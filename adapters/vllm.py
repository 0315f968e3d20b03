"""vLLM beyond OpenAI's interface: its load, its scores and embeddings, aborting, a server of one's own, and no server.

    async with VLLMServer("http://127.0.0.1:8000") as server:
        load = await server.load()                          # what it works on, and what waits

    with serving([python, "-m", "vllm.entrypoints.openai.api_server", "--model", model]) as url: ...

    from vllm import LLM, SamplingParams                    # offline: in vLLM's own environment
    params = SamplingParams(max_tokens=99)
    for answered in sample_batch(LLM(model), prompts, lambda: Sampling(price=0.01), params, read):
        print(answered.answer, answered.stop)

Nothing here imports vllm: it lives in an environment of its own, since it wants older packages than the service.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from suffice.optimizer import Draw, Enough, Sampling, SufficeError

from .openai import OpenAIServer, Reply, Unreachable

SERVER = ("-m", "vllm.entrypoints.openai.api_server")  # `vllm serve` does not find itself in the CPU build
ON_CPU = {  # the environment of a small server without a GPU, in one process, that asks nobody for anything
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
PATIENCE = 600.0  # seconds until a server has to answer
LAST_WORDS = 4000  # characters of the log of one that did not
GAUGE = re.compile(rb"^vllm:(\w+)(?:\{[^}]*\})? ([0-9.eE+-]+)$", re.MULTILINE)


# --- a server's own interface -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """What a server has to do: requests at work and queued, and the share of its cache that is in use.

    ``prefix_hits`` is the share of prompt tokens found in the prefix cache since the server started; None: no prompts.
    """

    running: int
    waiting: int
    cache: float
    prefix_hits: float | None

    @classmethod
    def of(cls, metrics: bytes) -> Load | None:
        """From what ``/metrics`` says, summed over engines; None where no vLLM says it."""
        sums: dict[str, float] = {}
        for name, value in GAUGE.findall(metrics):
            sums[name.decode()] = sums.get(name.decode(), 0.0) + float(value)
        if "num_requests_running" not in sums:
            return None
        asked = sums.get("prefix_cache_queries_total", 0.0)
        return cls(
            int(sums["num_requests_running"]),
            int(sums.get("num_requests_waiting", 0.0)),
            sums.get("kv_cache_usage_perc", 0.0),
            sums.get("prefix_cache_hits_total", 0.0) / asked if asked else None,
        )


class VLLMServer(OpenAIServer):
    """A vLLM server. All calls raise Unreachable where it does not answer, and for what is no answer to them."""

    async def load(self) -> Load:
        """What it has to do now."""
        load = Load.of((await self.request("GET", "/metrics")).body)
        if load is None:
            raise Unreachable(f"{self.url}/metrics says nothing about vLLM", sent=True)
        return load

    async def embed(self, texts: Sequence[str], model: str) -> list[list[float]]:
        """A vector per text (``/v1/embeddings``): features of prompts, for a GP over prompts (optimizer/prompts.py)."""
        data = await self._data("/v1/embeddings", {"model": model, "input": list(texts)})
        return [[float(x) for x in entry["embedding"]] for entry in data]

    async def classify(self, texts: Sequence[str], model: str, *, raw: bool = False) -> list[list[float]]:
        """A classifier's or reward model's outputs per text (``/classify``); ``raw``: before the activation."""
        body: dict[str, Any] = {"model": model, "input": list(texts)}
        data = await self._data("/classify", body | ({"use_activation": False} if raw else {}))
        return [[float(x) for x in entry["probs"]] for entry in data]

    async def score(self, question: str, answers: Sequence[str], model: str) -> list[float]:
        """A cross-encoder's score of each answer to a question (``/score``)."""
        data = await self._data("/score", {"model": model, "text_1": question, "text_2": list(answers)})
        return [float(entry["score"]) for entry in data]

    async def abort(self, request_ids: Sequence[str]) -> None:
        """End requests by the ids that their answers bear, where the server runs with ``--enable-scale-out``.

        Closing a request's connection ends it on any server.
        """
        self._good(await self.post("/inference/v1/abort_requests", {"request_ids": list(request_ids)}))

    async def _data(self, path: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        reply = self._good(await self.post(path, body))
        try:
            return sorted(reply.json()["data"], key=lambda entry: int(entry["index"]))
        except (ValueError, KeyError, TypeError) as error:
            raise Unreachable(
                f"{self.url}{path} answered in another shape than expected ({error!r})", sent=True
            ) from None

    def _good(self, reply: Reply) -> Reply:
        if reply.status != 200:
            raise Unreachable(f"{self.url} answered {reply.status}: {reply.body[:300]!r}", sent=True)
        return reply


# --- a server of one's own --------------------------------------------------------------------------------------------


class NotServing(SufficeError):
    """A server did not start; the message has the end of its log."""


@contextmanager
def serving(command: Sequence[str], env: Mapping[str, str] | None = None, patience: float = PATIENCE) -> Generator[str]:
    """The address of a server started by ``command``, to which host and port are added; it is stopped at the end.

    ``env`` is added to this process's environment. Raises NotServing where it does not answer within ``patience``
    seconds.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env={**os.environ, **(env or {})},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            if not _answers(url, process, patience):
                log.seek(0)
                raise NotServing(f"{command[0]} does not serve: {log.read()[-LAST_WORDS:]}")
            yield url
        finally:
            _end(process)


def _answers(url: str, process: subprocess.Popen[bytes], patience: float) -> bool:
    """Whether it came up."""
    until = time.monotonic() + patience
    while process.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            time.sleep(0.5)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop it and all that it started."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# --- no server --------------------------------------------------------------------------------------------------------

Read = Callable[[str], Hashable | None]  # an answer's text -> what counts as the answer; None: it failed
ScoreText = Callable[[str, str], float | None]  # prompt, answer's text -> its score


class Engine(Protocol):
    """What is used of ``vllm.LLM``."""

    def generate(self, prompts: Any, sampling_params: Any, *, use_tqdm: bool) -> Sequence[Any]:
        """An output per prompt, whose ``outputs`` are its completions."""
        ...


@dataclass(slots=True)
class Answered:
    """What a prompt's draws came to: the ``answer`` that was picked, its ``text``, and why drawing stopped."""

    prompt: str
    sampling: Sampling
    texts: list[str] = field(default_factory=list[str])
    tokens: int = 0
    stop: Enough | None = None

    @property
    def answer(self) -> Hashable | None:
        return self.sampling.pick

    @property
    def text(self) -> str | None:
        """The text of the draw that was picked; None where all failed."""
        number = self.sampling.pick_number
        return None if number is None else self.texts[number]


def sample_batch(
    engine: Engine,
    prompts: Sequence[str],
    sampling: Callable[[], Sampling],
    params: Any,
    read: Read,
    score: ScoreText | None = None,
    progress: Callable[[int, int], object] = lambda done, answers: None,
) -> list[Answered]:
    """Answers to all prompts, as many draws for each as its Sampling asks for, in rounds over those that want more.

    engine: a ``vllm.LLM``; params: its SamplingParams, whose ``n`` and ``seed`` are set here (a seed counts up).
    sampling: makes a prompt's Sampling; its ``latency`` is what a further round costs.
    progress: called after each round with the prompts that are done and the answers drawn.

    A round waits for all its answers, so that short ones are not counted first. Answers cut off by the token limit are
    failures.
    """
    found = [Answered(prompt, sampling()) for prompt in prompts]
    while wanted := [(one, step) for one in found if one.stop is None and (step := _next(one)) is not None]:
        asked = [_asking(params, step.count, len(one.texts)) for one, step in wanted]
        outputs = engine.generate([one.prompt for one, _ in wanted], asked, use_tqdm=False)
        for (one, _), output in zip(wanted, outputs, strict=True):
            for completion in output.outputs:
                _take(one, completion, read, score)
        progress(sum(one.stop is not None for one in found), sum(len(one.texts) for one in found))
    return found


def _next(one: Answered) -> Draw | None:
    """How many more; None where it is enough."""
    step = one.sampling.ask()
    if isinstance(step, Draw):
        return step
    one.stop = step
    return None


def _asking(params: Any, n: int, drawn: int) -> Any:
    mine = params.clone()
    mine.n = n
    if params.seed is not None:
        mine.seed = params.seed + drawn
    return mine


def _take(one: Answered, completion: Any, read: Read, score: ScoreText | None) -> None:
    answer = read(completion.text) if completion.finish_reason == "stop" else None
    worth = score(one.prompt, completion.text) if score is not None and answer is not None else None
    tokens = len(completion.token_ids)
    one.sampling.tell(answer, worth, tokens, number=len(one.texts))
    one.texts.append(completion.text)
    one.tokens += tokens
