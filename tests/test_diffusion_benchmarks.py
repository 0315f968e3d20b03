"""The steering comparison goes on where it stopped, and its report says what its results say."""

import json
from pathlib import Path

import pytest
from benchmarks import steering, steering_report
from benchmarks.digit_models import digit_classifier, digits


def test_the_classifier_tells_digits():
    images, labels = digits()
    assert float((digit_classifier()(images[::5]).argmax(1) == labels[::5]).float().mean()) > 0.97


def test_lines_that_are_there_are_not_run_again(tmp_path: Path):
    path = tmp_path / "results.jsonl"
    ran: list[int] = []

    def work(seed: int) -> steering.Line:
        ran.append(seed)
        return {"value": float(seed)}

    for seeds in (1, 3):
        jobs = (({"part": "svdd", "seed": s}, lambda s=s: work(s)) for s in range(seeds))
        steering.run_all(jobs, path)
    assert ran == [0, 1, 2]
    assert [line["value"] for line in steering.read(path)] == [0.0, 1.0, 2.0]


def test_the_report_states_shares_of_the_gain(tmp_path: Path):
    (tmp_path / "images").mkdir()
    page = tmp_path / "steering.md"
    page.write_text("before\n<!-- tables: start -->old<!-- tables: end -->\nafter\n")
    lines = [
        {"part": "svdd", "reward": "ink", "method": m, "setting": s, "seed": seed, "value": v, "calls": c}
        for seed in (0, 1)
        for m, s, v, c in (("fixed", 1, 1.0, 20.0), ("fixed", 20, 3.0, 400.0), ("priced", 0.01, 2.5, 100.0))
    ]
    steering_report.write(lines, tmp_path)
    text = page.read_text()
    assert "| worth learned per step, 0.01 | 2.5000 | 75.0 ± 0.0 | 100 | 0.25 | - |" in text
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert "old" not in text


@pytest.mark.parametrize("part", steering.PARTS)
def test_the_committed_results_are_of_at_least_five_seeds(part: str):
    lines = [json.loads(text) for text in steering.RESULTS.read_text().splitlines()]
    assert len({line["seed"] for line in lines if line["part"] == part}) >= 5
