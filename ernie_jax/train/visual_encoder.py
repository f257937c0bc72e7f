"""Training the encoder of the understanding path before the model that reads with it: patches are named.

A vision transformer and a linear layer that says of each patch what lies there (`data/world/patch_labels.py`). The
report takes a trained encoder for granted and says nothing of its training; ours is taught what the world knows of
its pictures, as the audio codec's first level is taught its phones. The linear layer is left behind.

Letters: B pictures, h w patches, S side, A attributes, C classes of an attribute.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int8

from ernie_jax.data.world.patch_labels import ATTRIBUTES, NOTHING, UNKNOWN, LabelledPictures
from ernie_jax.train.task import Loss
from ernie_jax.vision.tokenizer import to_float
from ernie_jax.vision.vit import VisionTransformer, VitConfig
from ernie_jax.vision.vit_layers import Dense

_NOTHING_WEIGHT = 0.2  # most patches are background


class PatchNamer(nn.Module):
  """The encoder (`vit`) and the linear layer (`names`).

  Attributes:
    config: the encoder's.
  """

  config: VitConfig

  @nn.compact
  def __call__(self, pixels: Float[Array, "B S S 3"]) -> list[Float[Array, "B h w C"]]:
    """Logits of each of `ATTRIBUTES`, `NOTHING` first."""
    patches = VisionTransformer(self.config, name="vit")(pixels).patches
    counts = [1 + len(known) for known in ATTRIBUTES.values()]
    logits = Dense((sum(counts),), ("embed", None), name="names")(patches)
    ends = [sum(counts[:i]) for i in range(1, len(counts))]
    return jnp.split(logits, ends, axis=-1)


class EncoderTask:
  """The `Task` of training the encoder."""

  def __init__(self, config: VitConfig, side: int):
    """side: of the pictures, in pixels."""
    self.config, self.side = config, side
    self.model = PatchNamer(config)

  def init(self, key: Array) -> tuple[Any, dict]:
    """Boxed parameters; there is no other state."""
    return self.model.init(key, jnp.zeros((1, self.side, self.side, 3)))["params"], {}

  def loss(
    self, params: Any, variables: dict, batch: LabelledPictures, key: Array, step: Array
  ) -> Loss:
    """Cross-entropy of the names, in nats a patch, attributes of equal weight."""
    del variables, key, step
    logits = self.model.apply({"params": params}, to_float(batch.pixels))
    named = zip(ATTRIBUTES, logits, jnp.moveaxis(batch.labels, 1, 0))
    losses = {f"loss/{name}": _cross_entropy(z, labels) for name, z, labels in named}
    return Loss(loss=sum(losses.values()) / len(losses), metrics=losses, counts={})

  def update(self, variables: dict, counts: Any, step: Array) -> dict:
    """Nothing to do."""
    del counts, step
    return variables


def _cross_entropy(logits: Float[Array, "B h w C"], labels: Int8[Array, "B h w"]):
  weights = jnp.where(labels == NOTHING, _NOTHING_WEIGHT, jnp.where(labels == UNKNOWN, 0.0, 1.0))
  found = jnp.maximum(labels, 0).astype(jnp.int32)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, found)
  return jnp.sum(weights * losses) / jnp.maximum(weights.sum(), 1.0)


def accuracy(config: VitConfig, params: Any, batch: LabelledPictures) -> dict[str, float]:
  """The share of patches with a thing that are named right, of each attribute, and where all is nothing."""
  logits = jax.jit(PatchNamer(config).apply)({"params": params}, to_float(batch.pixels))
  said = {name: jnp.argmax(z, axis=-1) for name, z in zip(ATTRIBUTES, logits)}
  known = dict(zip(ATTRIBUTES, jnp.moveaxis(batch.labels, 1, 0)))
  share = lambda right, of: float(jnp.sum(right & of) / jnp.maximum(jnp.sum(of), 1))
  found = {name: share(said[name] == known[name], known[name] > NOTHING) for name in ATTRIBUTES}
  return found | {"nothing": share(said["shape"] == NOTHING, known["shape"] == NOTHING)}
