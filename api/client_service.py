"""What can be done with a service, for blocking and asyncio clients alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from .calls import Setting, body, build, call, define, differences, study_path
from .client_errors import Conflict
from .client_study import StudyCalls, delete
from .flows import Flow, Request, operation
from .wire import BudgetSpec, ObjectiveSpec, ParameterSpec, StudyExport, StudyOut, StudyPage

Parameters = Mapping[str, Mapping[str, Any]] | Sequence[ParameterSpec | Mapping[str, Any]] | Any
"""A `suffice.optimizer.Space`, {name: {"type": ..., ...}}, or a list of definitions as the REST API writes them."""

Objectives = str | Mapping[str, str] | Sequence[ObjectiveSpec | Mapping[str, Any]]
""""minimize", "maximize", {metric: direction}, or a list as the REST API writes it."""

StudyT = TypeVar("StudyT", bound=StudyCalls[Any])


class ClientCalls(Generic[StudyT]):
    """A service."""

    _link: Any
    _study: ClassVar[Any]

    @operation
    def create_study(
        self,
        name: str,
        parameters: Parameters,
        objective: Objectives = "minimize",
        *,
        parameter_constraints: Sequence[str] = (),
        outcome_constraints: Sequence[str] = (),
        budget: int | Mapping[str, Any] | BudgetSpec | None = None,
        acquisition: str | Mapping[str, Any] | None = None,
        noise: float | str | None = None,
        cost: float | Mapping[str, Any] | None = None,
        model: Setting | None = None,
        context: Sequence[str] = (),
        fidelity: Setting | None = None,
        environment: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        risk: str | Mapping[str, float] | None = None,
        early_stopping: str | Setting | None = None,
        conservative: Setting | None = None,
        earlier: Sequence[str] = (),
        global_stopping: Mapping[str, Any] | None = None,
        engine: str | None = None,
        seed: int | None = None,
        lease_seconds: float | None = None,
        max_retries: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        exist_ok: bool = False,
    ) -> Flow[StudyT]:
        """Create a study. What is left out is the service's to choose.

        ``exist_ok``: when a study of that name exists already, take it, provided that its definition is the same;
        Conflict says where it is not. ``budget`` is how many trials are handed out at most, or ``{"cost": ...}`` in the
        unit of a fidelity's cost; ``cost`` what one costs in the objective's, or ``{"price": ..., "metric": ...}``.
        ``context`` names parameters that are given with every ask, ``earlier`` studies of the service to learn from.
        The other settings are those of the core's `Study`, or their JSON; ``engine`` is "suffice" or "ax".
        """
        message = define(
            name,
            parameters,
            objective,
            parameter_constraints=list(parameter_constraints),
            outcome_constraints=list(outcome_constraints),
            budget=budget,
            acquisition=acquisition,
            noise=noise,
            cost={"price": cost} if isinstance(cost, int | float) else cost,
            model=model,
            context=list(context) or None,
            fidelity=fidelity,
            environment=environment,
            risk=risk,
            early_stopping={"policy": early_stopping} if isinstance(early_stopping, str) else early_stopping,
            conservative=conservative,
            earlier=list(earlier) or None,
            global_stopping=global_stopping,
            engine=engine,
            seed=seed,
            lease_seconds=lease_seconds,
            max_retries=max_retries,
            metadata=metadata,
        )
        return (yield from self._create(message, exist_ok))

    def _create(self, message: Any, exist_ok: bool) -> Flow[StudyT]:
        try:
            info = yield from call(self._link, Request("POST", "/v1/studies", body(message)), StudyOut)
        except Conflict as error:
            if not (exist_ok or error.repeated):
                raise
            info = yield from call(self._link, Request("GET", study_path(message.name)), StudyOut)
            if problems := differences(message, info):
                where = "; ".join(f"{p.field}: {p.expected}, asked for {p.got!r}" for p in problems)
                raise Conflict(f"a study {message.name!r} of another definition exists: {where}") from None
        return self._handle(info)

    @operation
    def study(self, name: str) -> Flow[StudyT]:
        """A study by its name; NotFound when there is none."""
        return self._handle((yield from call(self._link, Request("GET", study_path(name)), StudyOut)))

    @operation
    def studies(self) -> Flow[list[StudyT]]:
        """All studies."""
        found: list[StudyT] = []
        cursor: str | None = None
        while True:
            page = yield from call(self._link, Request("GET", "/v1/studies", params={"cursor": cursor}), StudyPage)
            found += map(self._handle, page.studies)
            cursor = page.next_cursor
            if cursor is None:
                return found

    @operation
    def import_study(self, document: StudyExport | Mapping[str, Any], name: str | None = None) -> Flow[StudyT]:
        """Take in what `Study.export` gave, under its own name or another one."""
        message = document if isinstance(document, StudyExport) else build(StudyExport, **document)
        if name is not None:
            message = message.model_copy(update={"study": message.study.model_copy(update={"name": name})})
        content = message.model_dump(mode="json", exclude_none=True)
        request = Request("POST", "/v1/studies:import", content, patience=60, repeatable=False)
        return self._handle((yield from call(self._link, request, StudyOut)))

    @operation
    def delete_study(self, name: str) -> Flow[None]:
        """Delete a study and its trials."""
        yield from delete(self._link, name)

    def _handle(self, info: StudyOut) -> StudyT:
        study: StudyT = self._study(self._link, info)
        return study
