"""One trained checkpoint, every member of its family: size, held-out loss, speed, and the baselines.

Letters: N layers, E experts.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tqdm

from ernie_jax import config as config_lib
from ernie_jax.backbone.parameters import Cost, model_cost
from ernie_jax.data.held_out import HeldOut
from ernie_jax.data.pipeline import DataConfig, held_out_sets
from ernie_jax.elastic.family import Member, activate, full_member, members_of
from ernie_jax.elastic.slicing import member_config, slice_params
from ernie_jax.errors import UserError
from ernie_jax.evaluate.baselines import MAX_CHARS, score_bigram, train_bigram, xz_bits_per_byte
from ernie_jax.evaluate.decode_speed import PROMPT, decode_tokens_per_s
from ernie_jax.evaluate.held_out import on_device, score
from ernie_jax.sequence.row import Kind
from ernie_jax.train.model_io import SavedModel

MAX_ROWS = 512  # of each source: some twenty files of the library at 256 positions


@dataclasses.dataclass(frozen=True)
class MemberScore:
  """One member.

  Attributes:
    name: `depth x experts x top-k`.
    params_total, params_active: as `backbone.parameters.Cost` counts them.
    loss: held-out nats per token.
    bits_per_byte: the same in bits per UTF-8 byte of the text.
    decode_tokens_per_s: greedy decoding of one row by the sliced member; None where it was not timed.
  """

  name: str
  params_total: int
  params_active: int
  loss: float
  bits_per_byte: float
  decode_tokens_per_s: float | None


@dataclasses.dataclass(frozen=True)
class Baselines:
  """Bits per byte of the same text by `xz -9e` and by a bigram model of the same tokens."""

  xz_bits_per_byte: float
  bigram_bits_per_byte: float


@dataclasses.dataclass(frozen=True)
class FamilyReport:
  """The family on held-out text.

  Attributes:
    members: the full model first.
    baselines: what to beat.
    step: the training step of the checkpoint.
    tokens, utf8_bytes: size of the held-out text.
  """

  members: tuple[MemberScore, ...]
  baselines: Baselines
  step: int
  tokens: int
  utf8_bytes: int

  def to_json(self) -> dict[str, Any]:
    """`members` and `baselines`, ready for JSON."""
    return {
      "members": [dataclasses.asdict(m) for m in self.members],
      "baselines": dataclasses.asdict(self.baselines),
    }

  def to_text(self) -> str:
    """An aligned table: the members, the full one first, then the baselines."""
    full = self.members[0].loss
    lines = [("member", "parameters", "active", "loss", "vs full", "bits/byte", "decode tokens/s")]
    for m in self.members:
      change = "" if m is self.members[0] else f"{100 * (m.loss / full - 1):+.1f} %"
      sizes = (f"{m.params_total:,}", f"{m.params_active:,}")
      speed = "" if m.decode_tokens_per_s is None else f"{m.decode_tokens_per_s:,.0f}"
      lines.append((m.name, *sizes, f"{m.loss:.4f}", change, f"{m.bits_per_byte:.4f}", speed))
    for name, bits in (
      ("bigram", self.baselines.bigram_bits_per_byte),
      ("xz -9e", self.baselines.xz_bits_per_byte),
    ):
      lines.append((name, "", "", "", "", f"{bits:.4f}", ""))
    about = (
      f"held-out text: {self.utf8_bytes:,} bytes, {self.tokens:,} tokens; step {self.step:,};"
      " loss in nats per token"
    )
    return "\n".join([*align(lines), about])


def evaluate_family(
  saved: SavedModel,
  *,
  members: Sequence[Member] | None = None,
  max_rows: int = MAX_ROWS,
  bigram_chars: int = MAX_CHARS,
) -> FamilyReport:
  """Scores the members of a trained model on the held-out text of its own data.

  Args:
    saved: the model, with its tokenizer and the config of its data.
    members: which ones; None is those that its config names, of which the full model and the one with the fewest
      active parameters alone are timed, since each has programs of its own. The full model is always among them.
    max_rows: at most so many rows of each source's held-out text.
    bigram_chars: training text that the bigram model counts.

  Raises:
    UserError: the model has no tokenizer or data of ours, as an imported checkpoint has none.
  """
  data = data_config(saved)
  held_out = held_out_sets(data, saved.tokenizer, max_rows=max_rows)
  full = full_member(saved.model)
  chosen = members_of(saved.elastic, saved.model) if members is None else members
  chosen = tuple(dict.fromkeys([full, *chosen]))
  active = lambda m: _cost(saved, m, data.row_length).params_active
  timed = {full, min(chosen, key=active)} if members is None else set(chosen)
  params, bias = on_device((saved.params, saved.bias))
  progress = tqdm.tqdm(chosen, desc="evaluating", unit="member", leave=False)
  scores = tuple(
    _score_member(saved, params, bias, held_out, m, length=data.row_length, timed=m in timed)
    for m in progress
  )
  bigram = score_bigram(train_bigram(data, saved.tokenizer, max_chars=bigram_chars), held_out)
  text = "".join(h.text for h in held_out).encode()
  return FamilyReport(
    members=scores,
    baselines=Baselines(
      xz_bits_per_byte=xz_bits_per_byte(text), bigram_bits_per_byte=bigram.bits_per_byte
    ),
    step=saved.step,
    tokens=round(bigram.tokens),
    utf8_bytes=bigram.utf8_bytes,
  )


def data_config(saved: SavedModel) -> DataConfig:
  """The config of the text that the model was trained on.

  Raises:
    UserError: the model came without a tokenizer or data of ours.
  """
  missing = [name for name in ("data",) if name not in saved.config]
  missing += ["tokenizer"] if saved.tokenizer is None else []
  if missing:
    raise UserError(
      f"--workdir: this model has no {' and no '.join(missing)} here (an imported checkpoint?), so"
      " there is no held-out text to score it on"
    )
  return config_lib.build(DataConfig, saved.config["data"], path="config.data")


def _cost(saved: SavedModel, member: Member, length: int) -> Cost:
  """What a member costs at rows of `length`."""
  return model_cost(member_config(member, elastic=saved.elastic, model=saved.model), length)


def _score_member(
  saved: SavedModel,
  params,
  bias,
  held_out: Sequence[HeldOut],
  member: Member,
  *,
  length: int,
  timed: bool,
) -> MemberScore:
  kinds = {"elastic": saved.elastic, "model": saved.model}
  active = activate(member, saved.usage, **kinds)
  result = score(params, bias, held_out, model=saved.model, active=active)
  cost, speed = _cost(saved, member, length), None
  if timed:
    sliced = slice_params(saved.params, saved.bias, saved.usage, member, **kinds)
    first = held_out[0].rows
    prompt = first.token[0][first.kind[0] == Kind.TEXT][:PROMPT]
    speed = decode_tokens_per_s(sliced, prompt.tolist())
  return MemberScore(
    name=member.name,
    params_total=cost.params_total,
    params_active=cost.params_active,
    loss=result.loss,
    bits_per_byte=result.bits_per_byte,
    decode_tokens_per_s=speed,
  )


def align(lines: Sequence[tuple[str, ...]]) -> list[str]:
  """Columns of equal width: the first to the left, numbers to the right, a rule below the head."""
  widths = [max(map(len, column)) for column in zip(*lines)]
  rows = []
  for first, *rest in lines:
    cells = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:]))]
    rows.append("  ".join(cells).rstrip())
  return [rows[0], "-" * (sum(widths) + 2 * len(widths) - 2), *rows[1:]]
