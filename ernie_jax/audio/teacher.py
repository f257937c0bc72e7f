"""What the codec's first level is aligned to: anything that says, for each codec frame, what is spoken.

Letters: B rows, S samples, F frames of 8 ms, T codec frames, K classes or features, N features in time.

By default the known phones of each 8 ms; with `FeatureTeacher` a frozen network's features, pooled to
codec frames (ERNIE 5.0 pools the Whisper encoder's from 50 to 12.5 Hz).
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ernie_jax.audio.sources import FRAMES


class Teacher(Protocol):
  """Judges a linear head on the first level's codes; `width` is K."""

  width: int

  def loss(
    self, said: Float[Array, "B T K"], waveform: Float[Array, "B S"], phones: Int[Array, "B F"]
  ) -> Float[Array, ""]: ...


@dataclasses.dataclass(frozen=True)
class LabelTeacher:
  """Cross-entropy to the shares of the phones in each codec frame; `width` is how many there are.

  A label of `width` or above says that the phone is not known.
  """

  width: int

  def loss(self, said, waveform, phones):
    """Over the codec frames of which some phone is known; 0 without any."""
    del waveform
    shares = jax.nn.one_hot(phones, self.width)  # zeros where not known
    shares = shares.reshape(*said.shape[:2], FRAMES, self.width).mean(2)
    sure = shares.sum(-1)
    entropy = -(shares * jax.nn.log_softmax(said)).sum(-1)
    return entropy.sum() / jnp.maximum(sure.sum(), 1)


@dataclasses.dataclass(frozen=True)
class FeatureTeacher:
  """Cosine distance to a frozen network's features.

  Attributes:
    features: waveform [B, S] to [B, N, K], N a multiple of the codec frames.
    width: K.
  """

  features: Callable[[Array], Array]
  width: int

  def loss(self, said, waveform, phones):
    """Mean over codec frames of 1 - cosine.

    Raises:
      ValueError: the features are not a multiple of the codec frames.
    """
    del phones
    wanted = jax.lax.stop_gradient(self.features(waveform))
    if wanted.shape[1] % said.shape[1]:
      raise ValueError(f"{wanted.shape[1]} features cannot be pooled to {said.shape[1]} frames")
    wanted = wanted.reshape(*said.shape[:2], -1, self.width).mean(2)
    return (1 - (_unit(said) * _unit(wanted)).sum(-1)).mean()


def _unit(x: Array) -> Array:
  return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-8)
