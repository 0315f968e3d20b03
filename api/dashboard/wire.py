"""The shapes of what the pages ask for. Columns instead of objects where there are many of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from suffice.api.wire import Configuration, StopOut, StudyOut, Value, Wire

Direction = Literal["minimize", "maximize"]
Numbers = list[float | None]


# --- studies ----------------------------------------------------------------------------------------------------------


class StudyLine(Wire):
    """A study in the list. ``best`` is the best result of the first objective, ``spark`` how it came to it."""

    name: str
    state: Literal["ACTIVE", "STOPPED"]
    metric: str
    direction: Direction
    objectives: int
    best: float | None = None
    spark: list[float]
    trials: dict[str, int]
    budget: int | None = None
    created_at: datetime
    active_at: datetime


class StudyLines(Wire):
    studies: list[StudyLine]
    next_cursor: str | None = None


class ProgressOut(Wire):
    """Results by trial, thinned to what can be seen, and the best so far where it changed.

    ``feasible``: whether the outcome constraints held, as far as they were measured. With fidelities the best is that
    of the results at the target.
    """

    metric: str
    direction: Direction
    numbers: list[int]
    values: list[float]
    feasible: list[bool]
    best_numbers: list[int]
    best_values: list[float]
    total: int


class RecommendedOut(Wire):
    """The engine's last recommendation; ``current``: it knows every result."""

    number: int
    value: float | None = None
    mean: float | None = None
    sd: float | None = None
    why: str
    current: bool


class RunningOut(Wire):
    number: int
    worker: str | None = None
    started_at: datetime | None = None


class ColumnsOut(Wire):
    """Some trials, as columns of the same length; null where a trial has no value."""

    numbers: list[int]
    columns: dict[str, list[Value | None]]
    total: int


class GainsOut(Wire):
    """What trials were expected to gain and to cost when they were chosen, in the objective's unit."""

    numbers: list[int]
    gains: Numbers
    costs: Numbers


class ConstraintOut(Wire):
    """An outcome constraint and what was measured of it; ``share`` of the results that satisfy it."""

    text: str
    metric: str
    bound: float
    upper: bool
    numbers: list[int]
    values: list[float]
    share: float | None = None


class FidelityOut(Wire):
    """Where values count, and what was measured at which fidelity; ``spent`` is the cost of all trials so far."""

    target: Configuration
    cost: str
    spent: float
    numbers: list[int]
    values: list[float]
    levels: dict[str, list[Value | None]]


class ScheduleOut(Wire):
    """A trial's sequence of time steps, with its result."""

    number: int
    value: float
    steps: list[float]


class SchedulesOut(Wire):
    """The best and the newest sequences of a parameter, the best first, and the schedules in common use."""

    parameter: str
    trials: list[ScheduleOut]
    known: dict[str, list[float]]


class PicturedOut(Wire):
    """A trial that has images, with its result and their names."""

    number: int
    value: float | None = None
    images: list[str]


class HypervolumeOut(Wire):
    """What the front dominates above the reference, after so many trials: in the product of the objectives' units."""

    numbers: list[int]
    values: list[float]
    reference: dict[str, float]


class Overview(Wire):
    """A study at a glance."""

    study: StudyOut
    sequence: int  # of the newest event in it
    used: int  # of the budget of trials
    active_at: datetime
    stop: StopOut | None = None  # what an ask would be answered now, if that is known
    progress: list[ProgressOut]  # by objective
    recommended: RecommendedOut | None = None
    running: list[RunningOut]
    methods: dict[str, int]  # how many trials came from where
    parallel: ColumnsOut
    gains: GainsOut
    constraints: list[ConstraintOut]
    front: ColumnsOut | None = None  # with several objectives: results by metric
    hypervolume: HypervolumeOut | None = None
    fidelity: FidelityOut | None = None
    pictured: list[PicturedOut]  # the best trials that have images, then the newest
    schedules: list[SchedulesOut]  # of parameters that are time steps
    reports: bool  # whether there are values on the way to results


class TrialLine(Wire):
    """A trial in the table."""

    number: int
    state: str
    parameters: Configuration
    values: dict[str, float]
    stderrs: dict[str, float]
    method: str
    worker: str | None = None
    seconds: float | None = None
    gain: float | None = None
    reason: str | None = None
    created_at: datetime
    finished_at: datetime | None = None


class TrialLines(Wire):
    """A page of the table: ``matching`` trials pass the filter, ``total`` are there."""

    trials: list[TrialLine]
    matching: int
    total: int


class Curve(Wire):
    number: int
    state: str
    steps: list[int]
    values: list[float]


class CurvesOut(Wire):
    """What the newest trials reported on the way."""

    metric: str
    curves: list[Curve]


class BandOut(Wire):
    level: float
    lower: Numbers
    upper: Numbers


class SlicePoint(Wire):
    """A result; ``nearness`` is its prior correlation with the slice: 1 lies on it, 0 says nothing about it."""

    number: int
    at: Value
    value: float
    nearness: float


class BeliefOut(Wire):
    """What the model expects of the noiseless metric. ``feasible``: P(all outcome constraints hold).

    ``allowed``: whether the parameter constraints hold there.
    """

    median: Numbers
    sd: Numbers
    bands: list[BandOut]
    feasible: Numbers | None = None
    allowed: list[bool]


class SliceOut(BeliefOut):
    parameter: str
    through: Configuration
    values: list[Value]
    data: list[SlicePoint]


class SlicesOut(Wire):
    """None where no parameter has a slice, or while there is no model (``ready``)."""

    metric: str
    ready: bool
    slices: list[SliceOut]
    data_version: int


class ContourPoint(Wire):
    number: int
    x: Value
    y: Value
    value: float


class ContourOut(BeliefOut):
    """Row after row of ``y``, each for all of ``x``."""

    metric: str
    through: Configuration
    x: list[Value]
    y: list[Value]
    data: list[ContourPoint]
    data_version: int


# --- samplings --------------------------------------------------------------------------------------------------------


class SavedOut(Wire):
    """Tokens of prompts that have enough answers, and what ``max_samples`` answers of the same length would take."""

    prompts: int
    samples: int
    tokens: float
    fixed_samples: int
    fixed_tokens: float
    confidence: float | None = None  # the mean of P(the pick is right)
    reasons: dict[str, int] = Field(default_factory=dict)


class SamplingLine(SavedOut):
    """A sampling in the list; ``open`` prompts have not enough yet."""

    id: str
    rule: str
    max_samples: int
    open: int
    created_at: datetime
    updated_at: datetime


class SamplingLines(Wire):
    """The newest samplings, and all of these together."""

    samplings: list[SamplingLine]
    total: SavedOut
    next_cursor: str | None = None


class PromptLine(Wire):
    """A prompt; ``agreement`` is the largest share of its answers that are equal."""

    prompt: str
    samples: int
    tokens: float
    agreement: float | None = None
    confidence: float | None = None
    reason: str | None = None


class SamplingView(Wire):
    """A sampling, prompt by prompt."""

    line: SamplingLine
    labels: int  # prompts whose right answer the metadata says
    metadata: dict[str, Any]
    prompts: list[PromptLine]


class Labels(Wire):
    """The right answers by prompt; without any, those in the sampling's ``metadata.labels``."""

    labels: dict[str, str | int | float] | None = None


class ReliabilityBin(Wire):
    low: float
    high: float
    prompts: int
    confidence: float
    accuracy: float


class ReliabilityOut(Wire):
    """Whether P(the pick is right) is as often right: by bins of confidence, over the labelled prompts."""

    bins: list[ReliabilityBin]
    prompts: int
    accuracy: float
    confidence: float
    right: dict[str, bool]  # by prompt, in the sampling's order: whether its pick is right
    error: float  # the expected calibration error: mean |accuracy - confidence| over the bins, by prompts


class BelievedAnswer(Wire):
    answer: str
    probability: float


class ReplayStep(Wire):
    """One answer, and what was believed and decided after it; the first step is before any."""

    answer: str | None = None  # null: a failure, or the step before any
    score: float | None = None
    tokens: float | None = None
    posterior: list[BelievedAnswer]
    none: float
    pick: str | None = None
    confidence: float
    draw: int | None = None
    gain: float | None = None
    cost: float | None = None
    stop: StopOut | None = None


class ReplayOut(Wire):
    """A decision, answer by answer. ``drawn`` were there; the rule may have stopped before the last of them."""

    title: str
    rule: str
    max_samples: int
    drawn: int
    steps: list[ReplayStep]


class DecisionLine(Wire):
    """A decision of the gateway."""

    id: str
    model: str
    policy: str
    rule: str | None = None
    samples: int
    confidence: float | None = None
    reason: str
    tokens: int | None = None
    saved: int | None = None


class DecisionLines(Wire):
    decisions: list[DecisionLine]
    gateway: bool  # whether there is one
