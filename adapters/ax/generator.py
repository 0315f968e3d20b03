"""Ax's own choice of what to try next, to compare with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import numpy as np

from suffice.optimizer import InvalidInput, Source, Stop, StopReason, Study, Suggestion, TrialState
from suffice.optimizer.errors import Problem

from .experiment import CHOICES, STATUSES, near_bounds, quiet
from .to_ax import to_ax

UNKNOWN = ("cost", "model", "context", "fidelity", "environment", "conservative", "earlier")


def unknown_to_ax(definition: Mapping[str, Any]) -> list[Problem]:
    """The settings of a study's definition that Ax's generator would pass over in silence."""
    settings = {name: definition.get(name) for name in UNKNOWN}
    settings["early_stopping.steps"] = (definition.get("early_stopping") or {}).get("steps")
    problems = [
        Problem(n, "none, because Ax's generator does not know it", given) for n, given in settings.items() if given
    ]
    if (acquisition := definition.get("acquisition", "auto")) != "auto":
        problems.append(Problem("acquisition", "auto, because Ax chooses its own", acquisition))
    return problems


@dataclass(frozen=True)
class AxGenerator:
    """Ax's own choice of what to try next, for comparison: the centre, quasi-random points, then its default model.

    ``method`` is Ax's: "fast", "quality" (needs its extra) or "random_search". Every call rebuilds Ax's experiment from
    the study, so the same study and number give the same suggestions in any process.
    """

    method: Literal["fast", "quality", "random_search"] = "fast"

    def suggest(self, study: Study, count: int = 1, *, first_number: int | None = None) -> list[Suggestion] | Stop:
        """``count`` configurations, one after the other, the earlier ones pending; as `Study.suggest`.

        Raises InvalidInput where Ax cannot express the study; Stop when a finite space is exhausted.
        """
        if problems := unknown_to_ax(study.to_json()):
            raise InvalidInput.of(problems)
        number = max((t.number for t in study.trials), default=-1) + 1 if first_number is None else first_number
        seed = int(np.random.default_rng([study.seed, number]).integers(2**31))
        with quiet():
            from ax.api.client import Client
            from ax.exceptions.core import OptimizationComplete

            client = Client(random_seed=seed)
            client.set_experiment(to_ax(study))
            client.configure_generation_strategy(
                self.method,
                initialization_budget=0 if _started(study) else None,
                initialize_with_center=not study.trials,
                initialization_random_seed=seed,
                allow_exceeding_initialization_budget=True,
            )
            suggestions: list[Suggestion] = []
            for _ in range(count):
                try:
                    if _exhausted(study, suggestions):
                        raise OptimizationComplete("every configuration of the space has been tried")
                    (index,) = client.get_next_trials(1)
                except OptimizationComplete as error:
                    return suggestions or Stop(StopReason.EXHAUSTED, str(error), gain=0.0)
                suggestions.append(_suggestion(study, client._experiment.trials[index], len(suggestions)))
            return suggestions


def _started(study: Study) -> bool:
    """Whether the trials are enough for Ax's model, by its own rule; a strategy made anew would not look."""
    tried = [t for t in study.trials if STATUSES[t.state] not in ("FAILED", "ABANDONED")]
    return len(tried) >= 5 and sum(t.state is TrialState.COMPLETED for t in tried) >= 2


def _exhausted(study: Study, suggestions: Sequence[Suggestion]) -> bool:
    """Whether nothing of a small finite space is left; Ax would look for minutes."""
    if study.space.cardinality > CHOICES:
        return False
    tried = [t.params for t in study.trials] + [s.params for s in suggestions]
    return all(params in tried for params in study.space.enumerate())


def _suggestion(study: Study, ax_trial: Any, earlier: int) -> Suggestion:
    (arm,), run = ax_trial.arms, ax_trial.generator_run
    mean = sd = None
    metric = study.goal.objective.metric
    if run.model_predictions is not None and metric in run.model_predictions[0]:
        means, covariances = run.model_predictions
        mean, sd = float(means[metric][0]), math.sqrt(float(covariances[metric][metric][0]))
    source = Source(
        method=f"ax:{run._generation_node_name}",
        why=f"chosen by Ax {version('ax-platform')}",
        observations=sum(t.state is TrialState.COMPLETED for t in study.trials),
        pending=sum(t.state.open for t in study.trials) + earlier,
        mean=mean,
        sd=sd,
    )
    return Suggestion(study.space.check(near_bounds(study.space, arm.parameters)), source)
