"""Calibration: what a model's votes and a verifier's scores are worth, learned once from labelled answers.

From a pool of one (model, verifier) pair: P(right) per cluster (scores.py), what more answers add to each pick
(gain.py), and, by cross-fitting, which way to pick and stop pays best at which price: the posterior, the best score,
the score-weighted vote or the majority, by those gains; votes alone, by the exact lookahead; the best score or the
score-weighted vote, at the first good score (crossing.py). A verifier that is worth nothing is found out there. The
pick is worth more than the stop. The stated confidence is calibrated on prompts that the models were not fitted to.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float64, Int64

from .answers import FLAT, Answers, Counts, PerPrompt, TypePrior, vote_posterior
from .crossing import FIRST, Cell, cells
from .drift import DriftModel, Stopped
from .errors import InvalidInput
from .expected import Expected
from .forecasts import Forecasts
from .gain import GainTable, Walk, features
from .logit import Choices
from .logit import fit as logistic
from .lookahead import HORIZON, NOTHING, Outlook
from .picks import PICKS, member
from .pool import Pool, Traces, shuffled, traces
from .prompt_types import likeliest
from .prompts import PromptModel
from .replay import Outcome, replay, run
from .scores import ScoreModel
from .stopping import Enough, Evidence, Rule, Suffice, positive, whole

SCHEMA = 2  # of the JSON form
PRICES = tuple(float(p) for p in np.geomspace(0.3, 1e-7, 44))
BETWEEN = tuple(float(np.sqrt(high * low)) for high, low in pairwise(PRICES))
LEAST = 2e-7  # what an answer is worth at least: with next to no price only the budget stops
POSTERIOR = "posterior"
VOTES = "votes"  # by votes alone: the lookahead of lookahead.py and the majority
GAINING = {way: way for way in (POSTERIOR, "best", "weighted", "majority")}  # and the pick of each
CROSSING = {"first good": "best", "first good, weighted": "weighted"}  # the same, stopping at the first good score
PICKED = {**GAINING, **CROSSING, VOTES: "majority"}
WAYS = (*GAINING, VOTES, *CROSSING)
FOLDS = 4
CHECKED = 4  # orders of each prompt in which confidence and drift are looked at
WATCHED = slice(None, None, 6)  # the PRICES at which prompts are stopped to learn what drift looks like
MARGIN = 0.5  # standard errors by which a way has to be better than the posterior
SMOOTH = 1.0  # natural log of the prices over which the value of a way is averaged to choose it
TRUST_RIDGE = 0.1  # towards what the model states: picks of one prompt are right or wrong together
SURE = np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0])  # of the confidence: P(right) as the model states it


@dataclass(frozen=True, eq=False)
class Trust:
    """The confidence in a pick: a logistic regression of its truth on the model's log odds, log n and the lead."""

    weights: Float64[np.ndarray, " f"]

    @classmethod
    def fit(cls, x: Float64[np.ndarray, "r f"], truth: PerPrompt) -> Trust:
        """From ``confidence_features`` of picks, and whether they were right."""
        share = np.column_stack([truth, 1.0 - truth])
        pair = Choices(np.stack([x, np.zeros_like(x)], axis=1), np.ones(share.shape, dtype=bool), share)
        return cls(logistic([pair], SURE, TRUST_RIDGE))

    def __call__(self, x: Float64[np.ndarray, "r f"]) -> PerPrompt:
        found: PerPrompt = 1.0 / (1.0 + np.exp(-x @ self.weights))
        return found


def confidence_features(p: PerPrompt, answers: Answers) -> Float64[np.ndarray, "r f"]:
    """What the confidence in a pick is made of, from what the model states: P(right) ``p``.

    The lead is that of the first answer over the second, as a share of all.
    """
    p, n = np.clip(p, 1e-4, 1.0 - 1e-4), float(answers.n)
    log_odds = np.log(p / (1.0 - p))
    ranked = answers.ranked
    lead = (ranked[:, 0] - (ranked[:, 1] if ranked.shape[1] > 1 else 0)) / n
    fixed = np.ones(len(p))
    return np.column_stack([fixed, log_odds, np.log(n) * fixed, log_odds * np.log(n), lead, lead * lead])


@dataclass(frozen=True, eq=False)
class Calibration:
    """What was learned from ``prompts`` labelled prompts, for at most ``max_samples`` answers each.

    ``ways`` says for each of PRICES how to pick and stop; ``gains`` are by pick, ``cells`` by way and price. Without
    scores in the pool, ``model`` and ``drift`` are None; ``prompt_model`` and ``forecasts`` need features of every
    prompt.
    """

    name: str
    version: int
    max_samples: int
    prompts: int
    quality: bool
    model: ScoreModel | None
    gains: Mapping[str, GainTable]
    trust: Mapping[str, Trust]
    ways: tuple[str, ...]
    drift: DriftModel | None
    prompt_model: PromptModel | None = None
    forecasts: Forecasts | None = None
    cells: Mapping[str, tuple[Cell, ...]] = field(default_factory=dict[str, tuple[Cell, ...]])
    types: TypePrior = FLAT  # of prompts of which nothing else is known, for the confidence in votes
    _last: dict[str, Any] = field(
        default_factory=dict[str, Any], repr=False, compare=False
    )  # a decision asks repeatedly

    @classmethod
    def fit(
        cls, pool: Pool, max_samples: int, *, name: str = "", version: int = 1, orders: int = 8, seed: int = 0
    ) -> Calibration:
        """From a labelled pool. Raises InvalidInput where there are fewer than FOLDS questions."""
        whole("max_samples", max_samples)
        if len({p.id for p in pool.prompts}) < FOLDS:
            raise InvalidInput("pool", f"at least {FOLDS} questions", len({p.id for p in pool.prompts}))
        if pool.scored and not pool.all_scored:
            raise InvalidInput("pool", "a score for every answer that is no failure, or for none", "some have none")
        quality = not all(np.isin(p.truth, (0.0, 1.0)).all() for p in pool.prompts)
        parts = traces(pool, max_samples, orders, seed)
        scored = pool.scored
        model = ScoreModel.fit(parts, quality=quality) if scored else None
        gains = {} if model is None else _gains(parts, model)
        prompts = None if quality or not pool.featured else prompt_model(pool)
        bare = cls(name, version, max_samples, len(pool.prompts), quality, model, gains, {}, (VOTES,), None, prompts)
        if pool.featured:
            bare = replace(bare, forecasts=Forecasts.fit(pool))
        if scored:
            bare = replace(bare, cells=_cells(parts))
        if not quality:
            bare = replace(bare, types=likeliest(pool))
        return bare._cross_fitted(pool, orders, seed)

    # --- use ---

    def rule(self, price: float, *, scores: bool = True, prior: TypePrior = FLAT) -> Rule:
        """The rule at ``price`` an answer, for prompts of that prior; without ``scores``, by votes alone."""
        return self.by(self.way(price) if scores else VOTES, price, prior)

    def by(self, way: str, price: float, prior: TypePrior = FLAT) -> Rule:
        """The rule that goes one of WAYS."""
        if way == VOTES:
            return Suffice(price, prior)
        if way in CROSSING:
            return Crossing(self, way, price, prior, self.cells[way][_nearest(price)])
        return Calibrated(self, way, price, prior)

    def way(self, price: float) -> str:
        """How to pick and stop at ``price``."""
        return self.ways[0] if len(self.ways) == 1 else self.ways[_nearest(price)]

    def prior(self, features: Sequence[float] | None) -> TypePrior:
        """The prior over types of a prompt with these features; flat without features, or where they tell nothing.

        Raises InvalidInput for features unlike those of the pool.
        """
        if features is None:
            return FLAT
        if not self.featured:
            raise InvalidInput("features", "none: the calibration's pool has none, or not of every prompt", features)
        return FLAT if self.prompt_model is None else self.prompt_model.priors(np.array([features], dtype=float))[0]

    @property
    def featured(self) -> bool:
        """Whether it has learned from prompts with features."""
        return self.prompt_model is not None or self.forecasts is not None

    def expected(self, features: Sequence[float]) -> Expected:
        """What a prompt with these features is expected to be like: its prior, and what answers will look like.

        Raises InvalidInput for features unlike those of the pool.
        """
        prior = self.prior(features)
        return Expected(prior) if self.forecasts is None else self.forecasts.expected(features, prior)

    def probabilities(
        self, answers: Answers, way: str, prior: TypePrior = FLAT
    ) -> tuple[Float64[np.ndarray, "r k"], PerPrompt]:
        """P(this cluster is right), as calibrated for the one that is picked, and P(none seen is right)."""
        p, none = self._stated(answers, way, prior)
        position = self.position(answers, way, prior)
        if way not in self.trust:
            return p, none
        rows, there = np.arange(len(p)), position >= 0
        cluster = np.maximum(answers.clusters[rows, np.maximum(position, 0)], 0)
        before = np.where(there, p[rows, cluster], 0.0)
        after = np.where(there, self.trust[way](confidence_features(before, answers)), 0.0)
        others = np.where(there, (1.0 - after) / np.maximum(1.0 - before, 1e-12), 1.0)
        p = p * others[:, None]
        p[rows[there], cluster[there]] = after[there]
        return p, none * others

    def drift_evidence(
        self, answers: Sequence[Hashable | None], scores: Sequence[float | None], *, by_score: bool
    ) -> float | None:
        """The evidence, from one prompt, that scores mean nothing any more (drift.py); None where there is none.

        ``by_score``: whether scores were looked at to decide on the prompt.
        """
        missing = any(answer is not None and score is None for answer, score in zip(answers, scores, strict=True))
        if self.drift is None or missing:
            return None
        return float(self.drift.evidence(Answers.of(answers, scores), scores=by_score)[0])

    def _stated(
        self, answers: Answers, way: str, prior: TypePrior = FLAT
    ) -> tuple[Float64[np.ndarray, "r k"], PerPrompt]:
        """As the model states it; ways by score share it. What was stated last is kept."""
        by_votes = self.model is None or way == VOTES
        last = self._last.get("stated")
        if last is not None and last[0] is answers and last[1:3] == (by_votes, prior):
            found: tuple[np.ndarray, np.ndarray] = last[3]
            return found
        if self.model is None or by_votes:
            posterior = vote_posterior(max(answers.n, HORIZON), self._believed(prior))
            found = posterior.probabilities(answers.votes, answers.failed.sum(1))
        else:
            found = self.model.probabilities(answers, prior)
        self._last["stated"] = (answers, by_votes, prior, found)
        return found

    def position(self, answers: Answers, way: str, prior: TypePrior = FLAT) -> Counts:
        """The position of the answer to give. What was found last is kept."""
        last = self._last.get("position")
        if last is not None and last[0] is answers and last[1:3] == (way, prior):
            kept: Counts = last[3]
            return kept
        if way == POSTERIOR:
            position = member(answers, self._stated(answers, way, prior)[0].argmax(1))
        else:
            position = PICKS[PICKED[way]](answers)
        self._last["position"] = (answers, way, prior, position)
        return position

    def _believed(self, prior: TypePrior) -> TypePrior:
        """The prior that a prompt's own, which may be flat, becomes with what labelled answers say of prompts."""
        if prior == FLAT:
            return self.types
        return replace(prior, alpha=self.types.alpha) if prior.alpha == FLAT.alpha else prior

    # --- cross-fitting ---

    def _cross_fitted(self, pool: Pool, orders: int, seed: int) -> Calibration:
        """With the ways and the confidence that hold on prompts the models were not fitted to."""
        ways = (VOTES,) if self.model is None else WAYS
        value = np.zeros((len(ways), len(PRICES), len(pool.prompts)))
        stated: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {way: [] for way in ways}
        unseen: list[tuple[Calibration, Pool]] = []
        fold = _folds(pool, seed)
        for k in range(FOLDS):
            judge, learn = fold == k, fold != k
            there = pool.only(judge)
            other = self if self.quality else replace(self, types=likeliest(pool.only(learn)))
            if self.model is not None:
                parts = traces(pool.only(learn), self.max_samples, orders, seed)
                model = ScoreModel.fit(parts, quality=self.quality)
                other = replace(other, model=model, gains=_gains(parts, model), cells=_cells(parts))
            unseen.append((other, there))
            priors = self._unseen_priors(pool, judge)
            for way in ways:
                rules = [other.by(way, price) for price in PRICES]
                if len(ways) > 1:
                    outcomes = replay(there, rules, self.max_samples, orders, seed + 1)
                    value[ways.index(way), :, judge] = _net(outcomes).T
                stated[way].extend(
                    _stated(other, way, part, priors) for part in traces(there, self.max_samples, CHECKED, seed + 1)
                )
        chosen = tuple(ways[i] for i in _best(value)) if len(ways) > 1 else ways
        trust: dict[str, Trust] = {}
        for way in () if self.quality else sorted({*chosen, VOTES}):
            x, truth = (np.concatenate(parts) for parts in zip(*stated[way], strict=True))
            trust[way] = Trust.fit(x, truth)
        picked = {PICKED[way] for way in chosen}
        gains = {pick: table for pick, table in self.gains.items() if pick in picked}
        kept = {way: found for way, found in self.cells.items() if way in chosen}
        drift = None if self.quality or set(chosen) == {VOTES} else self._watching(chosen, unseen, seed)
        return replace(self, ways=chosen, trust=trust, gains=gains, cells=kept, drift=drift)

    def _unseen_priors(self, pool: Pool, judge: np.ndarray) -> list[TypePrior]:
        """The prior of each judged prompt, from features of the others; flat where they tell nothing."""
        if self.prompt_model is None or self.prompt_model.mean is None:
            return [FLAT] * int(judge.sum())
        X = np.stack([p.features for p in pool.only(judge).prompts if p.features is not None])
        return prompt_model(pool.only(~judge)).priors(X)

    def _watching(
        self, ways: tuple[str, ...], unseen: Sequence[tuple[Calibration, Pool]], seed: int
    ) -> DriftModel | None:
        """What drift looks like, from prompts stopped as they are live, by models that were not fitted to them."""
        assert self.model is not None
        scored: list[Stopped] = []
        votes: list[Stopped] = []
        number = {id: i for i, id in enumerate(sorted({p.id for _, pool in unseen for p in pool.prompts}))}
        for other, pool in unseen:
            assert other.model is not None
            decided = replace(other, ways=ways)
            for dealt, tried in ((False, pool), (True, shuffled(pool, seed))):
                for part in traces(tried, self.max_samples, CHECKED, seed + 1):
                    question = np.array([number[pool.prompts[i].id] for i in part.prompt])
                    for scores, found in ((True, scored), (False, votes)):
                        rules = [decided.rule(price, scores=scores) for price in PRICES[WATCHED]]
                        stops = [stop for stop, _ in run(part, rules)]
                        found.append(Stopped.of(other.model.curve, part.answers, stops, question, dealt=dealt))
        model = DriftModel.fit(self.model.curve, scored, votes)
        return model if model.scored.any() else None

    # --- JSON ---

    def to_json(self) -> dict[str, Any]:
        """Everything, for ``from_json``."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "version": self.version,
            "max_samples": self.max_samples,
            "prompts": self.prompts,
            "quality": self.quality,
            "model": None if self.model is None else self.model.to_json(),
            "gains": {way: table.to_json() for way, table in self.gains.items()},
            "types": {"theta": list(self.types.theta), "alpha": list(self.types.alpha)},
            "cells": {way: [[c.threshold, c.samples] for c in found] for way, found in self.cells.items()},
            "trust": {way: trust.weights.tolist() for way, trust in self.trust.items()},
            "ways": list(self.ways),
            "drift": None if self.drift is None else self.drift.to_json(),
            "prompt_model": None if self.prompt_model is None else self.prompt_model.to_json(),
            "forecasts": None if self.forecasts is None else self.forecasts.to_json(),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Calibration:
        """The calibration that ``to_json`` wrote. Raises InvalidInput for another schema."""
        if document.get("schema") != SCHEMA:
            raise InvalidInput("schema", f"a calibration of schema {SCHEMA}", document.get("schema"))
        model = None if document["model"] is None else ScoreModel.from_json(document["model"])
        drift = document["drift"]
        return cls(
            name=document["name"],
            version=document["version"],
            max_samples=document["max_samples"],
            prompts=document["prompts"],
            quality=document["quality"],
            model=model,
            gains={way: GainTable.from_json(table) for way, table in document["gains"].items()},
            trust={way: Trust(np.array(weights)) for way, weights in document["trust"].items()},
            ways=tuple(document["ways"]),
            drift=None if drift is None or model is None else DriftModel.from_json(drift, model.curve),
            prompt_model=None if (found := document["prompt_model"]) is None else PromptModel.from_json(found),
            forecasts=None if (found := document.get("forecasts")) is None else Forecasts.from_json(found),
            types=FLAT if (found := document.get("types")) is None else _types(found),
            cells={way: tuple(Cell(*one) for one in found) for way, found in document.get("cells", {}).items()},
        )


@dataclass(frozen=True, eq=False)
class Calibrated(Rule):
    """``suffice`` with a calibration: stop when no number of further answers is worth its price."""

    name: ClassVar[str] = "suffice"
    swept: ClassVar[tuple[str, ...]] = ("price",)
    calibration: Calibration
    way: str = POSTERIOR
    price: float = 0.01
    prior: TypePrior = FLAT

    def __post_init__(self) -> None:
        positive("price", self.price)

    @property
    def pick(self) -> str:
        return self.way if self.way != POSTERIOR else f"{POSTERIOR} {id(self.calibration)} {id(self.prior)}"

    @property
    def scored(self) -> bool:
        return True

    @property
    def setting(self) -> dict[str, Any]:
        return {"price": self.price, "way": self.way, "calibration": self.calibration.name}

    def watches(self) -> tuple[Any, ...]:
        return (self.name, id(self.calibration), self.way, self.prior)

    def choose(self, answers: Answers) -> Counts:
        return self.calibration.position(answers, self.way, self.prior)

    def evidence(self, answers: Answers, cap: int) -> Evidence:
        """The gain per answer, and the largest gain, of drawing on."""
        c = self.calibration
        assert c.model is not None
        p, none = c._stated(answers, self.way, self.prior)
        x = features(answers, c.model, p, none, c.position(answers, self.way, self.prior))
        index, most = c.gains[PICKED[self.way]].per_answer(x, min(cap, c.max_samples) - answers.n)
        return np.column_stack([np.maximum(index, LEAST), most])

    def outlook(self, answers: Answers, cap: int) -> Outlook:
        """What drawing on is worth to one prompt."""
        index, attainable = self.evidence(answers, cap)[0].tolist()
        return Outlook(index, attainable)

    def enough(self, evidence: Evidence, n: int) -> Enough:
        return evidence[:, 0] <= self.price

    def sweep(self, cap: int) -> Sequence[Rule]:
        return [self.calibration.rule(price, prior=self.prior) for price in PRICES]


@dataclass(frozen=True, eq=False)
class Crossing(Calibrated):
    """``suffice`` where labelled answers say that at this price it is best to stop at the first good score."""

    cell: Cell = FIRST

    @property
    def pick(self) -> str:
        return PICKED[self.way]

    def choose(self, answers: Answers) -> Counts:
        return PICKS[self.pick](answers)

    def evidence(self, answers: Answers, cap: int) -> Evidence:
        """The best score so far."""
        return answers.known_scores.max(1)

    def enough(self, evidence: Evidence, n: int) -> Enough:
        return (evidence >= self.cell.threshold) | (n >= self.cell.samples)

    def outlook(self, answers: Answers, cap: int) -> Outlook:
        """Nothing where it stops. Elsewhere an answer is worth more than its price, whatever the gain table says."""
        if bool(self.enough(self.evidence(answers, cap), answers.n)[0]):
            return NOTHING
        index, attainable = super().evidence(answers, cap)[0].tolist()
        index = max(index, float(np.nextafter(self.price, np.inf)))
        return Outlook(index, max(attainable, index))


def prompt_model(pool: Pool) -> PromptModel:
    """What features of prompts tell of their solve rates."""
    X = np.stack([p.features for p in pool.prompts if p.features is not None])
    right = np.array([p.truth.sum() for p in pool.prompts])
    return PromptModel.fit(X, right, np.array([float(p.n) for p in pool.prompts]))


def _gains(parts: Sequence[Traces], model: ScoreModel) -> dict[str, GainTable]:
    """A table for each pick."""

    def table(way: str) -> GainTable:
        if way == POSTERIOR:
            return GainTable.fit(walks, lambda answers, p: member(answers, p.argmax(1)))
        return GainTable.fit(walks, lambda answers, p: PICKS[way](answers))

    walks = [Walk.of(part, model) for part in parts]
    return {way: table(way) for way in GAINING}


def _cells(parts: Sequence[Traces]) -> dict[str, tuple[Cell, ...]]:
    """Thresholds and caps for each way that stops at the first good score."""
    return {way: cells(parts, pick, PRICES) for way, pick in CROSSING.items()}


def _types(document: Mapping[str, Any]) -> TypePrior:
    return TypePrior(tuple(document["theta"]), tuple(document["alpha"]))


def _nearest(price: float) -> int:
    """The place of the price among PRICES that is nearest in proportion."""
    return bisect_left(BETWEEN, -price, key=lambda p: -p)


def _folds(pool: Pool, seed: int) -> Int64[np.ndarray, " p"]:
    """The fold of each prompt, at random; prompts of one id stay together."""
    ids = sorted({p.id for p in pool.prompts})
    places = np.random.default_rng(seed).permutation(len(ids)) % FOLDS
    fold = dict(zip(ids, places.tolist(), strict=True))
    return np.array([fold[p.id] for p in pool.prompts], dtype=np.int64)


def _net(outcomes: Iterable[Outcome]) -> Float64[np.ndarray, "p m"]:
    """Accuracy less the price of the answers, per price and prompt."""
    return np.array([o.accuracy - price * o.samples for o, price in zip(outcomes, PRICES, strict=True)])


def _best(value: Float64[np.ndarray, "w p m"]) -> list[int]:
    """The way of each price with the largest value; the first unless another is better by MARGIN standard errors.

    Values are averaged over neighbouring prices, so that the choice does not follow noise from price to price.
    """
    log_price = np.log(np.array(PRICES))
    kernel = np.exp(-0.5 * ((log_price[:, None] - log_price) / SMOOTH) ** 2)
    ahead = np.einsum("wpm,pq->wqm", value - value[:1], kernel / kernel.sum(0))
    error = ahead.std(2) / np.sqrt(ahead.shape[2])
    score = ahead.mean(2) - MARGIN * error
    return score.argmax(0).tolist()


def _stated(
    calibration: Calibration, way: str, part: Traces, priors: Sequence[TypePrior]
) -> tuple[Float64[np.ndarray, "m f"], Float64[np.ndarray, " m"]]:
    """Features of the confidence in picks after 1, 2, ... answers, and whether they are right.

    ``priors`` are those of the prompts of the pool that ``part`` comes from.
    """
    features: list[np.ndarray] = []
    truth: list[np.ndarray] = []
    for prior in dict.fromkeys(priors):
        those = part.rows(np.flatnonzero([priors[i] == prior for i in part.prompt]))
        rows = np.arange(len(those.prompt))
        for n in sorted({round(x) for x in np.geomspace(1, part.cap, 8)}) if len(rows) else ():
            answers = those.answers.first(n)
            p, _ = calibration._stated(answers, way, prior)
            position = calibration.position(answers, way, prior)
            there = position >= 0
            cluster = np.maximum(answers.clusters[rows, np.maximum(position, 0)], 0)
            features.append(confidence_features(p[rows, cluster], answers)[there])
            truth.append(those.truth[rows, np.maximum(position, 0)][there])
    return np.concatenate(features), np.concatenate(truth)
