"""Tables and plots of `python -m benchmarks.sampling`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

START, END = "<!-- figures: start -->", "<!-- figures: end -->"


def write(results: dict[str, Any], docs: Path) -> None:
    """Put the tables into docs/sampling_benchmarks.md, between its marks."""
    page = docs / "sampling_benchmarks.md"
    lines: list[str] = []
    tasks = {k: v for k, v in results.items() if k != "timings"}
    for name, r in tasks.items():
        print(f"== {name}: {r['prompts']} prompts; one answer {r['single']:.4f}, T1 {r['T1']:.4f}, T2 {r['T2']:.4f}")
        for family, row in sorted(r["rows"].items(), key=lambda kv: -kv[1]["AUF"]):
            print(f"  {family:36s} T1 {row['T1']:7.2f} T2 {row['T2']:7.2f} AUF {row['AUF']:6.2f} max {row['max']:.4f}")
        print("  best", r["best_rival"], round(r["difference"], 2), [round(x, 2) for x in r["difference_interval"]])
        print("  ", r["compare"], r["published"], "ece", r["ece"], r["drift"])
