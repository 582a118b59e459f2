"""The quickstart notebook: the same as its paired script, and it runs from top to bottom."""

from pathlib import Path

import jupytext
import nbformat
import pytest
from launch import xla_flags
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[1] / "experiments" / "notebooks"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(FOLDER / "quickstart.ipynb", as_version=4)


def test_it_is_its_script(notebook):
    script = jupytext.read(FOLDER / "quickstart.py")
    pairs = zip(script.cells, notebook.cells, strict=True)
    assert all(a.source == b.source and a.cell_type == b.cell_type for a, b in pairs)


def test_it_runs(notebook, tmp_path, monkeypatch):
    """As written, but for the number of training steps, on one device; what it shows is clipped."""
    monkeypatch.setenv("XLA_FLAGS", xla_flags(devices=1))
    page = "    page = tile("
    changes = {
        "STEPS = 1000": "STEPS = 20",
        page: f"    assert jnp.abs(images).max() <= 1.0\n{page}",
    }
    for old, new in changes.items():
        assert sum(old in cell.source for cell in notebook.cells) == 1
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 4
    assert (tmp_path / "runs" / "digits" / "checkpoints" / "20").is_dir()
