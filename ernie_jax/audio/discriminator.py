"""An opinion of spectrograms at several resolutions, for the adversarial loss of the codec.

Letters: B rows, S samples, N windows, C channels.
"""

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ernie_jax.audio.losses import check_windows, magnitudes

_FLOOR = 1e-3  # of magnitudes


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
  """The shape of the discriminators.

  Attributes:
    windows: samples of each resolution's windows.
    widths: channels of each layer; each layer halves the bins.
  """

  windows: tuple[int, ...] = (512, 1024)
  widths: tuple[int, ...] = (16, 32, 32)

  def __post_init__(self):
    for name in ("windows", "widths"):
      if not getattr(self, name) or min(getattr(self, name)) < 4:
        raise ValueError(f"{name} must be at least 4 each, and one at least")
    check_windows(self.windows)


@flax.struct.dataclass
class Opinion:
  """What the discriminators say of a sound.

  Attributes:
    logits: of each resolution, high where it sounds real.
    maps: of every layer of each.
  """

  logits: tuple[Array, ...]
  maps: tuple[Array, ...]


class Discriminators(nn.Module):
  """One for each resolution, on log magnitudes (EnCodec's, with fewer channels)."""

  config: DiscriminatorConfig

  @nn.compact
  def __call__(self, waveform: Float[Array, "B S"]) -> Opinion:
    logits, maps = [], []
    for window in self.config.windows:
      x = jnp.log(magnitudes(waveform, window) + _FLOOR)[..., None] / 3 + 1
      for i, width in enumerate(self.config.widths):
        x = nn.leaky_relu(_conv(width, (1, 2), f"conv_{window}_{i}")(x), 0.2)
        maps.append(x)
      logits.append(_conv(1, (1, 1), f"logits_{window}")(x)[..., 0])
    return Opinion(logits=tuple(logits), maps=tuple(maps))


def generator_loss(fake: Opinion) -> Array:
  """The codec's side of the hinge loss."""
  return -_mean([x.mean() for x in fake.logits])


def discriminator_loss(real: Opinion, fake: Opinion) -> Array:
  """The discriminators' side of it."""
  sides = [
    jax.nn.relu(1 - a).mean() + jax.nn.relu(1 + b).mean() for a, b in zip(real.logits, fake.logits)
  ]
  return _mean(sides) / 2


def feature_loss(real: Opinion, fake: Opinion) -> Array:
  """Mean absolute difference of maps, relative to the size of the real ones."""
  fixed = jax.lax.stop_gradient(real.maps)
  return _mean(
    [jnp.abs(a - b).mean() / (jnp.abs(a).mean() + 1e-3) for a, b in zip(fixed, fake.maps)]
  )


def _mean(parts: list[Array]) -> Array:
  return sum(parts) / len(parts)


def _conv(width: int, strides: tuple[int, int], name: str) -> nn.Conv:
  init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), (None,) * 4)
  zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), (None,))
  return nn.Conv(width, (3, 5), strides, kernel_init=init, bias_init=zeros, name=name)
