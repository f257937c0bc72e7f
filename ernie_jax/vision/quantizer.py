"""Multi-scale residual bits: a latent frame as K maps of signs, coarse to fine (ERNIE 5.0, section 3).

Letters: B rows, T latent frames, h w = the last side, d bits (= latent channels), K scales,
S elements of a frame (sum of side^2).

From total = 0: the residual (latent - total) is shrunk to scale k by area, its signs times the scale's
magnitude m_k are enlarged linearly and added to the total (Infinity, arXiv 2412.04431, with VAR's loop).
Frames are quantised one by one, so an image is a video of one frame. A magnitude per scale, learned, in
place of Infinity's 1 / sqrt(d): the loop then works for a latent of any norm.

Order of elements, which is that of the rows (`sequence/row.py`). `bits [B, T, S, d]`: scale 1, then 2,
.. K, each row by row; flattened over T and S they are what `media_element` numbers. `inputs [B, T, S, d]`
are one element late, as the positions that hold them: the block of scale 2 (the sum of scale 1 on the
grid of scale 2), .. the block of scale K, and last the sum of all scales on the grid of scale 1 (SS). So
`inputs.reshape(B, T * S, d)[:, e - 1]` is the input of the position whose media_element is e >= 1;
element 0 is the opening token, which has no visual input.

Gotcha: the total is computed in float32 by the same operations in the same order wherever it is needed
(encoder, bits alone, corruption, sampling), because a residual that is off by a rounding is a flipped bit.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ernie_jax.vision.resize import resize


@dataclasses.dataclass(frozen=True)
class QuantizerConfig:
  """The shape of the code.

  Attributes:
    sides: side of each scale's square grid, growing from 1 to the latent's side.
    bits: d, bits of an element; the vocabulary is 2^d.

  Raises:
    ValueError: sides that do not grow from 1, or no bits.
  """

  sides: tuple[int, ...] = (1, 2, 4, 8)
  bits: int = 12

  def __post_init__(self):
    grows = all(a < b for a, b in zip(self.sides, self.sides[1:]))
    if not self.sides or self.sides[0] != 1 or not grows:
      raise ValueError(f"sides must grow from 1, got {list(self.sides)}")
    if self.bits < 1:
      raise ValueError(f"bits must be at least 1, got {self.bits}")

  @property
  def scales(self) -> tuple[tuple[int, int], ...]:
    """(h, w) of each scale, as `sequence.parts.VisionTarget` takes them."""
    return tuple((side, side) for side in self.sides)

  @property
  def areas(self) -> tuple[int, ...]:
    """Elements of each scale."""
    return tuple(side * side for side in self.sides)

  @property
  def elements(self) -> int:
    """S, elements of a frame."""
    return sum(self.areas)

  @property
  def side(self) -> int:
    """Side of the latent."""
    return self.sides[-1]

  def part(self, scale: int) -> slice:
    """The elements of scale `scale` (from 0) within a frame's S."""
    start = sum(self.areas[:scale])
    return slice(start, start + self.areas[scale])


@flax.struct.dataclass
class Quantized:
  """A quantised latent.

  Attributes:
    total: float32 [B, T, h, w, d], what the decoder reads. Its value is exactly `total_from_bits`; its
      gradient is the identity to the latent (one straight-through for all scales: one per scale would
      add up to K times the identity on smooth parts), and the true one to the magnitudes.
    bits: bool [B, T, S, d].
    residuals: float32 [B, T, S, d], what each bit is the sign of, on its scale's grid; gradients reach
      the latent from every scale, and do not pass through the totals before it.
    codes: float32 [B, T, S, d], plus or minus the scale's magnitude; gradients reach the magnitudes.
  """

  total: Float[Array, "B T h w d"]
  bits: Bool[Array, "B T S d"]
  residuals: Float[Array, "B T S d"]
  codes: Float[Array, "B T S d"]


@flax.struct.dataclass
class Corrupted:
  """A history with errors, and what a model should say given it.

  Attributes:
    inputs: float32 [B, T, S, d], as `inputs_from_bits` of the flipped bits.
    targets: bool [B, T, S, d], the unflipped signs of the residuals that the flipped history left.
    bits: bool [B, T, S, d], the flipped bits.
  """

  inputs: Float[Array, "B T S d"]
  targets: Bool[Array, "B T S d"]
  bits: Bool[Array, "B T S d"]


def quantize(
  latent: Float[Array, "B T h w d"],
  magnitudes: Float[Array, "K"],
  cfg: QuantizerConfig,
  *,
  keep: Bool[Array, "B K"] | None = None,
) -> Quantized:
  """Bits of a latent, and the sum that they stand for.

  Args:
    latent: the encoder's output.
    magnitudes: positive, one per scale.
    cfg: the shape of the code.
    keep: scales that a row uses (see `draw_scales`); a scale left out adds nothing, and its bits mean
      nothing. None: all.

  Raises:
    ValueError: a latent of another side or width than `cfg` says.
  """
  _check(latent, cfg)
  latent = latent.astype(jnp.float32)
  fixed = jax.lax.stop_gradient(latent)
  total = jnp.zeros_like(latent)
  residuals, codes = [], []
  for k in range(len(cfg.sides)):
    residual = _residual(latent, jax.lax.stop_gradient(total), k, cfg)
    bits = residual > 0
    residuals.append(residual)
    codes.append(_codes(bits, magnitudes, k))
    used = None if keep is None else keep[:, k]
    total = _add(total, codes[-1], used, cfg)
  residuals = _joined(residuals)
  return Quantized(
    total=total + (latent - fixed),  # adds an exact zero, and the identity to the gradient
    bits=residuals > 0,
    residuals=residuals,
    codes=_joined(codes),
  )


def total_from_bits(
  bits: Bool[Array, "B T S d"], magnitudes: Float[Array, "K"], cfg: QuantizerConfig
) -> Float[Array, "B T h w d"]:
  """The sum over all scales from bits alone, in one go: the slow twin of `quantize` and of drawing, for tests."""
  total = empty_total(bits.shape[0], bits.shape[1], cfg)
  for k in range(len(cfg.sides)):
    total = add_scale(total, bits[..., cfg.part(k), :], magnitudes, k, cfg)
  return total


def inputs_from_bits(
  bits: Bool[Array, "B T S d"], magnitudes: Float[Array, "K"], cfg: QuantizerConfig
) -> Float[Array, "B T S d"]:
  """The running sums that a model reads before each next element, in one go: as above, a slow twin for tests.

  The order is in the module docstring.
  """
  total = empty_total(bits.shape[0], bits.shape[1], cfg)
  inputs = []
  for k in range(len(cfg.sides)):
    total = add_scale(total, bits[..., cfg.part(k), :], magnitudes, k, cfg)
    inputs.append(block_input(total, (k + 1) % len(cfg.sides), cfg))
  return jnp.concatenate(inputs, axis=-2)


def empty_total(rows: int, frames: int, cfg: QuantizerConfig) -> Float[Array, "B T h w d"]:
  """The running sum before the first scale."""
  return jnp.zeros((rows, frames, cfg.side, cfg.side, cfg.bits), jnp.float32)


def add_scale(
  total: Float[Array, "B T h w d"],
  bits: Bool[Array, "B T area d"],
  magnitudes: Float[Array, "K"],
  scale: int,
  cfg: QuantizerConfig,
) -> Float[Array, "B T h w d"]:
  """The running sum with one more scale (from 0); sampling goes scale by scale."""
  side = cfg.sides[scale]
  grid = bits.reshape(*bits.shape[:-2], side, side, bits.shape[-1])
  return _add(total, _codes(grid, magnitudes, scale), None, cfg)


def block_input(
  total: Float[Array, "B T h w d"], scale: int, cfg: QuantizerConfig
) -> Float[Array, "B T area d"]:
  """The running sum on the grid of `scale` (from 0): input of that scale's block; of SS for scale 0.

  Shrunk by area, as VideoAR does (arXiv 2601.05966); Infinity resizes linearly.
  """
  small = resize(total, cfg.sides[scale], "area")
  return small.reshape(*small.shape[:-3], -1, small.shape[-1])


def corrupt(
  latent: Float[Array, "B T h w d"],
  magnitudes: Float[Array, "K"],
  cfg: QuantizerConfig,
  strength: Float[Array, "B T K"],
  rng: Array,
) -> Corrupted:
  """Flips bits of the history and quantises again what is left (Infinity's self-correction).

  The flipped code joins the running sum, so later residuals, and with them later targets, make up for
  it; the targets of the flipped scale itself stay unflipped. Strength 0 is plain teacher forcing. No
  gradient.

  Args:
    latent, magnitudes, cfg: as for `quantize`.
    strength: probability with which each bit of a row's frame's scale flips.
    rng: a random key.
  """
  _check(latent, cfg)
  latent = jax.lax.stop_gradient(latent.astype(jnp.float32))
  magnitudes = jax.lax.stop_gradient(magnitudes)
  total = jnp.zeros_like(latent)
  inputs, targets, flipped = [], [], []
  for k in range(len(cfg.sides)):
    right = _residual(latent, total, k, cfg) > 0
    chance = jax.random.uniform(jax.random.fold_in(rng, k), right.shape)
    bits = right ^ (chance < strength[..., k, None, None, None])
    total = _add(total, _codes(bits, magnitudes, k), None, cfg)
    inputs.append(block_input(total, (k + 1) % len(cfg.sides), cfg))
    targets.append(right)
    flipped.append(bits)
  return Corrupted(
    inputs=jnp.concatenate(inputs, axis=-2), targets=_joined(targets), bits=_joined(flipped)
  )


def draw_scales(key: Array, rows: int, cfg: QuantizerConfig, *, drop: float) -> Bool[Array, "B K"]:
  """Stochastic scale depth: each scale but the first and the last is left out with probability `drop`."""
  k = len(cfg.sides)
  ends = (jnp.arange(k) == 0) | (jnp.arange(k) == k - 1)
  return ends | (jax.random.uniform(key, (rows, k)) >= drop)


def scale_means(
  values: Float[Array, "B T S d"],
  cfg: QuantizerConfig,
  *,
  keep: Bool[Array, "B K"] | None = None,
) -> Float[Array, "K d"]:
  """Mean over each scale's own elements, of the rows that use the scale.

  The denominator matters: counted against the number of finest elements, a coarse scale seems dead.
  """
  means = []
  for k in range(len(cfg.sides)):
    per_row = values[..., cfg.part(k), :].astype(jnp.float32).mean((1, 2))
    weight = jnp.ones(per_row.shape[0]) if keep is None else keep[:, k].astype(jnp.float32)
    means.append(weight @ per_row / jnp.maximum(weight.sum(), 1.0))
  return jnp.stack(means)


def binary_entropy(p: Float[Array, "*n"]) -> Float[Array, "*n"]:
  """Entropy in bits of a coin: 1 for p = 1/2, 0 for a constant."""
  p = jnp.clip(p, 1e-6, 1 - 1e-6)  # a float32 next to 1; fp16-sized epsilons gave NaN elsewhere
  return -(p * jnp.log2(p) + (1 - p) * jnp.log2(1 - p))


def bit_usage(
  bits: Bool[Array, "B T S d"],
  cfg: QuantizerConfig,
  *,
  keep: Bool[Array, "B K"] | None = None,
) -> Float[Array, "K"]:
  """How balanced the bits of each scale are: mean entropy of its d bits, 1 where all are even coins."""
  return binary_entropy(scale_means(bits, cfg, keep=keep)).mean(-1)


def _residual(latent: Array, total: Array, k: int, cfg: QuantizerConfig) -> Array:
  return resize(latent - total, cfg.sides[k], "area")


def _codes(bits: Array, magnitudes: Array, k: int) -> Array:
  return jnp.where(bits, magnitudes[k], -magnitudes[k])


def _add(total: Array, codes: Array, used: Array | None, cfg: QuantizerConfig) -> Array:
  enlarged = resize(codes, cfg.side, "linear")
  if used is not None:
    enlarged = jnp.where(used[:, None, None, None, None], enlarged, 0.0)
  return total + enlarged


def _joined(grids: list[Array]) -> Array:
  """Maps [B, T, side, side, d] of all scales as elements [B, T, S, d]."""
  flat = [g.reshape(*g.shape[:-3], -1, g.shape[-1]) for g in grids]
  return jnp.concatenate(flat, axis=-2)


def _check(latent: Array, cfg: QuantizerConfig) -> None:
  want = (cfg.side, cfg.side, cfg.bits)
  if latent.ndim != 5 or latent.shape[2:] != want:
    raise ValueError(f"a latent must be [B, T, {', '.join(map(str, want))}], got {latent.shape}")
