"""What a member must beat: a general compressor and a bigram model of the same tokens.

Letters: V vocabulary, P distinct pairs, B buckets, T predicted tokens.
"""

import dataclasses
import lzma
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

from ernie_jax.data.held_out import HeldOut
from ernie_jax.data.pipeline import DataConfig
from ernie_jax.data.text_files import Pieces, prepare
from ernie_jax.evaluate.held_out import Score
from ernie_jax.sequence.special import SpecialToken
from ernie_jax.text.tokenizer import Tokenizer

MAX_CHARS = (
  32_000_000  # training text that the bigram model counts: all of Python's standard library
)
HELD_BACK = 0.05  # share of it on which the interpolation is tuned
_BUCKETS = 24  # contexts seen 0, 1, 2-3, 4-7, ... times
_PRIOR = 20.0  # tokens' worth of the pooled weights in each bucket, so that a thin one is not fitted to noise
_ROUNDS = 30


def xz_bits_per_byte(text: bytes) -> float:
  """Size in bits of `xz -9e` of the text over its size in bytes.

  xz sees no training text: it learns from the held-out text alone, as it reads it, so it gains as that
  grows. Its container (some 60 bytes) is counted, as the command writes it.
  """
  packed = lzma.compress(text, format=lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME)
  return 8 * len(packed) / len(text)


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Tokens and what follows them, [T] each."""

  context: Int[np.ndarray, "T"]
  target: Int[np.ndarray, "T"]

  def __len__(self) -> int:
    return len(self.context)


class BigramModel:
  """p(w | v) = a c(v, w) / c(v) + b c(w) / T + c / V, with weights a, b, c by how often v was seen.

  Jelinek-Mercer smoothing: the weights, one set for each bucket of c(v) (0, 1, 2-3, 4-7, ...), maximise
  by expectation-maximisation the likelihood of training text that was held back from the counts; then
  the counts take that text in too. Chosen over Witten-Bell because nothing in it is a guess.
  """

  def __init__(self, fit: Pairs, tune: Pairs, *, vocab_size: int):
    """Counts `fit`, tunes the weights on `tune`, and counts both."""
    self.vocab_size = vocab_size
    self._count(fit)
    self._weights = self._tune(tune)
    self._count(
      Pairs(
        context=np.concatenate([fit.context, tune.context]),
        target=np.concatenate([fit.target, tune.target]),
      )
    )

  def probabilities(self, pairs: Pairs) -> Float[np.ndarray, "T"]:
    """p(target | context) of every pair; over all targets of one context they sum to 1."""
    parts, bucket = self._parts(pairs)
    return np.sum(parts * self._weights[bucket], axis=1)

  def _count(self, pairs: Pairs) -> None:
    keys = pairs.context.astype(np.int64) * self.vocab_size + pairs.target
    self._keys, self._key_counts = np.unique(keys, return_counts=True)
    self._contexts = np.bincount(pairs.context, minlength=self.vocab_size)
    self._targets = np.bincount(pairs.target, minlength=self.vocab_size) / max(1, len(pairs))

  def _parts(self, pairs: Pairs) -> tuple[Float[np.ndarray, "T 3"], Int[np.ndarray, "T"]]:
    """Bigram, unigram and uniform probability of each pair, and the bucket of its context."""
    keys = pairs.context.astype(np.int64) * self.vocab_size + pairs.target
    where = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
    together = np.where(self._keys[where] == keys, self._key_counts[where], 0)
    seen = self._contexts[pairs.context]
    uniform = np.full(len(pairs), 1 / self.vocab_size)
    parts = [together / np.maximum(seen, 1), self._targets[pairs.target], uniform]
    bucket = np.where(seen > 0, 1 + np.log2(np.maximum(seen, 1)).astype(int), 0)
    return np.stack(parts, axis=1), np.minimum(bucket, _BUCKETS - 1)

  def _tune(self, tune: Pairs) -> Float[np.ndarray, "B 3"]:
    parts, bucket = self._parts(tune)
    pooled = np.full((1, 3), 1 / 3)
    for _ in range(_ROUNDS):
      pooled = _expect(parts, pooled, np.zeros_like(bucket), prior=np.full((1, 3), 1e-9))
    weights = np.repeat(pooled, _BUCKETS, axis=0)
    for _ in range(_ROUNDS):
      weights = _expect(parts, weights, bucket, prior=_PRIOR * pooled)
    weights[0, 0] = 0  # a context that was never seen has no bigrams
    return weights / weights.sum(axis=1, keepdims=True)


def _expect(parts, weights, bucket, *, prior) -> Float[np.ndarray, "B 3"]:
  """One round: each part's share in explaining the pairs of a bucket becomes its weight there."""
  joint = parts * weights[bucket]
  share = joint / joint.sum(axis=1, keepdims=True)
  total = (
    np.stack([np.bincount(bucket, s, minlength=len(weights)) for s in share.T], axis=1) + prior
  )
  return total / total.sum(axis=1, keepdims=True)


def train_bigram(
  config: DataConfig, tokenizer: Tokenizer, *, max_chars: int = MAX_CHARS
) -> BigramModel:
  """The bigram model of the training split of `config`, at most `max_chars` characters of it.

  Sources share the characters equally. Of each source the last files (their order is a hash of the name)
  are those that tune the interpolation.
  """
  fit, tune = [], []
  for source in config.sources:
    pieces = Pieces(prepare(source, config.data_dir), "train")
    ids = list(_encoded(pieces, tokenizer, max_chars=max_chars // len(config.sources)))
    cut = min(len(ids) - 1, max(1, round(len(ids) * (1 - HELD_BACK))))
    fit += ids[:cut]
    tune += ids[cut:]
  return BigramModel(_pairs(fit), _pairs(tune), vocab_size=tokenizer.vocab_size)


def _encoded(
  pieces: Pieces, tokenizer: Tokenizer, *, max_chars: int
) -> Iterator[Int[np.ndarray, "L"]]:
  """The tokens of each piece, with BOS and EOS where rows have them."""
  for piece in pieces:
    ids = tokenizer.encode(piece.text)
    begin = [SpecialToken.BOS] * piece.first
    end = [SpecialToken.EOS] * piece.last
    yield np.concatenate([begin, ids, end]).astype(np.int32)
    max_chars -= len(piece.text)
    if max_chars <= 0:
      return


def _pairs(encoded: Sequence[Int[np.ndarray, "L"]]) -> Pairs:
  """Neighbours in the stream of pieces; nothing predicts BOS, in rows as here."""
  stream = np.concatenate([*encoded, np.zeros(0, np.int32)]).astype(np.int32)
  context, target = stream[:-1], stream[1:]
  real = target != SpecialToken.BOS
  return Pairs(context=context[real], target=target[real])


def score_bigram(bigram: BigramModel, held_out: Sequence[HeldOut]) -> Score:
  """The bigram model's score on exactly the targets, and by the weights, that members are scored on."""
  nats = tokens = 0.0
  for one in held_out:
    weight = one.rows.text_weight.astype(np.float64)
    real = weight > 0
    pairs = Pairs(context=one.rows.token[real], target=one.rows.target[real])
    nats -= float(np.sum(np.log(bigram.probabilities(pairs)) * weight[real]))
    tokens += float(weight.sum())
  return Score(nats=nats, tokens=tokens, utf8_bytes=sum(h.utf8_bytes for h in held_out))
