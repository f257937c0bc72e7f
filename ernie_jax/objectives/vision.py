"""The visual objective: every bit of the next scale (ERNIE 5.0, section 3.2; VideoAR, Infinity).

Letters: B rows, L positions, D width, d bits, K scales, I entries of a row's slots.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.vision_io import bit_logits, element_scale, entries, gather_entries
from ernie_jax.model import Output
from ernie_jax.sequence.row import Kind, Row
from ernie_jax.sequence.special import SpecialToken


@flax.struct.dataclass
class VisionLoss:
  """How well bits are predicted.

  Attributes:
    bits: float32 [], nats per bit, mean over an element's bits and weighted mean over elements.
    by_scale: float32 [K], the same for each scale; 0 where a batch has none.
    accuracy: float32 [], share of bits whose likelier value is right. Says little about pictures.
    elements: float32 [], total weight of the elements.
  """

  bits: Float[Array, ""]
  by_scale: Float[Array, "K"]
  accuracy: Float[Array, ""]
  elements: Float[Array, ""]


def vision_loss(
  output: Output,
  row: Row,
  targets: Bool[Array, "B I d"],
  start: Int[Array, "V"],
  params: dict,
  config: ModelConfig,
) -> VisionLoss:
  """Cross-entropy per bit at every position with a media weight.

  Args:
    output: of the model on `row`.
    row: its `media_weight` holds the scale weights (`sequence.LayoutOptions`).
    targets: bits of the drawn slots' elements, slots end to end.
    start: first entry of each slot, as in `Media`.
    params, config: the model's.
  """
  opens = (row.token == SpecialToken.BOI) | (row.token == SpecialToken.BOV)  # predicts element 0
  weight = jnp.where((row.kind == Kind.VISION_TARGET) | opens, row.media_weight, 0.0)
  wanted = gather_entries(targets, entries(row, start))
  logits = bit_logits(output.hidden, params, config)
  margin = jnp.where(wanted, logits[..., 1] - logits[..., 0], logits[..., 0] - logits[..., 1])
  losses = jnp.mean(jax.nn.softplus(-margin), axis=-1)  # a softmax over two classes
  right = jnp.mean(margin > 0, axis=-1)
  mean = lambda values: jnp.sum(values * weight) / jnp.maximum(weight.sum(), 1.0)
  scale = jnp.asarray(element_scale(config.vision))[row.media_element % config.vision.elements]
  own = (weight > 0)[..., None] & (scale[..., None] == jnp.arange(len(config.vision.sides)))
  counts = jnp.sum(own, axis=(0, 1))
  return VisionLoss(
    bits=mean(losses),
    by_scale=jnp.einsum("blk,bl->k", own.astype(jnp.float32), losses) / jnp.maximum(counts, 1),
    accuracy=mean(right),
    elements=weight.sum(),
  )
