"""The notebook installs what is missing, and runs from its first cell to its last on the tiny variant."""

import pathlib
import re
import subprocess
import sys

import nbclient
import nbformat
import pytest

import ernie_jax

ROOT = pathlib.Path(ernie_jax.__file__).parents[1]


@pytest.mark.parametrize("installed", [False, True])
def test_the_package_is_installed_where_only_its_folder_is_there(tmp_path, installed):
  notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
  first = next(cell.source for cell in notebook.cells if cell.cell_type == "code")
  lines = [re.sub(r"%pip install.*", "print('installs')", line) for line in first.splitlines()]
  for folder in ("notebooks", "ernie_jax", "site"):
    (tmp_path / folder).mkdir()
  (tmp_path / "ernie_jax" / "__init__.py").write_text("")
  if installed:
    metadata = tmp_path / "site" / "ernie_jax-0.1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: ernie_jax\nVersion: 0.1.0\n")
  said = subprocess.check_output(
    [sys.executable, "-S", "-c", "\n".join(lines)],  # without this environment's own packages
    cwd=tmp_path / "notebooks",
    env={"PYTHONPATH": str(tmp_path / "site")},
    text=True,
  )
  assert said == ("" if installed else "installs\n")


def test_the_notebook_runs_and_leaves_what_it_shows(tmp_path, monkeypatch):
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  for name in ("experiments", ".cache"):
    (ROOT / name).mkdir(exist_ok=True)
    (tmp_path / name).symlink_to(ROOT / name)
  notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
  nbformat.validate(notebook)
  assert not any(cell.get("outputs") for cell in notebook.cells), "commit it without outputs"
  (parameters,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
  assert 'VARIANT = ":tiny"' in parameters.source
  client = nbclient.NotebookClient(
    notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}
  )
  client.execute()
  # A command that fails is no error of its cell, so what it prints is looked at.
  said = [o.get("text", "") for c in notebook.cells for o in c.get("outputs", [])]
  assert not [text for text in said if "error:" in text.lower() or "Traceback" in text]
  for name in (
    "circle.png",
    "ring.gif",
    "scene.png",
    "said.wav",
    "runs/notebook/small/config.json",
  ):
    assert (tmp_path / name).stat().st_size > 0, name
  shown = [o for c in notebook.cells for o in c.get("outputs", []) if "data" in o]
  kinds = {kind for output in shown for kind in output["data"]}
  assert "image/png" in kinds and len(shown) >= 6
  assert any("<audio" in o["data"].get("text/html", "") for o in shown)
