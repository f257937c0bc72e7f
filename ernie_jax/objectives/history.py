"""Errors put into the history that predictions stand on, in training alone: bits of pictures (ERNIE 5.0,
section 3.3), frames and codes of sound.

Letters: B rows, T latent frames, K scales, L positions, R levels, V codes.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ernie_jax.backbone.config import AudioConfig
from ernie_jax.backbone.inputs import Audio


@dataclasses.dataclass(frozen=True)
class HistoryConfig:
  """Flip probabilities; the defaults are VideoAR's (arXiv 2601.05966). All 0 is teacher forcing.

  Attributes:
    flip_min, flip_max: each scale of frame t draws its own from [flip_min, flip_max] + flip_growth * t.
    flip_growth: for each latent frame: late frames stand on longer histories.
    inherit: the first scale of a later frame draws no less than what the last scale of the frame before
      drew, as errors go on from frame to frame.
  """

  flip_min: float = 0.0
  flip_max: float = 0.25
  flip_growth: float = 0.01
  inherit: bool = True

  def __post_init__(self):
    if not 0 <= self.flip_min <= self.flip_max <= 1:
      raise ValueError(
        f"0 <= flip_min <= flip_max <= 1 must hold, got {self.flip_min} and {self.flip_max}"
      )
    if self.flip_growth < 0:
      raise ValueError(f"flip_growth must not be negative, got {self.flip_growth}")


def flip_strength(
  key: Array, rows: int, frames: int, scales: int, config: HistoryConfig
) -> Float[Array, "B T K"]:
  """Draws the flip probability of every scale of every frame: per row (Infinity draws per batch)."""
  later = config.flip_growth * jnp.arange(frames, dtype=jnp.float32)[:, None]
  low, high = config.flip_min + later, config.flip_max + later
  uniform = jax.random.uniform(key, (rows, frames, scales))
  strength = low + uniform * (high - low)
  if config.inherit and frames > 1:
    before = strength[:, :-1, -1]
    first = before + uniform[:, 1:, 0] * jnp.maximum(high[1:, 0] - before, 0)
    strength = strength.at[:, 1:, 0].set(first)
  return jnp.clip(strength, 0, 1)


@dataclasses.dataclass(frozen=True)
class SoundHistoryConfig:
  """Errors in what audio positions hear; 0 and 0 is teacher forcing. Shares of small runs: our choice.

  Attributes:
    dropped: share of frames that positions do not hear. The heads between the last layers still get their codes, as
      in decoding, so of a clip that is listened to the layers above the first head know them.
    replaced: share of the codes of a frame that are heard as any other code.
  """

  dropped: float = 0.1
  replaced: float = 0.1

  def __post_init__(self):
    for name in ("dropped", "replaced"):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")


def misheard(audio: Audio, code: AudioConfig, config: SoundHistoryConfig, key: Array) -> Audio:
  """`audio` with errors in what is heard, and in nothing that is to be predicted."""
  drop, replace, other = jax.random.split(key, 3)
  heard = audio.heard
  wrong = jax.random.bernoulli(replace, config.replaced, heard.shape)
  heard = jnp.where(wrong, jax.random.randint(other, heard.shape, 0, code.codes), heard)
  gone = jax.random.bernoulli(drop, config.dropped, heard.shape[:-1])
  return audio.replace(heard=jnp.where(gone[..., None], -1, heard))
