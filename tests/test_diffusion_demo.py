"""`make demo-diffusion` and `make bench-diffusion`, small: they search, compare, draw and report."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")

from benchmarks import diffusion
from benchmarks.demo_diffusion import main

from suffice.adapters.diffusion import Schedule

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # how diffusers turns tensors into arrays
PNG = b"\x89PNG"


def test_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--trials", "8", "--images", "16", "--steps", "3"]) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "diffusion.png").read_bytes().startswith(PNG)
    assert Schedule.load(tmp_path / "schedule.json").steps == 3
    for name, distance in json.loads((tmp_path / "diffusion.json").read_text())["distances"].items():
        assert f"{distance:7.2f}  {name}" in printed


def test_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(diffusion, "SETTINGS", {"tiny": diffusion.Setting(2, ("ddim",))})
    monkeypatch.setattr(diffusion, "IMAGES", 16)
    monkeypatch.setattr(diffusion, "CONFIRM_IMAGES", 16)
    monkeypatch.setattr(diffusion, "FRESH_IMAGES", 16)
    monkeypatch.setattr(diffusion, "TRIALS", 6)
    small: dict[str, dict[str, Any]] = {"autodiffusion": {}, "bayes": {}, "bayes, few": {"images": 8}}
    small |= {"bayes, levels": {"levels": (8, 16)}, "bayes, anchored": {"images": 8, "anchor": 16}}
    plain: dict[str, Any] = {"trials": 6, "images": 16}
    methods = {name: replace(diffusion.METHODS[name], **{**plain, **given}) for name, given in small.items()}
    monkeypatch.setattr(diffusion, "METHODS", methods)
    results, figure = tmp_path / "results.jsonl", tmp_path / "figure.png"
    diffusion.run(1, results, None, tuple(methods), -1)
    rows = diffusion.read(results)
    assert {row["method"] for row in rows} == {"reference", *diffusion.METHODS}
    diffusion.run(1, results, None, tuple(methods), -1)  # nothing is run twice
    assert diffusion.read(results) == rows
    anchored = next(row for row in rows if row["method"] == "bayes, anchored")
    assert anchored["images"] == 6 * 8 + 8 + 16
    assert anchored["calls"] == 6 * 8 * 2 + 10 * (8 + 16)
    levels = next(row for row in rows if row["method"] == "bayes, levels")
    assert 5 * 16 <= levels["images"] < 7 * 16  # the last one may go beyond
    assert levels["curve"][-1][0] == levels["images"]
    diffusion.figure(rows, figure)
    assert figure.read_bytes().startswith(PNG)
    lines = list(diffusion.tables(rows))
    assert all(line.count("|") == lines[0].count("|") for line in lines[:8])
    assert any("evolution (AutoDiffusion)" in line for line in lines)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{diffusion.START}\nold\n{diffusion.END}\nafter\n")
    diffusion.write(rows, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert all(line in text for line in lines)
