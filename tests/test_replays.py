"""``suffice replay`` on the command line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from suffice.api.cli import main

ONE = '{"prompts": [{"id": 1, "samples": [{"answer": "a", "correct": 1}]}]}'
POOL = Path(__file__).parents[1] / "benchmarks" / "pools" / "digits.json.gz"


def test_a_pool_is_replayed_to_one_row_per_rule_and_setting(capsys: pytest.CaptureFixture[str]):
    argv = [str(POOL), "--rules", "suffice,early_stopping", "--max-samples", "8", "--orders", "2"]
    assert main(["replay", *argv, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["rule"] for row in rows} == {"suffice", "early_stopping"}
    assert all(set(row) == {"rule", "setting", "accuracy", "interval", "samples", "tokens"} for row in rows)
    assert all(1 <= row["samples"] <= 8 for row in rows)
    ours = [row for row in rows if row["rule"] == "suffice"]
    cheap, dear = ours[0], ours[-1]
    assert cheap["samples"] < dear["samples"]
    assert cheap["accuracy"] < dear["accuracy"]


def test_without_json_it_is_a_table(capsys: pytest.CaptureFixture[str]):
    assert main(["replay", str(POOL), "--rules", "early_stopping", "--max-samples", "3", "--orders", "1"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split("\t") == ["rule", "setting", "accuracy", "interval", "samples", "tokens"]
    assert [line.split("\t")[1] for line in lines] == [f"window={w} picked=majority" for w in (1, 2, 3)]


@pytest.mark.parametrize(
    ("text", "argv", "message"),
    [
        ("{}", [], 'pool: expected an object with "prompts"'),
        ("{", [], "expected a pool in JSON"),
        (
            '{"prompts": [{"id": 1, "samples": [{"answer": "a", "correct": 1}]}]}',
            ["--rules", "magic"],
            "rule: expected one of",
        ),
        (
            '{"prompts": [{"id": 1, "samples": [{"answer": "a", "correct": 1}]}]}',
            ["--rules", "threshold"],
            "rules: expected",
        ),
        (ONE, ["--orders", "0"], "orders: expected"),
    ],
)
def test_what_cannot_be_replayed_is_told(
    text: str, argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "pool.json.gz"
    path.write_bytes(gzip.compress(text.encode()))
    assert main(["replay", str(path), *argv]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_file_is_told(capsys: pytest.CaptureFixture[str]):
    assert main(["replay", "nowhere.json"]) == 2
    assert "nowhere.json" in capsys.readouterr().err
