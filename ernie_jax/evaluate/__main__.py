"""Scores a trained family: `python -m ernie_jax.evaluate --workdir=runs/quickstart`.

  python -m ernie_jax.evaluate --workdir=runs/vision --prompts=512 --members=4x16x2,2x8x2 --sheet=sheet.png

Prints the tables. A model with vision also draws and reads scenes, one with audio hears and says utterances, and one
with both hears questions about pictures where it was trained on such, all judged by programs: WORKDIR/vision.json and WORKDIR/speech.json have the scores, WORKDIR/vision.png pictures with
their prompts, WORKDIR/speech.png spectrograms. WORKDIR/family.json and WORKDIR/report.png are written anew by the whole
evaluation only: with --members, --max_rows or --step they stay as they are, and with --members or --step so do
the others.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from ernie_jax import cli
from ernie_jax.errors import UserError
from ernie_jax.evaluate.judged import PROMPTS
from ernie_jax.evaluate.report import report, write_json
from ernie_jax.generate.speak import SpeakingConfig
from ernie_jax.train.model_io import read_config

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of the trained model.", required=True, allow_override=True
)
_JSON = flags.DEFINE_string("json", None, "File to write the table to.")
_MEMBERS = flags.DEFINE_list(
  "members", None, "Members (depth x experts x top-k), as in 4x16x4,2x8x2; default: the config's."
)
_MAX_ROWS = flags.DEFINE_integer(
  "max_rows",
  None,
  "Held-out rows of each source of text, at most, and a quarter as many of media and of speech;"
  " config.evaluation.table_rows if not given.",
)
_STEP = flags.DEFINE_integer(
  "step", None, "Checkpoint to score; default: the newest.", allow_override=True
)
_PROMPTS = flags.DEFINE_integer(
  "prompts",
  None,
  f"Scenes and utterances of each split, with vision or audio; {PROMPTS} if not given, 0: none.",
)
_TEMPERATURE = flags.DEFINE_float(
  "draw_temperature", None, "How pictures are drawn; config.evaluation.temperature if not given."
)
_GUIDANCE = flags.DEFINE_float(
  "draw_guidance", None, "The same; config.evaluation.guidance if not given."
)
_SPEAK_TEMPERATURE = flags.DEFINE_float(
  "speak_temperature",
  None,
  f"How speech is drawn; {SpeakingConfig().temperature} if not given.",
)
_SHEET = flags.DEFINE_string(
  "sheet", None, "PNG file to write what is drawn and said to, with vision or audio."
)


def main(argv: Sequence[str]) -> None:
  """Checks the flags, scores, and writes what was asked for."""
  if _MAX_ROWS.value is not None and _MAX_ROWS.value < 1:
    raise UserError(f"--max_rows must be at least 1, got {_MAX_ROWS.value}")
  if _JSON.value and not pathlib.Path(_JSON.value).parent.is_dir():
    raise UserError(f"--json: there is no directory {pathlib.Path(_JSON.value).parent}")
  if _SHEET.value and not pathlib.Path(_SHEET.value).absolute().parent.is_dir():
    raise UserError(f"--sheet: there is no directory {pathlib.Path(_SHEET.value).parent}")
  prompts = PROMPTS if _PROMPTS.value is None else _PROMPTS.value
  if prompts < 0:
    raise UserError(f"--prompts must not be negative, got {prompts}")
  model = read_config(_WORKDIR.value)["model"]
  has_media = bool(model.get("vision") or model.get("audio"))
  if (_PROMPTS.value or _SHEET.value) and not has_media:
    flag = "prompts" if _PROMPTS.value else "sheet"
    raise UserError(f"--{flag}: the model in {_WORKDIR.value} has neither vision nor audio")
  what = f"members {', '.join(_MEMBERS.value)}" if _MEMBERS.value else "every member"
  print(
    f"scoring {what} of {_WORKDIR.value} on what is held out"
    + (f" and {prompts} prompts of each kind" if has_media else ""),
    file=sys.stderr,
  )
  found = report(
    _WORKDIR.value,
    members=_MEMBERS.value,
    max_rows=_MAX_ROWS.value,
    step=_STEP.value,
    prompts=prompts if has_media else 0,
    sheet=_SHEET.value,
    temperature=_TEMPERATURE.value,
    guidance=_GUIDANCE.value,
    speak_temperature=_SPEAK_TEMPERATURE.value,
  )
  if _JSON.value:
    write_json(_JSON.value, found.to_json())


if __name__ == "__main__":
  cli.run(main)
