"""The route for events: what happens in a study, as server-sent events.

There is no log of events: an event is the newest state of a trial, or of the study, and its id says when that changed.
So whoever comes back after a while gets each trial that changed once, and a slow reader costs nobody anything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated

from fastapi import Depends, Header, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent

from suffice.optimizer import NotFound

from .deps import Name, PartsDep, Router
from .errors import Unavailable, problems
from .store import StudyFacts

router = Router(prefix="/v1/studies/{name}", tags=["studies"])


def _study(parts: PartsDep, name: Name) -> StudyFacts:
    return parts.study(name)


StudyDep = Annotated[StudyFacts, Depends(_study)]  # so that 404 comes before the stream begins
POLL_SECONDS = 1.0  # for what happens in other processes; this one's own changes are seen at once


@router.get(
    "/events",
    response_class=EventSourceResponse,
    responses=problems(404, 422),
    summary="Watch a study",
)
async def events(
    parts: PartsDep,
    study: StudyDep,
    last_event_id: Annotated[int | None, Header(ge=0, description="Continue behind this event")] = None,
    after: Annotated[int | None, Query(ge=0, description="The same; 0: from the beginning")] = None,
) -> AsyncIterator[ServerSentEvent]:
    """`study`, `trial` and `suggestions` events. Without a start: what happens from now on.

    Every event holds the newest state, so trials that changed several times since come once.
    """
    newest = await run_in_threadpool(parts.store.sequence, study.id)
    start = after if last_event_id is None else last_event_id
    position = newest if start is None else min(start, newest)
    with suppress(NotFound, Unavailable):  # the study was deleted, the service stops: the stream ends
        while True:
            for event in await run_in_threadpool(parts.store.events, study.id, position):
                yield ServerSentEvent(id=str(event.id), event=event.event, data=event.data)
                position = event.id
            await parts.engine.changed(study.id, POLL_SECONDS)
