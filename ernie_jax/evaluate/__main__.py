"""Scores a trained family: `python -m ernie_jax.evaluate --workdir=runs/quickstart`.

Prints the table. WORKDIR/family.json and WORKDIR/report.png are written anew by the whole evaluation only:
with --members, --max_rows or --step they stay as they are.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from ernie_jax import cli
from ernie_jax.errors import UserError
from ernie_jax.evaluate.family_table import MAX_ROWS
from ernie_jax.evaluate.report import report, write_json

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of the trained model.", required=True, allow_override=True
)
_JSON = flags.DEFINE_string("json", None, "File to write the table to.")
_MEMBERS = flags.DEFINE_list(
  "members", None, "Members (depth x experts x top-k), as in 4x16x4,2x8x2; default: the config's."
)
_MAX_ROWS = flags.DEFINE_integer("max_rows", MAX_ROWS, "Held-out rows of each source, at most.")
_STEP = flags.DEFINE_integer(
  "step", None, "Checkpoint to score; default: the newest.", allow_override=True
)


def main(argv: Sequence[str]) -> None:
  if _MAX_ROWS.value < 1:
    raise UserError(f"--max_rows must be at least 1, got {_MAX_ROWS.value}")
  if _JSON.value and not pathlib.Path(_JSON.value).parent.is_dir():
    raise UserError(f"--json: there is no directory {pathlib.Path(_JSON.value).parent}")
  what = f"members {', '.join(_MEMBERS.value)}" if _MEMBERS.value else "every member"
  print(
    f"scoring {what} of {_WORKDIR.value} on up to {_MAX_ROWS.value} held-out rows", file=sys.stderr
  )
  found = report(_WORKDIR.value, members=_MEMBERS.value, max_rows=_MAX_ROWS.value, step=_STEP.value)
  if _JSON.value:
    write_json(_JSON.value, found.to_json())


if __name__ == "__main__":
  cli.run(main)
