"""The end of a run: its family's table on the terminal, as family.json, and report.png."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from ernie_jax.elastic.family import parse_member
from ernie_jax.errors import UserError
from ernie_jax.evaluate.family_table import MAX_ROWS, FamilyReport, evaluate_family
from ernie_jax.evaluate.figures import read_metrics, write_figure
from ernie_jax.train.model_io import load_model


def report(
  workdir: str | pathlib.Path,
  *,
  members: Sequence[str] | None = None,
  max_rows: int = MAX_ROWS,
  step: int | None = None,
) -> FamilyReport:
  """Scores a workdir's family, prints the table, writes WORKDIR/family.json and WORKDIR/report.png.

  Args:
    workdir: of a finished or running training run.
    members: names such as "2x8x2" besides the full model; None is those that the config names.
    max_rows: held-out rows of each source.
    step: which checkpoint; None is the newest.

  Raises:
    UserError: no such checkpoint or member, a model without tokenizer or data, or nothing can be
      written there.
  """
  workdir = pathlib.Path(workdir)
  saved = load_model(workdir, step=step)
  chosen = members and [parse_member(name, saved.model, key="--members") for name in members]
  found = evaluate_family(saved, members=chosen, max_rows=max_rows)
  print(found.to_text())
  write_json(workdir / "family.json", found.to_json())
  picture = workdir / "report.png"
  write_figure(picture, found, read_metrics(workdir / "metrics.jsonl"))
  print(f"wrote {workdir / 'family.json'} and {picture}")
  return found


def write_json(path: str | pathlib.Path, values: Any) -> None:
  """Writes `values` so that the file appears whole.

  Raises:
    UserError: it cannot be written.
  """
  path = pathlib.Path(path)
  part = path.with_name(path.name + ".part")
  try:
    part.write_text(json.dumps(values, indent=2) + "\n")
    part.replace(path)
  except OSError as e:
    raise UserError(f"cannot write {path}: {e.strerror}") from e
