"""Tables and plots of `python -m benchmarks.steering`, for docs/steering.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Line = dict[str, Any]
START, END = "<!-- tables: start -->", "<!-- tables: end -->"
TITLES = {"class": "log P(class)", "ink": "ink", "symmetry": "symmetry"}
METHODS = {
    "fixed": "fixed",
    "beacon": "BEACON's rule",
    "priced": "worth learned per step",
    "among": "fixed, each the most promising of 8 draws",
    "priced among": "worth learned, of 8 draws",
    "midway": "best of 4 after 5 calls",
    "pandora": "Pandora's rule",
}
COLOURS = {
    "fixed": "#7f7f7f",
    "beacon": "#ff7f0e",
    "priced": "#0b5fff",
    "among": "#2ca02c",
    "priced among": "#d62728",
    "midway": "#0b5fff",
    "pandora": "#ff7f0e",
}


def write(lines: Sequence[Line], docs: Path) -> None:
    """Put the tables into the page, between its marks, and the plots beside it."""
    unique = {(x["part"], x.get("reward"), x["method"], x.get("setting"), x["seed"]): x for x in lines}
    parts = {part: [x for x in unique.values() if x["part"] == part] for part in ("svdd", "noises", "flowopt")}
    text: list[str] = []
    if parts["svdd"]:
        text += ["### Candidates per step", "", *_steered(parts["svdd"], "M = 20", 20.0), ""]
        _curves(parts["svdd"], docs / "images" / "steering_svdd.png")
    if parts["noises"]:
        text += ["### Start noises", "", *_steered(parts["noises"], "N = 16", 16.0), ""]
    if parts["flowopt"]:
        text += ["### FlowOpt's step size", "", *_step_sizes(parts["flowopt"]), ""]
        _residuals(parts["flowopt"], docs / "images" / "steering_flowopt.png")
    page = docs / "steering.md"
    before, rest = page.read_text().split(START)
    page.write_text(before + START + "\n\n" + "\n".join(text).rstrip() + "\n\n" + END + rest.split(END)[1])


def _of(lines: Sequence[Line], reward: str, method: str, setting: float) -> list[Line]:
    """By seed."""
    found = [x for x in lines if (x["reward"], x["method"], x["setting"]) == (reward, method, setting)]
    return sorted(found, key=lambda x: int(x["seed"]))


def _settings(lines: Sequence[Line], reward: str) -> list[tuple[str, float]]:
    return list(dict.fromkeys((x["method"], x["setting"]) for x in lines if x["reward"] == reward))


def _mean(lines: Sequence[Line], name: str) -> float:
    return float(np.mean([x[name] for x in lines]))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["--:"] * (len(head) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)]


def _steered(lines: Sequence[Line], target: str, most: float) -> list[str]:
    """Per reward and setting: the reward, the share of the gain of the largest fixed number, and the calls."""
    text: list[str] = []
    for reward in dict.fromkeys(x["reward"] for x in lines):
        plain, full = (_of(lines, reward, "fixed", n) for n in (1, most))
        rows = []
        for method, setting in _settings(lines, reward):
            own = _of(lines, reward, method, setting)
            shares = [
                (x["value"] - p["value"]) / (f["value"] - p["value"]) for x, p, f in zip(own, plain, full, strict=False)
            ]
            spread = np.std(shares, ddof=1) / len(shares) ** 0.5 if len(shares) > 1 else float("nan")
            rows.append(
                [
                    f"{METHODS[method]}, {setting:g}",
                    f"{_mean(own, 'value'):.4f}",
                    f"{100 * np.mean(shares):.1f} ± {100 * spread:.1f}",
                    f"{_mean(own, 'calls'):.0f}",
                    f"{_mean(own, 'calls') / _mean(full, 'calls'):.2f}",
                    f"{100 * _mean(own, 'judged'):.0f}" if reward == "class" else "-",
                ]
            )
        head = [
            "method, setting",
            "reward",
            f"% of the gain of {target}",
            "calls per image",
            "of its calls",
            "judged, %",
        ]
        text += [f"**{TITLES[reward]}** ({len(full)} seeds)", "", *_table(head, rows), ""]
    return text


def _step_sizes(lines: Sequence[Line]) -> list[str]:
    rows = []
    for method in dict.fromkeys(x["method"] for x in lines):
        own = [x for x in lines if x["method"] == method]
        etas = [x["eta"] for x in own]
        last = [x["residuals"][-1] for x in own]
        found = f"{np.mean(last):.4f}" if None not in last else "diverged"
        rows.append(
            [
                method,
                f"{min(etas):.3g}" if max(etas) == min(etas) else f"{min(etas):.3g} to {max(etas):.3g}",
                f"{np.mean([x['residuals'][0] for x in own]):.4f}",
                found,
                f"{100 * _mean(own, 'converged'):.0f}",
                f"{np.mean([x['led_back'][0] for x in own]):.4f} to {np.mean([x['led_back'][-1] for x in own]):.4f}",
                f"{_mean(own, 'spent'):.0f}",
            ]
        )
    head = [
        "step size",
        "eta",
        "residual at the start",
        "after 30 iterations",
        "converged, %",
        "led back",
        "calls to find eta",
    ]
    seeds = len({x["seed"] for x in lines})
    return [
        f"Medians over 24 images, means over {seeds} seeds; from noise on, and from the image led back:",
        "",
        *_table(head, rows),
    ]


def _curves(lines: Sequence[Line], path: Path) -> None:
    """Reward against calls per image, a panel per reward."""
    from matplotlib import pyplot as plt

    rewards = list(dict.fromkeys(x["reward"] for x in lines))
    figure, axes = plt.subplots(1, len(rewards), figsize=(4.6 * len(rewards), 3.8), squeeze=False)
    for reward, axis in zip(rewards, axes.flat, strict=True):
        settings = _settings(lines, reward)
        for method in dict.fromkeys(m for m, _ in settings):
            groups = [_of(lines, reward, method, setting) for m, setting in settings if m == method]
            points = sorted((_mean(g, "calls"), _mean(g, "value")) for g in groups)
            calls, values = np.array(points).T
            shown = -values if reward == "class" else values
            axis.plot(calls, shown, "o-", color=COLOURS[method], label=METHODS[method], markersize=4)
        if reward == "class":
            axis.set_yscale("log")
            axis.invert_yaxis()
        full = _mean(_of(lines, reward, "fixed", 20.0), "calls")
        axis.axvline(full / 2, color="black", linewidth=0.8, linestyle=":")
        axis.set_title(f"-{TITLES[reward]}" if reward == "class" else TITLES[reward])
        axis.set_xlabel("calls of the network per image")
        axis.grid(alpha=0.25)
    axes.flat[0].set_ylabel("reward: higher on the page is better")
    axes.flat[0].legend(frameon=False)
    figure.suptitle("SVDD on the digits, 20 steps; dotted: half of the calls of M = 20")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _residuals(lines: Sequence[Line], path: Path) -> None:
    """Residual by iteration."""
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 3.8))
    colours = ["#7f7f7f", "#c7c7c7", "#2ca02c", "#0b5fff"]
    methods = list(dict.fromkeys(x["method"] for x in lines))
    for method, colour in zip(methods, colours, strict=False):
        for i, line in enumerate(x for x in lines if x["method"] == method):
            values = [np.nan if r is None else r for r in line["residuals"]]
            label = f"{method}" if i == 0 else None
            axis.plot(range(len(values)), values, color=colour, linewidth=1.3, label=label)
    axis.set_yscale("log")
    axis.set_xlabel("iteration, of ten calls of the network")
    axis.set_ylabel("median residual over 24 digits")
    axis.set_title("Finding the noise that a flow leads to a given image; a line per seed")
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
