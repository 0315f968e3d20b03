"""Sampling: how many answers to draw from a model for one prompt, and which of them to give.

    sampling = Sampling(rule="suffice", max_samples=64, target=0.95)
    while isinstance(step := sampling.ask(), Draw):
        for answer in draw(step.count):
            sampling.tell(answer.text, score=answer.score, tokens=answer.tokens)
    print(sampling.pick, sampling.posterior, step.reason)

Answers that finish first are shorter than the others, no fair sample. Draws are numbered in the order in which they
are asked for; where answers arrive in another, ``tell(..., number=...)`` names the draw, and decisions see the answers
up to the first that is still out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .answers import FAILURE, FLAT, Answers, TypePrior, vote_posterior
from .decision import Stop
from .errors import Conflict, InvalidInput
from .lookahead import HORIZON, NOTHING, Outlook, Votes, certain, gains, lead, outlook
from .stopping import RULES, Rule, Suffice, finite, positive, probability, rule, vote_outlook, whole

if TYPE_CHECKING:
    from .calibration import Calibrated, Calibration

VOTES = "votes"  # the calibration's way by votes alone
PRICES_FROM = 1e-6  # the price at which a calibration picks, where there is none
TOKENS_PRIOR = 4.0  # how many answers of this prompt weigh as much as the expected number of tokens given
AT_ONCE = 8  # the most answers drawn at once because they are drawn whatever they are


class EnoughReason(StrEnum):
    """Why no more answers are drawn."""

    TARGET = "target reached"
    GAIN = "gain below cost"
    SETTLED = "pick cannot change within the budget"
    UNSOLVABLE = "unsolvable, most likely"
    RULE = "the rule is satisfied"
    BUDGET = "budget spent"
    DEADLINE = "deadline passed"


@dataclass(frozen=True, slots=True)
class Draw:
    """Draw ``count`` more answers, with the numbers from ``first`` on; 0: wait for those that are out.

    ``gain`` is what drawing on is expected to add to P(the pick is right) per answer at best, ``cost`` what an answer
    costs in the same unit, ``confidence`` P(the pick is right) now. None where the rule does not know them.
    """

    count: int
    first: int
    samples: int
    confidence: float
    gain: float | None = None
    cost: float | None = None

    @property
    def numbers(self) -> range:
        """The numbers of the draws."""
        return range(self.first, self.first + self.count)

    def to_json(self) -> dict[str, Any]:
        return {
            "draw": self.count,
            "first": self.first,
            "samples": self.samples,
            "confidence": self.confidence,
            "gain": self.gain,
            "cost": self.cost,
        }


@dataclass(frozen=True, slots=True)
class Enough(Stop):
    """A Stop of a sampling, with the number of ``samples`` it stands on and P(the pick is right)."""

    reason: EnoughReason  # type: ignore[assignment]  # a sampling has reasons of its own
    samples: int = 0
    confidence: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "reason": str(self.reason),
            "message": self.message,
            "gain": self.gain,
            "cost": self.cost,
            "samples": self.samples,
            "confidence": self.confidence,
        }


@dataclass(frozen=True, slots=True)
class Posterior:
    """P(this answer is right) per answer, and P(none seen is right)."""

    answers: dict[Hashable, float]
    none: float


@dataclass(frozen=True, slots=True)
class _Told:
    answer: Hashable | None
    score: float | None
    tokens: float | None


class Sampling:
    """Which rule decides about one prompt, and its answers so far: the one object that changes.

    Args:
        rule: a rule's name (stopping.RULES) or a Rule.
        max_samples: the most answers to draw.
        target: stop when P(the pick is right) is at least this.
        price: what an answer costs, in units of P(the pick is right): 0.01 draws on while an answer adds a point.
        token_price: what a token costs, in the same unit; it adds to ``price``.
        expected_tokens: of an answer, before any is told; the prompt's own are weighed in.
        latency: what waiting for one more round of answers costs, in the same unit; answers are then drawn in rounds.
        batch: the least number of answers to draw at once.
        deadline: seconds from now after which no more are drawn.
        least_gain: for ``suffice``: stop when all that the budget still allows would add less than this.
        prior: probabilities of prompt types, for ``suffice``.
        calibration: for ``suffice``: what votes and scores of this model and verifier are worth (calibration.py).
        scores: False: do not look at scores, because the drift alarm is on (drift.py).
        clock: seconds, from any fixed point.
        settings: the rule's own settings, where ``rule`` is a name.

    Raises InvalidInput for settings that make no sense.
    """

    def __init__(
        self,
        rule: str | Rule = "suffice",
        *,
        max_samples: int = 64,
        target: float | None = None,
        price: float | None = None,
        token_price: float | None = None,
        expected_tokens: float | None = None,
        latency: float = 0.0,
        batch: int = 1,
        deadline: float | None = None,
        least_gain: float = 0.001,
        prior: TypePrior = FLAT,
        calibration: Calibration | None = None,
        scores: bool = True,
        clock: Callable[[], float] = time.monotonic,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        whole("max_samples", max_samples)
        whole("batch", batch)
        for field, value in (("price", price), ("token_price", token_price), ("deadline", deadline)):
            if value is not None:
                positive(field, value)
        if target is not None:
            probability("target", target)
        if expected_tokens is not None:
            positive("expected_tokens", expected_tokens)
        for field, value in (("latency", latency), ("least_gain", least_gain)):
            finite(field, value)
            if value < 0:
                raise InvalidInput(field, "a number of at least 0", value)
        self.rule = _rule(rule, price, prior, settings or {})
        self.max_samples, self.target, self.batch = max_samples, target, batch
        self.price, self.token_price, self.expected_tokens, self.latency = price, token_price, expected_tokens, latency
        self.deadline, self.least_gain, self.prior = deadline, least_gain, prior
        if calibration is not None and not isinstance(self.rule, Suffice):
            raise InvalidInput("calibration", "none, with any rule but suffice", calibration.name)
        self.calibration, self.scores = calibration, scores
        self._clock, self._start = clock, clock()
        self._told: dict[int, _Told] = {}
        self._counting: Answers | None = (
            None  # until another is told: a request asks for the pick and the posterior, too
        )
        self._issued = 0

    # --- ask and tell ---

    def ask(self) -> Draw | Enough:
        """How many more answers to draw, or why that is enough."""
        decision = self._decide(Standing(self, self.answers))
        if isinstance(decision, Draw):
            self._issued += decision.count
        return decision

    def tell(
        self,
        answer: Hashable | None,
        score: float | None = None,
        tokens: float | None = None,
        *,
        number: int | None = None,
    ) -> None:
        """Record an answer; None is a failure: cut off, or unreadable. Equal answers are votes for the same.

        Without ``number`` it is the first draw's that is not told yet. An equal repeat changes nothing; a different one
        raises Conflict.
        """
        for field, value in (("score", score), ("tokens", tokens)):
            if value is not None:
                finite(field, value)
        if score is None and answer is not None and self.scored:
            raise InvalidInput("score", "the verifier's score of the answer: the rule or the calibration uses it", None)
        if score is not None and answer is not None:
            self.rule.check(float(score))
        place = self._gap() if number is None else number
        if isinstance(place, bool) or not isinstance(place, int) or place < 0:
            raise InvalidInput("number", "the number of a draw, from 0", number)
        told = _Told(answer, None if score is None else float(score), None if tokens is None else float(tokens))
        if self._told.setdefault(place, told) != told:
            raise Conflict(f"draw {place} was told before, with another result")
        self._counting = None
        self._issued = max(self._issued, place + 1)

    # --- what is known ---

    @property
    def scored(self) -> bool:
        """Whether every answer that is no failure has to have a score: the rule or the calibration uses it."""
        return self.rule.scored or (self.scores and self.calibration is not None and self.calibration.model is not None)

    @property
    def answers(self) -> Answers:
        """The answers that count; one object until another is told, since what they say is worked out once for each."""
        if self._counting is None:
            told = [self._told[i] for i in range(self._gap())]
            self._counting = Answers.of([t.answer for t in told], [t.score for t in told], [t.tokens for t in told])
        return self._counting

    @property
    def samples(self) -> int:
        """How many answers count: all up to the first that is still out."""
        return self._gap()

    @property
    def tokens(self) -> float:
        """Tokens told so far."""
        return sum(t.tokens for t in self._told.values() if t.tokens is not None)

    @property
    def pick(self) -> Hashable | None:
        """The answer to give; None while there is none."""
        position = self.pick_number
        return None if position is None else self._told[position].answer

    @property
    def pick_number(self) -> int | None:
        """The number of the draw whose answer is picked."""
        position = Standing(self, self.answers).position
        return None if position < 0 else position

    @property
    def posterior(self) -> Posterior:
        """Which answer is right, as far as is known."""
        answers = self.answers
        p, none = Standing(self, answers).probabilities
        names: dict[int, Hashable] = {}
        for i, cluster in enumerate(answers.clusters[0]):
            if cluster != FAILURE:
                names.setdefault(int(cluster), self._told[i].answer)
        return Posterior({name: float(p[cluster]) for cluster, name in names.items()}, none)

    @property
    def cost(self) -> float | None:
        """What one more answer costs, in units of P(the pick is right); None without a price."""
        if self.price is None and self.token_price is None:
            return None
        return (self.price or 0.0) + (self.token_price or 0.0) * self._next_tokens()

    def worth(self) -> tuple[float, float]:
        """What one more answer adds to P(the pick is right) at best, and the tokens that it is expected to take.

        0 where the budget is spent; for ``suffice`` only.
        """
        if not isinstance(self.rule, Suffice):
            raise InvalidInput("rule", "suffice: no other rule knows what an answer is worth", self.rule.name)
        return Standing(self, self.answers).outlook.index, self._next_tokens()

    # --- JSON ---

    def to_json(self) -> dict[str, Any]:
        """Everything but the calibration, of which the name is kept: ``from_json`` goes on from here.

        Answers have to be JSON values themselves.
        """
        return {
            "rule": self.rule.name,
            "settings": {k: v for k, v in self.rule.setting.items() if k != "price" or self.rule.name != "suffice"},
            **{name: getattr(self, name) for name in _OPTIONS},
            "prior": None if self.prior == FLAT else {"theta": self.prior.theta, "alpha": self.prior.alpha},
            "calibration": None if self.calibration is None else self.calibration.name,
            "elapsed": self._clock() - self._start,
            "issued": self._issued,
            "answers": [
                {"number": n, "answer": t.answer, "score": t.score, "tokens": t.tokens}
                for n, t in sorted(self._told.items())
            ],
        }

    @classmethod
    def from_json(
        cls,
        document: Mapping[str, Any],
        calibration: Calibration | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Sampling:
        """The sampling that ``to_json`` wrote, with the calibration of the name that it kept."""
        prior = document["prior"]
        if document["calibration"] != (None if calibration is None else calibration.name):
            raise InvalidInput("calibration", f"the one named {document['calibration']!r}", calibration)
        made = cls(
            document["rule"],
            **{name: document[name] for name in _OPTIONS},
            prior=FLAT if prior is None else TypePrior(tuple(prior["theta"]), tuple(prior["alpha"])),
            calibration=calibration,
            clock=clock,
            settings=document["settings"],
        )
        made._start = clock() - document["elapsed"]
        for told in document["answers"]:
            made.tell(told["answer"], told["score"], told["tokens"], number=told["number"])
        made._issued = max(made._issued, document["issued"])
        return made

    # --- deciding ---

    def _decide(self, standing: Standing) -> Draw | Enough:
        n, confidence = standing.answers.n, standing.confidence
        known = isinstance(self.rule, Suffice)
        ahead = standing.outlook if known else NOTHING
        gain, cost = (ahead.index, standing.cost) if known else (None, standing.cost)

        def stop(reason: EnoughReason, message: str) -> Enough:
            return Enough(reason, message, gain, cost, samples=n, confidence=confidence)

        if n >= self.max_samples:
            return stop(EnoughReason.BUDGET, f"all {self.max_samples} answers are drawn")
        if self.deadline is not None and self._clock() - self._start >= self.deadline:
            return stop(EnoughReason.DEADLINE, f"{self.deadline:g} seconds have passed")
        if n and self.target is not None and confidence >= self.target:
            return stop(EnoughReason.TARGET, f"the pick is right with probability {confidence:.3f}")
        if n and known:
            found = self._vote_stop(standing)
            if found is not None:
                return stop(*found)
        elif n and bool(self.rule.enough(self.rule.evidence(standing.answers, self.max_samples), n)[0]):
            return stop(EnoughReason.RULE, f"{self.rule.name} asks for no more")
        count = max(self._count(standing), self.batch)
        out = self._issued - n
        return Draw(max(min(count, self.max_samples - n) - out, 0), self._issued, n, confidence, gain, cost)

    def _vote_stop(self, standing: Standing) -> tuple[EnoughReason, str] | None:
        votes, ahead, cost = standing.votes, standing.outlook, standing.cost
        left = self.max_samples - standing.answers.n
        if standing.way is None and votes and lead(votes) > left:
            return EnoughReason.SETTLED, f"{left} more answers cannot change the pick"
        if self._pays(standing):
            return None
        _, none = standing.probabilities
        if none > 0.5:
            return EnoughReason.UNSOLVABLE, f"no answer seen is right with probability {none:.3f}, and more hardly help"
        if cost is not None and ahead.index <= cost:
            return EnoughReason.GAIN, f"an answer adds at most {ahead.index:.2g} and costs {cost:.2g}"
        return EnoughReason.GAIN, f"{left} more answers add {ahead.attainable:.2g}"

    def _pays(self, standing: Standing) -> bool:
        ahead = standing.outlook
        if ahead.attainable < self.least_gain or ahead.index <= (standing.cost or 0.0):
            return False
        return not self.latency or not standing.votes or self._round(standing)[1] > 0

    def _round(self, standing: Standing) -> tuple[int, float]:
        """The most worthwhile number of answers to draw in one round, and its gain over its cost."""
        votes, cost = standing.votes, standing.cost or 0.0
        most = min(AT_ONCE, self.max_samples - sum(votes))
        net = [g - (k + 1) * cost - self.latency for k, g in enumerate(gains(votes, most, self.prior))]
        best = int(np.argmax(net))
        return best + 1, net[best]

    def _count(self, standing: Standing) -> int:
        answers, votes = standing.answers, standing.votes
        if not isinstance(self.rule, Suffice):
            return self.rule.soonest(answers.n, self.max_samples) - answers.n
        if self.latency and votes:
            return self._round(standing)[0]
        if self.target is not None or (answers.n and standing.way is not None):
            return 1  # any answer may be the last
        cost, cap = standing.cost or 0.0, self.max_samples

        def stops(v: Votes) -> bool:
            ahead = outlook(v, cap, self.prior)
            return ahead.index <= cost or ahead.attainable < self.least_gain

        failures = int(answers.failed.sum()) if votes else 0
        return certain((*votes, *(1,) * failures), cap, AT_ONCE, stops)

    # --- what was told ---

    def _gap(self) -> int:
        """The number of the first draw that is not told."""
        n = 0
        while n in self._told:
            n += 1
        return n

    def _next_tokens(self) -> float:
        """Tokens that the next answer is expected to take: the prompt's own mean, shrunk to what was expected."""
        seen = [t.tokens for t in self._told.values() if t.tokens is not None]
        if self.expected_tokens is None:
            if not seen:
                return 0.0
            return sum(seen) / len(seen)
        return (sum(seen) + TOKENS_PRIOR * self.expected_tokens) / (len(seen) + TOKENS_PRIOR)


@dataclass(frozen=True, eq=False)
class Standing:
    """What a sampling makes of the answers that count; each thing is worked out at most once."""

    sampling: Sampling
    answers: Answers

    @cached_property
    def votes(self) -> Votes:
        """Votes in falling order."""
        return tuple(int(v) for v in self.answers.ranked[0] if v) if self.answers.n else ()

    @cached_property
    def cost(self) -> float | None:
        return self.sampling.cost

    @cached_property
    def way(self) -> Calibrated | None:
        """How the calibration picks and stops at the present cost; None: by votes alone."""
        calibration = self.sampling.calibration
        if calibration is None:
            return None
        found = calibration.rule(self.cost or PRICES_FROM, scores=self.sampling.scores, prior=self.sampling.prior)
        return None if isinstance(found, Suffice) else cast("Calibrated", found)

    @cached_property
    def outlook(self) -> Outlook:
        """What drawing on is worth."""
        answers, most = self.answers, self.sampling.max_samples
        if answers.n >= most:
            return NOTHING
        if self.way is None or not answers.n:
            return vote_outlook(self.votes, int(answers.failed.sum()), most, self.sampling.prior)
        return self.way.outlook(answers, most)

    @cached_property
    def position(self) -> int:
        """Of the pick; -1 while there is none."""
        rule = self.way or self.sampling.rule
        return -1 if self.answers.n == 0 else int(rule.choose(self.answers)[0])

    @cached_property
    def confidence(self) -> float:
        """P(the pick is right)."""
        if self.position < 0:
            return 0.0
        return float(self.probabilities[0][self.answers.clusters[0, self.position]])

    @cached_property
    def probabilities(self) -> tuple[np.ndarray, float]:
        """P(this cluster is right), and P(none seen is right)."""
        answers, sampling = self.answers, self.sampling
        if answers.n == 0:
            return np.zeros(0), 1.0
        if sampling.calibration is not None:
            way = VOTES if self.way is None else self.way.way
            p, none = sampling.calibration.probabilities(answers, way, sampling.prior)
        else:
            posterior = vote_posterior(max(answers.n, min(sampling.max_samples, HORIZON)), sampling.prior)
            p, none = posterior.probabilities(answers.votes, answers.failed.sum(1))
        return p[0], float(none[0])


def decide(
    answers: Sequence[Hashable | None],
    scores: Sequence[float | None] | None = None,
    tokens: Sequence[float | None] | None = None,
    **options: Any,
) -> Draw | Enough:
    """The decision after these answers, without keeping anything; ``options`` are Sampling's."""
    sampling = Sampling(**options)
    for i, answer in enumerate(answers):
        sampling.tell(answer, None if scores is None else scores[i], None if tokens is None else tokens[i])
    return sampling.ask()


_OPTIONS = (
    "max_samples",
    "target",
    "price",
    "token_price",
    "expected_tokens",
    "latency",
    "batch",
    "deadline",
    "least_gain",
    "scores",
)


def _rule(given: str | Rule, price: float | None, prior: TypePrior, settings: Mapping[str, Any]) -> Rule:
    if isinstance(given, Rule):
        if settings:
            raise InvalidInput("settings", "settings with a rule's name only", dict(settings))
        return given
    if given not in RULES:
        return rule(given)  # which says so
    beside: dict[str, Any] = {"prior": prior} if given == "suffice" else {}
    if given in ("suffice", "beacon", "pandora") and price is not None:
        beside["price"] = price
    for name in beside:
        if name in settings:
            raise InvalidInput(f"settings.{name}", f"{name} beside the settings, not in them", settings[name])
    try:
        return rule(given, **beside, **settings)
    except InvalidInput as error:
        raise error.under("settings") from None
