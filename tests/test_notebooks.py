"""Every notebook runs from top to bottom, and what is kept beside it for reading is made from it.

`notebooks/NAME.py` (jupytext's percent format) is the source. `make notebooks` runs it in full and keeps the result as
`NAME.ipynb`; here it runs with SUFFICE_NOTEBOOK_SMALL=1, on sizes that only show that it works.
"""

import os
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted(FOLDER.glob("*.py"))
WITH_VLLM = FOLDER / "gateway_in_front_of_vllm.py"  # `make test-vllm` runs it
HERE = [source for source in SOURCES if source != WITH_VLLM or "VLLM_URL" in os.environ]


def execute(source: Path, folder: Path, timeout: float | None = None) -> nbformat.NotebookNode:
    notebook = jupytext.read(source)
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": folder}},
    )
    return client.execute()


@pytest.mark.integration
@pytest.mark.parametrize("source", HERE, ids=lambda path: path.stem)
def test_it_runs(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SUFFICE_NOTEBOOK_SMALL", "1")
    monkeypatch.delenv("MPLBACKEND")  # figures go into the notebook, as they do for a reader
    execute(source, tmp_path, timeout=240)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_kept_result_is_made_from_it(source: Path):
    kept = source.with_suffix(".ipynb")
    assert kept.exists(), "run `make notebooks` and commit the result"
    ours = [(cell.cell_type, cell.source) for cell in jupytext.read(source).cells]
    theirs = [(cell.cell_type, cell.source) for cell in nbformat.read(kept, as_version=4).cells]
    assert ours == theirs, f"{source.name} has changed: run `make notebooks` and commit the result"


def test_no_kept_result_has_lost_its_source():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} <= {path.stem for path in SOURCES}


if __name__ == "__main__":  # make notebooks, or make notebooks ARGS="NAME ..." for some of them
    import sys
    import tempfile

    for source in [FOLDER / f"{name}.py" for name in sys.argv[1:]] or HERE:
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(source, Path(folder))
        for number, cell in enumerate(notebook.cells):
            cell.id = f"cell-{number}"  # not random, so that only what changed differs
        nbformat.write(notebook, source.with_suffix(".ipynb"))
