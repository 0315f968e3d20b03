"""The client's samplings against the real service: the loop, ask and tell, decisions, calibrations."""

import asyncio
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import pytest
from serving import Clock, Server

from suffice.api.client import (
    Answer,
    AsyncClient,
    AsyncSampling,
    Client,
    Conflict,
    Draw,
    InvalidRequest,
    NotFound,
    Sampled,
    Sampling,
    Stop,
    ToldAnswer,
)
from suffice.optimizer import Draw as CoreDraw
from suffice.optimizer import Sampling as CoreSampling
from suffice.optimizer.answers import FLAT


class Model:
    """Answers that depend on the prompt and on how many it gave to it before."""

    def __init__(self) -> None:
        self.given: dict[str, int] = {}
        self.lock = threading.Lock()

    def answer(self, prompt: str, number: int) -> Answer:
        voted = random.Random(f"{prompt} {number}").choice(["42", "42", "17", "x", None])
        return Answer(voted, tokens=100 + number, content=f"{prompt}, {number}: {voted}")

    def draw(self, prompt: str, count: int) -> list[Answer]:
        with self.lock:
            first = self.given.get(prompt, 0)
            self.given[prompt] = first + count
        return [self.answer(prompt, n) for n in range(first, first + count)]

    async def draw_later(self, prompt: str, count: int) -> list[Answer]:
        await asyncio.sleep(0)
        return self.draw(prompt, count)

    def in_process(self, prompt: str, **options: Any) -> CoreSampling:
        sampling = CoreSampling(**options)
        while isinstance(step := sampling.ask(), CoreDraw):
            for n in step.numbers:
                answer = self.answer(prompt, n)
                sampling.tell(answer.answer, tokens=answer.tokens, number=n)
        return sampling


OPTIONS: dict[str, Any] = {"price": 0.003, "max_samples": 16}
PROMPTS = ["one plus one", "two plus two", "three plus three"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path, clock=Clock()) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


def same_as_the_library(sampled: Sampled[Any]) -> None:
    for prompt, result in zip(PROMPTS, sampled.results, strict=True):
        here = Model().in_process(prompt, **OPTIONS)
        assert result.prompt == prompt
        assert (result.samples, result.tokens) == (here.samples, here.tokens)
        assert here.pick_number is not None
        assert result.answer == Model().answer(prompt, here.pick_number), "with its content"
        assert result.confidence == here.posterior.answers[here.pick]
        assert result.stop is not None


@pytest.mark.parametrize("workers", [1, 3])
def test_the_loop_decides_as_the_library_does(client: Client, workers: int):
    sampled = client.sample(Model().draw, PROMPTS, workers=workers, **OPTIONS)
    assert_type(sampled, Sampled[Sampling])
    same_as_the_library(sampled)
    assert sampled.picks == [result.answer and result.answer.answer for result in sampled.results]
    assert [s.id for s in client.samplings()] == [sampled.sampling.id]


def test_the_loop_for_asyncio(server: Server):
    async def run() -> Sampled[AsyncSampling]:
        async with AsyncClient(server.url) as client:
            return await client.sample(Model().draw_later, PROMPTS, workers=2, **OPTIONS)

    same_as_the_library(asyncio.run(run()))


def test_a_batch_under_a_budget_and_prompts_by_id(client: Client):
    named = {"a": PROMPTS[0], "b": PROMPTS[1]}
    sampled = client.sample(Model().draw, named, budget=1500, expected_tokens=110, max_samples=16)
    assert 1300 < sum(result.tokens for result in sampled.results) < 1700
    read = sampled.sampling.read()
    assert [result.prompt for result in read.results] == ["a", "b"]
    assert read.stop is not None
    assert read.stop.reason == "budget spent"


def test_what_a_draw_raises_ends_the_loop(client: Client):
    def broken(prompt: str, count: int) -> list[str]:
        raise OSError("no model")

    with pytest.raises(OSError, match="no model"):
        client.sample(broken, PROMPTS, workers=2, price=0.01)

    async def later(prompt: str, count: int) -> list[str]:
        return broken(prompt, count)

    async def run() -> None:
        async with AsyncClient(str(client._link.http.base_url)) as other:
            await other.sample(later, PROMPTS, workers=2, price=0.01)

    with pytest.raises(OSError, match="no model"):
        asyncio.run(run())


def test_what_is_no_answer_is_refused_before_it_is_sent(client: Client):
    with pytest.raises(InvalidRequest, match=r"answers: expected 2 answers to prompt '0'"):
        client.sample(lambda prompt, count: "a" * count, ["q"], price=0.01)
    with pytest.raises(InvalidRequest, match="score: expected a finite number"):
        client.sample(lambda prompt, count: [Answer("a", score=float("nan"))] * count, ["q"], price=0.01)
    with pytest.raises(InvalidRequest, match="answer"):
        client.sample(lambda prompt, count: [["a"]] * count, ["q"], price=0.01)  # type: ignore[list-item]
    with pytest.raises(InvalidRequest, match="prompts: expected a list"):
        client.sample(lambda prompt, count: ["a"] * count, "q", price=0.01)
    with pytest.raises(InvalidRequest, match=r"rule: expected one of fixed.*got 'best'"):
        client.sample(lambda prompt, count: ["a"] * count, ["q"], rule="best")


def test_ask_and_tell(client: Client):
    sampling = client.create_sampling(["a", "b"], rule="fixed", settings={"samples": 2})
    draws = sampling.ask()
    assert_type(draws, list[Draw] | Stop)
    assert isinstance(draws, list)
    assert [(d.prompt, d.numbers) for d in draws] == [("a", [0, 1]), ("b", [0, 1])]
    assert sampling.ask() == []
    sampling.tell(draws[0], ["x", Answer(np.float64(3.0), score=np.float32(0.5), tokens=np.int64(7))])  # type: ignore[arg-type]
    assert sampling.tell(draws[1], [7, None]).samples == 4
    stop = sampling.ask()
    assert isinstance(stop, Stop)
    told = sampling.add([ToldAnswer(prompt="a", number=2, answer="x"), {"prompt": "b", "number": 0, "answer": 7}])
    assert (told.recorded, told.repeated, told.samples, told.tokens) == (1, 1, 5, 7.0)
    with pytest.raises(Conflict, match="prompt 'b'"):
        sampling.tell(draws[1], [8, None])
    again = client.sampling(sampling.id)
    assert [result.pick for result in again.read().results] == ["x", 7]
    assert [(a.prompt, a.number, a.answer) for a in again.answers("b")] == [("b", 0, 7), ("b", 1, None)]
    sampling.delete()
    with pytest.raises(NotFound):
        client.sampling(sampling.id)


def test_a_prior_of_the_core_goes_with_a_prompt(client: Client):
    sampling = client.create_sampling(["a", {"id": "b", "prior": FLAT}], price=0.01, max_samples=8)
    draws = sampling.ask()
    assert isinstance(draws, list)
    assert draws[0].gain == draws[1].gain


def test_a_lost_answer_to_an_ask_loses_no_draws(server: Server, client: Client):
    sampling = client.create_sampling(price=0.001)
    server.watched.losing.append("/ask")
    draws = sampling.ask()
    assert isinstance(draws, list)
    assert draws[0].numbers[0] == 0
    server.watched.losing.append("/tell")
    told = sampling.tell(draws[0], ["a"] * len(draws[0].numbers))
    assert told.samples == len(draws[0].numbers)


def test_a_decision_without_keeping_anything(client: Client):
    found = client.decide(["a", "a", None], price=0.05)
    assert (found.pick, found.samples) == ("a", 3)
    assert found.stop is not None
    assert list(client.samplings()) == []


def test_calibrations(client: Client):
    rng = random.Random(0)

    def labelled(right: float) -> dict[str, Any]:
        correct = rng.random() < right
        return {"answer": "y" if correct else rng.choice("abc"), "correct": int(correct), "score": rng.random()}

    pool = {"prompts": [{"id": i, "samples": [labelled(i / 20) for _ in range(4)]} for i in range(20)]}
    made = client.fit_calibration("mine", pool, 4, orders=2)
    assert (made.version, made.prompts, made.max_samples, made.scored) == (1, 20, 4, True)
    exported = client.export_calibration("mine")
    assert client.import_calibration("mine", exported).version == 2
    assert [one.version for one in client.calibration_versions("mine")] == [2, 1]
    assert [one.version for one in client.calibrations()] == [2]
    assert client.calibration("mine", 1) == made
    found = client.decide([Answer("y", 0.9)], calibration="mine", max_samples=4, price=0.1)
    assert found.pick == "y"
    client.delete_calibration("mine", 1)
    client.delete_calibration("mine")
    with pytest.raises(NotFound):
        client.calibration("mine")
    with pytest.raises(InvalidRequest, match=r"pool.prompts\[0\].samples\[0\].correct"):
        client.fit_calibration("mine", {"prompts": [{"id": 0, "samples": [{}]}]})


# --- features of prompts ---


def ease(prompt: str) -> list[float]:
    """What is known of a prompt beforehand: its number tells how often it is answered right."""
    return [int(prompt) % 10 / 10, 1.0]


def draw_easy(prompt: str, count: int) -> list[str]:
    """The easier a prompt, the more of its answers are right."""
    return [draw_one(prompt, n) for n in range(count)]


def draw_one(prompt: str, n: int) -> str:
    rng = random.Random(f"{prompt} {n}")
    return "right" if rng.random() < (int(prompt) % 10 + 0.5) / 10 else rng.choice("abcdef")


async def draw_easy_later(prompt: str, count: int) -> list[str]:
    await asyncio.sleep(0)
    return draw_easy(prompt, count)


def test_features_go_along_with_prompts_and_their_meaning_is_learned_from_traffic(server: Server, client: Client):
    def labelled(i: int) -> dict[str, Any]:
        drawn = [draw_one(str(i), n) for n in range(6)]
        samples = [{"answer": a, "correct": int(a == "right")} for a in drawn]
        return {"id": i, "features": ease(str(i)), "samples": samples}

    client.fit_calibration("mine", {"prompts": [labelled(i) for i in range(24)]}, 6, orders=2)
    options: dict[str, Any] = {"calibration": "mine", "price": 0.02, "max_samples": 6}
    easy, hard = client.sample(draw_easy, ["9", "0"], features=ease, workers=1, **options).results
    blind = client.sample(draw_easy, ["9", "0"], workers=1, **options).results
    assert hard.samples < blind[1].samples, "what is known to be hopeless is given up"
    assert easy.confidence > blind[0].confidence
    assert hard.confidence < blind[1].confidence

    async def later() -> Sampled[AsyncSampling]:
        async with AsyncClient(server.url) as other:
            return await other.sample(draw_easy_later, ["9", "0"], features=ease, workers=1, **options)

    assert [one.samples for one in asyncio.run(later()).results] == [easy.samples, hard.samples]
    with pytest.raises(InvalidRequest, match="features"):
        client.sample(draw_easy, ["9"], features=lambda prompt: [0.9], **options)
    with pytest.raises(ZeroDivisionError):
        client.sample(draw_easy, ["9"], features=lambda prompt: [1 / 0], **options)

    client.sample(draw_easy, [str(i) for i in range(16)], features=ease, workers=4, **options)
    learned = client.learn_prompts("mine")
    assert (learned.version, learned.prompts) == (2, 24)
    assert learned.signal is not None
    assert [one.version for one in client.calibration_versions("mine")] == [2, 1]
    with pytest.raises(NotFound):
        client.learn_prompts("nobody")
