"""The service for its own tests: its store alone, the real application in a thread, or `suffice serve` as a process."""

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import httpx
from fastapi import FastAPI
from sqlmodel import select

from suffice.api.app import create_app
from suffice.api.batches import Given
from suffice.api.database import Database, migrate
from suffice.api.leases import Leases
from suffice.api.server import Server
from suffice.api.settings import Settings
from suffice.api.store import Store
from suffice.api.tables import StudyRow, TrialRow, key_of, spent
from suffice.api.wire import Ask, MeasurementSpec, StudyCreate, Tell, TrialOut
from suffice.api.workers import WORKER
from suffice.optimizer import Source, Stop, StopReason, Suggestion, TrialState

PATIENCE = 60.0  # seconds; nothing waits so long unless it is broken

BRANIN = {
    "parameters": [
        {"name": "x1", "type": "float", "low": -5, "high": 10},
        {"name": "x2", "type": "float", "low": 0, "high": 15},
    ],
    "objectives": [{"metric": "loss"}],
    "seed": 0,
}


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


class Bench:
    """A store with one study, a clock, and suggestions made up as needed."""

    def __init__(self, place: Path | str, **fields: Any) -> None:
        """In a folder, or at a database's address."""
        self.clock = Clock()
        self.database = Database(place if isinstance(place, str) else f"sqlite:///{place / 'test.db'}")
        migrate(self.database)
        self.store = Store(self.database, self.clock)
        self.leases = Leases(self.database, self.clock)
        self.made = 0
        self.id = self.create("study", **fields)

    def create(self, name: str, **fields: Any) -> int:
        x: Any = {"name": "x", "type": "float", "low": 0, "high": 1e6}
        definition = StudyCreate(name=name, parameters=[x], **{"lease_seconds": 10, **fields})
        return self.store.create(definition, seed=1)[0]

    def prepare(self, count: int, *params: dict[str, Any], exhausted: bool = False) -> bool:
        """Ready suggestions that know everything."""
        known = self.store.changes(self.id, 0)
        for _ in range(count - len(params)):
            self.made += 1
            params += ({"x": float(self.made)},)
        ready = [Suggestion(p, Source("expected_improvement")) for p in params]
        stop = Stop(StopReason.EXHAUSTED, "everything was tried") if exhausted else None
        return self.store.replace_ready(self.id, ready, known, stop=stop)

    def ask(self, count: int = 1, since: int = 0, **fields: Any) -> list[TrialOut]:
        given = self.leases.ask(self.id, Ask(count=count, **fields), since)
        assert isinstance(given, Given), given
        return given.trials

    def take(self) -> TrialOut:
        """One new trial, leased."""
        self.prepare(1)
        (trial,) = self.ask()
        return trial

    def tell(self, trial: TrialOut, value: float = 1.0, **fields: Any) -> tuple[TrialOut, bool]:
        return self.leases.tell(self.id, trial.number, result(value, token(trial), **fields))

    def state(self, number: int) -> str:
        return self.store.trial(self.id, number).state

    def row(self) -> StudyRow:
        with self.database.read() as session:
            return session.exec(select(StudyRow).where(StudyRow.id == self.id)).one()


def token(trial: TrialOut) -> str:
    assert trial.lease is not None
    return trial.lease.token


def measured(value: float, step: int | None = None) -> MeasurementSpec:
    return MeasurementSpec(metric="objective", value=value, step=step)


def result(value: float, token: str | None, **fields: Any) -> Tell:
    return Tell(lease_token=token, measurements=[measured(value)], **fields)


def check_counters(bench: Bench) -> None:
    with bench.database.read() as session:
        rows = session.exec(select(TrialRow).where(TrialRow.study_id == bench.id)).all()
        study = session.exec(select(StudyRow).where(StudyRow.id == bench.id)).one()
    assert study.used == sum(spent(TrialState(row.state), row.source["method"]) for row in rows)
    assert study.next_number == len(rows)
    assert {state: n for state, n in study.counts.items() if n} == Counter(row.state for row in rows)
    assert all(row.sequence <= study.sequence for row in rows)
    assert len({row.sequence for row in rows}) == len(rows)
    assert all(row.key == key_of(row.parameters) for row in rows)


class Caller:
    """Requests to a service, whose answers' status is checked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=PATIENCE)

    def call(self, method: str, path: str, body: Any = None, *, status: int | None = None, **options: Any) -> Any:
        """The JSON of the answer."""
        answer = self.http.request(method, path, json=body, **options)
        expected = answer.is_success if status is None else answer.status_code == status
        assert expected, f"{answer.status_code}: {answer.text}"
        return answer.json() if answer.content else None

    def study(self, name: str, **fields: Any) -> str:
        """Create a study (of Branin's parameters unless told otherwise); its path."""
        self.call("POST", "/v1/studies", {"name": name, **BRANIN, **fields}, status=201)
        return f"/v1/studies/{name}"

    def ask(self, study: str, count: int = 1, **fields: Any) -> list[dict[str, Any]]:
        answer = self.call("POST", f"{study}/ask", {"count": count, "max_wait_s": PATIENCE, **fields}, status=201)
        trials: list[dict[str, Any]] = answer["trials"]
        return trials

    def stopped(self, study: str, **fields: Any) -> dict[str, Any]:
        """Why an ask was answered with stop."""
        answer = self.call("POST", f"{study}/ask", {"max_wait_s": PATIENCE, **fields}, status=200)
        stop: dict[str, Any] = answer["stop"]
        return stop

    def tell(self, study: str, trial: dict[str, Any], value: float, **options: Any) -> Any:
        body = {"lease_token": trial["lease"]["token"], "measurements": [{"metric": "loss", "value": value}]}
        return self.call("POST", f"{study}/trials/{trial['number']}/tell", body, **options)


class Service(Caller):
    """A service in this process."""

    def __init__(self, app: FastAPI, url: str, clock: Clock) -> None:
        super().__init__(url)
        self.parts = app.state.parts
        self.clock = clock


@contextmanager
def serving(folder: Path, worker: Sequence[str] = WORKER, **settings: Any) -> Generator[Service]:
    """A service on a database in ``folder``, unless told otherwise; ``worker`` starts its engine workers."""
    clock = Clock()
    app = create_app(Settings(**{"database": f"sqlite:///{folder / 'suffice.db'}", **settings}), clock, worker)
    ready = threading.Event()
    server = Server(app, ready.set)
    server.config.port = 0
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        service = Service(app, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", clock)
        with service.http:
            yield service
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
    assert not thread.is_alive()


def parse(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Events from the lines of a stream."""
    event: dict[str, Any] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if not line:
            yield event
            event = {}
            continue
        name, _, value = line.partition(": ")
        event[name] = json.loads(value) if name == "data" else value


@contextmanager
def watching(service: Service, study: str, **options: Any) -> Generator[Iterator[dict[str, Any]]]:
    with httpx.stream("GET", f"{service.url}{study}/events", timeout=PATIENCE, **options) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield parse(answer.iter_lines())


def add(service: Service, study: str, count: int = 1) -> None:
    point = {"parameters": {"x1": 1, "x2": 2}}
    service.call("POST", f"{study}/trials", {"trials": [point] * count})


class Process(Caller):
    """`suffice serve` as a process."""

    def __init__(self, folder: Path, *flags: str, database: str | None = None) -> None:
        database = database or f"sqlite:///{folder / 'suffice.db'}"
        command = [sys.executable, "-m", "suffice.api.cli", "serve", "--port", "0", "--database", database, *flags]
        self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.popen.stdout is not None
        super().__init__(self.popen.stdout.readline().strip())
        assert self.popen.stdout.readline() == "ready\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.popen.poll() is None:
            self.end(signal.SIGKILL)

    def children(self) -> list[int]:
        """The engine workers' process ids."""
        return [int(pid) for pid in Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children").read_text().split()]

    def end(self, sign: signal.Signals = signal.SIGTERM) -> int:
        self.http.close()
        self.popen.send_signal(sign)
        assert self.popen.stdout is not None
        self.popen.stdout.close()
        return self.popen.wait(PATIENCE)


def ending(pid: int) -> Callable[[], bool]:
    """For a process that runs now: a function that waits for its end, and says whether it came."""
    fd = os.pidfd_open(pid)

    def ended() -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_READ)
            done = bool(selector.select(PATIENCE))
        os.close(fd)
        return done

    return ended
