"""Recorded answers, to replay rules on: the pool, and its JSON form.

    {"source": "...", "licence": "...", "prompts": [
        {"id": "q1", "group": "model or run", "features": [0.1, ...],
         "samples": [{"answer": "42", "correct": 1, "score": 0.9, "tokens": 310}, ...]}]}

``answer`` null is a failure (cut off, or unreadable); without any ``answer`` in the pool every sample is an answer of
its own. ``correct`` (0 or 1) or ``quality`` (a number) is the truth, for reporting and for calibration; ``score``,
``tokens``, ``group`` and ``features`` are optional. Samples of a prompt must be exchangeable: their order means
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from .answers import Answers, label
from .errors import InvalidInput
from .stopping import finite


@dataclass(frozen=True, eq=False)
class Recorded:
    """All recorded answers to one prompt; scores and tokens are NaN where unknown."""

    id: str
    group: str
    clusters: Int64[np.ndarray, " n"]
    truth: Float64[np.ndarray, " n"]
    scores: Float64[np.ndarray, " n"]
    tokens: Float64[np.ndarray, " n"]
    features: Float64[np.ndarray, " d"] | None = None

    @property
    def n(self) -> int:
        return len(self.clusters)

    @property
    def answers(self) -> Answers:
        return Answers(self.clusters[None], self.scores[None], self.tokens[None])


@dataclass(frozen=True, eq=False)
class Pool:
    """Recorded answers to many prompts."""

    prompts: tuple[Recorded, ...]
    source: str = ""

    @classmethod
    def of(cls, document: Any, score: str = "score") -> Pool:
        """From the JSON form; ``score`` names the field that holds the verifier's score.

        Raises InvalidInput for what is no pool.
        """
        if not isinstance(document, Mapping) or not isinstance(document.get("prompts"), Sequence):
            raise InvalidInput("pool", 'an object with "prompts": [{"id": ..., "samples": [...]}, ...]', type(document))
        entries = document["prompts"]
        for i, entry in enumerate(entries):
            _check(entry, f"prompts[{i}]")
        answered = any("answer" in s for e in entries for s in e["samples"])
        if len({"correct" in s for e in entries for s in e["samples"]}) > 1:
            raise InvalidInput("prompts.samples", "correct in all of them, or quality", "both")
        prompts = [_recorded(e, f"prompts[{i}]", score, answered) for i, e in enumerate(entries)]
        if not prompts:
            raise InvalidInput("prompts", "at least one prompt", [])
        if len({len(p.features) for p in prompts if p.features is not None}) > 1:
            raise InvalidInput("prompts.features", "as many numbers for each prompt", "different lengths")
        return cls(tuple(prompts), str(document.get("source", "")))

    def only(self, kept: Sequence[bool] | np.ndarray) -> Pool:
        """The prompts that are marked."""
        return Pool(tuple(p for p, keep in zip(self.prompts, kept, strict=True) if keep), self.source)

    @property
    def scored(self) -> bool:
        """Whether any answer has a score."""
        return any(not np.isnan(p.scores).all() for p in self.prompts)

    @property
    def featured(self) -> bool:
        """Whether every prompt has features."""
        return all(p.features is not None for p in self.prompts)

    @property
    def all_scored(self) -> bool:
        """Whether every answer that is no failure has a score."""
        return not any(np.isnan(p.scores[p.clusters >= 0]).any() for p in self.prompts)


def _check(entry: Any, where: str) -> None:
    """Raises InvalidInput for what is no prompt with its samples."""
    if not isinstance(entry, Mapping) or "id" not in entry or not entry.get("samples"):
        raise InvalidInput(where, "an object with an id and at least one sample", entry)
    if not isinstance(entry["samples"], Sequence) or not all(isinstance(one, Mapping) for one in entry["samples"]):
        raise InvalidInput(f"{where}.samples", "a list of objects", entry["samples"])


def _recorded(entry: Mapping[str, Any], where: str, score: str, answered: bool) -> Recorded:
    samples = entry["samples"]
    raw = [_answer(s, f"{where}.samples[{i}]") for i, s in enumerate(samples)] if answered else range(len(samples))
    return Recorded(
        id=str(entry["id"]),
        group=str(entry.get("group", "")),
        clusters=label(raw),
        truth=np.array([_truth(s, f"{where}.samples[{i}]") for i, s in enumerate(samples)]),
        scores=np.array([_number(s, score, f"{where}.samples[{i}]") for i, s in enumerate(samples)]),
        tokens=np.array([_number(s, "tokens", f"{where}.samples[{i}]") for i, s in enumerate(samples)]),
        features=_features(entry.get("features"), where),
    )


def _features(values: Any, where: str) -> Float64[np.ndarray, " d"] | None:
    if values is None:
        return None
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise InvalidInput(f"{where}.features", "a list of numbers", values)
    for i, value in enumerate(values):
        finite(f"{where}.features[{i}]", value)
    return np.array(values, dtype=float)


def _answer(sample: Mapping[str, Any], where: str) -> str | float | None:
    """What is voted on."""
    value = sample.get("answer")
    if value is not None and not isinstance(value, str):
        finite(f"{where}.answer", value)
    return value


def _truth(sample: Mapping[str, Any], where: str) -> float:
    if "correct" not in sample:
        quality = _number(sample, "quality", where)
        if math.isnan(quality):
            raise InvalidInput(f"{where}.correct", "0 or 1, or a number in quality", None)
        return quality
    if sample["correct"] not in (0, 1):  # true and false are
        raise InvalidInput(f"{where}.correct", "0 or 1", sample["correct"])
    return float(sample["correct"])


def _number(sample: Mapping[str, Any], field: str, where: str) -> float:
    value = sample.get(field)
    if value is None:
        return math.nan
    if not isinstance(value, bool):
        finite(f"{where}.{field}", value)
    if field == "tokens" and value < 0:
        raise InvalidInput(f"{where}.tokens", "a number of at least 0", value)
    return float(value)


# --- orders -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Traces:
    """Answers of a pool in random orders, without replacement: row r is one order of prompt ``prompt[r]``."""

    answers: Answers
    truth: Float64[np.ndarray, "r n"]
    prompt: Int64[np.ndarray, " r"]
    order: Int64[np.ndarray, " r"]

    @property
    def cap(self) -> int:
        return self.answers.n

    def rows(self, which: np.ndarray) -> Traces:
        a = self.answers
        part = Answers(a.clusters[which], a.scores[which], a.tokens[which])
        return Traces(part, self.truth[which], self.prompt[which], self.order[which])


def traces(pool: Pool, cap: int, orders: int, seed: int) -> list[Traces]:
    """``orders`` random orders of each prompt, cut at ``cap`` answers: one Traces per number of answers there are.

    An order depends on the seed, its number and the prompt's place in the pool alone.
    """
    found: dict[int, list[tuple[int, int, np.ndarray]]] = {}
    for i, prompt in enumerate(pool.prompts):
        rng = np.random.default_rng([seed, i])
        for o in range(orders):
            picked = rng.permutation(prompt.n)[:cap]
            found.setdefault(len(picked), []).append((i, o, picked))
    return [_traces(pool, rows) for _, rows in sorted(found.items())]


def _traces(pool: Pool, rows: list[tuple[int, int, np.ndarray]]) -> Traces:
    drawn = [(pool.prompts[i], picked) for i, _, picked in rows]
    answers = Answers(
        in_order_of_appearance(np.stack([p.clusters[picked] for p, picked in drawn])),
        np.stack([p.scores[picked] for p, picked in drawn]),
        np.stack([p.tokens[picked] for p, picked in drawn]),
    )
    truth = np.stack([p.truth[picked] for p, picked in drawn])
    return Traces(answers, truth, np.array([i for i, _, _ in rows]), np.array([o for _, o, _ in rows]))


def in_order_of_appearance(clusters: Int64[np.ndarray, "r n"]) -> Int64[np.ndarray, "r n"]:
    """Clusters numbered from 0 as they first appear in each row, so that no number tells how frequent an answer is."""
    r, n = clusters.shape
    k = int(clusters.max(initial=0)) + 1
    place = np.full((r, k + 1), n, dtype=np.int64)
    rows = np.arange(r)
    for j in range(n - 1, -1, -1):
        place[rows, clusters[:, j]] = j  # failures, -1, fall into the last column
    place[:, k] = n
    rank = place.argsort(1, kind="stable").argsort(1, kind="stable")
    renamed = np.take_along_axis(rank, np.where(clusters < 0, k, clusters), axis=1)
    return np.where(clusters < 0, clusters, renamed)


def shuffled(pool: Pool, seed: int) -> Pool:
    """The pool with the scores of each prompt dealt out again at random: a verifier that knows nothing."""
    rng = np.random.default_rng(seed)
    return Pool(tuple(replace(p, scores=rng.permutation(p.scores)) for p in pool.prompts), pool.source)
