"""Text decoding with a key-value cache: one jitted prefill, then one jitted loop.

Letters: B rows, P positions of the padded prompts, V vocabulary, n new tokens.

    decoder = Decoder(config, cache_length=1024)
    weights = decoder.load(params, bias)
    generated = decoder.generate(weights, [[1, 70, 71]], sampling=SamplingConfig(), max_new_tokens=64)

Prompts are padded on the left to the next of a few lengths, so rows of different length end together
and one compilation serves all prompts of about the same length. The loop runs `CHUNK` tokens per call,
with the cache donated and updated in place, so that text can be shown as it is made; Python does
nothing for a single token. All settings are arrays: only the number of rows, the padded length and the
cache length compile anew.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ernie_jax import media as media_lib
from ernie_jax.backbone.audio_io import given_audio
from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.inputs import Active, Audio, Cache, Media, all_active, empty_cache
from ernie_jax.errors import UserError
from ernie_jax.generate import blocks
from ernie_jax.generate.blocks import Weights
from ernie_jax.generate.sampling import SamplingConfig, Settings, sample, settings
from ernie_jax.model import UnifiedModel, text_logits
from ernie_jax.sequence.media import MediaRow
from ernie_jax.sequence.row import Row

CHUNK = 16  # tokens of one call of the loop: text appears in such pieces
SHORTEST_PREFILL = 16


@flax.struct.dataclass
class Request:
  """What is asked of the loop: how to draw, what never to draw, and what ends a row (bool [V])."""

  how: Settings
  banned: Bool[Array, "V"]
  stops: Bool[Array, "V"]


@flax.struct.dataclass
class State:
  """Where decoding stands.

  Attributes:
    cache: of everything but the last token.
    token: int32 [B], each row's last token.
    position: int32 [B], the position that token will take.
    group: int32 [B], its group: the position where the row has been text alone.
    done: bool [B], rows that drew a stop token.
    step: int32 [], tokens drawn so far.
  """

  cache: Cache
  token: Int[Array, "B"]
  position: Int[Array, "B"]
  group: Int[Array, "B"]
  done: Bool[Array, "B"]
  step: Int[Array, ""]


@flax.struct.dataclass
class Generated:
  """New tokens, the prompts not among them.

  Attributes:
    tokens: int32 [B, n]; 0 past a row's length.
    lengths: int32 [B], tokens of each row, its stop token included.
    logprobs: float32 [B, n], log-probability of each token under the model as it is (temperature 1,
      nothing cut off or banned); 0 past a row's length.
  """

  tokens: Int[np.ndarray, "B n"]
  lengths: Int[np.ndarray, "B"]
  logprobs: Float[np.ndarray, "B n"]

  def row(self, b: int) -> list[int]:
    """The new ids of row b."""
    return self.tokens[b, : self.lengths[b]].tolist()


class Decoder:
  """The compiled functions of one model shape; parameters are given to each call.

  Attributes:
    config: the model's config as it is decoded (all layers unrolled).
    cache_length: positions that a row's prompt and continuation may fill together.
    media: the encoders' configs, for prompts with pictures and videos; None without them.
  """

  def __init__(
    self, config: ModelConfig, *, cache_length: int, media: media_lib.MediaConfig | None = None
  ):
    """Compiles nothing yet.

    Raises:
      ValueError: `cache_length` is below 2, which has room for no prompt and token.
    """
    if cache_length < 2:
      raise ValueError(f"cache_length must be at least 2, got {cache_length}")
    self.config = blocks.decoding_config(config)
    self.cache_length = cache_length
    self.media = media
    self._model = UnifiedModel(self.config)
    self._load = jax.jit(lambda params, bias: blocks.decoding_weights(params, bias, config))
    self._prefill = jax.jit(self._prefill_function)
    self._prefill_media = jax.jit(self._prefill_media_function)
    self._advance = jax.jit(self._advance_function, donate_argnames="state")

  def load(self, params: Any, bias: Float[Array, "N E"], tokenizer: Any = None) -> Weights:
    """Parameters (those under "params") and router bias, arranged for this decoder: a copy.

    `tokenizer`: parameters of the visual tokenizer, for prompts with media.
    """
    return self._load(params, bias).replace(tokenizer=jax.tree.map(jnp.asarray, tokenizer))

  def generate(
    self,
    weights: Weights,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: SamplingConfig,
    max_new_tokens: int,
    stop_ids: Iterable[int] = (),
    banned: Bool[np.ndarray, "V"] | None = None,
    active: Active | None = None,
  ) -> Generated:
    """Continues every prompt by up to `max_new_tokens` tokens; arguments as in `stream`."""
    pieces = list(
      self.stream(
        weights,
        prompts,
        sampling=sampling,
        max_new_tokens=max_new_tokens,
        stop_ids=stop_ids,
        banned=banned,
        active=active,
      )
    )
    join = lambda name: np.concatenate([getattr(p, name) for p in pieces], axis=1)
    lengths = sum(p.lengths for p in pieces)
    return Generated(tokens=join("tokens"), lengths=lengths, logprobs=join("logprobs"))

  def stream(
    self,
    weights: Weights,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: SamplingConfig,
    max_new_tokens: int,
    stop_ids: Iterable[int] = (),
    banned: Bool[np.ndarray, "V"] | None = None,
    active: Active | None = None,
  ) -> Iterator[Generated]:
    """Yields new tokens as they are made: the first alone, then up to `CHUNK` at a time.

    Args:
      weights: from `load`.
      prompts: token ids, none empty.
      sampling: how to draw.
      max_new_tokens: at most so many for each row; fewer if all rows stop.
      stop_ids: a row ends with the first of these that it draws.
      banned: ids never drawn; None bans nothing.
      active: the member to run, by masks; None is the whole model.

    Raises:
      UserError: an empty prompt, an id outside the vocabulary, or more tokens than the cache holds.
    """
    length = self._check(prompts, max_new_tokens)
    request = self._request(sampling, stop_ids, banned)
    tokens = blocks.pad_left(prompts, length)
    live = np.arange(length) >= length - np.array([[len(p)] for p in prompts])
    state, piece = self._prefill(weights, tokens, live, request, active)
    yield from self._continue(weights, state, piece, max_new_tokens, request, active)

  def stream_media(
    self,
    weights: Weights,
    batch: MediaRow,
    *,
    sampling: SamplingConfig,
    max_new_tokens: int,
    stop_ids: Iterable[int] = (),
    banned: Bool[np.ndarray, "V"] | None = None,
    active: Active | None = None,
  ) -> Iterator[Generated]:
    """`stream` for prompts with pictures, videos and speech, from `prompts.prompt_batch`.

    Raises:
      UserError: more positions than the cache holds, or no token to make.
    """
    _check_count(max_new_tokens)
    used = batch.row.kind.shape[1]
    if used + max_new_tokens > self.cache_length:
      raise UserError(
        f"the prompt's {used} positions and max_new_tokens={max_new_tokens} do not fit in a cache of"
        f" {self.cache_length}; lower max_new_tokens or raise cache_length"
      )
    request = self._request(sampling, stop_ids, banned)
    state, piece = self._prefill_media(weights, batch, request, active)
    yield from self._continue(weights, state, piece, max_new_tokens, request, active)

  def _continue(
    self, weights, state: State, piece: Generated, max_new_tokens: int, request: Request, active
  ) -> Iterator[Generated]:
    """The prefill's token, then the loop's."""
    yield jax.device_get(piece)
    left = max_new_tokens - 1
    while left > 0 and not np.all(state.done):
      steps = min(left, CHUNK)
      state, piece, made = self._advance(weights, state, np.int32(steps), request, active)
      piece, made = jax.device_get((piece, made))
      yield piece.replace(tokens=piece.tokens[:, :made], logprobs=piece.logprobs[:, :made])
      left -= steps

  def compile(
    self, weights: Weights, prompts: Sequence[Sequence[int]], max_new_tokens: int
  ) -> None:
    """Compiles what `stream` will run for these prompts, and makes no token of the loop."""
    length = self._check(prompts, max_new_tokens)
    request = self._request(SamplingConfig(), (), None)
    tokens = blocks.pad_left(prompts, length)
    state, _ = self._prefill(weights, tokens, np.ones(tokens.shape, bool), request, None)
    jax.block_until_ready(self._advance(weights, state, np.int32(0), request, None))

  def _check(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> int:
    """The length to pad the prompts to."""
    _check_count(max_new_tokens)
    if not prompts or not all(len(p) for p in prompts):
      raise UserError("the prompt is empty")
    for prompt in prompts:
      low, high = min(prompt), max(prompt)
      if low < 0 or high >= self.config.vocab_size:
        wrong = low if low < 0 else high
        raise UserError(
          f"the prompt has the id {wrong}, but this model knows 0 to {self.config.vocab_size - 1}"
        )
    longest = max(map(len, prompts))
    if longest >= self.cache_length:
      raise UserError(
        f"the prompt has {longest} tokens, which leaves no room in a cache of {self.cache_length};"
        " raise cache_length"
      )
    room = self.cache_length - max_new_tokens
    if longest > room:
      raise UserError(
        f"the prompt's {longest} tokens and max_new_tokens={max_new_tokens} do not fit in a cache of"
        f" {self.cache_length}; lower max_new_tokens or raise cache_length"
      )
    bucket = max(SHORTEST_PREFILL, 1 << (longest - 1).bit_length())
    return min(bucket, room)

  def _request(self, sampling, stop_ids, banned) -> Request:
    stops = np.zeros(self.config.vocab_size, bool)
    stops[list(stop_ids)] = True
    if banned is None:
      banned = np.zeros(self.config.vocab_size, bool)
    return Request(how=settings(sampling), banned=jnp.asarray(banned), stops=jnp.asarray(stops))

  def _run(
    self,
    weights: Weights,
    block: Row,
    active: Active | None,
    cache: Cache,
    media: Media | None = None,
    audio: Audio | None = None,
  ) -> tuple[Float[Array, "B V"], Cache]:
    """Logits after the block's last position, and the cache with the block in it."""
    if active is None:
      active = all_active(self.config, block.kind.shape[0])
    out = self._model.apply(
      {"params": weights.params}, block, weights.bias, active, cache, media, audio
    )
    return text_logits(out.hidden[:, -1], weights.params, self.config), out.cache

  def _prefill_function(self, weights, tokens, live, request, active):
    rows = tokens.shape[0]
    position = jnp.cumsum(live, axis=1, dtype=jnp.int32) - 1
    cache = empty_cache(self.config, rows, self.cache_length)
    logits, cache = self._run(weights, blocks.text_block(tokens, position, live), active, cache)
    return self._first(cache, logits, position[:, -1], position[:, -1], request)

  def _prefill_media_function(self, weights, batch: MediaRow, request, active):
    row = jax.tree.map(jnp.asarray, batch.row)
    media = audio = None
    if batch.drawn or batch.seen:
      encoded = media_lib.encode(
        weights.params, weights.tokenizer, batch, config=self.media, model=self.config
      )
      media = encoded.media
    if batch.sound is not None:
      audio = given_audio(batch.sound)
    cache = empty_cache(self.config, row.kind.shape[0], self.cache_length)
    logits, cache = self._run(weights, row, active, cache, media, audio)
    position = row.position[:, -1, 0].astype(jnp.int32)  # text: t = h = w
    return self._first(cache, logits, position, row.group[:, -1], request)

  def _first(self, cache: Cache, logits, position, group, request) -> tuple[State, Generated]:
    """The state after a prompt whose last token has this position and group, and the first new token."""
    rows = logits.shape[0]
    state = State(
      cache=cache,
      token=jnp.zeros((rows,), jnp.int32),
      position=position,
      group=group,
      done=jnp.zeros((rows,), bool),
      step=jnp.zeros((), jnp.int32),
    )
    state, logprob = _draw(state, logits, request)
    first = Generated(
      tokens=state.token[:, None],
      lengths=jnp.ones((rows,), jnp.int32),
      logprobs=logprob[:, None],
    )
    return state, first

  def _advance_function(self, weights, state, steps, request, active):
    """Up to `steps` more tokens (at most CHUNK); stops early when all rows are done."""
    rows = state.token.shape[0]
    empty = Generated(
      tokens=jnp.zeros((rows, CHUNK), jnp.int32),
      lengths=jnp.zeros((rows,), jnp.int32),
      logprobs=jnp.zeros((rows, CHUNK), jnp.float32),
    )

    def more(loop):
      i, state, _ = loop
      return (i < steps) & ~jnp.all(state.done)

    def one(loop):
      i, state, made = loop
      live = ~state.done
      block = blocks.text_block(
        state.token[:, None],
        state.position[:, None],
        live[:, None],
        group=state.group[:, None],
      )
      logits, cache = self._run(weights, block, active, state.cache)
      state, logprob = _draw(state.replace(cache=cache), logits, request)
      made = Generated(
        tokens=made.tokens.at[:, i].set(state.token),
        lengths=made.lengths + live,
        logprobs=made.logprobs.at[:, i].set(logprob),
      )
      return i + 1, state, made

    made, state, piece = jax.lax.while_loop(more, one, (jnp.int32(0), state, empty))
    return state, piece, made


def _check_count(max_new_tokens: int) -> None:
  if max_new_tokens < 1:
    raise UserError(f"max_new_tokens must be at least 1, got {max_new_tokens}")


def _draw(
  state: State, logits: Float[Array, "B V"], request: Request
) -> tuple[State, Float[Array, "B"]]:
  """The state after drawing one token for each row that is not done, and its log-probability."""
  allowed = jnp.where(request.banned, -jnp.inf, logits)
  token = jnp.where(state.done, 0, sample(allowed, request.how, step=state.step))
  chosen = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
  logprob = jnp.where(state.done, 0.0, chosen - jax.nn.logsumexp(logits, axis=-1))
  state = state.replace(
    token=token,
    position=state.position + 1,
    group=state.group + 1,
    done=state.done | request.stops[token],
    step=state.step + 1,
  )
  return state, logprob
