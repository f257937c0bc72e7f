"""What the unified model has for sound: sums of codes in, and heads between its last layers (NCP).

Letters: B rows, L positions, D width, N layers, R levels, V codes of a level, S numbers of a voice.

Next-codec prediction (ERNIE 5.0, section 4): level r is predicted after layer N - R + r; its code, given or
chosen, is embedded by the table that also embeds inputs, and added to the hidden state before the next
layer. Every head has one class more than codes: the end of the clip. The end is fed back as codes are, and
never read as an input.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ernie_jax.backbone.config import AudioConfig, ModelConfig
from ernie_jax.backbone.inputs import Audio
from ernie_jax.backbone.linear import fan_in_init
from ernie_jax.backbone.norm import RMSNorm
from ernie_jax.sequence.row import Kind, Row
from ernie_jax.sequence.sound import Sound, predicts_audio

_STD = 0.02  # of embeddings at the start, as the text's; of logits, so that no code is likelier


class AudioIO(nn.Module):
  """Embeds audio and voice positions, and owns the heads (`_logits` applies one).

  Parameters: `embedding` [R, V + 1, D], `head` [R, D, V + 1], `voice` [S, D], and a norm for each head.
  """

  config: ModelConfig

  def setup(self):
    c, code = self.config, self.config.audio
    table = nn.with_logical_partitioning(nn.initializers.normal(_STD), ("levels", "codes", "embed"))
    self.embedding = self.param("embedding", table, (code.levels, code.codes + 1, c.width))
    head = fan_in_init((1,), ("levels", "embed", "codes"), scale=_STD**2)
    self.head = self.param("head", head, (code.levels, c.width, code.codes + 1))
    voice = fan_in_init((0,), ("voice", "embed"))
    self.voice = self.param("voice", voice, (code.voice, c.width))
    self.norms = [RMSNorm(c.norm_eps, name=f"norm_{r}") for r in range(code.levels)]

  def __call__(self, row: Row, audio: Audio | None) -> Float[Array, "B L D"]:
    """Vectors of audio and voice positions; zeros at all others, and everywhere without `audio`."""
    c = self.config
    x = jnp.zeros((*row.kind.shape, c.width), c.dtype)
    if audio is None:
      return x
    heard = sum(self.embed(r, audio.heard[..., r]) for r in range(c.audio.levels))
    heard = jnp.where(audio.heard[..., :1] >= 0, heard, 0)
    x = jnp.where((row.kind == Kind.AUDIO)[..., None], heard, x)
    spoken = audio.voice.astype(c.dtype) @ self.voice.astype(c.dtype)
    return jnp.where((row.kind == Kind.VOICE)[..., None], spoken, x)

  def embed(self, level: int, codes: Int[Array, "B L"]) -> Float[Array, "B L D"]:
    """Vectors of a level's codes, in the compute type; code -1 has that of code 0."""
    return self.embedding[level].astype(self.config.dtype)[jnp.maximum(codes, 0)]

  def normed(self, level: int, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    """What the head of a level reads."""
    return self.norms[level](x)

  def logits(self, level: int, normed: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
    """Of the codes of a level and the end, in float32."""
    return _logits(normed, self.head[level], self.config)


class AudioHeads:
  """The heads of one pass, as `Stack` calls them: after each of its last layers.

  Attributes:
    hidden: what each head reads, level by level.
    codes: int32 [B, L] of each level: given, or chosen from the head's logits.
  """

  def __init__(
    self,
    io: AudioIO,
    row: Row,
    audio: Audio,
    choose: Callable[[int, Array, tuple[Array, ...]], Array] | None,
  ):
    """`choose` is needed where `audio` has no codes; see `UnifiedModel`."""
    self._io, self._audio, self._choose = io, audio, choose
    self._speaks = predicts_audio(row)[..., None]
    self.hidden: list[Array] = []
    self.codes: list[Array] = []

  def __call__(self, done: int, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    """The hidden state after `done` layers, with the codes added that are predicted there."""
    config = self._io.config
    for level in levels_after(done, config):
      self.hidden.append(self._io.normed(level, x))
      self.codes.append(self._code(level))
      if level + 1 < config.audio.levels:
        x = x + jnp.where(self._speaks, self._io.embed(level, self.codes[-1]), 0)
    return x

  def _code(self, level: int) -> Int[Array, "B L"]:
    if self._audio.codes is not None:
      return self._audio.codes[..., level]
    logits = self._io.logits(level, self.hidden[level])
    return self._choose(level, logits, tuple(self.codes))


def levels_after(done: int, config: ModelConfig) -> range:
  """The levels that are predicted when `done` layers have run."""
  levels = config.audio.levels
  if config.audio.heads == "last":
    return range(levels if done == config.depth else 0)
  level = done - (config.depth - levels) - 1
  return range(max(0, level), max(0, level + 1))


def code_logits(
  hidden: Float[Array, "... D"], level: int, params: Mapping[str, Any], config: ModelConfig
) -> Float[Array, "... V"]:
  """Logits of the codes of a level and, last, of the end, from `Output.audio[level]`, in float32.

  All of them at once: the slow twin of the objective and of speaking, for tests.
  """
  return _logits(hidden, params["audio"]["head"][level], config)


def given_audio(sound: Sound) -> Audio:
  """Inputs and codes of rows whose clips are known: each position reads what the one before it predicts."""
  heard = jnp.pad(jnp.asarray(sound.codes)[:, :-1], ((0, 0), (1, 0), (0, 0)))
  return Audio(heard=heard, voice=jnp.asarray(sound.voice), codes=jnp.asarray(sound.codes))


def no_audio(row: Row, config: AudioConfig) -> Audio:
  """Rows without any sound."""
  codes = jnp.zeros((*row.kind.shape, config.levels), jnp.int32)
  voice = jnp.zeros((*row.kind.shape, config.voice), jnp.float32)
  return Audio(heard=codes, voice=voice, codes=codes)


def _logits(normed: Array, head: Array, config: ModelConfig) -> Array:
  return jnp.matmul(
    normed.astype(config.dtype), head.astype(config.dtype), preferred_element_type=jnp.float32
  )
