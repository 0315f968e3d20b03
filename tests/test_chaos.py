"""The chaos run finds nothing wrong, and would find it if it were there."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmarks.chaos_check import check
from live import Bench, token

Log = list[dict[str, Any]]


def at_work(bench: Bench, count: int) -> Log:
    """The log of a client who did everything right."""
    log: Log = []
    for i in range(count):
        trial = bench.take()
        assert trial.lease is not None
        times = {"started_at": str(trial.started_at), "expires_at": str(trial.lease.expires_at)}
        log.append({"what": "given", "study": "s", "number": i, "token": token(trial), **times})
        bench.tell(trial, float(i))
        log.append({"what": "told", "study": "s", "number": i, "value": float(i)})
    return [*log, {"what": "stopped", "study": "s"}]


def checked(bench: Bench, log: Log, budget: int = 4) -> list[str]:
    trials = [t.model_dump(mode="json") for t in bench.store.trials(bench.id, -1, None)]
    return check(log, {"s": trials}, budget)


def sql(statement: str) -> Callable[[Bench, Log], None]:
    def run(bench: Bench, _log: Log) -> None:
        with bench.database.write() as session:
            session.connection().exec_driver_sql(statement)

    return run


def second_lease(_bench: Bench, log: Log) -> None:
    log.insert(1, {**log[0], "token": "another"})


def refusal(_bench: Bench, log: Log) -> None:
    log.append({"what": "refused", "study": "s", "number": 2})


def not_acknowledged(_bench: Bench, log: Log) -> None:
    log.remove(next(entry for entry in log if entry["what"] == "told"))


def told_twice(_bench: Bench, log: Log) -> None:
    log.append(log[1])


PLANTED: list[tuple[Callable[[Bench, Log], None], str]] = [
    (sql("DELETE FROM measurements WHERE number = 2"), r"trial 2: 2.0 was acknowledged, \[\] is stored"),
    (sql("DELETE FROM trials WHERE number = 3"), "trial 3: 3.0 was acknowledged, None is stored"),
    (sql("UPDATE measurements SET value = 9 WHERE number = 1"), r"trial 1: 1.0 was acknowledged, \[9.0\] is stored"),
    (
        sql("INSERT INTO measurements (study_id, number, metric, value) VALUES (1, 0, 'objective', 0)"),
        r"trial 0: 0.0 was acknowledged, \[0.0, 0.0\] is stored",
    ),
    (sql("UPDATE trials SET parameters = '{\"x\": 1.0}' WHERE number = 1"), "was suggested 2 times"),
    (sql("UPDATE trials SET state = 'RUNNING' WHERE number = 1"), r"not completed: \[1\]"),
    (second_lease, "trial 0 was in two leases"),
    (refusal, "trial 2: a result was refused, and nobody else had the trial"),
    (not_acknowledged, "trial 0 has a result that nobody was told is stored"),
    (told_twice, "trial 0 was acknowledged 2 times"),
    (lambda _bench, log: log.remove(log[-1]), "no client was told that it is finished"),
]


def test_the_checker_finds_nothing_where_nothing_is_wrong(tmp_path: Path):
    bench = Bench(tmp_path)
    assert checked(bench, at_work(bench, 4)) == []


@pytest.mark.parametrize(("plant", "problem"), PLANTED)
def test_the_checker_finds_what_was_planted(tmp_path: Path, plant: Callable[[Bench, Log], None], problem: str):
    bench = Bench(tmp_path)
    log = at_work(bench, 4)
    plant(bench, log)
    with pytest.raises(AssertionError, match=problem):
        assert checked(bench, log) == []


@pytest.mark.integration
@pytest.mark.parametrize(("database", "kills"), [("sqlite", "2"), ("postgresql", "4")])
def test_nothing_is_lost_when_processes_are_killed(database: str, kills: str):
    command = [sys.executable, "-m", "benchmarks.chaos", "--database", database, "--tells", "100", "--kills", kills]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["acknowledged_tells"] == 100
