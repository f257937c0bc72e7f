"""The end of a run: its family's table and a sample on the terminal, family.json, and report.png."""

import dataclasses
import json
import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any

from ernie_jax.elastic.family import parse_member
from ernie_jax.evaluate.family_table import MAX_ROWS, FamilyReport, evaluate_family
from ernie_jax.evaluate.figures import read_metrics, write_figure
from ernie_jax.evaluate.media_table import MediaReport, evaluate_media
from ernie_jax.generate.decode import Decoder
from ernie_jax.generate.sampling import SamplingConfig, text_banned
from ernie_jax.sequence.special import SpecialToken
from ernie_jax.train.model_io import SavedModel, load_model
from ernie_jax.whole_file import written_whole

SAMPLE_TOKENS = 96


@dataclasses.dataclass(frozen=True)
class RunReport:
  """What a run reached: on held-out text and on held-out media, each None where it had none."""

  text: FamilyReport | None
  media: MediaReport | None

  def to_json(self) -> dict[str, Any]:
    """`members` and `baselines` of the text, and the members under `media`, ready for JSON."""
    values = {} if self.text is None else self.text.to_json()
    return values if self.media is None else {**values, "media": self.media.to_json()}

  def to_text(self) -> str:
    """The tables."""
    return "\n\n".join(part.to_text() for part in (self.text, self.media) if part is not None)


def report(
  workdir: str | pathlib.Path,
  *,
  members: Sequence[str] | None = None,
  max_rows: int = MAX_ROWS,
  step: int | None = None,
) -> RunReport:
  """Scores a workdir's family and prints the table.

  With every argument at its default it also writes WORKDIR/family.json and, last, WORKDIR/report.png:
  they are of the whole family at the newest checkpoint, or not there. Where the config has a prompt (`config.evaluation.prompt`), the full model's continuation of it follows
  the table.

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
  media = evaluate_media(saved, members=chosen)
  text = None
  if media is None or saved.config["data"]["sources"]:
    text = evaluate_family(saved, members=chosen, max_rows=max_rows)
  found = RunReport(text=text, media=media)
  print(found.to_text())
  if prompt := saved.config.get("evaluation", {}).get("prompt"):
    # A lone surrogate cannot be printed.
    continued = sample(saved, prompt).encode(errors="replace").decode()
    print(f"a sample of the full model, after {prompt!r}:")
    print(textwrap.indent(continued, "  | ", lambda line: True))
  if members is None and step is None and max_rows == MAX_ROWS:
    write_json(workdir / "family.json", found.to_json())
    picture = workdir / "report.png"
    write_figure(picture, text, read_metrics(workdir / "metrics.jsonl"))
    print(f"wrote {workdir / 'family.json'} and {picture}")
  return found


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
