"""`make demo`, small: it tunes, compares, plots, and leaves nothing running, also when it is interrupted."""

import json
import os
import re
import select
import signal
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import httpx
import pytest
from benchmarks.demo import Search, arguments, verdict
from benchmarks.digits import IMAGES, SPACE, error

ROOT = Path(__file__).parents[1]
PATIENCE = 240.0


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """The demo in a session of its own, whose members can be counted afterwards."""
    command = [sys.executable, str(ROOT / "benchmarks" / "demo.py"), "--out", str(folder / "out"), "--images", "150"]
    return subprocess.Popen(
        [*command, "--workers", "2", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def left_running(session: int) -> list[str]:
    """Processes of a session that do not end by themselves in the next seconds."""
    listed = subprocess.run(["ps", "-s", str(session), "-o", "pid=,args="], capture_output=True, text=True).stdout
    return [line for line in listed.splitlines() if not ends(int(line.split()[0]))]


def ends(pid: int) -> bool:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], 10.0)[0])
    finally:
        os.close(process)


@pytest.mark.integration
def test_it_tunes_compares_and_plots(tmp_path: Path):
    with start(tmp_path, "--trials", "4", "--stay") as process:
        assert process.stdout is not None
        out = "".join(takewhile(lambda line: "Ctrl-C" not in line, process.stdout))  # then it waits to be looked at
        (live, later) = re.findall(r"(http://\S+)/studies/digits", out)
        study = httpx.get(f"{later}/v1/dashboard/studies/digits").json()
        assert (live, study["study"]["trials"]) == (later, {"COMPLETED": 4})
        process.send_signal(signal.SIGINT)
        end, _ = process.communicate(timeout=PATIENCE)  # ends when the last process that could print has ended
    assert process.returncode == 0, out + end
    assert left_running(process.pid) == []
    assert "4/4 trials" in out
    assert "scikit-learn's defaults" in out
    assert (tmp_path / "out" / "demo.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert [len(search["errors"]) for search in record["searches"]] == [1, 4, 4]
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.integration
def test_ctrl_c_stops_everything(tmp_path: Path):
    with start(tmp_path, "--trials", "100") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("digits: 1/"):
                break
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, out
    assert "interrupted" in out
    assert left_running(process.pid) == []


def test_it_stays_in_a_terminal_alone():
    assert not arguments([]).stay  # here is none
    assert arguments(["--stay"]).stay


def test_the_verdict_is_honest():
    better, worse = Search("one", [], [0.05, 0.02], 1), Search("other", [], [0.04, 0.03], 1)
    poor, good = Search("default", [None], [0.05], 0), Search("default", [None], [0.01], 0)
    assert "gets 10 images more right than random" in verdict(poor, worse, better, 1000)
    assert "from trial 2 on" in verdict(poor, worse, better, 1000)
    assert "random search won: its best gets 10 images more right" in verdict(poor, better, worse, 1000)
    assert "as good as random" in verdict(poor, better, better, 1000)
    assert "20 more right than the default" in verdict(poor, better, worse, 1000)
    assert "10 fewer right than the default" in verdict(good, worse, better, 1000)


def test_the_problem_is_deterministic_and_its_defaults_keep_the_constraint():
    (first,) = SPACE.decode(SPACE.encode([dict(params(), max_iter=5)]))
    assert error(first, 200) == error(first, 200)
    assert 0 < error(None, 200) < 0.5
    assert error(first, 200, split=1) != error(first, 200)
    assert IMAGES == 1797
    assert SPACE.check(params()) == params()


def params() -> dict[str, object]:
    """scikit-learn's defaults, but for a little regularization."""
    return {
        "learning_rate": 0.1,
        "l2_regularization": 1e-6,
        "max_iter": 100,
        "max_leaf_nodes": 31,
        "min_samples_leaf": 20,
        "max_features": 1.0,
        "features": "pixels",
    }
