"""What the pages ask for beyond the interface that everyone uses: studies at a glance, tables, slices, contours."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from sqlmodel import col, func, select

from suffice.api.deps import Cursor, Limit, MaxWait, Name, Parts, PartsDep, Router, read_cursor, write_cursor
from suffice.api.errors import problems
from suffice.api.images import names_of
from suffice.api.tables import StudyRow, TrialRow
from suffice.api.wire import NO_NUL, State
from suffice.optimizer import InvalidInput, NotFound, Objective

from . import summary
from .history import Histories, Past
from .wire import ContourOut, Curve, CurvesOut, Overview, SlicesOut, StudyLine, StudyLines, TrialLines

router = Router(prefix="/v1/dashboard", tags=["dashboard"])
CURVES = 60  # trials whose reports are shown
MOST_SLICES = 12
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what spreadsheets take for the beginning of one


def histories(request: Request) -> Histories:
    found: Histories = request.app.state.histories
    return found


@router.get("/studies", responses=problems(422), summary="Studies at a glance")
def list_studies(
    request: Request,
    parts: PartsDep,
    text: Annotated[str, Query(max_length=100, pattern=NO_NUL, description="Only studies whose names contain it")] = "",
    limit: Limit = 50,
    cursor: Cursor = None,
) -> StudyLines:
    """The newest first."""
    before = read_cursor(cursor, int, None)
    own = select(StudyRow).where(StudyRow.project_id == parts.store.project)
    query = own.order_by(col(StudyRow.id).desc()).limit(limit + 1)
    if before is not None:
        query = query.where(StudyRow.id < before)
    if text:
        query = query.where(func.lower(StudyRow.name).contains(text.lower(), autoescape=True))
    with parts.store.database.read() as session:
        rows = session.exec(query).all()
        ids = [row.id for row in rows[:limit]]
        at = func.max(func.coalesce(TrialRow.finished_at, TrialRow.started_at, TrialRow.created_at))
        grouped = select(TrialRow.study_id, TrialRow.state, func.count(), at).where(col(TrialRow.study_id).in_(ids))
        counts: dict[int, dict[str, int]] = {study_id: {} for study_id in ids}
        active: dict[int, Any] = {}
        for study_id, state, number, last in session.exec(
            grouped.group_by(col(TrialRow.study_id), col(TrialRow.state))
        ):
            counts[study_id][state] = number
            active[study_id] = max(active.get(study_id, last), last)
    found = histories(request)
    lines = [_line(parts, found, row, counts[row.id], active.get(row.id)) for row in rows[:limit]]
    return StudyLines(studies=lines, next_cursor=write_cursor(rows[limit - 1].id) if len(rows) > limit else None)


def _line(parts: Parts, found: Histories, row: StudyRow, counts: dict[str, int], active: Any) -> StudyLine:
    objective = Objective(**row.definition["objectives"][0])
    if row.definition.get("outcome_constraints") or row.definition.get("fidelity"):  # not every result counts
        values = summary.counted(parts.defined(row.name)[1], found.of(row.id).trials)
    else:
        values = found.values(row.id, row.data_version, objective.metric)
    best = summary.spark(values, objective.sign)
    return StudyLine(
        name=row.name,
        state=row.state,  # type: ignore[arg-type]
        metric=objective.metric,
        direction=objective.direction,
        objectives=len(row.definition["objectives"]),
        best=best[-1] if best else None,
        spark=best,
        trials=counts,
        budget=row.budget,
        created_at=row.created_at,
        active_at=active or row.created_at,
    )


@router.get("/studies/{name}", responses=problems(404), summary="A study at a glance")
def read_study(request: Request, parts: PartsDep, name: Name) -> Overview:
    study, defined = parts.defined(name)
    images = names_of(parts.store.database, study.id)
    return summary.overview(parts.store.study(study.id), defined, histories(request).of(study.id), images)


@router.get("/studies/{name}/trials", responses=problems(404, 422), summary="A page of the table of trials")
def list_trials(
    request: Request,
    parts: PartsDep,
    name: Name,
    state: State | None = None,
    text: Annotated[str, Query(max_length=200, description="Words that all have to be found")] = "",
    sort: Annotated[str, Query(max_length=300, description="`number`, `metric:loss`, `parameter:lr`, ...")] = "number",
    descending: bool = False,
    offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    limit: Limit = 25,
) -> TrialLines:
    """`text` is looked for in numbers, states, methods, workers, reasons and parameters (`lr=0.1`)."""
    study = parts.study(name)
    if sort not in summary.SORTS and not sort.startswith(("metric:", "parameter:")):
        raise InvalidInput("sort", f"one of {list(summary.SORTS)}, metric:NAME or parameter:NAME", sort)
    trials = histories(request).of(study.id).trials
    return summary.table(trials, state=state, text=text, sort=sort, descending=descending, offset=offset, limit=limit)


@router.get(
    "/studies/{name}/trials.csv",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {}}}, **problems(404)},
    summary="All trials as CSV",
)
def export_trials(request: Request, parts: PartsDep, name: Name) -> StreamingResponse:
    study, defined = parts.defined(name)
    trials = histories(request).of(study.id).trials
    metrics = summary.columns_of(defined, trials)
    parameters = list(defined.space.parameters)
    head = ["number", "state", *parameters, *metrics, *(f"{m} stderr" for m in metrics)]
    head += ["method", "expected gain", "worker", "seconds", "created_at", "finished_at", "reason"]
    headers = {"Content-Disposition": f'attachment; filename="{study.name}.csv"'}
    rows = (_csv_row(t, parameters, metrics) for t in trials)
    return StreamingResponse(_csv(head, rows), headers=headers, media_type="text/csv; charset=utf-8")


def _csv_row(t: Past, parameters: Sequence[str], metrics: Sequence[str]) -> list[Any]:
    cells: list[Any] = [t.number, t.state, *(t.parameters.get(n) for n in parameters)]
    cells += [*(t.values.get(m) for m in metrics), *(t.stderrs.get(m) for m in metrics)]
    finished = t.finished_at and t.finished_at.isoformat()
    return [
        *cells,
        t.source["method"],
        t.source.get("gain"),
        t.worker,
        t.seconds,
        t.created_at.isoformat(),
        finished,
        t.reason,
    ]


def _csv(head: Sequence[str], rows: Iterator[list[Any]]) -> Iterator[str]:
    out = io.StringIO()
    writer = csv.writer(out)
    for row in [list(head), *rows]:
        writer.writerow(_safe(cell) for cell in row)
        if out.tell() > 2**16:
            yield out.getvalue()
            out.seek(0)
            out.truncate()
    yield out.getvalue()


def _safe(cell: Any) -> Any:
    """Texts that a spreadsheet would run as a formula are marked as texts."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


@router.get("/studies/{name}/curves", responses=problems(404, 422), summary="What trials reported on the way")
def read_curves(request: Request, parts: PartsDep, name: Name) -> CurvesOut:
    """Of the newest trials that reported values of the first objective."""
    study, defined = parts.defined(name)
    found = histories(request)
    trials = {t.number: t.state for t in found.of(study.id).trials if t.reported}
    numbers = list(trials)[-CURVES:]
    metric = defined.goal.objective.metric
    curves = found.reports(study.id, numbers, metric)
    return CurvesOut(
        metric=metric,
        curves=[
            Curve(number=n, state=trials[n], steps=[s for s, _ in curve], values=[v for _, v in curve])
            for n, curve in curves.items()
        ],
    )


# --- what the model expects: computed by the engine -------------------------------------------------------------------

Through = Annotated[
    int | None, Query(ge=0, lt=2**31, description="A trial; without one, the recommended configuration")
]
Metric = Annotated[str | None, Query(max_length=300, description="An objective; without one, the first")]


@router.get("/studies/{name}/slices", responses=problems(404, 422, 503), summary="The posterior along parameters")
async def slices(
    parts: PartsDep,
    name: Name,
    parameter: Annotated[
        list[str] | None, Query(max_length=MOST_SLICES, description="Without any: the first 12")
    ] = None,
    through: Through = None,
    metric: Metric = None,
    max_wait_s: MaxWait = 30.0,
) -> SlicesOut:
    """What the model expects along single parameters, through one configuration. None while there is no model."""
    wanted = {"parameters": parameter, "through": through, "metric": metric}
    try:
        found, metric = await _asked(parts, "slices", name, metric, max_wait_s, wanted)
    except NotFound:
        study, defined = await run_in_threadpool(parts.defined, name)
        if through is not None:
            await run_in_threadpool(parts.store.trial, study.id, through)
        metric = metric or defined.goal.objective.metric
        return SlicesOut(metric=metric, ready=False, slices=[], data_version=study.data_version)
    shown = found["slices"][:MOST_SLICES]
    return SlicesOut(metric=metric, ready=True, slices=shown, data_version=found["data_version"])


@router.get("/studies/{name}/contour", responses=problems(404, 422, 503), summary="The posterior over two parameters")
async def contour(
    parts: PartsDep,
    name: Name,
    x: Annotated[str, Query(max_length=300)],
    y: Annotated[str, Query(max_length=300)],
    through: Through = None,
    metric: Metric = None,
    max_wait_s: MaxWait = 30.0,
) -> ContourOut:
    """What the model expects over two parameters, all others as in one configuration. 404 while there is no model."""
    wanted = {"x": x, "y": y, "through": through, "metric": metric}
    found, metric = await _asked(parts, "contour", name, metric, max_wait_s, wanted)
    return ContourOut(metric=metric, **found)


async def _asked(
    parts: Parts, kind: str, name: str, metric: str | None, max_wait_s: float, wanted: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """The engine's answer, and which metric it is about."""
    study, defined = await run_in_threadpool(parts.defined, name)
    found = await parts.ask_engine(kind, study.id, max_wait_s, **wanted)
    return found, metric or defined.goal.objective.metric
