"""docs/quickstart.ipynb runs from its first cell to its last."""

import os
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("unoptimized")

NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


def test_the_notebook_is_committed_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Jupyter's own
def test_every_cell_runs_with_fewer_steps(tmp_path: Path) -> None:
    for name in ("lovecraft_jax", "configs", "requirements.txt"):  # where a clone would be; runs/ stays here
        os.symlink(ROOT / name, tmp_path / name)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (train,) = (cell for cell in notebook.cells if "--config.train.steps=300" in cell.source)
    train.source = train.source.replace(
        "steps=300", "steps=20 --config.data.corpus=bundled --config.train.eval_every=10"
    )
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = ["".join(output.get("text", "") for output in cell.get("outputs", ())) for cell in notebook.cells]
    assert "bits per character: It was in the ancient house" in "".join(printed)
    assert "image/png" in str(notebook.cells), "the curve"
    assert (tmp_path / "runs/quickstart/report/index.html").stat().st_size > 100_000
    assert (tmp_path / "runs/quickstart/page.html").stat().st_size > 100_000
    shutil.rmtree(tmp_path / "runs")
