"""Studies, trials and leases in the database: who gets what, what is accepted, what is counted. No engine, no HTTP."""

import json
import sqlite3
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from benchmarks.postgres import Postgres
from live import Bench, check_counters, measured, result, token
from sqlalchemy import event, text

from suffice.api.batches import Given, Short
from suffice.api.database import HEAD, Database, migrate, revision, upgrade
from suffice.api.errors import LeaseLost
from suffice.api.leases import Leases
from suffice.api.store import Store
from suffice.api.tables import Base
from suffice.api.wire import (
    Ask,
    BudgetSpec,
    Report,
    StudyExport,
    StudyPatch,
    Tell,
    TrialAdd,
)
from suffice.optimizer import Conflict, InvalidInput, NotFound, Source, Stop, StopReason, Suggestion, TrialState
from suffice.optimizer.fidelity import Fidelity


@pytest.fixture
def new_bench(database: str) -> Generator[Callable[..., Bench]]:
    """Opens the database, with a study of the settings that it is given."""
    with ExitStack() as stack:

        def open_(**fields: Any) -> Bench:
            bench = Bench(database, **fields)
            stack.callback(bench.database.close)
            return bench

        yield open_


@pytest.fixture
def bench(new_bench: Callable[..., Bench]) -> Bench:
    return new_bench()


# --- asking -----------------------------------------------------------------------------------------------------------


def test_an_ask_takes_ready_suggestions_in_order_and_leases_them(bench: Bench):
    bench.prepare(3)
    first, second = bench.ask(2, worker="w")
    assert [(t.number, t.parameters, t.state, t.attempts, t.worker) for t in (first, second)] == [
        (0, {"x": 1.0}, "RUNNING", 1, "w"),
        (1, {"x": 2.0}, "RUNNING", 1, "w"),
    ]
    assert token(first) != token(second)
    assert first.lease is not None
    assert first.lease.expires_at > bench.clock()


def test_nothing_is_handed_out_unless_all_can_be(bench: Bench):
    bench.prepare(3)
    assert bench.leases.ask(bench.id, Ask(count=4)) == Short(4)
    assert bench.store.study(bench.id).trials == {}
    assert len(bench.ask(3)) == 3


def test_an_ask_says_when_the_ready_suggestions_should_be_renewed(bench: Bench):
    bench.prepare(2)
    assert [bench.leases.ask(bench.id, Ask()).refill for _ in range(2)] == [False, True]
    bench.prepare(2)
    bench.tell(bench.ask()[0])
    stale = bench.leases.ask(bench.id, Ask())
    assert isinstance(stale, Given)
    assert stale.refill


def test_fresh_asks_take_only_suggestions_that_know_enough(bench: Bench):
    bench.tell(bench.take())
    bench.prepare(1)
    version = bench.store.data_version(bench.id)
    bench.store.add(bench.id, [TrialAdd(parameters={"x": 5.0}, measurements=[measured(2.0)])])
    assert bench.leases.ask(bench.id, Ask(), since=version + 1) == Short(1)
    assert len(bench.ask(since=version)) == 1


def test_queued_points_come_first(bench: Bench):
    bench.prepare(1)
    bench.store.add(bench.id, [TrialAdd(parameters={"x": 7.0})])
    queued, suggested = bench.ask(2)
    assert (queued.parameters, queued.source.method) == ({"x": 7.0}, "queued")
    assert suggested.source.method == "expected_improvement"


def test_the_budget_counts_what_was_handed_out(new_bench: Callable[..., Bench]):
    bench = new_bench(budget=BudgetSpec(trials=2))
    bench.prepare(6)
    first, second = bench.ask(4)  # no more than the budget has left
    stop = bench.leases.ask(bench.id, Ask())
    assert isinstance(stop, Stop)
    assert stop.reason == "budget spent"
    bench.leases.fail(bench.id, second.number, token(second), "no disk", retry=False)  # gave no result: not counted
    assert len(bench.ask(4)) == 1
    bench.store.patch(bench.id, StudyPatch(budget=BudgetSpec(trials=3)))
    assert len(bench.ask(4)) == 1
    bench.store.patch(bench.id, StudyPatch(budget=BudgetSpec(trials=None)))
    assert len(bench.ask(2)) == 2
    assert bench.state(first.number) == "RUNNING"


def test_a_stopped_study_hands_out_nothing_but_takes_results(bench: Bench):
    trial = bench.take()
    bench.store.patch(bench.id, StudyPatch(state="STOPPED"))
    stop = bench.leases.ask(bench.id, Ask())
    assert isinstance(stop, Stop)
    assert stop.reason == "stopped by the user"
    assert bench.tell(trial)[0].state == "COMPLETED"


def test_an_exhausted_space_gives_what_is_left_and_then_stops_until_something_changes(bench: Bench):
    bench.prepare(2, exhausted=True)
    trials = bench.ask(5)
    assert len(trials) == 2
    stop = bench.leases.ask(bench.id, Ask())
    assert isinstance(stop, Stop)
    assert stop.reason == "space exhausted"
    bench.leases.cancel(bench.id, trials[0].number, None)
    assert bench.leases.ask(bench.id, Ask()) == Short(1)


def test_a_suggestion_that_was_tried_meanwhile_is_dropped(bench: Bench):
    bench.prepare(2, {"x": 3.0}, {"x": 4.0})
    bench.store.add(bench.id, [TrialAdd(parameters={"x": 3.0}, measurements=[measured(1.0)])])
    assert [t.parameters for t in bench.ask(1)] == [{"x": 4.0}]
    bench.prepare(1, {"x": 3.0})  # the model knows and wants a repeat all the same: noise
    assert [t.parameters for t in bench.ask(1)] == [{"x": 3.0}]


def test_older_suggestions_do_not_replace_newer_ones(bench: Bench):
    known = bench.store.changes(bench.id, 0)
    bench.store.add(bench.id, [TrialAdd(parameters={"x": 3.0}, measurements=[measured(1.0)])])
    assert bench.prepare(1, {"x": 8.0})
    late = [Suggestion({"x": 9.0}, Source("expected_improvement"))]
    assert not bench.store.replace_ready(bench.id, late, known)
    assert [t.parameters for t in bench.ask(1)] == [{"x": 8.0}]


def test_suggestions_computed_while_others_were_handed_out_are_not_current(bench: Bench):
    bench.prepare(2)
    known = bench.store.changes(bench.id, 0)
    bench.ask()
    assert not bench.store.replace_ready(bench.id, [Suggestion({"x": 9.0}, Source("x"))], known)
    assert [t.parameters for t in bench.ask()] == [{"x": 9.0}]


# --- idempotency keys -------------------------------------------------------------------------------------------------


def test_the_same_key_gives_the_same_trials_and_their_leases(bench: Bench):
    bench.prepare(4)
    first = bench.ask(2, idempotency_key="k")
    again = bench.ask(2, idempotency_key="k")
    assert [(t.number, token(t)) for t in first] == [(t.number, token(t)) for t in again]
    assert [t.number for t in bench.ask(2, idempotency_key="another")] == [2, 3]
    with pytest.raises(Conflict, match="was used to ask for 2"):
        bench.ask(1, idempotency_key="k")


def test_a_key_never_gives_away_a_lease_that_went_to_someone_else(bench: Bench):
    bench.prepare(1)
    (trial,) = bench.ask(idempotency_key="k")
    bench.clock.advance(11)
    (resumed,) = bench.ask(idempotency_key="k")  # nobody took it: it goes on
    assert token(resumed) == token(trial)
    bench.clock.advance(11)
    (other,) = bench.ask()
    (mine,) = bench.ask(idempotency_key="k")
    assert other.number == mine.number == trial.number
    assert mine.lease is None
    bench.tell(other)
    assert [(t.state, t.lease) for t in bench.ask(idempotency_key="k")] == [("COMPLETED", None)]


def together(count: int, action: Callable[[int], Any]) -> list[Any]:
    """What ``action`` returns in that many threads that start at the same moment."""
    barrier = threading.Barrier(count)

    def run(i: int) -> Any:
        barrier.wait()
        return action(i)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_concurrent_asks_never_share_a_trial(bench: Bench):
    bench.prepare(40)
    asked = together(8, lambda _: [bench.ask()[0].number for _ in range(5)])
    assert sorted(n for numbers in asked for n in numbers) == list(range(40))


def test_concurrent_asks_with_one_key_share_one_trial(bench: Bench):
    bench.prepare(8)
    asked = together(8, lambda _: bench.ask(idempotency_key="k")[0])
    assert len({(t.number, token(t)) for t in asked}) == 1


def test_concurrent_stores_on_one_database_never_share_a_trial(bench: Bench, database: str):
    """Every store has locks of its own, as separate replicas of the service have."""
    bench.prepare(20)
    databases = [Database(database) for _ in range(4)]
    stores = [Leases(database, bench.clock) for database in databases]

    def ask(i: int) -> list[int]:
        given = [stores[i].ask(bench.id, Ask()) for _ in range(5)]
        return [g.trials[0].number for g in given if isinstance(g, Given)]

    assert sorted(n for numbers in together(4, ask) for n in numbers) == list(range(20))
    for one in databases:
        one.close()


# --- leases -----------------------------------------------------------------------------------------------------------


def test_an_expired_trial_goes_to_the_next_worker_and_the_old_token_is_stale(bench: Bench):
    trial = bench.take()
    bench.clock.advance(11)
    (again,) = bench.ask()
    assert (again.number, again.attempts) == (trial.number, 2)
    for act in (
        lambda: bench.tell(trial),
        lambda: bench.leases.heartbeat(bench.id, trial.number, token(trial)),
        lambda: bench.leases.fail(bench.id, trial.number, token(trial), None, True),
        lambda: bench.leases.report(
            bench.id, trial.number, Report(lease_token=token(trial), measurements=[measured(1.0, 1)])
        ),
    ):
        with pytest.raises(LeaseLost, match="not leased by this token"):
            act()
    assert bench.tell(again)[0].state == "COMPLETED"


@pytest.mark.parametrize("swept", [True, False])
def test_a_late_result_is_taken_while_nobody_else_has_the_trial(bench: Bench, swept: bool):
    trial = bench.take()
    bench.clock.advance(11)
    if swept:
        assert bench.leases.sweep() == [bench.id]
        assert bench.state(trial.number) == "WAITING"
    assert bench.tell(trial)[0].state == "COMPLETED"


@pytest.mark.parametrize("swept", [True, False])
def test_a_late_heartbeat_resumes_while_nobody_else_has_the_trial(bench: Bench, swept: bool):
    trial = bench.take()
    bench.clock.advance(11)
    if swept:
        bench.leases.sweep()
    resumed = bench.leases.heartbeat(bench.id, trial.number, token(trial))
    assert (resumed.state, resumed.attempts) == ("RUNNING", 1)
    assert bench.leases.sweep() == []


def test_heartbeats_and_reports_keep_the_lease(bench: Bench):
    trial = bench.take()
    for i in range(5):
        bench.clock.advance(9)
        if i % 2:
            bench.leases.heartbeat(bench.id, trial.number, token(trial))
        else:
            report = Report(lease_token=token(trial), measurements=[measured(float(i), i)])
            assert bench.leases.report(bench.id, trial.number, report).lease is not None
        assert bench.leases.sweep() == []


def test_a_trial_that_is_lost_too_often_expires(new_bench: Callable[..., Bench]):
    bench = new_bench(max_retries=1)
    trial = bench.take()
    bench.clock.advance(11)
    bench.ask()
    version = bench.store.data_version(bench.id)
    bench.clock.advance(11)
    bench.leases.sweep()
    assert bench.state(trial.number) == "EXPIRED"
    assert bench.store.data_version(bench.id) == version + 1
    with pytest.raises(Conflict, match="EXPIRED"):
        bench.tell(trial)


def test_without_a_token_only_what_nobody_holds_can_be_told(bench: Bench):
    trial = bench.take()
    with pytest.raises(LeaseLost, match="token is needed"):
        bench.leases.tell(bench.id, trial.number, result(1.0, None))
    (queued,) = bench.store.add(bench.id, [TrialAdd(parameters={"x": 7.0})])
    assert bench.leases.tell(bench.id, queued.number, result(1.0, None))[0].state == "COMPLETED"
    bench.clock.advance(11)
    assert bench.leases.tell(bench.id, trial.number, result(1.0, None))[0].state == "COMPLETED"


def test_a_failed_trial_is_retried_and_then_has_failed(new_bench: Callable[..., Bench]):
    bench = new_bench(max_retries=1)
    trial = bench.take()
    for _ in range(2):  # a repeat of the same message changes nothing
        given_back = bench.leases.fail(bench.id, trial.number, token(trial), "no disk", True)
        assert (given_back.state, given_back.reason) == ("WAITING", "no disk")
    with pytest.raises(LeaseLost, match="given back"):  # a heartbeat that was under way does not take it again
        bench.leases.heartbeat(bench.id, trial.number, token(trial))
    (again,) = bench.ask()
    assert (again.number, again.reason) == (trial.number, None)
    for _ in range(2):
        failed = bench.leases.fail(bench.id, again.number, token(again), "no disk", True)
        assert failed.state == "FAILED"
    with pytest.raises(Conflict, match="FAILED already"):
        bench.leases.fail(bench.id, again.number, token(again), "another reason", True)


def test_without_retry_a_failed_trial_has_failed(bench: Bench):
    trial = bench.take()
    assert bench.leases.fail(bench.id, trial.number, token(trial), None, False).state == "FAILED"


def test_a_cancelled_trial_is_taken_from_its_worker(bench: Bench):
    trial = bench.take()
    assert bench.leases.cancel(bench.id, trial.number, "changed my mind")[1]
    again, news = bench.leases.cancel(bench.id, trial.number, None)
    assert (again.state, again.reason, news) == ("CANCELLED", "changed my mind", False)
    with pytest.raises(LeaseLost, match="nothing more is wanted"):
        bench.leases.heartbeat(bench.id, trial.number, token(trial))
    with pytest.raises(Conflict):
        bench.tell(trial)
    done = bench.take()
    bench.tell(done)
    with pytest.raises(Conflict, match="COMPLETED already"):
        bench.leases.cancel(bench.id, done.number, None)


# --- telling ----------------------------------------------------------------------------------------------------------


def test_an_equal_repeat_changes_nothing_and_a_different_one_is_refused(bench: Bench):
    trial = bench.take()
    told, news = bench.tell(trial, 1.5)
    assert (told.state, told.lease, news) == ("COMPLETED", None, True)
    before = bench.row()
    assert bench.tell(trial, 1.5) == (told, False)
    assert bench.row() == before
    for other in (
        result(1.6, token(trial)),
        result(1.5, token(trial), reason="because"),
        result(1.5, token(trial), state="PRUNED"),
        Tell(lease_token=token(trial), measurements=[measured(1.5), measured(1.5)]),
        Tell(lease_token=token(trial), measurements=[measured(1.5), measured(1.5, 3)]),
    ):
        with pytest.raises(Conflict, match="COMPLETED already"):
            bench.leases.tell(bench.id, trial.number, other)


def test_reports_are_kept_beside_the_result(bench: Bench):
    trial = bench.take()
    for value, step in ((3.0, 1), (2.0, 2), (2.5, 2)):
        bench.leases.report(
            bench.id, trial.number, Report(lease_token=token(trial), measurements=[measured(value, step)])
        )
    told, _ = bench.tell(trial, 1.0)
    assert [(m.value, m.step) for m in told.measurements] == [(3.0, 1), (2.5, 2), (1.0, None)]
    assert bench.tell(trial, 1.0)[1] is False


def test_what_is_not_there_is_not_found(bench: Bench):
    with pytest.raises(NotFound, match="no trial 7"):
        bench.leases.tell(bench.id, 7, result(1.0, None))
    with pytest.raises(NotFound, match="no study named 'other'"):
        bench.store.facts("other")
    bench.store.delete(bench.id)
    with pytest.raises(NotFound, match="deleted"):
        bench.leases.ask(bench.id, Ask())


# --- history ----------------------------------------------------------------------------------------------------------


def test_many_trials_are_added_at_once(bench: Bench):
    many = [TrialAdd(parameters={"x": float(i)}, measurements=[measured(i / 7)]) for i in range(10_000)]
    added = bench.store.add(bench.id, many)
    assert [t.number for t in added] == list(range(10_000))
    assert added[4321].measurements == [measured(4321 / 7)]
    assert bench.store.study(bench.id).trials == {"COMPLETED": 10_000}
    assert bench.row().used == 0


def test_an_export_restores_everything_but_the_leases(bench: Bench):
    done, running, failed = (bench.take() for _ in range(3))
    bench.tell(done, 0.1 + 0.2)
    bench.leases.fail(bench.id, failed.number, token(failed), "no disk", False)
    bench.store.add(bench.id, [TrialAdd(parameters={"x": 7.0}), TrialAdd(parameters={"x": 8.0}, state="FAILED")])
    document = bench.store.export(bench.id)
    with pytest.raises(Conflict, match="already"):
        bench.store.restore(document)
    copy = document.model_copy(update={"study": document.study.model_copy(update={"name": "copy"})})
    text = copy.model_dump_json()
    restored_id, study = bench.store.restore(StudyExport.model_validate_json(text))
    restored = bench.store.trials(restored_id, -1, None)
    for before, after in zip(document.trials, restored, strict=True):
        state = {"RUNNING": "WAITING"}.get(before.state, before.state)
        assert after == before.model_copy(update={"state": state, "lease": None})
    assert restored[running.number].state == "WAITING"
    assert study.trials == {"COMPLETED": 1, "WAITING": 2, "FAILED": 2}
    given = bench.leases.ask(restored_id, Ask(count=2))
    assert isinstance(given, Given)
    assert [t.number for t in given.trials] == [1, 3]


def test_only_what_changed_is_read(bench: Bench):
    first, second = bench.take(), bench.take()
    known = bench.store.changes(bench.id, 0)
    assert [t.number for t in known.trials] == [0, 1]
    assert bench.store.changes(bench.id, known.sequence).trials == []
    bench.tell(second, 0.5)
    (changed,) = bench.store.changes(bench.id, known.sequence).trials
    assert (changed.number, changed.state, changed.value) == (1, TrialState.COMPLETED, 0.5)
    bench.leases.heartbeat(bench.id, first.number, token(first))
    assert bench.store.changes(bench.id, bench.row().sequence).trials == []


def test_events_hold_the_newest_state_of_what_changed(bench: Bench):
    trial = bench.take()
    start = bench.row().sequence
    bench.tell(trial)
    bench.prepare(2)
    bench.store.patch(bench.id, StudyPatch(metadata={"a": 1}))
    events = bench.store.events(bench.id, start)
    assert [e.event for e in events] == ["trial", "suggestions", "study"]
    assert events[0].data["state"] == "COMPLETED"
    assert events[1].data["ready"] == 2
    assert events[2].data["metadata"] == {"a": 1}
    assert bench.store.events(bench.id, events[1].id) == events[2:]
    assert [e.id for e in bench.store.events(bench.id, 0)] == [e.id for e in events]


def test_events_come_in_portions(bench: Bench):
    bench.store.add(bench.id, [TrialAdd(parameters={"x": float(i)}) for i in range(25)])
    bench.store.patch(bench.id, StudyPatch(metadata={"a": 1}))
    seen: list[int] = []
    while portion := bench.store.events(bench.id, seen[-1] if seen else 0, limit=10):
        seen += [e.id for e in portion]
    assert seen == list(range(1, 27))


# --- the database -----------------------------------------------------------------------------------------------------


def test_migrations_make_the_tables_that_the_code_wants(bench: Bench):
    with bench.database.engine.connect() as connection:
        assert revision(connection) == HEAD
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_a_database_of_the_first_revision_is_brought_up_and_works_on(tmp_path: Path):
    database = Database(f"sqlite:///{tmp_path / 'old.db'}")
    upgrade(database, "0001")
    study = {
        "id": 1,
        "name": "study",
        "definition": {"parameters": [{"name": "x", "type": "float", "low": 0, "high": 1e6}], "objectives": [{}]},
        "seed": 1,
        "state": "ACTIVE",
        "budget": 3,
        "lease_seconds": 10,
        "max_retries": 3,
        "info": {},
        **dict.fromkeys(("created_at", "updated_at"), "2026-01-01 00:00:00"),
        "next_number": 1,
        "used": 1,
        "sequence": 2,
        "data_version": 1,
        "changed_at": 0,
        "refreshed_at": 2,
        "exhausted_version": None,
        "best": {"number": 0, "mean": None, "sd": None, "why": "it was", "data_version": 1},
    }
    trial = {"state": "COMPLETED", "source": {"method": "quasi-random"}, "attempts": 1, "created_at": "2026-01-01"}
    suggestion = {"id": 7, "source": {"method": "quasi-random"}, "data_version": 1, "next_number": 1}
    value = {"id": 1, "metric": "objective", "value": 2.5}
    with sqlite3.connect(str(database.engine.url.database)) as connection:
        for table, row in (
            ("studies", study),
            ("trials", {"study_id": 1, "number": 0, "parameters": {"x": 4.0}, "key": "k", "sequence": 1, **trial}),
            ("measurements", {"study_id": 1, "number": 0, **value}),
            ("suggestions", {"study_id": 1, "parameters": {"x": 5.0}, "key": "l", **suggestion}),
            ("asks", {"study_id": 1, "key": "mine", "count": 1, "given": [[0, 1]]}),
        ):
            fields = [json.dumps(v) if isinstance(v, dict | list) else v for v in row.values()]
            marks = ", ".join("?" * len(fields))
            connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", fields)
    connection.close()
    migrate(database)
    store, leases = Store(database), Leases(database)
    assert store.study(1).budget == BudgetSpec(trials=3)
    assert store.trial(1, 0).values == {"objective": 2.5}
    assert store.best(1) == (None, 1)
    again = leases.ask(1, Ask(idempotency_key="mine"))
    assert isinstance(again, Given)
    assert [t.number for t in again.trials] == [0]
    given = leases.ask(1, Ask())
    assert isinstance(given, Given)
    assert [(t.number, t.parameters) for t in given.trials] == [(1, {"x": 5.0})]


def test_migrating_is_done_once_also_by_several_at_a_time(tmp_path: Path, postgres: Postgres):
    for url in (f"sqlite:///{tmp_path / 'new.db'}", postgres.new()):
        databases = [Database(url) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(migrate, databases))
        assert Store(databases[0]).studies(None, 10) == []
        for database in databases:
            database.close()


def test_a_study_that_is_learned_from_cannot_be_deleted(bench: Bench):
    child = bench.create("child", earlier=["study"])
    assert bench.store.earlier(child) == {"study": bench.id}
    with pytest.raises(Conflict, match=r"learned from by \['child'\]"):
        bench.store.delete(bench.id)
    bench.store.delete(child)
    bench.store.delete(bench.id)


@pytest.mark.parametrize("names", [["nobody"], ["study", "study"], ["child"]])
def test_what_is_learned_from_has_to_be_there(bench: Bench, names: list[str]):
    with pytest.raises(InvalidInput, match=rf"earlier\.{len(names) - 1}: expected the name of another study"):
        bench.create("child", earlier=names)
    assert [s.name for s in bench.store.studies(None, 9)] == ["study"]


def test_points_added_twice_with_one_key_are_added_once(bench: Bench):
    points = [TrialAdd(parameters={"x": 1.0}), TrialAdd(parameters={"x": 2.0}, measurements=[measured(3.0)])]
    first = bench.store.add(bench.id, points, "k")
    bench.store.add(bench.id, points)
    assert bench.store.add(bench.id, points, "k") == first
    assert [t.number for t in bench.store.trials(bench.id, -1, None)] == [0, 1, 2, 3]
    for other in (points[:1], [points[0], points[0]]):
        with pytest.raises(Conflict, match="another request"):
            bench.store.add(bench.id, other, "k")
    with pytest.raises(Conflict, match="used to add 2 trials"):
        bench.leases.ask(bench.id, Ask(count=2, idempotency_key="k"))
    bench.ask(idempotency_key="ask")
    with pytest.raises(Conflict, match="another request"):
        bench.store.add(bench.id, points[:1], "ask")


def test_asks_take_what_is_in_their_context(bench: Bench):
    known = bench.store.changes(bench.id, 0)
    for site in ("north", "south"):
        ready = [Suggestion({"x": float(i), "site": site}, Source("expected_improvement")) for i in range(2)]
        bench.store.replace_ready(bench.id, ready, known, context={"site": site})
    bench.store.add(bench.id, [TrialAdd(parameters={"x": 9.0, "site": "south"})])
    first, second = bench.ask(2, context={"site": "south"})
    assert (first.parameters, second.parameters) == ({"x": 9.0, "site": "south"}, {"x": 0.0, "site": "south"})
    assert [t.parameters["site"] for t in bench.ask(2, context={"site": "north"}, idempotency_key="k")] == ["north"] * 2
    assert bench.leases.ask(bench.id, Ask(context={"site": "north"})) == Short(1)
    with pytest.raises(Conflict, match="another context"):
        bench.leases.ask(bench.id, Ask(count=2, context={"site": "south"}, idempotency_key="k"))


def test_an_end_in_one_context_is_none_in_another(bench: Bench):
    known = bench.store.changes(bench.id, 0)
    stop = Stop(StopReason.EXHAUSTED, "everything was tried")
    bench.store.replace_ready(bench.id, [], known, stop=stop, context={"site": "north"})
    assert bench.leases.ask(bench.id, Ask(context={"site": "north"})) == stop
    assert bench.leases.ask(bench.id, Ask(context={"site": "south"})) == Short(1)


def test_a_budget_of_cost_counts_what_trials_cost(new_bench: Callable[..., Bench]):
    bench = new_bench(budget=BudgetSpec(cost=6.0))
    fidelity = Fidelity({"x": 4.0}, cost="x")
    bench.prepare(5)  # x = 1, 2, 3, ...
    for x in (1.0, 2.0, 3.0):
        given = bench.leases.ask(bench.id, Ask(), fidelity=fidelity)
        assert isinstance(given, Given)
        assert given.trials[0].parameters == {"x": x}
    stop = bench.leases.ask(bench.id, Ask(), fidelity=fidelity)
    assert isinstance(stop, Stop)
    assert "trials cost 6 of a budget of 6" in stop.message
    bench.store.patch(bench.id, StudyPatch(budget=BudgetSpec(cost=7.0)))
    assert isinstance(bench.leases.ask(bench.id, Ask(), fidelity=fidelity), Given)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str):
    with pytest.raises(InvalidInput, match="database file"):
        Database(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@host:port/db",
        "postgresql:me:secret@host/db",
        "mysql://me:secret@host/db",
        "sqlite://me:secret@host",
        "sqlite://?password=secret",
        "no address but a password=secret",
    ],
)
def test_an_address_that_is_refused_is_shown_without_its_password(url: str):
    with pytest.raises(InvalidInput) as refused:
        Database(url)
    assert "database" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_what_an_address_says_of_a_connection_is_kept(new_postgres: Callable[[], str]):
    said = "keepalives_idle=7&application_name=mine&options=-cstatement_timeout%3D12345"
    database = Database(f"{new_postgres()}&{said}")
    with database.engine.connect() as connection:
        shown = [
            connection.exec_driver_sql(f"SHOW {name}").scalar()
            for name in ("application_name", "statement_timeout", "lock_timeout")
        ]
        driver: Any = connection.connection.driver_connection
        known = driver.info.get_parameters()
    assert shown == ["mine", "12345ms", "30s"]
    assert (known["keepalives_idle"], known["keepalives_count"]) == ("7", "3")
    database.close()


def test_deleting_a_study_leaves_nothing_of_it(bench: Bench):
    other = bench.create("other")
    bench.tell(bench.take())
    bench.prepare(2)
    bench.ask(idempotency_key="k")
    bench.store.delete(bench.id)
    with bench.database.engine.connect() as connection:
        for table in ("trials", "measurements", "suggestions", "asks"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar() == 0, table
    assert bench.create("study") > other  # an id is never used twice


def test_no_ask_and_no_tell_reads_a_whole_history(bench: Bench):
    """Every statement of theirs finds its rows by an index."""
    statements: list[tuple[str, Any]] = []
    event.listen(
        bench.database.engine,
        "before_cursor_execute",
        lambda _c, _cursor, statement, parameters, _x, _many: statements.append((statement, parameters)),
    )
    bench.prepare(2)
    (trial,) = bench.ask(idempotency_key="k")
    bench.ask()
    statements.clear()
    bench.leases.report(bench.id, 0, Report(lease_token=token(trial), measurements=[measured(1.0, 1)]))
    bench.tell(trial)
    bench.clock.advance(11)
    bench.leases.sweep()
    bench.prepare(1)
    bench.ask(2, idempotency_key="l")
    bench.store.study(bench.id)
    bench.store.studies(None, 10)
    bench.store.events(bench.id, 3)
    plans: list[str] = []
    with bench.database.engine.connect() as connection:
        if bench.database.postgresql:  # which would not use an index for so few rows
            connection.exec_driver_sql("SET enable_seqscan = off")
        explain = "EXPLAIN" if bench.database.postgresql else "EXPLAIN QUERY PLAN"
        for statement, parameters in statements:
            if statement.startswith(("SELECT", "UPDATE", "DELETE")) and not isinstance(parameters, list):
                plan = connection.exec_driver_sql(f"{explain} {statement}", parameters)
                plans += [f"{row[-1]}: {statement}" for row in plan]
        if bench.database.postgresql:  # those that came in pipelines are known to the server
            prepared = connection.exec_driver_sql("SELECT statement FROM pg_prepared_statements").scalars().all()
            for statement in prepared:
                if statement.startswith(("SELECT", "UPDATE", "DELETE")):
                    plan = connection.exec_driver_sql(f"EXPLAIN (GENERIC_PLAN) {statement}")
                    plans += [f"{row[-1]}: {statement}" for row in plan]
    assert len(plans) > 20
    whole = [plan for plan in plans if plan.startswith("SCAN") or "Seq Scan" in plan]
    whole = [plan for plan in whole if not plan.startswith("SCAN json_each")]  # a list that is given
    assert [plan for plan in whole if "USING INDEX ix_studies_name" not in plan] == []  # a page of studies, in order
    assert [plan for plan in plans if "count(*)" in plan and "trials" in plan] == []


def test_counters_agree_with_the_rows(bench: Bench):
    trials = [bench.take() for _ in range(6)]
    bench.tell(trials[0])
    bench.leases.fail(bench.id, 1, token(trials[1]), None, False)
    bench.leases.fail(bench.id, 2, token(trials[2]), None, True)
    bench.leases.cancel(bench.id, 3, None)
    bench.clock.advance(11)
    bench.ask(2)
    check_counters(bench)
