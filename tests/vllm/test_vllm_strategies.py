"""What only vLLM does: answers continued piece by piece, its load, aborting by id, and batches without a server."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from upstream import PATIENCE, Running

from suffice.adapters.vllm import VLLMServer
from suffice.api.gateway import Gateway
from suffice.api.gateway_config import GatewayConfig

VLLM = os.environ.get("VLLM_URL", "")
HERE = Path(__file__).parent
CONFIG = {
    "upstreams": [{"url": VLLM}],
    "strategies": {
        "steps": {"type": "dvts", "width": 3, "separator": ";"},
        "careful": {"type": "slate", "width": 4, "separator": ";", "enough": 0.97},
        "tree": {"type": "treepo", "segment": 12, "roots": 2},
        "scope": {"type": "scope", "separator": ";"},
    },
    "policies": {
        "optscale": {"extract": "number", "rule": "fixed", "settings": {"samples": 4}, "max_samples": 4},
        "first": {"extract": "text", "rule": "fixed", "settings": {"samples": 1}, "max_samples": 1},
    },
}
SUM = "37+85+12+44=?"
WORKED = "37+85=122;+12=134;+44=178;"


@pytest.fixture(scope="module")
def gateway() -> Generator[str]:
    running = Running(Gateway(GatewayConfig.of(CONFIG)), lifespan="on").start()
    yield running.url
    running.stop()


def ask(url: str, path: str = "chat/completions", model: str = "tiny:optscale", **body: Any) -> dict[str, Any]:
    said = {"messages": [{"role": "user", "content": SUM}]} if path.startswith("chat") else {"prompt": SUM + "\n"}
    sent = {"model": model, "max_tokens": 128, "seed": 1, **said, **body}
    answer = httpx.post(f"{url}/v1/{path}", json=sent, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def text_of(answer: dict[str, Any]) -> str:
    choice = answer["choices"][0]
    text: str = choice["message"]["content"] if "message" in choice else choice["text"]
    return text


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
@pytest.mark.parametrize("strategy", ["tree", "steps"])
def test_greedy_pieces_are_the_answer_in_one_go(gateway: str, path: str, strategy: str):
    """Nothing is lost or doubled where pieces meet."""
    wishes = {"strategy": strategy, "verifier": "log_probability", "max_samples": 1}
    whole = ask(VLLM, path, "tiny", temperature=0)
    pieces = ask(gateway, path, "tiny:first", temperature=0, optscale=wishes)
    assert text_of(pieces) == text_of(whole)
    assert pieces["optscale"]["calls"] >= 3
    assert pieces["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"] == "stop"
    if strategy == "tree":
        paid, usual = pieces["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]
        assert usual <= paid <= usual + 1, "the end of the text may be a token of its own"


@pytest.mark.parametrize("strategy", ["steps", "careful"])
def test_steps_are_judged(gateway: str, strategy: str):
    answer = ask(gateway, optscale={"strategy": strategy, "verifier": "log_probability"})
    record = answer["optscale"]
    assert text_of(answer).count("=") == WORKED.count("=")
    assert record["samples"]["counted"] == 4
    assert record["samples"]["scored"] == 4 - record["samples"]["rejected"]
    assert record["calls"] >= 4 * 4


def test_a_tree_costs_less_than_as_many_paths(gateway: str):
    tree = ask(gateway, optscale={"strategy": "tree", "concurrency": 1})
    alone = ask(gateway, optscale={"strategy": "independent", "concurrency": 1})
    assert tree["optscale"]["samples"]["counted"] == alone["optscale"]["samples"]["counted"] == 4
    assert tree["usage"]["completion_tokens"] < alone["usage"]["completion_tokens"]


def test_subgroups_elect(gateway: str):
    record = ask(gateway, optscale={"strategy": "scope"})["optscale"]
    assert next(iter(record["elected"])) == record["answer"]
    assert sum(record["elected"].values()) == 16


def asked(call: Callable[[VLLMServer], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        async with VLLMServer(VLLM) as server:
            return await call(server)

    return asyncio.run(run())


def test_load_tells_what_runs_and_abort_ends_it():
    async def work(server: VLLMServer) -> tuple[int, dict[str, Any]]:
        body = {"model": "tiny", "prompt": "1", "max_tokens": 480, "ignore_eos": True}
        long = asyncio.ensure_future(server.post("/v1/completions", body, {"X-Request-Id": "mine"}))
        until = time.monotonic() + PATIENCE
        while not (load := await server.load()).running:
            assert time.monotonic() < until
        await server.abort(["cmpl-mine-0"])
        reply = await long
        assert reply.status == 200, reply.body
        return load.running, reply.json()

    running, answer = asked(work)
    assert running == 1
    assert answer["usage"]["completion_tokens"] < 480
    until = time.monotonic() + PATIENCE  # its metrics follow a little later
    while asked(lambda server: server.load()).running:
        assert time.monotonic() < until


def test_batches_without_a_server():
    command = [os.environ["VLLM_PYTHON"], str(HERE / "offline.py"), str(HERE.parent / "models" / "tiny-addition"), "24"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(done.stdout.splitlines()[-1])
    sys.stdout.write(
        f"offline: {sum(row['right'] for row in rows)} of 24 right, {sum(r['draws'] for r in rows)} draws\n"
    )
    assert sum(row["right"] for row in rows) >= 16, "single draws get about 15 right"
    assert len({row["draws"] for row in rows}) > 1, "easy sums take fewer"
