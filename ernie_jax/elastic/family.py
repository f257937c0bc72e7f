"""Members of the elastic family and how training samples them (ERNIE 5.0, section 5).

Letters: N layers, E experts, K top-k, B rows.
A member is named `depth x experts x top-k`, for instance 4x16x2. The full model is a member.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.inputs import Active
from ernie_jax.errors import UserError


@dataclasses.dataclass(frozen=True, order=True)
class Member:
  """One size of the family: how many layers, experts per layer, and experts per token."""

  depth: int
  experts: int
  top_k: int

  @property
  def name(self) -> str:
    """`depth x experts x top-k`, as members are written in configs and flags."""
    return f"{self.depth}x{self.experts}x{self.top_k}"


@dataclasses.dataclass(frozen=True)
class ElasticConfig:
  """How members are drawn in training, and which ones are named.

  Attributes:
    granularity: "row" draws a member for each row (the report's way; masks, one backward pass);
      "step" draws one for the step, and skipped layers cost nothing.
    depth_full, width_full, sparsity_full: probability that an axis stays at its full value. 1, 1, 1
      trains a plain model.
    min_depth: fewest layers drawn; the count is uniform on min_depth..N-1.
    widths: expert counts drawn when the width is reduced; empty for half of the experts.
    min_top_k: smallest k drawn; uniform on min_top_k..K-1.
    layer_choice: which layers a depth keeps below the always-kept top. "spaced" takes them evenly
      (so training sees the very layers that a sliced member has), "prefix" takes the first ones,
      "random" any (the report does not say).
    first_step: the step from which members are drawn; before it every row runs the full
      configuration. The report draws from the start; a short run, whose loss still falls steeply,
      is held back less by the family if it joins later (docs/measurements.md).
    members: names of the members that evaluation reports; the full model is always among them.
  """

  granularity: Literal["row", "step"] = "row"
  depth_full: float = 0.75
  width_full: float = 0.8
  sparsity_full: float = 0.8
  min_depth: int = 1
  widths: tuple[int, ...] = ()
  min_top_k: int = 1
  layer_choice: Literal["spaced", "prefix", "random"] = "spaced"
  first_step: int = 0
  members: tuple[str, ...] = ()

  def __post_init__(self):
    for name in ("depth_full", "width_full", "sparsity_full"):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(f"{name} must be a probability, got {getattr(self, name)}")
    if self.first_step < 0:
      raise ValueError(f"first_step must not be negative, got {self.first_step}")
    for name in ("min_depth", "min_top_k"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

  @property
  def trains_family(self) -> bool:
    """Whether anything but the full model is ever drawn."""
    return min(self.depth_full, self.width_full, self.sparsity_full) < 1


def full_member(model: ModelConfig) -> Member:
  """The whole model as a member."""
  return Member(model.depth, model.experts, model.top_k)


def parse_member(name: str, model: ModelConfig, *, key: str = "member") -> Member:
  """Reads `depth x experts x top-k`; `key` is the flag or config key an error names.

  Raises:
    UserError: not three numbers, or a member that this model does not contain.
  """
  parts = name.lower().replace(" ", "").split("x")
  if len(parts) != 3 or not all(p.isdigit() for p in parts):
    raise UserError(f"{key}: {name!r} is not of the form DEPTHxEXPERTSxTOPK, such as 4x16x2")
  member = Member(*map(int, parts))
  low = max(1, model.top_layers)
  if not low <= member.depth <= model.depth:
    raise UserError(
      f"{key}: {name} has depth {member.depth}, but this model has {low} to {model.depth}"
    )
  if not 1 <= member.experts <= model.experts:
    raise UserError(
      f"{key}: {name} has {member.experts} experts, but this model has {model.experts}"
    )
  if not 1 <= member.top_k <= min(model.top_k, member.experts):
    most = min(model.top_k, member.experts)
    raise UserError(f"{key}: {name} has top-k {member.top_k}, but at most {most} is possible")
  return member


def members_of(elastic: ElasticConfig, model: ModelConfig) -> tuple[Member, ...]:
  """The named members with the full model first, without repeats.

  Raises:
    UserError: naming `config.elastic.members` if one is impossible.
  """
  named = [parse_member(n, model, key="config.elastic.members") for n in elastic.members]
  return tuple(dict.fromkeys([full_member(model), *named]))


def check_family(elastic: ElasticConfig, model: ModelConfig) -> None:
  """Raises a UserError if the drawing rule asks for sizes that the model does not have."""
  members_of(elastic, model)
  if elastic.depth_full < 1 and not elastic.min_depth < max(2, model.depth):
    raise UserError(
      f"config.elastic.min_depth ({elastic.min_depth}) must be below config.model.depth"
    )
  for width in elastic.widths:
    if not model.top_k <= width <= model.experts:
      raise UserError(
        f"config.elastic.widths: {width} is not between top_k ({model.top_k}) and experts"
        f" ({model.experts})"
      )


def kept_layers(depth: int, elastic: ElasticConfig, model: ModelConfig) -> np.ndarray:
  """bool [N]: the layers a member of `depth` layers keeps; always the top `model.top_layers`.

  With `layer_choice` random, where training knows no fixed choice, members are spaced.
  """
  top = max(1, model.top_layers)
  below, wanted = model.depth - top, max(0, depth - top)
  keep = np.zeros(model.depth, bool)
  keep[max(below, model.depth - depth) :] = True
  if elastic.layer_choice == "prefix":
    keep[:wanted] = True
  elif wanted:
    keep[np.round(np.linspace(0, below - 1, wanted) if wanted > 1 else [0]).astype(int)] = True
  return keep


def used_experts(usage: Float[Array, "N E"], count: int) -> Bool[np.ndarray, "N E"]:
  """The `count` experts of each layer that training used most (ties to the lower number)."""
  order = np.argsort(-np.asarray(usage), axis=-1, kind="stable")
  rank = np.argsort(order, axis=-1, kind="stable")
  return rank < count


def activate(
  member: Member,
  usage: Float[Array, "N E"],
  *,
  elastic: ElasticConfig,
  model: ModelConfig,
) -> Active:
  """The full model's inputs that make it compute exactly what the sliced member computes."""
  return Active(
    layers=kept_layers(member.depth, elastic, model),
    experts=used_experts(usage, member.experts),
    top_k=np.asarray(member.top_k, np.int32),
  )


def activate_all(model: ModelConfig) -> Active:
  """The same of the full model, which needs no usage."""
  return Active(
    layers=np.ones(model.depth, bool),
    experts=np.ones((model.depth, model.experts), bool),
    top_k=np.asarray(model.top_k, np.int32),
  )


def sample(
  key: Array,
  rows: int,
  *,
  elastic: ElasticConfig,
  model: ModelConfig,
  step: Int[Array, ""] | int = 0,
) -> Active:
  """Draws what each of `rows` rows runs (or, by step, what all run); the axes are independent.

  `key` must come from the step number alone, so that all hosts agree.
  """
  early = jnp.asarray(step) < elastic.first_step
  lead = (rows,) if elastic.granularity == "row" else ()
  keys = jax.random.split(key, 6)
  return Active(
    layers=jnp.moveaxis(_draw_layers(keys[0], keys[1], lead, early, elastic, model), -1, 0),
    experts=jnp.moveaxis(_draw_experts(keys[2], keys[3], lead, early, elastic, model), -2, 0),
    top_k=_draw_top_k(keys[4], keys[5], lead, early, elastic, model),
  )


def _draw_layers(key_reduce, key_value, lead, early, elastic, model) -> Bool[Array, "*B N"]:
  n, top = model.depth, max(1, model.top_layers)
  full = early | jax.random.bernoulli(key_reduce, elastic.depth_full, lead)
  if n == 1:
    return jnp.ones((*lead, 1), bool)
  key_count, key_order = jax.random.split(key_value)
  low = max(elastic.min_depth, top)
  count = jax.random.randint(key_count, lead, low, max(n, low + 1))
  count = jnp.where(full, n, count)
  if elastic.layer_choice == "random":
    order = jax.random.uniform(key_order, (*lead, n)).at[..., n - top :].set(-1.0)
    rank = jnp.argsort(jnp.argsort(order, axis=-1), axis=-1)
    return rank < count[..., None]
  table = np.stack([kept_layers(d, elastic, model) for d in range(n + 1)])
  return jnp.asarray(table)[count]


def _draw_experts(key_reduce, key_value, lead, early, elastic, model) -> Bool[Array, "*B N E"]:
  n, e = model.depth, model.experts
  widths = elastic.widths or (max(model.top_k, e // 2),)
  full = early | jax.random.bernoulli(key_reduce, elastic.width_full, lead)
  key_width, key_subset = jax.random.split(key_value)
  width = jax.random.choice(key_width, jnp.asarray(widths), lead)
  width = jnp.where(full, e, width)
  order = jax.random.uniform(key_subset, (*lead, n, e))
  rank = jnp.argsort(jnp.argsort(order, axis=-1), axis=-1)
  return rank < width[..., None, None]


def _draw_top_k(key_reduce, key_value, lead, early, elastic, model):
  low, k = elastic.min_top_k, model.top_k
  full = early | jax.random.bernoulli(key_reduce, elastic.sparsity_full, lead)
  drawn = jax.random.randint(key_value, lead, min(low, k), max(k, min(low, k) + 1))
  return jnp.where(full, k, drawn).astype(jnp.int32)
