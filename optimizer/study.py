"""The study: ask, tell, best. The only mutable object; its decisions are the pure functions of `suggest.py`."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from jaxtyping import Float64

from .conservative import Conservative
from .context import check_context, check_names, refuse_without_context
from .decision import Advice, Budget, Cost, Stop, counted
from .environment import Environment
from .errors import Conflict, InvalidInput, NotFound
from .fidelity import Fidelity
from .methods import METHODS, AcquisitionChoice
from .model_choice import ModelChoice
from .objective import Goal, Objective
from .pruning import EarlyStopping, Prune, stepped, unroll, whole, without_step
from .ranges import as_float
from .space import Params, Space
from .transfer import DRAWN, Earlier, check_earlier
from .trial import Measurement, Result, Source, Suggestion, Trial, TrialState

if TYPE_CHECKING:
    from .diagnostics import Diagnostics
    from .knowledge import Definition, Knowledge
    from .suggest import AcquisitionValues

_KEYS = (
    "parameters",
    "parameter_constraints",
    "objectives",
    "outcome_constraints",
    "acquisition",
    "noise",
    "cost",
    "model",
    "context",
    "earlier",
    "fidelity",
    "environment",
    "conservative",
    "risk",
    "early_stopping",
    "budget",
    "seed",
)


@dataclass(frozen=True, slots=True)
class Best:
    """The recommended trial, what the model expects there (None without a model), and why it was chosen.

    ``params`` is the trial's configuration; in a context that it did not run in, that configuration moved there; with
    fidelities the same at the target; with an environment the design alone. On a Pareto front ``expected`` has mean and
    standard deviation per objective, and ``probability`` is the chance that no other trial really dominates this one.
    """

    trial: Trial
    mean: float | None
    sd: float | None
    why: str
    moved: Params | None = None
    expected: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    probability: float | None = None

    @property
    def params(self) -> Params:
        return self.trial.params if self.moved is None else self.moved


@dataclass(frozen=True, slots=True)
class Prediction:
    """Posterior mean and standard deviation of the noiseless objective, in its unit, one per configuration."""

    mean: Float64[np.ndarray, " n"]
    sd: Float64[np.ndarray, " n"]


class Study:
    """A search for the best configuration of a space, one trial after another or many at once.

    ``objective`` is "minimize", "maximize", ``{metric: direction}`` or an `Objective`. ``noise`` is "auto" (inferred),
    "none" (measurements are exact) or a known standard deviation. ``cost`` is what a trial costs in the objective's
    unit (a number, or a `Cost` per unit of a metric): the study then stops when no trial is expected to gain its cost.
    ``model`` says how results are modelled (`ModelChoice`). ``context`` names parameters that are given with every ask
    instead of chosen; all contexts are learned from together. ``earlier`` names studies to learn from (`learn_from`).
    ``fidelity`` names parameters that say how exactly a trial measures (`Fidelity`), and ``environment`` ones that
    chance will set (`Environment`), over which ``risk`` is "expectation", ``{"var": level}`` or ``{"cvar": level}``.
    ``conservative`` names a baseline that the study as a whole must not fall behind (`Conservative`). The same seed and
    the same tells give the same asks.

    Raises InvalidInput naming the wrong field.
    """

    def __init__(
        self,
        space: Space,
        objective: str | Objective | Mapping[str, str] | Sequence[Objective] = "minimize",
        *,
        outcome_constraints: Sequence[str] = (),
        budget: Budget | None = None,
        acquisition: str | Mapping[str, Any] = "auto",
        noise: str | float = "auto",
        cost: Cost | float | Mapping[str, Any] | None = None,
        model: ModelChoice | Mapping[str, Any] | None = None,
        context: Sequence[str] = (),
        earlier: Sequence[str] = (),
        fidelity: Fidelity | Mapping[str, Any] | None = None,
        environment: Environment | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        risk: str | Mapping[str, float] | None = None,
        early_stopping: EarlyStopping | Mapping[str, Any] | str | None = None,
        conservative: Conservative | Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> None:
        if not isinstance(space, Space):
            raise InvalidInput("space", "a Space", space)
        self.space = space
        self.fidelity = Fidelity.of(fidelity)
        self.environment = Environment.of(environment, risk)
        self.early_stopping = EarlyStopping.of(early_stopping)
        self.goal = Goal.of(objective, outcome_constraints, cost)
        if self.fidelity is not None:
            self.goal = replace(self.goal, cost_metric=self.fidelity.metric)
        if budget is not None and not isinstance(budget, Budget):
            raise InvalidInput("budget", "a Budget", budget)
        self.budget = budget or Budget()
        self.acquisition = AcquisitionChoice.of(acquisition)
        if self.goal.several:
            self._refuse_with_several()
        if self.acquisition.needs_cost and self.goal.cost is None and self.fidelity is None:
            raise InvalidInput("cost", f"a cost, because {self.acquisition.name} weighs gain against it", None)
        self.noise = _check_noise(noise)
        self.model = ModelChoice.of(model)
        self.context = check_names(space, context)
        self._earlier: dict[str, Earlier | None] = dict.fromkeys(check_earlier(earlier))
        if self.fidelity is not None:
            self.fidelity = self.fidelity.check(space)
            self._refuse_with_target("fidelity")
        elif self.budget.cost is not None:
            raise InvalidInput(
                "budget.cost", "none, since there is no fidelity.cost that it could limit", self.budget.cost
            )
        if self.environment is not None:
            self.environment = self.environment.check(space)
            self._refuse_with_target("environment")
        elif self.acquisition.needs_risk:
            raise InvalidInput("risk", f'"var" or "cvar" over an environment, for {self.acquisition.name}', None)
        self.conservative = Conservative.of(conservative)
        if self.conservative is not None:
            self._refuse_with_conservative()
            self.conservative = self.conservative.check(space)
        if self._steps is not None:
            self._refuse_with_steps()
            stepped(space, self._steps)
        self.seed = _check_seed(seed)
        if self._earlier:
            self._refuse_with_earlier()
        if space.constraints:
            space.sample(1, np.random.default_rng(self.seed))  # refuses a space in which nothing is feasible
        self._trials: dict[int, Trial] = {}
        self._knowledge: Knowledge | None = None

    # --- ask and tell -------------------------------------------------------------------------------------------------

    @overload
    def ask(self, count: None = None, *, context: Mapping[str, Any] | None = None) -> Trial | Stop: ...
    @overload
    def ask(self, count: int, *, context: Mapping[str, Any] | None = None) -> list[Trial] | Stop: ...
    def ask(self, count: int | None = None, *, context: Mapping[str, Any] | None = None) -> Trial | list[Trial] | Stop:
        """The next trial, or with ``count`` up to that many chosen jointly; Stop when nothing more should be tried.

        Queued configurations (`enqueue`) come first. Fewer than ``count`` come when the budget or the space ends.
        ``context`` gives the values of the study's contexts, all of them; only what is queued for them is handed out.
        """
        given = check_context(self.space, self.context, context)
        wanted = 1 if count is None else _check_count(count)
        spending = counted(t for t in self._trials.values() if t.state is not TrialState.WAITING)
        left = self.budget.left(len(spending))
        stop = self.budget.stop(len(spending), 0.0 if self.fidelity is None else self.fidelity.spent(spending))
        if stop is not None:
            return stop
        wanted = wanted if left is None else min(wanted, left)
        waiting = [t for t in self.trials if t.state is TrialState.WAITING]
        queued = [t for t in waiting if all(t.params[name] == value for name, value in given.items())][:wanted]
        trials = [self._put(replace(t, state=TrialState.RUNNING)) for t in queued]
        if len(trials) < wanted:
            answer = self.suggest(wanted - len(trials), context=given)
            if isinstance(answer, Stop):
                if not trials:
                    return answer
            else:
                trials += [self._put(Trial(self._next_number, s.params, source=s.source)) for s in answer]
        return trials if count is not None else trials[0]

    def tell(
        self,
        trial: Trial | int,
        result: Result,
        stderr: float | None = None,
        gradient: Mapping[str, float] | None = None,
    ) -> Trial:
        """Record the result of a trial: a number, {metric: value}, or Measurement(s); returns the completed trial.

        Telling the same again changes nothing; telling something different raises Conflict.
        """
        current = self._get(trial)
        measurements = self.goal.check(result, stderr, gradient)
        self._check_gradients(current.params, measurements)
        self._check_steps(measurements)
        if current.state is TrialState.COMPLETED:
            if current.final == measurements:
                return current
            raise Conflict(f"trial {current.number} is COMPLETED with other values: {current.values}")
        self._must_be_open(current)
        return self._put(replace(current, state=TrialState.COMPLETED, measurements=current.measurements + measurements))

    def report(self, trial: Trial | int, result: Result, step: int | None = None) -> Trial:
        """Record intermediate values of a running trial: Measurements with a step, or a number and ``step``."""
        current = self._get(trial)
        self._must_be_open(current)
        measurements = self.goal.check(result, complete=False)
        if step is not None:
            measurements = tuple(replace(m, step=step) for m in measurements)
        if any(m.step is None for m in measurements):
            raise InvalidInput("step", "a whole number: at which step was this measured?", None)
        self._check_steps(measurements)
        return self._put(replace(current, measurements=current.measurements + measurements))

    def learn_from(self, name: str, study: Study) -> None:
        """Let what ``study`` has measured so far tell about this one; its space may be another, overlapping one.

        ``name`` is added to `earlier` if it is not there. Raises InvalidInput when the two have nothing in common.
        """
        check_earlier([name])
        if study is self:
            raise InvalidInput(f"earlier.{name}", "another study", name)
        self._refuse_with_earlier()
        if any(m.gradient for t in self._trials.values() for m in t.measurements):
            raise InvalidInput(f"earlier.{name}", "no earlier studies, because derivatives were told", name)
        trials = tuple(t for t in study.trials if t.state is TrialState.COMPLETED)
        self._earlier[name] = Earlier(name, self.space, self.goal, study.space, study.goal, study.noise, trials)
        self._knowledge = None

    @property
    def earlier(self) -> tuple[str, ...]:
        """The names of the studies that this one learns from."""
        return tuple(self._earlier)

    def should_prune(self, trial: Trial | int) -> Prune | None:
        """Whether to stop a running trial early, by what it reported: the decision with its numbers, or None.

        Nothing is changed: `prune` stops it. Always None for a study without ``early_stopping``.
        """
        from .pruning import outlook

        current = self._get(trial)
        self._must_be_open(current)
        if self.early_stopping is None:
            return None
        final = outlook(self._learned(), current) if self.early_stopping.policy == "gain" else None
        return self.early_stopping.decide(self.goal.objective, self.trials, current, final)

    def prune(self, trial: Trial | int, reason: str | Prune | None = None) -> Trial:
        """The trial was stopped early; what it reported is kept."""
        return self._end(trial, TrialState.PRUNED, reason.reason if isinstance(reason, Prune) else reason)

    def fail(self, trial: Trial | int, reason: str | None = None) -> Trial:
        """The trial could not be run; nothing is learned from it."""
        return self._end(trial, TrialState.FAILED, reason)

    def infeasible(self, trial: Trial | int, reason: str | None = None) -> Trial:
        """The configuration does not work; the study learns to stay away from its like."""
        return self._end(trial, TrialState.INFEASIBLE, reason)

    def cancel(self, trial: Trial | int, reason: str | None = None) -> Trial:
        """The trial will not be run after all."""
        return self._end(trial, TrialState.CANCELLED, reason)

    def enqueue(self, params: Mapping[str, Any]) -> Trial:
        """Queue a configuration of one's own; the next ask hands it out."""
        checked = self.space.check(params)
        return self._put(Trial(self._next_number, checked, TrialState.WAITING, source=Source("queued")))

    def add(
        self,
        params: Mapping[str, Any],
        result: Result,
        stderr: float | None = None,
        gradient: Mapping[str, float] | None = None,
    ) -> Trial:
        """Record a finished trial from outside; it does not count against the budget."""
        measurements = self.goal.check(result, stderr, gradient)
        checked = self.space.check(params)
        self._check_gradients(checked, measurements)
        self._check_steps(measurements)
        return self._put(Trial(self._next_number, checked, TrialState.COMPLETED, measurements, Source("added")))

    # --- what was learned ---------------------------------------------------------------------------------------------

    @property
    def trials(self) -> list[Trial]:
        """All trials by number."""
        return [self._trials[n] for n in sorted(self._trials)]

    @property
    def best(self) -> Best:
        """The trial to use: with noise the one of the best posterior mean, otherwise the best observed.

        Raises NotFound while no trial is completed, Conflict with several objectives (see `pareto`) or contexts (see
        `best_at`).
        """
        from .recommend import recommend

        refuse_without_context(self.context, "best_at(context)")
        knowledge = self._learned()
        if self._steps is None:
            return recommend(knowledge)
        best = recommend(whole(knowledge))
        return replace(best, trial=self._trials[best.trial.number])

    def best_at(self, context: Mapping[str, Any]) -> Best:
        """The configuration to use in a context: of all visited ones, in any context, that of the best posterior mean.

        ``params`` is the configuration in this context, ``trial`` the one it was visited by. Raises NotFound while
        nothing can be said about this context, Conflict with several objectives (see `pareto_at`).
        """
        from .recommend import recommend_at

        return recommend_at(self._at(context))

    @property
    def pareto(self) -> list[Best]:
        """With several objectives: the completed trials that no other beats in all of them."""
        from .front import pareto

        refuse_without_context(self.context, "pareto_at(context)")
        return pareto(self._learned())

    def pareto_at(self, context: Mapping[str, Any]) -> list[Best]:
        """With several objectives: the visited configurations that no other is expected to beat in all of them here."""
        from .front import pareto_at

        return pareto_at(self._at(context))

    @overload
    def predict(self, params: Mapping[str, Any]) -> Prediction: ...
    @overload
    def predict(self, params: Sequence[Mapping[str, Any]]) -> Prediction: ...
    def predict(self, params: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Prediction:
        """What the model expects of the objective at one configuration or a list; NotFound without a model."""
        many = [params] if isinstance(params, Mapping) else list(params)
        checked = [self.space.check(p, f"configurations.{i}") for i, p in enumerate(many)]
        surrogate = self._learned().surrogate
        if surrogate is None:
            raise NotFound("there is no model yet: too few trials are completed")
        at = {} if self._steps is None else self._definition.space.fixed
        mean, sd = surrogate.objective.predict(self._definition.space.encode([{**p, **at} for p in checked]))
        return Prediction(mean, sd)

    def acquisition_values(
        self, params: Sequence[Mapping[str, Any]], context: Mapping[str, Any] | None = None
    ) -> AcquisitionValues:
        """What the acquisition that chooses the next trial says of configurations; NotFound without a model."""
        from .suggest import acquisition_values

        checked = [self.space.check(p, f"configurations.{i}") for i, p in enumerate(params)]
        at = {} if self._steps is None else self._definition.space.fixed
        found = acquisition_values(self._at(context), [{**p, **at} for p in checked], self._next_number)
        if found is None:
            raise NotFound("there is no model yet: too few trials are completed")
        return found

    @property
    def advice(self) -> Advice:
        """What one more trial is worth beside those that run, in the objective's unit, and whether it pays."""
        from .suggest import advise

        refuse_without_context(self.context, "advice_at(context)")
        advice = advise(self._learned(), self._next_number)
        return advice if advice.params is None else replace(advice, params=without_step(advice.params))

    def advice_at(self, context: Mapping[str, Any]) -> Advice:
        """What one more trial in a context is worth there."""
        from .suggest import advise

        return advise(self._at(context), self._next_number)

    @property
    def diagnostics(self) -> Diagnostics:
        """Whether the model can be trusted, and which parameters matter. Raises NotFound without a model."""
        from .diagnostics import diagnose

        found = diagnose(self._learned())
        if found is None:
            raise NotFound("there is no model yet: too few trials are completed")
        return found

    # --- for whoever keeps the trials elsewhere -----------------------------------------------------------------------

    def suggest(
        self, count: int = 1, *, first_number: int | None = None, context: Mapping[str, Any] | None = None
    ) -> list[Suggestion] | Stop:
        """``count`` configurations worth trying, without making trials of them and regardless of the budget.

        Chosen jointly, conditioned on every trial, the WAITING and RUNNING ones as pending. ``first_number`` is the
        number that the first of them will get; ``context`` as in `ask`.
        """
        from .suggest import suggest

        number = self._next_number if first_number is None else first_number
        found = suggest(self._at(context), _check_count(count), number)
        if isinstance(found, Stop):
            return found
        return [replace(s, params=without_step(s.params)) for s in found]

    def load(self, trials: Iterable[Trial]) -> None:
        """Insert trials, or replace those of the same number; InvalidInput for derivatives that cannot be used here."""
        for trial in trials:
            self._check_gradients(trial.params, trial.measurements)
            self._put(trial)

    def to_json(self) -> dict[str, Any]:
        """The definition (not the trials) as the REST API writes it."""
        return {
            **self.space.to_json(),
            "objectives": [o.to_json() for o in self.goal.objectives],
            "outcome_constraints": [str(c) for c in self.goal.outcome_constraints],
            "acquisition": self.acquisition.to_json(),
            "noise": self.noise,
            "cost": None if self.goal.cost is None else self.goal.cost.to_json(),
            **({} if (model := self.model.to_json()) is None else {"model": model}),
            **({"context": list(self.context)} if self.context else {}),
            **({"earlier": list(self.earlier)} if self.earlier else {}),
            **({} if self.fidelity is None else {"fidelity": self.fidelity.to_json()}),
            **({} if (e := self.environment) is None else {"environment": e.to_json(), "risk": e.risk.to_json()}),
            **({} if self.conservative is None else {"conservative": self.conservative.to_json()}),
            **({} if self.early_stopping is None else {"early_stopping": self.early_stopping.to_json()}),
            "budget": self.budget.to_json(),
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, definition: Mapping[str, Any]) -> Study:
        """The study of a definition as the REST API writes it, without trials."""
        for key in definition:
            if key not in _KEYS:
                raise InvalidInput(key, f"one of {list(_KEYS)}", key)
        given = {key: value for key, value in definition.items() if value is not None}
        goal = Goal.from_json(given.get("objectives", [{}]), given.get("outcome_constraints", ()))
        return cls(
            Space.from_json(given.get("parameters", []), given.get("parameter_constraints", ())),
            goal.objectives,
            outcome_constraints=given.get("outcome_constraints", ()),
            budget=Budget.of(definition.get("budget")),
            acquisition=definition.get("acquisition", "auto"),
            noise=definition.get("noise", "auto"),
            cost=definition.get("cost"),
            model=definition.get("model"),
            context=given.get("context", ()),
            earlier=given.get("earlier", ()),
            fidelity=definition.get("fidelity"),
            early_stopping=definition.get("early_stopping"),
            environment=definition.get("environment"),
            risk=definition.get("risk"),
            conservative=definition.get("conservative"),
            seed=definition.get("seed"),
        )

    def _refuse_with_several(self) -> None:
        """Options that need one objective to compare values with."""
        if self.goal.cost is not None:
            raise InvalidInput("cost", "none, with several objectives: there is no unit to weigh it in", self.goal.cost)
        if self.acquisition.name != "auto":
            raise InvalidInput("acquisition", "auto, with several objectives", self.acquisition.name)

    def _refuse_with_earlier(self) -> None:
        """What cannot be combined with earlier studies."""
        refused = {
            "fidelity": self.fidelity is not None,
            "environment": self.environment is not None,
            "conservative": self.conservative is not None,
            "early_stopping.steps": self._steps is not None,
            "model.warping": self.model.warping,
            "model.outliers": self.model.outliers,
        }
        for setting, given in refused.items():
            if given:
                raise InvalidInput("earlier", f"no earlier studies, with {setting}", list(self.earlier))
        if self.acquisition.name in DRAWN:
            expected = f"with earlier studies none that draws functions or derivatives: {list(DRAWN)}"
            raise InvalidInput("acquisition", expected, self.acquisition.name)

    @property
    def _steps(self) -> int | None:
        """The last step, where reports on the way to it are learned from."""
        return None if self.early_stopping is None else self.early_stopping.steps

    def _refuse_with_steps(self) -> None:
        """What cannot be combined with learning from reports."""
        others = {
            "several objectives": self.goal.several,
            "contexts": self.context,
            "fidelities": self.fidelity,
            "an environment": self.environment,
            "earlier studies": self.earlier,
            "a conservative search": self.conservative,
        }
        for name, given in others.items():
            if given:
                raise InvalidInput("early_stopping.steps", f"none, with {name}", self._steps)

    def _refuse_with_target(self, field: str) -> None:
        """What cannot be combined with values that count elsewhere than at their configurations."""
        if self.goal.several:
            raise InvalidInput(field, "none, with several objectives", field)
        if self.goal.cost is not None:
            raise InvalidInput(field, "none, with a cost in the objective's unit", self.goal.cost.to_json())
        if self.context:
            raise InvalidInput(field, "none, with contexts", list(self.context))
        risky = self.environment is not None and not self.environment.risk.linear
        known = ["auto", *(name for name, m in METHODS.items() if m.knows_target and m.needs_risk == risky)]
        if self.acquisition.name not in known:
            raise InvalidInput("acquisition", f"with {field} one of {known}", self.acquisition.name)
        if field == "environment" and self.fidelity is not None:
            raise InvalidInput(field, "none, with a fidelity", field)
        if field == "environment" and self.goal.outcome_constraints:
            raise InvalidInput(field, "none, with outcome constraints", field)

    def _refuse_with_conservative(self) -> None:
        """What cannot be combined with a baseline that every trial is compared with."""
        settings = {"fidelity": self.fidelity, "environment": self.environment, "context": self.context or None}
        for name, setting in settings.items():
            if setting is not None:
                expected = f"none, with {name}: trials then differ from the baseline in more than what is searched"
                raise InvalidInput("conservative", expected, self.conservative)
        if self.goal.several:
            raise InvalidInput("conservative", "none, with several objectives", self.conservative)
        if self.goal.outcome_constraints:
            expected = "none, with outcome constraints: a step from the baseline to a suggestion may break them"
            raise InvalidInput("conservative", expected, self.conservative)

    # --- inside -------------------------------------------------------------------------------------------------------

    @property
    def _definition(self) -> Definition:
        from .knowledge import Definition

        return Definition(
            self.space if self._steps is None else stepped(self.space, self._steps),
            self.goal,
            self.acquisition,
            self.noise,  # type: ignore[arg-type]
            self.seed,
            model=self.model,
            fidelity=self.fidelity,
            environment=self.environment,
            earlier=tuple(e for e in self._earlier.values() if e is not None),
            conservative=self.conservative,
        )

    def _learned(self) -> Knowledge:
        from .knowledge import learn

        missing = [name for name, found in self._earlier.items() if found is None]
        if missing:
            raise Conflict(f"the earlier studies {missing} are named but not loaded: call learn_from(name, study)")

        trials = self.trials
        if self._steps is not None:
            trials = unroll(trials, self.goal.objective.metric, self._steps)
        self._knowledge = learn(self._definition, trials, self._knowledge)
        return self._knowledge

    def _at(self, context: Mapping[str, Any] | None) -> Knowledge:
        """What is known, for choosing in a context (of a study without contexts: anywhere)."""
        given = check_context(self.space, self.context, context)
        return self._learned().at(given) if given else self._learned()

    @property
    def _next_number(self) -> int:
        return max(self._trials, default=-1) + 1

    def _put(self, trial: Trial) -> Trial:
        self._trials[trial.number] = trial
        return trial

    def _get(self, trial: Trial | int) -> Trial:
        number = trial.number if isinstance(trial, Trial) else trial
        if number not in self._trials:
            raise NotFound(f"there is no trial {number}")
        return self._trials[number]

    def _must_be_open(self, trial: Trial) -> None:
        if not trial.state.open:
            raise Conflict(f"trial {trial.number} is {trial.state}")

    def _end(self, trial: Trial | int, state: TrialState, reason: str | None) -> Trial:
        current = self._get(trial)
        if current.state is state and current.reason == reason:
            return current
        self._must_be_open(current)
        return self._put(replace(current, state=state, reason=reason))

    def _check_gradients(self, params: Params, measurements: Sequence[Measurement]) -> None:
        for i, m in enumerate(measurements):
            if m.gradient and self._earlier:
                expected = "no derivatives, in a study that learns from earlier ones"
                raise InvalidInput(f"measurements.{i}.gradient", expected, dict(m.gradient))
            self.space.check_slopes(params, m.gradient or {}, f"measurements.{i}.gradient")

    def _check_steps(self, measurements: Sequence[Measurement]) -> None:
        for m in measurements:
            if self._steps is not None and m.step is not None and m.step > self._steps:
                raise InvalidInput("step", f"at most {self._steps}, the last of early_stopping.steps", m.step)


def _check_count(count: int) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InvalidInput("count", "a whole number of at least 1", count)
    return count


def _check_noise(noise: str | float) -> str | float:
    if noise in ("auto", "none"):
        return noise
    if not 0 <= as_float(noise) < math.inf:
        raise InvalidInput("noise", '"auto", "none" or a standard deviation of at least 0', noise)
    return float(noise)


def _check_seed(seed: int | None) -> int:
    if seed is None:
        return secrets.randbits(32)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InvalidInput("seed", "a whole number of at least 0", seed)
    return seed
