"""The notebook runs from its first cell to its last on the tiny variant."""

import pathlib

import nbclient
import nbformat

import ernie_jax

ROOT = pathlib.Path(ernie_jax.__file__).parents[1]


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
