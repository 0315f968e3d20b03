"""Ax's policies: trials stopped early, and studies stopped for lack of progress. They can be checked without Ax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from suffice.optimizer import InvalidInput, Study, TrialState
from suffice.optimizer.methods import Option

from .experiment import quiet
from .to_ax import to_ax


@dataclass(frozen=True)
class Percentile:
    """Stop a running trial whose latest value is among the worst ``percentile`` % of all trials at that step.

    Trials are looked at from ``min_step`` to ``max_step``, once ``min_curves`` are completed; ``patience``: being that
    bad for so many steps; ``keep_best``: so many of the best are never stopped. ``metric``: by default the objective.
    """

    percentile: float = 50.0
    metric: str | None = None
    min_step: float | None = 10.0
    max_step: float | None = None
    min_curves: int = 5
    patience: float = 0.0
    keep_best: int | None = None

    def __post_init__(self) -> None:
        _check_options(self)


@dataclass(frozen=True)
class Threshold:
    """Stop a running trial whose latest value, from ``min_step`` to ``max_step``, is worse than ``threshold``."""

    threshold: float
    metric: str | None = None
    min_step: float | None = 10.0
    max_step: float | None = None
    min_curves: int = 5

    def __post_init__(self) -> None:
        _check_options(self)


@dataclass(frozen=True)
class Improvement:
    """Stop the study when the last ``window`` trials improved the best by less than ``bar``.

    ``bar`` is a share of the interquartile range of the results, with several objectives of the hypervolume. Nothing
    is stopped before ``min_trials`` are completed or, unless ``while_running``, while others run.
    """

    min_trials: int = 10
    window: int = 5
    bar: float = 0.1
    while_running: bool = False

    def __post_init__(self) -> None:
        _check_options(self)


EarlyStopping = Percentile | Threshold
Policy = EarlyStopping | Improvement
"""Of a trial, or of the whole study."""
_POLICIES: dict[str, type[Policy]] = {"percentile": Percentile, "threshold": Threshold, "improvement": Improvement}
_COUNT, _AMOUNT = Option(0, 0, 1e9, whole=True), Option(0.0, 0.0, 1e300)
_OPTIONS = {
    "percentile": Option(50.0, 0.0, 100.0),
    "threshold": Option(0.0, -1e300, 1e300),
    **dict.fromkeys(("min_curves", "keep_best", "min_trials"), _COUNT),
    "window": Option(5, 1, 1e9, whole=True),
    **dict.fromkeys(("min_step", "max_step", "patience", "bar"), _AMOUNT),
}


def policy(definition: Mapping[str, Any]) -> Policy:
    """The policy of ``{"name": "percentile", "percentile": 25}``; InvalidInput names what is wrong in it."""
    options = dict(definition)
    name = options.pop("name", None)
    kind = _POLICIES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise InvalidInput("policy.name", f"one of {list(_POLICIES)}", name)
    for key, value in options.items():
        if key not in kind.__dataclass_fields__:
            raise InvalidInput(f"policy.{key}", f"an option of {name}: {list(kind.__dataclass_fields__)}", value)
    if kind is Threshold and "threshold" not in options:
        raise InvalidInput("policy.threshold", "a number", None)
    return kind(**options)


def _check_options(policy: Policy) -> None:
    for key, value in asdict(policy).items():
        if value is None and key in ("metric", "min_step", "max_step", "keep_best"):
            continue
        if key in _OPTIONS:
            _OPTIONS[key].check(value, f"policy.{key}")
        elif not isinstance(value, str if key == "metric" else bool):
            raise InvalidInput(f"policy.{key}", "a metric's name" if key == "metric" else "true or false", value)


def stop_early(study: Study, policy: EarlyStopping) -> dict[int, str]:
    """The running trials that the policy would stop now, by number, each with Ax's reason.

    It compares intermediate values (measurements with a step). InvalidInput when the study has several objectives and
    the policy names no metric.
    """
    metric = policy.metric or study.goal.objective.metric
    if policy.metric is None and study.goal.several:
        raise InvalidInput("policy.metric", f"one of {list(study.goal.metrics)}", None)
    if metric not in study.goal.metrics:
        raise InvalidInput("policy.metric", f"one of {list(study.goal.metrics)}", metric)
    with quiet():
        from ax.early_stopping.strategies import PercentileEarlyStoppingStrategy, ThresholdEarlyStoppingStrategy
        from ax.exceptions.core import UserInputError

        limits: dict[str, Any] = {
            "metric_signatures": [metric],
            "min_progression": policy.min_step,
            "max_progression": policy.max_step,
            "min_curves": policy.min_curves,
        }
        try:
            if isinstance(policy, Percentile):
                strategy: Any = PercentileEarlyStoppingStrategy(
                    percentile_threshold=policy.percentile,
                    n_best_trials_to_complete=policy.keep_best,
                    patience=policy.patience,
                    **limits,
                )
            else:
                strategy = ThresholdEarlyStoppingStrategy(metric_threshold=policy.threshold, **limits)
        except UserInputError as error:
            raise InvalidInput("policy", f"options that fit together ({error})", policy) from None
        numbers = [t.number for t in study.trials]
        running = {i for i, t in enumerate(study.trials) if t.state is TrialState.RUNNING}
        found = strategy.should_stop_trials_early(running, to_ax(study, relaxed=True)) if running else {}
        return {numbers[i]: str(reason) for i, reason in sorted(found.items())}


def stop_study(study: Study, policy: Improvement) -> str | None:
    """Why the policy would stop the whole study now, in Ax's words; None: go on."""
    with quiet():
        from ax.global_stopping.strategies.improvement import ImprovementGlobalStoppingStrategy

        strategy = ImprovementGlobalStoppingStrategy(
            policy.min_trials, policy.window, policy.bar, inactive_when_pending_trials=not policy.while_running
        )
        if not any(t.state is TrialState.COMPLETED for t in study.trials):
            return None
        stop, why = strategy.should_stop_optimization(to_ax(study, relaxed=True))
        return why if stop else None
