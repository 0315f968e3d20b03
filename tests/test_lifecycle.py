"""The life of trials against a model of it: whatever is done in whatever order, at whatever time, both agree."""

import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from live import Bench, check_counters, measured, result, token

from suffice.api.errors import LeaseLost
from suffice.api.wire import Report, TrialAdd
from suffice.optimizer import Conflict

LEASE, RETRIES = 10, 1
OPEN = ("WAITING", "RUNNING")
Which = Literal["current", "stale", "none"]
which = st.sampled_from(["current", "current", "stale", "none"])


@dataclass
class Expected:
    """A trial as the rules have it."""

    state: str = "WAITING"
    attempts: int = 0
    token: str | None = None
    until: datetime | None = None
    tokens: list[str] = field(default_factory=list[str])
    told: float | None = None
    reason: str | None = None
    reports: dict[int, float] = field(default_factory=dict[int, float])

    def end(self, state: str) -> None:
        self.state, self.token, self.until = state, None, None


class Life(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.bench = Bench(self.folder, lease_seconds=LEASE, max_retries=RETRIES)
        self.expected: list[Expected] = []

    def teardown(self) -> None:
        self.bench.database.close()
        shutil.rmtree(self.folder)

    # --- what the rules say ---

    @property
    def now(self) -> datetime:
        time: datetime = self.bench.clock.time
        return time

    def sweep(self) -> None:
        for trial in self.expected:
            if trial.state == "RUNNING" and trial.until is not None and trial.until <= self.now:
                if trial.attempts <= RETRIES:
                    trial.state = "WAITING"
                else:
                    trial.end("EXPIRED")

    def given(self, trial: Expected, kind: Which) -> str | None:
        """A token of a kind: the trial's, one that was, or none."""
        if kind == "current":
            return trial.token or (trial.tokens[-1] if trial.tokens else "nobodys")
        return trial.tokens[0] if kind == "stale" and trial.tokens else "nobodys" if kind == "stale" else None

    def takes(self, trial: Expected, given: str | None) -> bool:
        if given is None:
            return not (trial.state == "RUNNING" and trial.until is not None and trial.until > self.now)
        return given == trial.token

    def outcome(self, act: object) -> str:
        """What becomes of it: fine, lost or conflict."""
        assert callable(act)
        try:
            act()
        except LeaseLost:
            return "lost"
        except Conflict:
            return "conflict"
        return "fine"

    # --- what is done ---

    @rule(count=st.integers(1, 3))
    def ask(self, count: int) -> None:
        self.bench.prepare(count)
        trials = self.bench.ask(count)
        self.sweep()
        queued = [n for n, trial in enumerate(self.expected) if trial.state == "WAITING"][:count]
        new = list(range(len(self.expected), len(self.expected) + count - len(queued)))
        self.expected += [Expected() for _ in new]
        assert [trial.number for trial in trials] == queued + new
        for out in trials:
            trial = self.expected[out.number]
            trial.state, trial.attempts, trial.token = "RUNNING", trial.attempts + 1, token(out)
            trial.until, trial.reason = self.now + timedelta(seconds=LEASE), None
            trial.tokens.append(trial.token)
            assert out.attempts == trial.attempts

    @rule()
    def enqueue(self) -> None:
        (added,) = self.bench.store.add(self.bench.id, [TrialAdd(parameters={"x": 0.5 + len(self.expected)})])
        assert added.number == len(self.expected)
        self.expected.append(Expected())

    @precondition(lambda self: self.expected)
    @rule(at=st.integers(0, 10**6), kind=which, value=st.sampled_from([1.0, 2.0]))
    def tell(self, at: int, kind: Which, value: float) -> None:
        number = at % len(self.expected)
        trial = self.expected[number]
        given = self.given(trial, kind)
        found = self.outcome(lambda: self.bench.leases.tell(self.bench.id, number, result(value, given)))
        if trial.state not in OPEN:
            assert found == ("fine" if trial.told == value else "conflict")
        elif not self.takes(trial, given):
            assert found == "lost"
        else:
            assert found == "fine"
            trial.end("COMPLETED")
            trial.told, trial.reason = value, None

    @precondition(lambda self: self.expected)
    @rule(at=st.integers(0, 10**6), kind=which, step=st.integers(0, 2), value=st.floats(-1, 1))
    def report(self, at: int, kind: Which, step: int, value: float) -> None:
        number = at % len(self.expected)
        trial = self.expected[number]
        given = self.given(trial, kind)
        reported = Report(lease_token=given, measurements=[measured(value, step)])
        found = self.outcome(lambda: self.bench.leases.report(self.bench.id, number, reported))
        if trial.state not in OPEN or not self.takes(trial, given):
            assert found == "lost"
            return
        assert found == "fine"
        trial.reports[step] = value
        if given is not None:
            trial.state, trial.until = "RUNNING", self.now + timedelta(seconds=LEASE)

    @precondition(lambda self: self.expected)
    @rule(at=st.integers(0, 10**6), kind=st.sampled_from(["current", "stale"]))
    def heartbeat(self, at: int, kind: Which) -> None:
        number = at % len(self.expected)
        trial = self.expected[number]
        given = self.given(trial, kind)
        assert given is not None
        found = self.outcome(lambda: self.bench.leases.heartbeat(self.bench.id, number, given))
        if trial.state not in OPEN or given != trial.token or trial.until is None:
            assert found == "lost"
            return
        assert found == "fine"
        trial.state, trial.until = "RUNNING", self.now + timedelta(seconds=LEASE)

    @precondition(lambda self: self.expected)
    @rule(at=st.integers(0, 10**6), kind=which, retry=st.booleans(), reason=st.sampled_from(["a", "b"]))
    def fail(self, at: int, kind: Which, retry: bool, reason: str) -> None:
        number = at % len(self.expected)
        trial = self.expected[number]
        given = self.given(trial, kind)
        found = self.outcome(lambda: self.bench.leases.fail(self.bench.id, number, given, reason, retry))
        if trial.state not in OPEN:
            same = trial.state == "FAILED" and trial.reason == reason
            assert found == ("fine" if same else "conflict")
            return
        if not self.takes(trial, given):
            assert found == "lost"
            return
        assert found == "fine"
        again = retry and trial.attempts <= RETRIES
        if trial.state == "WAITING" and trial.until is None and again:
            return  # it was given back before
        trial.reason, trial.until = reason, None
        if again:
            trial.state = "WAITING"
        else:
            trial.end("FAILED")

    @precondition(lambda self: self.expected)
    @rule(at=st.integers(0, 10**6))
    def cancel(self, at: int) -> None:
        number = at % len(self.expected)
        trial = self.expected[number]
        found = self.outcome(lambda: self.bench.leases.cancel(self.bench.id, number, None))
        if trial.state in OPEN:
            trial.end("CANCELLED")
            trial.reason = None
        assert found == ("fine" if trial.state == "CANCELLED" else "conflict")

    @rule()
    def sweep_up(self) -> None:
        before = [trial.state for trial in self.expected]
        swept = self.bench.leases.sweep()
        self.sweep()
        assert bool(swept) == (before != [trial.state for trial in self.expected])

    @rule(seconds=st.sampled_from([1, 9, 10, 11, 3600, -30, -3600]))
    def time_passes(self, seconds: int) -> None:
        """Forwards as it should; by hours, and backwards, where somebody sets the clock."""
        self.bench.clock.advance(seconds)

    # --- what always holds ---

    @invariant()
    def both_agree(self) -> None:
        if not hasattr(self, "expected"):
            return
        trials = self.bench.store.trials(self.bench.id, -1, None)
        assert [t.state for t in trials] == [trial.state for trial in self.expected]
        assert [t.attempts for t in trials] == [trial.attempts for trial in self.expected]
        assert [t.reason is not None and t.state == "FAILED" for t in trials] == [
            trial.state == "FAILED" for trial in self.expected
        ]
        for t, trial in zip(trials, self.expected, strict=True):
            assert t.values == ({} if trial.told is None else {"objective": trial.told})
            assert {m.step: m.value for m in t.measurements if m.step is not None} == trial.reports
        held = [trial.token for trial in self.expected if trial.state == "RUNNING"]
        assert len(held) == len(set(held))
        check_counters(self.bench)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
