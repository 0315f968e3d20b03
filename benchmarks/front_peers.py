"""Optimizers on two objectives, where that is more than the same calls: they recommend a front.

Whoever can be told what counts (`Front.reference`) is told.
"""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import numpy as np

from .peers import Ax, BoTorch, Suffice, column, non_dominated
from .problem import Params, Problem


def references(problem: Problem) -> dict[str, float]:
    """What each objective has to be below to count."""
    assert problem.front is not None
    return dict(zip(problem.objectives, problem.front.reference, strict=True))


class SufficeFront(Suffice):
    """The core with two objectives and their reference points."""

    several_known = True

    def _study(self) -> Any:
        from suffice.optimizer import Objective, Study

        return Study(
            self._space(self.problem.dims),
            [Objective(name, "minimize", reference) for name, reference in references(self.problem).items()],
            outcome_constraints=[f"{name} <= 0" for name in self.problem.outcomes],
            noise=self.noise,
            seed=self.seed,
        )

    def front(self) -> list[Params]:
        return [dict(best.params) for best in self.study.pareto]


class AxFront(Ax):
    """Ax's Client with two objectives and their thresholds; the front of the model's predictions if there is noise."""

    several_known = True

    def _objectives(self, limits: list[str]) -> None:
        thresholds = [f"{name} <= {reference}" for name, reference in references(self.problem).items()]
        objective = ", ".join(f"-{name}" for name in self.problem.objectives)
        self.client.configure_optimization(objective=objective, outcome_constraints=[*thresholds, *limits])

    def front(self) -> list[Params]:
        found = self.client.get_pareto_frontier(use_model_predictions=self.problem.noise > 0)
        return [self.problem.active(params) for params, *_ in found]


class BoTorchFront(BoTorch):
    """The loop of BoTorch's tutorial on several objectives: a model of each, qLogNEHVI."""

    several_known = True

    def _acquisition(self, models: list[Any], X: Any) -> Any:
        logei: Any = importlib.import_module("botorch.acquisition.multi_objective.logei")
        objectives: Any = importlib.import_module("botorch.acquisition.multi_objective.objective")
        constraints = [partial(column, i) for i in range(2, len(models))]
        return logei.qLogNoisyExpectedHypervolumeImprovement(
            self.models.ModelListGP(*models),
            [-reference for reference in references(self.problem).values()],
            X,
            objective=objectives.IdentityMCMultiOutputObjective(outcomes=[0, 1]),
            constraints=constraints or None,
            prune_baseline=True,
        )

    def front(self) -> list[Params]:
        Y = np.array(self.Y)
        feasible = np.flatnonzero((Y[:, 2:] <= 0).all(1))
        values = Y[:, :2]
        if self.problem.noise:
            models = self._models()[:2]
            X = self._tensor(self.X)
            values = np.hstack([model.posterior(X).mean.numpy(force=True) for model in models])
        chosen = non_dominated((-values[feasible]).tolist()) if len(feasible) else []
        return [self.seen[feasible[i]] for i in chosen]
