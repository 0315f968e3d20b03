"""The comparison's problems are what they say, and its cells, results file and report work."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from benchmarks import plots, report, results
from benchmarks.__main__ import SETS, command
from benchmarks.functions import HARTMANN_BEST
from benchmarks.peers import Cannot
from benchmarks.problem import VALUE, Params, Problem
from benchmarks.problems import PROBLEMS
from benchmarks.roster import PEERS, TITLES, make
from benchmarks.run import comparison, key, latencies, main, read, run_all, shared_start

SYNTHETIC = ("branin", "hartmann6", "ackley5", "levy10", "rosenbrock4", "mixed7", "gramacy", "hartmann6_outcome")
MIXED_BEST = dict(zip(("width", "layers", "optimizer", "activation"), (128, 3, "rmsprop", "tanh"), strict=True))
BEST: dict[str, Params] = {
    "branin": {"x1": math.pi, "x2": 2.275},
    "hartmann6": {f"x{i + 1}": x for i, x in enumerate(HARTMANN_BEST)},
    "ackley5": {f"x{i}": 0.0 for i in range(1, 6)},
    "levy10": {f"x{i}": 1.0 for i in range(1, 11)},
    "rosenbrock4": {f"x{i}": 1.0 for i in range(1, 5)},
    "mixed7": {"rate": 10**-2.5, "momentum": 0.3, "dropout": 0.15, **MIXED_BEST},
    "gramacy": {"x1": 0.1954, "x2": 0.4044},
    "hartmann6_outcome": dict(
        zip(
            (f"x{i}" for i in range(1, 7)),
            (0.1085137, 0.0379572, 0.2057710, 0.2480368, 0.2833421, 0.6163789),
            strict=True,
        )
    ),
}


def problem(name: str) -> Problem:
    return PROBLEMS[name](0)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_the_optimum_is_where_it_is_known_to_be(name: str):
    assert problem(name).score(BEST[name]) == pytest.approx(0, abs=2e-4)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_nothing_is_better_than_the_optimum(name: str):
    p, rng = problem(name), np.random.default_rng(0)
    near = np.array([d.to_unit(BEST[name][d.name]) for d in p.dims])
    points = np.concatenate(
        [rng.random((300, len(p.dims))), np.clip(near + 0.02 * rng.normal(size=(300, len(near))), 0, 1)]
    )
    assert min(p.score(p.from_unit(u)) for u in points) > -1e-6


def test_a_recommendation_that_breaks_a_constraint_gets_the_penalty():
    for name in ("gramacy", "hartmann6_sum", "hartmann6_outcome"):
        p = problem(name)
        broken = p.from_unit(np.zeros(len(p.dims)) if name == "gramacy" else np.ones(len(p.dims)))
        assert p.score(broken) == p.score(None) == p.penalty > 1


@pytest.mark.parametrize("name", [n for n in PROBLEMS if not n.startswith("bbob")])
def test_the_unit_cube_covers_the_space_and_returns(name: str):
    p = problem(name)
    for u in np.random.default_rng(1).random((50, len(p.dims))):
        filled = p.filled(p.from_unit(u))
        assert {d.name for d in p.dims} == set(filled)
        for d in p.dims:
            value = d.from_unit(d.to_unit(filled[d.name]))
            assert value == (filled[d.name] if d.kind != "float" else pytest.approx(filled[d.name]))


def test_an_inactive_parameter_is_left_out():
    p = problem("digits")
    assert "components" not in p.active({**p.from_unit(np.full(8, 0.5)), "features": "pixels", "components": 5})


def test_the_shared_start_is_the_same_for_all_and_allowed():
    for name in ("branin", "hartmann6_sum", "digits"):
        p = problem(name)
        start = shared_start(p, 3, 50)
        assert start == shared_start(p, 3, 50) != shared_start(p, 4, 50)
        assert len(start) == p.start_size
        assert all(p.allowed(params) for params in start)


@pytest.mark.parametrize(
    ("name", "start"),
    [("branin", "own"), ("mixed7", "shared"), ("gramacy", "shared"), ("hartmann6_sum", "shared")],
)
def test_suffice_runs_from_end_to_end(name: str, start: str):
    (job,) = comparison([name], ["suffice"], [0], start, 9)
    line = main(job)
    assert line["status"] == "ok", line
    assert len(line["values"]) == len(line["trajectory"]) == 9
    assert len(line["asks"]) == 9 - line["starts"]
    assert line["score"] == pytest.approx(line["trajectory"][-1][1], rel=1e-4)
    assert problem(name).optimum is not None
    assert line["notes"] == []


def test_every_peer_sees_the_same_start_and_the_same_noise():
    lines = [main(job) for job in comparison(["hartmann6_noisy"], ["random", "sobol", "suffice"], [1], "shared", 8)]
    assert len({tuple(line["values"][:7]) for line in lines}) == 1
    assert [n for n, _ in lines[0]["trajectory"]] == [5]


def test_a_peer_that_cannot_express_a_problem_says_so():
    with pytest.raises(Cannot, match="outcome"):
        make("optuna_cma", problem("gramacy"), 0, 5, 10)
    (job,) = comparison(["hartmann6_sum"], ["optuna_cma"], [0], "shared", 8)
    assert main(job)["status"] == "cannot"


def test_a_run_goes_on_where_it_stopped_and_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, page = tmp_path / "bench" / "results.jsonl", tmp_path / "page.md"
    page.write_text(f"above\n{report.BEGIN}\nlast time\n{report.END}\nbelow\n")
    jobs = comparison(["branin"], ["random", "optuna_cma"], [0], "shared", 6)
    first = run_all(jobs[:1], out, 60)
    assert [line["status"] for line in first] == ["ok"]
    assert run_all(jobs[:1], out, 60) == []
    assert len(run_all(jobs[:1], out, 60, redo=["random"])) == 1
    assert run_all(jobs[1:], out, 0.01)[0]["status"] == "timeout"
    assert [line["status"] for line in read(out)] == ["ok", "timeout"]

    with out.open("a") as file:  # passed off as the problems' own numbers of trials
        for job in comparison(["branin", "gramacy"], ["random", "sobol"], [0, 1, 2], "shared", None):
            line = main({**job, "trials": 12})
            file.write(json.dumps({"job": job, **line}) + "\n")
        for job in latencies(["sobol"], [20, 40], [0]):
            file.write(json.dumps({"job": job, **main(job)}) + "\n")
    assert command(["report", "--out", str(out), "--page", str(page)]) == 0
    capsys.readouterr()
    text = page.read_text()
    assert text.startswith("above\n")
    assert text.endswith(f"{report.END}\nbelow\n")
    assert "last time" not in text
    assert "| `gramacy` | regret | 40 | 3 |" in text
    assert {p.name for p in out.parent.glob("*.png")} == {
        "curves-one-shared.png",
        "ranks-one-shared.png",
        "latency.png",
    }


def test_ranks_and_ties():
    rng = np.random.default_rng(0)
    better, worse = np.array([1.0, 2.0, 3.0, 2.5, 1.5]), np.array([4.0, 5.0, 6.0, 4.5, 5.5])
    mean, low, high = results.ranks([np.array([better, worse, np.full(5, np.inf)])] * 2, rng)
    assert mean.tolist() == [1, 2, 3] == low.tolist() == high.tolist()
    assert results.tied(better, better[::-1], rng)
    assert not results.tied(better, worse, rng)
    assert not results.tied(better, np.full(5, np.inf), rng)


def test_the_lists_agree():
    assert set(PEERS) == set(TITLES) == set(plots.COLOURS)
    for problems, peers, seeds in SETS.values():
        assert set(problems) <= set(PROBLEMS)
        assert set(peers) <= set(PEERS)
        assert seeds >= 5
    jobs = comparison(list(PROBLEMS), list(PEERS), range(2), "shared", None)
    assert len({key(job) for job in jobs}) == len(jobs)
    assert VALUE == "value"
