"""Schedules for few steps: Bayesian optimization beside evolution, random search and the schedules in common use.

    make bench-diffusion                              run what is missing, then report
    python -m benchmarks.diffusion run --seeds 5      ... only run; each cell once, kept as a line of JSON
    python -m benchmarks.diffusion report             the tables and the figure of docs/diffusion.md

All methods search the same space on the same images: 60 evaluations of 256, from noise that is the same for all methods
of a seed. The best 8 of each then make 512 images of other noise, and the winner 2 x 1,024 of noise that nobody has
seen, the same for all. With an anchor, ten steps make the images of the search and some of the other noise once, and
evaluations have fewer images, so that all of it takes fewer calls of the network than the others' evaluations.
Times are CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from suffice.adapters.diffusion.evaluation import Evaluation
from suffice.adapters.diffusion.quality import Frechet, Reference
from suffice.adapters.diffusion.schedule import Schedule
from suffice.adapters.diffusion.search import OTHER_NOISE, Search, anchored
from suffice.adapters.diffusion.solvers import Choices
from suffice.adapters.diffusion.source import FromStudy, Source, source_of

from .digit_models import ddpm_pipeline, digit_classifier, digits, flow_pipeline

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "benchmarks" / "diffusion.jsonl"
FIGURE = ROOT / "docs" / "images" / "diffusion_search.png"
PAGE = ROOT / "docs" / "diffusion.md"
START, END = "<!-- tables: start -->", "<!-- tables: end -->"


@dataclass(frozen=True)
class Setting:
    """What is searched: the number of steps, solvers, and other options of `Choices`."""

    steps: int
    solvers: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    flow: bool = False

    @property
    def choices(self) -> Choices:
        return Choices(self.steps, self.solvers, flow=self.flow, **self.options)


SETTINGS = {
    "DDIM, 4 steps": Setting(4, ("ddim",)),
    "DPM-Solver++ or UniPC, 4 steps": Setting(4, ("dpm_multistep", "unipc")),
    "DDIM, 6 steps": Setting(6, ("ddim",)),
    "DDIM with corrected noise, 4 steps": Setting(4, ("ddim",), {"correction": (-0.5, 0.5)}),
    "flow matching, Euler or UniPC, 4 steps": Setting(4, ("flow_euler", "unipc"), flow=True),
}


@dataclass(frozen=True)
class Method:
    """Who searches, and how many images an evaluation has; ``anchor``: images of the other noise that anchor it."""

    name: str
    color: str
    search: str = "bayes"
    trials: int = 60
    images: int = 256
    levels: tuple[int, ...] = ()
    anchor: int = 0


TRIALS, IMAGES, FEW, LEVELS = 60, 256, 64, (32, 64, 128, 256)
ANCHOR_STEPS = 10
METHODS = {
    "random": Method("random search", "#999999", "random"),
    "autodiffusion": Method("evolution (AutoDiffusion)", "#d95f02", "autodiffusion"),
    "usf": Method("evolution (USF, S³)", "#e6ab02", "usf"),
    "bayes": Method("Suffice", "#1b6ca8"),
    "bayes, few": Method("Suffice, 64 images", "#7570b3", images=FEW),
    "bayes, levels": Method("Suffice, 32 to 256 images", "#66a61e", levels=LEVELS),
    "autodiffusion, anchored": Method("evolution, anchored, 128 images", "", "autodiffusion", images=128, anchor=2048),
    "bayes, anchored": Method("Suffice, anchored, 128 images", "", images=128, anchor=2048),
    "bayes, few anchored": Method("Suffice, anchored, 50 x 64 images", "", trials=50, images=FEW, anchor=512),
}
CONFIRM, CONFIRM_IMAGES = 8, 512
FRESH, FRESH_IMAGES = (1_000_000, 1_000_001), 1024
MANY = (20, 50)  # steps at which the default shows what the model can do
LIKE = 1.05  # times a value: as good as it
NOISE = 100  # between the noise seeds of two seeds


@cache
def evaluation(*, flow: bool = False) -> Evaluation:
    images, _ = digits()
    pipeline = flow_pipeline() if flow else ddpm_pipeline()
    return Evaluation(pipeline, Frechet(Reference.of(images, digit_classifier().features)))


def fresh(judge: Evaluation, schedule: Schedule) -> list[float]:
    """The distance on each set of unseen noise."""
    return [judge.judge(schedule, FRESH_IMAGES, seed).score.value for seed in FRESH]


# --- running ----------------------------------------------------------------------------------------------------------


def reference_cell(setting: str) -> dict[str, Any]:
    """What needs no search: the pipeline's default, and every schedule in common use with every solver."""
    given = SETTINGS[setting]
    judge = evaluation(flow=given.flow)
    search = Search(given.choices, judge, TRIALS, IMAGES)
    if given.flow:
        default, many = fresh(judge, even_flow(given.steps)), {str(k): fresh(judge, even_flow(k)) for k in MANY}
    else:
        default = fresh(judge, even(given.steps, 1 if given.solvers == ("ddim",) else 2))
        many = {str(k): fresh(judge, even(k, 2)) for k in MANY}
    known = {name: fresh(judge, search.choices.schedule(params)) for name, params in search.known().items()}
    return {"setting": setting, "method": "reference", "seed": 0, "default": default, "many": many, "known": known}


def even(steps: int, order: int) -> Schedule:
    """What DPM-Solver++ (of order 1: DDIM) does by itself for so many steps: evenly spaced times."""
    times = np.linspace(0, 999, steps + 1).round()[::-1][:-1]
    return Schedule("DPMSolverMultistepScheduler", tuple(int(t) for t in times), config={"solver_order": order})


def even_flow(steps: int) -> Schedule:
    """What flow matching's Euler does by itself for so many steps: evenly spaced noise levels."""
    return Schedule("FlowMatchEulerDiscreteScheduler", sigmas=tuple(i / steps for i in range(steps, 0, -1)))


def search_cell(setting: str, method: str, seed: int) -> dict[str, Any]:
    """One search, its curve, and what its winner is worth."""
    given, how = SETTINGS[setting], METHODS[method]
    plain = judge = evaluation(flow=given.flow)
    noise, begun = NOISE * seed, time.process_time()
    if how.anchor:
        judge = anchored(plain, ANCHOR_STEPS, {noise: how.images, noise + OTHER_NOISE: how.anchor})
    search = Search(
        given.choices,
        judge,
        how.trials,
        how.images,
        levels=how.levels,
        method=how.search,
        seed=seed,
        noise_seed=noise,
    )
    timed = Timed(source_of(search, None, None, setting))
    tried = list(search.run(timed))
    cpu = time.process_time() - begun
    curve: list[tuple[int, float]] = []
    if how.anchor:
        pass  # its values cannot be compared
    elif search.images < IMAGES or search.levels:  # what is recommended after every result, by as many images as others
        values = [t.judged.score.value for t in tried]
        leading = [dict(tried[int(np.argmin(values[: i + 1]))].params) for i in range(len(tried))]
        images = np.cumsum([t.judged.images for t in tried])
        schedules = [search.choices.schedule(params) for params in timed.recommended or leading]
        worth = {
            text: judge.judge(schedule, IMAGES, search.noise_seed).score.value
            for text, schedule in {str(s): s for s in schedules}.items()
        }
        curve = [(int(n), worth[str(s)]) for n, s in zip(images, schedules, strict=True)]
    else:
        best = np.minimum.accumulate([t.judged.score.value for t in tried])
        curve = [(IMAGES * (i + 1), float(v)) for i, v in enumerate(best)]
    found = search.conclude(tried, CONFIRM, CONFIRM_IMAGES)
    return {
        "setting": setting,
        "method": method,
        "seed": seed,
        "curve": curve,
        "evaluations": len(tried),
        "images": found.images + (how.images + how.anchor if how.anchor else 0),
        "calls": found.images * given.steps + (ANCHOR_STEPS * (how.images + how.anchor) if how.anchor else 0),
        "search": found.best.value,
        "confirmed": found.best.other_value,
        "fresh": fresh(plain, found.schedule),
        "schedule": found.schedule.to_json(),
        "cpu": cpu,
        "proposals": timed.seconds,
    }


class Timed:
    """A source, with the CPU seconds of every proposal; with levels also what is recommended after each result."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.seconds: list[float] = []
        self.recommended: list[dict[str, Any]] = []

    def past(self) -> list[tuple[dict[str, Any], dict[str, float]]]:
        return self.source.past()

    def ask(self) -> tuple[Any, dict[str, Any]] | None:
        begun = time.process_time()
        asked = self.source.ask()
        self.seconds.append(time.process_time() - begun)
        return asked

    def tell(self, handle: Any, values: Mapping[str, float], shown: torch.Tensor | None = None) -> None:
        self.source.tell(handle, values, shown)
        if isinstance(self.source, FromStudy) and self.source.study.fidelity is not None:
            self.recommended.append(self.source.study.best.params)

    def refuse(self, handle: Any, reason: str) -> None:
        self.source.refuse(handle, reason)


def run(seeds: int, results: Path, only: str | None, methods: Sequence[str], left: int) -> None:
    """The cells that are missing, one after another, so many of them (-1: all)."""
    torch.set_num_threads(1)
    wanted = [s for s in SETTINGS if only is None or only in s]
    planned = [(s, "reference", 0) for s in wanted]
    planned += sorted(product(wanted, methods, range(seeds)), key=_rank)
    for setting, method, seed in planned:
        if any((r["setting"], r["method"], r["seed"]) == (setting, method, seed) for r in read(results)):
            continue
        if left == 0:
            return
        left -= 1
        referring = method == "reference"
        cell = reference_cell(setting) if referring else search_cell(setting, method, seed)
        with results.open("a") as file:
            file.write(json.dumps(cell) + "\n")
        print(setting, method, seed, cell["default" if referring else "fresh"], flush=True)


def _rank(cell: tuple[str, str, int]) -> tuple[int, int]:
    """What says most comes first, all seeds of it."""
    setting, method, seed = cell
    later = 0 if method in ("bayes", "autodiffusion", "bayes, anchored") else 1
    return list(SETTINGS).index(setting) // 2 + later, seed


def read(results: Path) -> list[dict[str, Any]]:
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text().splitlines() if line]


# --- reporting --------------------------------------------------------------------------------------------------------


def cells(rows: list[dict[str, Any]], setting: str, method: str) -> list[dict[str, Any]]:
    return sorted((r for r in rows if (r["setting"], r["method"]) == (setting, method)), key=lambda r: r["seed"])


def reached(curve: list[list[float]], target: float) -> float:
    """Images until the curve is at the target; infinite where it never is."""
    return next((n for n, value in curve if value <= target), float("inf"))


def tables(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield from _distances(rows)
    yield ""
    yield from _speed(rows)
    yield ""
    yield from _overhead(rows)


def write(rows: list[dict[str, Any]], page: Path) -> None:
    """Put the tables into a page, between its marks."""
    before, rest = page.read_text().split(START)
    found = "\n".join(tables(rows))
    page.write_text(f"{before}{START}\n\n{found}\n\n{END}{rest.split(END)[1]}")


def _distances(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield _row(
        "setting",
        "method",
        "unseen noise: mean [each seed]",
        "/ default",
        "/ best known",
        "/ evolution",
        "search",
        "calls",
    )
    yield _row(*["---"] * 8)
    for setting, given in SETTINGS.items():
        reference = cells(rows, setting, "reference")
        if not reference or not cells(rows, setting, "autodiffusion"):
            continue
        known = {name: float(np.mean(v)) for name, v in reference[0]["known"].items()}
        best = min(known, key=lambda name: known[name])
        default, lowest = float(np.mean(reference[0]["default"])), known[best]
        evolution = float(np.mean([r["fresh"] for r in cells(rows, setting, "autodiffusion")] or np.nan))

        def ratios(value: float, *beside: float) -> list[str]:
            return [f"{value:.2f}", *(f"{value / other:.2f}" for other in beside)]

        beside = (default, lowest, evolution)
        yield _row(setting, "default", *ratios(default, *beside), "", "")
        yield _row("", f"best known: {best}", *ratios(lowest, *beside), "", "")
        for k, values in reference[0]["many"].items():
            yield _row(
                "",
                f"{'Euler' if given.flow else 'DPM-Solver++'}, {k} even steps",
                *ratios(float(np.mean(values)), *beside),
                "",
                "",
            )
        for method, how in METHODS.items():
            if found := cells(rows, setting, method):
                each = [float(np.mean(r["fresh"])) for r in found]
                mean, *others = ratios(float(np.mean(each)), *beside)
                listed = ", ".join(f"{v:.2f}" for v in each)
                search = f"{np.mean([r['search'] for r in found]):.2f}"
                calls = f"{np.mean([r.get('calls', r['images'] * given.steps) for r in found]) / 1000:.0f}k"
                yield _row("", how.name, f"**{mean}** [{listed}]", *others, search, calls)


def _speed(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Paired by seed: on the same noise."""
    until = f"until within 5 % of the last value of {TRIALS} x {IMAGES}"
    columns = f"images {until}, {FEW} per evaluation", f"images {until}, {LEVELS[0]} to {LEVELS[-1]}"
    yield _row("setting", "evaluations until evolution's last value", *columns)
    yield _row(*["---"] * 4)
    for setting in SETTINGS:
        bayes = cells(rows, setting, "bayes")
        evolved = zip(bayes, cells(rows, setting, "autodiffusion"), strict=False)
        evaluations = [reached(b["curve"], e["curve"][-1][1]) / IMAGES for b, e in evolved]
        few, levels = (
            [
                reached(m["curve"], LIKE * b["curve"][-1][1])
                for b, m in zip(bayes, cells(rows, setting, name), strict=False)
            ]
            for name in ("bayes, few", "bayes, levels")
        )
        if evaluations:
            yield _row(setting, _median(evaluations), _median(few), _median(levels))


def _overhead(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield _row("setting", f"CPU s per proposal, the last ten of {TRIALS}: mean", "largest", "CPU s of a whole search")
    yield _row(*["---"] * 4)
    for setting in SETTINGS:
        if found := cells(rows, setting, "bayes"):
            late = [
                s for r in found for s in r["proposals"][-11:-1]
            ]  # the last ask only learns that the budget is spent
            total = np.mean([r["cpu"] for r in found])
            yield _row(setting, f"{np.mean(late):.3f}", f"{max(late):.3f}", f"{total:.1f}")


def _row(*entries: str) -> str:
    return f"| {' | '.join(entries)} |"


def _median(values: list[float]) -> str:
    if not values:
        return ""
    listed = ", ".join("never" if v == float("inf") else f"{v:.0f}" for v in values)
    middle = float(np.median(values))
    return f"{'never' if middle == float('inf') else f'{middle:.0f}'} [{listed}]"


def figure(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    settings = [s for s in SETTINGS if cells(rows, s, "bayes")]
    fig, axes = plt.subplots(1, len(settings), figsize=(3.6 * len(settings), 3.4), squeeze=False, layout="constrained")
    for axis, setting in zip(axes[0], settings, strict=True):
        at = np.arange(IMAGES, TRIALS * IMAGES + 1, IMAGES)
        for method, how in METHODS.items():
            curves = [r["curve"] for r in cells(rows, setting, method) if r["curve"]]
            if curves:
                lines = np.array([[min([v for n, v in c if n <= x], default=np.nan) for x in at] for c in curves])
                axis.plot(at / IMAGES, np.nanmean(lines, axis=0), color=how.color, label=how.name, lw=1.6)
        axis.set(title=setting, xlabel="images / 256", yscale="log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.grid(True, which="both", lw=0.3, alpha=0.5)
    axes[0][0].set_ylabel("Fréchet distance, best so far")
    axes[0][0].legend(fontsize=7, frameon=False)
    fig.savefig(path, dpi=130)
    plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.diffusion", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("command", nargs="?", choices=["run", "report", "all"], default="all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", help="settings whose name holds this")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=tuple(METHODS))
    parser.add_argument("--cells", type=int, default=-1, help="how many to run at most (-1: all that are missing)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    parser.add_argument("--page", type=Path, default=PAGE, help="where the tables are put")
    given = parser.parse_args()
    if given.command != "report":
        run(given.seeds, given.results, given.only, given.methods, given.cells)
    if given.command != "run":
        rows = read(given.results)
        write(rows, given.page)
        figure(rows, given.figure)


if __name__ == "__main__":
    main()
