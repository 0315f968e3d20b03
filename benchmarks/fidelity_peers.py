"""Optimizers that choose a fidelity with every configuration. All others evaluate at the one that counts."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from .peers import BoTorch, Optuna, Smac, Suffice
from .problem import VALUE, Fidelity, Params, Problem

RUNGS = (1, 3, 9, 27)  # of Hyperband, in units of 1 / 27 of the fidelity that counts


def at_share(fidelity: Fidelity, share: float) -> Params:
    """The fidelity at a share of the one that counts."""
    value = max(share * fidelity.dim.high, fidelity.dim.low)
    return {fidelity.dim.name: round(value) if fidelity.dim.kind == "int" else value}


class SufficeFidelity(Suffice):
    """The core told which fidelity counts and what each costs."""

    fidelity_known = True

    def _study(self) -> Any:
        from suffice.optimizer import Study

        fidelity = self.problem.fidelity
        assert fidelity is not None
        return Study(
            self._space((*self.problem.dims, fidelity.dim)),
            {VALUE: "minimize"},
            noise=self.noise,
            fidelity={"target": self.problem.target, "cost": fidelity.formula},
            seed=self.seed,
        )

    def best(self) -> Params | None:
        return self.problem.active(self.study.best.params)


class BoTorchFidelity(BoTorch):
    """The loop of BoTorch's tutorials on fidelities, one suggestion at a time: qMFKG, with 64 fantasies instead of 128.

    The fidelity is the last column, as a share of the one that counts, in which costs are affine.
    """

    fidelity_known = True

    def __init__(self, problem: Problem, seed: int, start: int, total: int) -> None:
        super().__init__(problem, seed, start, total)
        assert problem.fidelity is not None
        self.fidelity = problem.fidelity
        low = self.fidelity.dim.low / self.fidelity.dim.high
        self.bounds = self._tensor([[0.0] * len(problem.dims) + [low], [1.0] * len(problem.dims) + [1.0]])
        self.shares = self.torch.quasirandom.SobolEngine(1, scramble=True, seed=seed)
        self.acquisition: Any = importlib.import_module("botorch.acquisition")

    def add(self, params: Params, values: Mapping[str, float]) -> None:
        share = params[self.fidelity.dim.name] / self.fidelity.dim.high
        self.X.append([*self._encode(params), share])
        self.Y.append([-values[VALUE]])
        self.seen.append(params)

    def ask(self) -> Params:
        if len(self.X) < self.problem.start_size:
            low = float(self.bounds[0, -1])
            share = low + (1 - low) * float(self.shares.draw(1))
            self.open = {**next(self.points), **at_share(self.fidelity, share)}
        else:
            *row, share = self._maximise()
            self.open = {**self._decode(row), **at_share(self.fidelity, share)}
        return self.open

    def best(self) -> Params | None:
        """Where the posterior mean at the fidelity that counts is best, visited or not, as in the tutorial."""
        if len(self.X) < 2:
            return self.problem.active(self.seen[0]) if self.seen else None
        x, _ = self._best_mean(self._model())
        return self._decode(x[0].tolist())

    def _model(self) -> Any:
        X, Y = self._tensor(self.X), self._tensor(self.Y)
        transforms: Any = importlib.import_module("botorch.models.transforms")
        model = self.models.SingleTaskMultiFidelityGP(
            X, Y, data_fidelities=[X.shape[1] - 1], outcome_transform=transforms.Standardize(m=1)
        )
        self.fit.fit_gpytorch_mll(self.mlls.ExactMarginalLogLikelihood(model.likelihood, model))
        return model

    def _best_mean(self, model: Any) -> tuple[Any, Any]:
        width = len(self.X[0])
        fixed: Any = importlib.import_module("botorch.acquisition.fixed_feature")
        mean = fixed.FixedFeatureAcquisitionFunction(
            self.acquisition.PosteriorMean(model), d=width, columns=[width - 1], values=[1.0]
        )
        options = {"batch_limit": 10, "maxiter": 200}
        x, value = self.optim.optimize_acqf(
            mean, self.bounds[:, :-1], q=1, num_restarts=10, raw_samples=1024, options=options
        )
        return x, value

    def _maximise(self) -> list[float]:
        model = self._model()
        last = len(self.X[0]) - 1
        kg: Any = importlib.import_module("botorch.acquisition.knowledge_gradient")
        costs: Any = importlib.import_module("botorch.models.cost")
        cost_aware: Any = importlib.import_module("botorch.acquisition.cost_aware")
        projection: Any = importlib.import_module("botorch.acquisition.utils")
        initializers: Any = importlib.import_module("botorch.optim.initializers")
        cost = costs.AffineFidelityCostModel(fidelity_weights={last: 1.0}, fixed_cost=self.fidelity.fixed)
        acquisition = kg.qMultiFidelityKnowledgeGradient(
            model=model,
            num_fantasies=64,
            current_value=self._best_mean(model)[1],
            cost_aware_utility=cost_aware.InverseCostWeightedUtility(cost_model=cost),
            project=partial(projection.project_to_target_fidelity, target_fidelities={last: 1.0}, d=last + 1),
        )
        settings = {"q": 1, "num_restarts": 5, "raw_samples": 128}
        starts = initializers.gen_one_shot_kg_initial_conditions(acquisition, self.bounds, **settings)
        options = {"batch_limit": 5, "maxiter": 200}
        x, _ = self.optim.optimize_acqf(
            acquisition, self.bounds, batch_initial_conditions=starts, options=options, **settings
        )
        row: list[float] = x[0].tolist()
        return row


class OptunaHyperband(Optuna):
    """TPE with Hyperband's pruner: a configuration is evaluated at rung after rung until it is pruned."""

    fidelity_known = True

    def __init__(self, problem: Problem, seed: int, start: int, total: int) -> None:
        super().__init__(problem, seed, start, total, sampler="tpe")
        assert problem.fidelity is not None
        self.fidelity = problem.fidelity
        pruner = self.optuna.pruners.HyperbandPruner(min_resource=1, max_resource=RUNGS[-1], reduction_factor=3)
        self.study = self.optuna.create_study(sampler=self.optuna.samplers.TPESampler(seed=seed), pruner=pruner)
        self.rung = 0

    def ask(self) -> Params:
        params = super().ask() if self.rung == 0 else self.params
        return {**params, **at_share(self.fidelity, RUNGS[self.rung] / RUNGS[-1])}

    def tell(self, values: Mapping[str, float]) -> None:
        self.open.report(values[VALUE], RUNGS[self.rung])
        self.rung += 1
        if self.rung == len(RUNGS):
            super().tell(values)
        elif self.open.should_prune():
            self.study.tell(self.open, state=self.optuna.trial.TrialState.PRUNED)
        else:
            return
        self.rung = 0


class SmacHyperband(Smac):
    """SMAC3 by ask and tell with its facade for fidelities: Hyperband, and a forest that proposes configurations."""

    fidelity_known = True
    budgets = RUNGS[0], RUNGS[-1]

    def __init__(self, problem: Problem, seed: int, start: int, total: int) -> None:
        super().__init__(problem, seed, start, 4 * total, facade="MultiFidelityFacade")
        assert problem.fidelity is not None
        self.fidelity = problem.fidelity

    def ask(self) -> Params:
        params = super().ask()
        return {**params, **at_share(self.fidelity, self.open.budget / RUNGS[-1])}
