"""A patch discriminator for images and videos, for the adversarial loss of the tokenizer.

Letters: B rows, T frames, H W pixels, C channels.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ernie_jax.causal import Norm
from ernie_jax.vision.tokenizer import CausalConv, space_to_depth


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
  """The shape of the discriminator.

  Attributes:
    widths: channels of each level; each level halves the side.
    time: frames that a convolution sees; 1 judges every frame on its own.
  """

  widths: tuple[int, ...] = (32, 64, 128)
  time: int = 1

  def __post_init__(self):
    if not self.widths or min(self.widths) < 1:
      raise ValueError(f"widths must be positive, at least one, got {list(self.widths)}")
    if self.time < 1:
      raise ValueError(f"time must be at least 1, got {self.time}")


class Discriminator(nn.Module):
  """Logits of places, high where the picture looks real (PatchGAN, Isola et al. 2017).

  RMS norm over channels in place of batch norm: no statistics shared between rows or frames.
  """

  config: DiscriminatorConfig

  @nn.compact
  def __call__(self, video: Float[Array, "B T H W 3"]) -> Float[Array, "B T h w"]:
    x = video.astype(jnp.float32)
    for level, width in enumerate(self.config.widths):
      x = CausalConv(width, time=self.config.time, name=f"conv_{level}")(space_to_depth(x, 2))
      if level:
        x = Norm(name=f"norm_{level}")(x)
      x = nn.leaky_relu(x, 0.2)
    return CausalConv(1, name="logits")(x)[..., 0]
