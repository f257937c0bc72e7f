"""Every member of a trained family on held-out pictures and videos: losses of bits and of the text about them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from ernie_jax import config as config_lib
from ernie_jax.backbone.parameters import model_cost
from ernie_jax.data.pipeline import DataConfig, held_out_media
from ernie_jax.elastic.family import Member, activate, full_member, members_of
from ernie_jax.elastic.slicing import member_config
from ernie_jax.errors import UserError
from ernie_jax.evaluate.family_table import align
from ernie_jax.evaluate.held_out_media import score
from ernie_jax.train.model_io import SavedModel
from ernie_jax.train.pretrain import Variables

MEDIA_ROWS = 128


@dataclasses.dataclass(frozen=True)
class MediaMember:
  """One member: its active parameters, nats per token and nats per bit."""

  name: str
  params_active: int
  text: float
  bits: float


@dataclasses.dataclass(frozen=True)
class MediaReport:
  """The family on held-out media.

  Attributes:
    members: the full model first.
    rows: rows that were scored.
    step: the training step of the checkpoint.
  """

  members: tuple[MediaMember, ...]
  rows: int
  step: int

  def to_json(self) -> list[dict[str, Any]]:
    """The members, ready for JSON."""
    return [dataclasses.asdict(member) for member in self.members]

  def to_text(self) -> str:
    """An aligned table."""
    full = self.members[0]
    lines = [("member", "active", "nats/token", "vs full", "nats/bit", "vs full")]
    change = lambda new, old: "" if new == old else f"{100 * (new / old - 1):+.1f} %"
    for m in self.members:
      values = (
        f"{m.text:.4f}",
        change(m.text, full.text),
        f"{m.bits:.4f}",
        change(m.bits, full.bits),
      )
      lines.append((m.name, f"{m.params_active:,}", *values))
    about = f"held-out pictures and videos: {self.rows} rows; step {self.step:,}"
    return "\n".join([*align(lines), about])


def evaluate_media(
  saved: SavedModel, *, members: Sequence[Member] | None = None, rows: int = MEDIA_ROWS
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
  shapes = saved.vision.config.shapes(window=data.media.look_back)
  held_out = held_out_media(data, saved.tokenizer, shapes, rows=rows)
  kinds = {"elastic": saved.elastic, "model": saved.model}
  members = members_of(**kinds) if members is None else members
  members = tuple(dict.fromkeys([full_member(saved.model), *members]))
  params = jax.device_put(saved.params)
  variables = jax.device_put(Variables(saved.bias, saved.usage, saved.vision.tokenizer))
  scored = []
  for member in members:
    active = activate(member, saved.usage, **kinds)
    found = score(
      params, variables, held_out, model=saved.model, config=saved.vision.config, active=active
    )
    cost = model_cost(member_config(member, **kinds), data.row_length)
    scored.append(MediaMember(member.name, cost.params_active, found.text, found.bits))
  return MediaReport(members=tuple(scored), rows=rows, step=saved.step)
