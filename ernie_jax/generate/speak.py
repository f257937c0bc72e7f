"""Speaking on the key-value cache: each frame is one step, whose codes are drawn in the middle of the pass.

    voicebox = Voicebox(saved.model, saved.speech.config)
    weights = voicebox.load(saved.params, saved.bias, saved.speech)
    for piece in voicebox.sounds(weights, [speak(ids, voice, None)], how=SpeakingConfig(), max_frames=100):
      ...                                                     # Sound of a few frames, as they are made

Level r of a frame is drawn after layer N - R + r and added to the hidden state before the next layer, so the
keys and values of the last layers depend on what was drawn. The first level decides the end: where it draws
the end, all levels do; where it does not, no other may. A clip has at least one frame.

Letters: P prompts, n frames, R levels, V codes of a level, S samples.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ernie_jax.audio.codec import STRIDE, Codec, CodecConfig, decode_chunk
from ernie_jax.audio.quantizer import total_from_codes
from ernie_jax.backbone.audio_io import given_audio
from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.inputs import Active, Audio, Cache, empty_cache
from ernie_jax.generate import blocks
from ernie_jax.generate.blocks import Weights
from ernie_jax.generate.prompts import prompt_batch
from ernie_jax.model import UnifiedModel
from ernie_jax.sequence import Item, Kind, MediaRow, Row, SpecialToken
from ernie_jax.speech import Speech, sound_shape

FIRST, CHUNK = 2, 8  # frames of the first piece, which is to come soon, and of every other


@dataclasses.dataclass(frozen=True)
class SpeakingConfig:
  """How codes are drawn.

  Attributes:
    temperature: divides the logits of every level; 0 takes the likeliest code. At 0.25 a
      quickstart said 0.089 of its words wrong, at 0.4 0.108; at 1 small runs erred several times as often.
    seed: of the draws; equal seeds and prompts give equal speech.

  Raises:
    ValueError: a value outside its range.
  """

  temperature: float = 0.25
  seed: int = 0

  def __post_init__(self):
    if not (np.isfinite(self.temperature) and self.temperature >= 0):
      raise ValueError(f"temperature must be 0 or more, got {self.temperature}")
    if not 0 <= self.seed < 2**32:
      raise ValueError(f"seed must be between 0 and 2^32 - 1, got {self.seed}")


@flax.struct.dataclass
class State:
  """Where speaking stands.

  Attributes:
    cache: of everything but the last frame.
    codes: int32 [P, R], the last frame.
    position, group: int32 [P], of the last position in the cache.
    done: bool [P], clips that have ended.
    step: int32 [], frames drawn so far.
  """

  cache: Cache
  codes: Int[Array, "P R"]
  position: Int[Array, " P"]
  group: Int[Array, " P"]
  done: Bool[Array, " P"]
  step: Int[Array, ""]


@flax.struct.dataclass
class Frames:
  """Some frames of each clip.

  Attributes:
    codes: int32 [P, n, R]; 0 past a clip's end.
    lengths: int32 [P], frames of each clip among them.
    logprobs: float32 [P, n, R], of each code under the model as it is; 0 past the end.
  """

  codes: Int[np.ndarray, "P n R"]
  lengths: Int[np.ndarray, " P"]
  logprobs: Float[np.ndarray, "P n R"]


@dataclasses.dataclass(frozen=True, eq=False)
class Heard:
  """Sound of some frames: float32 [P, S], silent past a clip's end, and samples of each clip [P]."""

  waveform: Float[np.ndarray, "P S"]
  lengths: Int[np.ndarray, " P"]


class Voicebox:
  """The compiled functions of one model shape; parameters are given to each call.

  Attributes:
    config: the model's config as it is decoded (all layers unrolled).
    codec: the codec's.
  """

  def __init__(self, config: ModelConfig, codec: CodecConfig | None = None):
    """Compiles nothing yet. Without `codec` it makes codes alone."""
    self.config, self.codec = blocks.decoding_config(config), codec
    self._model = UnifiedModel(self.config)
    self._load = jax.jit(lambda params, bias: blocks.decoding_weights(params, bias, config))
    self._begin = jax.jit(self._begin_function, static_argnames="slots")
    self._advance = jax.jit(self._advance_function, static_argnames="most", donate_argnames="state")
    self._sound = jax.jit(self._sound_function)

  def load(self, params: Any, bias: Float[Array, "N E"], speech: Speech | None = None) -> Weights:
    """Parameters, router bias and the codec, arranged for speaking: a copy."""
    frozen = None if speech is None else jax.tree.map(jnp.asarray, speech.frozen)
    return self._load(params, bias).replace(codec=frozen)

  def sounds(
    self,
    weights: Weights,
    prompts: Sequence[Sequence[Item]],
    *,
    how: SpeakingConfig,
    max_frames: int,
    active: Active | None = None,
    at_least: int = 0,
  ) -> Iterator[Heard]:
    """Speech piece by piece, as it is made: the codec is causal too. Arguments as in `frames`."""
    stream = None
    for piece in self.frames(
      weights, prompts, how=how, max_frames=max_frames, active=active, at_least=at_least
    ):
      waveform, stream = self._sound(weights, piece.codes, stream)
      lengths = piece.lengths * STRIDE
      waveform = np.array(waveform)
      waveform[np.arange(waveform.shape[1]) >= lengths[:, None]] = 0
      yield Heard(waveform=waveform, lengths=lengths)

  def frames(
    self,
    weights: Weights,
    prompts: Sequence[Sequence[Item]],
    *,
    how: SpeakingConfig,
    max_frames: int,
    active: Active | None = None,
    at_least: int = 0,
  ) -> Iterator[Frames]:
    """Codes piece by piece: `FIRST` frames, then `CHUNK` at a time; the last ones may be fewer.

    Args:
      weights: from `load`.
      prompts: items before the clip that is to be spoken (`data.speech_tasks.speak` without codes).
      how: temperature and seed. Prompt p speaks the same alone and in a batch at the same place.
      max_frames: frames at most.
      active: the member to run, by masks for all rows alike; None is the whole model.
      at_least: positions to lay out, as `prompt_batch` has it.

    Raises:
      ValueError: no prompt, or no frame to make.
    """
    if not prompts or max_frames < 1:
      raise ValueError(f"{len(prompts)} prompts and max_frames={max_frames} make no speech")
    batch = prompt_batch(
      prompts, None, None, at_least=at_least, sound=sound_shape(self.config.audio)
    )
    room = FIRST + -(-max_frames // CHUNK) * CHUNK
    state = self._begin(weights, batch, active, slots=batch.row.kind.shape[1] + room)
    key, warm = jax.random.key(np.uint32(how.seed)), np.float32(how.temperature)
    left, most = max_frames, FIRST
    while left > 0:
      steps = np.int32(min(left, most))
      state, piece = self._advance(weights, state, steps, key, warm, active, most=most)
      yield jax.device_get(piece)
      left, most = left - most, CHUNK
      if np.all(state.done):
        return

  def _begin_function(self, weights: Weights, batch: MediaRow, active, slots: int) -> State:
    """Prompts into a fresh cache."""
    row = jax.tree.map(jnp.asarray, batch.row)
    rows = row.kind.shape[0]
    cache = empty_cache(self.config, rows, slots)
    out = self._model.apply(
      {"params": weights.params}, row, weights.bias, active, cache, audio=given_audio(batch.sound)
    )
    return State(
      cache=out.cache,
      codes=jnp.zeros((rows, self.config.audio.levels), jnp.int32),
      position=row.position[:, -1, 0].astype(jnp.int32),  # text and voices: t = h = w
      group=row.group[:, -1],
      done=jnp.zeros((rows,), bool),
      step=jnp.zeros((), jnp.int32),
    )

  def _advance_function(
    self, weights: Weights, state: State, steps, key, temperature, active, most: int
  ) -> tuple[State, Frames]:
    """Up to `steps` more frames (at most `most`); stops early when all clips have ended."""
    code = self.config.audio
    rows = state.done.shape[0]
    empty = Frames(
      codes=jnp.zeros((rows, most, code.levels), jnp.int32),
      lengths=jnp.zeros((rows,), jnp.int32),
      logprobs=jnp.zeros((rows, most, code.levels), jnp.float32),
    )

    def more(loop):
      i, state, _ = loop
      return (i < steps) & ~jnp.all(state.done)

    def one(loop):
      i, state, made = loop
      state, logprobs = self._frame(weights, state, key, temperature, active)
      speaks = ~state.done
      shown = lambda x: jnp.where(speaks[:, None], x, 0)
      made = Frames(
        codes=made.codes.at[:, i].set(shown(state.codes)),
        lengths=made.lengths + speaks,
        logprobs=made.logprobs.at[:, i].set(shown(logprobs)),
      )
      return i + 1, state, made

    _, state, made = jax.lax.while_loop(more, one, (jnp.int32(0), state, empty))
    return state, made

  def _frame(
    self, weights: Weights, state: State, key, temperature, active
  ) -> tuple[State, Float[Array, "P R"]]:
    """One frame more, or the end."""
    end, logprobs = self.config.audio.codes, []
    key = jax.random.fold_in(key, state.step)

    def choose(level: int, logits: Float[Array, "P 1 C"], before) -> Int[Array, "P 1"]:
      logits = logits[:, 0]
      no_end = (state.step == 0) | (level > 0)
      allowed = logits.at[:, end].set(jnp.where(no_end, -jnp.inf, logits[:, end]))
      chosen = _draw(allowed, temperature, jax.random.fold_in(key, level))
      if level:
        chosen = jnp.where(before[0][:, 0] == end, end, chosen)
      picked = jnp.take_along_axis(logits, chosen[:, None], axis=-1)[:, 0]
      logprobs.append(picked - jax.nn.logsumexp(logits, axis=-1))
      return chosen[:, None]

    audio = Audio(
      heard=state.codes[:, None],
      voice=jnp.zeros((state.done.shape[0], 1, self.config.audio.voice), jnp.float32),
      codes=None,
    )
    out = self._model.apply(
      {"params": weights.params},
      _block(state),
      weights.bias,
      active,
      state.cache,
      audio=audio,
      choose=choose,
    )
    codes = out.codes[:, 0]
    state = State(
      cache=out.cache,
      codes=codes,
      position=state.position + 1,
      group=state.group + 1,
      done=state.done | (codes[:, 0] == end),
      step=state.step + 1,
    )
    return state, jnp.stack(logprobs, axis=-1)

  def _sound_function(self, weights: Weights, codes: Int[Array, "P n R"], stream):
    """Samples [P, S] of frames, and what the next ones need."""
    total = total_from_codes(codes, weights.codec["vectors"])
    chunk = decode_chunk(Codec(self.codec), weights.codec["params"], total, stream)
    return chunk.value, chunk.stream


def _block(state: State) -> Row:
  """The position after those in the cache: BOA, then a frame at a time. Clips that ended are padding."""
  shape = state.done.shape
  live = (~state.done).astype(jnp.int32)
  first = state.step == 0
  fill = lambda value: jnp.broadcast_to(jnp.asarray(value, jnp.int32), shape)
  place = (state.position + 1).astype(jnp.float32)
  ints = dict(
    kind=live * jnp.where(first, int(Kind.TEXT), int(Kind.AUDIO)),
    token=fill(jnp.where(first, int(SpecialToken.BOA), 0)),
    group=state.group + 1,
    example=live,
    hidden_from=fill(0),
    hidden_to=fill(0),
    media_slot=fill(0),
    media_element=fill(state.step),
    target=fill(0),
  )
  nothing = jnp.zeros((*shape, 1), jnp.float32)
  return Row(
    **{name: value[:, None] for name, value in ints.items()},
    position=jnp.repeat(place[:, None, None], 3, axis=-1),
    text_weight=nothing,
    media_weight=nothing,
  )


def _draw(logits: Float[Array, "P C"], temperature: Array, key: Array) -> Int[Array, " P"]:
  """A code for every prompt; each has its own key, so its neighbours do not matter."""
  keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(logits.shape[0]))
  warm = jax.vmap(jax.random.categorical)(keys, logits / jnp.maximum(temperature, 1e-6))
  return jnp.where(temperature > 0, warm, logits.argmax(-1)).astype(jnp.int32)
