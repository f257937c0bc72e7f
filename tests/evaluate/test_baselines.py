"""The baselines are what they say: xz's own size, and a proper distribution fitted to training text."""

import collections
import itertools
import lzma
import math
import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_jax.data.text_files import Pieces, prepare
from ernie_jax.evaluate import baselines
from ernie_jax.evaluate.baselines import (
  BigramModel,
  Pairs,
  score_bigram,
  train_bigram,
  xz_bits_per_byte,
)
from ernie_jax.sequence.special import SpecialToken


def pairs_of(stream) -> Pairs:
  stream = np.asarray(stream, np.int32)
  return Pairs(context=stream[:-1], target=stream[1:])


def test_xz_is_the_size_lzma_gives(held_out):
  text = held_out[0].text.encode()
  packed = lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
  assert lzma.decompress(packed) == text
  assert xz_bits_per_byte(text) == 8 * len(packed) / len(text)
  if shutil.which("xz"):
    command = subprocess.run(["xz", "-9e", "-c"], input=text, capture_output=True, check=True)
    assert abs(len(command.stdout) - len(packed)) <= 8


def brute_force(fit, tune, queries, vocab):
  """The same model with dictionaries: expectation-maximisation pair by pair, then all counts."""

  def count(pairs):
    together = collections.Counter(zip(pairs.context.tolist(), pairs.target.tolist()))
    contexts = collections.Counter(pairs.context.tolist())
    return together, contexts, collections.Counter(pairs.target.tolist()), len(pairs)

  def parts(counts, v, w):
    together, contexts, targets, total = counts
    seen = contexts[v]
    bucket = 0 if not seen else 1 + seen.bit_length() - 1
    return [together[v, w] / seen if seen else 0, targets[w] / total, 1 / vocab], bucket

  def improve(weights, prior, examples, of):
    sums = {b: [p * x for x in base] for b, (p, base) in prior.items()}
    for probabilities, bucket in examples:
      b = of(bucket)
      joint = [x * y for x, y in zip(probabilities, weights[b])]
      for i in range(3):
        sums[b][i] += joint[i] / sum(joint)
    return {b: [x / sum(s) for x in s] for b, s in sums.items()}

  counts = count(fit)
  examples = [parts(counts, v, w) for v, w in zip(tune.context.tolist(), tune.target.tolist())]
  pooled = {0: [1 / 3] * 3}
  for _ in range(baselines._ROUNDS):
    pooled = improve(pooled, {0: (1e-9, [1.0] * 3)}, examples, lambda b: 0)
  buckets = range(baselines._BUCKETS)
  weights = {b: list(pooled[0]) for b in buckets}
  prior = {b: (baselines._PRIOR, pooled[0]) for b in buckets}
  for _ in range(baselines._ROUNDS):
    weights = improve(weights, prior, examples, lambda b: b)
  weights[0] = [0.0, *(x / sum(weights[0][1:]) for x in weights[0][1:])]
  both = count(
    Pairs(
      context=np.concatenate([fit.context, tune.context]),
      target=np.concatenate([fit.target, tune.target]),
    )
  )
  out = []
  for v, w in zip(queries.context.tolist(), queries.target.tolist()):
    probabilities, bucket = parts(both, v, w)
    out.append(sum(x * y for x, y in zip(probabilities, weights[bucket])))
  return np.array(out)


def test_bigram_equals_a_dictionary_implementation():
  rng = np.random.default_rng(0)
  stream = rng.zipf(1.5, 400) % 12
  fit, tune = pairs_of(stream[:300]), pairs_of(stream[299:])
  v, w = (a.ravel().astype(np.int32) for a in np.meshgrid(np.arange(14), np.arange(14)))
  queries = Pairs(context=v, target=w)
  model = BigramModel(fit, tune, vocab_size=14)
  expected = brute_force(fit, tune, queries, 14)
  np.testing.assert_allclose(model.probabilities(queries), expected, rtol=1e-10)


@settings(deadline=None, max_examples=40)
@given(
  fit=st.lists(st.integers(0, 8), min_size=2, max_size=60),
  tune=st.lists(st.integers(0, 8), min_size=2, max_size=30),
)
def test_bigram_probabilities_are_positive_and_sum_to_one(fit, tune):
  vocab = 10  # id 9 is never seen
  model = BigramModel(pairs_of(fit), pairs_of(tune), vocab_size=vocab)
  targets = np.arange(vocab, dtype=np.int32)
  for v in range(vocab):
    p = model.probabilities(Pairs(context=np.full(vocab, v, np.int32), target=targets))
    assert p.min() > 0
    assert p.sum() == pytest.approx(1)


def test_tuning_weighs_the_bigram_by_how_well_it_predicts():
  cycle, noise = [0, 1, 2, 3] * 100, np.random.default_rng(0).integers(0, 4, 400)
  one = lambda fit, tune: Pairs(context=np.array([0]), target=np.array([1]))
  sure = BigramModel(pairs_of(cycle), pairs_of(cycle), vocab_size=4)
  unsure = BigramModel(pairs_of(cycle), pairs_of(noise), vocab_size=4)
  assert sure.probabilities(one(0, 1))[0] > 0.99
  assert unsure.probabilities(one(0, 1))[0] < 0.7


def test_training_pairs_are_those_of_the_files_and_never_predict_bos(data, tokenizer, monkeypatch):
  kept = []
  monkeypatch.setattr(baselines, "BigramModel", lambda fit, tune, **_: kept.extend([fit, tune]))
  train_bigram(data, tokenizer)
  expected, stream = collections.Counter(), []
  for piece in Pieces(prepare(data.sources[0], data.data_dir), "train"):
    if piece.first:
      stream = [int(SpecialToken.BOS)]
    stream += tokenizer.encode(piece.text).tolist()
    if piece.last:
      stream.append(int(SpecialToken.EOS))
      expected.update(itertools.pairwise(stream))
  got = collections.Counter()
  for pairs in kept:
    got.update(zip(pairs.context.tolist(), pairs.target.tolist()))
  # The two parts meet inside the stream; the one pair between them may be in neither.
  assert not got - expected
  assert sum((expected - got).values()) <= 1
  assert 0 < len(kept[1]) < len(kept[0])


def test_bigram_is_scored_on_the_same_targets_as_the_model(data, tokenizer, held_out):
  bigram = train_bigram(data, tokenizer)
  got = score_bigram(bigram, held_out)
  nats = tokens = 0
  for one in held_out:
    where = np.argwhere(one.rows.text_weight > 0)
    for r, p in where:
      pair = Pairs(context=one.rows.token[r, p][None], target=one.rows.target[r, p][None])
      nats -= math.log(bigram.probabilities(pair)[0])
      tokens += 1
  assert got.tokens == tokens
  assert got.nats == pytest.approx(nats, rel=1e-9)
  assert got.utf8_bytes == sum(h.utf8_bytes for h in held_out)
  assert got.loss < math.log(tokenizer.vocab_size)
