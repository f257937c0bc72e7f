"""The command of `analysis/gradients.py`: prints the table, and writes RUN/gradients.json.

python -m ernie_jax.analysis.gradients --workdir=runs/quickstart/model --batches=16
"""

from collections.abc import Sequence

from absl import flags

from ernie_jax import cli
from ernie_jax.analysis.gradients import BATCHES, measure_gradients
from ernie_jax.errors import UserError
from ernie_jax.evaluate.report import write_json
from ernie_jax.sharding.mesh import compile_quickly
from ernie_jax.train.model_io import load_model, model_workdir

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of the trained model.", allow_override=True
)
_BATCHES = flags.DEFINE_integer("batches", BATCHES, "Batches of its training data.")
_JSON = flags.DEFINE_string(
  "json", None, "File to write the figures to; WORKDIR/gradients.json if not given.",
  allow_override=True,
)  # fmt: skip


def main(argv: Sequence[str]) -> None:
  """Runs the command; see the module's docstring."""
  del argv
  workdir = model_workdir(cli.require(_WORKDIR, example="runs/quickstart/model"))
  if _BATCHES.value < 1:
    raise UserError(f"--batches must be at least 1, got {_BATCHES.value}")
  compile_quickly()  # each program runs a few times
  report = measure_gradients(load_model(workdir), batches=_BATCHES.value)
  path = _JSON.value or workdir / "gradients.json"
  write_json(path, report.to_json())
  print(f"{report.to_text()}\nwrote {path}")
