"""The end of a run: its family's table and a sample on the terminal, family.json, and report.png."""

import json
import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any

from ernie_jax.elastic.family import parse_member
from ernie_jax.evaluate.family_table import MAX_ROWS, FamilyReport, evaluate_family
from ernie_jax.evaluate.figures import read_metrics, write_figure
from ernie_jax.generate.decode import Decoder
from ernie_jax.generate.sampling import SamplingConfig, text_banned
from ernie_jax.sequence.special import SpecialToken
from ernie_jax.train.model_io import SavedModel, load_model
from ernie_jax.whole_file import written_whole

SAMPLE_TOKENS = 96


def report(
  workdir: str | pathlib.Path,
  *,
  members: Sequence[str] | None = None,
  max_rows: int = MAX_ROWS,
  step: int | None = None,
) -> FamilyReport:
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
  found = evaluate_family(saved, members=chosen, max_rows=max_rows)
  print(found.to_text())
  if prompt := saved.config.get("evaluation", {}).get("prompt"):
    text = (
      sample(saved, prompt).encode(errors="replace").decode()
    )  # a lone surrogate cannot be printed
    print(f"a sample of the full model, after {prompt!r}:")
    print(textwrap.indent(text, "  | ", lambda line: True))
  if members is None and step is None and max_rows == MAX_ROWS:
    write_json(workdir / "family.json", found.to_json())
    picture = workdir / "report.png"
    write_figure(picture, found, read_metrics(workdir / "metrics.jsonl"))
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
