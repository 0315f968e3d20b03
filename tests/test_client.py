"""The client against the real service: studies, asks and tells, results, errors."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_type

import httpx
import numpy as np
import pytest
from serving import PATIENCE, Clock, Server

from suffice.api import calls, client_study
from suffice.api.app import create_app
from suffice.api.client import (
    AsyncClient,
    AsyncStudy,
    AsyncTrial,
    BudgetSpec,
    Client,
    Conflict,
    ConnectionFailed,
    InvalidRequest,
    LeaseLost,
    Measurement,
    NotFound,
    ServerError,
    Stop,
    Study,
    SufficeClientError,
    Trial,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
)
from suffice.api.settings import Settings
from suffice.api.wire import BestOut, TrialAdd
from suffice.optimizer import Categorical, Float, Space
from suffice.optimizer import Measurement as CoreMeasurement
from suffice.optimizer.model_choice import ModelChoice

X = {"x": {"type": "float", "low": 0, "high": 10}}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture
def study(client: Client) -> Study:
    return client.create_study("s", X)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, which take no time here."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


def asked(study: Study, x: float = 1.0) -> Trial:
    study.enqueue({"x": x})
    trial = study.ask()
    assert isinstance(trial, Trial)
    return trial


def states(study: Study) -> list[str]:
    return [trial.state for trial in study.history()]


# --- studies ----------------------------------------------------------------------------------------------------------


def test_importing_the_client_loads_nothing_heavy():
    heavy = {"torch", "numpy", "scipy", "fastapi", "sqlmodel", "suffice.optimizer"}
    code = f"import sys, suffice.api.client; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_space_defines_the_same_study_as_its_json(client: Client):
    space = Space(x=Float(0.1, 10, log=True), kind=Categorical("a", "b"), constraints=["x <= 5"])
    by_space = client.create_study("a", space, "maximize", seed=1)
    definition = space.to_json()
    by_json = client.create_study(
        "b",
        definition["parameters"],
        [{"direction": "maximize"}],
        parameter_constraints=definition["parameter_constraints"],
        seed=1,
    )
    assert by_space.info.parameters == by_json.info.parameters
    assert by_space.info.parameter_constraints == ["x <= 5"] == by_json.info.parameter_constraints
    assert by_space.info.objectives == by_json.info.objectives


def test_an_existing_study_is_taken_when_it_is_the_same(client: Client):
    created = client.create_study("s", X, {"loss": "minimize"}, budget=5)
    with pytest.raises(Conflict, match="s"):
        client.create_study("s", X, {"loss": "minimize"})
    taken = client.create_study("s", Space(x=Float(0, 10)), {"loss": "minimize"}, exist_ok=True)
    assert taken.info.seed == created.info.seed
    with pytest.raises(Conflict, match="objectives"):
        client.create_study("s", X, {"accuracy": "maximize"}, exist_ok=True)


def test_studies_are_found_by_name_listed_changed_and_deleted(client: Client):
    for name in ("a", "b"):
        client.create_study(name, X)
    assert [study.name for study in client.studies()] == ["a", "b"]
    study = client.study("a")
    assert study.update(budget=3, metadata={"k": None}).budget.trials == 3
    assert study.info.metadata == {"k": None}
    assert study.stop().state == "STOPPED"
    stopped = study.ask()
    assert isinstance(stopped, Stop)
    assert "stopped" in stopped.reason
    assert study.resume().state == "ACTIVE"
    study.delete()
    with pytest.raises(NotFound):
        client.study("a")


@pytest.mark.parametrize("name", ["", "..", "a/b"])
def test_names_cannot_lead_elsewhere(client: Client, name: str):
    with pytest.raises((InvalidRequest, NotFound)):
        client.study(name)


def test_what_is_exported_can_be_imported_under_another_name(client: Client, study: Study):
    study.add({"x": 1}, 2.5)
    study.enqueue({"x": 3})
    copy = client.import_study(study.export(), "copy")
    assert [(t.params, t.state, t.value) for t in copy.history()] == [
        ({"x": 1.0}, "COMPLETED", 2.5),
        ({"x": 3.0}, "WAITING", None),
    ]


# --- trials -----------------------------------------------------------------------------------------------------------


def test_a_told_trial_is_recorded_once(study: Study):
    trial = asked(study)
    trial.tell(0.25, stderr=0.1)
    assert (trial.state, trial.value, trial.measurements[0].stderr) == ("COMPLETED", 0.25, 0.1)
    trial.tell(0.25, stderr=0.1)
    with pytest.raises(Conflict):
        trial.tell(0.5)
    assert study.trial(trial.number).value == 0.25


def test_queued_points_can_be_told_by_number(study: Study):
    number = study.enqueue({"x": 2}).number
    assert study.tell(number, 4.0).state == "COMPLETED"


def test_a_lease_token_works_in_another_process(study: Study):
    trial = asked(study)
    assert trial.data.lease is not None
    study.trial(trial.number, trial.data.lease.token).tell(1.0)
    assert states(study) == ["COMPLETED"]


@pytest.mark.parametrize(
    "result",
    [
        2,
        2.0,
        np.float32(2),
        np.array([2.0]),
        {"objective": 2},
        Measurement(metric="objective", value=2),
        CoreMeasurement("objective", 2.0),
        [Measurement(metric="objective", value=1), Measurement(metric="objective", value=3)],
    ],
    ids=repr,
)
def test_results_come_in_many_forms(study: Study, result: Any):
    trial = asked(study)
    trial.tell(result)
    assert trial.value == 2.0


@pytest.mark.parametrize(
    "result", [float("nan"), float("inf"), None, "1", True, {"objective": "x"}, [], np.ones(2)], ids=repr
)
def test_what_is_no_result_is_refused_before_it_is_sent(study: Study, result: Any):
    trial = asked(study)
    with pytest.raises(InvalidRequest, match="measurements"):
        trial.tell(result)
    assert trial.state == "RUNNING"


def test_errors_name_the_field_what_was_expected_and_what_came(client: Client, study: Study):
    with pytest.raises(InvalidRequest, match=r"low.*got 3") as bad:
        client.create_study("bad", {"x": {"type": "float", "low": 3, "high": 1}})
    assert any("x" in problem.field for problem in bad.value.problems)
    with pytest.raises(InvalidRequest, match=r"parameters.x.*expected.*got 11"):
        study.enqueue({"x": 11})
    with pytest.raises(InvalidRequest, match="lss"):
        asked(study).tell({"lss": 1})
    with pytest.raises(InvalidRequest, match=r"parameters\.0\.typo"):
        client.create_study("bad", [{"name": "x", "type": "float", "low": 0, "high": 1, "typo": 1}])


def test_trials_fail_are_infeasible_pruned_reported_and_cancelled(study: Study):
    asked(study).fail("broken", retry=False)
    asked(study).infeasible("out of memory")
    pruned = asked(study)
    pruned.report(3.0, step=1)
    pruned.prune()
    study.cancel(study.enqueue({"x": 5}), "not needed")
    assert states(study) == ["FAILED", "INFEASIBLE", "PRUNED", "CANCELLED"]
    assert study.trial(2).measurements[0].step == 1
    assert study.trial(1).reason == "out of memory"
    retried = asked(study)
    retried.fail("try again")
    assert retried.state == "WAITING"


def test_images_go_with_a_trial(study: Study, server: Server):
    png = b"\x89PNG\r\n\x1a\n" + bytes(16)
    trial = asked(study)
    trial.attach("grid.png", png)
    with pytest.raises(InvalidRequest, match="image"):
        trial.attach("page", b"<html>")
    trial.tell(1.0)
    kept = httpx.get(f"{server.url}/v1/studies/{study.name}/trials/{trial.number}/images/grid.png")
    assert kept.content == png


def test_several_trials_are_asked_for_at_once(study: Study):
    for x in range(3):
        study.enqueue({"x": x})
    several = study.ask(3)
    assert isinstance(several, list)
    assert [t.params for t in several] == [{"x": 0.0}, {"x": 1.0}, {"x": 2.0}]


def test_history_comes_in_pages(study: Study, server: Server, monkeypatch: pytest.MonkeyPatch):
    added = study.add_many([({"x": x}, x**2) for x in range(4)] + [TrialAdd(parameters={"x": 9}, state="WAITING")])
    assert [t.number for t in added] == [0, 1, 2, 3, 4]
    monkeypatch.setattr(client_study, "PAGE", 2)
    before = server.watched.count("/trials")
    assert [t.value for t in study.history()] == [0, 1, 4, 9, None]
    assert server.watched.count("/trials") - before == 3
    assert [t.number for t in study.history("WAITING")] == [4]


def test_events_arrive_as_they_happen_and_go_on_after_a_restart(study: Study, server: Server, waits: list[float]):
    study.enqueue({"x": 1})
    events = study.events(after=0)
    seen = [next(events)]
    while seen[-1].event != "trial":
        seen.append(next(events))
    assert seen[-1].data["parameters"] == {"x": 1.0}
    server.stop()
    server.start()
    study.enqueue({"x": 2})
    while seen[-1].data.get("number") != 1:
        seen.append(next(events))
    ids = [event.id for event in seen]
    assert ids == sorted(ids)
    assert sum(event.data.get("number") == 0 for event in seen) == 1


# --- when things go wrong ---------------------------------------------------------------------------------------------


def test_a_busy_service_is_asked_again_when_it_says(study: Study, server: Server, waits: list[float]):
    server.watched.refusals += [(503, {"retry-after": "7"}), (502, {}), (504, {})]
    study.refresh()
    assert waits[0] == 7
    assert 0 < waits[1] < waits[2] < 2


def test_retries_end(server: Server, study: Study, waits: list[float]):
    server.watched.refusals += [(503, {"retry-after": "1"})] * 4
    with Client(server.url, retries=3) as client, pytest.raises(Unavailable) as busy:
        client.study("s")
    assert busy.value.retry_after == 1
    assert waits == [1, 1, 1]


def test_a_service_that_never_answered_is_soon_given_up(waits: list[float]):
    with Client("http://127.0.0.1:9", retries=50) as client, pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:9"):
        client.studies()
    assert len(waits) == 2


def test_something_else_at_the_address_is_noticed(tmp_path: Path):
    async def page(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"<html>welcome</html>"})

    with (
        Server(tmp_path, app=page) as other,
        Client(other.url) as client,
        pytest.raises(UnexpectedAnswer, match="welcome"),
    ):
        client.studies()


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, Unauthorized), (403, Unauthorized), (404, UnexpectedAnswer), (409, Conflict), (500, ServerError)],
)
def test_every_refusal_has_its_error(client: Client, server: Server, status: int, error: type[SufficeClientError]):
    server.watched.refusals.append((status, {}))
    with pytest.raises(error, match=f"{status}|busy"):
        client.studies()


def test_an_ask_whose_answer_was_lost_is_given_the_same_trial(study: Study, server: Server, waits: list[float]):
    study.enqueue({"x": 1})
    study.enqueue({"x": 2})
    server.watched.losing.append("/ask")
    trial = study.ask()
    assert isinstance(trial, Trial)
    assert server.watched.count("/ask") == 2
    assert states(study) == ["RUNNING", "WAITING"]


def test_lost_answers_to_tell_fail_create_and_delete_change_nothing(client: Client, server: Server, waits: list[float]):
    server.watched.losing.append("/v1/studies")
    study = client.create_study("once", X)
    for verb, act in (
        ("tell", lambda t: t.tell(1.0)),
        ("fail", lambda t: t.fail("x", retry=False)),
        ("cancel", lambda t: t.cancel()),
    ):
        server.watched.losing.append(f"/{verb}")
        act(asked(study))
    assert states(study) == ["COMPLETED", "FAILED", "CANCELLED"]
    server.watched.losing.append("/once")
    study.delete()
    assert len(waits) == 5
    assert not server.watched.losing


def test_points_are_not_added_twice_when_the_answer_was_lost(study: Study, server: Server, waits: list[float]):
    server.watched.losing.append("/trials")
    assert study.enqueue({"x": 1}).number == 0
    assert states(study) == ["WAITING"]
    assert len(waits) == 1


class Noticing(httpx.HTTPTransport):
    """Says when a connection was refused."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = threading.Event()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return super().handle_request(request)
        except httpx.ConnectError:
            self.refused.set()
            raise


def test_a_restart_of_the_service_is_waited_for(server: Server, study: Study, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calls, "FIRST_WAIT", 0.05)
    transport = Noticing()
    with Client(server.url, transport=transport) as client:
        patient = client.study("s")
        trial = asked(patient)
        server.stop()
        teller = threading.Thread(target=trial.tell, args=(4.0,))
        teller.start()
        assert transport.refused.wait(PATIENCE)
        server.start()
        teller.join(PATIENCE)
        assert [t.value for t in patient.history()] == [4.0]


def test_a_trial_whose_lease_went_to_someone_else_is_refused(tmp_path: Path):
    clock = Clock()
    with Server(tmp_path, clock=clock) as server, Client(server.url) as client:
        study = client.create_study("s", X, lease_seconds=10)
        slow = asked(study)
        clock.advance(11)
        quick = study.ask()
        assert isinstance(quick, Trial)
        assert quick.number == slow.number
        with pytest.raises(LeaseLost):
            slow.tell(1.0)
        assert slow.lost
        quick.tell(2.0)
        assert study.trial(0).value == 2.0


# --- asyncio ----------------------------------------------------------------------------------------------------------


def test_the_async_client_does_the_same(tmp_path: Path):
    async def main() -> None:
        app = create_app(Settings(database=f"sqlite:///{tmp_path}/test.db", workers=0))
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), AsyncClient("http://127.0.0.1", transport=transport) as client:
            study = await client.create_study("s", X)
            for x in range(4):
                await study.enqueue({"x": x})
            trial = await study.ask()
            assert isinstance(trial, AsyncTrial)
            await trial.tell(1.0)
            async for each in study.trials(1):
                await each.tell(2.0)
            several = await study.ask(2)
            assert isinstance(several, list)
            async with study.hold(several[0]) as held:
                await held.tell(3.0)
            with pytest.raises(ZeroDivisionError):
                async with study.hold(several[1]):
                    raise ZeroDivisionError
            assert [t.state async for t in study.history()] == ["COMPLETED"] * 3 + ["WAITING"]
            with pytest.raises(NotFound):
                await client.study("none")

    asyncio.run(main())


def test_the_async_client_hears_events(server: Server):
    async def main() -> None:
        async with AsyncClient(server.url) as client:
            study = await client.create_study("s", X)
            await study.enqueue({"x": 1})
            async for event in study.events(after=0):
                if event.event == "trial":
                    assert event.data["parameters"] == {"x": 1.0}
                    return

    asyncio.run(main())


# --- typing -----------------------------------------------------------------------------------------------------------

if TYPE_CHECKING:

    def typed(client: Client, study: Study, trial: Trial) -> None:
        assert_type(client.create_study("s", X), Study)
        assert_type(study.ask(), Trial | Stop)
        assert_type(study.ask(4), list[Trial] | Stop)
        assert_type(study.enqueue({"x": 1}), Trial)
        assert_type(study.history(), Iterator[Trial])
        assert_type(study.best(), BestOut)
        assert_type(trial.tell(1.0), None)
        trial.tell("no")  # type: ignore[arg-type]

    async def typed_async(client: AsyncClient, study: AsyncStudy) -> None:
        assert_type(await client.create_study("s", X), AsyncStudy)
        assert_type(await study.ask(), AsyncTrial | Stop)
        assert_type(await study.enqueue({"x": 1}), AsyncTrial)


# --- what the model says, in contexts ---------------------------------------------------------------------------------

SITE = {**X, "site": {"type": "categorical", "choices": ["north", "south"]}}


def cost_at(x: float, site: str) -> float:
    return (x - (3 if site == "north" else 4)) ** 2


def test_a_study_with_contexts_is_tuned_and_diagnosed(tmp_path: Path):
    with Server(tmp_path, workers=1) as server, Client(server.url) as client:
        study = client.create_study("s", SITE, context=["site"], model=ModelChoice(outliers=True), seed=0)
        assert client.create_study("s", SITE, context=["site"], exist_ok=True).info.model is not None
        with pytest.raises(Conflict, match="model"):
            client.create_study("s", SITE, model={"outliers": False}, exist_ok=True)
        with pytest.raises(InvalidRequest, match=r"context\.site"):
            study.ask()
        with pytest.raises(NotFound, match="no model"):
            study.diagnostics()
        north = {"site": "north"}
        summary = study.optimize(lambda p: cost_at(**p), trials=4, context=north, progress=False)
        assert [t.params["site"] for t in summary.trials] == ["north"] * 4
        for trial in study.trials(3, context={"site": "south"}):
            trial.tell(cost_at(**trial.params), gradient={"x": 2 * (trial.params["x"] - 4)})
        asked = study.ask(context=north, fresh=True)
        assert isinstance(asked, Trial)
        assert asked.params["site"] == "north"
        best = study.best({"site": "south"})
        assert best.params["site"] == "south"
        assert best.trial.number in range(7)
        assert study.advice(north).gain is not None
        with pytest.raises(Conflict, match="POST it"):
            study.best()
        found = study.diagnostics()
        assert [i.parameter for i in found.importance] == ["x", "site"]
        assert len(found.coverage) == 3


def test_contexts_in_asyncio(tmp_path: Path):
    async def evaluate(params: dict[str, Any]) -> float:
        return cost_at(**params)

    async def main(url: str) -> None:
        async with AsyncClient(url) as client:
            study = await client.create_study("s", SITE, context=["site"], seed=0)
            north: dict[str, Any] = {"site": "north"}
            await study.optimize(evaluate, trials=5, workers=2, context=north, progress=False)
            async for trial in study.trials(1, context=north, fresh=True):
                assert trial.params["site"] == "north"
                await trial.tell(0.0)
            assert (await study.best(north)).params["site"] == "north"
            assert (await study.diagnostics()).leave_one_out

    with Server(tmp_path, workers=1) as server:
        asyncio.run(main(server.url))


def test_definitions_say_which_setting_differs(client: Client):
    settings: dict[str, Any] = {
        "fidelity": {"target": {"n": 9}, "cost": "n"},
        "budget": {"cost": 30},
        "model": {"prior": "sparse"},
    }
    space = {**X, "n": {"type": "int", "low": 1, "high": 9}}
    study = client.create_study("s", space, **settings)
    assert study.info.budget == BudgetSpec(cost=30)
    assert client.create_study("s", space, **settings, exist_ok=True).info.fidelity == study.info.fidelity
    with pytest.raises(Conflict, match="fidelity"):
        client.create_study("s", space, fidelity={"target": {"n": 9}, "cost": "2 * n"}, exist_ok=True)
