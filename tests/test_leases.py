"""Leases against a small model: whatever workers do, in whatever order, nothing is lost, doubled or miscounted."""

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from live import Bench, check_counters, result, token

from suffice.api.batches import Given
from suffice.api.errors import LeaseLost
from suffice.api.wire import Ask, TrialAdd, TrialOut
from suffice.optimizer import Conflict

LEASE, RETRIES = 10, 2


@dataclass
class Expected:
    """What the model expects of one trial."""

    state: str = "WAITING"
    token: str | None = None
    expires: float | None = None  # None: not leased, or given back
    attempts: int = 0
    value: float | None = None


class Workers(RuleBasedStateMachine):
    """Workers that ask, work, get lost, come back late, repeat themselves, and give up."""

    held = Bundle("held")  # trials as workers got them, stale ones too

    def __init__(self, place: str) -> None:
        super().__init__()
        self.bench = Bench(place, lease_seconds=LEASE, max_retries=RETRIES)
        self.now = 0.0
        self.trials: dict[int, Expected] = {}

    def teardown(self) -> None:
        self.bench.store.delete(self.bench.id)
        self.bench.database.close()

    def lapse(self) -> None:
        for trial in self.trials.values():
            if trial.state == "RUNNING" and trial.expires is not None and trial.expires <= self.now:
                trial.state = "WAITING" if trial.attempts <= RETRIES else "EXPIRED"

    @rule(target=held)
    def ask(self) -> TrialOut:
        self.bench.prepare(1)
        given = self.bench.leases.ask(self.bench.id, Ask())
        assert isinstance(given, Given)
        (trial,) = given.trials
        self.lapse()
        waiting = [number for number, t in self.trials.items() if t.state == "WAITING"]
        assert trial.number == (min(waiting) if waiting else len(self.trials))
        expected = self.trials.setdefault(trial.number, Expected())
        assert token(trial) != expected.token
        expected.state, expected.token, expected.expires = "RUNNING", token(trial), self.now + LEASE
        expected.attempts += 1
        assert trial.attempts == expected.attempts
        return trial

    @rule(count=st.integers(1, 3))
    def queue(self, count: int) -> None:
        for trial in self.bench.store.add(self.bench.id, [TrialAdd(parameters={"x": 0.5})] * count):
            self.trials[trial.number] = Expected()

    @rule(trial=held, value=st.sampled_from([1.0, 2.0]))
    def tell(self, trial: TrialOut, value: float) -> None:
        expected = self.trials[trial.number]
        news = expected.state in ("WAITING", "RUNNING") and expected.token == token(trial)
        try:
            told, was_news = self.bench.tell(trial, value)
        except Conflict:
            assert not news
            assert (expected.state, expected.value) != ("COMPLETED", value)
        else:
            assert was_news == news
            assert news or expected.value == value
            assert told.measurements[0].value == value
            expected.state, expected.value = "COMPLETED", value

    @rule(trial=held)
    def heartbeat(self, trial: TrialOut) -> None:
        expected = self.trials[trial.number]
        alive = expected.state in ("WAITING", "RUNNING") and expected.expires is not None
        try:
            self.bench.leases.heartbeat(self.bench.id, trial.number, token(trial))
        except LeaseLost:
            assert not (alive and expected.token == token(trial))
        else:
            assert alive
            assert expected.token == token(trial)
            expected.state, expected.expires = "RUNNING", self.now + LEASE

    @rule(trial=held, retry=st.booleans())
    def fail(self, trial: TrialOut, retry: bool) -> None:
        expected = self.trials[trial.number]
        try:
            self.bench.leases.fail(self.bench.id, trial.number, token(trial), "broken", retry)
        except Conflict:
            assert expected.state not in ("WAITING", "RUNNING", "FAILED") or expected.token != token(trial)
        else:
            if expected.state != "FAILED":
                assert expected.token == token(trial)
                expected.state = "WAITING" if retry and expected.attempts <= RETRIES else "FAILED"
                expected.expires = None

    @rule(trial=held)
    def cancel(self, trial: TrialOut) -> None:
        expected = self.trials[trial.number]
        try:
            self.bench.leases.cancel(self.bench.id, trial.number, None)
        except Conflict:
            assert expected.state not in ("WAITING", "RUNNING", "CANCELLED")
        else:
            expected.state = "CANCELLED"

    @rule(trial=held)
    def tell_without_token(self, trial: TrialOut) -> None:
        expected = self.trials[trial.number]
        leased = expected.state == "RUNNING" and expected.expires is not None and expected.expires > self.now
        try:
            told, _ = self.bench.leases.tell(self.bench.id, trial.number, result(3.0, None))
        except Conflict:
            assert leased or expected.state not in ("WAITING", "RUNNING")
        else:
            assert not leased
            expected.state, expected.value = told.state, 3.0

    @precondition(lambda self: self.trials)
    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.bench.clock.advance(seconds)
        self.now += seconds

    @rule()
    def sweep(self) -> None:
        self.bench.leases.sweep()
        self.lapse()

    @invariant()
    def everything_agrees(self) -> None:
        trials = self.bench.store.trials(self.bench.id, -1, None)
        assert {t.number: (t.state, t.attempts) for t in trials} == {
            number: (t.state, t.attempts) for number, t in self.trials.items()
        }
        assert all(len(t.measurements) == (t.state == "COMPLETED") for t in trials)
        check_counters(self.bench)


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_clock_that_is_set_loses_and_doubles_nothing(database: str, jump: float):
    """Leases end late or early by as much. A token is good until someone else has the trial."""
    bench = Bench(database, lease_seconds=LEASE)
    kept, lost, late = bench.take(), bench.take(), bench.take()
    bench.tell(kept, 1.0)
    bench.clock.advance(jump)
    assert bench.leases.heartbeat(bench.id, lost.number, token(lost)).state == "RUNNING"
    assert bench.tell(late, 2.0)[1]
    bench.clock.advance(LEASE + 1)
    assert bench.leases.sweep() == [bench.id]
    (again,) = bench.ask()
    assert (again.number, again.attempts) == (lost.number, 2)
    with pytest.raises(LeaseLost):
        bench.tell(lost, 3.0)
    assert bench.tell(again, 4.0)[1]
    values = [[m.value for m in t.measurements] for t in bench.store.trials(bench.id, -1, None)]
    assert values == [[1.0], [4.0], [2.0]]
    check_counters(bench)
    bench.database.close()


def test_workers_get_what_the_model_says(database: str):
    class Here(Workers):
        def __init__(self) -> None:
            super().__init__(database)

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
