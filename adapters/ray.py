"""A searcher for Ray Tune: users of Ray keep their trials, schedulers and cluster, and get these suggestions.

`ray_cluster.py` is the other way round: Suffice using a cluster.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ray.tune.search import Searcher
from ray.tune.search.sample import Categorical as TuneCategorical
from ray.tune.search.sample import Domain, LogUniform, Quantized
from ray.tune.search.sample import Float as TuneFloat
from ray.tune.search.sample import Integer as TuneInteger

from suffice.optimizer import (
    Categorical,
    Constant,
    Float,
    Int,
    InvalidInput,
    Measurement,
    Objective,
    Source,
    Space,
    Stop,
    Study,
    Trial,
    TrialState,
)
from suffice.optimizer.parameters import Parameter

DIRECTIONS: dict[str, Literal["minimize", "maximize"]] = {"min": "minimize", "max": "maximize"}


class SufficeSearch(Searcher):
    """Bayesian optimization by Suffice for Ray Tune: ``tune.TuneConfig(search_alg=SufficeSearch(), ...)``.

    ``space`` is a `Space`; without it the search space of the `Tuner` is read, whose domains have to be ranges of
    numbers or choices. ``options`` are those of `suffice.optimizer.Study` (``seed``, ``noise``, ``acquisition``,
    ``budget``, ``cost`` ...). Running trials count as pending. A trial that raised has failed, and is not repeated; a
    result that is not finite is a failure, too. Where the study says stop, no more trials are started.
    """

    def __init__(
        self, space: Space | None = None, metric: str | None = None, mode: str | None = None, **options: Any
    ) -> None:
        if mode not in (None, *DIRECTIONS):
            raise InvalidInput("mode", f"one of {list(DIRECTIONS)}", mode)
        super().__init__(metric=metric, mode=mode)
        self._space = space
        self._options = options
        self._numbers: dict[str, int] = {}  # of the study's trials, by Ray's ids
        self.study: Study | None = None
        self._define()

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: Mapping[str, Any], **spec: Any
    ) -> bool:
        """What the `Tuner` says, where this searcher was not told so itself; whether that was accepted."""
        if config and self._space is not None:
            return False
        self._metric, self._mode = metric or self._metric, mode or self._mode
        if config:
            self._space = space_of(config)
        self._define()
        return True

    def _define(self) -> None:
        if self._space is not None and self._metric and self._mode:
            objective = Objective(self._metric, DIRECTIONS[self._mode])
            self.study = Study(self._space, objective=objective, **self._options)

    def suggest(self, trial_id: str) -> Any:
        """The next configuration; `Searcher.FINISHED` where there is nothing more to try."""
        if self.study is None:
            raise InvalidInput("space", "a Space, or a search space, a metric and a mode from the Tuner", self._space)
        step = self.study.ask()
        if isinstance(step, Stop):
            return str(Searcher.FINISHED)
        self._numbers[trial_id] = step.number
        return dict(step.params)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Tell the trial's last result."""
        number = self._numbers.pop(trial_id, None)
        if number is None or self.study is None:
            return
        value = None if result is None else result.get(str(self._metric))
        if error or value is None or not math.isfinite(value):
            self.study.fail(number, "it raised" if error else f"its {self._metric} is {value}")
        else:
            self.study.tell(number, float(value))

    def add_evaluated_point(
        self,
        parameters: Mapping[str, Any],
        value: float,
        error: bool = False,
        pruned: bool = False,
        intermediate_values: list[float] | None = None,
    ) -> None:
        """A result that was obtained elsewhere."""
        if self.study is None:
            raise InvalidInput("space", "a Space, a metric and a mode, before points are added", self._space)
        if not error and not pruned:
            self.study.add(dict(parameters), value)

    def save(self, checkpoint_path: str) -> None:
        """Everything that is known, as JSON."""
        trials = [] if self.study is None else [_written(trial) for trial in self.study.trials]
        definition = None if self.study is None else self.study.to_json()
        state = {"definition": definition, "trials": trials, "numbers": self._numbers, "metric": self._metric}
        Path(checkpoint_path).write_text(json.dumps({**state, "mode": self._mode}))

    def restore(self, checkpoint_path: str) -> None:
        """Go on where `save` was called: trials that ran then are pending again."""
        state = json.loads(Path(checkpoint_path).read_text())
        self._metric, self._mode, self._numbers = state["metric"], state["mode"], state["numbers"]
        if state["definition"] is not None:
            self.study = Study.from_json(state["definition"])
            self._space = self.study.space
            self.study.load([_read(trial) for trial in state["trials"]])


def space_of(config: Mapping[str, Any]) -> Space:
    """The space of a `Tuner`'s ``param_space``; raises InvalidInput for domains that are no ranges and no choices."""
    parameters: dict[str, Any] = {name: _parameter(name, domain) for name, domain in config.items()}
    return Space(**parameters)


def _parameter(name: str, domain: Any) -> Parameter:
    if not isinstance(domain, Domain):
        if isinstance(domain, str | bool | int | float):
            return Constant(domain)
        raise InvalidInput(name, "tune.uniform, loguniform, randint, choice (or their like), or a constant", domain)
    given: Any = domain
    sampler, step = given.get_sampler(), None
    if isinstance(sampler, Quantized):
        step, sampler = sampler.q, sampler.sampler
    log = isinstance(sampler, LogUniform)
    match domain:
        case TuneFloat() if math.isfinite(domain.lower) and math.isfinite(domain.upper):
            return Float(domain.lower, domain.upper, log=log, step=step)
        case TuneInteger():  # Ray leaves the upper end out, unless there are steps
            high = domain.upper if step else domain.upper - 1
            return Int(domain.lower, high, log=log, step=int(step or 1))
        case TuneCategorical():
            return Categorical(list(domain.categories))
        case _:
            raise InvalidInput(name, "a range with two ends, or choices", repr(domain))


def _written(trial: Trial) -> dict[str, Any]:
    measured = [{"metric": m.metric, "value": m.value, "stderr": m.stderr} for m in trial.measurements]
    about = {"number": trial.number, "params": trial.params, "state": str(trial.state), "reason": trial.reason}
    return {**about, "measurements": measured, "source": trial.source.to_json()}


def _read(written: Mapping[str, Any]) -> Trial:
    measurements = tuple(Measurement(m["metric"], m["value"], m["stderr"]) for m in written["measurements"])
    source, state = Source.from_json(written["source"]), TrialState(written["state"])
    return Trial(written["number"], written["params"], state, measurements, source=source, reason=written["reason"])
