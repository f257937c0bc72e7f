"""How the next token is drawn: temperature, top-k, top-p, and tokens that are never drawn.

Letters: B rows, V vocabulary.
Every setting is an array on the device, so changing one compiles nothing. Neither truncation sorts the
vocabulary: both keep the tokens whose probability reaches a threshold, and thirty halvings of a float's
bit pattern find the threshold exactly. Gotcha: tokens that tie with the last one kept are kept too.
"""

import dataclasses
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ernie_jax.sequence.special import RESERVED_IDS, SpecialToken

# What a continuation of text may hold besides characters; other reserved ids open media or turns.
TEXT_SPECIALS = (
  SpecialToken.EOS,
  SpecialToken.END_OF_TURN,
  SpecialToken.THINK,
  SpecialToken.END_THINK,
  SpecialToken.SURROGATE_BREAK,
)


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
  """How tokens are drawn from the model's distribution.

  Attributes:
    temperature: divides the logits; 0 takes the most probable token. 0.8 is our choice: small models
      ramble at 1.
    top_k: draw among the k most probable tokens; 0 for all.
    top_p: draw among the fewest most probable tokens whose probabilities, after temperature and
      top_k, add up to at least p (nucleus sampling, Holtzman et al. 2020); 1 for all.
    seed: of the draws; equal seeds and prompts give equal tokens.

  Raises:
    ValueError: a value outside its range.
  """

  temperature: float = 0.8
  top_k: int = 0
  top_p: float = 1.0
  seed: int = 0

  def __post_init__(self):
    if not (np.isfinite(self.temperature) and self.temperature >= 0):
      raise ValueError(f"temperature must be 0 or more, got {self.temperature}")
    if self.top_k < 0:
      raise ValueError(f"top_k must be 0 (all tokens) or more, got {self.top_k}")
    if not 0 < self.top_p <= 1:
      raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
    if not 0 <= self.seed < 2**32:
      raise ValueError(f"seed must be between 0 and 2^32 - 1, got {self.seed}")


@flax.struct.dataclass
class Settings:
  """A `SamplingConfig` as arrays; `key` is the seed's random key."""

  temperature: Float[Array, ""]
  top_k: Int[Array, ""]
  top_p: Float[Array, ""]
  key: Array


def settings(config: SamplingConfig) -> Settings:
  """The device's form of `config`."""
  return Settings(
    temperature=jnp.float32(config.temperature),
    top_k=jnp.int32(min(config.top_k, np.iinfo(np.int32).max)),
    top_p=jnp.float32(config.top_p),
    key=jax.random.key(np.uint32(config.seed)),
  )


def text_banned(
  vocab_size: int, known: int, *, allowed: Sequence[int] = ()
) -> Bool[np.ndarray, "V"]:
  """Ids that a continuation of text never holds: reserved ones but those `allowed`, and those past the `known` ids.

  A model's vocabulary may be larger than its tokenizer's (rounded up for the hardware).
  """
  banned = np.zeros(vocab_size, bool)
  banned[:RESERVED_IDS] = True
  banned[[*TEXT_SPECIALS, *allowed]] = False
  banned[known:] = True
  return banned


def sample(
  logits: Float[Array, "B V"], how: Settings, *, step: Int[Array, ""] | int
) -> Int[Array, "B"]:
  """Draws one token for each row; `step` numbers the draws of a row, which differ from each other.

  A logit of -inf is never drawn. Rows draw independently.
  """

  def greedy(logits):
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)

  def draw(logits):
    logits = logits / how.temperature
    truncated = (how.top_k > 0) | (how.top_p < 1)
    logits = jax.lax.cond(truncated, _truncate, lambda x, _: x, logits, how)
    at_step = jax.random.fold_in(how.key, step)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(at_step, jnp.arange(logits.shape[0]))
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)

  return jax.lax.cond(how.temperature > 0, draw, greedy, logits.astype(jnp.float32))


def _truncate(logits: Float[Array, "B V"], how: Settings) -> Float[Array, "B V"]:
  """Logits with -inf outside top-k, then outside top-p of what top-k left."""
  k = jnp.where(how.top_k > 0, how.top_k, logits.shape[-1])
  logits = keep_largest(logits, jnp.ones_like, k)
  p = jnp.where(how.top_p < 1, how.top_p, jnp.inf)  # a sum in float32 may miss or pass 1
  return keep_largest(logits, lambda probability: probability, p)


def keep_largest(logits: Float[Array, "B V"], mass, limit) -> Float[Array, "B V"]:
  """Keeps a token if the `mass` of all more probable tokens is below `limit`; else its logit is -inf.

  With a mass of 1 a token that is top-`limit`, with its probability the nucleus of `limit`.
  """
  probability = jax.nn.softmax(logits, axis=-1)
  weight = mass(probability)
  # Floats of one sign are ordered as their bit patterns are, so halving an interval of integers visits
  # every threshold there is between 0 and 1.
  as_float = lambda bits: jax.lax.bitcast_convert_type(bits, jnp.float32)

  def halve(_, interval):
    low, high = interval
    middle = low + (high - low) // 2
    above = jnp.where(probability > as_float(middle)[:, None], weight, 0).sum(-1)
    enough = above < limit
    return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

  one = np.float32(1).view(np.int32)
  rows = logits.shape[:1]
  start = (jnp.zeros(rows, jnp.int32), jnp.full(rows, one, jnp.int32))
  _, lowest = jax.lax.fori_loop(0, int(one).bit_length(), halve, start)
  return jnp.where(probability >= as_float(lowest)[:, None], logits, -jnp.inf)
