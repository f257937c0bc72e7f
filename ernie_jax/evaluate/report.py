"""The end of a run: its family's tables and a sample on the terminal, family.json, and report.png; with
vision also what it draws and reads, vision.json and vision.png; with audio what it hears and says,
speech.json and speech.png."""

import dataclasses
import json
import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any

from ernie_jax.elastic.family import Member, parse_member
from ernie_jax.evaluate.baselines import MAX_CHARS
from ernie_jax.evaluate.family_table import MAX_ROWS, FamilyReport, evaluate_family
from ernie_jax.evaluate.figures import read_metrics, write_figure
from ernie_jax.evaluate.judged import JudgedReport
from ernie_jax.evaluate.media_table import MediaReport, evaluate_media, evaluate_speech
from ernie_jax.evaluate.sheet import write_sheet
from ernie_jax.evaluate.speech import SpokenReport, evaluate_spoken, speaking_of
from ernie_jax.evaluate.vision import VisionReport, drawing_by_flags, evaluate_vision
from ernie_jax.generate.decode import Decoder
from ernie_jax.generate.sampling import SamplingConfig, text_banned
from ernie_jax.sequence.special import SpecialToken
from ernie_jax.train.model_io import SavedModel, load_model, model_workdir
from ernie_jax.whole_file import written_whole

SAMPLE_TOKENS = 96


@dataclasses.dataclass(frozen=True)
class RunReport:
  """What a run reached: losses on held-out text, media and speech, and what it does, judged by programs.

  Each is None where it had none or was not asked.

  Attributes:
    text, media, speech: losses of every member.
    vision: what is drawn and read of the world's scenes.
    spoken: what is heard and said of the world's utterances.
  """

  text: FamilyReport | None
  media: MediaReport | None
  vision: VisionReport | None = None
  speech: MediaReport | None = None
  spoken: SpokenReport | None = None

  @property
  def judged(self) -> dict[str, JudgedReport]:
    """What is judged by programs, by the names of its files."""
    parts = {"vision": self.vision, "speech": self.spoken}
    return {name: part for name, part in parts.items() if part is not None}

  def to_json(self) -> dict[str, Any]:
    """`members` and `baselines` of the text, and the other parts under their names, ready for JSON."""
    values = {} if self.text is None else self.text.to_json()
    for name in ("media", "speech", "vision", "spoken"):
      if (part := getattr(self, name)) is not None:
        values[name] = part.to_json()
    return values

  def to_text(self) -> str:
    """The tables."""
    parts = (self.text, self.media, self.speech, self.vision, self.spoken)
    return "\n\n".join(part.to_text() for part in parts if part is not None)


def report(
  workdir: str | pathlib.Path,
  *,
  members: Sequence[str] | None = None,
  max_rows: int | None = None,
  step: int | None = None,
  prompts: int | None = None,
  sheet: str | pathlib.Path | None = None,
  temperature: float | None = None,
  guidance: float | None = None,
  speak_temperature: float | None = None,
) -> RunReport:
  """Scores a workdir's family and prints the tables.

  With the first three at their defaults it also writes WORKDIR/family.json and, last, WORKDIR/report.png:
  they are of the whole family at the newest checkpoint, or not there. So are, with vision,
  WORKDIR/vision.json and WORKDIR/vision.png, and with audio WORKDIR/speech.json and WORKDIR/speech.png,
  whatever `max_rows` is. Where the config has a prompt (`config.evaluation.prompt`), the full model's
  continuation of it follows the tables.

  Args:
    workdir: of a finished or running training run; of a pipeline, it is that of its last model.
    members: names such as "2x8x2" besides the full model; None is those that the config names.
    max_rows: held-out rows of each source of text, and a quarter as many of media and of speech; None is what
      the config says (`config.evaluation.table_rows`).
    step: which checkpoint; None is the newest.
    prompts: scenes and utterances of each split that members are asked about; 0: none. None is what the
      config says (`config.evaluation.prompts`), and whom (`config.evaluation.members`), as at the end of training.
    sheet: another file for what is drawn and said.
    temperature, guidance: of drawing; None is what the config says.
    speak_temperature: of speaking; None is `SpeakingConfig`'s.

  Raises:
    UserError: no such checkpoint or member, drawing or speaking out of range, a model without tokenizer or data, or
      nothing can be written there.
  """
  workdir = model_workdir(workdir)  # whose files are read and written, as its checkpoints are
  saved = load_model(workdir, step=step)
  drawing = drawing_by_flags(saved, temperature=temperature, guidance=guidance)
  speaking = speaking_of(temperature=speak_temperature)
  chosen = members and [parse_member(name, saved.model, key="--members") for name in members]
  evaluation = saved.config.get("evaluation", {})
  rows = evaluation.get("table_rows", MAX_ROWS) if max_rows is None else max_rows
  found = _losses(saved, chosen, rows)
  asked, asks = prompts, chosen
  if prompts is None:
    asked = evaluation.get("prompts", 0)
    known = [m for m in evaluation.get("members", ()) if m in saved.elastic.members]
    asks = [parse_member(name, saved.model) for name in known]  # a slice has not all of them
  if asked:
    kinds = {"members": asks, "prompts": asked}
    found = dataclasses.replace(
      found,
      vision=evaluate_vision(saved, drawing=drawing, **kinds),
      spoken=evaluate_spoken(saved, speaking=speaking, **kinds),
    )
  print(found.to_text())
  if found.judged and sheet is not None:
    write_sheet(sheet, [one for part in found.judged.values() for one in part.shown])
  if prompt := evaluation.get("prompt"):
    # A lone surrogate cannot be printed.
    continued = sample(saved, prompt).encode(errors="replace").decode()
    print(f"a sample of the full model, after {prompt!r}:")
    print(textwrap.indent(continued, "  | ", lambda line: True))
  if members is None and step is None:
    _write(workdir, found, whole=max_rows is None)
  return found


def _losses(saved: SavedModel, members: Sequence[Member] | None, max_rows: int) -> RunReport:
  """What the members lose on all that is held out."""
  rows = max(1, max_rows // 4)
  media = evaluate_media(saved, members=members, rows=rows)
  speech = evaluate_speech(saved, members=members, rows=rows)
  text = None
  if (media is None and speech is None) or saved.config["data"]["sources"]:
    chars = saved.config.get("evaluation", {}).get("bigram_chars", MAX_CHARS)
    text = evaluate_family(saved, members=members, max_rows=max_rows, bigram_chars=chars)
  return RunReport(text=text, media=media, speech=speech)


def _write(workdir: pathlib.Path, found: RunReport, *, whole: bool) -> None:
  """What `report` keeps in the workdir; losses only of the `whole` held-out text."""
  for name, part in found.judged.items():
    write_json(workdir / f"{name}.json", part.to_json())
    part.write_sheet(workdir / f"{name}.png")
    print(f"wrote {workdir / name}.json and {workdir / name}.png")
  if whole:
    losses = dataclasses.replace(found, vision=None, spoken=None)
    write_json(workdir / "family.json", losses.to_json())
    picture = workdir / "report.png"
    drawn = write_figure(picture, found.text, read_metrics(workdir / "metrics.jsonl"))
    print(f"wrote {workdir / 'family.json'}" + (f" and {picture}" if drawn else ""))


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
