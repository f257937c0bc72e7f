"""What every layer is told besides the hidden state: as arrays, so that one compilation serves all.

Letters: B rows, L positions, N layers, E experts, S cache slots, G key-value heads, P rotary pairs.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.kernels.interval_attention import KeyRule, QueryRule


@flax.struct.dataclass
class Active:
  """Which part of the network each row runs (ERNIE 5.0, section 5).

  With a row axis B each row runs its own member by masks; without it one member serves the whole
  step and skipped layers cost nothing (`layers[n]` is then a scalar, a `lax.cond` predicate).

  Attributes:
    layers: bool [N, B] or [N], layers that run; the others pass the hidden state through.
    experts: bool [N, B, E] or [N, E], experts the router may choose.
    top_k: int32 [B] or [], how many of the K choices count.
  """

  layers: Bool[Array, "N *B"]
  experts: Bool[Array, "N *B E"]
  top_k: Int[Array, "*B"]

  @property
  def by_row(self) -> bool:
    """Whether each row runs its own member."""
    return self.layers.ndim == 2

  def is_full(self, config: ModelConfig) -> Bool[Array, "*B"]:
    """Rows that run the full configuration; only they move the router bias."""
    everything = jnp.all(self.layers, axis=0) & jnp.all(self.experts, axis=(0, -1))
    return everything & (self.top_k >= config.top_k)


def all_active(config: ModelConfig, rows: int | None = None) -> Active:
  """The full model: for each of `rows` rows, or (None) for the step as a whole."""
  lead = () if rows is None else (rows,)
  return Active(
    layers=jnp.ones((config.depth, *lead), bool),
    experts=jnp.ones((config.depth, *lead, config.experts), bool),
    top_k=jnp.full(lead, config.top_k, jnp.int32),
  )


@flax.struct.dataclass
class Context:
  """Per-position inputs shared by all layers.

  Attributes:
    cos, sin: float32 [B, L, P], rotary angles.
    queries: what each position may see, for the positions of this call.
    keys: visibility of the keys: this call's positions, or the whole cache when there is one.
    live: bool [B, L], positions that are not padding.
    counted: bool [B], rows whose routing drives the bias.
    top_k: int32 [B], how many of the K choices count in each row.
  """

  cos: Float[Array, "B L P"]
  sin: Float[Array, "B L P"]
  queries: QueryRule
  keys: KeyRule
  live: Bool[Array, "B L"]
  counted: Bool[Array, "B"]
  top_k: Int[Array, "B"]


@flax.struct.dataclass
class Cache:
  """Keys and values of all layers, with the visibility of each slot.

  A call appends its L positions as one block, so a visual scale or a prompt is as good as one token.
  Rows of different length are padded on the left (padding keys are invisible).

  Attributes:
    k, v: [N, B, S, G, head_dim].
    keys: KeyRule arrays [B, S]; unfilled slots belong to example 0, which nothing sees.
    length: int32 [], filled slots.
  """

  k: Array
  v: Array
  keys: KeyRule
  length: Int[Array, ""]


def empty_cache(config: ModelConfig, rows: int, slots: int) -> Cache:
  """A cache for `rows` rows of at most `slots` positions."""
  shape = (config.depth, rows, slots, config.kv_heads, config.head_dim)
  zeros = lambda: jnp.zeros((rows, slots), jnp.int32)
  return Cache(
    k=jnp.zeros(shape, config.dtype),
    v=jnp.zeros(shape, config.dtype),
    keys=KeyRule(example=zeros(), group=zeros(), hidden_from=zeros(), hidden_to=zeros()),
    length=jnp.zeros((), jnp.int32),
  )


def append_keys(cache: Cache, new: KeyRule) -> Cache:
  """Enters the visibility of a block of L positions at the end of the cache (not yet its k and v)."""
  write = lambda old, x: jax.lax.dynamic_update_slice(old, x.astype(old.dtype), (0, cache.length))
  return cache.replace(
    keys=jax.tree.map(write, cache.keys, new), length=cache.length + new.group.shape[1]
  )


@flax.struct.dataclass
class LayerStats:
  """What one layer reports; stacked to a leading [N] by the stack.

  Attributes:
    load: float32 [E], assignments by rows that ran the full configuration.
    load_all: float32 [E], assignments by all rows.
    balance_loss, z_loss: float32 [], auxiliary losses (0 where their weight is 0).
    overflowed: float32 [], 1 if a buffer of the all_to_all transport was too small, so that the slower ring took all.
  """

  load: Float[Array, "*N E"]
  load_all: Float[Array, "*N E"]
  balance_loss: Float[Array, "*N"]
  z_loss: Float[Array, "*N"]
  overflowed: Float[Array, "*N"]


@flax.struct.dataclass
class Media:
  """What media positions hold, for a batch of rows: gathered by slot and element, never computed twice.

  The slots that are drawn (`VisionTarget`) are numbered before those that are only looked at
  (`ContextMedia`). Elements of all slots of a row lie end to end, so a position finds its own at
  start[slot] + element, and slots of different length cost no padding.

  Attributes:
    inputs: float32 [B, I, d], running sums of scales: the input of element e >= 1 of a drawn slot is
      entry start[slot] + e - 1 (`vision.quantizer` says why one earlier).
    context: [B, C, D], understanding tokens in model width: entry start[slot] + element.
    start: int32 [V], first entry of each slot.
  """

  inputs: Float[Array, "B I d"]
  context: Float[Array, "B C D"]
  start: Int[Array, "V"]


@flax.struct.dataclass
class Audio:
  """What the positions of a batch of rows hold of sound; see `sequence/sound.py`.

  Attributes:
    heard: int32 [B, L, R], codes of the frame that an audio position reads; -1 where it hears nothing.
    voice: float32 [B, L, S], what a position of kind VOICE reads.
    codes: int32 [B, L, R], the codes that a position predicts, fed back to the hidden state. None: they
      are chosen while the layers run.
  """

  heard: Int[Array, "B L R"]
  voice: Float[Array, "B L S"]
  codes: Int[Array, "B L R"] | None


def no_stats(experts: int) -> LayerStats:
  """Statistics of a layer that did not run or has no experts."""
  zeros = jnp.zeros((experts,), jnp.float32)
  nothing = jnp.zeros((), jnp.float32)
  return LayerStats(
    load=zeros, load_all=zeros, balance_loss=nothing, z_loss=nothing, overflowed=nothing
  )
