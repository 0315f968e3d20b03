"""Routes for samplings: how many answers are enough, for a prompt or a batch; the same without keeping anything."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response

from . import sampling_decisions
from .deps import Cursor, Limit, PartsDep, Router, read_cursor, write_cursor
from .errors import problems
from .sampling_wire import (
    AnswerPage,
    SamplingAsk,
    SamplingAskOut,
    SamplingCreate,
    SamplingDecide,
    SamplingDecideOut,
    SamplingOut,
    SamplingPage,
    SamplingTell,
    SamplingTellOut,
)
from .wire import NO_NUL

router = Router(prefix="/v1", tags=["samplings"])
Id = Annotated[str, Path(max_length=32, pattern=NO_NUL, description="The sampling's id")]


@router.post("/samplings", status_code=201, responses=problems(409, 422), summary="Begin a sampling")
def create_sampling(parts: PartsDep, wanted: SamplingCreate, response: Response) -> SamplingOut:
    """One prompt or a batch, under one price or one budget of tokens. Texts stay with the caller: prompts have ids.

    With the newest version of a calibration unless told otherwise; `drift` says whether its alarm is on. With
    `on_drift` `votes` scores are left alone then (`scores` is false).
    """
    calibration_id, calibration, alarm = parts.calibrations.wanted(wanted.calibration, wanted.calibration_version)
    prompts = sampling_decisions.check_create(wanted, calibration)
    made = parts.samplings.create(wanted, prompts, calibration_id, alarm)
    response.headers["Location"] = f"/v1/samplings/{made}"
    return parts.samplings.sampling(made)


@router.get("/samplings", responses=problems(422), summary="List samplings")
def list_samplings(parts: PartsDep, limit: Limit = 100, cursor: Cursor = None) -> SamplingPage:
    """The newest first."""
    page, last = parts.samplings.all(read_cursor(cursor, int, None), limit)
    return SamplingPage(samplings=page, next_cursor=None if last is None else write_cursor(last))


@router.post("/samplings:decide", responses=problems(422), summary="Decide without keeping anything")
def decide(parts: PartsDep, wanted: SamplingDecide) -> SamplingDecideOut:
    """The decision after the answers so far, and which of them to give."""
    _, calibration, alarm = parts.calibrations.wanted(wanted.calibration, wanted.calibration_version)
    return sampling_decisions.decide(wanted, calibration, alarm)


@router.get("/samplings/{id}", responses=problems(404), summary="Read a sampling")
def read_sampling(parts: PartsDep, id: Id) -> SamplingOut:
    """Of each prompt: which answer to give, the posterior over which is right, and every decision with its numbers."""
    return parts.samplings.sampling(id)


@router.delete("/samplings/{id}", status_code=204, responses=problems(404), summary="Delete a sampling")
def delete_sampling(parts: PartsDep, id: Id) -> None:
    parts.samplings.delete(id)


@router.post(
    "/samplings/{id}/ask",
    status_code=201,
    responses={200: {"model": SamplingAskOut, "description": "Nothing to draw now"}, **problems(404, 422)},
    summary="Ask how many more answers to draw",
)
def ask(parts: PartsDep, id: Id, wanted: SamplingAsk, response: Response) -> SamplingAskOut:
    """How many more, and for which prompts (201). Nothing to draw (200): `stop` says why, or draws are out.

    Draws have numbers, in the order in which they are asked for; decisions look at a prompt's answers up to the first
    that is still out. A draw that is not told within `lease_seconds` is handed out again.
    """
    found = parts.samplings.ask(id, wanted)
    if not found.draws:
        response.status_code = 200
    return found


@router.post("/samplings/{id}/tell", responses=problems(404, 409, 422), summary="Tell answers")
def tell(parts: PartsDep, id: Id, told: SamplingTell) -> SamplingTellOut:
    """All or none. An equal repeat changes nothing, a different answer for the same draw is 409."""
    return parts.samplings.tell(id, told)


@router.get("/samplings/{id}/answers", responses=problems(404, 422), summary="List answers")
def list_answers(
    parts: PartsDep,
    id: Id,
    prompt: Annotated[str | None, Query(pattern=NO_NUL, description="Only this prompt's")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> AnswerPage:
    """By prompt and number."""
    after = read_cursor(cursor, str, "-1:-1").partition(":")
    page, last = parts.samplings.answers(id, (int(after[0]), int(after[2])), limit, prompt)
    return AnswerPage(answers=page, next_cursor=None if last is None else write_cursor(f"{last[0]}:{last[1]}"))
