"""Routes for calibrations: fit or import one, list, export, delete; each name has versions."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response
from fastapi.concurrency import run_in_threadpool

from suffice.optimizer import InvalidInput

from .deps import Cursor, Limit, Name, PartsDep, Router, read_cursor, write_cursor
from .errors import problems
from .sampling_wire import CalibrationCreate, CalibrationExport, CalibrationOut, CalibrationPage
from .traffic import traffic

router = Router(prefix="/v1", tags=["calibrations"])
Version = Annotated[int | None, Query(ge=1, lt=2**31, description="The newest, unless given")]


@router.post("/calibrations", status_code=201, responses=problems(422, 503), summary="Fit or import a calibration")
async def create_calibration(parts: PartsDep, wanted: CalibrationCreate, response: Response) -> CalibrationOut:
    """From a `pool` of labelled answers, which takes seconds to minutes, or from the `document` of an export.

    A name that is taken gets one more version.
    """
    if (wanted.pool is None) == (wanted.document is None):
        raise InvalidInput("pool", "either pool or document", None if wanted.pool is None else "both")
    document = await parts.fitting.fit(wanted) if wanted.document is None else wanted.document
    made = await run_in_threadpool(parts.calibrations.add, wanted.name, document)
    response.headers["Location"] = f"/v1/calibrations/{made.name}?version={made.version}"
    return made


@router.post(
    "/calibrations/{name}/prompts",
    status_code=201,
    responses=problems(404, 422, 503),
    summary="Learn what features of prompts tell",
)
async def learn_prompts(parts: PartsDep, name: Name) -> CalibrationOut:
    """A new version that has learned what features tell from this service's finished prompts that have some.

    The prior over prompts, and what their answers will look like: agreement, scores, tokens. How many answers are right
    is taken from votes and scores: labelled prompts belong into a `pool`.
    """
    document = (await run_in_threadpool(parts.calibrations.export, name)).document
    lessons = await run_in_threadpool(parts.samplings.traffic, name)
    made = await parts.fitting.learn_prompts(document, traffic(lessons))
    return await run_in_threadpool(parts.calibrations.add, name, made)


@router.get("/calibrations", responses=problems(422), summary="List calibrations")
def list_calibrations(parts: PartsDep, limit: Limit = 100, cursor: Cursor = None) -> CalibrationPage:
    """The newest version of each, by name."""
    found = parts.calibrations.all(read_cursor(cursor, str, None), limit + 1)
    page = found[:limit]
    return CalibrationPage(calibrations=page, next_cursor=write_cursor(page[-1].name) if len(found) > limit else None)


@router.get("/calibrations/{name}", responses=problems(404, 422), summary="Read a calibration")
def read_calibration(parts: PartsDep, name: Name, version: Version = None) -> CalibrationOut:
    """What it stands on, and whether its scores still mean the same."""
    return parts.calibrations.one(name, version)


@router.get("/calibrations/{name}/versions", responses=problems(404), summary="List versions")
def list_versions(parts: PartsDep, name: Name) -> CalibrationPage:
    """The newest first."""
    return CalibrationPage(calibrations=parts.calibrations.versions(name))


@router.get("/calibrations/{name}/export", responses=problems(404, 422), summary="Export a calibration")
def export_calibration(parts: PartsDep, name: Name, version: Version = None) -> CalibrationExport:
    """Its `document` is what `POST /v1/calibrations` and the library's `Calibration.from_json` take."""
    return parts.calibrations.export(name, version)


@router.delete("/calibrations/{name}", status_code=204, responses=problems(404, 409, 422), summary="Delete it")
def delete_calibration(
    parts: PartsDep,
    name: Name,
    version: Annotated[int | None, Query(ge=1, lt=2**31, description="All, unless given")] = None,
) -> None:
    """409 while samplings use it."""
    parts.calibrations.delete(name, version)
