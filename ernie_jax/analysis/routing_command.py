"""The command of `analysis/routing.py`: prints the tables, and writes RUN/routing.json and RUN/routing.png.

python -m ernie_jax.analysis.routing --workdir=runs/vision --rows=256 --figure=routing.png
"""

import sys
from collections.abc import Sequence

from absl import flags

from ernie_jax import cli
from ernie_jax.analysis.routing import ROWS
from ernie_jax.analysis.routing_study import study_routing
from ernie_jax.errors import UserError
from ernie_jax.train.model_io import model_workdir

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of the trained model.", allow_override=True
)
_ROWS = flags.DEFINE_integer(
  "rows", ROWS, "Held-out rows of each source of text, of the media, and of the speech, at most."
)
_JSON = flags.DEFINE_string(
  "json", None, "File to write the figures to; WORKDIR/routing.json if not given.",
  allow_override=True,
)  # fmt: skip
_FIGURE = flags.DEFINE_string(
  "figure", None, "PNG file to draw them in; WORKDIR/routing.png if not given."
)


def main(argv: Sequence[str]) -> None:
  """Runs the command; see the module's docstring."""
  del argv
  workdir = model_workdir(cli.require(_WORKDIR, example="runs/vision"))
  if _ROWS.value < 1:
    raise UserError(f"--rows must be at least 1, got {_ROWS.value}")
  json_path = _JSON.value or workdir / "routing.json"
  figure = _FIGURE.value or workdir / "routing.png"
  print(f"routing up to {_ROWS.value} held-out rows of each source of {workdir}", file=sys.stderr)
  report = study_routing(workdir, rows=_ROWS.value, json_path=json_path, figure=figure)
  print(report.to_text())
  print(f"wrote {json_path} and {figure}")
