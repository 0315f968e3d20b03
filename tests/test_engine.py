"""The engine: workers that compute, what becomes of them, and what the service does meanwhile."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop
from live import PATIENCE, Bench, Process, Service, ending, measured, serving
from sqlmodel import col, select

from suffice.api.engine import Engine
from suffice.api.store import Store
from suffice.api.tables import SuggestionRow
from suffice.api.wire import TrialAdd
from suffice.api.worker import EARLY, Worker, answer

pytestmark = pytest.mark.timeout(120)

# A worker whose refreshes do as they are told by the file `do`, and are written down in the file `done`.
ODD = """
import os, sys
from pathlib import Path
from suffice.api import worker

folder = Path({folder!r})
refresh = worker.Worker.refresh

def odd(self, study_id, count, spare, context):
    what = (folder / "do").read_text()
    with open(folder / "done", "a") as done:
        done.write(f"{{study_id}} {{count + spare}} {{what}}\\n")
    match what:
        case "crash":
            os._exit(7)
        case "raise":
            raise RuntimeError("out of ideas")
        case "wait":
            (folder / "fifo").read_text()
    return refresh(self, study_id, count, spare, context)

worker.Worker.refresh = odd
worker.main()
"""


class Odd:
    """A service whose engine worker misbehaves."""

    def __init__(self, folder: Path, service: Service) -> None:
        self.folder = folder
        self.service = service

    def do(self, what: str) -> None:
        (self.folder / "do").write_text(what)

    def hold(self) -> None:
        """Return once the worker is in a refresh that does not end."""
        while self.done[-1:] != ["wait"]:
            self.service.call("GET", "/healthz")

    def release(self) -> None:
        """Let that refresh go on, and later ones too."""
        self.do("work")
        (self.folder / "fifo").write_text("")

    @property
    def done(self) -> list[str]:
        """What was done in every refresh so far."""
        return [line.split()[2] for line in self.lines]

    @property
    def counts(self) -> list[int]:
        """How many suggestions were wanted in every refresh so far."""
        return [int(line.split()[1]) for line in self.lines]

    @property
    def lines(self) -> list[str]:
        done = self.folder / "done"
        return done.read_text().splitlines() if done.exists() else []


@pytest.fixture
def odd(tmp_path: Path) -> Generator[Odd]:
    program = tmp_path / "odd.py"
    program.write_text(ODD.format(folder=str(tmp_path)))
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "do").write_text("work")
    with serving(tmp_path, worker=(sys.executable, str(program))) as service:
        yield Odd(tmp_path, service)


def value_of(trial: dict[str, Any]) -> Any:
    return sum((x - 1) ** 2 for x in trial["parameters"].values())


def when_waiting(service: Service, count: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """A function that returns once so many asks wait for the engine."""
    engine, waiting = service.parts.engine, threading.Semaphore(0)
    refill = engine.refill

    def noticed(*args: Any) -> Any:
        waiting.release()
        return refill(*args)

    monkeypatch.setattr(engine, "refill", noticed)
    return lambda: all(waiting.acquire(timeout=PATIENCE) for _ in range(count))


# --- what is computed, and when ---------------------------------------------------------------------------------------


class Noting:
    """An engine worker that only says that it was given a job."""

    id = 1

    def __init__(self) -> None:
        self.given = asyncio.Event()

    async def start(self) -> bool:
        return True

    async def do(self, job: Mapping[str, Any]) -> dict[str, Any]:
        self.given.set()
        return {"result": {"current": True, "ready": 1}}

    async def gone(self) -> None:
        await asyncio.Event().wait()

    def kill(self) -> None: ...

    async def end(self) -> None: ...


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_every_change_is_refreshed_though_nothing_else_happens(run: Callable[..., None]):
    async def change() -> None:
        worker = Noting()
        async with Engine(1, lambda aside: worker).running() as engine, asyncio.timeout(PATIENCE):
            for _ in range(30):  # uvloop's clock has a timer come too early three times in ten
                engine.wake(1)
                await worker.given.wait()
                worker.given.clear()

    run(change())


def test_many_tells_are_one_refresh(odd: Odd):
    study = odd.service.study("burst")
    trials = odd.service.ask(study, 8)
    odd.do("wait")
    odd.service.tell(study, trials[0], 1.0)
    odd.hold()
    started = len(odd.done)
    for trial in trials[1:]:
        odd.service.tell(study, trial, 2.0)
    odd.release()
    (fresh,) = odd.service.ask(study, fresh=True)
    assert fresh["source"]["observations"] == 8
    assert len(odd.done) <= started + 1


def test_asks_that_wait_are_answered_from_one_joint_batch(odd: Odd, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("suffice.api.engine.GATHER_SECONDS", PATIENCE)
    study = odd.service.study("batch")
    trials = odd.service.ask(study, 8)
    odd.do("wait")
    for trial in trials:
        odd.service.tell(study, trial, value_of(trial))
    odd.hold()
    waits = when_waiting(odd.service, 5, monkeypatch)
    with ThreadPoolExecutor(5) as pool:
        asks = [pool.submit(odd.service.ask, study, 2, fresh=True) for _ in range(5)]
        assert waits()
        before, known = len(odd.counts), odd.counts[-1]
        odd.release()  # what that refresh finds is enough for some of them; the others wait for one more
        trials = [trial for ask in asks for trial in ask.result()]
    assert len({tuple(t["parameters"].values()) for t in trials}) == len(trials) == 10
    assert all(t["source"]["observations"] == 8 for t in trials)
    assert odd.counts[before:] == [10 - known]


def refreshed(worker: Worker, study_id: int) -> dict[str, Any]:
    """What a refresh says, but for the seconds that it took."""
    found = worker.refresh(study_id, 2)
    seconds = found.pop("seconds")
    assert set(seconds) == {"fit", "acquisition"}
    assert min(seconds.values()) >= 0
    return found


def test_suggestions_are_prepared_when_a_study_is_made_and_after_a_tell(tmp_path: Path):
    bench = Bench(tmp_path)
    worker = Worker(bench.store)
    assert refreshed(worker, bench.id) == {"current": True, "ready": EARLY}
    (trial,) = bench.ask()
    bench.tell(trial, 1.0)
    assert refreshed(worker, bench.id) == {"current": True, "ready": 2}
    assert [t.source.data_version for t in bench.ask(2)] == [1, 1]


def test_a_worker_that_reads_only_changes_suggests_what_a_new_one_does(tmp_path: Path):
    bench = Bench(tmp_path, noise="none")
    warm = Worker(bench.store)
    for i in range(8):
        warm.refresh(bench.id, 1)
        (trial,) = bench.ask()
        bench.tell(trial, (trial.parameters["x"] - 3e5) ** 2)
        if i == 5:
            bench.store.add(
                bench.id, [TrialAdd(parameters={"x": 1e5}), TrialAdd(parameters={"x": 7e5}, state="FAILED")]
            )
            bench.ask()
    warm.refresh(bench.id, 3)
    known = ready(bench)
    Worker(Store(bench.database)).refresh(bench.id, 3)
    assert ready(bench) == known


def ready(bench: Bench) -> list[dict[str, Any]]:
    with bench.database.read() as session:
        return [row.parameters for row in session.exec(select(SuggestionRow).order_by(col(SuggestionRow.id)))]


def test_a_worker_keeps_only_so_many_studies_warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("suffice.api.worker.WARM_STUDIES", 2)
    bench = Bench(tmp_path)
    ids = [bench.id, *(bench.create(f"study{i}") for i in range(3))]
    worker = Worker(bench.store)
    for study_id in ids + ids:
        assert worker.refresh(study_id, 1)["current"]
    assert len(worker._warm) == 2


def test_what_goes_wrong_in_a_job_is_its_answer(tmp_path: Path):
    bench = Bench(tmp_path)
    worker = Worker(bench.store)
    assert answer(worker, {"kind": "best", "study": bench.id})["error"]["type"] == "NotFound"
    assert answer(worker, {"kind": "refresh", "study": 99, "count": 1, "spare": 0})["error"]["type"] == "NotFound"
    wrong = answer(worker, {"kind": "predict", "study": bench.id, "configurations": [{"x": -1}]})
    assert [(p["field"], p["got"]) for p in wrong["error"]["problems"]] == [("configurations.0.x", "-1")]
    assert answer(worker, {"kind": "guess", "study": bench.id})["error"]["type"] == "InvalidInput"


def test_analyses_want_results_and_are_kept_with_the_study(tmp_path: Path):
    bench = Bench(tmp_path)
    refused = answer(Worker(bench.store), {"kind": "analyses", "study": bench.id})
    assert refused["error"]["type"] == "NotFound"
    assert bench.store.analyses(bench.id) is None
    for version in (1, 2):
        bench.store.save_analyses(bench.id, [{"name": f"card {version}"}], version)
    kept = bench.store.analyses(bench.id)
    assert kept is not None
    assert (kept.data_version, kept.cards) == (2, [{"name": "card 2"}])


def test_several_who_want_analyses_share_them_and_a_worker_of_their_own(odd: Odd):
    """The engine's own worker is busy for as long as it likes, and whoever does not wait stops nothing."""
    study = odd.service.study("analysed")
    url = f"{study}/analyses?max_wait_s="
    (trial,) = odd.service.ask(study)
    odd.do("wait")
    odd.service.tell(study, trial, 1.0)
    odd.hold()
    assert "being computed" in odd.service.call("GET", f"{url}0.01", status=503)["detail"]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: odd.service.call("GET", f"{url}{PATIENCE}", status=404), range(3)))
    assert all("fewer than three" in problem["detail"] for problem in answers)
    odd.release()


def test_the_recommendation_is_kept_with_the_study(tmp_path: Path):
    bench = Bench(tmp_path)
    bench.store.add(bench.id, [TrialAdd(parameters={"x": float(i)}, measurements=[measured(i)]) for i in range(3)])
    best = Worker(bench.store).best(bench.id)
    assert (best["number"], best["data_version"]) == (0, 1)
    assert bench.store.best(bench.id) == (best, 1)


# --- what can happen to workers ---------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_is_replaced_and_its_job_done_again(odd: Odd):
    study = odd.service.study("killed")
    trials = odd.service.ask(study, 3)
    odd.do("wait")
    for trial in trials:
        odd.service.tell(study, trial, 1.0)
    odd.hold()
    odd.do("work")
    (pid,) = odd.service.parts.engine.alive
    ended = ending(pid)
    os.kill(pid, signal.SIGKILL)
    assert ended()
    (trial,) = odd.service.ask(study, fresh=True)
    assert trial["source"]["observations"] == 3
    assert odd.service.parts.engine.alive.isdisjoint({pid})
    assert len(odd.service.parts.engine.alive) == 1


def test_a_job_that_kills_workers_is_given_up_and_reported(odd: Odd):
    study = odd.service.study("deadly")
    odd.service.ask(study, 16)
    odd.do("crash")
    before = len(odd.done)
    problem = odd.service.call("POST", f"{study}/ask", {"max_wait_s": PATIENCE}, status=503)
    assert problem["title"] == "Engine failed"
    assert "3 engine workers died over refresh" in problem["detail"]
    assert len(odd.done) <= before + 6
    odd.do("work")
    assert len(odd.service.ask(study)) == 1


def test_an_error_in_a_job_is_reported_and_the_next_may_be_fine(odd: Odd):
    study = odd.service.study("raises")
    odd.service.ask(study, 16)
    (pid,) = odd.service.parts.engine.alive
    odd.do("raise")
    answer = odd.service.http.post(f"{study}/ask", json={"max_wait_s": PATIENCE})
    assert answer.status_code == 503
    assert "RuntimeError: out of ideas" in answer.json()["detail"]
    assert answer.headers["retry-after"]
    odd.do("work")
    assert len(odd.service.ask(study)) == 1
    assert odd.service.parts.engine.alive == {pid}


def test_a_study_that_was_deleted_does_not_keep_a_worker(odd: Odd, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("suffice.api.engine.FORGET_SECONDS", 0.0)
    odd.do("wait")
    stuck = odd.service.study("stuck")
    odd.hold()
    odd.do("work")
    odd.service.call("DELETE", stuck)
    assert len(odd.service.ask(odd.service.study("free"))) == 1


def test_an_ask_that_waits_is_told_when_its_study_is_deleted(odd: Odd, monkeypatch: pytest.MonkeyPatch):
    odd.do("wait")
    study = odd.service.study("deleted")
    waits = when_waiting(odd.service, 1, monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        ask = pool.submit(odd.service.http.post, f"{study}/ask", json={"max_wait_s": PATIENCE})
        assert waits()
        odd.service.call("DELETE", study)
        assert ask.result().status_code == 404


def test_asks_that_wait_are_let_go_when_the_service_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with ThreadPoolExecutor(1) as pool:
        with serving(tmp_path, workers=0) as service:
            study = service.study("stops")
            waits = when_waiting(service, 1, monkeypatch)
            ask = pool.submit(httpx.post, f"{service.url}{study}/ask", json={"max_wait_s": PATIENCE}, timeout=PATIENCE)
            assert waits()
        assert ask.result().status_code == 503


# --- the service as a process -----------------------------------------------------------------------------------------


@pytest.mark.integration
def test_the_service_never_loads_torch(tmp_path: Path):
    """After asks that needed the model, its engine worker has loaded the library, and it has not."""
    with Process(tmp_path) as service:
        study = service.study("light", noise="none")
        for _ in range(8):
            (trial,) = service.ask(study, fresh=True)
            service.tell(study, trial, value_of(trial))
        assert trial["source"]["method"] != "quasi-random"
        service.call("GET", f"{study}/best")
        service.call("POST", f"{study}/predict", {"configurations": [{"x1": 1, "x2": 1}]})
        (worker,) = service.children()
        assert "torch" in Path(f"/proc/{worker}/maps").read_text()
        assert "torch" not in Path(f"/proc/{service.popen.pid}/maps").read_text()


@pytest.mark.integration
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_the_service(tmp_path: Path, sign: signal.Signals):
    with Process(tmp_path, "--workers", "2") as service:
        service.ask(service.study("any"))
        ends = [ending(pid) for pid in service.children()]
        assert len(ends) == 2
        service.end(sign)
        assert all(ended() for ended in ends)


@pytest.mark.integration
def test_after_kill_9_leases_hold_and_keys_still_mean_the_same(tmp_path: Path):
    with Process(tmp_path) as service:
        study = service.study("survives")
        told, held = service.ask(study, 2, idempotency_key="k")
        service.tell(study, told, 1.5)
        before = service.call("GET", f"{study}/export")
        service.end(signal.SIGKILL)
    with Process(tmp_path) as service:
        assert service.call("GET", f"{study}/export") == before
        again = service.ask(study, 2, idempotency_key="k")
        assert [t["number"] for t in again] == [0, 1]
        assert again[1]["lease"]["token"] == held["lease"]["token"]
        assert service.tell(study, told, 1.5, status=200)["state"] == "COMPLETED"
        service.call("POST", f"{study}/trials/1/heartbeat", {"lease_token": held["lease"]["token"]})
        service.tell(study, held, 2.5)
        assert service.ask(study, fresh=True)[0]["source"]["observations"] == 2
