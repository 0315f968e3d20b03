"""The shapes of samplings and calibrations in the REST API, shared by the service and the client; pydantic only.

``docs/samplings.md`` explains them; options have the names of `suffice.optimizer.Sampling`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, StrictBool, StrictFloat, StrictInt, StrictStr

from .wire import NO_NUL, Key, Name, StopOut, Wire

MOST_SAMPLES = 256  # of a prompt: the posterior's tables grow with the cube
MOST_WITH_PRIOR = 64  # the same, with priors of their own: each has tables of its own
MOST_PROMPTS = 1000
MOST_PRIORS = 32  # different ones in a sampling
MOST_FEATURES = 4096

PromptId = Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL)]
Answer = (
    Annotated[StrictStr, Field(max_length=100_000)]
    | Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
    | Annotated[StrictFloat, Field(allow_inf_nan=False)]
)
"""What is voted on: equal answers are votes for the same."""

Setting = StrictStr | StrictBool | Annotated[StrictInt, Field(gt=-(2**53), lt=2**53)] | FiniteFloat


Features = Annotated[list[FiniteFloat] | None, Field(min_length=1, max_length=MOST_FEATURES)]
"""What is known of a prompt beforehand; the calibration tells by them what its answers will look like."""

ExpectedOut = dict[str, float] | None
"""What features tell of a prompt's answers: solve_rate, agreement, score, spread, tokens, as far as they tell it."""


class PriorSpec(Wire):
    """Probabilities of prompt types (`suffice.optimizer.answers.TypePrior`)."""

    theta: list[FiniteFloat]
    alpha: list[FiniteFloat]


class SamplingOptions(Wire):
    """How a prompt is decided; see `suffice.optimizer.Sampling`."""

    rule: str = "suffice"
    settings: dict[str, Setting] = Field(default_factory=dict)  # of the rule
    max_samples: int = Field(default=64, ge=1, le=MOST_SAMPLES)
    target: FiniteFloat | None = None
    price: FiniteFloat | None = None
    token_price: FiniteFloat | None = None
    expected_tokens: FiniteFloat | None = None
    latency: FiniteFloat = 0.0
    batch: int = Field(default=1, ge=1, le=MOST_SAMPLES)
    least_gain: FiniteFloat | None = None  # None: 0.001; 0 with a token budget
    calibration: Name | None = None
    calibration_version: int | None = Field(default=None, ge=1, lt=2**31)  # None: the newest
    scores: bool = True  # False: by votes alone
    on_drift: Literal["warn", "votes"] = "votes"  # while the calibration's alarm is on: say so, or go by votes


class PromptSpec(Wire):
    """A prompt is known by an id of the caller's; its text stays with the caller."""

    id: PromptId
    prior: PriorSpec | None = None
    features: Features = None


class TokenBudget(Wire):
    """Tokens of all prompts together; the next answer is drawn where it is worth most per token."""

    tokens: FiniteFloat = Field(gt=0)


class SamplingCreate(SamplingOptions):
    """POST /v1/samplings"""

    prompts: list[PromptId | PromptSpec] = Field(default=["0"], min_length=1, max_length=MOST_PROMPTS)
    budget: TokenBudget | None = None
    deadline: FiniteFloat | None = None  # seconds from creation
    lease_seconds: float = Field(default=600.0, gt=0, le=86400)  # draws not told for so long are handed out again
    metadata: dict[str, Any] = Field(default_factory=dict)
    idempotency_key: Key | None = None


class SamplingAsk(Wire):
    """POST /v1/samplings/{id}/ask"""

    count: int | None = Field(default=None, ge=1, le=MOST_PROMPTS)  # prompts, at most
    idempotency_key: Key | None = None


class DrawOut(Wire):
    """Draw an answer to the prompt for each of ``numbers``.

    ``gain`` is what an answer adds to P(the pick is right) at best, ``cost`` what it costs in the same unit.
    """

    prompt: str
    numbers: list[int]
    samples: int
    confidence: float
    gain: float | None = None
    cost: float | None = None


class EnoughOut(StopOut):
    """Why a prompt has enough answers, on how many that stands, and P(the pick is right)."""

    samples: int
    confidence: float


class SamplingAskOut(Wire):
    """Draws (201); or none (200): ``stop`` says that all is done, otherwise draws are ``out``, in someone's hands."""

    draws: list[DrawOut]
    open: int  # prompts that have not enough
    out: int  # draws of theirs that are not told, these included
    stop: StopOut | None = None


class ToldAnswer(Wire):
    """The answer of a draw; null is a failure, cut off or unreadable."""

    prompt: PromptId | None = None  # may be left out where there is one
    number: int = Field(ge=0, lt=MOST_SAMPLES)
    answer: Answer | None
    score: FiniteFloat | None = None
    tokens: FiniteFloat | None = Field(default=None, ge=0)


class SamplingTell(Wire):
    """POST /v1/samplings/{id}/tell: all or nothing."""

    answers: list[ToldAnswer] = Field(min_length=1, max_length=10_000)


class SamplingTellOut(Wire):
    """How many answers are new, and how many were told before; ``samples`` and ``tokens`` of the whole sampling."""

    recorded: int
    repeated: int
    samples: int
    tokens: float


class AnswerProbability(Wire):
    answer: Answer
    probability: float


class PosteriorOut(Wire):
    """P(this answer is right), the likeliest first, and P(none of them is)."""

    answers: list[AnswerProbability]
    none: float


class PromptOut(Wire):
    """What is known of a prompt. ``decisions`` are those made so far: what to draw after how many answers, and why."""

    prompt: str
    samples: int  # answers that count: all up to the first that is still out
    tokens: float
    confidence: float
    pick: Answer | None = None
    pick_number: int | None = None
    posterior: PosteriorOut
    expected: ExpectedOut = None
    stop: EnoughOut | None = None
    decisions: list[dict[str, Any]] = Field(default_factory=list)


class SamplingInfo(SamplingOptions):
    """A sampling without its prompts."""

    id: str
    prompts: int
    budget: TokenBudget | None = None
    deadline: float | None = None
    lease_seconds: float
    drift: bool | None = None  # with a calibration: whether its alarm was on at the beginning
    metadata: dict[str, Any] = Field(default_factory=dict)
    created_at: datetime
    updated_at: datetime
    samples: int  # answers told
    tokens: float
    stop: StopOut | None = None  # the last ask's


class SamplingOut(SamplingInfo):
    """GET /v1/samplings/{id}"""

    results: list[PromptOut]


class SamplingPage(Wire):
    samplings: list[SamplingInfo]
    next_cursor: str | None = None


class RecordedAnswer(Wire):
    """A draw as it stands; without ``told_at`` it is out, and without ``answer`` it failed."""

    prompt: str
    number: int
    answer: Answer | None = None
    score: float | None = None
    tokens: float | None = None
    told_at: datetime | None = None


class AnswerPage(Wire):
    answers: list[RecordedAnswer]
    next_cursor: str | None = None


class AnswerSoFar(Wire):
    answer: Answer | None  # null: a failure
    score: FiniteFloat | None = None
    tokens: FiniteFloat | None = Field(default=None, ge=0)


class SamplingDecide(SamplingOptions):
    """POST /v1/samplings:decide: the decision after these answers, in the order in which they were asked for."""

    answers: list[AnswerSoFar] = Field(max_length=MOST_SAMPLES)
    prior: PriorSpec | None = None
    features: Features = None


class SamplingDecideOut(Wire):
    """``draw`` so many more, or ``stop``."""

    draw: int | None = None
    stop: EnoughOut | None = None
    samples: int
    confidence: float
    gain: float | None = None
    cost: float | None = None
    pick: Answer | None = None
    pick_number: int | None = None
    posterior: PosteriorOut
    expected: ExpectedOut = None
    drift: bool | None = None  # with a calibration: whether its alarm is on


# --- calibrations -----------------------------------------------------------------------------------------------------


class CalibrationCreate(Wire):
    """POST /v1/calibrations: fitted to a ``pool`` of labelled answers, or ``document``, what an export gave."""

    name: Name
    pool: dict[str, Any] | None = None
    document: dict[str, Any] | None = None
    max_samples: int = Field(default=32, ge=1, le=MOST_SAMPLES)  # this and the following for a pool only
    score: str = Field(default="score", min_length=1, max_length=200)  # the field of a sample that holds its score
    orders: int = Field(default=8, ge=1, le=64)
    seed: int = Field(default=0, ge=0, lt=2**53)


class DriftOut(Wire):
    """Whether scores still mean what they meant: the alarm's cumulative sum over the prompts since."""

    total: float
    alarm: bool


class CalibrationOut(Wire):
    """What a version of a calibration stands on. ``ways`` are how it picks, from high prices to low ones."""

    name: str
    version: int
    prompts: int
    max_samples: int
    scored: bool
    quality: bool
    ways: list[str]
    signal: float | None = None  # nats per prompt by which features predict solve rates; None: it knows none
    forecasts: dict[str, float] | None = None  # the same of what else they tell; what they do not tell is left out
    drift: DriftOut | None = None  # None: scores are not looked at, or cannot be watched
    created_at: datetime


class CalibrationPage(Wire):
    calibrations: list[CalibrationOut]
    next_cursor: str | None = None


class CalibrationExport(Wire):
    """GET /v1/calibrations/{name}/export"""

    name: str
    version: int
    document: dict[str, Any]
