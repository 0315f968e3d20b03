"""Streams of prompts with the drift alarm: what scores that go bad after tuning cost, and what false alarms do.

Scores are dealt out again within each prompt after tuning. Prompts come as one stream per order and price; while the
alarm is on they go by votes. The alarm is fresh in each stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from suffice.optimizer.calibration import PRICES, Calibration
from suffice.optimizer.drift import Watch
from suffice.optimizer.frontier import Frontier
from suffice.optimizer.pool import Pool, Traces, shuffled, traces
from suffice.optimizer.replay import run
from suffice.optimizer.stopping import Rule

ORDERS = 6
LONG = 2000  # prompts of a long stream, drawn with replacement


@dataclass(frozen=True)
class Decided:
    """What a rule did with each prompt: answers, whether the pick was right, and the evidence of drift."""

    samples: np.ndarray
    right: np.ndarray
    evidence: np.ndarray

    @classmethod
    def of(cls, calibration: Calibration, part: Traces, rules: list[Rule], *, scores: bool) -> list[Decided]:
        assert calibration.drift is not None
        found: list[Decided] = []
        rows = np.arange(len(part.prompt))
        for stop, position in run(part, rules):
            evidence = np.zeros(len(stop))
            for n in np.unique(stop):
                those = np.flatnonzero(stop == n)
                answers = part.rows(those).answers.first(int(n))
                evidence[those] = calibration.drift.evidence(answers, scores=scores)
            right = np.where(position >= 0, part.truth[rows, position], 0.0)
            found.append(cls(stop, right, evidence))
        return found


@dataclass(frozen=True)
class Streams:
    """Prompts in random orders, decided by scores and by votes at each of PRICES."""

    part: Traces
    by_score: list[Decided]
    by_votes: list[Decided]

    @classmethod
    def of(cls, calibration: Calibration, pool: Pool, cap: int, seed: int) -> Streams:
        (part,) = traces(pool, cap, ORDERS, seed + 300)
        rules = [[calibration.rule(p, scores=scores) for p in PRICES] for scores in (True, False)]
        decided = [Decided.of(calibration, part, rules[i], scores=i == 0) for i in (0, 1)]
        return cls(part, *decided)

    def watched(self, price: int, stream: np.ndarray) -> tuple[np.ndarray, int]:
        """Which prompts of the stream went by scores, and after how many the alarm first came on."""
        watch, first = Watch(), len(stream)
        trusted = np.ones(len(stream), dtype=bool)
        for k, row in enumerate(stream):
            trusted[k] = not watch.alarm
            decided = self.by_score if trusted[k] else self.by_votes
            watch = watch.after(float(decided[price].evidence[row]))
            if watch.alarm:
                first = min(first, k + 1)
        return trusted, first

    def area(self, trusted: list[np.ndarray], cap: int) -> float:
        """The area under accuracy over log cost, where the marked prompts go by scores."""
        samples, right = [1.0], [float(self.part.truth[:, 0].mean())]
        for kept, scored, votes in zip(trusted, self.by_score, self.by_votes, strict=True):
            samples.append(float(np.where(kept, scored.samples, votes.samples).mean()))
            right.append(float(np.where(kept, scored.right, votes.right).mean()))
        return 100.0 * Frontier.of(np.array(samples), np.array(right)).area(1.0, cap)


def measure(calibration: Calibration, pool: Pool, cap: int, seed: int) -> dict[str, float]:
    """Areas with bad scores (by votes only, with the alarm, without it) and with good ones, and the alarm's errors."""
    bad = Streams.of(calibration, shuffled(pool, 17), cap, seed)
    good = Streams.of(calibration, pool, cap, seed)
    rng = np.random.default_rng(seed)
    rows = len(bad.part.prompt)
    streams = [rng.permutation(np.flatnonzero(bad.part.order == o)) for o in range(ORDERS)]
    heard: list[int] = []
    used: dict[str, list[np.ndarray]] = {"bad": [], "good": []}
    long: list[float] = []
    for i in range(len(PRICES)):
        for name, one in (("bad", bad), ("good", good)):
            kept = np.ones(rows, dtype=bool)
            for stream in streams:
                kept[stream], first = one.watched(i, stream)
                if name == "bad":
                    heard.append(first)
            used[name].append(kept)
        if i % 6 == 0:
            long.append(1.0 - float(good.watched(i, rng.choice(rows, LONG))[0].mean()))
    always, never = [np.ones(rows, dtype=bool)] * len(PRICES), [np.zeros(rows, dtype=bool)] * len(PRICES)
    return {
        "votes": bad.area(never, cap),
        "alarm": bad.area(used["bad"], cap),
        "blind": bad.area(always, cap),
        "good": good.area(used["good"], cap),
        "good_blind": good.area(always, cap),
        "prompts_to_alarm": float(np.median(heard)),
        "false": 1.0 - float(np.mean(used["good"])),
        "false_long": max(long),
    }


def summary(found: list[dict[str, Any]]) -> dict[str, float]:
    """Means over splits; the worst long stream."""
    mean = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    return mean | {"false_long": max(one["false_long"] for one in found)}
