"""Ax's analyses of a study: sensitivity, cross-validation, contours, as cards with a figure and a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from suffice.optimizer import Float, Int, InvalidInput, NotFound, Objective, Study, TrialState

from .experiment import quiet
from .to_ax import to_ax

Analysis = Literal["sensitivity", "cross_validation", "contour"]
"""The name of one of Ax's analyses."""
ANALYSES: tuple[Analysis, ...] = ("sensitivity", "cross_validation", "contour")
"""All of them."""


@dataclass(frozen=True)
class Card:
    """The result of one of Ax's analyses: a Plotly figure, and the table behind it; without a figure, why not."""

    name: str
    title: str
    subtitle: str
    plotly: dict[str, Any] | None
    table: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def analyse(study: Study, analyses: Sequence[Analysis] = ANALYSES, metric: str | None = None) -> list[Card]:
    """Ax's analyses of Ax's model of what was measured: of ``metric``, by default of every metric of the study.

    Contours are those of the two numbers that matter most to the metric. Takes seconds to minutes. Raises NotFound
    with fewer than three completed trials, InvalidInput for an unknown analysis or metric.
    """
    for i, analysis in enumerate(analyses):
        if analysis not in ANALYSES:
            raise InvalidInput(f"analyses.{i}", f"one of {list(ANALYSES)}", analysis)
    if metric is not None and metric not in study.goal.metrics:
        raise InvalidInput("metric", f"one of {list(study.goal.metrics)}", metric)
    if sum(t.state is TrialState.COMPLETED for t in study.trials) < 3:
        raise NotFound("there is nothing to analyse yet: fewer than three trials are completed")
    with quiet(study.seed):
        studies = [_alone(study, m) for m in ((metric,) if metric is not None else study.goal.metrics)]
        return [card for s in studies if s.trials for card in _cards(s, analyses)]


def _alone(study: Study, metric: str) -> Study:
    """A study of one metric's results: Ax cross-validates metrics together only if they were measured together."""
    objective = next((o for o in study.goal.objectives if o.metric == metric), Objective(metric))
    alone = Study(study.space, objective, noise=study.noise, seed=study.seed)
    measured = [t for t in study.trials if t.state is TrialState.COMPLETED and metric in t.values]
    alone.load(replace(t, measurements=tuple(m for m in t.final if m.metric == metric)) for t in measured)
    return alone


def _cards(study: Study, analyses: Sequence[Analysis]) -> list[Card]:
    from ax.adapter.registry import Generators
    from ax.analysis.plotly.cross_validation import CrossValidationPlot
    from ax.analysis.plotly.sensitivity import SensitivityAnalysisPlot
    from ax.analysis.plotly.surface.contour import ContourPlot

    experiment, metric = to_ax(study, relaxed=True), study.goal.objective.metric
    adapter = Generators.BOTORCH_MODULAR(experiment=experiment, data=experiment.lookup_data())

    def computed(analysis: Any) -> list[Any]:
        found = analysis.compute_or_error_card(experiment=experiment, adapter=adapter).flatten()
        return list(found)

    cards: list[Any] = []
    sensitivity = computed(SensitivityAnalysisPlot(metric, top_k=None)) if set(analyses) != {"cross_validation"} else []
    if "sensitivity" in analyses:
        cards += sensitivity
    if "cross_validation" in analyses:
        cards += computed(CrossValidationPlot([metric], untransform=True))
    if "contour" in analyses:
        ranked = _ranked(sensitivity) or list(study.space.parameters)
        numbers = [n for n in ranked if isinstance(study.space.parameters.get(n), Float | Int)]
        if len(numbers) > 1:
            cards += computed(ContourPlot(numbers[0], numbers[1], metric))
    return [_card(c) for c in cards]


def _ranked(sensitivity: Sequence[Any]) -> list[str]:
    """The parameters by falling sensitivity."""
    table = sensitivity[0].df
    if "parameter_name" not in table or "sensitivity" not in table:
        return []
    ordered = table.assign(size=table["sensitivity"].abs()).sort_values("size", ascending=False)
    return [str(name) for name in ordered["parameter_name"]]


def _card(card: Any) -> Card:
    from ax.analysis.plotly.plotly_analysis import PlotlyAnalysisCard

    figure = json.loads(str(card.blob)) if isinstance(card, PlotlyAnalysisCard) else None
    table = json.loads(str(card.df.to_json(orient="records")))
    return Card(card.name, card.title, card.subtitle, figure, table)
