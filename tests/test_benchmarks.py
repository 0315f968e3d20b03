"""The comparison's problems are what they say, and its cells, results file and report work."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import bbob, plots, report, results, workers
from benchmarks.__main__ import SETS, command
from benchmarks.functions import HARTMANN_BEST
from benchmarks.peers import Cannot
from benchmarks.problem import SECOND, VALUE, Params, Problem, hypervolume
from benchmarks.problems import PROBLEMS
from benchmarks.roster import ONLY, PEERS, SPECIAL, TITLES, make
from benchmarks.run import Line, Prices, comparison, key, latencies, main, qualities, read, run_all, shared_start

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


def test_the_area_below_a_reference():
    rng = np.random.default_rng(0)
    points = rng.random((12, 2)) * 1.3
    inside = rng.random((400_000, 2))
    dominated = (points[:, None] <= inside).all(2).any(0).mean()
    assert hypervolume([(a, b) for a, b in points.tolist()], (1.0, 1.0)) == pytest.approx(dominated, abs=3e-3)
    assert hypervolume([], (1.0, 1.0)) == hypervolume([(1.0, 0.0)], (1.0, 1.0)) == 0.0


def test_no_set_dominates_more_than_the_best_front():
    rng = np.random.default_rng(0)
    for name in ("branin_currin", "zdt3", "tube"):
        p = problem(name)
        cube = rng.random((4000, len(p.dims)))
        if name == "zdt3":
            cube[:, 1:] = 0  # where its front is
        if name == "tube":
            cube[:, 2:] = (rng.uniform(1.0, 1.05, (4000, 2)) * (20 + 100 * cube[:, :2]) / 40 - 1) / 9  # slender
        missed = p.shortfall(p.evaluate(p.from_unit(u)) for u in np.clip(cube, 0, 1))
        assert 0 <= missed < 0.08, name
        assert p.shortfall([]) == p.penalty == 1.0


def test_a_design_that_breaks_a_constraint_adds_no_area():
    p = problem("tube")
    broken = {"root_diameter": 120.0, "tip_diameter": 120.0, "root_wall": 2.0, "tip_wall": 2.0}
    sound = broken | {"root_wall": 4.0, "tip_wall": 4.0}
    assert p.evaluate(broken)["slenderness"] > 0 >= p.evaluate(sound)["slenderness"]
    assert p.shortfall([p.evaluate(broken)]) == 1 > p.shortfall([p.evaluate(sound)])


def test_the_tube_bends_as_beams_do():
    p = problem("tube")
    truth = p.evaluate({"root_diameter": 60.0, "tip_diameter": 60.0, "root_wall": 5.0, "tip_wall": 5.0})
    inertia = math.pi / 64 * (0.06**4 - 0.05**4)
    assert truth[SECOND] == pytest.approx(1e3 * 1500 / (3 * 210e9 * inertia), rel=1e-3)  # F L^3 / (3 E I)
    assert truth[VALUE] == pytest.approx(7850 * math.pi / 4 * (0.06**2 - 0.05**2))


def test_synthetic_fidelities_are_those_of_botorch():
    torch = pytest.importorskip("torch")
    functions = pytest.importorskip("botorch.test_functions.multi_fidelity")
    rng = np.random.default_rng(0)
    for name, theirs in (("branin_fidelity", "AugmentedBranin"), ("hartmann6_fidelity", "AugmentedHartmann")):
        p = problem(name)
        assert p.fidelity is not None
        for u in rng.random((10, len(p.dims) + 1)):
            params = {**p.from_unit(u[:-1]), "fidelity": float(u[-1])}
            reference = float(getattr(functions, theirs)()(torch.tensor([list(params.values())], dtype=torch.double)))
            assert p.evaluate(params)[VALUE] == pytest.approx(reference, rel=1e-5)
            at_target = {**params, "fidelity": 1.0}
            assert p.score(params) == p.score(at_target) == p.evaluate(at_target)[VALUE] - (p.optimum or 0)


def test_the_last_evaluation_is_one_that_the_budget_covers():
    p = problem("boosting_fidelity")
    assert p.fidelity is not None
    prices = Prices(p)
    one, other = p.from_unit([0.2] * 5), p.from_unit([0.3] * 5)
    assert prices.pay({**one, "trees": 27}, 2)
    assert prices.spent == pytest.approx((0.2 + 1 / 3) / 1.2)
    assert prices.pay(one, 2)  # the rest of the same configuration
    assert prices.spent == pytest.approx(1)
    assert prices.pay(one, 2)  # nothing is added
    assert prices.pay(other, 2)
    assert prices.spent == pytest.approx(2)
    assert not prices.pay({**p.from_unit([0.4] * 5), "trees": 3}, 2)
    assert prices.spent == pytest.approx(2)


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
    [
        ("branin", "own"),
        ("mixed7", "shared"),
        ("gramacy", "shared"),
        ("hartmann6_sum", "shared"),
        ("tube", "shared"),
    ],
)
def test_suffice_runs_from_end_to_end(name: str, start: str):
    (job,) = comparison([name], ["suffice"], [0], start, 9)
    line = main(job)
    assert line["status"] == "ok", line
    assert len(line["values"]) == len(line["trajectory"]) == 9
    assert len(line["asks"]) == 9 - line["starts"]
    assert line["score"] == pytest.approx(line["trajectory"][-1][1], rel=1e-4)
    assert line["notes"] == []
    assert line["calibration"]["results"] == 9


def test_suffice_chooses_fidelities_and_keeps_the_budget():
    (job,) = comparison(["boosting_fidelity"], ["suffice"], [0], "shared", 4)
    line = main(job)
    assert line["status"] == "ok", line
    assert len(line["values"]) > 4  # some were cheaper than a trial
    assert line["starts"] == 0
    assert line["trajectory"][-1] == (4, pytest.approx(line["score"], rel=1e-4))


def test_with_noise_a_front_is_scored_by_what_is_recommended():
    (line,) = [main(job) for job in comparison(["branin_currin_noisy"], ["suffice"], [0], "shared", 10)]
    assert [n for n, _ in line["trajectory"]] == [5, 10]
    assert all(len(pair) == 2 for pair in line["values"])
    assert 0 <= line["score"] <= 1


def test_every_peer_sees_the_same_start_and_the_same_noise():
    lines = [main(job) for job in comparison(["hartmann6_noisy"], ["random", "sobol", "suffice"], [1], "shared", 8)]
    assert len({tuple(line["values"][:7]) for line in lines}) == 1
    assert [n for n, _ in lines[0]["trajectory"]] == [5]


def test_a_peer_that_cannot_express_a_problem_says_so():
    with pytest.raises(Cannot, match="outcome"):
        make("optuna_cma", problem("gramacy"), 0, 5, 10)
    for name, peer in (("hartmann6_sum", "optuna_cma"), ("zdt3", "optuna_cma"), ("branin", "optuna_nsga2")):
        (job,) = comparison([name], [peer], [0], "shared", 8)
        assert main(job)["status"] == "cannot"


@pytest.mark.parametrize("peer", ["optuna_nsga2", "optuna_tpe", "random"])
def test_a_front_is_what_no_other_trial_beats(peer: str):
    pytest.importorskip("optuna")
    p = problem("zdt3")
    start = shared_start(p, 0, 50)
    made = make(peer, p, 0, len(start), 12)
    for params in start:
        made.add(params, p.evaluate(params))
    for _ in range(7):
        params = made.ask()
        start.append(params)
        made.tell(p.evaluate(params))
    truths = [p.evaluate(params) for params in start]
    assert p.shortfall(p.evaluate(params) for params in made.front()) == pytest.approx(p.shortfall(truths))
    assert len(made.front()) < len(start)


def test_rungs_of_one_configuration_until_it_is_pruned():
    pytest.importorskip("optuna")
    p = problem("branin_fidelity")
    peer = make("optuna_hyperband", p, 0, 0, 20)
    asked = []
    for _ in range(40):
        asked.append(peer.ask())
        peer.tell(p.evaluate(asked[-1]))
    assert [round(27 * params["fidelity"]) for params in asked[:4]] == [1, 3, 9, 27]
    assert len({(params["x1"], params["x2"]) for params in asked[:4]}) == 1
    best = peer.best()
    assert best is not None
    assert {"fidelity": 1.0, **best} in asked


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
        for job in comparison(["zdt3", "branin_fidelity"], ["random", "sobol"], [0, 1], "shared", None):
            file.write(json.dumps({"job": job, **main(job)}) + "\n")
        for job in [*latencies(["sobol", "suffice"], [20, 40], [0]), *qualities([20], [0])]:
            line = main(job) if job["kind"] == "latency" else {"status": "ok", **QUALITY}
            file.write(json.dumps({"job": job, **line}) + "\n")
    assert command(["report", "--out", str(out), "--page", str(page)]) == 0
    capsys.readouterr()
    text = page.read_text()
    assert text.startswith("above\n")
    assert text.endswith(f"{report.END}\nbelow\n")
    assert "last time" not in text
    assert "| `gramacy` | regret | 40 | 3 |" in text
    families = ("one", "two", "fidelities")
    assert {p.name for p in out.parent.glob("*.png")} == {
        *(f"{kind}-{family}-shared.png" for kind in ("curves", "ranks") for family in families),
        "latency.png",
        "growth.png",
    }
    assert "A search misses more than 0.01" in text
    assert "| `zdt3` | area missed | 50 | 2 |" in text


QUALITY = {"values": {"suffice": -2.0, "botorch": -3.0}, "seconds": {"suffice": 0.1, "botorch": 0.2}, "best": -2.0}
QUALITY |= {"starts": 4096}


def test_suffice_stands_where_its_scores_put_it():
    def line(problem: str, peer: str, seed: int, score: float) -> Line:
        job = {"kind": "run", "peer": peer, "problem": problem, "seed": seed, "start": "shared", "trials": 50}
        return {"job": job, "status": "ok", "measure": "regret", "score": score}

    scores = {"suffice": 3.0, "ax": 1.0, "random": 2.0, "sobol": 2.5}
    ahead = [line("mixed7", peer, s, score + 0.01 * s) for peer, score in scores.items() for s in range(5)]
    level = [line("branin", peer, s, abs(s - 2) + score / 100) for peer, score in scores.items() for s in range(5)]
    partly = [line("hartmann6", "suffice", s, 0.1) for s in range(5)] + [line("hartmann6", "ax", 0, 0.2)]
    found = results.verdicts(results.Results(ahead + level + partly, "shared"))
    assert [(v.problem, v.standing, v.place, v.worst_third) for v in found] == [
        ("branin", "behind", 4, True),
        ("hartmann6", "first, alone", 1, False),
        ("mixed7", "behind", 4, True),
    ]
    assert [v.kind for v in found] == ["", "", "mixed"]
    groups = results.rank_groups(results.Results(ahead + level + partly, "shared"))
    assert [title for title, _ in groups] == ["all 3 problems", "the 2 on which everybody was run"]
    assert [peer for peer, *_ in groups[0][1]] == ["ax", "suffice"]


def test_who_cannot_express_a_problem_takes_no_seeds_from_the_others():
    def line(peer: str, seed: int, **fields: Any) -> Line:
        job = {"kind": "run", "peer": peer, "problem": "digits", "seed": seed, "start": "shared", "trials": 50}
        return {"job": job, "status": "ok", "measure": "loss", **fields}

    told = [line(peer, s, score=float(s)) for peer in ("suffice", "ax") for s in range(5 if peer == "ax" else 4)]
    scores = results.Results([*told, line("hebo", 0, status="cannot")], "shared").scores("digits")
    assert scores.tolist() == [[0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0], [float("inf")] * 4]


def test_the_search_is_compared_with_thousands_of_starts():
    (job,) = qualities([12], [0])[:1]
    line = main(job)
    assert line["status"] == "ok", line
    assert set(line["values"]) == {"suffice", "botorch", "optuna_gp"}
    assert all(line["best"] - value > -1e-9 for value in line["values"].values())
    assert line["best"] - line["values"]["suffice"] < 0.01


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
    assert {name for name, _ in SPECIAL} | set(ONLY) <= set(PEERS)


def test_ranks_on_bbob_are_of_medians_over_common_seeds_and_ties_share_theirs() -> None:
    scores: bbob.Scores = {
        ("a", 1, 2): {0: 1.0, 1: 3.0, 2: 99.0},
        ("b", 1, 2): {0: 2.0, 1: 2.0},
        ("c", 1, 2): {0: 0.5, 1: 0.5},
        ("a", 20, 5): {0: 1.0},
        ("b", 20, 5): {0: 2.0},
        ("c", 20, 5): {0: 3.0},
    }
    np.testing.assert_array_equal(bbob.ranks(scores, ["a", "b", "c"], 1, 2), [2.5, 2.5, 1.0])
    assert bbob.ranks(scores, ["a", "b", "c"], 2, 2) is None
    table = bbob.tables(scores, ["a", "b", "c"], [2, 5])
    assert "| 2 dimensions | 1 | 2.50 | 2.50 | 1.00 |" in table
    assert "| multimodal, weak structure | 1 | 1.00 | 2.00 | 3.00 |" in table
    assert "| all | 2 | 1.75 | 2.25 | 2.00 |" in table
    assert "| first | 2 | 1 | 0 | 1 |" in table


def test_workers_are_asked_before_they_are_told_and_told_in_order() -> None:
    problem = next(p for p in workers.problems() if p.name == "SVM, classes")
    calls: list[str] = []

    class Spy:
        def __init__(self) -> None:
            self.peer = workers.PEERS["suffice"](problem, 0)

        def ask(self) -> tuple[Any, Params]:
            trial, params = self.peer.ask()
            calls.append(f"ask {trial.number}")
            return trial, params

        def tell(self, trial: Any, value: float) -> None:
            calls.append(f"tell {trial.number}")
            self.peer.tell(trial, value)

    values = workers.optimise(Spy(), replace(problem, trials=6), workers=2)
    assert calls[:5] == ["ask 0", "ask 1", "tell 0", "ask 2", "tell 1"]
    assert calls[-2:] == ["tell 4", "tell 5"]
    assert len(values) == 6
    assert all(0 <= value < 1 for value in values)
    runs = {("suffice", problem.name): {0: [0.5, 0.2]}, ("random", problem.name): {0: [0.4, 0.6], 1: [0.6, 0.6]}}
    assert "| SVM, classes | 0.00 | 1.00 |" in workers.table(runs, ["suffice", "random"])
