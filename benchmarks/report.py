"""The generated part of the benchmarks' page: tables (Markdown) from the lines of a comparison, and the bars."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .plots import plot_curves, plot_growth, plot_latency, plot_ranks
from .problem import Family
from .results import Results, latency_lines, latency_of, median, rank_groups, score_of, verdicts
from .roster import PEERS, TITLES
from .run import Line, cost, read

BEGIN = "<!-- begin: written by python -m benchmarks report -->"
END = "<!-- end -->"
FAMILIES: tuple[Family, ...] = ("one objective", "two objectives", "fidelities")
KINDS_OF_DATA = ("spread", "clustered")
FASTER = {"optuna_gp": 3, "ax": 10}  # how many times Suffice's cost theirs has to be
SLOWEST, LARGEST, TRIALS = 5.0, 1500, 5000  # seconds and MB allowed after so many trials
NOTHING = 0.01  # a gap in the acquisition's log that is none


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---"] + ["--:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


# --- quality ----------------------------------------------------------------------------------------------------------


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
    middle = float(median(np.array([[score_of(line) for line in lines]]))[0])
    bad = sum(line["status"] != "ok" for line in lines)
    text = "failed" if math.isinf(middle) else f"{middle:.3g}"
    return middle, text + (f" ({bad} of {len(lines)} failed)" if bad else "")


def rank_table(results: Results) -> str:
    """One column per group of peers and problems."""
    groups = rank_groups(results)
    if not groups:
        return "No problem was run with every peer."
    by_peer: dict[str, list[str]] = {}
    for i, (_, rows) in enumerate(groups):
        for peer, mean, low, high in rows:
            cells = by_peer.setdefault(peer, ["-"] * len(groups))
            cells[i] = f"{mean:.2f} ({low:.2f} to {high:.2f})"
    return table(["peer", *(title for title, _ in groups)], [[TITLES[p], *cells] for p, cells in by_peer.items()])


def verdict_table(results: Results) -> str:
    """Who is best on each problem, who may be as good within the noise of the seeds, and where Suffice stands."""
    return table(
        ["problem", "kind", "best median", "within noise of it", "Suffice", "place"],
        [
            [
                f"`{v.problem}`",
                v.kind,
                TITLES[v.best],
                ", ".join(TITLES[p] for p in v.level) or "nobody",
                v.standing,
                f"{v.place} of {v.of}" + (", worst third" if v.worst_third else ""),
            ]
            for v in verdicts(results)
        ],
    )


def calibration_table(results: Results) -> str:
    """How often results lay inside Suffice's leave-one-out intervals at the end of its runs: means over the seeds."""
    rows = []
    for problem in results.problems:
        found = [line["calibration"] for line in results.of(problem, "suffice") if line.get("calibration")]
        if found:
            shares = [f"{100 * np.mean([f[level] for f in found]):.0f} %" for level in ("50 %", "80 %", "95 %")]
            size, r2 = (np.mean([f[name] for f in found]) for name in ("results", "r2"))
            rows.append([f"`{problem}`", str(len(found)), f"{size:.0f}", *shares, f"{r2:.2f}"])
    if not rows:
        return ""
    return table(["problem", "runs", "results", "in 50 %", "in 80 %", "in 95 %", "variance explained"], rows)


# --- cost -------------------------------------------------------------------------------------------------------------


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
    """CPU seconds per fresh ask by trials told and kind of data; in brackets, how many times Suffice's."""
    peers = [p for p in PEERS if any(line["job"]["peer"] == p for line in results.latencies)]
    compared = {line["job"]["n"] for line in results.latencies if line["job"]["peer"] != "suffice"}
    sizes = sorted(compared or {line["job"]["n"] for line in results.latencies})
    rows = []
    for peer in peers:
        for kind in KINDS_OF_DATA:
            values = [latency_of(results, peer, n, kind) for n in sizes]
            if not all(math.isnan(v) for v in values):
                cells = [
                    _times(v, latency_of(results, "suffice", n, kind), peer) for v, n in zip(values, sizes, strict=True)
                ]
                rows.append([f"{TITLES[peer]}, {kind}", *cells])
    return table(["peer, data", *(f"{n:,}" for n in sizes)], rows)


def _times(value: float, ours: float, peer: str) -> str:
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "over the limit"
    return f"{value:.3g}" + ("" if peer == "suffice" or math.isnan(ours) else f" ({value / ours:.2g})")


def growth_rows(results: Results) -> dict[tuple[int, str], tuple[float, float, float]]:
    """By trials told and kind of data: mean CPU s of an ask, the slowest ask, and peak memory in MB; medians."""
    found = {}
    for n in sorted({line["job"]["n"] for line in results.latencies if line["job"]["peer"] == "suffice"}):
        for kind in KINDS_OF_DATA:
            lines = [line for line in latency_lines(results, "suffice", n, kind) if line["status"] == "ok"]
            if lines:
                measured = np.array([(cost(x), max(x["first"], *x["asks"]), x["peak_mb"]) for x in lines])
                mean, slowest, memory = np.median(measured, axis=0)
                found[n, kind] = float(mean), float(slowest), float(memory)
    return found


def growth_table(results: Results) -> str:
    rows = growth_rows(results)
    sizes = sorted({n for n, _ in rows})
    cells = []
    for n in sizes:
        pairs = [rows.get((n, kind), (math.nan,) * 3) for kind in KINDS_OF_DATA]
        cells.append([f"{n:,}", *(f"{a:.3g}, {b:.3g}" for a, b in zip(*pairs, strict=True))])
    return table(
        ["trials told", "CPU s per ask: spread, clustered", "the first, slowest ask", "peak memory, MB"], cells
    )


def quality_table(results: Results) -> str:
    """How much of the acquisition's log value each search misses: the median over the seeds, and the worst."""
    peers = list(results.qualities[0]["values"])
    rows = []
    for n in sorted({line["job"]["n"] for line in results.qualities}):
        for kind in KINDS_OF_DATA:
            lines = [x for x in results.qualities if (x["job"]["n"], x["job"]["data"]) == (n, kind)]
            if lines:
                cells = []
                for peer in peers:
                    gaps = [gap(line, peer) for line in lines]
                    seconds = float(np.median([line["seconds"][peer] for line in lines]))
                    cells.append(f"{np.median(gaps):.2g}, {max(gaps):.2g}; {seconds:.2g} s")
                rows.append([f"{n:,} {kind}", *cells])
    return table(["data", *(TITLES[p] for p in peers)], rows)


def gap(line: Line, peer: str) -> float:
    """What a search missed; rounding errors are none."""
    missed = float(line["best"] - line["values"][peer])
    return missed if missed > 1e-6 else 0.0


# --- the bars ---------------------------------------------------------------------------------------------------------


def bars(results: Results) -> list[str]:
    """Whether Suffice keeps what was set for it, in sentences."""
    found = []
    for family in FAMILIES:
        part = results.family(family)
        found += rank_bar(part, family) + standing_bars(part, family)
    return found + cost_bars(results) + growth_bar(results) + quality_bar(results)


def rank_bar(results: Results, family: Family) -> list[str]:
    found = []
    for title, rows in rank_groups(results):
        ours = next((row for row in rows if row[0] == "suffice"), None)
        others = [row for row in rows if row[0] != "suffice"]
        if ours and others:
            peer, mean, low, high = others[0]
            found.append(
                f"Mean rank, {family}, {title}: Suffice {ours[1]:.2f} ({ours[2]:.2f} to {ours[3]:.2f}), "
                f"{'next' if ours[1] <= mean else 'behind'} {TITLES[peer]} {mean:.2f} ({low:.2f} to {high:.2f})."
            )
    return found


def standing_bars(results: Results, family: Family) -> list[str]:
    found = verdicts(results)
    if not found:
        return []
    worst = [f"`{v.problem}`" for v in found if v.worst_third]
    lines = [f"In the worst third, {family}: {', '.join(worst) or 'nowhere'} (of {len(found)} problems)."]
    special = [v for v in found if v.kind]
    for standing in ("first, alone", "first, tied within noise", "tied within noise", "behind"):
        names = [f"`{v.problem}`" for v in special if v.standing == standing]
        if names:
            lines.append(f"Noisy, constrained and mixed, {family}, {standing}: {', '.join(names)}.")
    return lines


def cost_bars(results: Results) -> list[str]:
    found = []
    for peer, bar in FASTER.items():
        sizes = sorted({line["job"]["n"] for line in results.latencies if line["job"]["peer"] == peer})
        cases = {(n, kind): latency_of(results, peer, n, kind) for n in sizes for kind in KINDS_OF_DATA}
        times = {case: value / latency_of(results, "suffice", *case) for case, value in cases.items()}
        times = {case: t for case, t in times.items() if math.isfinite(t)}
        if times:
            short = [f"{n:,} {kind}" for (n, kind), t in times.items() if t < bar]
            found.append(
                f"{TITLES[peer]} takes {min(times.values()):.2g} to {max(times.values()):.2g} times Suffice's CPU "
                f"seconds per ask; {bar} is the bar{', missed at ' + ', '.join(short) if short else ''}."
            )
    return found


def growth_bar(results: Results) -> list[str]:
    rows = [row for (n, _), row in growth_rows(results).items() if n == TRIALS]
    if not rows:
        return []
    slowest, memory = max(row[1] for row in rows), max(row[2] for row in rows)
    kept = "kept" if slowest <= SLOWEST and memory <= LARGEST else "missed"
    return [
        f"At {TRIALS:,} trials the slowest ask takes {slowest:.3g} CPU s and the process {memory:,.0f} MB; the bar of "
        f"{SLOWEST:g} s and {LARGEST:,} MB is {kept}."
    ]


def quality_bar(results: Results) -> list[str]:
    if not results.qualities:
        return []
    parts = []
    for peer in results.qualities[0]["values"]:
        missed = sum(gap(line, peer) > NOTHING for line in results.qualities)
        parts.append(f"{TITLES[peer]} in {missed}")
    starts = results.qualities[0]["starts"]
    return [
        f"A search misses more than {NOTHING:g} of the log acquisition found from {starts:,} starts, of "
        f"{len(results.qualities)} cases: {', '.join(parts)}."
    ]


# --- what else there is to say ----------------------------------------------------------------------------------------


def failure_list(results: Results) -> str:
    """What could not be measured, and how what could only be expressed in a roundabout way was."""
    found: dict[str, list[str]] = {}
    for line in results.lines:
        job = line["job"]
        if job.get("start", results.start) != results.start:
            continue
        if line["status"] != "ok":
            reason = line["why"].splitlines()[-1] if line["why"] else ""
            where = job["problem"] if job["kind"] == "run" else f"{job['kind']}, {job['n']:,} {job['data']}"
            found.setdefault(f"{TITLES[job['peer']]}, {line['status']}: {reason}", []).append(where)
        for note in line.get("notes", ()):
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


# --- the page ---------------------------------------------------------------------------------------------------------


def write(path: Path, page: Path, start: str, peers: Sequence[str] = (), problems: Sequence[str] = ()) -> None:
    """Tables into the generated part of ``page`` (printed, too), plots beside the results."""
    lines = [line for line in read(path) if chosen(line["job"], peers, problems)]
    if not lines:
        raise SystemExit(f"no results in {path}: run python -m benchmarks first")
    text = render(Results(lines, start), path.parent)
    print(text)
    if not page.exists() or BEGIN not in page.read_text():
        raise SystemExit(f"{page} has no generated part ({BEGIN} ... {END})")
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def chosen(job: Mapping[str, Any], peers: Sequence[str], problems: Sequence[str]) -> bool:
    return (not peers or job["peer"] in peers) and (not problems or job["problem"] in problems)


def render(results: Results, folder: Path) -> str:
    """The generated part; plots are drawn into ``folder``."""
    import matplotlib as mpl

    mpl.use("Agg")
    parts: list[str] = []
    if sentences := bars(results):
        parts += ["### In short", "\n".join(f"- {sentence}" for sentence in sentences)]
    for family in FAMILIES:
        if (part := results.family(family)).problems:
            parts += family_parts(part, family, folder)
    if calibration := calibration_table(results):
        parts += ["### Calibration", CALIBRATION, calibration]
    parts += cost_parts(results, folder)
    if failures := failure_list(results):
        parts += ["### What could not be measured or expressed", failures]
    parts += ["### Versions", provenance(results)]
    return "\n\n".join(part for part in parts if part)


CALIBRATION = (
    "How often a result lies inside the central interval that Suffice's model predicts from all other results of the "
    "run, at the end of its runs (with two objectives: of the first); means over the seeds."
)


def family_parts(results: Results, family: Family, folder: Path) -> list[str]:
    start = "The same start for every peer." if results.start == "shared" else "Every peer with its own default start."
    if family == "fidelities":
        start = "Every peer with its own start; a trial is the cost of one evaluation that counts."
    name = f"{family.split()[0]}-{results.start}"
    parts = [
        f"### {HEADINGS[family]}",
        f"{start} Median over seeds of the recommendation's score.",
        score_table(results),
    ]
    parts.append(picture(folder, f"curves-{name}.png", lambda path: plot_curves(results, path)))
    parts += ["Mean ranks:", rank_table(results)]
    if rank_groups(results):
        parts.append(picture(folder, f"ranks-{name}.png", lambda path: plot_ranks(results, path)))
    if verdicts(results):
        parts += ["Problem by problem:", verdict_table(results)]
    return [*parts, "What suggestions cost in these runs:", ask_table(results)]


HEADINGS: dict[Family, str] = {
    "one objective": "One objective",
    "two objectives": "Two objectives",
    "fidelities": "Fidelities",
}


def cost_parts(results: Results, folder: Path) -> list[str]:
    parts: list[str] = []
    if results.latencies:
        parts += ["### Cost of a suggestion by number of trials"]
        parts += ["CPU seconds per fresh ask in six dimensions; in brackets, how many times Suffice's."]
        parts += [latency_table(results), picture(folder, "latency.png", lambda path: plot_latency(results, path))]
    if rows := growth_rows(results):
        parts += ["### Growth", "Suffice alone, the same data.", growth_table(results)]
        parts += [picture(folder, "growth.png", lambda path: plot_growth(rows, path))]
    if results.qualities:
        starts = results.qualities[0]["starts"]
        parts += ["### How well the acquisition is maximised"]
        parts += [
            f"What each search misses of the best log expected improvement that is found from {starts:,} starts on the "
            "same model: median and worst over the seeds; CPU seconds of the search.",
            quality_table(results),
        ]
    return parts


def picture(folder: Path, name: str, draw: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    draw(folder / name)
    return f"![{name.removesuffix('.png')}]({folder.name}/{name})"
