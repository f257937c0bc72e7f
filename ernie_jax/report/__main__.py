"""Writes the report of a run: `python -m ernie_jax.report --workdir=runs/quickstart`.

RUN is the workdir of a pipeline or of one stage. RUN/report.html is one file with everything in it, RUN/report.md the
same with its pictures and sounds in RUN/report_files/. What it has is read from the run's own files; samples are made
now (--samples=0: none).
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from ernie_jax import cli
from ernie_jax.errors import UserError
from ernie_jax.report.page import MARKDOWN, write_report
from ernie_jax.report.samples import SAMPLES

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of a pipeline or of one stage.", allow_override=True
)
_SAMPLES = flags.DEFINE_integer("samples", SAMPLES, "Samples of each direction; 0: none.")


def main(argv: Sequence[str]) -> None:
  """Checks the flags and writes the report."""
  workdir = pathlib.Path(cli.require(_WORKDIR, example="runs/quickstart"))
  if _SAMPLES.value < 0:
    raise UserError(f"--samples must not be negative, got {_SAMPLES.value}")
  samples = (
    f"with {_SAMPLES.value} samples of each direction" if _SAMPLES.value else "without samples"
  )
  print(f"writing the report of {workdir}, {samples}", file=sys.stderr)
  path = write_report(workdir, count=_SAMPLES.value)
  print(f"report: {path} and {path.with_name(MARKDOWN)}")


if __name__ == "__main__":
  cli.run(main)
