"""Every notebook runs from top to bottom, and shows what a run gives.

`python -m tests.test_notebooks` runs them and stores what they give.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

REPOSITORY = Path(__file__).parent.parent
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))

# What is another in every run, or with another version of MLflow, and what stands for it here.
VARIES = {
    r"(?<=http://127\.0\.0\.1:)\d+": "PORT",
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}": "ID",
    r', "annotations": \[\]': "",
}


def run(notebook: NotebookNode, folder: Path, temporary: Path) -> None:
    """Run a notebook in a process of its own, and give its cells the outputs.

    Args:
        notebook: The notebook, which is changed.
        folder: Where it runs.
        temporary: Where its temporary files go.
    """
    own = {"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(temporary), "IPYTHONDIR": str(temporary / "ipython")}
    client = NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute(env={**os.environ, **own})  # raises what a cell raises
    notebook.metadata.language_info = {"name": "python"}  # without the version
    for cell in code_cells(notebook):
        # Which warnings and logs the libraries print depends on their versions.
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: NotebookNode) -> str:
    """What a reader sees below a cell, in words that are the same in every run."""
    text = "".join(output.text if output.output_type == "stream" else str(output.data) for output in cell.outputs)
    for pattern, word in VARIES.items():
        text = re.sub(pattern, word, text)
    return text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestANotebook:
    def test_it_shows_what_a_run_gives_and_leaves_nothing_behind(self, path: Path, tmp_path: Path) -> None:
        notebook = nbformat.read(path, as_version=4)
        if shutil.which("curl") is None:
            notebook.cells = [cell for cell in notebook.cells if "curl -" not in cell.source]
        stored = [shown(cell) for cell in code_cells(notebook)]
        folder, temporary = tmp_path / "folder", tmp_path / "temporary"
        folder.mkdir()
        temporary.mkdir()
        run(notebook, folder, temporary)
        for cell, expected in zip(code_cells(notebook), stored, strict=True):
            assert shown(cell) == expected, cell.source
        # MLflow 3.2 makes this folder wherever it runs, and leaves it empty.
        assert {left.name for left in folder.rglob("*")} <= {"mlruns"}

    def test_it_tells_nothing_of_the_machine_that_ran_it(self, path: Path) -> None:
        assert not re.search(r"/(home|root|tmp|Users|work|var|opt)/|site-packages", path.read_text(encoding="utf-8"))
        assert all(not cell.metadata for cell in nbformat.read(path, as_version=4).cells)


if __name__ == "__main__":
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as temporary:
            run(notebook, Path(folder), Path(temporary))
        nbformat.write(notebook, path)
