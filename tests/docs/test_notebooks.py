"""The notebooks of examples/ run from their first cell to their last."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


@pytest.mark.filterwarnings("ignore")  # Jupyter's own.
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "paper_configs", tmp_path / "paper_configs")
    place = tmp_path / "examples" / "notebooks"
    place.mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)  # type: ignore[no-untyped-call]
    assert all(not cell.get("outputs") for cell in notebook.cells), "a notebook is kept without outputs"
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(place)}}).execute()
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    assert last.execution_count == sum(cell.cell_type == "code" for cell in notebook.cells)
    assert list(place.glob("runs/*/result.json"))
