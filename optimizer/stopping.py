"""Rules that say when enough answers are drawn, by name.

A rule looks at a prompt's answers and computes its *evidence*, which does not depend on the setting that trades answers
for accuracy; `enough` compares the evidence with that setting. One pass over recorded answers therefore serves a whole
sweep of settings (replay.py). Rules for scores are in optscale.py, beacon.py and pandora.py (best_of_n.py).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float64

from .answers import FLAT, Answers, Counts, TypePrior, right_after_failures
from .errors import InvalidInput
from .lookahead import NOTHING, Outlook, Votes, outlook
from .picks import PICKS, weighted_votes

Evidence = Float64[np.ndarray, " r"] | Float64[np.ndarray, "r e"]
Enough = Bool[np.ndarray, " r"]


@dataclass(frozen=True)
class Rule(ABC):
    """When to stop drawing answers to a prompt, and which of them to give."""

    name: ClassVar[str]
    swept: ClassVar[tuple[str, ...]] = ()  # settings that `evidence` does not depend on
    score_range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    @abstractmethod
    def evidence(self, answers: Answers, cap: int) -> Evidence:
        """What the rule looks at after ``answers.n`` answers of at most ``cap``, per prompt."""

    @abstractmethod
    def enough(self, evidence: Evidence, n: int) -> Enough:
        """Whether to stop, per prompt."""

    @property
    @abstractmethod
    def pick(self) -> str:
        """The name of the pick that goes with the rule (picks.py)."""

    @property
    def scored(self) -> bool:
        """Whether every answer that is no failure has to have a score."""
        return self.pick != "majority"

    def check(self, score: float) -> None:
        """Raises InvalidInput for a score that the rule cannot look at."""
        low, high = self.score_range
        if not low <= score <= high:
            raise InvalidInput("score", f"a number from {low:g} to {high:g}, as {self.name} takes scores to be", score)

    def choose(self, answers: Answers) -> Counts:
        """The position of the answer to give, per prompt; -1 where every answer failed."""
        return PICKS[self.pick](answers)

    @property
    def setting(self) -> dict[str, Any]:
        """The rule's settings, for reports and for JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def soonest(self, n: int, cap: int) -> int:
        """The least number of answers at which the rule could stop, having drawn n: all up to it can come at once."""
        return min(n + 1, cap)

    def watches(self) -> tuple[Any, ...]:
        """What the evidence depends on, besides the answers: equal for rules that can share it."""
        kept = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in (*self.swept, "picked")}
        return (self.name, *sorted(kept.items()))

    def sweep(self, cap: int) -> Sequence[Rule]:
        """The rule with the settings that span its trade between answers and accuracy."""
        return [self]


class Picking(Rule):
    """A rule that leaves the pick to its last setting, ``picked``."""

    picked: str

    def __post_init__(self) -> None:
        if self.picked not in list(PICKS):  # a list: what cannot be hashed is no name either
            raise InvalidInput("picked", f"one of {', '.join(PICKS)}", self.picked)

    @property
    def pick(self) -> str:
        return self.picked


class ByScore(Picking):
    """A rule that looks at scores, whatever it picks."""

    @property
    def scored(self) -> bool:
        return True


@dataclass(frozen=True)
class Fixed(Picking):
    """A fixed number of answers: best-of-N, majority (self-consistency) or the score-weighted vote, by ``picked``."""

    name: ClassVar[str] = "fixed"
    swept: ClassVar[tuple[str, ...]] = ("samples",)
    samples: int = 8
    picked: str = "majority"

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("samples", self.samples)

    def evidence(self, answers: Answers, cap: int) -> Evidence:
        return np.zeros(len(answers.clusters))

    def enough(self, evidence: Evidence, n: int) -> Enough:
        return np.full(len(evidence), n >= self.samples)

    def soonest(self, n: int, cap: int) -> int:
        return min(self.samples, cap)

    def sweep(self, cap: int) -> Sequence[Rule]:
        return [replace(self, samples=n) for n in range(1, cap + 1)]


@dataclass(frozen=True)
class AdaptiveConsistency(Picking):
    """Stop when the leading answer is the most likely one with at least this probability (Aggarwal et al. 2023).

    ``form``: "beta" compares the first two counts, P(p1 > p2) = 1 - I_1/2(v1 + 1, v2 + 1); "dirichlet" compares up to
    five, P(p1 is the largest) under Dirichlet(v + 1), here by quadrature where the authors draw at random; "weighted"
    is "beta" with ``strength`` times the sums of scores in place of counts. (arXiv 2305.11860, section 3.)
    """

    name: ClassVar[str] = "adaptive_consistency"
    swept: ClassVar[tuple[str, ...]] = ("threshold",)
    threshold: float = 0.95
    form: str = "beta"
    strength: float = 1.0
    picked: str = "majority"

    def __post_init__(self) -> None:
        super().__post_init__()
        probability("threshold", self.threshold)
        if self.form not in ("beta", "dirichlet", "weighted"):
            raise InvalidInput("form", "beta, dirichlet or weighted", self.form)
        positive("strength", self.strength)

    @property
    def pick(self) -> str:
        return "weighted" if self.form == "weighted" else self.picked

    def evidence(self, answers: Answers, cap: int) -> Evidence:
        from scipy.special import betainc  # not at the top: definitions stay light

        if self.form == "weighted":
            counts = -np.sort(-weighted_votes(answers) * self.strength, axis=1)
        else:
            counts = -np.sort(-answers.votes, axis=1).astype(float)
        if self.form == "dirichlet" and counts.shape[1] > 2:
            return largest_share(counts[:, :5])
        second = counts[:, 1] if counts.shape[1] > 1 else np.zeros(len(counts))
        return 1.0 - betainc(counts[:, 0] + 1.0, second + 1.0, 0.5)

    def enough(self, evidence: Evidence, n: int) -> Enough:
        return evidence >= self.threshold

    def sweep(self, cap: int) -> Sequence[Rule]:
        tail = np.geomspace(0.4, 0.0005, 40)
        return [replace(self, threshold=float(1.0 - t)) for t in tail]


def largest_share(counts: Float64[np.ndarray, "r k"]) -> Float64[np.ndarray, " r"]:
    """P(p_1 is the largest) for p ~ Dirichlet(counts + 1) over the clusters with votes.

    With p_j proportional to Gamma(counts_j + 1) variables it is the integral of the first's density times the others'
    distribution functions.
    """
    from scipy.special import gammainc, gammaln

    u, weight = np.polynomial.legendre.leggauss(64)
    shape = counts[:, :1] + 1.0
    low, high = np.maximum(shape - 10.0 * np.sqrt(shape), 0.0), shape + 12.0 * np.sqrt(shape)
    x = low + (high - low) * 0.5 * (u + 1.0)
    with np.errstate(divide="ignore"):
        density = np.exp((shape - 1.0) * np.log(x) - x - gammaln(shape))
    below = np.where(counts[:, 1:, None] > 0, gammainc(counts[:, 1:, None] + 1.0, x[:, None]), 1.0)
    return (density * below.prod(1) * weight).sum(1) * 0.5 * (high - low)[:, 0]


@dataclass(frozen=True)
class EarlyStopping(Picking):
    """Stop when a window of ``window`` answers is unanimous; windows do not overlap (ESC; Li et al. 2024)."""

    name: ClassVar[str] = "early_stopping"
    window: int = 5
    picked: str = "majority"

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("window", self.window)

    def evidence(self, answers: Answers, cap: int) -> Evidence:
        if answers.n == 0 or answers.n % self.window:
            return np.zeros(len(answers.clusters))
        last = answers.clusters[:, -self.window :]
        return ((last == last[:, :1]) & (last >= 0)).all(1).astype(float)

    def enough(self, evidence: Evidence, n: int) -> Enough:
        return evidence > 0

    def soonest(self, n: int, cap: int) -> int:
        return min(n - n % self.window + self.window, cap)

    def sweep(self, cap: int) -> Sequence[Rule]:
        return [replace(self, window=w) for w in range(1, min(cap, 12) + 1)]


@dataclass(frozen=True)
class Threshold(ByScore):
    """Stop at the first score of at least ``threshold``."""

    name: ClassVar[str] = "threshold"
    swept: ClassVar[tuple[str, ...]] = ("threshold",)
    threshold: float = 0.9
    picked: str = "best"

    def __post_init__(self) -> None:
        super().__post_init__()
        finite("threshold", self.threshold)

    def evidence(self, answers: Answers, cap: int) -> Evidence:
        return answers.known_scores.max(1)

    def enough(self, evidence: Evidence, n: int) -> Enough:
        return evidence >= self.threshold

    def sweep(self, cap: int) -> Sequence[Rule]:
        return [
            replace(self, threshold=float(t)) for t in (*np.linspace(0, 0.9, 19), *(1 - np.geomspace(0.08, 1e-5, 20)))
        ]


@dataclass(frozen=True)
class Suffice(Rule):
    """Stop when no number of further votes is worth its price: lookahead.py's index against ``price`` an answer."""

    name: ClassVar[str] = "suffice"
    swept: ClassVar[tuple[str, ...]] = ("price",)
    price: float = 0.01
    prior: TypePrior = FLAT

    def __post_init__(self) -> None:
        positive("price", self.price)

    @property
    def pick(self) -> str:
        return "majority"

    @property
    def setting(self) -> dict[str, Any]:
        return {"price": self.price}

    def evidence(self, answers: Answers, cap: int) -> Evidence:
        return np.array([o.index for o in outlooks(answers, cap, self.prior)])

    def enough(self, evidence: Evidence, n: int) -> Enough:
        return evidence <= self.price

    def sweep(self, cap: int) -> Sequence[Rule]:
        return [replace(self, price=float(p)) for p in np.geomspace(0.4, 1e-7, 70)]


def outlooks(answers: Answers, cap: int, prior: TypePrior = FLAT) -> list[Outlook]:
    """What drawing on is worth, per prompt."""
    keys = np.column_stack([answers.ranked, answers.failed.sum(1)])
    states, which = np.unique(keys, axis=0, return_inverse=True)
    found = [vote_outlook(tuple(int(v) for v in row[:-1] if v), int(row[-1]), cap, prior) for row in states]
    return [found[i] for i in which.reshape(-1)]


def vote_outlook(votes: Votes, failures: int, cap: int, prior: TypePrior = FLAT) -> Outlook:
    """The outlook of a vote. Before there is an answer to pick, the next one is worth P(it is right).

    After that a failure counts as a wrong answer like no other.
    """
    if sum(votes) + failures >= cap:
        return NOTHING
    if not votes and failures:
        p = right_after_failures(failures, prior)
        return Outlook(p, p)
    return outlook((*votes, *(1,) * failures), cap, prior)


# --- by name ----------------------------------------------------------------------------------------------------------

_HOMES = {
    "fixed": ("stopping", "Fixed"),
    "adaptive_consistency": ("stopping", "AdaptiveConsistency"),
    "early_stopping": ("stopping", "EarlyStopping"),
    "threshold": ("stopping", "Threshold"),
    "suffice": ("stopping", "Suffice"),
    "optscale0": ("optscale", "OptScale0"),
    "optscale_t": ("optscale", "OptScaleT"),
    "beacon": ("beacon", "Beacon"),
    "pandora": ("pandora", "Pandora"),
}
RULES = tuple(_HOMES)


def rule(name: str, **settings: Any) -> Rule:
    """The rule of that name. Raises InvalidInput for an unknown name or setting, or a setting out of range."""
    if name not in _HOMES:
        raise InvalidInput("rule", f"one of {', '.join(RULES)}", name)
    module, kind = _HOMES[name]
    made: Callable[..., Rule] = getattr(import_module(f".{module}", __package__), kind)
    known = [f.name for f in fields(made)]  # type: ignore[arg-type]
    for setting in settings:
        if setting not in known:
            raise InvalidInput(setting, f"a setting of {name}: {', '.join(known) or 'it has none'}", settings[setting])
    return made(**settings)


# --- checks of settings -----------------------------------------------------------------------------------------------


def finite(field: str, value: Any) -> None:
    """A finite number, and no whole one that is too large to compute with."""
    try:
        ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a huge int
        ok = False
    if not ok:
        raise InvalidInput(field, "a finite number", value)


def positive(field: str, value: Any) -> None:
    finite(field, value)
    if value <= 0:
        raise InvalidInput(field, "a positive number", value)


def probability(field: str, value: Any) -> None:
    finite(field, value)
    if not 0 < value < 1:
        raise InvalidInput(field, "a probability between 0 and 1, both excluded", value)


def whole(field: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidInput(field, "a whole number of at least 1", value)
