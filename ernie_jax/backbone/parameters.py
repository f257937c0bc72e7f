"""The parameter tree as layers, and what a model costs in parameters and FLOPs.

Letters: N layers, D width, H query heads, G key-value heads, C head size, E experts, K experts per
token, F expert width, V vocabulary, L positions.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ernie_jax.backbone.config import ModelConfig


def split_layers(stack: dict[str, Any], model: ModelConfig) -> list[Any]:
  """The N single-layer trees of a stack's parameters, bottom to top."""
  layers = []
  for segment in model.segments():
    tree = stack[segment.name]
    if not segment.stacked:
      layers.append(tree)
      continue
    layers += [jax.tree.map(lambda a, i=i: a[i], tree) for i in range(segment.length)]
  return layers


def join_layers(layers: list[Any], model: ModelConfig) -> dict[str, Any]:
  """The inverse of `split_layers`: the stack's parameters from N single-layer trees."""
  stack = {}
  for segment in model.segments():
    own = layers[segment.start : segment.stop]
    if segment.stacked:
      join = np.stack if isinstance(jax.tree.leaves(own)[0], np.ndarray) else jnp.stack
      stack[segment.name] = jax.tree.map(lambda *parts, j=join: j(parts), *own)
    else:
      stack[segment.name] = own[0]
  return stack


@dataclasses.dataclass(frozen=True)
class Cost:
  """What a model costs.

  Attributes:
    params_total: all parameters but the MTP modules, which only train, and the understanding path.
    params_active: those that one token uses (K of E experts).
    flops_per_token: forward and backward matrix-product FLOPs per token at the given row length,
      MTP included, recomputation not.
  """

  params_total: int
  params_active: int
  flops_per_token: float


def model_cost(model: ModelConfig, length: int) -> Cost:
  """Counts from the shape alone; `length` is the row length that attention sees (half, on average)."""
  c = model
  attention = c.width * c.head_dim * (2 * c.heads + 2 * c.kv_heads)
  norms = 2 * c.width + (2 * c.head_dim if c.qk_norm else 0)
  expert = 3 * c.width * c.expert_width
  router, shared = c.width * c.experts, 3 * c.width * c.shared_width
  dense = 3 * c.width * c.dense_width
  head = c.width * c.vocab_size
  embeddings = head if c.tie_embeddings else 2 * head
  fixed = c.depth * (attention + norms) + c.width + embeddings
  fixed += c.moe_layers * (router + shared) + c.dense_layers * dense
  vision = 0
  if c.vision is not None:  # sums in, bits out; besides these a vector for each element
    vision = 3 * c.vision.bits * c.width
    fixed += vision + c.vision.elements * c.width
  audio = 0
  if c.audio is not None:  # a head for each level; besides these embeddings, norms and the voice
    audio = c.audio.levels * (c.audio.codes + 1) * c.width
    fixed += 2 * audio + (c.audio.levels + c.audio.voice) * c.width
  # Scores and their use: two products of length L / 2 (causal) for each query head.
  scores = 2 * 2 * (length / 2) * c.heads * c.head_dim
  used = c.depth * attention + c.moe_layers * (router + shared + c.top_k * expert)
  used += c.dense_layers * dense + head + vision + audio
  forward = 2 * used + c.depth * scores
  one_mtp = 2 * (2 * c.width**2 + attention + 3 * c.width * c.mtp_width + head) + scores
  return Cost(
    params_total=fixed + c.moe_layers * c.experts * expert,
    params_active=fixed + c.moe_layers * c.top_k * expert,
    flops_per_token=3 * (forward + c.mtp_depth * one_mtp),
  )
