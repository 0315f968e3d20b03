"""Routes for studies: define, list, change, delete, export and import; what is best; what the model expects."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Query, Response
from fastapi.concurrency import run_in_threadpool

from suffice.optimizer import Conflict, NotFound, Study

from .definitions import check_import, check_study
from .deps import Cursor, Limit, Name, Parts, PartsDep, Router, read_cursor, write_cursor
from .errors import Unavailable, problems
from .wire import (
    AdviceOut,
    BestOut,
    ParetoOut,
    Predict,
    Prediction,
    PredictOut,
    StudyCreate,
    StudyExport,
    StudyOut,
    StudyPage,
    StudyPatch,
)

router = Router(prefix="/v1", tags=["studies"])
BEST_WAIT = 10.0  # seconds
MaxWait = Annotated[float, Query(gt=0, le=600, description="How long to wait for the engine")]


@router.post("/studies", status_code=201, responses=problems(409, 422), summary="Define a study")
def create_study(parts: PartsDep, study: StudyCreate, response: Response) -> StudyOut:
    """The definition is checked as a whole; the answer to a wrong one names every field that is wrong."""
    _, seed = check_study(study)
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
    if definition.goal.several:
        raise Conflict("there is no single best trial for several objectives: see /pareto")
    found, data_version = await run_in_threadpool(parts.store.best, study.id)
    if found is None or found["data_version"] != data_version:
        try:
            async with asyncio.timeout(max_wait_s):
                found = await parts.engine.call("best", study.id)
        except (TimeoutError, Unavailable) as error:
            return await run_in_threadpool(_best_observed, parts, study.id, definition, str(error))
    trial = await run_in_threadpool(parts.store.trial, study.id, found["number"])
    return BestOut(trial=trial, mean=found["mean"], sd=found["sd"], why=found["why"])


def _best_observed(parts: Parts, study_id: int, definition: Study, obstacle: str) -> BestOut:
    goal = definition.goal
    sign, metric = goal.objective.sign, goal.objective.metric
    trials = parts.store.trials(study_id, -1, None, "COMPLETED")
    if not trials:
        raise NotFound("no trial is completed yet")
    feasible = [t for t in trials if goal.satisfied(t.values) is not False]
    why = f"best observed value (the model could not be asked: {obstacle or 'the engine is busy'})"
    if not feasible:
        why += "; no trial satisfies the outcome constraints"
    return BestOut(trial=max(feasible or trials, key=lambda t: sign * t.values[metric]), why=why)


@router.get("/studies/{name}/pareto", responses=problems(404, 422, 503), summary="The Pareto front")
async def pareto(parts: PartsDep, name: Name, max_wait_s: MaxWait = 30.0) -> ParetoOut:
    """With several objectives: the completed trials that no other beats in all of them."""
    study = await run_in_threadpool(parts.study, name)
    found = await _call(parts, "pareto", study.id, max_wait_s)
    front = found["trials"]
    trials = await run_in_threadpool(parts.store.some, study.id, [point["number"] for point in front])
    return ParetoOut(
        trials=[
            BestOut(trial=trial, mean=point["mean"], sd=point["sd"], why=point["why"])
            for trial, point in zip(trials, front, strict=True)
        ],
        data_version=found["data_version"],
    )


@router.get("/studies/{name}/advice", responses=problems(404, 422, 503), summary="What one more trial is worth")
async def advice(parts: PartsDep, name: Name, max_wait_s: MaxWait = 30.0) -> AdviceOut:
    """The expected gain of the most worthwhile trial, beside those that run, its expected cost, and whether it pays."""
    study = await run_in_threadpool(parts.study, name)
    return AdviceOut(**await _call(parts, "advice", study.id, max_wait_s))


async def _call(parts: Parts, kind: str, study_id: int, max_wait_s: float, **payload: Any) -> dict[str, Any]:
    try:
        async with asyncio.timeout(max_wait_s):
            return await parts.engine.call(kind, study_id, **payload)
    except TimeoutError:
        raise Unavailable(f"the engine did not answer within {max_wait_s:g} s") from None


@router.post("/studies/{name}/predict", responses=problems(404, 422, 503), summary="What the model expects")
async def predict(parts: PartsDep, name: Name, wanted: Predict) -> PredictOut:
    """Posterior mean and standard deviation of the noiseless objective. 404 while there is no model."""
    study, definition = await run_in_threadpool(parts.defined, name)
    configurations = await run_in_threadpool(_check_configurations, definition, wanted.configurations)
    found = await _call(parts, "predict", study.id, wanted.max_wait_s, configurations=configurations)
    return PredictOut(
        metric=definition.goal.objective.metric,
        predictions=[Prediction(mean=m, sd=s) for m, s in zip(found["mean"], found["sd"], strict=True)],
        observations=found["observations"],
        data_version=found["data_version"],
    )


def _check_configurations(definition: Study, configurations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [definition.space.check(c, f"configurations.{i}") for i, c in enumerate(configurations)]
