"""What the gateway saves before a real vLLM: accuracy and tokens, passed through, best of N, majority, and :optscale.

    make demo-gateway            (or: VLLM_URL=http://... python benchmarks/demo_gateway.py [--questions 200])

The tiny model of tests/models adds up chains of numbers and is wrong about half of the time. First labelled answers to
other questions calibrate what votes and log-probabilities are worth; then every method answers the same questions. All
are asked through the gateway with the official client. Writes demo/gateway.json and demo/gateway.png.

The settings below were chosen on the questions of --seed 2; the default seed's were asked once, afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import openai

T = TypeVar("T")
CALIBRATION = "tiny"
AT_ONCE = 8
N = 16
MOST_TOKENS = 128
LEARN_SEED = 1
PRICES = (0.03, 0.01, 0.002, 0.0005)
DEFAULT = 0.002
SAVING = {"calibration": CALIBRATION, "overissue": "none"}  # tokens rather than time


@dataclass(frozen=True)
class Question:
    text: str
    truth: str


@dataclass(frozen=True)
class Draw:
    answer: str | None  # None: cut off
    score: float
    tokens: int
    right: bool


def questions(count: int, seed: int) -> list[Question]:
    """Sums of 2 to 9 numbers."""
    rng = random.Random(seed)
    made: list[Question] = []
    for _ in range(count):
        numbers = [rng.randint(10, 99) for _ in range(rng.randint(2, 9))]
        made.append(Question("+".join(map(str, numbers)) + "=?", str(sum(numbers))))
    return made


@contextmanager
def gateway(vllm: str) -> Generator[str]:
    """`suffice gateway` before vLLM."""
    policies = {
        "optscale": {
            "extract": "number",
            "max_samples": 32,
            "verifier": "log_probability",
            "price": DEFAULT,
        }
    }
    config = {"upstreams": [{"url": vllm}], "policies": policies, "limits": {"read_s": 300}}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "gateway.yaml"
        file.write_text(json.dumps(config))
        command = [sys.executable, "-m", "suffice.api.cli", "gateway", "--port", "0", "--log-level", "warning"]
        process = subprocess.Popen([*command, "--config", str(file)], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert process.stdout.readline() == "ready\n", "the gateway did not start"
            yield url
        finally:
            process.terminate()
            process.wait()


async def gather(work: Callable[[Question], Awaitable[T]], asked: Sequence[Question]) -> list[T]:
    """AT_ONCE at a time, in order."""
    permits = asyncio.Semaphore(AT_ONCE)

    async def one(question: Question) -> T:
        async with permits:
            return await work(question)

    return await asyncio.gather(*map(one, asked))


def said(text: str | None) -> str | None:
    """The last number of "37+85=122;+12=134;"."""
    number = (text or "").rstrip(";\n ").rpartition("=")[2]
    return number if number.isdigit() else None


async def pool(client: openai.AsyncOpenAI, asked: Sequence[Question], n: int) -> list[list[Draw]]:
    """n draws for each question, passed through."""

    async def work(question: Question) -> list[Draw]:
        answer = await client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": question.text}],
            n=n,
            logprobs=True,
            max_tokens=MOST_TOKENS,
        )
        draws: list[Draw] = []
        for choice in answer.choices:
            content = choice.logprobs.content if choice.logprobs else None
            values = [token.logprob for token in content or ()]
            number = said(choice.message.content) if choice.finish_reason == "stop" else None
            score = math.exp(sum(values) / len(values)) if values else 0.0
            draws.append(Draw(number, score, len(values), number == question.truth))
        return draws

    return await gather(work, asked)


async def decided(client: openai.AsyncOpenAI, asked: Sequence[Question], wishes: dict[str, Any]) -> dict[str, Any]:
    """Each question under the policy: right, tokens, draws, seconds."""

    async def work(question: Question) -> tuple[bool, int, int, float]:
        began = time.perf_counter()
        answer = await client.chat.completions.create(
            model="tiny:optscale",
            messages=[{"role": "user", "content": question.text}],
            max_tokens=MOST_TOKENS,
            extra_body={"optscale": wishes},
        )
        assert answer.usage is not None
        assert answer.model_extra is not None
        number = said(answer.choices[0].message.content)
        counted = answer.model_extra["optscale"]["samples"]["counted"]
        return number == question.truth, answer.usage.completion_tokens, counted, time.perf_counter() - began

    rows = await gather(work, asked)
    return {
        "accuracy": sum(row[0] for row in rows) / len(rows),
        "tokens": sum(row[1] for row in rows) / len(rows),
        "draws": sum(row[2] for row in rows) / len(rows),
        "seconds": sum(row[3] for row in rows) / len(rows),
        "right": [row[0] for row in rows],
    }


def majority(draws: Sequence[Draw]) -> Draw:
    votes = Counter(draw.answer for draw in draws if draw.answer is not None)
    leader = votes.most_common(1)[0][0] if votes else None
    return next(draw for draw in draws if draw.answer == leader)


def best(draws: Sequence[Draw]) -> Draw:
    return max(draws, key=lambda draw: draw.score if draw.answer is not None else -1.0)


def fixed(draws: Sequence[Sequence[Draw]], pick: Callable[[Sequence[Draw]], Draw], n: int) -> dict[str, Any]:
    """What a fixed number of draws gives."""
    chosen = [pick(row[:n]) for row in draws]
    return {
        "accuracy": sum(draw.right for draw in chosen) / len(chosen),
        "tokens": sum(sum(draw.tokens for draw in row[:n]) for row in draws) / len(draws),
        "draws": n,
        "right": [draw.right for draw in chosen],
    }


def difference(one: Sequence[bool], other: Sequence[bool]) -> tuple[float, float]:
    """Mean and standard error of the paired difference in accuracy."""
    gaps = [a - b for a, b in zip(one, other, strict=True)]
    mean = sum(gaps) / len(gaps)
    return mean, math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1) / len(gaps))


def labelled(asked: Sequence[Question], draws: Sequence[Sequence[Draw]]) -> dict[str, Any]:
    """The pool that a calibration is learned from."""
    prompts = [
        {
            "id": question.text,
            "samples": [
                {"answer": d.answer, "correct": int(d.right), "score": d.score, "tokens": d.tokens} for d in row
            ],
        }
        for question, row in zip(asked, draws, strict=True)
    ]
    return {"source": "the tiny model", "prompts": prompts}


async def compare(url: str, args: argparse.Namespace) -> dict[str, Any]:
    """All methods on the same questions."""
    learn, test = questions(args.learn, LEARN_SEED), questions(args.questions, args.seed)
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=600, max_retries=0) as client:
        began = time.perf_counter()
        known = await pool(client, learn, 32)
        document = {"pool": labelled(learn, known), "max_samples": 32}
        httpx.put(f"{url}/optscale/v1/calibrations/{CALIBRATION}", json=document, timeout=600).raise_for_status()
        print(f"calibrated on {len(learn)} questions of 32 draws in {time.perf_counter() - began:.0f} s")
        draws = await pool(client, test, N)
        methods: dict[str, Any] = {"pass-through": fixed(draws, lambda row: row[0], 1)}
        for n in (4, 8, N):
            methods[f"majority of {n}"] = fixed(draws, majority, n)
            methods[f"best of {n} by log-probability"] = fixed(draws, best, n)
        for price in PRICES:
            methods[f":optscale, price {price:g}"] = await decided(client, test, {"price": price, **SAVING})
        votes = {"price": DEFAULT, "verifier": "none", "overissue": "none"}
        methods[":optscale, votes alone"] = await decided(client, test, votes)
        quick = {"price": DEFAULT, "calibration": CALIBRATION, "overissue": "idle"}
        methods[":optscale, window of 6"] = await decided(client, test, quick)
    return methods


def report(methods: dict[str, Any], folder: Path) -> None:
    """The table, the file, and the plot."""
    print(f"\n{'':34} {'accuracy':>8} {'draws':>6} {'tokens':>7} {'seconds':>8}  against majority of {N}")
    for name, row in methods.items():
        gap, error = difference(row["right"], methods[f"majority of {N}"]["right"])
        seconds = f"{row['seconds']:8.2f}" if "seconds" in row else " " * 8
        print(f"{name:34} {row['accuracy']:8.3f} {row['draws']:6.1f} {row['tokens']:7.0f} {seconds}", end="  ")
        print(f"{gap:+.3f} ± {error:.3f}")
    folder.mkdir(exist_ok=True)
    (folder / "gateway.json").write_text(json.dumps(methods, indent=1) + "\n")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    groups = {"majority": "majority of", "best by log-probability": "best of", ":optscale": ":optscale, price"}
    for label, start in groups.items():
        rows = sorted((r["tokens"], r["accuracy"]) for name, r in methods.items() if name.startswith(start))
        axes.plot(*zip(*rows, strict=True), "o-", label=label)
    single = methods["pass-through"]
    axes.plot(single["tokens"], single["accuracy"], "ks", label="pass-through")
    axes.set(xlabel="tokens per question", ylabel="share of right answers", title="The tiny model, served by vLLM")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.legend(loc="lower right")
    figure.savefig(folder / "gateway.png", dpi=150)
    print(f"\n{folder / 'gateway.png'}")


def main() -> None:
    """Run it before the vLLM at VLLM_URL."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--seed", type=int, default=3, help="of the questions that all methods answer")
    parser.add_argument("--learn", type=int, default=200, help="questions to calibrate on")
    parser.add_argument("--out", type=Path, default=Path("demo"))
    args = parser.parse_args()
    with gateway(os.environ["VLLM_URL"]) as url:
        report(asyncio.run(compare(url, args)), args.out)


if __name__ == "__main__":
    main()
