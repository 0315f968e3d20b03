"""Routes for trials: ask, tell, report, heartbeat, fail, cancel; the history, and adding to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

from fastapi import Query, Response
from fastapi.concurrency import run_in_threadpool

from suffice.optimizer import Conflict, Stop, Study
from suffice.optimizer.context import check_context

from .batches import Asked, Beat, Given, Short, Told
from .definitions import check_points, check_report, check_slopes, check_tell, should_prune
from .deps import Cursor, Limit, MaxWait, Name, Number, Parts, PartsDep, Router, read_cursor, reply, write_cursor
from .errors import Unavailable, problems
from .logs import note
from .store import StudyFacts
from .wire import (
    Ask,
    AskOut,
    Cancel,
    Fail,
    Heartbeat,
    MeasurementSpec,
    PruneOut,
    Report,
    ShouldPruneOut,
    State,
    StopOut,
    Tell,
    TrialOut,
    TrialPage,
    TrialsAdd,
)

router = Router(prefix="/v1/studies/{name}", tags=["trials"])


# The most frequent ones first: routes are tried in this order.


@router.post(
    "/trials/{number}/tell",
    response_model=TrialOut,
    responses=problems(404, 409, 422),
    summary="Tell a trial's result",
)
async def tell(parts: PartsDep, name: Name, number: Number, told: Tell) -> Response:
    """The same result told again changes nothing and is 200; a different one is 409."""
    study, definition = await parts.known(name)
    check_tell(definition, told)
    if any(m.gradient for m in told.measurements):
        await run_in_threadpool(_check_slopes, parts, study.id, definition, number, told.measurements)
    study, answer = await parts.commit(name, lambda study, _: Told(study.id, number, told))
    assert isinstance(answer, tuple)
    trial, news = answer
    if news:
        parts.metrics.told(told.state)
        parts.engine.wake(study.id)
    return reply(trial)


def _check_slopes(
    parts: Parts, study_id: int, definition: Study, number: int, measurements: Sequence[MeasurementSpec]
) -> None:
    if any(m.gradient for m in measurements):
        check_slopes(definition, parts.store.trial(study_id, number).parameters, measurements)


@router.post(
    "/ask",
    status_code=201,
    response_model=AskOut,
    responses={200: {"model": AskOut, "description": "Stop, and why"}, **problems(404, 409, 422, 503)},
    summary="Ask what to try next",
)
async def ask(parts: PartsDep, name: Name, wanted: Ask) -> Response:
    """Hands out trials, each with a lease (201), or says that nothing more should be tried (200).

    Queued trials come first, then suggestions that the engine prepared. `source.data_version` says on which data a
    suggestion stands; with `fresh` it knows everything told before this request. A study that has contexts wants the
    values of all of them, and usually computes a suggestion for them then. Nothing is handed out unless all of
    `count` can be (the budget and a finite space excepted): after `max_wait_s` the answer is 503.
    """
    try:
        async with asyncio.timeout(wanted.max_wait_s):
            study, given = await _ask(parts, name, wanted)
    except TimeoutError:
        raise Unavailable(f"no suggestion was ready within {wanted.max_wait_s:g} s; nothing was handed out") from None
    if isinstance(given, Stop):
        parts.metrics.stopped(given.reason)
        return reply(AskOut(stop=StopOut(**given.to_json())))
    parts.metrics.asked(trial.source.method for trial in given.trials)
    note(trials=[trial.number for trial in given.trials])
    parts.engine.wake(study.id, refresh=given.refill)
    return reply(AskOut.model_construct(trials=given.trials), 201)


async def _ask(parts: Parts, name: str, wanted: Ask) -> tuple[StudyFacts, Given | Stop]:
    since = (await run_in_threadpool(parts.study, name)).data_version if wanted.fresh else 0

    def request(study: StudyFacts, definition: Study) -> Asked:
        context = check_context(definition.space, definition.context, wanted.context)
        return Asked(study.id, wanted.model_copy(update={"context": context}), since, definition.fidelity)

    study, _ = await parts.known(name)
    parts.engine.noted(study.id, wanted.count, fresh=wanted.fresh)
    while True:
        with parts.engine.asking(study.id):
            study, given = await parts.commit(name, request)
        if isinstance(given, Given | Stop):
            return study, given
        assert isinstance(given, Short)
        await parts.engine.refill(study.id, given.count, wanted.context)


@router.post(
    "/trials/{number}/heartbeat",
    response_model=TrialOut,
    responses=problems(404, 409, 422),
    summary="Renew a lease",
)
async def heartbeat(parts: PartsDep, name: Name, number: Number, beat: Heartbeat) -> Response:
    """409 says that the trial is no longer this worker's: it ended, was cancelled, or someone else has it."""
    _, trial = await parts.commit(name, lambda study, _: Beat(study.id, number, beat.lease_token))
    assert isinstance(trial, TrialOut)
    return reply(trial)


@router.post(
    "/trials/{number}/report",
    responses=problems(404, 409, 422),
    summary="Report intermediate values",
)
def report(parts: PartsDep, name: Name, number: Number, reported: Report) -> TrialOut:
    """Each measurement says its step; a second value for a step replaces the first. Renews the lease.

    In a study with early stopping by a policy that needs no model, `prune` in the answer says that the trial should be
    stopped, and why: tell it with the state `PRUNED`.
    """
    study, definition = parts.defined(name)
    check_report(definition, reported.measurements)
    _check_slopes(parts, study.id, definition, number, reported.measurements)
    trial = parts.leases.report(study.id, number, reported)
    parts.engine.wake(study.id, refresh=False)
    return trial.model_copy(update={"prune": _should_prune(parts, study.id, definition, number)})


def _should_prune(parts: Parts, study_id: int, definition: Study, number: int) -> PruneOut | None:
    """What a policy decides that needs no model: at once."""
    if definition.early_stopping is None or definition.early_stopping.policy == "gain":
        return None
    trial, objective = parts.store.known_trial(study_id, number), definition.goal.objective
    step = max(
        (m.step for m in trial.measurements if m.step is not None and m.metric == objective.metric), default=None
    )
    if step is None:
        return None
    others = [t for t in parts.store.reached(study_id, objective, step) if t.number != number]
    return should_prune(definition, trial, others)


@router.get("/trials", responses=problems(404, 422), summary="List trials")
def list_trials(
    parts: PartsDep,
    name: Name,
    state: Annotated[State | None, Query(description="Only trials in this state")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> TrialPage:
    """By number."""
    found = parts.store.trials(parts.study(name).id, read_cursor(cursor, int, -1), limit + 1, state)
    page = found[:limit]
    return TrialPage(trials=page, next_cursor=write_cursor(page[-1].number) if len(found) > limit else None)


@router.post(
    "/trials",
    status_code=201,
    responses=problems(404, 409, 422),
    summary="Add trials of your own",
)
def add_trials(parts: PartsDep, name: Name, added: TrialsAdd) -> TrialPage:
    """Points to try next (they wait in the queue), or finished history with its results. All are added, or none."""
    study, definition = parts.defined(name)
    trials = parts.store.add(study.id, check_points(definition, added.trials), added.idempotency_key)
    parts.engine.wake(study.id)
    return TrialPage(trials=trials)


@router.get("/trials/{number}", responses=problems(404, 422), summary="Read a trial")
def read_trial(parts: PartsDep, name: Name, number: Number) -> TrialOut:
    return parts.store.trial(parts.study(name).id, number)


@router.get(
    "/trials/{number}/should_prune",
    responses=problems(404, 409, 422, 503),
    summary="Whether to stop a trial early",
)
async def read_should_prune(
    parts: PartsDep,
    name: Name,
    number: Number,
    max_wait_s: MaxWait = 30.0,
) -> ShouldPruneOut:
    """By what it reported so far, as the study's `early_stopping` has it; the policy `gain` asks the model.

    Nothing is changed: who runs the trial tells it with the state `PRUNED`. 409 when the trial has ended.
    """
    study, definition = await run_in_threadpool(parts.defined, name)
    if definition.early_stopping is None or definition.early_stopping.policy != "gain":
        trial = await run_in_threadpool(parts.store.known_trial, study.id, number)
        if not trial.state.open:
            raise Conflict(f"trial {number} is {trial.state}")
        return ShouldPruneOut(prune=await run_in_threadpool(_should_prune, parts, study.id, definition, number))
    found = await parts.ask_engine("should_prune", study.id, max_wait_s, number=number)
    return ShouldPruneOut(**found)


@router.post(
    "/trials/{number}/fail",
    responses=problems(404, 409, 422),
    summary="Give back a trial that could not be run",
)
def fail(parts: PartsDep, name: Name, number: Number, failed: Fail) -> TrialOut:
    """Back to the queue while retries are left; FAILED after that, or with `retry` false."""
    study = parts.study(name)
    trial = parts.leases.fail(study.id, number, failed.lease_token, failed.reason, failed.retry)
    parts.engine.wake(study.id, refresh=trial.state == "FAILED")
    return trial


@router.post(
    "/trials/{number}/cancel",
    responses=problems(404, 409, 422),
    summary="Cancel an open trial",
)
def cancel(parts: PartsDep, name: Name, number: Number, cancelled: Cancel) -> TrialOut:
    """Its worker, if it has one, is told so by 409 at its next heartbeat."""
    study = parts.study(name)
    trial, news = parts.leases.cancel(study.id, number, cancelled.reason)
    if news:
        parts.engine.wake(study.id)
    return trial
