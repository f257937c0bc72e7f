"""Tokens per second of greedy decoding, one row at a time."""

import time
from collections.abc import Sequence

from ernie_jax.elastic.slicing import Sliced
from ernie_jax.generate.decode import CHUNK, Decoder
from ernie_jax.generate.sampling import SamplingConfig

PROMPT = 16  # tokens
NEW_TOKENS = 4 * CHUNK
_REPEATS, _SECONDS = 3, 0.5  # at least; the best run counts: other work can only slow one down


def decode_tokens_per_s(member: Sliced, prompt: Sequence[int]) -> float:
  """Speed of a sliced member at batch 1, in tokens per second, of `NEW_TOKENS` after the prompt.

  Compilation, the prompt's own pass and the first token are not counted, and nothing stops the text.
  """
  decoder = Decoder(member.model, cache_length=len(prompt) + 1 + NEW_TOKENS)
  weights = decoder.load(member.params, member.bias)
  _once(decoder, weights, prompt)  # compiles
  start, speeds = time.perf_counter(), []
  while len(speeds) < _REPEATS or time.perf_counter() - start < _SECONDS:
    speeds.append(_once(decoder, weights, prompt))
  return max(speeds)


def _once(decoder: Decoder, weights, prompt: Sequence[int]) -> float:
  pieces = decoder.stream(
    weights,
    [list(prompt)],
    sampling=SamplingConfig(temperature=0.0),
    max_new_tokens=1 + NEW_TOKENS,
  )
  next(pieces)
  start = time.perf_counter()
  made = sum(int(piece.lengths[0]) for piece in pieces)
  return made / (time.perf_counter() - start)
