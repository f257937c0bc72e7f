"""The end of a run: its family's tables and a sample on the terminal, family.json, and report.png; with
vision also what it draws and reads: vision.json and vision.png."""

import dataclasses
import json
import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any

from ernie_jax.elastic.family import Member, parse_member
from ernie_jax.evaluate.family_table import MAX_ROWS, FamilyReport, evaluate_family
from ernie_jax.evaluate.figures import read_metrics, write_figure
from ernie_jax.evaluate.media_table import MediaReport, evaluate_media, evaluate_speech
from ernie_jax.evaluate.vision import VisionReport, drawing_of, evaluate_vision
from ernie_jax.generate.decode import Decoder
from ernie_jax.generate.draw import DrawingConfig
from ernie_jax.generate.sampling import SamplingConfig, text_banned
from ernie_jax.sequence.special import SpecialToken
from ernie_jax.train.model_io import SavedModel, load_model
from ernie_jax.whole_file import written_whole

SAMPLE_TOKENS = 96


@dataclasses.dataclass(frozen=True)
class RunReport:
  """What a run reached: on held-out text, on held-out media and speech, and at the world's scenes.

  Each is None where it had none or was not asked.
  """

  text: FamilyReport | None
  media: MediaReport | None
  vision: VisionReport | None = None
  speech: MediaReport | None = None

  def to_json(self) -> dict[str, Any]:
    """`members` and `baselines` of the text, the members under `media` and `speech`, and `vision`, ready
    for JSON."""
    values = {} if self.text is None else self.text.to_json()
    for name in ("media", "speech", "vision"):
      if (part := getattr(self, name)) is not None:
        values[name] = part.to_json()
    return values

  def to_text(self) -> str:
    """The tables."""
    parts = (self.text, self.media, self.speech, self.vision)
    return "\n\n".join(part.to_text() for part in parts if part is not None)


def report(
  workdir: str | pathlib.Path,
  *,
  members: Sequence[str] | None = None,
  max_rows: int = MAX_ROWS,
  step: int | None = None,
  prompts: int | None = None,
  sheet: str | pathlib.Path | None = None,
  temperature: float | None = None,
  guidance: float | None = None,
) -> RunReport:
  """Scores a workdir's family and prints the tables.

  With the first three at their defaults it also writes WORKDIR/family.json and, last, WORKDIR/report.png:
  they are of the whole family at the newest checkpoint, or not there. So are, with vision,
  WORKDIR/vision.json and WORKDIR/vision.png, whatever `max_rows` is. Where the config has a prompt
  (`config.evaluation.prompt`), the full model's continuation of it follows the tables.

  Args:
    workdir: of a finished or running training run.
    members: names such as "2x8x2" besides the full model; None is those that the config names.
    max_rows: held-out rows of each source.
    step: which checkpoint; None is the newest.
    prompts: scenes of each split that members draw and read; 0: none. None is what the config says
      (`config.evaluation.prompts`), by the full model alone, as at the end of training.
    sheet: another file for what is drawn.
    temperature, guidance: of drawing; None is what the config says.

  Raises:
    UserError: no such checkpoint or member, drawing out of range, a model without tokenizer or data, or nothing can be
      written there.
  """
  workdir = pathlib.Path(workdir)
  saved = load_model(workdir, step=step)
  drawing = drawing_of(saved, temperature=temperature, guidance=guidance)
  chosen = members and [parse_member(name, saved.model, key="--members") for name in members]
  media = evaluate_media(saved, members=chosen)
  speech = evaluate_speech(saved, members=chosen)
  text = None
  if (media is None and speech is None) or saved.config["data"]["sources"]:
    text = evaluate_family(saved, members=chosen, max_rows=max_rows)
  vision = _draw_and_read(saved, chosen, prompts, drawing)
  found = RunReport(text=text, media=media, vision=vision, speech=speech)
  print(found.to_text())
  if vision is not None and sheet is not None:
    vision.write_sheet(sheet)
  if prompt := saved.config.get("evaluation", {}).get("prompt"):
    # A lone surrogate cannot be printed.
    continued = sample(saved, prompt).encode(errors="replace").decode()
    print(f"a sample of the full model, after {prompt!r}:")
    print(textwrap.indent(continued, "  | ", lambda line: True))
  if vision is not None and members is None and step is None:
    write_json(workdir / "vision.json", vision.to_json())
    vision.write_sheet(workdir / "vision.png")
    print(f"wrote {workdir / 'vision.json'} and {workdir / 'vision.png'}")
  if members is None and step is None and max_rows == MAX_ROWS:
    write_json(workdir / "family.json", dataclasses.replace(found, vision=None).to_json())
    picture = workdir / "report.png"
    write_figure(picture, text, read_metrics(workdir / "metrics.jsonl"))
    print(f"wrote {workdir / 'family.json'} and {picture}")
  return found


def _draw_and_read(
  saved: SavedModel,
  members: Sequence[Member] | None,
  prompts: int | None,
  drawing: DrawingConfig,
) -> VisionReport | None:
  """What `report` says of `prompts`."""
  if prompts is None:
    prompts, members = saved.config.get("evaluation", {}).get("prompts", 0), ()
  if not prompts:
    return None
  return evaluate_vision(saved, members=members, prompts=prompts, drawing=drawing)


def sample(saved: SavedModel, prompt: str, *, max_new_tokens: int = SAMPLE_TOKENS) -> str:
  """The full model's continuation of `prompt` at the default temperature, up to an end of text."""
  ids = [int(SpecialToken.BOS), *saved.tokenizer.encode(prompt).tolist()]
  decoder = Decoder(saved.model, cache_length=len(ids) + max_new_tokens)
  made = decoder.generate(
    decoder.load(saved.params, saved.bias),
    [ids],
    sampling=SamplingConfig(),
    max_new_tokens=max_new_tokens,
    stop_ids=[SpecialToken.EOS, SpecialToken.END_OF_TURN],
    banned=text_banned(saved.model.vocab_size, saved.tokenizer.vocab_size),
  )
  return saved.tokenizer.decode(made.row(0))


def write_json(path: str | pathlib.Path, values: Any) -> None:
  """Writes `values` so that the file appears whole.

  Raises:
    UserError: it cannot be written.
  """
  with written_whole(path) as part:
    part.write_text(json.dumps(values, indent=2) + "\n")
