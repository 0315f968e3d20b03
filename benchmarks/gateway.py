"""What the gateway costs, and what its rolling window saves: CPU time and latency before a made-up inference server.

    python benchmarks/gateway.py [--requests 400] [--out docs/benchmarks/gateway.json]
    python benchmarks/gateway.py --load 500          so many requests at once on 32 permits; fails where one is lost

CPU time is that of the gateway's own process, from the operating system; the server and the clients are others. The
peers are measured in the same run where their environments are there (`make gateways-env`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import re
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn

from suffice.adapters.vllm import ON_CPU, SERVER, NotServing, serving
from suffice.api.drawing import Answer, Drawing, Drawn, Limits
from suffice.optimizer import Sampling

TICK = os.sysconf("SC_CLK_TCK")
AT_ONCE = 8
MEAN_SECONDS = 0.25  # of an answer, in the comparison of latencies
QUESTION = "How many roads must a man walk down? " * 8
PATIENCE = 300.0
TOKENS = 6  # of every answer
CASES = 60
MODEL = Path(__file__).parents[1] / "tests" / "models" / "tiny-addition"


# --- the inference server ---------------------------------------------------------------------------------------------


STATS = {"served": 0, "running": 0, "most_running": 0}


async def upstream(scope: Any, receive: Any, send: Any) -> None:
    """A chat completion by case and seed where the question says "case <case>", after a while where it says "wait"."""
    raw = b""
    while True:
        message = await receive()
        raw += message.get("body", b"")
        if not message.get("more_body"):
            break
    STATS["running"] += 1
    STATS["most_running"] = max(STATS["running"], STATS["most_running"])
    try:
        await answer(scope["path"], raw, send)
    finally:
        STATS["running"] -= 1


async def answer(path: str, raw: bytes, send: Any) -> None:
    body = json.loads(raw) if raw else {}
    if path == "/stats":
        document: Any = dict(STATS)
        STATS["most_running"] = 0
    elif path == "/v1/models":
        document = {"object": "list", "data": [{"id": "tiny", "object": "model", "created": 1, "owned_by": "us"}]}
    else:
        text = "The answer is 42."
        question = str((body.get("messages") or [{}])[-1].get("content"))
        if found := re.search(r"(case|wait) (\d+)", question):
            text, seconds = drawn(int(found[2]), int(body.get("seed") or 0))
            await asyncio.sleep(seconds if found[1] == "wait" else 0)
        STATS["served"] += 1
        document = {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": "tiny",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 90, "completion_tokens": TOKENS, "total_tokens": 90 + TOKENS},
        }  # fmt: skip
    written = json.dumps(document).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(written)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": written})


def drawn(case: int, seed: int) -> tuple[str, float]:
    """The answer to a draw and the seconds it takes: lognormal (sigma 0.5), right as often as the case is easy."""
    ease = random.Random(case).betavariate(1.2, 0.8)
    rng = random.Random(case * 100_003 + seed)
    answer = 42 if rng.random() < ease else rng.randrange(10)
    return f"The answer is {answer}.", MEAN_SECONDS * math.exp(rng.gauss(-0.125, 0.5))


# --- processes --------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def process(command: Sequence[str | Path], port: int, **env: str) -> Generator[subprocess.Popen[bytes]]:
    """A server on ``port``, up until the context ends."""
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    started = subprocess.Popen(
        [str(word) for word in command],
        env=os.environ | one | env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        patience = time.monotonic() + PATIENCE
        while time.monotonic() < patience and started.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        else:
            raise RuntimeError(f"{command[0]} did not start")
        yield started
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGTERM)
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its children so far."""
    total = 0.0
    family = [pid]
    while family:
        one = family.pop()
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
            family += [int(child) for child in Path(f"/proc/{one}/task/{one}/children").read_text().split()]
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / TICK
    return total


async def ask(
    url: str, bodies: Sequence[dict[str, Any]], headers: dict[str, str] | None = None, at_once: int = AT_ONCE
) -> list[Any]:
    """Send them, ``at_once`` at a time; answers with the seconds they took."""
    waiting = list(enumerate(bodies))
    found: list[Any] = [None] * len(bodies)
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with aiohttp.ClientSession(
        timeout=timeout,
        headers={"Authorization": "Bearer sk-1", **(headers or {})},
        connector=aiohttp.TCPConnector(limit=0),
    ) as http:

        async def work() -> None:
            while waiting:
                i, body = waiting.pop()
                began = time.perf_counter()
                async with http.post(f"{url}/v1/chat/completions", json=body) as answer:
                    text = await answer.read()
                    if answer.status != 200:
                        raise RuntimeError(f"{answer.status}: {text[:300]!r}")
                found[i] = json.loads(text), time.perf_counter() - began

        await asyncio.gather(*(work() for _ in range(at_once)))
    return found


def cost(pid: int, url: str, body: dict[str, Any], requests: int, headers: dict[str, str] | None = None) -> float:
    """CPU milliseconds per request of the process."""
    asyncio.run(ask(url, [body] * max(requests // 5, AT_ONCE), headers))
    before = cpu_seconds(pid)
    asyncio.run(ask(url, [body] * requests, headers))
    return 1e3 * (cpu_seconds(pid) - before) / requests


def chat(model: str, question: str = QUESTION, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": question}], **more}


# --- ours -------------------------------------------------------------------------------------------------------------


def ours(upstream_url: str, requests: int) -> dict[str, Any]:
    """CPU per request, passed through and with a fixed number of draws; and latencies."""
    fixed = {f"n{n}": {"rule": "fixed", "settings": {"samples": n}, "max_samples": n} for n in (1, 4, 16, 64)}
    policies = {**fixed, "optscale": {"extract": "number", "price": 0.005}}
    with gateway({"upstreams": [{"url": upstream_url}], "policies": policies}) as (pid, url):
        found: dict[str, Any] = {"pass-through": cost(pid, url, chat("tiny"), requests)}
        for n in (1, 4, 16, 64):
            found[f"{n} draws"] = cost(pid, url, chat(f"tiny:n{n}"), max(requests // max(n // 4, 1), 20))
        found["per draw"] = (found["64 draws"] - found["4 draws"]) / 60
        found["latency"] = latency(url, [f"wait {case}" for case in range(CASES)])
    return found


@contextmanager
def gateway(config: dict[str, Any]) -> Generator[tuple[int, str]]:
    """Our gateway's process and its address."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "gateway.yaml"
        file.write_text(json.dumps(config))
        port = free_port()
        command = (sys.executable, "-m", "suffice.api.cli", "gateway", "--port", str(port), "--config", file)
        with process(command, port, SUFFICE_LOG_LEVEL="critical") as running:
            yield running.pid, f"http://127.0.0.1:{port}"


def latency(url: str, questions: Sequence[str], at_once: int = AT_ONCE, **fields: Any) -> dict[str, Any]:
    """Mean seconds to the same decisions, one by one and in the rolling window."""
    rows: dict[str, Any] = {}
    decided: dict[str, list[int]] = {}
    for name, more in (("one by one", {"concurrency": 1}), ("window", {}), ("all at once", {"overissue": "all"})):
        bodies = [
            chat("tiny:optscale", question, seed=0, optscale={"max_samples": 16, **more}, **fields)
            for question in questions
        ]
        answers = asyncio.run(ask(url, bodies, at_once=at_once))
        records = [answer["optscale"] for answer, _ in answers]
        decided[name] = [record["samples"]["counted"] for record in records]
        rows[name] = {
            "seconds": statistics.mean(seconds for _, seconds in answers),
            "counted": statistics.mean(decided[name]),
            "issued": statistics.mean(record["samples"]["issued"] for record in records),
        }
    same = [len(set(counts)) == 1 for counts in zip(*decided.values(), strict=True)]
    rows["same decisions"] = sum(same) / len(same)
    return rows


def on_vllm(python: Path, cases: int = 60) -> dict[str, Any]:
    """The same on a real vLLM with the tiny model of tests/models, one question at a time."""
    rng = random.Random(4)
    sums = [[rng.randint(10, 99) for _ in range(rng.randint(2, 9))] for _ in range(cases)]
    questions = ["+".join(map(str, numbers)) + "=?" for numbers in sums]
    flags = ("--model", str(MODEL), "--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager")
    limits = ("--max-model-len", "512", "--max-num-seqs", "64", "--distributed-executor-backend", "uni")
    with (
        serving([str(python), *SERVER, *flags, *limits], ON_CPU) as vllm,
        gateway({"upstreams": [{"url": vllm}], "policies": {"optscale": {"extract": "number", "price": 0.005}}}) as (
            _,
            url,
        ),
    ):
        asyncio.run(ask(url, [chat("tiny", question, max_tokens=128) for question in questions[:8]]))
        return latency(url, questions, at_once=1, max_tokens=128)


class NoTime(asyncio.SelectorEventLoop):
    """A loop whose clock goes on to the next timer at once: computing takes no time, and waiting neither."""

    def __init__(self) -> None:
        super().__init__()
        self._at = 0.0
        self._selector.select = self._skip  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._at

    def _skip(self, timeout: float | None = None) -> list[Any]:
        self._at += timeout or 0.0
        return []


def in_theory(cases: int = CASES) -> dict[str, Any]:
    """Mean seconds to the decisions of `latency`, and draws issued, were it not for what a gateway computes."""
    found: dict[str, Any] = {}
    with asyncio.Runner(loop_factory=NoTime) as runner:
        for name, window in (("one by one", 1), ("window", None)):
            each = [runner.run(_undisturbed(case, window)) for case in range(cases)]
            found[name] = {
                "seconds": statistics.mean(seconds for seconds, _ in each),
                "counted": statistics.mean(len(drawn.counted) for _, drawn in each),
                "issued": statistics.mean(drawn.issued for _, drawn in each),
            }
    return found


async def _undisturbed(case: int, window: int | None) -> tuple[float, Drawn]:
    clock = asyncio.get_running_loop().time

    async def draw(number: int) -> Answer:
        answer, seconds = drawn(case, number)
        await asyncio.sleep(seconds)
        return Answer(number, answer, TOKENS)

    began = clock()
    sampling = Sampling(price=0.005, max_samples=16)
    found = await Drawing(sampling, draw, Limits(16, window=window), clock=clock).run()
    return clock() - began, found


# --- load -------------------------------------------------------------------------------------------------------------

PERMITS = 32
BUDGET = 64


def load(upstream_url: str, requests: int) -> dict[str, Any]:
    """So many requests at once with budgets over the permits, half of which issue everything. Raises where one is lost.

    Every request is answered, usage is what the upstream served, no connection stays open, and all permits are there.
    """
    config = {
        "upstreams": [{"url": upstream_url}],
        "policies": {"optscale": {"extract": "number", "price": 0.002, "max_samples": BUDGET}},
        "limits": {"concurrency": PERMITS, "requests": max(requests, 4 * PERMITS)},
    }
    with gateway(config) as (pid, url):
        asyncio.run(ask(url, [chat("tiny:optscale")], at_once=1))
        sockets = open_files(pid)
        before = fetched(f"{upstream_url}/stats")["served"]
        bodies = [
            chat("tiny:optscale", seed=0, question=f"case {case}", optscale={"overissue": ("idle", "all")[case % 2]})
            for case in range(requests)
        ]
        cpu, began = cpu_seconds(pid), time.perf_counter()
        answers = [answer for answer, _ in asyncio.run(ask(url, bodies, at_once=requests))]
        seconds, cpu = time.perf_counter() - began, cpu_seconds(pid) - cpu
        until("the upstream is idle", lambda: fetched(f"{upstream_url}/stats")["running"] <= 1)  # itself
        until("connections are closed", lambda: open_files(pid) <= sockets + 2)
        fetched(f"{upstream_url}/stats")
        asyncio.run(
            ask(url, [chat("tiny:optscale", question=f"wait {k}", budget=1) for k in range(4 * PERMITS)], at_once=128)
        )
        permits = fetched(f"{upstream_url}/stats")["most_running"]
        samples = {
            name: sum(answer["optscale"]["samples"][name] for answer in answers)
            for name in ("counted", "completed", "issued", "aborted", "failed")
        }
        served = fetched(f"{upstream_url}/stats")["served"] - before - 4 * PERMITS
    for answer in answers:
        record, usage = answer["optscale"], answer["usage"]
        assert (
            usage["completion_tokens"] == TOKENS * record["samples"]["completed"] + record["tokens"]["aborted_estimate"]
        )
    assert samples["completed"] <= served <= samples["issued"], (samples, served)
    assert samples["failed"] == 0
    assert permits in (PERMITS, PERMITS + 1), f"{permits} of {PERMITS} permits"  # and /stats itself
    paid = sum(answer["usage"]["completion_tokens"] for answer in answers)
    return {
        "requests": requests, "seconds": seconds, "cpu_seconds": cpu, **samples, "served": served,
        "tokens paid": paid, "tokens served": TOKENS * served,
    }  # fmt: skip


def fetched(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        return json.loads(answer.read())


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def until(what: str, condition: Callable[[], bool]) -> None:
    patience = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > patience:
            raise TimeoutError(f"never: {what}")
        time.sleep(0.1)


# --- peers ------------------------------------------------------------------------------------------------------------


def litellm(bin_: Path, upstream_url: str, requests: int, folder: Path) -> dict[str, float]:
    """LiteLLM's proxy, which passes through."""
    file = folder / "litellm.yaml"
    params = {"model": "openai/tiny", "api_base": f"{upstream_url}/v1", "api_key": "sk-1"}
    file.write_text(json.dumps({"model_list": [{"model_name": "tiny", "litellm_params": params}]}))
    port = free_port()
    command = (bin_ / "litellm", "--config", file, "--port", str(port), "--host", "127.0.0.1")
    key = f"sk-{secrets.token_hex(32)}"  # without one it refuses to start
    with process(command, port, LITELLM_MASTER_KEY=key) as proxy:
        mine = {"Authorization": f"Bearer {key}"}
        return {"pass-through": cost(proxy.pid, f"http://127.0.0.1:{port}", chat("tiny"), requests, mine)}


def optillm(bin_: Path, upstream_url: str, requests: int, folder: Path) -> dict[str, float]:
    """optillm: passed through, and best of 3."""
    port = free_port()
    command = (bin_ / "optillm", "--base_url", f"{upstream_url}/v1", "--port", str(port), "--host", "127.0.0.1")
    with process(command, port, OPENAI_API_KEY="sk-1") as proxy:
        url = f"http://127.0.0.1:{port}"
        return {
            "pass-through": cost(proxy.pid, url, chat("none-tiny"), requests // 4),
            "best of 3": cost(proxy.pid, url, chat("bon-tiny"), requests // 8),
        }


def its_hub(bin_: Path, upstream_url: str, requests: int, folder: Path) -> dict[str, float]:
    """its_hub's gateway: self-consistency with budgets of 1, 4, 16 and 64."""
    port = free_port()
    with process((bin_ / "its-iaas", "--host", "127.0.0.1", "--port", str(port)), port) as proxy:
        url = f"http://127.0.0.1:{port}"
        setting = {
            "provider": "openai", "endpoint": f"{upstream_url}/v1", "api_key": "sk-1", "model": "tiny",
            "alg": "self-consistency", "regex_patterns": [r"answer is (\d+)"],
        }  # fmt: skip

        async def configure() -> None:
            async with aiohttp.ClientSession() as http, http.post(f"{url}/configure", json=setting) as answer:
                if answer.status != 200:
                    raise RuntimeError(await answer.text())

        asyncio.run(configure())
        budgets = (1, 4, 16, 64)
        return {
            f"{n} draws": cost(proxy.pid, url, chat("tiny", budget=n), max(requests // max(n // 2, 1), 20))
            for n in budgets
        }


PEERS = {  # and the environments that `make gateways-env` installs them into
    "litellm": (litellm, Path(".venv-gateways")),
    "its_hub": (its_hub, Path(".venv-gateways")),
    "optillm": (optillm, Path(".venv-gateways-optillm")),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--load", type=int, metavar="REQUESTS", help="send so many at once, and check what is left")
    parser.add_argument("--only", nargs="*", choices=(every := ["suffice", "vllm", *PEERS]), default=every)
    parser.add_argument("--vllm", type=Path, default=Path(".venv-vllm/bin/python"), help="vLLM's Python")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        uvicorn.run(upstream, port=args.serve, log_level="critical", lifespan="off")
        return
    port = free_port()
    with process((sys.executable, __file__, "--serve", str(port)), port), tempfile.TemporaryDirectory() as folder:
        url = f"http://127.0.0.1:{port}"
        if args.load:
            print(json.dumps(load(url, args.load), indent=2))
            return
        found: dict[str, Any] = {}
        if "suffice" in args.only:
            found = {"suffice": ours(url, args.requests), "in theory": in_theory()}
        measured = {
            name: partial(peer, env / "bin", url, args.requests, Path(folder)) for name, (peer, env) in PEERS.items()
        }
        for name, measure in {**measured, "vllm": partial(on_vllm, args.vllm)}.items():
            if name not in args.only:
                continue
            try:
                found[name] = measure()
            except (NotServing, OSError, RuntimeError, aiohttp.ClientError, TimeoutError) as error:
                found[name] = f"not measured: {type(error).__name__}: {error}"
    text = json.dumps(found, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
