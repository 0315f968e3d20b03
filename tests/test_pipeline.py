"""Statements that go to PostgreSQL together do what they do one by one, also when something goes wrong."""

import asyncio
from collections.abc import Callable, Generator, Sequence
from typing import Any

import pytest
from benchmarks.postgres import Postgres
from live import Bench, result, token
from sqlalchemy.exc import DataError, IntegrityError, OperationalError

from suffice.api import records
from suffice.api.batches import Answer, Asked, Beat, Request, Told
from suffice.api.group_commit import GroupCommit
from suffice.api.pipeline import Pipeline
from suffice.api.statements import Statements
from suffice.api.wire import Ask, TrialAdd
from suffice.optimizer import SufficeError


@pytest.fixture
def bench(new_postgres: Callable[[], str]) -> Generator[Bench]:
    bench = Bench(new_postgres())
    yield bench
    bench.database.close()


def answers(bench: Bench, *requests: Request) -> list[Answer | SufficeError]:
    async def run() -> list[Any]:
        commits = GroupCommit(bench.leases)
        return await asyncio.gather(*(commits.do(request) for request in requests), return_exceptions=True)

    return asyncio.run(run())


def measurement(number: int) -> dict[str, Any]:
    fields = {"metric": "objective", "value": 1.5, "stderr": None, "step": None, "gradient": {"x": 0.25}}
    return {"study_id": 1, "number": number, **fields}


def test_a_request_that_comes_alone_is_two_messages(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    messages: list[int] = []
    executed: Any = Pipeline._executed

    def counted(self: Pipeline, sent: Sequence[Any]) -> Any:
        messages.append(len(sent))
        return executed(self, sent)

    monkeypatch.setattr(Pipeline, "_executed", counted)
    bench.prepare(3)
    for queued in (False, True):
        (trial,) = bench.ask(idempotency_key=f"queued {queued}")
        bench.leases.heartbeat(bench.id, trial.number, token(trial))
        bench.tell(trial)
        assert len(messages) == 6
        messages.clear()
        bench.store.add(bench.id, [TrialAdd(parameters={"x": 0.5})])


def write_and_read(statements: Statements, rows: list[dict[str, Any]]) -> None:
    statements.write(records.NEW_MEASUREMENTS, rows)
    statements.read(records.measured(1, [0]))


def test_what_is_read_together_is_what_is_read_alone(bench: Bench):
    bench.prepare(5)
    first, second, _ = (bench.ask(idempotency_key=f"key {i}")[0] for i in range(3))
    bench.tell(first, 2.0)
    bench.clock.advance(3600)
    bench.leases.fail(bench.id, second.number, token(second), "given back", retry=True)
    queries = [
        (records.LOCKED, {"study": bench.id}),
        records.numbered(bench.id, [0, 2, 77]),
        records.measured(bench.id, [0, 1, 2]),
        records.lapsed(bench.id, bench.clock()),
        records.queued(bench.id, 3),
        records.queued(bench.id, None),
        records.ready(bench.id, "", 1),
        records.ready(bench.id, "", None),
        records.asked(bench.id, ["key 1", "none"]),
    ]
    with bench.database.engine.begin() as connection:
        alone = Statements(connection).read(*queries)
        together = Pipeline(connection).read(*queries)
    assert [len(rows) for rows in together] == [1, 2, 1, 1, 1, 1, 1, 2, 1]
    assert [[tuple(row) for row in rows] for rows in alone] == together


def test_what_is_written_is_seen_by_what_is_read_next_and_by_others_after_the_commit(bench: Bench):
    query = records.measured(bench.id, [0, 1])
    with bench.database.begin() as ours:
        ours.write(records.NEW_MEASUREMENTS, [measurement(0), measurement(1)])
        ours.write(records.REPLACED, [{"study": 1, "number": 1, "metric": "objective", "step": 1}])
        assert ours.read(query)[0] == [(n, "objective", 1.5, None, None, {"x": 0.25}) for n in (0, 1)]
        with bench.database.begin() as others:
            assert others.read(query) == [[]]
    with bench.database.begin() as others:
        assert len(others.read(query)[0]) == 2


def test_thousands_of_rows_go_in_one_message(bench: Bench):
    with bench.database.begin() as statements:
        statements.write(records.NEW_MEASUREMENTS, [measurement(n) for n in range(5000)])
    with bench.database.begin() as statements:
        assert [row[0] for row in statements.read(records.measured(1, range(5000)))[0]] == list(range(5000))


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"study_id": 99}, IntegrityError),  # no such study
        ({"metric": "\0"}, DataError),  # found before anything is sent
        ({"value": "many"}, DataError),
    ],
)
def test_a_statement_that_fails_undoes_the_transaction_and_nothing_else(
    bench: Bench, wrong: dict[str, Any], error: type[Exception]
):
    rows = [measurement(0), {**measurement(1), **wrong}, measurement(2)]
    with pytest.raises(error), bench.database.begin() as statements:
        statements.write(records.NEW_MEASUREMENTS, rows)
    with bench.database.engine.connect() as connection, pytest.raises(error):
        write_and_read(Pipeline(connection), rows)
    with bench.database.begin() as statements:
        assert statements.read(records.measured(1, [0, 1, 2])) == [[]]
        statements.write(records.NEW_MEASUREMENTS, [measurement(0)])
    with bench.database.begin() as statements:
        assert len(statements.read(records.measured(1, [0]))[0]) == 1


def test_a_connection_that_was_cut_while_nobody_used_it_is_not_noticed(postgres: Postgres, bench: Bench):
    bench.prepare(4)
    for how in (postgres.drop_connections, postgres.restart):
        (trial,) = bench.ask()
        how()
        assert bench.tell(trial)[1]
        how()
        assert bench.store.trial(bench.id, trial.number).state == "COMPLETED"


def cut_once(monkeypatch: pytest.MonkeyPatch, postgres: Postgres, name: str, *, after: bool) -> list[str]:
    """The next connection is cut when the transaction comes to a step, before or after it was taken."""
    original: Any = getattr(Pipeline, name)
    cuts: list[str] = []

    def step(self: Pipeline, *arguments: Any) -> Any:
        found = original(self, *arguments) if after or cuts else None
        if not cuts:
            cuts.append(name)
            postgres.drop_connections()
            found = original(self, *arguments) if not after or name != "commit" else self._send([])
        return found

    monkeypatch.setattr(Pipeline, name, step)
    return cuts


@pytest.mark.parametrize(("step", "after"), [("read", False), ("read", True), ("commit", False), ("commit", True)])
def test_a_connection_that_is_cut_in_a_transaction_costs_nobody_a_thing(
    postgres: Postgres, bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
):
    """Wherever it happens: before the first message, after it, before the commit, and after it."""
    bench.prepare(3)
    (trial,) = bench.ask()
    for request in (
        Told(bench.id, trial.number, result(2.0, token(trial))),
        Asked(bench.id, Ask(idempotency_key="k")),
    ):
        with monkeypatch.context() as patch:
            cuts = cut_once(patch, postgres, step, after=after)
            (answer,) = answers(bench, request)
        assert cuts == [step]
        (again,) = answers(bench, request)
        assert not isinstance(answer, Exception), answer
        assert type(again) is type(answer)
    assert bench.store.study(bench.id).trials == {"COMPLETED": 1, "RUNNING": 1}
    assert [m.value for m in bench.store.trial(bench.id, trial.number).measurements] == [2.0]


def test_a_database_that_stays_away_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    def away(self: Pipeline, sent: Sequence[Any]) -> Any:
        self._driver.close()
        raise OperationalError("", None, Exception("away"), connection_invalidated=True)

    monkeypatch.setattr(Pipeline, "_executed", away)
    found = answers(bench, Beat(bench.id, 0, "token"), Asked(bench.id, Ask()))
    assert [isinstance(answer, OperationalError) for answer in found] == [True, True]
