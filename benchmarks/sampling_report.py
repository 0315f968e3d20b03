"""Tables and plots of `python -m benchmarks.sampling`, for docs/sampling_benchmarks.md."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from .sampling_drift import summary

START, END = "<!-- tables: start -->", "<!-- tables: end -->"
OURS = "suffice"
APART = ("timings", "prompt features", "ceilings")


def write(results: dict[str, Any], docs: Path) -> None:
    """Put the tables into the page, between its marks, and the plots beside it."""
    page = docs / "sampling_benchmarks.md"
    tasks = {name: r for name, r in results.items() if name not in APART}
    lines: list[str] = []
    for title, make in (("Votes", _votes), ("Scores", _scores)):
        lines += [f"### {title}", "", *make(tasks), ""]
    if "prompt features" in results:
        lines += ["### A prior over prompts", "", *_prompts(results["prompt features"]), ""]
    lines += ["### Confidence", "", *_confidence(tasks), "", "### Drift", "", *_drift(tasks), ""]
    if "ceilings" in results:
        lines += ["### Ceilings", "", *_ceilings(results["ceilings"], tasks), ""]
    lines += ["### Speed", "", *_speed(results["timings"], tasks), "", "### Every rule on every pool", ""]
    for name, r in tasks.items():
        lines += _all(name, r)
    text = page.read_text()
    before, after = text.split(START)[0], text.split(END)[1]
    page.write_text(before + START + "\n\n" + "\n".join(lines).rstrip() + "\n\n" + END + after)
    _plot(tasks, docs / "images" / "sampling_frontiers.png")
    _plot_reliability(tasks, docs / "images" / "sampling_reliability.png")


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    rule = ["---", *["--:"] * (len(head) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)]


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _ratio(found: dict[str, Any]) -> str:
    text = _number(found["ratio"])
    return text if found["interval"] is None or text == "-" else f"{text} [{_range(found['interval'])}]"


def _range(pair: list[float]) -> str:
    return ", ".join(_number(x) for x in pair)


def _votes(tasks: dict[str, Any]) -> list[str]:
    head = [
        "pool",
        "one answer",
        "majority",
        "ours T1, T2",
        "swept AC T1, T2",
        "ratio T1",
        "ratio T2",
        "AC .95",
        "ours",
    ]
    rows = []
    for name, r in tasks.items():
        if "votes only" in r["rows"]:
            continue
        ours, swept = r["rows"][OURS], r["rows"]["adaptive consistency"]
        c, p = r["compare"]["adaptive consistency"], r["published"]
        saving = p["ours"] / p["samples"] - 1.0
        rows.append(
            [
                name,
                _number(100 * r["single"]),
                _number(100 * (r["T2"] + 0.005)),
                f"{_number(ours['T1'])}, {_number(ours['T2'])}",
                f"{_number(swept['T1'])}, {_number(swept['T2'])}",
                _ratio(c["T1"]),
                _ratio(c["T2"]),
                _number(p["samples"]),
                f"{_number(p['ours'])} ({100 * saving:+.0f} %)",
            ]
        )
    return _table(head, rows)


def _scores(tasks: dict[str, Any]) -> list[str]:
    head = [
        "pool",
        "ours AUF",
        "best rival",
        "its AUF",
        "difference",
        "ours T1",
        "rival's T1",
        "OptScale-0",
        "its code",
    ]
    rows = []
    for name, r in tasks.items():
        if "votes only" not in r["rows"]:
            continue
        best = r["best_rival"]
        optscale = [
            "; ".join(_number(r["compare"][o]["equal_value"][s]) for s in ("0.5", "0.75", "0.9", "1"))
            for o in ("OptScale-0", "OptScale-0, authors' code")
        ]
        rows.append(
            [
                name,
                _number(r["rows"][OURS]["AUF"]),
                best,
                _number(r["rows"][best]["AUF"]),
                f"{r['difference']:+.2f} [{_range(r['difference_interval'])}]",
                _number(r["rows"][OURS]["T1"]),
                _number(r["rows"][best]["T1"]),
                *optscale,
            ]
        )
    return _table(head, rows)


def _prompts(r: dict[str, Any]) -> list[str]:
    rows = []
    for name, row in r["rows"].items():
        signal = "" if row["signal"] is None else ", ".join(_number(s) for s in row["signal"])
        ratio = f"{_number(row['T2 ratio'])} [{_range(row['T2 interval'])}]"
        rows.append([name, _number(row["T1"]), _number(row["T2"]), _number(row["AUF"]), ratio, signal])
    return _table(["features", "T1", "T2", "AUF", "T2 against swept AC", "signal, nats"], rows)


def _confidence(tasks: dict[str, Any]) -> list[str]:
    rows = [[name, _number(r["ece"], 3)] for name, r in tasks.items() if r["ece"] is not None]
    return _table(["pool", "expected calibration error"], rows)


def _ceilings(found: dict[str, Any], tasks: dict[str, Any]) -> list[str]:
    votes = [
        [pool, name, _ratio(row["T1"]), _ratio(row["T2"])]
        for pool, rows in found["votes"].items()
        for name, row in rows.items()
    ]
    ways = [
        [pool, name, _number(row["AUF"]), _number(row["T1"]), _number(100 * row["best"])]
        for pool, rows in found["scores"].items()
        for name, row in sorted(rows.items(), key=lambda item: item[1]["AUF"])
    ]
    honest = [
        [
            pool,
            _number(tasks[pool]["ece"], 3),
            f"{_number(row['mean'], 3)} ({_number(row['low'], 3)} to {_number(row['high'], 3)})",
        ]
        for pool, row in found["confidence"].items()
        if pool in tasks
    ]
    return [
        *_table(["pool", "prior", "T1 against swept AC", "T2"], votes),
        "",
        *_table(["pool", "way", "AUF", "T1", "best accuracy"], ways),
        "",
        *_table(["pool", "our calibration error", "that of who knows the law (90 %)"], honest),
    ]


def _drift(tasks: dict[str, Any]) -> list[str]:
    head = [
        "pool",
        "votes only",
        "with the alarm",
        "without it",
        "prompts to the alarm",
        "good scores, alarm",
        "good, without",
        "by votes in long streams",
    ]
    rows = []
    for name, r in tasks.items():
        if r["drift"]:
            found = summary(r["drift"])
            areas = [_number(found[k]) for k in ("votes", "alarm", "blind")]
            good = [_number(found[k]) for k in ("good", "good_blind")]
            rows.append(
                [name, *areas, _number(found["prompts_to_alarm"], 0), *good, f"{100 * found['false_long']:.1f} %"]
            )
    return _table(head, rows)


def _speed(timings: dict[str, float], tasks: dict[str, Any]) -> list[str]:
    fits = [s for r in tasks.values() if "votes only" in r["rows"] for s in r["fit_seconds"]]
    rows = [
        ["a decision after 16 answers", f"{1e6 * timings['decision']:.0f} µs"],
        ["the same, stateless", f"{1e6 * timings['stateless']:.0f} µs"],
        ["a decision after 16 scored answers", f"{1e6 * timings['scored']:.0f} µs"],
        ["the table for 64 answers, once per process", f"{timings['table']:.2f} s"],
        ["a calibration with scores", f"{min(fits):.1f} to {max(fits):.1f} s" if fits else "-"],
    ]
    return _table(["what", "CPU time"], rows)


def _all(name: str, r: dict[str, Any]) -> list[str]:
    ranked = sorted(r["rows"].items(), key=lambda kv: -kv[1]["AUF"])
    rows = [
        [
            f"**{family}**" if family == OURS else family,
            *(_number(row[k]) for k in ("T1", "T2", "AUF")),
            _number(100 * row["max"]),
        ]
        for family, row in ranked
    ]
    text = f"`{name}`: {r['prompts']} prompts; T1 = {100 * r['T1']:.2f}, T2 = {100 * r['T2']:.2f}"
    return [text, "", *_table(["rule", "T1", "T2", "AUF", "best accuracy"], rows), ""]


def _plot(tasks: dict[str, Any], path: Path) -> None:
    """Accuracy over mean samples: ours, and the three best rivals."""
    import matplotlib.pyplot as plt

    columns = 3
    lines = math.ceil(len(tasks) / columns)
    figure, axes = plt.subplots(lines, columns, figsize=(11, 2.9 * lines), squeeze=False)
    for axis, (name, r) in zip(axes.flat, tasks.items(), strict=False):
        ranked = sorted((f for f in r["rows"] if f != OURS), key=lambda f: -r["rows"][f]["AUF"])[:3]
        for family in (*ranked, OURS):
            cost, accuracy = r["rows"][family]["frontier"]
            wide = {"linewidth": 2.2, "color": "black"} if family == OURS else {"linewidth": 1.2}
            axis.plot(cost, 100 * np.array(accuracy), marker=".", markersize=3, label=family, **wide)
        axis.set_xscale("log", base=2)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.legend(fontsize=6)
    for axis in list(axes.flat)[len(tasks) :]:
        axis.axis("off")
    figure.supxlabel("mean answers per prompt", fontsize=9)
    figure.supylabel("accuracy, %", fontsize=9)
    _save(figure, path)


def _plot_reliability(tasks: dict[str, Any], path: Path) -> None:
    """How often picks are right, over how sure the rule said it was."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(4.6, 4.2))
    axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    for name, r in tasks.items():
        if r["reliability"] and "shuffled" not in name:
            stated, true, _ = np.array(r["reliability"]).T
            axis.plot(stated, true, marker="o", markersize=3, linewidth=1, label=name)
    axis.set_xlabel("stated P(the pick is right)")
    axis.set_ylabel("share of picks that are right")
    axis.legend(fontsize=7)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
