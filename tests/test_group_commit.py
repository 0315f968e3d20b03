"""Requests that come together share a transaction, and are answered as if each had its own."""

import asyncio
from collections.abc import Coroutine, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
from live import Bench, result, serving, token

from suffice.api.batches import Asked, Beat, Given, Request, Short, Told
from suffice.api.errors import LeaseLost, StudyDeleted
from suffice.api.group_commit import GroupCommit
from suffice.api.wire import Ask
from suffice.optimizer import Conflict, NotFound


@pytest.fixture
def bench(database: str) -> Generator[Bench]:
    bench = Bench(database)
    yield bench
    bench.database.close()


class Counting(GroupCommit):
    """Remembers how many requests shared a transaction."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.leases)
        self.sizes: list[int] = []
        together = bench.leases.together

        def counted(requests: Sequence[Request]) -> Any:
            self.sizes.append(len(requests))
            return together(requests)

        bench.leases.together = counted


def answers(commits: GroupCommit, *requests: Request) -> list[Any]:
    """What each is answered, when they come at the same moment; errors too."""

    async def run(work: list[Coroutine[Any, Any, Any]]) -> list[Any]:
        return await asyncio.gather(*work, return_exceptions=True)

    return asyncio.run(run([commits.do(request) for request in requests]))


def test_what_comes_together_shares_a_transaction(bench: Bench):
    bench.prepare(8)
    commits = Counting(bench)
    given = answers(commits, *[Asked(bench.id, Ask()) for _ in range(8)])
    assert [g.trials[0].number for g in given] == list(range(8))
    assert [g.trials[0].parameters["x"] for g in given] == [float(i + 1) for i in range(8)]
    assert [g.refill for g in given] == [False] * 7 + [True]
    told = answers(commits, *[Told(bench.id, i, result(1.0, token(g.trials[0]))) for i, g in enumerate(given)])
    assert [(trial.number, trial.state, news) for trial, news in told] == [(i, "COMPLETED", True) for i in range(8)]
    assert commits.sizes == [8, 8]
    assert bench.row().data_version == 8


def test_each_is_answered_as_if_it_were_alone(bench: Bench):
    trials = [bench.take() for _ in range(3)]
    bench.prepare(2)
    first = result(1.0, token(trials[0]))
    found = answers(
        Counting(bench),
        Told(bench.id, 0, first),
        Told(bench.id, 0, first),
        Told(bench.id, 0, result(2.0, token(trials[0]))),
        Told(bench.id, 1, result(1.0, "another")),
        Told(bench.id, 77, first),
        Beat(bench.id, 2, token(trials[2])),
        Asked(bench.id, Ask(count=2, idempotency_key="k")),
        Asked(bench.id, Ask(count=2, idempotency_key="k")),
        Asked(bench.id, Ask()),
    )
    (told, news), (again, no_news), conflict, lost, missing, beat, given, same, short = found
    assert (told.state, news, again, no_news) == ("COMPLETED", True, told, False)
    assert [type(error) for error in (conflict, lost, missing)] == [Conflict, LeaseLost, NotFound]
    assert beat.lease is not None
    assert isinstance(given, Given)
    assert [token(t) for t in given.trials] == [token(t) for t in same.trials]
    assert short == Short(1)
    assert bench.store.study(bench.id).trials == {"COMPLETED": 1, "RUNNING": 4}


def late(bench: Bench) -> Any:
    """A trial whose lease ran out, and which is in the queue again."""
    bench.prepare(2)
    (trial,) = bench.ask()
    bench.clock.advance(3600)
    assert bench.leases.sweep() == [bench.id]
    return trial


def test_a_late_heartbeat_and_an_ask_do_not_share_the_trial(bench: Bench):
    trial = late(bench)
    beat, given = answers(Counting(bench), Beat(bench.id, 0, token(trial)), Asked(bench.id, Ask(worker="other")))
    assert (beat.number, token(beat), beat.state) == (0, token(trial), "RUNNING")
    assert [t.number for t in given.trials] == [1]
    assert token(bench.leases.heartbeat(bench.id, 0, token(trial))) == token(trial)


def test_a_late_result_and_an_ask_do_not_share_the_trial(bench: Bench):
    trial = late(bench)
    told = Told(bench.id, 0, result(1.0, token(trial)))
    (ended, news), given = answers(Counting(bench), told, Asked(bench.id, Ask(worker="other")))
    assert (ended.state, news) == ("COMPLETED", True)
    assert [t.number for t in given.trials] == [1]
    assert bench.store.study(bench.id).trials == {"COMPLETED": 1, "RUNNING": 1}


def test_studies_are_apart_where_they_can_be(bench: Bench):
    bench.prepare(1)
    commits = Counting(bench)
    other = bench.create("other")
    found = answers(commits, Asked(bench.id, Ask()), Asked(other, Ask()), Asked(99, Ask()))
    assert isinstance(found[0], Given)
    assert found[1] == Short(1)
    assert isinstance(found[2], StudyDeleted)
    assert sorted(commits.sizes) == ([1, 1, 1] if bench.database.postgresql else [3])


def test_who_breaks_a_transaction_is_alone_to_blame(bench: Bench):
    bench.prepare(3)
    commits = Counting(bench)
    broken: Any = Ask.model_construct(count="many")
    found = answers(commits, Asked(bench.id, Ask()), Asked(bench.id, broken), Asked(bench.id, Ask()))
    assert [isinstance(answer, Given) for answer in found] == [True, False, True]
    assert isinstance(found[1], TypeError)
    assert commits.sizes == [3, 1, 1, 1]
    assert bench.row().next_number == 2


def test_a_name_that_was_given_away_elsewhere_stands_for_the_new_study(tmp_path: Path):
    with serving(tmp_path, workers=0) as one, serving(tmp_path, workers=0) as other:
        for x1 in (1.0, 2.0):
            study = one.study("name")
            one.call("POST", f"{study}/trials", {"trials": [{"parameters": {"x1": x1, "x2": 0.0}}] * 2})
            (trial,) = other.ask(study)
            assert trial["parameters"]["x1"] == x1
            assert other.tell(study, trial, 1.0)["state"] == "COMPLETED"
            (left,) = other.ask(study)
            one.call("DELETE", study)
            other.tell(study, left, 1.0, status=404)
