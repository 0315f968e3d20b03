"""The tuning loop against the real service: workers, heartbeats, exceptions, processes, Ctrl-C."""

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
import tuned
from serving import PATIENCE, Clock, Server, Withheld

from suffice.api.app import create_app
from suffice.api.client import (
    AsyncClient,
    Client,
    Infeasible,
    InvalidRequest,
    Progress,
    Pruned,
    Stop,
    Study,
    Trial,
    WorkerDied,
)
from suffice.api.progress import display
from suffice.api.settings import Settings

X = {"x": {"type": "float", "low": 0, "high": 10}}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


def queued(client: Client, count: int, **options: Any) -> Study:
    """A study with so many points in its queue, and a budget that ends with them."""
    study = client.create_study("s", X, budget=count, **options)
    for x in range(count):
        study.enqueue({"x": x})
    return study


def states(study: Study) -> list[str]:
    return [trial.state for trial in study.history()]


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_the_loop_ends_with_the_count_or_with_stop(client: Client):
    study = queued(client, 3)
    for trial in study.trials(2):
        trial.tell(trial.params["x"])
    assert states(study) == ["COMPLETED", "COMPLETED", "WAITING"]
    for trial in study.trials():
        trial.tell(trial.params["x"])
    assert states(study) == ["COMPLETED"] * 3


def test_a_turn_without_a_result_fails_its_trial(client: Client):
    study = queued(client, 2)
    for trial in study.trials(2):
        if trial.number == 1:
            trial.tell(1.0)
    assert states(study) == ["FAILED", "COMPLETED"]
    assert "without" in str(study.trial(0).reason)


def test_leaving_the_loop_puts_the_trial_back(client: Client):
    study = queued(client, 2)
    for _ in study.trials():
        break
    assert states(study) == ["WAITING", "WAITING"]
    with pytest.raises(ZeroDivisionError):
        divide_by_zero(study)
    assert states(study) == ["WAITING", "WAITING"]


def divide_by_zero(study: Study) -> None:
    for trial in study.trials():
        trial.tell(1 / 0)


def test_a_held_trial_fails_with_the_exceptions_text(client: Client):
    study = queued(client, 3)
    trial = study.ask()
    assert isinstance(trial, Trial)
    with pytest.raises(ZeroDivisionError), study.hold(trial):
        raise ZeroDivisionError("oh")
    assert study.trial(0).state == "WAITING"
    assert study.trial(0).reason == "ZeroDivisionError: oh"
    for signal_ in (Infeasible("too big"), Pruned("hopeless")):
        again = study.ask()
        assert isinstance(again, Trial)
        with study.hold(again):
            raise signal_
    assert states(study) == ["INFEASIBLE", "PRUNED", "WAITING"]


def test_heartbeats_run_while_a_trial_is_held(client: Client, server: Server):
    study = queued(client, 1, lease_seconds=0.2)
    for trial in study.trials():
        server.watched.wait_for("/heartbeat", 3)
        trial.tell(1.0)
    assert states(study) == ["COMPLETED"]


def test_a_heartbeat_that_is_answered_late_does_not_undo_a_result(client: Client, server: Server):
    study = queued(client, 1)
    trial = study.ask()
    assert isinstance(trial, Trial)
    late = server.watched.withheld["/heartbeat"] = Withheld()
    beat = threading.Thread(target=trial.heartbeat)
    beat.start()
    assert late.done.wait(PATIENCE)
    trial.tell(1.0)
    late.answer.set()
    beat.join(PATIENCE)
    assert (trial.state, trial.value) == ("COMPLETED", 1.0)


# --- optimize ---------------------------------------------------------------------------------------------------------


def test_workers_evaluate_at_the_same_time(client: Client):
    study = queued(client, 8)
    together = threading.Barrier(4)
    seen: list[Progress] = []

    def evaluate(params: dict[str, Any]) -> float:
        together.wait(PATIENCE)
        return float((params["x"] - 3) ** 2)

    summary = study.optimize(evaluate, workers=4, progress=seen.append)
    assert len(summary.trials) == 8
    assert isinstance(summary.stop, Stop)
    assert summary.stop.reason == "budget spent"
    assert [p.done for p in seen] == list(range(1, 9))
    assert (seen[-1].best, seen[-1].best_trial, seen[-1].total) == (0.0, 3, 8)


def test_the_best_so_far_is_one_that_counts(client: Client):
    parameters = {**X, "s": {"type": "float", "low": 0, "high": 1}}
    rows = [{"x": 3.0, "s": 0.0}, {"x": 1.0, "s": 1.0}, {"x": 2.0, "s": 1.0}]
    fidelity = {"target": {"s": 1.0}, "cost": "0.1 + s"}
    weather = {"s": "uniform"}
    for name, fields, bests in (
        ("fidelity", {"fidelity": fidelity}, [None, 4.0, 1.0]),
        ("environment", {"environment": weather}, [None] * 3),
    ):
        study = client.create_study(name, parameters, budget=len(rows), **fields)
        for row in rows:
            study.enqueue(row)
        seen: list[Progress] = []
        study.optimize(lambda params: (params["x"] - 3) ** 2, progress=seen.append)
        assert [p.best for p in seen] == bests


def test_a_function_that_wants_the_trial_gets_it(client: Client):
    study = queued(client, 1)

    def evaluate(trial: Trial) -> dict[str, float]:
        trial.report(5.0, step=1)
        return {"objective": 1.0}

    study.optimize(evaluate, progress=False)
    assert [(m.step, m.value) for m in study.trial(0).measurements] == [(1, 5.0), (None, 1.0)]


def test_an_exception_is_raised_after_the_others_have_finished(client: Client, server: Server):
    study = queued(client, 4)
    both = threading.Barrier(2)

    def evaluate(params: dict[str, Any]) -> float:
        both.wait(PATIENCE)
        if params["x"] == 0:
            raise ZeroDivisionError("oh")
        server.watched.wait_for("/fail")
        return 1.0

    with pytest.raises(ZeroDivisionError):
        study.optimize(evaluate, workers=2, progress=False)
    assert states(study) == ["WAITING", "COMPLETED", "WAITING", "WAITING"]
    assert study.trial(0).reason == "ZeroDivisionError: oh"


def test_caught_exceptions_infeasible_and_pruned_trials_do_not_end_the_run(client: Client):
    study = queued(client, 4)
    raised = [ZeroDivisionError("oh"), Infeasible("too big"), Pruned("hopeless")]

    def evaluate(params: dict[str, Any]) -> float:
        if params["x"] < 3:
            raise raised[int(params["x"])]
        return 1.0

    summary = study.optimize(evaluate, trials=4, catch=(ZeroDivisionError,), progress=False)
    assert states(study) == ["FAILED", "INFEASIBLE", "PRUNED", "COMPLETED"]
    assert (summary.failed, len(summary.trials)) == (1, 4)


def test_what_is_no_result_is_the_functions_fault(client: Client):
    study = queued(client, 1)
    with pytest.raises(InvalidRequest, match="got nan"):
        study.optimize(lambda params: float("nan"), progress=False)
    assert "got nan" in str(study.trial(0).reason)


def test_a_trial_whose_lease_was_lost_does_not_end_the_run(tmp_path: Path):
    clock = Clock()
    with Server(tmp_path, clock=clock) as server, Client(server.url) as client:
        study = queued(client, 2, lease_seconds=30)
        stolen: list[Trial] = []

        def evaluate(params: dict[str, Any]) -> float:
            if not stolen:
                clock.advance(31)
                thief = study.ask()
                assert isinstance(thief, Trial)
                stolen.append(thief)
            return 1.0

        summary = study.optimize(evaluate, trials=1, progress=False)
        assert (summary.lost, [t.number for t in summary.trials]) == (1, [1])
        assert stolen[0].number == 0


# --- processes --------------------------------------------------------------------------------------------------------


@pytest.mark.integration
def test_processes_evaluate_report_and_refuse(client: Client):
    study = queued(client, 4)
    study.optimize(tuned.process_id, trials=2, workers=2, executor="process", progress=False)
    pids = {trial.value for trial in study.history("COMPLETED")}
    assert os.getpid() not in pids
    study.optimize(tuned.report_and_square, trials=1, executor="process", progress=False)
    assert [(m.step, m.value) for m in study.trial(2).measurements] == [(1, 2.0), (None, 4.0)]
    study.optimize(tuned.refuse, trials=1, executor="process", progress=False)
    assert (study.trial(3).state, study.trial(3).reason) == ("INFEASIBLE", "x = 3.0 is too much")


@pytest.mark.integration
def test_a_process_that_dies_takes_one_trial_with_it(client: Client):
    study = queued(client, 2)
    summary = study.optimize(tuned.die, trials=2, executor="process", catch=(WorkerDied,), progress=False)
    assert summary.failed == 2
    assert "exit code 7" in str(study.trial(1).reason)


def test_a_function_that_cannot_travel_is_refused_at_once(client: Client):
    study = queued(client, 1)
    with pytest.raises(InvalidRequest, match="fn: expected a function that other processes can import"):
        study.optimize(lambda params: 1.0, executor="process", progress=False)
    assert states(study) == ["WAITING"]


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------

INTERRUPTED = """
import signal, sys, threading
from suffice.api.client import Client

def evaluate(params):
    print("evaluating", flush=True)
    threading.Event().wait()

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    with Client(sys.argv[1]) as client:
        client.study("s").optimize(evaluate, workers=int(sys.argv[2]), executor=sys.argv[3], progress=False)
"""


@pytest.mark.integration
@pytest.mark.parametrize(("workers", "executor"), [(1, "thread"), (2, "thread"), (2, "process")])
def test_ctrl_c_puts_what_is_held_back_into_the_queue(
    client: Client, server: Server, tmp_path: Path, workers: int, executor: str
):
    study = queued(client, 3)
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    command = [sys.executable, str(script), server.url, str(workers), executor]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as process:
        assert process.stdout is not None
        for _ in range(workers):
            assert process.stdout.readline() == "evaluating\n"
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode in (-signal.SIGINT, 130), errors
    assert states(study) == ["WAITING"] * 3
    assert server.watched.count("/fail") == workers


# --- asyncio ----------------------------------------------------------------------------------------------------------


def test_coroutines_are_tuned_at_the_same_time_and_released_when_cancelled(tmp_path: Path):
    async def main() -> None:
        app = create_app(Settings(database=f"sqlite:///{tmp_path}/test.db", workers=0))
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), AsyncClient("http://127.0.0.1", transport=transport) as client:
            study = await client.create_study("s", X)
            for x in range(6):
                await study.enqueue({"x": x})
            together = asyncio.Barrier(4)

            async def evaluate(params: dict[str, Any]) -> float:
                async with together:
                    return float(params["x"])

            summary = await study.optimize(evaluate, trials=4, workers=4, progress=False)
            assert sorted(t.value for t in summary.trials) == [0, 1, 2, 3]

            begun = asyncio.Event()

            async def wait(params: dict[str, Any]) -> float:
                begun.set()
                return await asyncio.Future()

            run = asyncio.create_task(study.optimize(wait, progress=False))
            await begun.wait()
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            with pytest.raises(ZeroDivisionError):
                await study.optimize(divide, progress=False)
            async with aclosing(study.trials()) as trials:
                async for _ in trials:
                    break
            assert [t.state async for t in study.history()] == ["COMPLETED"] * 4 + ["WAITING"] * 2

    async def divide(params: dict[str, Any]) -> float:
        raise ZeroDivisionError

    asyncio.run(main())


# --- progress ---------------------------------------------------------------------------------------------------------


def test_progress_is_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]):
    with display(True, "study") as show:
        for done in range(1, 21):
            show(Progress(done, 20, 0.5, 1, failed=1, lost=0))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("study: 1/20 trials, best 0.5 (trial 1), 1 failed, ")
    assert len(lines) == 11


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with display(True, "study") as show:
        show(Progress(5, 20, 0.5, 1, failed=0, lost=0))
        show(Progress(20, 20, 0.25, 7, failed=0, lost=0))
    assert "20/20" in terminal.getvalue()
    assert "best 0.25 (trial 7)" in terminal.getvalue()


# --- with the engine --------------------------------------------------------------------------------------------------


@pytest.mark.integration
def test_a_run_from_nothing_to_the_best(tmp_path: Path):
    with Server(tmp_path, workers=1) as server, Client(server.url) as client:
        study = client.create_study("bowl", X, seed=0, budget=12)
        summary = study.optimize(tuned.bowl, workers=2, progress=False)
        assert len(summary.trials) == 12
        best = study.best()
        assert best.trial.values["objective"] < 0.05
        expected = study.predict({"x": 3.0})
        assert expected.observations == 12
        assert abs(expected.predictions[0].mean) < 0.5


def test_a_trial_is_stopped_early_where_its_reports_say_so(client: Client):
    study = queued(client, 3, early_stopping={"policy": "threshold", "bound": 1, "warmup_steps": 1})

    def evaluate(trial: Trial) -> float:
        for step in range(3):
            trial.report(trial.params["x"], step=step)
            assert (trial.should_prune is not None) == (step >= 1 and trial.params["x"] > 1)
            if trial.should_prune:
                raise Pruned
        return float(trial.params["x"])

    summary = study.optimize(evaluate, progress=False)
    assert (states(study), summary.failed) == (["COMPLETED", "COMPLETED", "PRUNED"], 0)
    assert study.trial(2).reason == "2 at step 1 is worse than the threshold 1"


def test_a_function_in_another_process_is_told_to_stop_early(client: Client):
    study = queued(client, 2, early_stopping={"policy": "threshold", "bound": 0.5})
    study.optimize(tuned.stop_when_told, executor="process", progress=False)
    assert states(study) == ["COMPLETED", "PRUNED"]
    assert [len(trial.measurements) for trial in study.history()] == [4, 1]


def test_the_model_decides_where_the_policy_wants_it(tmp_path: Path):
    with Server(tmp_path, workers=1) as server, Client(server.url) as client:
        study = client.create_study("s", X, early_stopping={"policy": "gain", "steps": 3}, seed=0)
        for x in (1, 2, 3, 4, 6):
            study.enqueue({"x": x})
            trial = study.ask()
            assert isinstance(trial, Trial)
            for step in range(3):
                trial.report((x - 3) ** 2 + 1 / (1 + step), step=step)
            trial.tell((x - 3) ** 2)
        study.enqueue({"x": 10})
        trial = study.ask()
        assert isinstance(trial, Trial)
        found = trial.report(49.5, step=1)
        assert found is not None
        assert found == trial.should_prune
        assert found.chance is not None
        assert found.chance < 0.05
        trial.prune()
        assert trial.reason == found.reason
