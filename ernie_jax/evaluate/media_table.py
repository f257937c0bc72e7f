"""Every member of a trained family on held-out pictures and videos, and on held-out speech: losses of bits,
of codes, and of the text about them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ernie_jax import config as config_lib
from ernie_jax.backbone.parameters import model_cost
from ernie_jax.data.pipeline import DataConfig, held_out_media, held_out_speech
from ernie_jax.elastic.family import Member, activate, full_member, members_of
from ernie_jax.elastic.slicing import member_config
from ernie_jax.errors import UserError
from ernie_jax.evaluate.family_table import align
from ernie_jax.evaluate.held_out import on_device
from ernie_jax.evaluate.held_out_media import MediaScore, score
from ernie_jax.evaluate.oracles.pitch import read_pitch
from ernie_jax.sequence import MediaRow
from ernie_jax.speech import CorpusCoder
from ernie_jax.train.model_io import SavedModel


@dataclasses.dataclass(frozen=True)
class MediaMember:
  """One member: its active parameters, nats per token and nats per bit."""

  name: str
  params_active: int
  text: float
  bits: float


@dataclasses.dataclass(frozen=True)
class SpeechMember:
  """One member: its active parameters, nats per token and nats per code."""

  name: str
  params_active: int
  text: float
  codes: float


@dataclasses.dataclass(frozen=True)
class MediaReport:
  """The family on held-out media, or on held-out speech.

  Attributes:
    members: the full model first.
    rows: rows that were scored.
    step: the training step of the checkpoint.
  """

  members: tuple[MediaMember, ...] | tuple[SpeechMember, ...]
  rows: int
  step: int

  def to_json(self) -> list[dict[str, Any]]:
    """The members, ready for JSON."""
    return [dataclasses.asdict(member) for member in self.members]

  def to_text(self) -> str:
    """An aligned table."""
    full = self.members[0]
    last, unit, about = "bits", "nats/bit", "held-out pictures and videos"
    if isinstance(full, SpeechMember):
      last, unit, about = "codes", "nats/code", "held-out speech"
    lines = [("member", "active", "nats/token", "vs full", unit, "vs full")]
    change = lambda new, old: "" if new == old else f"{100 * (new / old - 1):+.1f} %"
    for m in self.members:
      values = []
      for name in ("text", last):
        own, of_full = getattr(m, name), getattr(full, name)
        values += [f"{own:.4f}", change(own, of_full)]
      lines.append((m.name, f"{m.params_active:,}", *values))
    return "\n".join([*align(lines), f"{about}: {self.rows} rows; step {self.step:,}"])


def evaluate_media(
  saved: SavedModel, *, members: Sequence[Member] | None = None, rows: int
) -> MediaReport | None:
  """Scores the members of a model on the validation split of its own media; None if it has none.

  Args:
    saved: the model, with its tokenizers and the config of its data.
    members: which ones; None is those that its config names. The full model is always among them.
    rows: rows of the held-out split.
  """
  data = config_lib.build(DataConfig, saved.config.get("data", {}), path="config.data")
  if not data.media.sources:
    return None
  if saved.vision is None:
    raise UserError("--workdir: this model was trained on media, but has no visual tokenizer here")
  if data.media.spoken and saved.speech is None:
    raise UserError("--workdir: this model was trained on speech, but has no audio codec here")
  shapes = saved.vision.config.shapes(window=data.media.look_back)
  coder = CorpusCoder(saved.speech, tracker=read_pitch) if data.media.spoken else None
  held_out = held_out_media(data, saved.tokenizer, shapes, rows=rows, coder=coder)
  found = _scores(saved, held_out, members)
  made = [MediaMember(name, active, one.text, one.bits) for name, active, one in found]
  return MediaReport(members=tuple(made), rows=rows, step=saved.step)


def evaluate_speech(
  saved: SavedModel, *, members: Sequence[Member] | None = None, rows: int
) -> MediaReport | None:
  """The same for speech."""
  data = config_lib.build(DataConfig, saved.config.get("data", {}), path="config.data")
  if not data.speech.sources:
    return None
  if saved.speech is None:
    raise UserError("--workdir: this model was trained on speech, but has no audio codec here")
  coder = CorpusCoder(saved.speech, tracker=read_pitch)
  held_out = held_out_speech(data, saved.tokenizer, coder, rows=rows)
  found = _scores(saved, held_out, members)
  made = [SpeechMember(name, active, one.text, one.codes) for name, active, one in found]
  return MediaReport(members=tuple(made), rows=rows, step=saved.step)


def _scores(
  saved: SavedModel, held_out: MediaRow, members: Sequence[Member] | None
) -> list[tuple[str, int, MediaScore]]:
  """Name, active parameters and losses of each member, the full model first."""
  kinds = {"elastic": saved.elastic, "model": saved.model}
  members = members_of(**kinds) if members is None else members
  members = tuple(dict.fromkeys([full_member(saved.model), *members]))
  tokenizer = None if saved.vision is None else saved.vision.tokenizer
  config = None if saved.vision is None else saved.vision.config
  params, bias, tokenizer = on_device((saved.params, saved.bias, tokenizer))
  found = []
  for member in members:
    active = activate(member, saved.usage, **kinds)
    seen = {"tokenizer": tokenizer, "config": config}
    losses = score(params, bias, held_out, model=saved.model, active=active, **seen)
    length = held_out.row.kind.shape[-1]
    cost = model_cost(member_config(member, **kinds), length)
    found.append((member.name, cost.params_active, losses))
  return found
