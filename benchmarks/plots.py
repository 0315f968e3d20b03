"""The plots of a comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .problems import PROBLEMS, family_of, kind_of
from .results import SMALLEST, Results, latency_of, rank_groups
from .roster import PEERS, TITLES

COLOURS = {
    "suffice": "#0b5fff",
    "suffice_untold": "#77a9ff",
    "suffice_single": "#77a9ff",
    "ax": "#d62728",
    "ax_sem0": "#f29a9b",
    "optuna_gp": "#2ca02c",
    "optuna_gp_exact": "#8fd694",
    "optuna_tpe": "#98c379",
    "optuna_cma": "#bcbd22",
    "optuna_nsga2": "#bcbd22",
    "optuna_hyperband": "#17becf",
    "botorch": "#ff7f0e",
    "smac": "#9467bd",
    "smac_forest": "#c5b0d5",
    "smac_hyperband": "#9467bd",
    "hebo": "#8c564b",
    "sobol": "#7f7f7f",
    "random": "#c7c7c7",
}


def plot_curves(results: Results, path: Path) -> None:
    """Median score of the best so far by number of trials, one panel per problem, with the middle half of the seeds."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogFormatter

    columns = min(3, len(results.problems))
    rows = math.ceil(len(results.problems) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.7 * columns, 3.5 * rows + 0.6), squeeze=False)
    for problem, axis in zip(results.problems, axes.flat, strict=False):
        measure = ""
        for peer in results.peers:
            lines = [line for line in results.of(problem, peer) if line["status"] == "ok"]
            if not lines:
                continue
            measure = lines[0]["measure"]
            n = sorted({point[0] for line in lines for point in line["trajectory"]})
            scores = np.array([held(line["trajectory"], n) for line in lines])
            floor = -np.inf if measure == "loss" else SMALLEST
            low, middle, high = np.nanpercentile(np.maximum(scores, floor), (25, 50, 75), axis=0)
            wide = 2.4 if peer == "suffice" else 1.3
            axis.plot(n, middle, color=COLOURS[peer], linewidth=wide, label=TITLES[peer], zorder=3 if wide > 2 else 2)
            axis.fill_between(n, low, high, color=COLOURS[peer], alpha=0.13, linewidth=0)
        if lines_of := [line for p in results.peers for line in results.of(problem, p) if line["status"] == "ok"]:
            starts = lines_of[0]["starts"]
            if starts:
                axis.axvline(starts + 0.5, color="black", linewidth=0.8, linestyle=":")
        if axis.dataLim.ymin > 0:  # a loss need not be
            axis.set_yscale("log")
            axis.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.5)))
        noisy = kind_of(problem) == "noisy"
        fidelity = family_of(problem) == "fidelities"
        axis.set_title(title_of(problem), fontsize=9.5)
        axis.set_xlabel("cost, in evaluations that count" if fidelity else "evaluations")
        axis.set_ylabel(f"{measure} of the {'recommended' if noisy or fidelity else 'best so far'}")
        axis.grid(alpha=0.25)
    for axis in list(axes.flat)[len(results.problems) :]:
        axis.set_visible(False)
    handles = {label: h for a in axes.flat for h, label in zip(*a.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=min(len(handles), 5), frameon=False)
    same = results.start == "shared" and not any(family_of(q) == "fidelities" for q in results.problems)
    start = "the same start for all (up to the dotted line)" if same else "each with its own start"
    figure.suptitle(f"Median and middle half of the seeds, {start}\n")
    legend = 0.45 * math.ceil(len(handles) / 5) / figure.get_size_inches()[1]
    figure.tight_layout(rect=(0, legend, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def held(trajectory: list[tuple[float, float]], at: list[float]) -> list[float]:
    """A trajectory's last score at each of these numbers of evaluations; NaN before the first."""
    when, scores = zip(*trajectory, strict=True)
    last = np.searchsorted(when, at, side="right") - 1
    return [math.nan if i < 0 else scores[i] for i in last]


def title_of(problem: str) -> str:
    """The problem's title; the suite of BBOB's need not be installed for it."""
    return f"BBOB {problem.removeprefix('bbob_')}, 5-d" if problem.startswith("bbob") else PROBLEMS[problem](0).title


def plot_ranks(results: Results, path: Path) -> None:
    from matplotlib import pyplot as plt

    title, rows = rank_groups(results)[0]
    figure, axis = plt.subplots(figsize=(7.5, 0.42 * len(rows) + 1.4), layout="constrained")
    for i, (peer, mean, low, high) in enumerate(reversed(rows)):
        axis.barh(i, mean, color=COLOURS[peer], height=0.65)
        axis.plot([low, high], [i, i], color="black", linewidth=1.4)
        axis.text(high + 0.06, i, f"{mean:.2f}", va="center", fontsize=9)
    axis.set_yticks(range(len(rows)), [TITLES[peer] for peer, *_ in reversed(rows)])
    axis.set_xlim(0.5, len(rows) + 0.5)
    axis.set_xlabel("mean rank (1 is best); line: 95 % bootstrap interval over seeds")
    axis.set_title(f"Mean rank by median score, {title}")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot_latency(results: Results, path: Path) -> None:
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullLocator

    sizes = sorted({line["job"]["n"] for line in results.latencies if line["job"]["peer"] != "suffice"})
    sizes = sizes or sorted({line["job"]["n"] for line in results.latencies})
    figure, axis = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    for peer in PEERS:
        for data, style in (("spread", "-"), ("clustered", "--")):
            costs = np.array([latency_of(results, peer, n, data) for n in sizes])
            costs[np.isinf(costs)] = math.nan
            if not np.isnan(costs).all():
                label = f"{TITLES[peer]}, {data}"
                axis.plot(sizes, costs, style, marker="o", markersize=4, color=COLOURS[peer], label=label)
    axis.set(xscale="log", yscale="log", xlabel="trials told", ylabel="CPU seconds per fresh ask")
    axis.set_xticks(sizes, [f"{n:,}" for n in sizes])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_title("Cost of a suggestion, Hartmann 6-d, one thread")
    axis.grid(alpha=0.25, which="both")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot_growth(rows: Mapping[tuple[int, str], tuple[float, float, float]], path: Path) -> None:
    """Time and memory of Suffice by number of trials, with the bars at 5,000."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullLocator

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained")
    for kind, style in (("spread", "-"), ("clustered", "--")):
        n = [size for size, k in rows if k == kind]
        mean, slowest, memory = np.array([rows[size, kind] for size in n]).T.reshape(3, -1)
        for axis, values, what, shade in (
            (left, mean, "mean ask", "#0b5fff"),
            (left, slowest, "slowest ask", "#77a9ff"),
            (right, memory, "peak memory", "#0b5fff"),
        ):
            axis.plot(n, values, style, marker="o", markersize=3.5, color=shade, label=f"{what}, {kind}")
    left.axhline(5, color="black", linewidth=0.8, linestyle=":")
    right.axhline(1500, color="black", linewidth=0.8, linestyle=":")
    left.set(xscale="log", yscale="log", xlabel="trials told", ylabel="CPU seconds per fresh ask")
    right.set(xscale="log", ylim=(0, None), xlabel="trials told", ylabel="MB of the process")
    sizes = sorted({size for size, _ in rows})
    for axis in (left, right):
        axis.set_xticks(sizes, [f"{n:,}" for n in sizes], fontsize=8, rotation=45)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(alpha=0.25)
        axis.legend(frameon=False, fontsize=8)
    figure.suptitle("Suffice up to 5,000 trials, 6-d, one thread (dotted: what is allowed at 5,000)")
    figure.savefig(path, dpi=130)
    plt.close(figure)
