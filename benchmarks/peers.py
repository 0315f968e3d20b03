"""The optimizers that are compared, each behind the same four calls: add, ask, tell, best; on one objective.

`front_peers.py` and `fidelity_peers.py` have those for two objectives and for fidelities, `roster.py` the list.

Every one gets the space translated as its own documentation would have it, is told whether the objective is exact where
it has a way to be told, and is otherwise left at its defaults. What a peer cannot express raises `Cannot` (the report
says so); what it can only express in a roundabout way is noted in `Peer.notes`.
"""

from __future__ import annotations

import importlib
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from inspect import signature
from typing import Any

import numpy as np

from .problem import VALUE, Dim, Params, Problem


class Cannot(Exception):
    """The peer cannot express this problem."""


class Peer:
    """One run of one optimizer.

    ``start``: how many configurations `add` will bring before the first `ask`, after which the peer's own method
    begins; 0: it starts as it does by default. ``total``: how many trials there will be in all.
    """

    packages: tuple[str, ...] = ()
    constraints_known = False  # takes any parameter constraint
    linear_known = False  # takes linear ones between plain numbers
    outcomes_known = True  # takes outcome constraints
    several_known = False  # takes two objectives
    fidelity_known = False  # chooses fidelities

    def __init__(self, problem: Problem, seed: int, start: int, total: int) -> None:
        self.problem, self.seed, self.start, self.total = problem, seed, start, total
        self.notes: list[str] = []
        if problem.outcomes and not self.outcomes_known:
            raise Cannot("no outcome constraints")
        if problem.front and not self.several_known:
            raise Cannot("one objective only")
        if problem.fidelity and not self.fidelity_known:
            self.notes.append("fidelity ignored: every evaluation is one of those that count")
        # Parameter constraints it cannot be given: told as outcomes, so that breaking one costs a trial.
        self.soft = [c for c in problem.constraints if not self._takes(c.linear)]
        if self.soft and not self.outcomes_known:
            raise Cannot("neither parameter nor outcome constraints")
        if self.soft:
            self.notes.append("parameter constraint told as an outcome constraint")

    def add(self, params: Params, values: Mapping[str, float]) -> None:
        """Take note of a configuration that was evaluated elsewhere."""
        raise NotImplementedError

    def ask(self) -> Params:
        """The next configuration."""
        raise NotImplementedError

    def tell(self, values: Mapping[str, float]) -> None:
        """The result of the last ask."""
        raise NotImplementedError

    def best(self) -> Params | None:
        """What the peer itself recommends so far; None: it says that nothing is feasible."""
        raise NotImplementedError

    def front(self) -> list[Params]:
        """With two objectives, what it recommends instead: configurations that no other one beats in both."""
        raise NotImplementedError

    def calibration(self) -> dict[str, float] | None:
        """How often results lay inside the intervals that the peer's model predicts from all others, where it says."""
        return None

    def bounded(self, params: Params, values: Mapping[str, float]) -> dict[str, float]:
        """Every metric that has to be at most 0, the stand-ins for parameter constraints included."""
        return {name: values[name] for name in self.problem.outcomes} | {
            f"soft{i}": c.excess(self.problem.active(params)) for i, c in enumerate(self.soft)
        }

    @property
    def bounded_names(self) -> list[str]:
        return [*self.problem.outcomes, *(f"soft{i}" for i in range(len(self.soft)))]

    def versions(self) -> dict[str, str]:
        found = {}
        for package in (*self.packages, "numpy"):
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                found[package] = "?"
        return found

    def _takes(self, linear: Mapping[str, float] | None) -> bool:
        if self.constraints_known or linear is None:
            return self.constraints_known
        plain = all(d.kind == "float" and not d.log for d in self.problem.dims if d.name in linear)
        return self.linear_known and plain


# --- Suffice ----------------------------------------------------------------------------------------------------------


class Suffice(Peer):
    """The core in process, told whether the objective is exact; ``told=False`` leaves it to find out."""

    packages = ("suffice", "scipy")
    constraints_known = True

    def __init__(self, problem: Problem, seed: int, start: int, total: int, told: bool = True) -> None:
        super().__init__(problem, seed, start, total)
        self.noise = "none" if told and not problem.noise else "auto"
        self.study = self._study()
        self.open: Any = None

    def _study(self) -> Any:
        from suffice.optimizer import Study

        return Study(
            self._space(self.problem.dims),
            {VALUE: "minimize"},
            outcome_constraints=[f"{name} <= 0" for name in self.problem.outcomes],
            noise=self.noise,
            seed=self.seed,
        )

    def _space(self, dims: Sequence[Dim]) -> Any:
        from suffice.optimizer import Space

        constraints = [c.text for c in self.problem.constraints]
        return Space({d.name: suffice_parameter(d) for d in dims}, constraints=constraints)

    def add(self, params: Params, values: Mapping[str, float]) -> None:
        self.study.add(params, dict(values))

    def ask(self) -> Params:
        self.open = self.study.ask()
        return dict(self.open.params)

    def tell(self, values: Mapping[str, float]) -> None:
        self.study.tell(self.open, dict(values))

    def best(self) -> Params | None:
        return dict(self.study.best.params)

    def calibration(self) -> dict[str, float] | None:
        from suffice.optimizer.errors import NotFound

        try:
            found = self.study.diagnostics
        except NotFound:
            return None
        inside = {f"{100 * level:g} %": share for level, share in found.coverage.items()}
        return {**inside, "r2": found.r2, "results": len(found.observed)}


def suffice_parameter(d: Dim) -> Any:
    from suffice.optimizer import Categorical, Float, Int

    condition = None
    if d.only_if is not None:
        condition = " or ".join(f"{d.only_if[0]} == '{option}'" for option in d.only_if[1])
    match d.kind:
        case "choice":
            return Categorical(*d.options, active_if=condition)
        case "int":
            return Int(int(d.low), int(d.high), log=d.log, active_if=condition)
        case "float":
            return Float(d.low, d.high, log=d.log, active_if=condition)


# --- without a model --------------------------------------------------------------------------------------------------


class Sobol(Peer):
    """A scrambled Sobol sequence without what is not allowed, going on where the shared start ended."""

    packages = ("scipy",)
    constraints_known = True
    several_known = True

    def __init__(self, problem: Problem, seed: int, start: int, total: int) -> None:
        super().__init__(problem, seed, start, total)
        self.points = sequence(problem, seed)
        for _ in range(start):
            next(self.points)
        self.seen: list[tuple[Params, Mapping[str, float]]] = []

    def add(self, params: Params, values: Mapping[str, float]) -> None:
        self.seen.append((params, values))

    def ask(self) -> Params:
        self.open: Params = next(self.points)
        return self.open

    def tell(self, values: Mapping[str, float]) -> None:
        self.add(self.open, values)

    def best(self) -> Params | None:
        feasible = [(p, v) for p, v in self.seen if self.problem.feasible(v)]
        return min(feasible, key=lambda pv: pv[1][VALUE])[0] if feasible else None

    def front(self) -> list[Params]:
        feasible = [(p, v) for p, v in self.seen if self.problem.feasible(v)]
        return [feasible[i][0] for i in non_dominated([[v[m] for m in self.problem.objectives] for _, v in feasible])]


class Random(Sobol):
    """Independent uniform configurations."""

    def __init__(self, problem: Problem, seed: int, start: int, total: int) -> None:
        super().__init__(problem, seed, start, total)
        rng = np.random.default_rng([seed, 1])
        draws = (problem.from_unit(rng.random(len(problem.dims))) for _ in iter(int, 1))
        self.points = (params for params in draws if problem.allowed(params))


def non_dominated(Y: Sequence[Sequence[float]]) -> list[int]:
    """The rows that no other row beats in every column, smaller being better."""
    rows = np.array(Y)
    at_least = [(rows <= row).all(1) & (rows < row).any(1) for row in rows]
    return [i for i, beaten in enumerate(at_least) if not beaten.any()]


def sequence(problem: Problem, seed: int) -> Iterator[Params]:
    """The allowed configurations of a scrambled Sobol sequence: the shared start is its first few."""
    from scipy.stats import qmc

    name = "rng" if "rng" in signature(qmc.Sobol).parameters else "seed"  # HEBO's SciPy knows it by its old name
    engine = qmc.Sobol(len(problem.dims), scramble=True, **{name: np.random.default_rng([seed, 0])})
    while True:
        for u in engine.random(64):
            params = problem.from_unit(u)
            if problem.allowed(params):
                yield params


# --- Optuna -----------------------------------------------------------------------------------------------------------


class Optuna(Peer):
    """Ask and tell with one of Optuna's samplers; all but TPE get a flat space, where conditions are ignored.

    ``exact``: GPSampler is told that even a noisy objective is deterministic.
    """

    packages = ("optuna", "torch", "scipy")

    def __init__(self, problem: Problem, seed: int, start: int, total: int, sampler: str, exact: bool = False) -> None:
        self.outcomes_known = self.several_known = sampler != "cma"
        super().__init__(problem, seed, start, total)
        self.optuna: Any = importlib.import_module("optuna")
        self.optuna.logging.set_verbosity(self.optuna.logging.ERROR)
        self.flat = sampler != "tpe"
        if self.flat and any(d.only_if for d in problem.dims):
            self.notes.append("condition ignored: the parameter is always there")
        self.distributions = {d.name: self._distribution(d) for d in problem.dims}
        self.sampler = sampler
        self.exact = exact or problem.noise == 0
        self.added: list[tuple[Params, float]] = []
        self.study: Any = None
        if sampler == "cma" and any(d.kind == "choice" for d in problem.dims):
            self.notes.append("categorical parameters drawn at random")

    def _make(self) -> Any:
        """The study; late, because CMA-ES starts from the best configuration that was added."""
        samplers = self.optuna.samplers
        began = {"n_startup_trials": self.start} if self.start else {}
        match self.sampler:
            case "tpe":
                sampler = samplers.TPESampler(seed=self.seed, **began)
            case "gp":
                sampler = samplers.GPSampler(seed=self.seed, deterministic_objective=self.exact, **began)
            case "nsga2":  # its default is a population of 50, as many as there are trials
                sampler = samplers.NSGAIISampler(seed=self.seed, population_size=max(self.start, 10))
            case "cma":
                sampler = samplers.CmaEsSampler(seed=self.seed, x0=self._mean(), warn_independent_sampling=False)
            case _:
                raise ValueError(self.sampler)
        return self.optuna.create_study(sampler=sampler, directions=["minimize"] * len(self.problem.objectives))

    def _mean(self) -> Params | None:
        if not self.added:
            return None
        best, _ = min(self.added, key=lambda pv: pv[1])
        return {d.name: self.problem.filled(best)[d.name] for d in self.problem.dims if d.kind != "choice"}

    def _distribution(self, d: Dim) -> Any:
        distributions = self.optuna.distributions
        match d.kind:
            case "choice":
                return distributions.CategoricalDistribution(d.options)
            case "int":
                return distributions.IntDistribution(int(d.low), int(d.high), log=d.log)
            case "float":
                return distributions.FloatDistribution(d.low, d.high, log=d.log)

    def add(self, params: Params, values: Mapping[str, float]) -> None:
        self.added.append((params, values[VALUE]))
        if self.sampler == "cma":  # it learns only from its own generations
            return
        self.study = self.study or self._make()
        if self.sampler == "nsga2":  # what is merely added belongs to no generation
            self.study.enqueue_trial(params)
            self.ask()
            self.tell(values)
            return
        whole = self.problem.filled(params) if self.flat else params
        bounded = self.bounded(params, values)
        self.study.add_trial(
            self.optuna.trial.create_trial(
                params=whole,
                distributions={name: self.distributions[name] for name in whole},
                values=[values[name] for name in self.problem.objectives],
                constraints=bounded or None,
            )
        )

    def ask(self) -> Params:
        self.study = self.study or self._make()
        self.open = self.study.ask()
        params: Params = {}
        for d in self.problem.dims:
            if self.flat or d.only_if is None or params[d.only_if[0]] in d.only_if[1]:
                params[d.name] = optuna_value(self.open, d)
        self.params = self.problem.active(params)
        return self.params

    def tell(self, values: Mapping[str, float]) -> None:
        for name, value in self.bounded(self.params, values).items():
            self.open.set_constraint(name, value)
        self.study.tell(self.open, [values[name] for name in self.problem.objectives])

    def front(self) -> list[Params]:
        return [self.problem.active(trial.params) for trial in self.study.best_trials]

    def best(self) -> Params | None:
        try:
            trial = self.study.best_trial if self.study is not None else None
        except ValueError:  # nothing feasible
            trial = None
        if self.sampler == "cma" and self.added:
            params, value = min(self.added, key=lambda pv: pv[1])
            if trial is None or value <= trial.value:
                return params
        return None if trial is None else self.problem.active(trial.params)


def optuna_value(trial: Any, d: Dim) -> Any:
    match d.kind:
        case "choice":
            return trial.suggest_categorical(d.name, d.options)
        case "int":
            return trial.suggest_int(d.name, int(d.low), int(d.high), log=d.log)
        case "float":
            return trial.suggest_float(d.name, d.low, d.high, log=d.log)


# --- Ax ---------------------------------------------------------------------------------------------------------------


class Ax(Peer):
    """Ax's Client with its default generation strategy ("fast"). ``sem``: exact values are told with SEM 0."""

    packages = ("ax-platform", "botorch", "gpytorch", "torch", "scipy")
    linear_known = True

    def __init__(self, problem: Problem, seed: int, start: int, total: int, sem: bool = False) -> None:
        super().__init__(problem, seed, start, total)
        api: Any = importlib.import_module("ax.api.client")
        configs: Any = importlib.import_module("ax.api.configs")
        self.sem = 0.0 if sem and not problem.noise else None
        self.client = api.Client(random_seed=seed)
        hard = [c.text for c in problem.constraints if c not in self.soft]
        # Its hierarchical spaces are trees: a parameter under two options of a choice would be reached twice.
        self.flat = any(len(d.only_if[1]) > 1 for d in problem.dims if d.only_if)
        if self.flat:
            self.notes.append("condition ignored: the parameter is always there")
        self.client.configure_experiment([_ax_parameter(configs, problem, d, self.flat) for d in problem.dims], hard)
        limits = [f"{name} <= 0" for name in self.bounded_names]
        self._objectives(limits)
        if start:
            self.client.configure_generation_strategy(
                initialization_budget=start, initialize_with_center=False, initialization_random_seed=seed
            )
        else:
            self.client.configure_generation_strategy(initialization_random_seed=seed)

    def _objectives(self, limits: list[str]) -> None:
        self.client.configure_optimization(objective=f"-{VALUE}", outcome_constraints=limits or None)

    def add(self, params: Params, values: Mapping[str, float]) -> None:
        self.index = self.client.attach_trial(self.problem.filled(params) if self.flat else params)
        self.params = params
        self.tell(values)

    def ask(self) -> Params:
        ((self.index, params),) = self.client.get_next_trials(max_trials=1).items()
        self.params = self.problem.active(params)
        return self.params

    def tell(self, values: Mapping[str, float]) -> None:
        told = {name: values[name] for name in self.problem.objectives} | self.bounded(self.params, values)
        data = told if self.sem is None else {name: (value, self.sem) for name, value in told.items()}
        self.client.complete_trial(self.index, raw_data=data)

    def best(self) -> Params | None:
        params, *_ = self.client.get_best_parameterization()
        return self.problem.active(params)


def _ax_parameter(configs: Any, problem: Problem, d: Dim, flat: bool) -> Any:
    if d.kind == "choice":
        dependents: dict[str, list[str]] = {}
        for other in problem.dims:
            if not flat and other.only_if is not None and other.only_if[0] == d.name:
                for option in other.only_if[1]:
                    dependents.setdefault(option, []).append(other.name)
        return configs.ChoiceParameterConfig(
            d.name, list(d.options), "str", is_ordered=False, dependent_parameters=dependents or None
        )
    scaling = "log" if d.log else "linear"
    return configs.RangeParameterConfig(d.name, (d.low, d.high), d.kind, scaling=scaling)


# --- BoTorch ----------------------------------------------------------------------------------------------------------


class BoTorch(Peer):
    """The loop of BoTorch's tutorials: SingleTaskGP, log EI (qLogNEI with noise or constraints), 512 raw samples, 10
    restarts. Categoricals are one column per option; integers and options are relaxed and rounded.
    """

    packages = ("botorch", "gpytorch", "torch", "scipy")
    linear_known = True

    def __init__(self, problem: Problem, seed: int, start: int, total: int) -> None:
        super().__init__(problem, seed, start, total)
        self.torch: Any = importlib.import_module("torch")
        self.fit: Any = importlib.import_module("botorch.fit")
        self.models: Any = importlib.import_module("botorch.models")
        self.optim: Any = importlib.import_module("botorch.optim")
        self.mlls: Any = importlib.import_module("gpytorch.mlls")
        self.torch.manual_seed(seed)
        if any(d.kind != "float" for d in problem.dims):
            self.notes.append("integers and categoricals relaxed and rounded")
        if any(d.only_if for d in problem.dims):
            self.notes.append("condition ignored: the parameter is always there")
        self.points = sequence(problem, seed)
        self.X: list[list[float]] = []
        self.Y: list[list[float]] = []  # -value, then what has to be at most 0
        self.seen: list[Params] = []

    def add(self, params: Params, values: Mapping[str, float]) -> None:
        self.X.append(self._encode(self.problem.filled(params)))
        self.Y.append([-values[name] for name in self.problem.objectives] + list(self.bounded(params, values).values()))
        self.seen.append(params)

    def ask(self) -> Params:
        if len(self.X) < max(self.start, self.problem.start_size):  # without a shared start, one of its size
            self.open = next(self.points)
        else:
            self.open = self._decode(self._maximise())
        return self.open

    def tell(self, values: Mapping[str, float]) -> None:
        self.add(self.open, values)

    def best(self) -> Params | None:
        Y = np.array(self.Y)
        feasible = (Y[:, 1:] <= 0).all(1)
        if not feasible.any():
            return None
        value = Y[:, 0]
        if self.problem.noise:
            value = self._models()[0].posterior(self._tensor(self.X)).mean.numpy(force=True)[:, 0]
        return self.seen[int(np.argmax(np.where(feasible, value, -math.inf)))]

    def _tensor(self, rows: Any) -> Any:
        return self.torch.tensor(rows, dtype=self.torch.double)

    def _models(self) -> list[Any]:
        models = []
        for column in np.array(self.Y).T:
            model = self.models.SingleTaskGP(self._tensor(self.X), self._tensor(column)[:, None])
            self.fit.fit_gpytorch_mll(self.mlls.ExactMarginalLogLikelihood(model.likelihood, model))
            models.append(model)
        return models

    def _maximise(self) -> list[float]:
        acquisition = self._acquisition(self._models(), self._tensor(self.X))
        width = len(self.X[0])
        bounds = self._tensor([[0.0] * width, [1.0] * width])
        x, _ = self.optim.optimize_acqf(
            acquisition, bounds, q=1, num_restarts=10, raw_samples=512, inequality_constraints=self._inequalities()
        )
        row: list[float] = x[0].tolist()
        return row

    def _acquisition(self, models: list[Any], X: Any) -> Any:
        logei: Any = importlib.import_module("botorch.acquisition.logei")
        if len(models) > 1:
            objectives: Any = importlib.import_module("botorch.acquisition.objective")
            return logei.qLogNoisyExpectedImprovement(
                self.models.ModelListGP(*models),
                X,
                objective=objectives.GenericMCObjective(_first),
                constraints=[partial(column, i) for i in range(1, len(models))],
                prune_baseline=True,
            )
        if self.problem.noise:
            return logei.qLogNoisyExpectedImprovement(models[0], X, prune_baseline=True)
        analytic: Any = importlib.import_module("botorch.acquisition.analytic")
        return analytic.LogExpectedImprovement(models[0], best_f=max(row[0] for row in self.Y))

    def _inequalities(self) -> list[Any] | None:
        """Linear constraints on the unit cube, as sum of coefficient * x >= bound."""
        column, at = 0, {}
        for d in self.problem.dims:
            at[d.name] = column
            column += max(len(d.options), 1)
        found = []
        for c in self.problem.constraints:
            if c not in self.soft and c.linear is not None:
                dims = [d for d in self.problem.dims if d.name in c.linear]
                bound = c.bound - sum(c.linear[d.name] * d.low for d in dims)
                indices = self.torch.tensor([at[d.name] for d in dims])
                found.append((indices, self._tensor([-c.linear[d.name] * (d.high - d.low) for d in dims]), -bound))
        return found or None

    def _encode(self, params: Params) -> list[float]:
        row: list[float] = []
        for d in self.problem.dims:
            if d.kind == "choice":
                row += [float(option == params[d.name]) for option in d.options]
            else:
                row.append(d.to_unit(params[d.name]))
        return row

    def _decode(self, row: Sequence[float]) -> Params:
        params: Params = {}
        column = 0
        for d in self.problem.dims:
            width = max(len(d.options), 1)
            part = row[column : column + width]
            params[d.name] = d.options[int(np.argmax(part))] if d.kind == "choice" else d.from_unit(part[0])
            column += width
        return self.problem.active(params)


def _first(Z: Any, X: Any = None) -> Any:
    return Z[..., 0]


def column(i: int, Z: Any) -> Any:
    return Z[..., i]


# --- SMAC -------------------------------------------------------------------------------------------------------------


class Smac(Peer):
    """SMAC3 by ask and tell: its facade for black boxes (a Gaussian process), or for hyperparameters (a forest)."""

    packages = ("smac", "ConfigSpace", "scipy")
    outcomes_known = False
    budgets: tuple[float, float] | None = None  # the lowest and the highest of a fidelity

    def __init__(self, problem: Problem, seed: int, start: int, total: int, facade: str) -> None:
        super().__init__(problem, seed, start, total)
        smac: Any = importlib.import_module("smac")
        self.runhistory: Any = importlib.import_module("smac.runhistory")
        self.space = self._space()
        self.folder = tempfile.TemporaryDirectory(prefix="bench-")
        exact = problem.noise == 0
        budgets = dict(zip(("min_budget", "max_budget"), self.budgets or (), strict=False))
        scenario = smac.Scenario(
            self.space,
            deterministic=exact,
            n_trials=max(total, 10),
            seed=seed,
            output_directory=self.folder.name,
            **budgets,
        )
        made = getattr(smac, facade)
        calls = {"max_config_calls": 1} if exact and not budgets else {}
        design = {"initial_design": made.get_initial_design(scenario, n_configs=0)} if start else {}
        intensifier = made.get_intensifier(scenario, **calls)
        self.smac = made(scenario, None, intensifier=intensifier, logging_level=False, overwrite=True, **design)

    def _space(self) -> Any:
        cs: Any = importlib.import_module("ConfigSpace")
        space = cs.ConfigurationSpace(seed=self.seed)
        made = {}
        for d in self.problem.dims:
            match d.kind:
                case "choice":
                    made[d.name] = cs.CategoricalHyperparameter(d.name, list(d.options))
                case "int":
                    made[d.name] = cs.UniformIntegerHyperparameter(d.name, int(d.low), int(d.high), log=d.log)
                case "float":
                    made[d.name] = cs.UniformFloatHyperparameter(d.name, d.low, d.high, log=d.log)
        space.add(list(made.values()))
        conditions = [
            cs.InCondition(made[d.name], made[d.only_if[0]], list(d.only_if[1])) for d in self.problem.dims if d.only_if
        ]
        if conditions:
            space.add(conditions)
        return space

    def add(self, params: Params, values: Mapping[str, float]) -> None:
        cs: Any = importlib.import_module("ConfigSpace")
        seed = 0 if not self.problem.noise else self.seed
        info = self.runhistory.TrialInfo(cs.Configuration(self.space, values=params), seed=seed)
        self.smac.tell(info, self.runhistory.TrialValue(cost=values[VALUE], time=0.0))

    def ask(self) -> Params:
        self.open = self.smac.ask()
        return self._params(self.open.config)

    def tell(self, values: Mapping[str, float]) -> None:
        self.smac.tell(self.open, self.runhistory.TrialValue(cost=values[VALUE], time=0.0))

    def best(self) -> Params | None:
        incumbents = self.smac.intensifier.get_incumbents()
        return self._params(incumbents[0]) if incumbents else None

    def _params(self, config: Any) -> Params:
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in dict(config).items()}
        return {d.name: plain[d.name] for d in self.problem.dims if d.name in plain}


# --- HEBO -------------------------------------------------------------------------------------------------------------


class Hebo(Peer):
    """HEBO with its defaults; it runs in an environment of its own, because it pins an old NumPy."""

    packages = ("HEBO", "gpytorch", "torch", "pymoo", "scipy")
    outcomes_known = False

    def __init__(self, problem: Problem, seed: int, start: int, total: int) -> None:
        super().__init__(problem, seed, start, total)
        self.pandas: Any = importlib.import_module("pandas")
        design: Any = importlib.import_module("hebo.design_space.design_space")
        hebo: Any = importlib.import_module("hebo.optimizers.hebo")
        if any(d.only_if for d in problem.dims):
            self.notes.append("condition ignored: the parameter is always there")
        space = design.DesignSpace().parse([_hebo_parameter(d) for d in problem.dims])
        self.hebo = hebo.HEBO(space, rand_sample=start or None, scramble_seed=seed)

    def add(self, params: Params, values: Mapping[str, float]) -> None:
        self.hebo.observe(self.pandas.DataFrame([self.problem.filled(params)]), np.array([[values[VALUE]]]))

    def ask(self) -> Params:
        self.open = self.hebo.suggest(n_suggestions=1)
        return self._params(self.open)

    def tell(self, values: Mapping[str, float]) -> None:
        self.hebo.observe(self.open, np.array([[values[VALUE]]]))

    def best(self) -> Params | None:
        return self._params(self.hebo.best_x)

    def _params(self, frame: Any) -> Params:
        row: dict[str, Any] = frame.iloc[0].to_dict()
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}
        whole = {d.name: int(plain[d.name]) if d.kind == "int" else plain[d.name] for d in self.problem.dims}
        return self.problem.active(whole)


def _hebo_parameter(d: Dim) -> dict[str, Any]:
    if d.kind == "choice":
        return {"name": d.name, "type": "cat", "categories": list(d.options)}
    kind = {("float", False): "num", ("float", True): "pow", ("int", False): "int", ("int", True): "pow_int"}[
        d.kind, d.log
    ]
    return {"name": d.name, "type": kind, "lb": d.low, "ub": d.high}
