"""One cell of the comparison (an optimizer on a problem with a seed), and running many of them one after another.

A cell is a process of its own with one thread and a time limit, so that nothing leaks from one to the next and CPU
seconds compare. It answers with one line of JSON; what fails, takes too long or cannot be expressed is a line, too.
"""

from __future__ import annotations

import json
import math
import os
import platform
import random
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from .functions import HARTMANN_BEST
from .peers import Cannot, Peer, Suffice, sequence
from .problem import Params, Problem, Truth
from .problems import HARTMANN6, PROBLEMS, trials_of
from .roster import ENVIRONMENTS, make

ROOT = Path(__file__).parents[1]
Job = dict[str, Any]  # what a cell is: kind, peer, problem, seed, start, trials (or n and data)
Line = dict[str, Any]  # what came of it: a status and the measurements; in the results file also the job
KEY = ("kind", "peer", "problem", "seed", "start", "trials", "n", "data")
CHECKPOINT = 5  # with noise, the recommendation is asked for after every so many trials
CHECKPOINT_OF_FIDELITIES = 2  # with a fidelity, in evaluations that count
LATENCY_ASKS = 5  # per cell, after one that warms up
# Adding to threads costs more than it gives at these sizes, and CPU seconds would count their waiting.
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB_MAXIMUM")}


# --- what there is to run ---------------------------------------------------------------------------------------------


def comparison(
    problems: Sequence[str], peers: Sequence[str], seeds: Iterable[int], start: str, trials: int | None
) -> list[Job]:
    """Seed by seed, so that what is there when a run is cut short is balanced; ``trials`` None: each problem's own."""
    budgets = {problem: trials or trials_of(problem) for problem in problems}
    return [
        {"kind": "run", "peer": peer, "problem": problem, "seed": seed, "start": start, "trials": budgets[problem]}
        for seed in seeds
        for problem in problems
        for peer in peers
    ]


def latencies(peers: Sequence[str], sizes: Iterable[int], seeds: Iterable[int]) -> list[Job]:
    """The cost of a fresh ask after n trials in six dimensions, spread out or clustered around the optimum."""
    return [
        {"kind": "latency", "peer": peer, "problem": "hartmann6", "seed": seed, "n": n, "data": data}
        for seed in seeds
        for n in sizes
        for data in ("spread", "clustered")
        for peer in peers
    ]


def qualities(sizes: Iterable[int], seeds: Iterable[int]) -> list[Job]:
    """How close each search comes to the acquisition's maximum; one cell compares them all."""
    return [{**job, "kind": "quality"} for job in latencies(["suffice"], sizes, seeds)]


def key(job: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(job.get(field) for field in KEY)


# --- inside a cell ----------------------------------------------------------------------------------------------------


def main(job: Job) -> Line:
    """Run one cell here, in this process."""
    began, cpu = time.monotonic(), time.process_time()
    seed = job["seed"]
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (some optimizers draw from the global state)
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            measured = KINDS[job["kind"]](job)
    except Cannot as reason:
        return {"status": "cannot", "why": str(reason)}
    except ModuleNotFoundError as error:
        return {"status": "missing", "why": str(error)}
    return {
        "status": "ok",
        **measured,
        "wall": round(time.monotonic() - began, 2),
        "cpu": round(time.process_time() - cpu, 2),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def run(job: Job) -> Line:
    """Optimise a problem: the shared start (or the peer's own), then ask and tell until the budget is spent.

    With a fidelity the last evaluation is the last that the budget covers, and there is no shared start: what an
    evaluation costs is the peer's to choose from the first.
    """
    problem = PROBLEMS[job["problem"]](job["seed"])
    total: int = job["trials"]
    shared = job["start"] == "shared" and problem.fidelity is None
    start = shared_start(problem, job["seed"], total) if shared else []
    peer = make(job["peer"], problem, job["seed"], len(start), total)
    noise = np.random.default_rng([job["seed"], 2])  # the same for every peer
    record = Record(problem)
    values: list[Any] = []
    asks: list[float | None] = []
    tells: list[float] = []
    prices = Prices(problem)
    rested = True  # no recommendation was computed since the last tell, so the next ask does all its work itself
    while prices.spent < total - 1e-9:
        clock = time.process_time()
        params = start[len(values)] if len(values) < len(start) else peer.ask()
        asked = time.process_time() - clock
        if not prices.pay(params, total):
            break
        truth = problem.evaluate(params)
        told = disturbed(problem, truth, noise)
        clock = time.process_time()
        if len(values) < len(start):
            peer.add(params, told)
        else:
            peer.tell(told)
            asks.append(_short(asked) if rested else None)
            tells.append(_short(time.process_time() - clock))
        values.append([float(f"{told[name]:.6g}") for name in problem.objectives])
        rested = not record.note(params, truth, prices.spent, peer)
    record.end(total, peer)
    return {
        "score": record.score,
        "measure": problem.measure,
        "trajectory": [(n, float(f"{s:.6g}")) for n, s in record.trajectory],
        "values": values if problem.front else [value for (value,) in values],
        "starts": len(start),
        "asks": asks,
        "tells": tells,
        "notes": peer.notes,
        "versions": versions(peer),
        **({} if (calibration := peer.calibration()) is None else {"calibration": calibration}),
    }


def disturbed(problem: Problem, truth: Truth, rng: np.random.Generator) -> dict[str, float]:
    """What a peer is told: the objectives with their noise."""
    units = problem.front.units if problem.front else (1.0,)
    noise = {
        name: problem.noise * unit * rng.standard_normal() for name, unit in zip(problem.objectives, units, strict=True)
    }
    return {name: value + noise.get(name, 0.0) for name, value in truth.items()}


class Prices:
    """What was spent, in evaluations that count."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.spent = 0.0
        self._paid: dict[tuple[Any, ...], float] = {}

    def pay(self, params: Params, total: float) -> bool:
        """Whether the budget covers this evaluation; it is paid then."""
        price = self._price(params)
        if self.spent + price > total + 1e-9:
            return False
        self.spent += price
        return True

    def _price(self, params: Params) -> float:
        fidelity = self.problem.fidelity
        if fidelity is None:
            return 1.0
        cost = fidelity.cost({**self.problem.target, **params}[fidelity.dim.name])
        if not fidelity.resumable:
            return cost
        name = tuple(sorted((k, v) for k, v in params.items() if k != fidelity.dim.name))
        before = self._paid.get(name, 0.0)
        self._paid[name] = max(before, cost)
        return max(cost - before, 0.0)


class Record:
    """The score by what was spent: of the best so far; with noise or a fidelity of what is recommended then."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.trajectory: list[tuple[float, float]] = []
        self.score = problem.penalty
        self._best = problem.penalty
        self._truths: list[Truth] = []
        self._every = CHECKPOINT if problem.fidelity is None else CHECKPOINT_OF_FIDELITIES
        self._due = float(self._every)

    def note(self, params: Params, truth: Truth, spent: float, peer: Peer) -> bool:
        """Take note of an evaluation; whether the peer was asked for a recommendation."""
        if self.problem.noise or self.problem.fidelity:
            if spent < self._due - 1e-9:
                return False
            self.trajectory.append((self._due, recommended(self.problem, peer)))
            self._due += self._every
            return True
        if self.problem.front:
            self._truths.append(truth)
            score = self.problem.shortfall(self._truths)
        else:
            score = self.problem.score(params, truth)
        self._best = score if math.isnan(self._best) else min(self._best, score)
        self.trajectory.append((len(self.trajectory) + 1, self._best))
        return False

    def end(self, total: int, peer: Peer) -> None:
        self.score = recommended(self.problem, peer)
        if self.problem.fidelity:  # the last evaluation may have left a rest of the budget
            self.trajectory = [point for point in self.trajectory if point[0] < total] + [(total, self.score)]


def recommended(problem: Problem, peer: Peer) -> float:
    """The score of what the peer recommends now."""
    if problem.front:
        return problem.shortfall(problem.evaluate(params) for params in peer.front())
    return problem.score(peer.best())


def latency(job: Job) -> Line:
    """CPU seconds of asks that know every tell, after n trials."""
    peer = loaded(job)
    asks: list[float] = []
    walls: list[float] = []
    for _ in range(LATENCY_ASKS + 1):
        wall, clock = time.monotonic(), time.process_time()
        params = peer.ask()
        asks.append(_short(time.process_time() - clock))
        walls.append(_short(time.monotonic() - wall))
        peer.tell(HARTMANN6.evaluate(params))
    return {"first": asks[0], "asks": asks[1:], "walls": walls[1:], "versions": versions(peer)}


def quality(job: Job) -> Line:
    """How close searches come to the maximum of the acquisition that Suffice would use after n trials."""
    from .quality import searches

    peer = loaded(job)
    assert isinstance(peer, Suffice)
    return {**searches(peer.study, job["seed"]), "versions": versions(peer)}


def loaded(job: Job) -> Peer:
    """A peer that knows n trials."""
    peer = make(job["peer"], HARTMANN6, job["seed"], job["n"], job["n"] + LATENCY_ASKS + 1)
    for params in data(job["n"], job["data"], job["seed"]):
        peer.add(params, HARTMANN6.evaluate(params))
    return peer


KINDS = {"run": run, "latency": latency, "quality": quality}


def shared_start(problem: Problem, seed: int, total: int) -> list[Params]:
    """The first configurations of every peer: the beginning of a scrambled Sobol sequence."""
    points = sequence(problem, seed)
    return [next(points) for _ in range(min(problem.start_size, total))]


def data(n: int, kind: str, seed: int) -> list[Params]:
    """n configurations of Hartmann's: a Sobol sequence; clustered: half of it is normal around the optimum, sd 0.05."""
    points = sequence(HARTMANN6, seed)
    spread = [next(points) for _ in range(n)]
    if kind == "spread":
        return spread
    rng = np.random.default_rng([seed, 3])
    near = np.clip(np.array(HARTMANN_BEST) + 0.05 * rng.standard_normal((n - n // 2, 6)), 0, 1)
    return spread[: n // 2] + [HARTMANN6.from_unit(u) for u in near]


def versions(peer: Peer) -> dict[str, str]:
    return {"python": platform.python_version(), **peer.versions()}


def _short(seconds: float) -> float:
    return float(f"{seconds:.3g}")


# --- running cells ----------------------------------------------------------------------------------------------------


def cell(job: Job, limit: float) -> Line:
    """Run one cell in a process of its own; never raises for what goes wrong there."""
    python = interpreter(job["peer"])
    if python is None:
        return {"status": "missing", "why": f"no {ENVIRONMENTS[job['peer']]}: make bench-env"}
    command = [str(python), "-m", "benchmarks", "cell"]
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | ONE_THREAD,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(json.dumps(job), timeout=limit)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            return {"status": "timeout", "why": f"over {limit:g} s", "wall": limit}
        raise
    if process.returncode == 0 and out.strip():
        line: Line = json.loads(out.strip().splitlines()[-1])
        return line
    why = "\n".join(err.strip().splitlines()[-3:])
    wall = round(time.monotonic() - began, 2)
    return {"status": "failed", "code": process.returncode, "why": why, "wall": wall}


def interpreter(peer: str) -> Path | None:
    """The Python that runs a peer: this one, or that of the environment it needs; None where that is not there."""
    if peer not in ENVIRONMENTS:
        return Path(sys.executable)
    python = ROOT / ENVIRONMENTS[peer] / "bin" / "python"
    return python if python.exists() else None


def read(path: Path) -> list[Line]:
    """The lines of a results file, the last one where a cell was run again."""
    if not path.exists():
        return []
    lines: dict[tuple[Any, ...], Line] = {}
    for text in path.read_text().splitlines():
        line = json.loads(text)
        lines[key(line["job"])] = line
    return list(lines.values())


def run_all(jobs: Sequence[Job], out: Path, limit: float, redo: Sequence[str] = (), retry: bool = False) -> list[Line]:
    """Run the cells that ``out`` does not hold yet and append each to it; returns what was run.

    ``redo`` runs the cells of these peers again; ``retry`` those that failed, timed out or were missing.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    settled = {
        key(line["job"])
        for line in read(out)
        if line["job"]["peer"] not in redo and not (retry and line["status"] not in ("ok", "cannot"))
    }
    waiting = [job for job in jobs if key(job) not in settled]
    out.parent.mkdir(parents=True, exist_ok=True)
    commit = revision()
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    done: list[Line] = []
    with (
        out.open("a") as file,
        Progress(TextColumn("{task.description}"), *columns, speed_estimate_period=24 * 3600) as progress,
    ):
        task = progress.add_task("", total=len(jobs), completed=len(jobs) - len(waiting))
        for job in waiting:
            progress.update(task, description=describe(job))
            line = {"job": job, **cell(job, limit), "commit": commit, "load": round(os.getloadavg()[0], 1)}
            file.write(json.dumps(line) + "\n")
            file.flush()
            done.append(line)
            progress.console.print(f"{describe(job):44} {outcome(line)}", highlight=False, soft_wrap=True)
            progress.advance(task)
    return done


def revision() -> str:
    """The commit that is checked out, marked + where the core differs from it; empty outside a checkout."""
    try:
        command = ["git", "describe", "--always", "--abbrev=9", "--exclude=*"]
        head = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            ["git", "diff", "--quiet", "HEAD", "--", "optimizer"], cwd=ROOT, check=False
        ).returncode
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if changed else "")


def cost(line: Line) -> float:
    """CPU seconds per ask of a cell: the mean, because some peers fit only now and then. The first ask of a run is left
    out; it imports what it needs.
    """
    asks = [a for a in line["asks"] if a is not None]
    return float(np.mean(asks if line["job"]["kind"] == "latency" else asks[1:])) if len(asks) > 1 else math.nan


def describe(job: Job) -> str:
    where = job["problem"] if job["kind"] == "run" else f"{job['kind']}, n={job['n']} {job['data']}"
    return f"{job['peer']} | {where} | seed {job['seed']}"


def outcome(line: Line) -> str:
    match line["status"]:
        case "ok" if line["job"]["kind"] == "latency":
            return f"{cost(line):.3g} CPU s per ask, {line['peak_mb']} MB"
        case "ok" if line["job"]["kind"] == "quality":
            return ", ".join(f"{name} misses {line['best'] - value:.3g}" for name, value in line["values"].items())
        case "ok":
            return f"{line['measure']} {line['score']:.4g}, {cost(line):.3g} CPU s per ask, {line['wall']:.0f} s"
        case status:
            return f"{status}: {line['why'].splitlines()[-1] if line['why'] else ''}"
