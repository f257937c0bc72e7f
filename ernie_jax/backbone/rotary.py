"""Uni-RoPE: rotary positions with three coordinates (t, h, w) (ERNIE 5.0, section 3.5).

Letters: L positions, C head size, P = C / 2 rotary pairs.

Pair j turns by coordinate * base^(-j / P). Which coordinate: the last 20/64 of the pairs read t; of the
rest, even pairs read h and odd pairs read w (ERNIE 4.5's 22/22/20 split of 64 pairs). Text and audio have
t = h = w, and then this is plain RoPE. Pairs are interleaved: (x0, x1), (x2, x3), ...
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def pair_coordinates(pairs: int) -> np.ndarray:
  """int [P]: the coordinate (0 t, 1 h, 2 w) that each rotary pair reads."""
  spatial = pairs - round(pairs * 20 / 64)
  index = np.arange(pairs)
  return np.where(index < spatial, 1 + index % 2, 0)


def rotary_angles(
  position: Float[Array, "*B L 3"], *, head_dim: int, base: float
) -> tuple[Float[Array, "*B L P"], Float[Array, "*B L P"]]:
  """cos and sin of every pair's angle, float32."""
  pairs = head_dim // 2
  frequency = jnp.asarray(base ** (-np.arange(pairs) / pairs), jnp.float32)
  coordinate = position[..., pair_coordinates(pairs)]
  angle = coordinate.astype(jnp.float32) * frequency
  return jnp.cos(angle), jnp.sin(angle)


def rotate(
  x: Float[Array, "*B L H C"], cos: Float[Array, "*B L P"], sin: Float[Array, "*B L P"]
) -> Float[Array, "*B L H C"]:
  """Turns each pair of x by its angle: (a, b) -> (a cos - b sin, b cos + a sin); x's type is kept."""
  pairs = x.reshape(*x.shape[:-1], x.shape[-1] // 2, 2).astype(jnp.float32)
  cos, sin = cos[..., None, :], sin[..., None, :]
  a, b = pairs[..., 0], pairs[..., 1]
  turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return turned.reshape(x.shape).astype(x.dtype)
