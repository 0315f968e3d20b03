"""Routes for studies: define, list, change, delete, export and import; what is best; what the model expects."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

from fastapi import Query, Response
from fastapi.concurrency import run_in_threadpool

from suffice.optimizer import Conflict, NotFound, Study
from suffice.optimizer.context import check_context

from .definitions import check_earlier, check_import, check_patch, check_study
from .deps import Cursor, Limit, MaxWait, Name, Parts, PartsDep, Router, read_cursor, write_cursor
from .errors import Unavailable, problems
from .wire import (
    AdviceOut,
    AnalysesOut,
    BestOut,
    CardOut,
    DiagnosticsOut,
    ParetoOut,
    Predict,
    Prediction,
    PredictOut,
    StudyCreate,
    StudyExport,
    StudyOut,
    StudyPage,
    StudyPatch,
    TrialOut,
    Within,
)

router = Router(prefix="/v1", tags=["studies"])
BEST_WAIT = 10.0  # seconds


@router.post("/studies", status_code=201, responses=problems(409, 422), summary="Define a study")
def create_study(parts: PartsDep, study: StudyCreate, response: Response) -> StudyOut:
    """The definition is checked as a whole; the answer to a wrong one names every field that is wrong."""
    defined, seed = check_study(study)
    check_earlier(defined, parts.earlier(study.earlier))
    study_id, created = parts.store.create(study, seed)
    parts.engine.wake(study_id)
    response.headers["Location"] = f"/v1/studies/{created.name}"
    return created


@router.get("/studies", responses=problems(422), summary="List studies")
def list_studies(parts: PartsDep, limit: Limit = 100, cursor: Cursor = None) -> StudyPage:
    found = parts.store.studies(read_cursor(cursor, str, None), limit + 1)
    page = found[:limit]
    return StudyPage(studies=page, next_cursor=write_cursor(page[-1].name) if len(found) > limit else None)


@router.post("/studies:import", status_code=201, responses=problems(409, 422), summary="Import a study")
def import_study(parts: PartsDep, document: StudyExport, response: Response) -> StudyOut:
    """Numbers, states, measurements and times are kept; trials that were open wait in the queue."""
    study_id, created = parts.store.restore(check_import(document))
    parts.engine.wake(study_id)
    response.headers["Location"] = f"/v1/studies/{created.name}"
    return created


@router.get("/studies/{name}", responses=problems(404), summary="Read a study")
def read_study(parts: PartsDep, name: Name) -> StudyOut:
    return parts.store.study(parts.study(name).id)


@router.patch("/studies/{name}", responses=problems(404, 422), summary="Change a study")
def change_study(parts: PartsDep, name: Name, patch: StudyPatch) -> StudyOut:
    """Only what is given changes. The definition of a study cannot be changed."""
    study = parts.study(name)
    check_patch(study, patch)
    changed = parts.store.patch(study.id, patch)
    parts.engine.wake(study.id, refresh=False)
    return changed


@router.delete("/studies/{name}", status_code=204, responses=problems(404), summary="Delete a study")
def delete_study(parts: PartsDep, name: Name) -> None:
    """The study, its trials and measurements are gone for good."""
    study = parts.study(name)
    parts.store.delete(study.id)
    parts.engine.forget(study.id)


@router.get("/studies/{name}/export", responses=problems(404), summary="Export a study")
def export_study(parts: PartsDep, name: Name) -> StudyExport:
    """Everything, as one document that `POST /v1/studies:import` reads."""
    return parts.store.export(parts.study(name).id)


@router.get("/studies/{name}/best", responses=problems(404, 409, 422, 503), summary="The recommended trial")
async def best(
    parts: PartsDep,
    name: Name,
    max_wait_s: Annotated[float, Query(ge=0, le=600, description="How long to wait for the model")] = BEST_WAIT,
) -> BestOut:
    """With noise, the best posterior mean among evaluated configurations; otherwise the best result. `why` says which.

    When the engine is not ready within `max_wait_s`, the best result as observed, and `why` says so. 404 while no trial
    is completed.
    """
    study, definition = await run_in_threadpool(parts.defined, name)
    _refuse_without_context(definition)
    if definition.goal.several:
        raise Conflict("there is no single best trial for several objectives: see /pareto")
    found, data_version = await run_in_threadpool(parts.store.best, study.id)
    if found is None or found["data_version"] != data_version:
        try:
            async with asyncio.timeout(max_wait_s):
                found = await parts.engine.call("best", study.id)
        except (TimeoutError, Unavailable) as error:
            return await run_in_threadpool(_best_observed, parts, study.id, definition, str(error))
    return await run_in_threadpool(_best_out, parts, study.id, found)


@router.post("/studies/{name}/best", responses=problems(404, 409, 422, 503), summary="What to use in a context")
async def best_in_context(parts: PartsDep, name: Name, wanted: Within) -> BestOut:
    """Of all visited configurations, moved to this context, that of the best posterior mean."""
    return await run_in_threadpool(_best_out, parts, *await _call_within(parts, "best", name, wanted))


def _best_out(parts: Parts, study_id: int, found: dict[str, Any]) -> BestOut:
    return _recommended(found, parts.store.trial(study_id, found["number"]))


def _recommended(found: dict[str, Any], trial: TrialOut) -> BestOut:
    return BestOut(trial=trial, **{name: value for name, value in found.items() if name in BestOut.model_fields})


def _best_observed(parts: Parts, study_id: int, definition: Study, obstacle: str) -> BestOut:
    """The best result that was measured where results count; Unavailable where that takes a model."""
    goal, obstacle = definition.goal, f"the model could not be asked: {obstacle or 'the engine is busy'}"
    if definition.environment is not None:
        raise Unavailable(f"the risk over an environment takes a model ({obstacle})")
    sign, metric = goal.objective.sign, goal.objective.metric
    target = {} if definition.fidelity is None else definition.fidelity.target
    trials = parts.store.trials(study_id, -1, None, "COMPLETED")
    if not trials:
        raise NotFound("no trial is completed yet")
    trials = [t for t in trials if all(t.parameters[name] == value for name, value in target.items())]
    if not trials:
        raise Unavailable(f"no trial is completed at the target fidelity, and {obstacle}")
    feasible = [t for t in trials if goal.satisfied(t.values) is not False]
    why = f"best observed value ({obstacle})"
    if not feasible:
        why += "; no trial satisfies the outcome constraints"
    best = max(feasible or trials, key=lambda t: sign * t.values[metric])
    return BestOut(trial=best, parameters=best.parameters, why=why)


@router.get("/studies/{name}/pareto", responses=problems(404, 409, 422, 503), summary="The Pareto front")
async def pareto(parts: PartsDep, name: Name, max_wait_s: MaxWait = 30.0) -> ParetoOut:
    """With several objectives: the completed trials that no other beats in all of them."""
    study, definition = await run_in_threadpool(parts.defined, name)
    _refuse_without_context(definition)
    found = await parts.ask_engine("pareto", study.id, max_wait_s)
    return await run_in_threadpool(_pareto_out, parts, study.id, found)


@router.post("/studies/{name}/pareto", responses=problems(404, 409, 422, 503), summary="The front in a context")
async def pareto_in_context(parts: PartsDep, name: Name, wanted: Within) -> ParetoOut:
    """The visited configurations that no other is expected to beat in all objectives in this context."""
    return await run_in_threadpool(_pareto_out, parts, *await _call_within(parts, "pareto", name, wanted))


def _pareto_out(parts: Parts, study_id: int, found: dict[str, Any]) -> ParetoOut:
    front = found["trials"]
    trials = parts.store.some(study_id, [point["number"] for point in front])
    points = [_recommended(point, trial) for trial, point in zip(trials, front, strict=True)]
    return ParetoOut(trials=points, data_version=found["data_version"])


@router.get("/studies/{name}/advice", responses=problems(404, 409, 422, 503), summary="What one more trial is worth")
async def advice(parts: PartsDep, name: Name, max_wait_s: MaxWait = 30.0) -> AdviceOut:
    """The expected gain of the most worthwhile trial, beside those that run, its expected cost, and whether it pays."""
    study, definition = await run_in_threadpool(parts.defined, name)
    _refuse_without_context(definition)
    return AdviceOut(**await parts.ask_engine("advice", study.id, max_wait_s))


@router.post(
    "/studies/{name}/advice",
    responses=problems(404, 409, 422, 503),
    summary="What one more trial in a context is worth",
)
async def advice_in_context(parts: PartsDep, name: Name, wanted: Within) -> AdviceOut:
    """As GET, for a study that has contexts."""
    _, found = await _call_within(parts, "advice", name, wanted)
    return AdviceOut(**found)


@router.get(
    "/studies/{name}/diagnostics", responses=problems(404, 422, 503), summary="Whether the model can be trusted"
)
async def diagnostics(parts: PartsDep, name: Name, max_wait_s: MaxWait = 30.0) -> DiagnosticsOut:
    """Leave-one-out predictions of the first objective, and which parameters matter. 404 while there is no model."""
    study = await run_in_threadpool(parts.study, name)
    return DiagnosticsOut(**await parts.ask_engine("diagnostics", study.id, max_wait_s))


@router.get("/studies/{name}/analyses", responses=problems(404, 422, 503), summary="Figures of what was learned")
async def analyses(parts: PartsDep, name: Name, max_wait_s: MaxWait = 30.0) -> AnalysesOut:
    """Ax's sensitivity, cross-validation and contours, as Plotly JSON. 404 with fewer than three completed trials.

    They take seconds to minutes, in a process of their own. When those of the newest results are not ready within
    `max_wait_s`, the last ones (`data_version` says on which results they stand), or 503; the work goes on meanwhile.
    """
    study = await run_in_threadpool(parts.study, name)
    kept = await run_in_threadpool(parts.store.analyses, study.id)
    if kept is None or kept.data_version != study.data_version:
        with suppress(TimeoutError):
            async with asyncio.timeout(max_wait_s):
                await parts.engine.analyse(study.id)
        kept = await run_in_threadpool(parts.store.analyses, study.id)
    if kept is None:
        raise Unavailable("the analyses are being computed", retry_after=5)
    return AnalysesOut(cards=[CardOut(**card) for card in kept.cards], data_version=kept.data_version)


def _refuse_without_context(definition: Study) -> None:
    if definition.context:
        raise Conflict(f'this depends on the context {list(definition.context)}: POST it as {{"context": {{...}}}}')


async def _call_within(parts: Parts, kind: str, name: str, wanted: Within) -> tuple[int, dict[str, Any]]:
    """The study, and the engine's answer to a job in a context of it."""
    study, definition = await run_in_threadpool(parts.defined, name)
    if kind == "best" and definition.goal.several:
        raise Conflict("there is no single best trial for several objectives: see /pareto")
    context = await run_in_threadpool(check_context, definition.space, definition.context, wanted.context)
    return study.id, await parts.ask_engine(kind, study.id, wanted.max_wait_s, context=context)


@router.post("/studies/{name}/predict", responses=problems(404, 422, 503), summary="What the model expects")
async def predict(parts: PartsDep, name: Name, wanted: Predict) -> PredictOut:
    """Posterior mean and standard deviation of the noiseless objective. 404 while there is no model."""
    study, definition = await run_in_threadpool(parts.defined, name)
    configurations = await run_in_threadpool(_check_configurations, definition, wanted.configurations)
    found = await parts.ask_engine("predict", study.id, wanted.max_wait_s, configurations=configurations)
    return PredictOut(
        metric=definition.goal.objective.metric,
        predictions=[Prediction(mean=m, sd=s) for m, s in zip(found["mean"], found["sd"], strict=True)],
        observations=found["observations"],
        data_version=found["data_version"],
    )


def _check_configurations(definition: Study, configurations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [definition.space.check(c, f"configurations.{i}") for i, c in enumerate(configurations)]
