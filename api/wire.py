"""The shapes of the REST API, shared by the service and the client; pydantic only.

``docs/service.md`` explains them; names and defaults follow the design's words: study, trial, ask, tell,
parameter, metric.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # what databases hold
Value = str | bool | Whole | float  # a parameter's value; JSON keeps the types apart
ParameterValue = Value | list[Whole | float]  # what a parameter is set to: a value, or a sequence of time steps
Configuration = dict[str, ParameterValue]
MOST_CHOICES, MOST_CONSTRAINTS, MOST_MEASUREMENTS = 10_000, 1_000, 10_000  # in a request; the core knows more limits
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}$")]
NO_NUL = r"^[^\x00]*$"  # PostgreSQL has no texts with one in it
Reason = Annotated[str, Field(max_length=2000, pattern=NO_NUL)]
Worker = Annotated[str, Field(max_length=200, pattern=NO_NUL)]
Key = Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL)]  # of a request that may be repeated


class Wire(BaseModel):
    """Unknown fields are refused, NaN and infinity too."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ParameterSpec(Wire):
    """One parameter; `suffice.optimizer.Space.from_json` checks which fields its type needs."""

    name: str
    type: Literal["float", "int", "categorical", "ordinal", "bool", "constant", "time_steps"]
    low: float | Whole | None = None
    high: float | Whole | None = None
    log: bool | None = None
    step: float | Whole | None = None
    k: int | None = None  # of time steps: how many
    integer: bool | None = None
    gap: float | Whole | None = None
    points: int | None = None
    choices: list[Value] | None = Field(default=None, max_length=MOST_CHOICES)
    value: Value | None = None
    active_if: str | None = None


class ObjectiveSpec(Wire):
    metric: str = "objective"
    direction: Literal["minimize", "maximize"] = "minimize"
    reference_point: FiniteFloat | None = None  # with several objectives: where it becomes worth having; None: inferred


class CostSpec(Wire):
    """What a trial costs in the objective's unit: ``price``, or ``price`` per unit of the measured ``metric``."""

    price: FiniteFloat = Field(gt=0)
    metric: str | None = None


class BudgetSpec(Wire):
    trials: int | None = Field(default=None, ge=1, lt=2**31)
    cost: FiniteFloat | None = Field(default=None, gt=0)  # of all trials together, in the unit of a fidelity's cost


class ModelSpec(Wire):
    """How results are modelled (see suffice.optimizer.model_choice)."""

    warping: bool = False
    outliers: bool = False
    prior: str = "auto"  # or "sparse"


class FidelitySpec(Wire):
    """Where fidelity parameters count, and what a trial costs: a formula over parameters, or a metric."""

    target: Configuration
    cost: str | None = None
    metric: str | None = None


class ConservativeSpec(Wire):
    """The configuration in use, and how far the study may fall behind it, in the objective's unit."""

    baseline: Configuration
    margin: FiniteFloat
    probability: FiniteFloat = 0.95


class EarlyStoppingSpec(Wire):
    """When to stop a trial by what it reports (see suffice.optimizer.pruning); options depend on the policy."""

    policy: Literal["median", "percentile", "threshold", "gain"]
    steps: int | None = Field(default=None, lt=2**31)  # the last one, at which final values count
    percentile: FiniteFloat | None = None
    bound: FiniteFloat | None = None
    probability: FiniteFloat | None = None
    price: FiniteFloat | None = None  # of a step, in the objective's unit
    warmup_steps: int | None = Field(default=None, lt=2**53)
    warmup_trials: int | None = Field(default=None, lt=2**31)


class GlobalStoppingSpec(Wire):
    """Stop when the last ``window`` trials improved the best by less than ``bar`` interquartile ranges of all results.

    Ax's policy (see suffice.adapters.ax.Improvement). Nothing is stopped before ``min_trials`` are completed, or while
    trials run, unless ``while_running``.
    """

    name: Literal["improvement"] = "improvement"
    min_trials: int = 10
    window: int = 5
    bar: FiniteFloat = 0.1
    while_running: bool = False


Distribution = (
    Literal["uniform"] | dict[str, list[Value]]
)  # or {"normal": [mean, sd]}, {"weights": [...]}, {"samples": [...]}


class StudyCreate(Wire):
    """POST /v1/studies"""

    name: Name
    parameters: list[ParameterSpec]
    objectives: list[ObjectiveSpec] = Field(default_factory=lambda: [ObjectiveSpec()], min_length=1, max_length=100)
    parameter_constraints: list[str] = Field(default=[], max_length=MOST_CONSTRAINTS)
    outcome_constraints: list[str] = Field(default=[], max_length=MOST_CONSTRAINTS)
    acquisition: str | dict[str, str | FiniteFloat] = "auto"  # a name, or {"name": ..., option: value}
    noise: Literal["auto", "none"] | FiniteFloat = "auto"  # a number: the known standard deviation of the noise
    cost: CostSpec | None = None  # with one, asks answer Stop when no trial is expected to gain its cost
    model: ModelSpec | None = None
    context: list[str] = []  # parameters that are given with every ask instead of chosen
    fidelity: FidelitySpec | None = None
    environment: dict[str, Distribution] | list[Configuration] | None = None  # of what chance will set; or scenarios
    risk: Literal["expectation"] | dict[str, FiniteFloat] | None = (
        None  # over the environment; {"var" or "cvar": level}
    )
    conservative: ConservativeSpec | None = None
    earlier: list[Name] = Field(default=[], max_length=100)  # studies of this service to learn from
    early_stopping: EarlyStoppingSpec | None = None
    engine: Literal["suffice", "ax"] = "suffice"  # who chooses what to try
    global_stopping: GlobalStoppingSpec | None = None
    budget: BudgetSpec = Field(default_factory=BudgetSpec)
    seed: int | None = Field(default=None, ge=0, lt=2**53)  # None: the service draws one and reports it
    lease_seconds: float = Field(default=60.0, gt=0, le=86400)  # a worker that is silent for longer loses its trial
    max_retries: int = Field(default=3, ge=0, le=100)  # how often a lost or failed trial goes back to the queue
    metadata: dict[str, Any] = {}


class StudyPatch(Wire):
    """PATCH /v1/studies/{name}: only what is given changes."""

    state: Literal["ACTIVE", "STOPPED"] | None = None  # STOPPED: asks answer Stop, tells are still taken
    budget: BudgetSpec | None = None
    lease_seconds: float | None = Field(default=None, gt=0, le=86400)
    max_retries: int | None = Field(default=None, ge=0, le=100)
    metadata: dict[str, Any] | None = None


class StudyOut(StudyCreate):
    """A study as the service returns it."""

    seed: int  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]  # always known by now
    state: Literal["ACTIVE", "STOPPED"]
    created_at: datetime
    updated_at: datetime
    trials: dict[str, int]  # trial state -> how many
    data_version: int  # rises with everything that changes what the model knows


class StudyPage(Wire):
    studies: list[StudyOut]
    next_cursor: str | None = None


class MeasurementSpec(Wire):
    metric: str
    value: FiniteFloat
    stderr: FiniteFloat | None = Field(default=None, ge=0)
    step: int | None = Field(default=None, ge=0, lt=2**53)
    gradient: dict[str, FiniteFloat] | None = None


class Lease(Wire):
    token: str
    expires_at: datetime


class SourceOut(Wire):
    """Where a configuration came from (see suffice.optimizer.Source) and which data it stands on."""

    method: str
    why: str = ""
    observations: int = 0
    pending: int = 0
    fallbacks: list[str] = []
    mean: float | None = None
    sd: float | None = None
    gain: float | None = None
    cost: float | None = None
    data_version: int | None = None  # the study's data_version when it was computed


class PruneOut(Wire):
    """The decision to stop a trial early, and the numbers behind it, in the objective's unit.

    ``value`` was reported last, at ``step``; ``bound`` is what it had to reach. With the policy ``gain``: ``mean`` and
    ``sd`` of the final value, the ``chance`` that it beats the best, the expected ``gain``, the ``cost`` of going on.
    """

    policy: str
    step: int
    value: float
    reason: str
    bound: float | None = None
    mean: float | None = None
    sd: float | None = None
    chance: float | None = None
    gain: float | None = None
    cost: float | None = None


State = Literal["WAITING", "RUNNING", "COMPLETED", "FAILED", "INFEASIBLE", "PRUNED", "EXPIRED", "CANCELLED"]


class TrialOut(Wire):
    number: int
    state: State
    parameters: Configuration
    measurements: list[MeasurementSpec] = []
    source: SourceOut
    reason: Reason | None = None
    worker: Worker | None = None
    attempts: int = 0  # how often it was handed out
    lease: Lease | None = None  # only in the answer to the ask or heartbeat that holds it
    prune: PruneOut | None = None  # only in the answer to a report: it should be stopped early
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def params(self) -> dict[str, Any]:
        """The configuration, as the core's `Trial` calls it."""
        return dict(self.parameters)

    @property
    def values(self) -> dict[str, float]:
        """The result per metric; replicates are averaged, intermediate values left out."""
        replicates: dict[str, list[float]] = {}
        for m in self.measurements:
            if m.step is None:
                replicates.setdefault(m.metric, []).append(m.value)
        return {metric: sum(v) / len(v) for metric, v in replicates.items()}


class StopOut(Wire):
    reason: str
    message: str = ""
    gain: float | None = None
    cost: float | None = None


class Ask(Wire):
    """POST /v1/studies/{name}/ask"""

    count: int = Field(default=1, ge=1, le=1000)
    context: Configuration | None = None  # the values of the study's contexts, all of them
    worker: Worker | None = None
    fresh: bool = False  # wait for suggestions that know everything told so far
    max_wait_s: float = Field(default=30.0, gt=0, le=600)  # 503 with Retry-After when nothing is ready by then
    idempotency_key: Key | None = None


class AskOut(Wire):
    """Either trials (201) or stop (200)."""

    trials: list[TrialOut] | None = None
    stop: StopOut | None = None


class Tell(Wire):
    """POST .../trials/{n}/tell: the result (measurements), or state INFEASIBLE with a reason.

    ``lease_token`` may be left out only for trials that are not leased (queued own points told by hand).
    """

    lease_token: str | None = None
    measurements: list[MeasurementSpec] = Field(default=[], max_length=MOST_MEASUREMENTS)
    state: Literal["COMPLETED", "INFEASIBLE", "PRUNED"] = "COMPLETED"
    reason: Reason | None = None


class Report(Wire):
    """POST .../trials/{n}/report: intermediate measurements, each with a step; renews the lease."""

    lease_token: str | None = None
    measurements: list[MeasurementSpec] = Field(min_length=1, max_length=MOST_MEASUREMENTS)


class ShouldPruneOut(Wire):
    """GET .../trials/{n}/should_prune: the decision to stop it, left out where it should go on."""

    prune: PruneOut | None = None


class Heartbeat(Wire):
    lease_token: str


class Fail(Wire):
    """POST .../trials/{n}/fail: the worker could not run it; it goes back to the queue while retries are left."""

    lease_token: str | None = None
    reason: Reason | None = None
    retry: bool = True


class Cancel(Wire):
    reason: Reason | None = None


class TrialAdd(Wire):
    """A point of one's own: WAITING (the next ask hands it out), or finished history with its measurements."""

    parameters: Configuration
    state: Literal["WAITING", "COMPLETED", "INFEASIBLE", "PRUNED", "FAILED"] | None = None  # None: by measurements
    measurements: list[MeasurementSpec] = Field(default=[], max_length=MOST_MEASUREMENTS)
    reason: Reason | None = None


class TrialsAdd(Wire):
    """POST .../trials: all or nothing."""

    trials: list[TrialAdd] = Field(min_length=1, max_length=10_000)
    idempotency_key: Key | None = None


class TrialPage(Wire):
    trials: list[TrialOut]
    next_cursor: str | None = None


class Within(Wire):
    """POST .../best, .../pareto and .../advice: the same as GET, in a context of a study that has contexts."""

    context: Configuration
    max_wait_s: float = Field(default=30.0, gt=0, le=600)


class Expected(Wire):
    """What the model expects of a metric, in its own unit."""

    mean: float
    sd: float


class BestOut(Wire):
    """The recommended trial. ``mean`` and ``sd`` are the posterior's at ``parameters``, in the objective's unit.

    ``parameters`` is the trial's configuration; in a context that it did not run in, that configuration moved there;
    with fidelities the same at the target; with an environment the design alone.
    """

    trial: TrialOut
    parameters: Configuration
    mean: float | None = None
    sd: float | None = None
    why: str
    expected: dict[str, Expected] = {}  # on a Pareto front: per objective
    probability: float | None = None  # on a Pareto front: the chance that no other trial really dominates this one

    @property
    def params(self) -> dict[str, Any]:
        """The configuration to use, as the core's `Best` calls it."""
        return dict(self.parameters)


class ParetoOut(Wire):
    """GET .../pareto: the trials that no other beats in every objective, best in the first objective first."""

    trials: list[BestOut]
    data_version: int


class AdviceOut(Wire):
    """GET .../advice: what one more trial is worth beside those that run, in the objective's unit.

    ``pays`` is left out without a cost, the numbers while there is no model.
    """

    pays: bool | None = None
    gain: float | None = None
    cost: float | None = None
    parameters: Configuration | None = None
    why: str
    data_version: int


class CoverageOut(Wire):
    """How often the truth lies in the model's central interval of a probability; as often as that, ideally."""

    level: float
    share: float


class ImportanceOut(Wire):
    """The share of the objective's variance over the space that a parameter explains alone, and with interactions."""

    parameter: str
    alone: float
    total: float


class PredictedOut(Wire):
    """A result, and what the model expects of it when it knows all others; in the objective's unit."""

    observed: float
    mean: float
    sd: float  # noise included


class DiagnosticsOut(Wire):
    """GET .../diagnostics: whether the model can be trusted, and what matters."""

    r2: float  # the share of variance that leave-one-out predictions explain; 0 or less: nothing
    coverage: list[CoverageOut]
    importance: list[ImportanceOut]
    leave_one_out: list[PredictedOut]
    earlier: dict[str, float] = {}  # by earlier study: the share of the results' variation that it explains
    data_version: int


class CardOut(Wire):
    """One of Ax's analyses: a Plotly figure, and the table behind it; without a figure, the subtitle says why not."""

    name: str
    title: str
    subtitle: str
    plotly: dict[str, Any] | None = None
    table: list[dict[str, Any]]


class AnalysesOut(Wire):
    """GET .../analyses"""

    cards: list[CardOut]
    data_version: int  # of the study when they were computed: what was told since is not in them


class Predict(Wire):
    """POST .../predict"""

    configurations: list[Configuration] = Field(min_length=1, max_length=10_000)
    max_wait_s: float = Field(default=30.0, gt=0, le=600)


class Prediction(Wire):
    mean: float
    sd: float  # of the noiseless objective


class PredictOut(Wire):
    metric: str
    predictions: list[Prediction]
    observations: int
    data_version: int


class StudyExport(Wire):
    """GET .../export and POST /v1/studies:import: everything, as one document."""

    format: Literal["suffice/study/1"] = "suffice/study/1"
    study: StudyOut
    trials: list[TrialOut]


class FieldProblem(Wire):
    field: str
    expected: str
    got: Any = None


class ProblemOut(BaseModel):
    """application/problem+json (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] = []


class Health(Wire):
    """GET /healthz and /readyz"""

    status: Literal["ok", "starting", "stopping"]
    version: str
    workers: int  # engine workers that are ready for jobs
    workers_wanted: int


class Event(Wire):
    """GET .../events: server-sent events; ``id`` resumes after a lost connection (Last-Event-ID)."""

    id: int
    event: Literal["study", "trial", "suggestions"]
    data: dict[str, Any]
