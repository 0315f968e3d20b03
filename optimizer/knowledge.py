"""What a study is and what its trials say: the pure input of every decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from .conservative import Conservative
from .environment import Environment
from .fidelity import Fidelity
from .fitting import Prior
from .methods import AcquisitionChoice
from .model_choice import ModelChoice
from .models import FitError
from .objective import Goal
from .pruning import STEP
from .results import Noise, measured
from .search import Exclusion
from .space import Params, Space, TimeSteps
from .surrogate import Surrogate, fit_surrogate
from .target import Target
from .threads import one_blas_thread
from .transfer import Earlier
from .trial import Trial, TrialState

FEWEST = 3  # results from which earlier studies may speak
SPARSE_FROM = 20  # searched parameters, from which few are expected to matter (docs/high_dimensions.md)
EARLY = 0.5  # nats by which they have to make the results more probable to cut the quasi-random start short


@dataclass(frozen=True)
class Definition:
    """What a study is: everything that does not change while it runs."""

    space: Space
    goal: Goal
    acquisition: AcquisitionChoice
    noise: Noise
    seed: int
    model: ModelChoice = field(default_factory=ModelChoice)
    fidelity: Fidelity | None = None
    environment: Environment | None = None
    conservative: Conservative | None = None

    earlier: tuple[Earlier, ...] = ()

    @cached_property
    def target(self) -> Target | None:
        """Where the value of a configuration counts; None: at the configuration itself."""
        where = self.fidelity or self.environment
        return None if where is None else where.at(self.space)

    @property
    def in_unit(self) -> bool:
        """Whether expectations and sums of the measured values themselves are asked for: their scale stays linear."""
        return self.environment is not None or self.conservative is not None

    @property
    def apart(self) -> tuple[bool, ...]:
        """Which columns say how a trial is run, and may have an effect of their own; none: ()."""
        names = {STEP} & self.space.parameters.keys() if self.target is None else self.target.names
        return tuple(self.space.columns(names).tolist()) if names else ()

    @property
    def towards(self) -> tuple[float, ...] | None:
        """A row whose columns ``apart`` are where values count; None without any, or if they count in many places."""
        if not self.apart or self.environment is not None:
            return None
        space = self.space if self.target is None else self.target.space  # in which they are fixed
        return tuple(space.snap(np.full((1, space.dimension), 0.5))[0].tolist())

    @property
    def prior(self) -> Prior:
        """The prior of the models' hyperparameters: as chosen, or by the number of parameters."""
        many = self.searched >= SPARSE_FROM
        return Prior(sparse=many if self.model.prior == "auto" else self.model.prior == "sparse")

    @property
    def searched(self) -> int:
        """How many parameters are searched; of time steps every point counts."""
        counted = [
            p.width if isinstance(p, TimeSteps) else 1 for p in self.space.parameters.values() if p.cardinality > 1
        ]
        return sum(counted)

    @cached_property
    def at_target(self) -> Definition:
        """The same study where all trials run at the target of its fidelities."""
        return self if self.target is None else replace(self, space=self.target.space, fidelity=None)

    @cached_property
    def elsewhere(self) -> bool:
        """Whether trials that are not at the target of fidelities may be worth their cost."""
        return self.fidelity is not None and self.fidelity.worthwhile(self.space)

    @property
    def design_size(self) -> int:
        """How many quasi-random trials come before the first model."""
        fixed = len(self.fidelity.target) if self.fidelity is not None and not self.elsewhere else 0
        return min(4 + (self.searched - fixed) // 2, 16)


@dataclass(frozen=True)
class Knowledge:
    """The trials and the models of what they say (None: too few results, or ``failure`` tells what went wrong)."""

    definition: Definition
    trials: tuple[Trial, ...]
    surrogate: Surrogate | None
    failure: tuple[str, ...] = ()

    @property
    def pending(self) -> list[Params]:
        return [t.params for t in self.trials if t.state.open]

    @property
    def results(self) -> int:
        """How many trials have a value of the objective."""
        return len({t.number for t in measured(self.trials, self.definition.goal.objective.metric)})

    @property
    def needed(self) -> int:
        """Results needed for a model: the whole design, or half of it when the other half is still running."""
        size = self.definition.design_size
        issued = len({t.number for t in self.trials if t.state.open or t.state.informative})
        return max(2, size // 2) if issued >= size else size

    def at(self, context: Params) -> Knowledge:
        """The same knowledge, for choosing where some parameters have given values."""
        return replace(self, definition=replace(self.definition, space=self.definition.space.at(context)))

    def excluded(self, taken: Sequence[Params]) -> Exclusion:
        """What must not be suggested again: all that was tried or is pending; with noise only failures."""
        noisy = self.surrogate is not None and self.surrogate.noisy
        repeatable = {TrialState.COMPLETED} if noisy else set[TrialState]()
        used = [t.params for t in self.trials if t.state.informative and t.state not in repeatable]
        return Exclusion(self.definition.space.encode([*used, *([] if noisy else taken)]))


@one_blas_thread
def learn(definition: Definition, trials: Sequence[Trial], earlier: Knowledge | None = None) -> Knowledge:
    """The models of what the trials say, once enough have a result; ``earlier`` ones where nothing new was told."""
    bare = Knowledge(definition, tuple(trials), None)
    if earlier is not None and earlier.surrogate is not None and _told(trials) == _told(earlier.trials):
        return Knowledge(definition, bare.trials, earlier.surrogate)
    early = bare.results < bare.needed
    if early and (not definition.earlier or bare.results < FEWEST):
        return bare
    try:
        surrogate = fit_surrogate(
            definition.space,
            definition.goal,
            definition.noise,
            trials,
            definition.prior,
            fidelity=definition.fidelity,
            apart=definition.apart,
            target=definition.towards,
            linear=definition.in_unit,
            choice=definition.model,
            earlier=definition.earlier,
        )
    except FitError:
        return Knowledge(
            definition, bare.trials, None, ("wider noise", "hyperparameters from the priors", "quasi-random")
        )
    if early and surrogate.objective.edge < EARLY:
        return bare
    return Knowledge(definition, bare.trials, surrogate)


def _told(trials: Sequence[Trial]) -> list[Trial]:
    return [t for t in trials if t.state.informative]
