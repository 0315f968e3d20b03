"""The notebook on the gateway runs before a real vLLM."""

from pathlib import Path

import pytest
from test_notebooks import WITH_VLLM, execute


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SUFFICE_NOTEBOOK_SMALL", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    execute(WITH_VLLM, tmp_path, timeout=240)
