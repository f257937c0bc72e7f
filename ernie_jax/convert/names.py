"""Where each tensor of an ERNIE 4.5 checkpoint sits in our tree: one table, read in both directions.

Names are those on disk; transformers fuses and renames some of them in memory. A linear layer's
weight is [out, in] there and [in..., out...] here, so one number says how to turn it: how many of our
leading axes are inputs.

Letters: D model width, H query heads, G key-value heads, C head size, E experts, F hidden width.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.model import UnifiedModel, initial_bias
from ernie_jax.sequence.row import empty_row

# name in a layer of the checkpoint -> (path in a layer of ours, how many of our axes are inputs)
_LAYER = {
  "input_layernorm.weight": ("attention_norm/scale", 0),
  "self_attn.q_proj.weight": ("attention/query/kernel", 1),  # [H C, D] -> [D, H, C]
  "self_attn.k_proj.weight": ("attention/key/kernel", 1),  # [G C, D] -> [D, G, C]
  "self_attn.v_proj.weight": ("attention/value/kernel", 1),
  "self_attn.o_proj.weight": ("attention/out/kernel", 2),  # [D, H C] -> [H, C, D]
  "post_attention_layernorm.weight": ("mlp_norm/scale", 0),
}
_PROJECTIONS = {"gate_proj.weight": "gate", "up_proj.weight": "up", "down_proj.weight": "down"}
_MTP = {
  "model.mtp_emb_norm.{m}.weight": ("embed_norm/scale", 0),
  "model.mtp_hidden_norm.{m}.weight": ("hidden_norm/scale", 0),
  "model.mtp_linear_proj.{m}.weight": ("project/kernel", 1),  # inputs: embedding, then hidden state
}
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
_ROUTER = ("mlp.gate.weight", "mlp.moe_statics.e_score_correction_bias")


@dataclasses.dataclass(frozen=True)
class Slot:
  """One tensor of the checkpoint and the part of one of our arrays that holds it.

  Attributes:
    name: of the tensor on disk.
    path: of the array in `tree_shapes`.
    index: which part of the array: a layer of a stack, an expert.
    inputs: how many leading axes of the part are contracted with the input; 0: stored as it is.
  """

  name: str
  path: tuple[str, ...]
  index: tuple[int | slice, ...] = ()
  inputs: int = 0

  def disk_shape(self, part: tuple[int, ...]) -> tuple[int, ...]:
    """The tensor's shape on disk when our part has the shape `part`."""
    if not self.inputs:
      return part
    return math.prod(part[self.inputs :]), math.prod(part[: self.inputs])

  def to_ours(self, tensor: np.ndarray, part: tuple[int, ...]) -> np.ndarray:
    """The tensor turned into our part."""
    return tensor.T.reshape(part) if self.inputs else tensor

  def to_disk(self, part: np.ndarray) -> np.ndarray:
    """Our part turned into the tensor, contiguous as the file format needs it."""
    if self.inputs:
      part = part.reshape(self.disk_shape(part.shape)[::-1]).T
    return np.ascontiguousarray(part)


def tree_shapes(model: ModelConfig) -> dict[str, Any]:
  """{"params": ..., "bias": ...} of the model with shapes in place of arrays; computes nothing."""
  row = jax.tree.map(lambda x: jnp.asarray(x)[None], empty_row(1))
  init = lambda: UnifiedModel(model).init(jax.random.key(0), row, initial_bias(model))["params"]
  params = nn.unbox(jax.eval_shape(init))
  return {"params": params, "bias": jax.eval_shape(lambda: initial_bias(model))}


def slots(model: ModelConfig) -> Iterator[Slot]:
  """Every tensor of the model's checkpoint, bottom to top, MTP modules last."""
  yield Slot(EMBEDDING, ("params", "embed", "embedding"))
  for segment in model.segments():
    path = ("params", "stack", segment.name)
    for layer in range(segment.start, segment.stop):
      index = (layer - segment.start,) if segment.stacked else ()
      prefix = f"model.layers.{layer}."
      yield from _attention(prefix, path, index)
      if segment.moe:
        yield from _experts(prefix, path, index, layer, model)
      else:
        yield from _mlp(f"{prefix}mlp.", (*path, "mlp"), index)
  yield Slot("model.norm.weight", ("params", "final_norm", "scale"))
  if not model.tie_embeddings:
    yield Slot(HEAD, ("params", "head"), inputs=1)
  for m in range(model.mtp_depth):
    path = ("params", f"mtp_{m}")
    prefix = f"model.mtp_block.{m}."
    yield from _attention(prefix, path, ())
    yield from _mlp(f"{prefix}mlp.", (*path, "mlp"), ())
    for name, (inner, inputs) in _MTP.items():
      yield Slot(name.format(m=m), (*path, *inner.split("/")), (), inputs)


def is_router(name: str) -> bool:
  """Whether a tensor belongs to a router, which checkpoints keep in float32."""
  return name.endswith(_ROUTER)


def _attention(prefix: str, path: tuple[str, ...], index) -> Iterator[Slot]:
  for name, (inner, inputs) in _LAYER.items():
    yield Slot(prefix + name, (*path, *inner.split("/")), index, inputs)


def _mlp(prefix: str, path: tuple[str, ...], index) -> Iterator[Slot]:
  for name, inner in _PROJECTIONS.items():
    yield Slot(prefix + name, (*path, inner, "kernel"), index, 1)


def _experts(prefix: str, path, index, layer: int, model: ModelConfig) -> Iterator[Slot]:
  gate, bias = _ROUTER
  yield Slot(prefix + gate, (*path, "moe", "router", "kernel"), index, 1)  # [E, D] -> [D, E]
  yield Slot(prefix + bias, ("bias",), (slice(layer, layer + 1),))  # [1, E]
  for expert in range(model.experts):
    for name, inner in _PROJECTIONS.items():  # [F, D] -> [D, F] and back
      full = f"{prefix}mlp.experts.{expert}.{name}"
      yield Slot(full, (*path, "moe", "experts", inner), (*index, expert), 1)
  if model.shared_width:
    yield from _mlp(f"{prefix}mlp.shared_experts.", (*path, "moe", "shared"), index)
