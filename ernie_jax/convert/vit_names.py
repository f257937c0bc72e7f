"""Where each tensor of a ViT or CLIP vision checkpoint sits in our tree, read in both directions.

Names are those on disk. Everything below the head may stand behind a prefix, which depends on the class
that saved it and on the version of transformers: "", "vit." or "vision_model.".

Letters: D width, H heads, C head size, P patch side, N layers, L positions.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ernie_jax.convert.names import Slot
from ernie_jax.convert.vit_config import CLIP, VIT, kind_of
from ernie_jax.vision.vit import VisionTransformer, VitConfig

PREFIXES = ("vit.", "vision_model.")
PATCH = {
  VIT: "embeddings.patch_embeddings.projection.weight",
  CLIP: "embeddings.patch_embedding.weight",
}
# (name in a layer of the checkpoint, path in a layer of ours), both without weight, bias and the like.
_LAYER = {
  VIT: {
    "layernorm_before": "attention_norm",
    "attention.attention.query": "attention/query",
    "attention.attention.key": "attention/key",
    "attention.attention.value": "attention/value",
    "attention.output.dense": "attention/out",
    "layernorm_after": "mlp_norm",
    "intermediate.dense": "mlp/up",
    "output.dense": "mlp/down",
  },
  CLIP: {
    "layer_norm1": "attention_norm",
    "self_attn.q_proj": "attention/query",
    "self_attn.k_proj": "attention/key",
    "self_attn.v_proj": "attention/value",
    "self_attn.out_proj": "attention/out",
    "layer_norm2": "mlp_norm",
    "mlp.fc1": "mlp/up",
    "mlp.fc2": "mlp/down",
  },
}
_LAYERS = {VIT: "encoder.layer.{}.", CLIP: "encoder.layers.{}."}
_LAST_NORM = {VIT: "layernorm", CLIP: "post_layernorm"}


@dataclasses.dataclass(frozen=True)
class ReshapedSlot(Slot):
  """A vector or table that is only shaped differently: biases by head, a leading axis of one.

  Attributes:
    shape: on disk.
  """

  shape: tuple[int, ...] = ()

  def disk_shape(self, part: tuple[int, ...]) -> tuple[int, ...]:
    """The tensor's shape on disk."""
    return self.shape

  def to_ours(self, tensor: np.ndarray, part: tuple[int, ...]) -> np.ndarray:
    """The tensor turned into our part."""
    return tensor.reshape(part)

  def to_disk(self, part: np.ndarray) -> np.ndarray:
    """Our part turned into the tensor."""
    return np.ascontiguousarray(part.reshape(self.shape))


@dataclasses.dataclass(frozen=True)
class PatchSlot(Slot):
  """The kernel of the patch embedding: a convolution's [D, 3, P, P] there, [P, P, 3, D] here."""

  def disk_shape(self, part: tuple[int, ...]) -> tuple[int, ...]:
    """The tensor's shape on disk when our part has the shape `part`."""
    return part[3], part[2], part[0], part[1]

  def to_ours(self, tensor: np.ndarray, part: tuple[int, ...]) -> np.ndarray:
    """The tensor turned into our part."""
    return tensor.transpose(2, 3, 1, 0)

  def to_disk(self, part: np.ndarray) -> np.ndarray:
    """Our part turned into the tensor."""
    return np.ascontiguousarray(part.transpose(3, 2, 0, 1))


def tree_shapes(vit: VitConfig) -> dict[str, Any]:
  """The encoder's parameters with shapes in place of arrays; computes nothing."""
  pixels = jnp.zeros((1, vit.patch * vit.grid[0], vit.patch * vit.grid[1], 3))
  init = lambda: VisionTransformer(vit).init(jax.random.key(0), pixels)["params"]
  return nn.unbox(jax.eval_shape(init))


def prefix_of(names: Iterable[str]) -> str:
  """The prefix of a checkpoint's names."""
  names = list(names)
  return next((p for p in PREFIXES if any(name.startswith(p) for name in names)), "")


def usual_prefix(vit: VitConfig) -> str:
  """The prefix that transformers 5 writes: the bare tower has none."""
  if not vit.head:
    return ""
  return "vision_model." if kind_of(vit) == CLIP else "vit."


def is_other(name: str) -> bool:
  """Whether a tensor belongs to what is not read: CLIP's text tower, stored position numbers."""
  other = ("text_model.", "text_projection.", "logit_scale")
  return name.startswith(other) or name.endswith("position_ids")


def slots(vit: VitConfig, prefix: str) -> Iterator[Slot]:
  """Every tensor of the encoder's checkpoint, bottom to top."""
  kind = kind_of(vit)
  yield from _embedding(vit, kind, prefix)
  if vit.norm_first:
    yield from norm_slots(f"{prefix}pre_layrnorm", ("first_norm",), ())
  for layer in range(vit.depth):
    start = prefix + _LAYERS[kind].format(layer)
    for name, inner in _LAYER[kind].items():
      path = ("blocks", *inner.split("/"))
      if inner.endswith("norm"):
        yield from norm_slots(start + name, path, (layer,))
        continue
      inputs = 2 if inner == "attention/out" else 1
      yield Slot(f"{start}{name}.weight", (*path, "kernel"), (layer,), inputs)
      if vit.qkv_bias or path[-1] not in ("query", "key", "value"):
        size = vit.mlp_width if path[-1] == "up" else vit.width
        yield ReshapedSlot(f"{start}{name}.bias", (*path, "bias"), (layer,), shape=(size,))
  yield from norm_slots(prefix + _LAST_NORM[kind], ("last_norm",), ())
  if vit.pool == "tanh":
    yield from _linear(f"{prefix}pooler.dense", "pooler")
  if vit.head:
    name = "visual_projection" if kind == CLIP else "classifier"
    yield from _linear(name, "head")[: 1 + vit.head_bias]


def _embedding(vit: VitConfig, kind: str, prefix: str) -> Iterator[Slot]:
  count, width = 1 + vit.grid[0] * vit.grid[1], vit.width
  yield PatchSlot(prefix + PATCH[kind], ("patch_embed", "kernel"))
  if kind == CLIP:
    yield Slot(f"{prefix}embeddings.class_embedding", ("class_token",))
    yield Slot(f"{prefix}embeddings.position_embedding.weight", ("positions",))
    return
  bias = "embeddings.patch_embeddings.projection.bias"
  yield Slot(prefix + bias, ("patch_embed", "bias"))
  yield ReshapedSlot(f"{prefix}embeddings.cls_token", ("class_token",), shape=(1, 1, width))
  table = f"{prefix}embeddings.position_embeddings"
  yield ReshapedSlot(table, ("positions",), shape=(1, count, width))


def norm_slots(name: str, path: tuple[str, ...], index: tuple[int, ...]) -> Iterator[Slot]:
  """Scale and bias of a layer norm."""
  yield Slot(f"{name}.weight", (*path, "scale"), index)
  yield Slot(f"{name}.bias", (*path, "bias"), index)


def _linear(name: str, ours: str) -> list[Slot]:
  return [
    Slot(f"{name}.weight", (ours, "kernel"), inputs=1),
    Slot(f"{name}.bias", (ours, "bias")),
  ]
