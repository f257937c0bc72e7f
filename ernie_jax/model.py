"""UnifiedModel: embeds a row, runs the backbone under one attention rule; heads are functions of its output.

Letters: B rows, L positions, D width, V vocabulary, N layers, E experts, M MTP modules.
"""

from collections.abc import Callable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ernie_jax.backbone.attention import Attention
from ernie_jax.backbone.audio_io import AudioHeads, AudioIO, no_audio
from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.inputs import (
  Active,
  Audio,
  Cache,
  Context,
  LayerStats,
  Media,
  append_keys,
)
from ernie_jax.backbone.linear import Linear, SwiGLU, fan_in_init
from ernie_jax.backbone.norm import RMSNorm
from ernie_jax.backbone.rotary import rotary_angles
from ernie_jax.backbone.stack import Stack
from ernie_jax.backbone.vision_io import VisionIO
from ernie_jax.kernels.interval_attention import KeyRule, QueryRule
from ernie_jax.sequence.row import Kind, Row
from ernie_jax.sharding.rules import logical_constraint


@flax.struct.dataclass
class Output:
  """What a forward pass returns; heads are applied by whoever needs them.

  Attributes:
    hidden: [B, L, D] after the final norm.
    mtp: one [B, L, D] (after the final norm) for each MTP module: module m at position i predicts the
      text target of position i + m + 1. Empty while decoding with a cache.
    stats: `LayerStats` with leading [N].
    cache: the cache with this block appended, if one was given.
    audio: one [B, L, D] for each level, what the head of that level reads; empty without sound.
    codes: int32 [B, L, R], codes fed back at audio-predicting positions; None without sound.
  """

  hidden: Float[Array, "B L D"]
  mtp: tuple[Float[Array, "B L D"], ...]
  stats: LayerStats
  cache: Cache | None = None
  audio: tuple[Float[Array, "B L D"], ...] = ()
  codes: Int[Array, "B L R"] | None = None


class UnifiedModel(nn.Module):
  """One decoder for rows of text, image, video and audio positions."""

  config: ModelConfig

  @nn.compact
  def __call__(
    self,
    row: Row,
    bias: Float[Array, "N E"],
    active: Active | None = None,
    cache: Cache | None = None,
    media: Media | None = None,
    audio: Audio | None = None,
    choose: Callable[[int, Array, tuple[Array, ...]], Array] | None = None,
  ) -> Output:
    """Runs a batch of rows, or with a cache the next block of positions of each row.

    Args:
      row: fields [B, L] (position [B, L, 3]). With a cache, `group`, `example` and the hidden
        intervals continue the numbering of what the cache holds.
      bias: the routers' balancing bias, state outside the parameters.
      active: which part of the network each row runs; None is all of it.
      cache: earlier positions' keys and values.
      media: what the rows' media positions hold; without it they are zero vectors.
      audio: the same of sound.
      choose: picks codes in the middle of the pass where `audio` has none: takes a level (from 0), its
        logits [B, L, V + 1] and the codes of the levels before, and gives int32 [B, L].
    """
    c = self.config
    row = jax.tree.map(jnp.asarray, row)
    embedding = Embedding(c, name="embed")
    x = embedding(row)
    if c.vision is not None:
      x = x + VisionIO(c, name="vision")(row, media)
    heads = None
    if c.audio is not None:
      if audio is None and self.is_initializing():
        audio = no_audio(row, c.audio)
      speech = AudioIO(c, name="audio")
      x = x + speech(row, audio)
      heads = None if audio is None else AudioHeads(speech, row, audio, choose)
    x = logical_constraint(x, ("batch", "length", "act_embed"))
    if cache is not None:
      cache = append_keys(cache, _key_rule(row))
    context = make_context(row, active, cache, config=c)
    carry, stats = Stack(c, name="stack")(x, bias, active, context, cache, heads)
    final_norm = RMSNorm(c.norm_eps, name="final_norm")
    mtp = ()
    if cache is None:
      mtp = self._predict_further(embedding, final_norm, carry.x, row, context)
    if not c.tie_embeddings:
      head = fan_in_init((0,), ("embed", "vocab"))
      self.param("head", head, (c.width, c.vocab_size), jnp.float32)
    return Output(
      hidden=final_norm(carry.x),
      mtp=mtp,
      stats=stats,
      cache=carry.cache,
      audio=() if heads is None else tuple(heads.hidden),
      codes=None if heads is None else jnp.stack(heads.codes, axis=-1),
    )

  def _predict_further(self, embedding, final_norm, x, row: Row, context: Context):
    """Module m joins its predecessor's hidden state with the embedding of the text m + 1 ahead."""
    hidden, out = x, []
    for m in range(self.config.mtp_depth):
      ahead = jnp.pad(row.target[:, m:], ((0, 0), (0, m)))
      hidden = MultiTokenPrediction(self.config, name=f"mtp_{m}")(
        hidden, embedding.lookup(ahead), context
      )
      out.append(final_norm(hidden))
    return tuple(out)


class Embedding(nn.Module):
  """Writes the text's embedding into its positions; `VisionIO` writes pictures and videos."""

  config: ModelConfig

  def setup(self):
    c = self.config
    init = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "embed"))
    self.embedding = self.param("embedding", init, (c.vocab_size, c.width), jnp.float32)

  def __call__(self, row: Row) -> Float[Array, "B L D"]:
    text = (row.kind == Kind.TEXT)[..., None]
    return jnp.where(text, self.lookup(row.token), 0)

  def lookup(self, token) -> Float[Array, "B L D"]:
    """The table's rows for token ids, in the compute type."""
    return self.embedding.astype(self.config.dtype)[token]


class MultiTokenPrediction(nn.Module):
  """One MTP module: norm both inputs, project their concatenation, one dense layer (ERNIE 4.5)."""

  config: ModelConfig

  @nn.compact
  def __call__(self, hidden, ahead, context: Context) -> Float[Array, "B L D"]:
    c = self.config
    joined = jnp.concatenate(
      [
        RMSNorm(c.norm_eps, name="embed_norm")(ahead),
        RMSNorm(c.norm_eps, name="hidden_norm")(hidden),
      ],
      axis=-1,
    )
    x = Linear((c.width,), ("mlp", "embed"), dtype=c.dtype, name="project")(joined)
    normed = RMSNorm(c.norm_eps, name="attention_norm")(x)
    x = x + Attention(c, name="attention")(normed, context)[0]
    normed = RMSNorm(c.norm_eps, name="mlp_norm")(x)
    mlp = SwiGLU(c.mtp_width, out_scale=1 / (2 * c.depth), dtype=c.dtype, name="mlp")
    return x + mlp(normed)


def make_context(
  row: Row, active: Active | None, cache: Cache | None, *, config: ModelConfig
) -> Context:
  """The layers' shared inputs for a block of positions; `cache` already counts the block."""
  rows, length = row.kind.shape
  cos, sin = rotary_angles(row.position, head_dim=config.head_dim, base=config.rope_base)
  start = 0 if cache is None else cache.length - length
  index = jnp.broadcast_to(start + jnp.arange(length), (rows, length))
  spread = lambda a: jnp.broadcast_to(a, (rows,))
  return Context(
    cos=cos,
    sin=sin,
    queries=QueryRule(example=row.example, group=row.group, index=index),
    keys=_key_rule(row) if cache is None else cache.keys,
    live=row.kind != Kind.PAD,
    counted=spread(True if active is None else active.is_full(config)),
    top_k=spread(config.top_k if active is None else active.top_k),
  )


def _key_rule(row: Row) -> KeyRule:
  return KeyRule(
    example=row.example,
    group=row.group,
    hidden_from=row.hidden_from,
    hidden_to=row.hidden_to,
  )


def head_kernel(params: dict, config: ModelConfig) -> Float[Array, "D V"]:
  """The text head's kernel, tied or not, in float32."""
  return params["embed"]["embedding"].T if config.tie_embeddings else params["head"]


def text_logits(hidden: Float[Array, "... D"], params: dict, config: ModelConfig):
  """Text logits [..., V] in float32 from a forward pass's `hidden`."""
  kernel = head_kernel(params, config).astype(config.dtype)
  return jnp.matmul(hidden.astype(config.dtype), kernel, preferred_element_type=jnp.float32)


def initial_bias(config: ModelConfig) -> Float[Array, "N E"]:
  """The routers' bias before training: zeros."""
  return jnp.zeros((config.depth, config.experts), jnp.float32)
