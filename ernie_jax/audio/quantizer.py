"""Residual vector quantization with codebooks that follow the data, not a gradient.

Letters: B rows, T codec frames, D width of the latent, R levels, V codes of a level.

From total = 0: each level takes the code nearest to (latent - total) and adds it (SoundStream, EnCodec).
Level 1 is semantic: it sees and fills only the first `semantic_width` dimensions, which the alignment to
a teacher shapes; what else there is of a frame passes it by, to the residual levels.

Codebooks are moving averages of what chose them (VQ-VAE's k-means, decay d), so they are state, no
parameters. A code that falls out of use is revived by splitting a busy one along what spreads it
(Linde, Buzo and Gray 1980): it needs counts alone, which add up over hosts and micro-batches.

Gotcha: what a level took is fixed for the levels after it, each level has its commitment, and one
straight-through estimator stands on the sum. One per level would lose the later commitments or add up
to R times the identity (encodec#25).
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_EMPTY = 1e-6


@dataclasses.dataclass(frozen=True)
class RvqConfig:
  """The shape of the code, and how codebooks move.

  Attributes:
    levels, codes: R and V.
    width: D.
    semantic_width: dimensions of level 1.
    decay: of the moving averages, a step.
    revive_below: a code used less than this share of an even use is revived.
    revive_every: steps between revivals.
  """

  levels: int = 4
  codes: int = 256
  width: int = 64
  semantic_width: int = 24
  decay: float = 0.98
  revive_below: float = 0.2
  revive_every: int = 10

  def __post_init__(self):
    for name in ("levels", "width", "revive_every"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    if self.codes < 2:
      raise ValueError(f"codes must be at least 2, got {self.codes}")
    if not 1 <= self.semantic_width <= self.width:
      raise ValueError(
        f"semantic_width must be between 1 and width ({self.width}), got {self.semantic_width}"
      )
    for name in ("decay", "revive_below"):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")

  def filled(self) -> Float[Array, "R D"]:
    """1 for the dimensions that a level fills."""
    first = jnp.arange(self.width) < self.semantic_width
    return jnp.ones((self.levels, self.width)).at[0].set(first)


@flax.struct.dataclass
class Codebooks:
  """The state of all levels: moving averages of what chose each code.

  Attributes:
    count: how often a step.
    sum, square: of the vectors, and of their squares, dimension by dimension.
    vectors: the codes: sum / count.
  """

  count: Float[Array, "R V"]
  sum: Float[Array, "R V D"]
  square: Float[Array, "R V D"]
  vectors: Float[Array, "R V D"]


@flax.struct.dataclass
class Counts:
  """The same of one step, to be added up over micro-batches."""

  count: Float[Array, "R V"]
  sum: Float[Array, "R V D"]
  square: Float[Array, "R V D"]


@flax.struct.dataclass
class Quantized:
  """A quantised latent.

  Attributes:
    total: float32 [B, T, D], what the decoder reads. Its value is exactly `total_from_codes`; its gradient
      is the identity to the latent.
    codes: int32 [B, T, R].
    residuals: float32 [B, T, R, D], what each level looked up; gradients reach the latent from every level.
    taken: float32 [B, T, R, D], the codes' vectors; no gradient.
  """

  total: Float[Array, "B T D"]
  codes: Int[Array, "B T R"]
  residuals: Float[Array, "B T R D"]
  taken: Float[Array, "B T R D"]


def quantize(
  latent: Float[Array, "B T D"],
  vectors: Float[Array, "R V D"],
  cfg: RvqConfig,
  *,
  keep: Bool[Array, "B R"] | None = None,
) -> Quantized:
  """Codes of a latent, and the sum that they stand for.

  Args:
    latent: the encoder's output.
    vectors: of the codebooks.
    cfg: the shape of the code.
    keep: levels that a row uses (see `draw_levels`); one left out adds nothing. None: all.

  Raises:
    ValueError: a latent of another width.
  """
  if latent.ndim != 3 or latent.shape[-1] != cfg.width:
    raise ValueError(f"latent must be [B, T, {cfg.width}], got {latent.shape}")
  fixed, total = jax.lax.stop_gradient(latent), jnp.zeros_like(latent)
  vectors = jax.lax.stop_gradient(vectors)
  codes, residuals, taken = [], [], []
  for level, filled in enumerate(cfg.filled()):
    residual = (latent - total) * filled
    codes.append(nearest(residual, vectors[level]))
    residuals.append(residual)
    taken.append(vectors[level][codes[-1]])
    used = taken[-1] if keep is None else taken[-1] * keep[:, level, None, None]
    total = total + used
  stack = lambda parts: jnp.stack(parts, axis=2)
  return Quantized(
    total=total + (latent - fixed),  # adds an exact zero, and the identity to the gradient
    codes=stack(codes),
    residuals=stack(residuals),
    taken=stack(taken),
  )


def nearest(x: Float[Array, "*n D"], vectors: Float[Array, "V D"]) -> Int[Array, "*n"]:
  """The code of least distance; of equal ones the first."""
  x = jax.lax.stop_gradient(x)
  far = jnp.square(vectors).sum(-1) - 2 * x @ vectors.T
  return far.argmin(-1).astype(jnp.int32)


def total_from_codes(
  codes: Int[Array, "B T R"], vectors: Float[Array, "R V D"]
) -> Float[Array, "B T D"]:
  """The decoder's input from codes alone; the first levels of R where fewer are given."""
  total = jnp.zeros((*codes.shape[:2], vectors.shape[-1]), vectors.dtype)
  for level in range(codes.shape[-1]):
    total = total + vectors[level][codes[..., level]]
  return total


def draw_levels(key: Array, rows: int, cfg: RvqConfig, *, drop: float) -> Bool[Array, "B R"]:
  """Quantizer dropout: with probability `drop` a row uses only its first n levels, n uniform (DAC)."""
  drops, many = jax.random.split(key)
  n = jax.random.randint(many, (rows,), 1, cfg.levels + 1)
  n = jnp.where(jax.random.bernoulli(drops, drop, (rows,)), n, cfg.levels)
  return jnp.arange(cfg.levels) < n[:, None]


def commitment(
  quantized: Quantized, cfg: RvqConfig, *, keep: Bool[Array, "B R"] | None = None
) -> Float[Array, " R"]:
  """Mean squared distance of each level's residuals to the vectors it took, over rows that use it."""
  far = jnp.square(quantized.residuals - quantized.taken).sum(-1).mean(1) / cfg.width  # [B, R]
  if keep is None:
    return far.mean(0)
  return (far * keep).sum(0) / jnp.maximum(keep.sum(0), 1)


def count(
  quantized: Quantized, cfg: RvqConfig, *, keep: Bool[Array, "B R"] | None = None
) -> Counts:
  """What chose which code."""
  residuals = jax.lax.stop_gradient(quantized.residuals)
  chosen = jax.nn.one_hot(quantized.codes, cfg.codes, dtype=residuals.dtype)  # [B, T, R, V]
  if keep is not None:
    chosen = chosen * keep[:, None, :, None]
  add = lambda x: jnp.einsum("btrv,btrd->rvd", chosen, x)
  return Counts(count=chosen.sum((0, 1)), sum=add(residuals), square=add(jnp.square(residuals)))


def fresh_codebooks(cfg: RvqConfig, key: Array) -> Codebooks:
  """Random codes, smaller at each level; `start_codebooks` gives better ones."""
  scale = 0.5 ** jnp.arange(cfg.levels)[:, None, None]
  shape = (cfg.levels, cfg.codes, cfg.width)
  vectors = jax.random.normal(key, shape) * scale * cfg.filled()[:, None]
  ones = jnp.ones(shape[:2])
  square = jnp.square(vectors) + jnp.square(0.5 * scale) * cfg.filled()[:, None]
  return Codebooks(count=ones, sum=vectors, square=square, vectors=vectors)


def start_codebooks(
  latent: Float[Array, "N D"], cfg: RvqConfig, key: Array, *, rounds: int = 10
) -> Codebooks:
  """k-means of latents level by level: the next level starts when the one before is done.

  Args:
    latent: at least a few for each code.
    cfg: the shape of the code.
    key: of the points that the rounds start from.
    rounds: of k-means.

  Raises:
    ValueError: fewer latents than codes.
  """
  if len(latent) < cfg.codes:
    raise ValueError(f"{len(latent)} latents are fewer than the {cfg.codes} codes")
  one = dataclasses.replace(cfg, levels=1, semantic_width=cfg.width, decay=0.0)
  books = []
  for level, filled in enumerate(cfg.filled()):
    points = latent * filled
    chosen = jax.random.choice(
      jax.random.fold_in(key, level), len(points), (cfg.codes,), replace=False
    )
    book = fresh_codebooks(one, key).replace(vectors=points[chosen][None])
    for i in range(rounds):
      found = count(quantize(points[None], book.vectors, one), one)
      book = moved(book, found, one)
      if i + 1 < rounds:
        book = revived(book, one, jax.random.fold_in(key, i))
    books.append(book)
    latent = latent - book.vectors[0][nearest(points, book.vectors[0])]
  book = jax.tree.map(lambda *parts: jnp.concatenate(parts), *books)
  scale = 1.0 / rounds  # counts as of a step, roughly; they are averages, and soon forgotten
  return book.replace(count=book.count * scale, sum=book.sum * scale, square=book.square * scale)


def moved(books: Codebooks, found: Counts, cfg: RvqConfig) -> Codebooks:
  """Codebooks after a step."""
  mix = lambda old, new: cfg.decay * old + (1 - cfg.decay) * new
  number, total = mix(books.count, found.count), mix(books.sum, found.sum)
  used = (number > _EMPTY)[..., None]
  vectors = jnp.where(used, total / jnp.maximum(number, _EMPTY)[..., None], books.vectors)
  return Codebooks(count=number, sum=total, square=mix(books.square, found.square), vectors=vectors)


def revived(books: Codebooks, cfg: RvqConfig, key: Array) -> Codebooks:
  """Every dead code becomes one half of a busy one, the busiest first; the busy one the other half."""
  even = books.count.sum(-1, keepdims=True) / cfg.codes
  order = jnp.argsort(-books.count, axis=-1)
  dead = books.count < cfg.revive_below * even
  rank = jnp.cumsum(dead, axis=-1) - 1
  source = jnp.take_along_axis(order, jnp.maximum(rank, 0), axis=-1)  # [R, V]
  enough = jnp.take_along_axis(books.count, source, axis=-1) > 2 * cfg.revive_below * even
  dead = dead & enough & (rank < cfg.codes // 2)
  into = jnp.where(dead, source, cfg.codes)  # where no code is revived: out of range, so dropped
  level = jnp.arange(books.count.shape[0])[:, None]
  busy = jnp.zeros(dead.shape, bool).at[level, into].set(True, mode="drop")
  mean = books.vectors
  spread = jnp.square(mean)
  spread = jnp.maximum(books.square / jnp.maximum(books.count, _EMPTY)[..., None] - spread, 0)
  signs = jax.random.rademacher(key, mean.shape, mean.dtype)
  step = 0.5 * jnp.sqrt(spread) * signs  # of the busy code; its twin goes the other way
  pick = lambda x, at: jnp.take_along_axis(x, at[..., None] if x.ndim == 3 else at, axis=1)
  halves = lambda x, share: jnp.where(
    dead.reshape(dead.shape + (1,) * (x.ndim - 2)), share * pick(x, source), x
  )
  vectors = jnp.where(busy[..., None], mean + step, mean)
  vectors = jnp.where(dead[..., None], pick(mean - step, source), vectors)
  number = jnp.where(busy, books.count / 2, halves(books.count, 0.5))
  square = jnp.where(busy[..., None], books.square / 2, halves(books.square, 0.5))
  return Codebooks(count=number, sum=vectors * number[..., None], square=square, vectors=vectors)


def perplexity(share: Float[Array, "R V"]) -> Float[Array, " R"]:
  """exp of the entropy of each level's use: how many codes it uses as if evenly."""
  share = share / jnp.maximum(share.sum(-1, keepdims=True), _EMPTY)
  return jnp.exp(-(share * jnp.log(share + 1e-12)).sum(-1))
