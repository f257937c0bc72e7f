"""What the unified model has for pictures and videos: sums of scales in, logits of bits out.

Letters: B rows, L positions, D width, d bits, S elements of a frame, I entries of a row's slots.
The pixels themselves end at `ernie_jax/media.py`; here a position finds its entry by slot and element.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.inputs import Media
from ernie_jax.backbone.linear import fan_in_init
from ernie_jax.sequence.row import Kind, Row
from ernie_jax.vision.quantizer import QuantizerConfig

_STD = (
  0.02  # of embeddings at the start, as the text's; of logits, so that every bit begins as a coin
)


class VisionIO(nn.Module):
  """Embeds media positions, and owns the bit head, which `bit_logits` applies.

  Parameters: `input` [d, D]; a learned `embedding` [S, D] of a frame's elements, in the order of the
  inputs; `head` [D, d, 2]. VideoAR (arXiv 2601.05966) embeds the scale; a vector per element says the
  scale and the place in it (our choice). Uni-RoPE says place only relative to other positions, and all inputs of
  a block can be equal: a small model then took twice the steps to the same loss.
  """

  config: ModelConfig

  @nn.compact
  def __call__(self, row: Row, media: Media | None) -> Float[Array, "B L D"]:
    """Vectors of drawn and context positions; zeros at all others, and everywhere without `media`."""
    c, code = self.config, self.config.vision
    projection = self.param(
      "input", fan_in_init((0,), ("bits", "embed"), scale=_STD**2), (code.bits, c.width)
    )
    elements = self.param(
      "embedding",
      nn.with_logical_partitioning(nn.initializers.normal(_STD), ("elements", "embed")),
      (code.elements, c.width),
    )
    head = fan_in_init((0,), ("embed", "bits", None), scale=_STD**2)
    self.param("head", head, (c.width, code.bits, 2))
    if media is None:
      return jnp.zeros((*row.kind.shape, c.width), c.dtype)
    entry = entries(row, media.start)
    x = jnp.zeros((*row.kind.shape, c.width), c.dtype)
    if media.inputs.shape[1]:
      sums = gather_entries(media.inputs, entry - 1).astype(c.dtype)
      drawn = jnp.einsum("bli,id->bld", sums, projection.astype(c.dtype))
      drawn += elements.astype(c.dtype)[(row.media_element - 1) % code.elements]
      x = jnp.where((row.kind == Kind.VISION_TARGET)[..., None], drawn, x)
    if media.context.shape[1]:
      seen = gather_entries(media.context, entry).astype(c.dtype)
      x = jnp.where((row.kind == Kind.VISION_CONTEXT)[..., None], seen, x)
    return x


def entries(row: Row, start: Int[Array, "V"]) -> Int[Array, "B L"]:
  """Where each position's element lies among its row's entries; of no meaning without a slot."""
  return start[jnp.clip(row.media_slot, 0, start.shape[0] - 1)] + row.media_element


def gather_entries(values: Array, entry: Int[Array, "B L"]) -> Array:
  """values [B, I, n] at each position's entry, [B, L, n]; an entry outside gives the nearest one."""
  return jnp.take_along_axis(values, jnp.clip(entry, 0, values.shape[1] - 1)[..., None], axis=1)


def element_scale(code: QuantizerConfig) -> Int[np.ndarray, "S"]:
  """Scale (from 0) of each element of a frame."""
  return np.repeat(np.arange(len(code.sides)), code.areas)


def bit_logits(
  hidden: Float[Array, "... D"], params: Mapping[str, Any], config: ModelConfig
) -> Float[Array, "... d 2"]:
  """Logits of each bit of the element that a position predicts, for 0 and for 1, in float32."""
  head = params["vision"]["head"].astype(config.dtype)
  return jnp.einsum(
    "...w,wdc->...dc", hidden.astype(config.dtype), head, preferred_element_type=jnp.float32
  )


def grow_bits(tree: Any, old: int, new: int) -> Any:
  """Parameters, or any tree with paths like theirs (moments), for a tokenizer with more bits.

  Progressive tokenizer switching (ERNIE 5.0, section 3.1): training goes on with a wider code. New bits
  read and predict nothing yet (zeros), so with the new inputs at zero every hidden state and the old
  bits' logits are what they were.

  Raises:
    ValueError: fewer bits than before.
  """
  if new < old:
    raise ValueError(f"bits can grow, not shrink: {old} to {new}")
  axis = {"input": -2, "head": -2}

  def one(path, leaf):
    names = [jax.tree_util.keystr((key,), simple=True) for key in path]
    if names[-2:-1] != ["vision"] or names[-1] not in axis or leaf.ndim < 2:
      return leaf
    grown = [(0, 0)] * leaf.ndim
    grown[axis[names[-1]]] = (0, new - old)
    pad = np.pad if isinstance(leaf, np.ndarray) else jnp.pad
    return pad(leaf, grown)

  return jax.tree_util.tree_map_with_path(one, tree)
