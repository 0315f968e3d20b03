"""From the lines of a comparison to its tables (Markdown) and plots (PNG)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .peers import PEERS, TITLES, VARIANTS
from .problems import PROBLEMS, trials_of
from .run import Line, cost, read

BEGIN = "<!-- begin: written by python -m benchmarks report -->"
END = "<!-- end -->"
DRAWS = 4000  # bootstrap resamples of the seeds
SMALLEST = 1e-8  # regrets below it are the same
MEASURED = ("ok", "cannot", "failed", "timeout")  # a peer that was not installed was not measured
COLOURS = {
    "suffice": "#0b5fff",
    "suffice_untold": "#77a9ff",
    "ax": "#d62728",
    "ax_sem0": "#f29a9b",
    "optuna_gp": "#2ca02c",
    "optuna_gp_exact": "#8fd694",
    "optuna_tpe": "#98c379",
    "optuna_cma": "#bcbd22",
    "botorch": "#ff7f0e",
    "smac": "#9467bd",
    "smac_forest": "#c5b0d5",
    "hebo": "#8c564b",
    "sobol": "#7f7f7f",
    "random": "#c7c7c7",
}


@dataclass(frozen=True)
class Results:
    """The runs of one kind of start and one number of trials, and the latencies."""

    lines: Sequence[Line]
    start: str

    @cached_property
    def runs(self) -> dict[tuple[str, str, int], Line]:
        """By problem, peer and seed; only with each problem's own number of trials."""
        return {
            (j["problem"], j["peer"], j["seed"]): line
            for line in self.lines
            for j in [line["job"]]
            if j["kind"] == "run"
            and j["start"] == self.start
            and j["trials"] == trials_of(j["problem"])
            and line["status"] in MEASURED
        }

    @property
    def peers(self) -> list[str]:
        return [p for p in PEERS if any(peer == p for _, peer, _ in self.runs)]

    @property
    def ranked(self) -> list[str]:
        return [p for p in self.peers if p not in VARIANTS]

    @property
    def problems(self) -> list[str]:
        return [p for p in PROBLEMS if any(problem == p for problem, _, _ in self.runs)]

    def peers_of(self, problem: str) -> list[str]:
        """The peers, without variants, that were run on a problem."""
        return [p for p in self.ranked if any((q, peer) == (problem, p) for q, peer, _ in self.runs)]

    def of(self, problem: str, peer: str) -> list[Line]:
        return [line for (q, p, _), line in self.runs.items() if (q, p) == (problem, peer)]

    def scores(self, problem: str) -> np.ndarray:
        """Peer by seed, over the seeds that all the problem's peers were run with; infinite without a result."""
        peers = self.peers_of(problem)
        seeds = [{s for q, p, s in self.runs if (q, p) == (problem, peer)} for peer in peers]
        common = sorted(set.intersection(*seeds)) if seeds else []
        return np.array([[_score(self.runs[problem, peer, seed]) for seed in common] for peer in peers])

    def expressible(self, problem: str) -> bool:
        """Whether no peer had to say that it cannot express the problem."""
        return all(line["status"] != "cannot" for (q, _, _), line in self.runs.items() if q == problem)

    @property
    def latencies(self) -> list[Line]:
        return [line for line in self.lines if line["job"]["kind"] == "latency"]


def _score(line: Line) -> float:
    if line["status"] != "ok":
        return math.inf
    score = float(line["score"])
    return max(score, SMALLEST) if line["measure"] == "regret" else score


# --- statistics -------------------------------------------------------------------------------------------------------


def ranks(scores: Sequence[np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean rank per peer over the problems by median score, and its 95 % interval over resampled seeds.

    ``scores``: one array of peer by seed per problem; equal medians share their mean rank.
    """
    draws = np.array(
        [_mean_rank([s[:, rng.integers(s.shape[1], size=s.shape[1])] for s in scores]) for _ in range(DRAWS)]
    )
    low, high = np.percentile(draws, (2.5, 97.5), axis=0)
    return _mean_rank(scores), low, high


def _mean_rank(scores: Sequence[np.ndarray]) -> np.ndarray:
    from scipy.stats import rankdata

    per_problem = np.array([rankdata(_median(s)) for s in scores])
    mean: np.ndarray = per_problem.mean(0)
    return mean


def _median(scores: np.ndarray) -> np.ndarray:
    """Median per row; a row of which half is infinite is infinite."""
    middle = np.sort(scores, axis=1)
    n = middle.shape[1]
    pair: np.ndarray = np.maximum(middle[:, n // 2], middle[:, (n - 1) // 2]) if n else middle
    return np.where(np.isinf(pair), np.inf, (middle[:, n // 2] + middle[:, (n - 1) // 2]) / 2)


def tied(best: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> bool:
    """Whether the median difference over paired seeds may be zero: its 95 % bootstrap interval reaches it."""
    if np.isinf(other).all():
        return False
    difference = np.where(np.isinf(other), np.inf, other - np.where(np.isinf(best), other, best))
    medians = _median(difference[rng.integers(len(difference), size=(DRAWS, len(difference)))])
    return bool(np.percentile(medians, 2.5, method="lower") <= 0)


# --- tables -----------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---"] + ["--:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def score_table(results: Results) -> str:
    """Median score by problem and peer, the best of each problem in bold."""
    peers = results.peers
    rows = []
    for problem in results.problems:
        medians = {p: _cell(results.of(problem, p)) for p in peers}
        best = min((m for m, _ in medians.values()), default=math.inf)
        cells = [f"**{text}**" if m == best and math.isfinite(m) else text for m, text in medians.values()]
        some = next((line for p in peers for line in results.of(problem, p) if line["status"] == "ok"), None)
        trials, measure = (str(some["job"]["trials"]), some["measure"]) if some else ("", "")
        rows.append([f"`{problem}`", measure, trials, str(results.scores(problem).shape[-1]), *cells])
    return table(["problem", "score", "trials", "seeds", *(TITLES[p] for p in peers)], rows)


def _cell(lines: Sequence[Line]) -> tuple[float, str]:
    if not lines:
        return math.inf, "-"
    if lines[0]["status"] == "cannot":
        return math.inf, "cannot"
    median = float(_median(np.array([[_score(line) for line in lines]]))[0])
    bad = sum(line["status"] != "ok" for line in lines)
    text = "failed" if math.isinf(median) else f"{median:.3g}"
    return median, text + (f" ({bad} of {len(lines)} failed)" if bad else "")


def rank_rows(results: Results) -> list[tuple[str, list[tuple[str, float, float, float]]]]:
    """For all problems that every peer was run on, and for those of them that every peer can express."""
    complete = [
        q for q in results.problems if results.peers_of(q) == results.ranked and results.scores(q).shape[-1] > 0
    ]
    groups = [
        (f"all {len(complete)} problems", complete),
        ("those that every peer can express", [q for q in complete if results.expressible(q)]),
    ]
    found = []
    for title, problems in groups:
        if problems:
            mean, low, high = ranks([results.scores(q) for q in problems], np.random.default_rng(0))
            rows = zip(results.ranked, mean.tolist(), low.tolist(), high.tolist(), strict=True)
            found.append(
                (f"{title} ({len(problems)})" if "all" not in title else title, sorted(rows, key=lambda r: r[1]))
            )
    return found


def rank_table(results: Results) -> str:
    groups = rank_rows(results)
    if not groups:
        return "No problem was run with every peer."
    by_peer: dict[str, list[str]] = {peer: [] for peer, *_ in groups[0][1]}
    for _, rows in groups:
        for peer, mean, low, high in rows:
            by_peer[peer].append(f"{mean:.2f} ({low:.2f} to {high:.2f})")
    return table(["peer", *(title for title, _ in groups)], [[TITLES[p], *cells] for p, cells in by_peer.items()])


def winner_table(results: Results) -> str:
    """Who is best on each problem, and who may be as good within the noise of the seeds."""
    rng = np.random.default_rng(0)
    rows = []
    for problem in results.problems:
        peers, scores = results.peers_of(problem), results.scores(problem)
        if len(peers) < 2 or not scores.shape[-1]:
            continue
        medians = _median(scores)
        order = np.argsort(medians, kind="stable")
        best = int(order[0])
        level = [TITLES[peers[i]] for i in order[1:] if tied(scores[best], scores[i], rng)]
        place = str(1 + int((medians < medians[peers.index("suffice")]).sum())) if "suffice" in peers else "-"
        rows.append([f"`{problem}`", TITLES[peers[best]], ", ".join(level) or "nobody", f"{place} of {len(peers)}"])
    return table(["problem", "best median", "within noise of it", "Suffice's place"], rows)


def ask_table(results: Results) -> str:
    """What suggestions cost in the runs themselves."""
    rows = []
    for peer in results.peers:
        lines = [line for (_, p, _), line in results.runs.items() if p == peer and line["status"] == "ok"]
        costs = [c for line in lines if not math.isnan(c := cost(line))]
        if costs:
            memory = max(line["peak_mb"] for line in lines)
            low, middle, high = np.percentile(costs, (10, 50, 90))
            rows.append([TITLES[peer], f"{middle:.3g}", f"{low:.3g} to {high:.3g}", str(memory)])
    return table(["peer", "CPU s per ask, median run", "10 % to 90 % of runs", "peak memory, MB"], rows)


def latency_table(results: Results) -> str:
    """CPU seconds per fresh ask by number of trials and kind of data: medians over seeds of means over asks."""
    sizes = sorted({line["job"]["n"] for line in results.latencies})
    columns = [(n, d) for n in sizes for d in ("spread", "clustered")]
    rows = []
    for peer in PEERS:
        found = {c: latency_of(results, peer, *c) for c in columns}
        if any(not math.isnan(v) for v in found.values()):
            rows.append([TITLES[peer], *("-" if math.isnan(v) else f"{v:.3g}" for v in found.values())])
    return table(["peer", *(f"{n} {d}" for n, d in columns)], rows)


def latency_of(results: Results, peer: str, n: int, data: str) -> float:
    jobs = [line for line in results.latencies if (line["job"]["peer"], line["job"]["n"]) == (peer, n)]
    costs = [cost(line) for line in jobs if line["status"] == "ok" and line["job"]["data"] == data]
    return float(np.median(costs)) if costs else math.nan


def failure_list(results: Results) -> str:
    """What could not be measured, and how what could only be expressed in a roundabout way was."""
    found: dict[str, list[str]] = {}
    for line in results.lines:
        job = line["job"]
        if line["status"] != "ok" and job.get("start", results.start) == results.start:
            reason = line["why"].splitlines()[-1] if line["why"] else ""
            found.setdefault(f"{TITLES[job['peer']]}, {line['status']}: {reason}", []).append(job["problem"])
        for note in line.get("notes", ()):
            if job["start"] == results.start:
                found.setdefault(f"{TITLES[job['peer']]}, {note}", []).append(job["problem"])
    return "\n".join(
        f"- {what} ({', '.join(f'`{q}`' for q in dict.fromkeys(qs))})" for what, qs in sorted(found.items())
    )


def provenance(results: Results) -> str:
    """Versions and commits that the lines name."""
    packages: dict[str, set[str]] = {}
    for line in results.lines:
        for package, number in line.get("versions", {}).items():
            packages.setdefault(package, set()).add(number)
    versions = ", ".join(f"{p} {' and '.join(sorted(v))}" for p, v in sorted(packages.items()))
    commits = {
        line["commit"] for line in results.lines if line["job"]["peer"].startswith("suffice") and line.get("commit")
    }
    return f"Versions: {versions}. Commits of Suffice: {', '.join(sorted(commits)) or 'unknown'} (+: with changes)."


# --- plots ------------------------------------------------------------------------------------------------------------


def plot_all(results: Results, folder: Path) -> list[str]:
    """Draw what there are lines for; the names of the files."""
    import matplotlib as mpl

    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    if results.problems:
        plot_curves(results, folder / f"curves-{results.start}.png")
        made.append(f"curves-{results.start}.png")
    if rank_rows(results):
        plot_ranks(results, folder / f"ranks-{results.start}.png")
        made.append(f"ranks-{results.start}.png")
    if results.latencies:
        plot_latency(results, folder / "latency.png")
        made.append("latency.png")
    return made


def plot_curves(results: Results, path: Path) -> None:
    """Median score of the best so far by number of trials, one panel per problem, with the middle half of the seeds."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogFormatter

    columns = min(3, len(results.problems))
    rows = math.ceil(len(results.problems) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.7 * columns, 3.5 * rows + 0.6), squeeze=False)
    for problem, axis in zip(results.problems, axes.flat, strict=False):
        regret = False
        for peer in results.peers:
            lines = [line for line in results.of(problem, peer) if line["status"] == "ok"]
            if not lines:
                continue
            regret = lines[0]["measure"] == "regret"
            n = np.array([point[0] for point in lines[0]["trajectory"]])
            scores = np.array([[point[1] for point in line["trajectory"]] for line in lines])
            low, middle, high = np.percentile(np.maximum(scores, SMALLEST) if regret else scores, (25, 50, 75), axis=0)
            wide = 2.4 if peer == "suffice" else 1.3
            axis.plot(n, middle, color=COLOURS[peer], linewidth=wide, label=TITLES[peer], zorder=3 if wide > 2 else 2)
            axis.fill_between(n, low, high, color=COLOURS[peer], alpha=0.13, linewidth=0)
        if lines_of := [line for p in results.peers for line in results.of(problem, p) if line["status"] == "ok"]:
            axis.axvline(lines_of[0]["starts"] + 0.5, color="black", linewidth=0.8, linestyle=":")
        if regret:
            axis.set_yscale("log")
            axis.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.5)))
        noisy = not problem.startswith("bbob") and PROBLEMS[problem](0).noise > 0
        axis.set_title(title_of(problem), fontsize=9.5)
        axis.set_xlabel("evaluations")
        axis.set_ylabel(f"{'regret' if regret else 'loss'} of the {'recommended' if noisy else 'best so far'}")
        axis.grid(alpha=0.25)
    for axis in list(axes.flat)[len(results.problems) :]:
        axis.set_visible(False)
    handles = {label: h for a in axes.flat for h, label in zip(*a.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=min(len(handles), 5), frameon=False)
    start = "the same start for all (up to the dotted line)" if results.start == "shared" else "each with its own start"
    figure.suptitle(f"Median and middle half of the seeds, {start}\n")
    legend = 0.45 * math.ceil(len(handles) / 5) / figure.get_size_inches()[1]
    figure.tight_layout(rect=(0, legend, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def title_of(problem: str) -> str:
    """The problem's title; the suite of BBOB's need not be installed for it."""
    return f"BBOB {problem.removeprefix('bbob_')}, 5-d" if problem.startswith("bbob") else PROBLEMS[problem](0).title


def plot_ranks(results: Results, path: Path) -> None:
    from matplotlib import pyplot as plt

    title, rows = rank_rows(results)[0]
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

    sizes = sorted({line["job"]["n"] for line in results.latencies})
    figure, axis = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    for peer in PEERS:
        for data, style in (("spread", "-"), ("clustered", "--")):
            costs = np.array([latency_of(results, peer, n, data) for n in sizes])
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


# --- the page ---------------------------------------------------------------------------------------------------------


def write(path: Path, page: Path, start: str, peers: Sequence[str] = (), problems: Sequence[str] = ()) -> None:
    """Tables into the generated part of ``page`` (printed, too), plots beside the results."""
    lines = [line for line in read(path) if chosen(line["job"], peers, problems)]
    if not lines:
        raise SystemExit(f"no results in {path}: run python -m benchmarks first")
    results = Results(lines, start)
    text = render(results, plot_all(results, path.parent), path.parent.name)
    print(text)
    if not page.exists() or BEGIN not in page.read_text():
        raise SystemExit(f"{page} has no generated part ({BEGIN} ... {END})")
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def chosen(job: Mapping[str, Any], peers: Sequence[str], problems: Sequence[str]) -> bool:
    return (not peers or job["peer"] in peers) and (not problems or job["problem"] in problems)


def render(results: Results, plots: Sequence[str], folder: str) -> str:
    parts: list[str] = []
    start = "The same start for every peer." if results.start == "shared" else "Every peer with its own default start."
    pictures = {name.partition("-")[0].removesuffix(".png"): f"![{name}]({folder}/{name})" for name in plots}
    if results.problems:
        parts += [
            "### Scores",
            f"{start} Median over seeds of the recommended configuration's score.",
            score_table(results),
        ]
        parts += [pictures.get("curves", "")]
        parts += ["### Ranks", rank_table(results), pictures.get("ranks", "")]
        parts += ["### Problem by problem", winner_table(results)]
        parts += ["### Cost of a suggestion in the runs", ask_table(results)]
    if results.latencies:
        parts += ["### Cost of a suggestion by number of trials"]
        parts += [
            "CPU seconds per fresh ask in six dimensions, by trials told and kind of data.",
            latency_table(results),
        ]
        parts += [pictures.get("latency", "")]
    if failures := failure_list(results):
        parts += ["### What could not be measured or expressed", failures]
    parts += ["### Versions", provenance(results)]
    return "\n\n".join(part for part in parts if part)
