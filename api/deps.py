"""What routes are given, by the type they name."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Response
from fastapi import Request as HttpRequest
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from suffice.optimizer import InvalidInput, NotFound, Study

from .access import DEFAULT_PROJECT, check
from .batches import Answer, Request
from .calibrating import Fitting
from .calibration_store import CalibrationStore
from .definitions import Definitions
from .engine import Engine
from .errors import StudyDeleted, Unavailable
from .group_commit import GroupCommit
from .keys import KeyRing
from .leases import Leases
from .metrics import Metrics
from .sampling_store import SamplingStore
from .settings import Settings
from .store import Store, StudyFacts
from .wire import NO_NUL


class Router(APIRouter):
    """Routes whose answers leave out what is null."""

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        options["response_model_exclude_none"] = True
        super().add_api_route(path, endpoint, **options)


@dataclass(frozen=True)
class Parts:
    """What the service consists of, as one project sees it; `app.create_app` puts it together."""

    settings: Settings
    store: Store
    leases: Leases
    commits: GroupCommit
    engine: Engine
    definitions: Definitions
    samplings: SamplingStore
    calibrations: CalibrationStore
    fitting: Fitting
    keys: KeyRing
    metrics: Metrics
    bound: dict[int, Parts] = field(default_factory=dict)

    def within(self, project: int) -> Parts:
        """The same for another project."""
        if project == DEFAULT_PROJECT:
            return self
        if project not in self.bound:
            self.bound[project] = replace(
                self,
                store=self.store.within(project),
                samplings=self.samplings.within(project),
                calibrations=self.calibrations.within(project),
            )
        return self.bound[project]

    def study(self, name: str) -> StudyFacts:
        """Which study that is; raises NotFound. Reads the database: not for the event loop's thread."""
        return self.store.facts(name)

    def defined(self, name: str) -> tuple[StudyFacts, Study]:
        """That, and what its definition means."""
        study = self.study(name)
        return study, self.definitions.of(study)

    async def known(self, name: str) -> tuple[StudyFacts, Study]:
        """The same, without a look at the database where the name is known; its ``data_version`` is an old one."""
        project = self.store.project
        study = self.definitions.named(project, name)
        if study is None:
            study = await run_in_threadpool(self.study, name)
            self.definitions.name(project, study)
        return study, self.definitions.of(study)

    async def commit(self, name: str, make: Callable[[StudyFacts, Study], Request]) -> tuple[StudyFacts, Answer]:
        """The answer to a request to a study, and which one that is. Raises what refuses it, and NotFound."""
        study, definition = await self.known(name)
        try:
            return study, await self.commits.do(make(study, definition))
        except StudyDeleted:
            self.definitions.forget(self.store.project, name)
        study, definition = await self.known(name)  # there may be another one of that name by now
        return study, await self.commits.do(make(study, definition))

    def earlier(self, names: Sequence[str]) -> dict[str, Study]:
        """The definitions of studies to learn from; raises InvalidInput for one that is not there."""
        found: dict[str, Study] = {}
        for i, name in enumerate(names):
            try:
                found[name] = self.defined(name)[1]
            except NotFound:
                raise InvalidInput(f"earlier.{i}", "the name of a study of this service", name) from None
        return found

    async def ask_engine(self, kind: str, study_id: int, max_wait_s: float, **payload: Any) -> dict[str, Any]:
        """The engine's answer to a job, if it comes in time; raises Unavailable."""
        try:
            async with asyncio.timeout(max_wait_s):
                return await self.engine.call(kind, study_id, **payload)
        except TimeoutError:
            raise Unavailable(f"the engine did not answer within {max_wait_s:g} s") from None


async def allowed(request: HttpRequest) -> Parts:
    """What the caller may see of the service, if its role allows the route. Raises Unauthorized and Forbidden."""
    parts: Parts = request.app.state.parts
    return parts.within(check(request.scope, f"{request.method} {request.scope['route'].path}"))


PartsDep = Annotated[Parts, Depends(allowed)]


Name = Annotated[str, Path(pattern=NO_NUL, description="Its name")]
Number = Annotated[int, Path(ge=0, lt=2**31, description="The trial's number")]
Limit = Annotated[int, Query(ge=1, le=1000, description="At most so many")]
MaxWait = Annotated[float, Query(gt=0, le=600, description="How long to wait for the engine")]
Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before")]


def reply(answer: BaseModel, status: int = 200) -> Response:
    """An answer as JSON, without checking once more what was made here: asks and tells are many."""
    text = answer.model_dump_json(exclude_none=True)
    return Response(text, status, media_type="application/json")


def write_cursor(position: str | int) -> str:
    """An opaque cursor that continues behind ``position``."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def read_cursor(cursor: str | None, kind: type[Any], start: Any) -> Any:
    """The position that a cursor stands for; ``start`` without one."""
    if cursor is None:
        return start
    try:
        position = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except ValueError:
        position = None
    if not isinstance(position, kind) or (isinstance(position, str) and "\0" in position):
        raise InvalidInput("cursor", "next_cursor of the page before", cursor)
    return position
