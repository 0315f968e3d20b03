"""vLLM's own interface, servers that are started and stopped, offline batches, and the tuning of servers."""

import asyncio
import itertools
import json
import socket
import sys
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from upstream import Say, Upstream

from suffice.adapters.openai import Unreachable
from suffice.adapters.vllm import Load, NotServing, VLLMServer, sample_batch, serving
from suffice.adapters.vllm_tuning import LATENCY, SPACE, THROUGHPUT, Traffic, flags, measure, tune_server
from suffice.optimizer import Bool, Draw, EnoughReason, Int, Sampling, Space, Trial, TrialState

METRICS = b"""# HELP vllm:num_requests_running Number of requests.
vllm:num_requests_running{engine="0",model_name="tiny"} 3.0
vllm:num_requests_running{engine="1",model_name="tiny"} 1.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 2.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:prefix_cache_queries_total{engine="0"} 200.0
vllm:prefix_cache_hits_total{engine="0"} 5e+01
"""


def test_load_is_summed_over_engines():
    assert Load.of(METRICS) == Load(4, 2, 0.25, 0.25)
    assert Load.of(b"vllm:num_requests_running 0\n") == Load(0, 0, 0.0, None)
    assert Load.of(b"process_cpu_seconds_total 3\n") is None


@contextmanager
def answering(**document: Any) -> Generator[Upstream]:
    """A server that answers every call with a document."""
    upstream = Upstream(default=lambda body: Say(raw=json.dumps(document).encode())).start()
    try:
        yield upstream
    finally:
        upstream.stop()


def asked(upstream: Upstream, call: Callable[[VLLMServer], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        async with VLLMServer(upstream.url) as server:
            return await call(server)

    return asyncio.run(run())


def test_vectors_classes_and_scores_come_in_order():
    rows = [{"index": 1, "embedding": [3], "probs": [0.4, 0.6], "score": 0.7}]
    rows.append({"index": 0, "embedding": [1, 2.5], "probs": [0.1, 0.9], "score": -1})
    with answering(data=rows) as upstream:
        assert asked(upstream, lambda s: s.embed(["a", "b"], "m")) == [[1.0, 2.5], [3.0]]
        assert asked(upstream, lambda s: s.classify(["a", "b"], "m", raw=True)) == [[0.1, 0.9], [0.4, 0.6]]
        assert asked(upstream, lambda s: s.score("q", ["a", "b"], "m")) == [-1.0, 0.7]
        asked(upstream, lambda s: s.abort(["cmpl-1"]))
        bodies = [(seen.path, seen.body) for seen in upstream.seen]
        assert bodies == [
            ("/v1/embeddings", {"model": "m", "input": ["a", "b"]}),
            ("/classify", {"model": "m", "input": ["a", "b"], "use_activation": False}),
            ("/score", {"model": "m", "text_1": "q", "text_2": ["a", "b"]}),
            ("/inference/v1/abort_requests", {"request_ids": ["cmpl-1"]}),
        ]


def test_what_is_no_answer_is_said_to_be_none():
    with answering(oh="no") as upstream:
        with pytest.raises(Unreachable, match="another shape"):
            asked(upstream, lambda s: s.embed(["a"], "m"))
        upstream.script = [Say(status=404)]
        with pytest.raises(Unreachable, match="404"):
            asked(upstream, lambda s: s.score("q", ["a"], "m"))
        upstream.others, upstream.waiting = 2, 1
        assert asked(upstream, lambda s: s.load()) == Load(2, 1, 0.0, None)


# --- a server of one's own ---

HEALTHY = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *args): pass
print("it is", __import__("os").environ["COLOUR"], flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[-1])), Handler).serve_forever()
"""


def test_a_server_runs_while_the_context_lasts():
    with serving([sys.executable, "-c", HEALTHY], {"COLOUR": "green"}) as url:
        port = int(url.rpartition(":")[2])
        assert listeners(port)
    assert not listeners(port)


def test_a_server_that_does_not_start_says_why():
    with pytest.raises(NotServing, match="KeyError: 'COLOUR'"), serving([sys.executable, "-c", HEALTHY]):
        pass


def listeners(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --- offline batches ---


@dataclass
class Params:
    """What is used of vllm.SamplingParams."""

    n: int = 1
    seed: int | None = None

    def clone(self) -> "Params":
        return Params(self.n, self.seed)


@dataclass
class Completion:
    text: str
    finish_reason: str = "stop"
    token_ids: Sequence[int] = (1, 2, 3)


@dataclass
class Output:
    outputs: list[Completion]


@dataclass
class Engine:
    """Answers each prompt with its own scripted texts, in order; "..." is cut off."""

    script: Mapping[str, Sequence[str]]
    rounds: list[tuple[list[str], list[Params]]] = field(default_factory=list)
    _next: dict[str, Any] = field(default_factory=dict)

    def generate(self, prompts: Any, sampling_params: Any, *, use_tqdm: bool) -> list[Output]:
        assert not use_tqdm
        self.rounds.append((list(prompts), list(sampling_params)))
        return [Output([self._one(p) for _ in range(mine.n)]) for p, mine in zip(prompts, sampling_params, strict=True)]

    def _one(self, prompt: str) -> Completion:
        text = next(self._next.setdefault(prompt, itertools.cycle(self.script[prompt])))
        return Completion(text, "length" if text == "..." else "stop")


@given(
    st.lists(st.lists(st.sampled_from(["a", "b", "..."]), min_size=1, max_size=8), min_size=1, max_size=4),
    st.sampled_from([{"price": 0.02}, {"rule": "adaptive_consistency"}, {"rule": "fixed", "settings": {"samples": 5}}]),
)
def test_batches_decide_as_one_prompt_at_a_time_would(texts: list[list[str]], options: dict[str, Any]):
    script = {f"p{i}": row for i, row in enumerate(texts)}
    found = sample_batch(Engine(script), list(script), lambda: Sampling(max_samples=8, **options), Params(), str)
    for one in found:
        alone, n = Sampling(max_samples=8, **options), 0
        while isinstance(step := alone.ask(), Draw):
            for _ in range(step.count):
                text = script[one.prompt][n % len(script[one.prompt])]
                alone.tell(None if text == "..." else text, tokens=3)
                n += 1
        assert (len(one.texts), one.answer, one.stop) == (n, alone.pick, step)
        assert one.tokens == 3 * n
        assert one.text is None or one.text == one.answer


def test_a_round_asks_for_all_that_are_not_done():
    engine, seen = Engine({"easy": ["1"], "hard": ["1", "2", "3", "4"]}), list[tuple[int, int]]()
    rule: dict[str, Any] = {"rule": "early_stopping", "settings": {"window": 3}, "max_samples": 6}
    found = sample_batch(
        engine,
        ["easy", "hard"],
        lambda: Sampling(**rule),
        Params(seed=7),
        str,
        progress=lambda *done: seen.append(done),
    )
    assert [len(one.texts) for one in found] == [3, 6]
    assert found[1].stop is not None
    assert found[1].stop.reason == EnoughReason.BUDGET
    assert engine.rounds[0][0] == ["easy", "hard"]
    assert engine.rounds[-1][0] == ["hard"]
    seeds = [
        params.seed for prompts, row in engine.rounds for p, params in zip(prompts, row, strict=True) if p == "hard"
    ]
    assert seeds[0] == 7
    assert len(set(seeds)) == len(seeds)
    assert seen[-1][1] == 9


def test_scores_are_of_the_answers_that_were_read():
    rule: dict[str, Any] = {"rule": "threshold", "settings": {"threshold": 0.9}, "max_samples": 8}
    found = sample_batch(
        Engine({"p": ["...", "bad", "good", "good"]}),
        ["p"],
        lambda: Sampling(**rule),
        Params(),
        str,
        score=lambda prompt, text: 1.0 if text == "good" else 0.1,
    )
    assert (found[0].answer, found[0].text, len(found[0].texts)) == ("good", "good", 3)


# --- tuning ---

TRAFFIC = Traffic(["1+1=?", "2+2=?"], requests=8, at_once=4, warm_up=1, fields={"temperature": 0.5})


def test_flags_are_a_command_line():
    params = {"max_num_seqs": 8, "enable_prefix_caching": True, "enforce_eager": False}
    assert flags(params) == ["--max-num-seqs", "8", "--enable-prefix-caching", "--no-enforce-eager"]
    assert set(SPACE.parameters) == {"max_num_seqs", "max_num_batched_tokens", "enable_prefix_caching"}


def test_the_load_is_bounded_and_measured():
    upstream = Upstream(default=lambda body: Say(tokens=5, seconds=0.01)).start()
    found = asyncio.run(measure(upstream.url, TRAFFIC))
    upstream.stop()
    assert len(upstream.drawn) == 9
    assert upstream.most_running == 4
    assert upstream.drawn[0].body["temperature"] == 0.5
    assert {seen.body["messages"][0]["content"] for seen in upstream.drawn} == {"1+1=?", "2+2=?"}
    assert found.failed == 0
    assert found.p95 >= 0.01
    assert found.throughput <= 5 * 4 / 0.01


def test_a_study_finds_settings_and_learns_what_does_not_work():
    running = list[Upstream]()

    @contextmanager
    def serve(params: Mapping[str, Any]) -> Generator[str]:
        if params["at_once"] > 6:
            raise NotServing("out of memory")
        status = 500 if params["broken"] else 200
        upstream = Upstream(default=lambda body: Say(tokens=params["at_once"], status=status)).start()
        running.append(upstream)
        try:
            yield upstream.url
        finally:
            running.remove(upstream)
            upstream.stop()

    space = Space(at_once=Int(1, 8), broken=Bool())
    first = [{"at_once": 2, "broken": False}, {"at_once": 8, "broken": False}, {"at_once": 2, "broken": True}]
    told = list[Trial]()
    study = tune_server(serve, TRAFFIC, space, 5, first, progress=told.append)
    assert [trial.number for trial in told] == [0, 1, 2, 3, 4]
    assert [trial.state for trial in told[:3]] == [TrialState.COMPLETED, TrialState.INFEASIBLE, TrialState.INFEASIBLE]
    assert [trial.reason for trial in told[1:3]] == ["out of memory", "8 of 8 requests failed"]
    assert {m.metric for m in told[0].measurements} == {THROUGHPUT, LATENCY}
    assert all(best.params["at_once"] <= 6 for best in study.pareto)
    assert not running


class Interrupted(list[str]):
    """Prompts that are interrupted in the middle of the load."""

    def __getitem__(self, i: Any) -> Any:
        if i:
            raise KeyboardInterrupt
        return super().__getitem__(i)


def test_a_server_is_stopped_where_tuning_is_interrupted():
    running = list[str]()

    @contextmanager
    def serve(params: Mapping[str, Any]) -> Generator[str]:
        with answering(usage={"completion_tokens": 1}) as upstream:
            running.append(upstream.url)
            yield upstream.url

    traffic = Traffic(Interrupted(["1+1=?", "2+2=?"]), requests=4, at_once=1, warm_up=1)
    with pytest.raises(KeyboardInterrupt):
        tune_server(serve, traffic, Space(x=Int(1, 2)), 2)
    (url,) = running
    assert not listeners(int(url.rpartition(":")[2]))
