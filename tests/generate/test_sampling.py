"""Sampling: truncation against a NumPy reference, statistics of the draws, and settings checked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ernie_jax.generate import sampling
from ernie_jax.generate.sampling import SamplingConfig, sample, settings, text_banned
from ernie_jax.sequence import SpecialToken

VOCAB = 12
truncate = jax.jit(sampling._truncate)
draw = jax.jit(sample)


def logits_of(seed: int, rows: int = 2) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=(rows, VOCAB)).astype(np.float32) * 2


def softmax(x):
  x = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def kept_by_reference(logits, top_k: int, top_p: float) -> set[int]:
  """Sorts: the k largest, then the shortest beginning of them whose share reaches p."""
  order = np.argsort(-logits)[: top_k or None]
  share = softmax(logits[order])
  count = len(order) if top_p >= 1 else int(np.searchsorted(np.cumsum(share), top_p) + 1)
  return set(order[:count].tolist())


@hypothesis_settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(0, VOCAB + 3), st.floats(0.02, 1.0))
def test_truncation_keeps_what_sorting_keeps(seed, top_k, top_p):
  logits = logits_of(seed)
  for row, got in zip(logits, truncate(logits, settings(SamplingConfig(1.0, top_k, top_p)))):
    cumulative = np.cumsum(softmax(np.sort(row)[::-1][: top_k or None]))
    if np.abs(cumulative - top_p).min() < 1e-5 and top_p < 1:
      continue  # within rounding of a border
    assert set(np.flatnonzero(np.isfinite(got)).tolist()) == kept_by_reference(row, top_k, top_p)
    kept = np.isfinite(got)
    np.testing.assert_array_equal(np.asarray(got)[kept], row[kept])


@pytest.mark.parametrize("top_k, top_p", [(1, 1.0), (0, 1e-6)])
def test_at_least_one_token_is_always_kept(top_k, top_p):
  logits = logits_of(0)
  how = settings(SamplingConfig(temperature=5.0, top_k=top_k, top_p=top_p))
  tokens = draw(logits, how, step=3)
  np.testing.assert_array_equal(tokens, logits.argmax(-1))


def test_tokens_that_tie_with_the_last_one_kept_are_kept():
  logits = jnp.array([[3.0, 1.0, 1.0, 0.0]])
  kept = np.isfinite(truncate(logits, settings(SamplingConfig(1.0, top_k=2))))
  np.testing.assert_array_equal(kept, [[True, True, True, False]])


@pytest.mark.parametrize(
  "config",
  [
    SamplingConfig(1.0),
    SamplingConfig(0.5),
    SamplingConfig(1.5, top_k=4),
    SamplingConfig(1.0, top_p=0.7),
    SamplingConfig(2.0, top_k=6, top_p=0.8),
  ],
  ids=str,
)
def test_draws_follow_the_truncated_distribution(config):
  logits = logits_of(1, rows=1)
  draws = 20_000
  tokens = draw(np.repeat(logits, draws, axis=0), settings(config), step=0)
  tempered = logits[0] / config.temperature
  kept = list(kept_by_reference(tempered, config.top_k, config.top_p))
  wanted = np.zeros(VOCAB)
  wanted[kept] = softmax(tempered[kept])
  counts = np.bincount(tokens, minlength=VOCAB)
  assert not counts[wanted == 0].any()
  chi_square = (((counts - draws * wanted) ** 2)[kept] / (draws * wanted[kept])).sum()
  assert chi_square < len(kept) + 5 * np.sqrt(2 * len(kept)) + 5


def test_temperature_0_takes_the_likeliest_token_whatever_else_is_set():
  logits = logits_of(2)
  for config in (SamplingConfig(0.0), SamplingConfig(0.0, top_k=3, top_p=0.5, seed=9)):
    np.testing.assert_array_equal(draw(logits, settings(config), step=1), logits.argmax(-1))


def test_rows_steps_and_seeds_draw_differently_and_repeatably():
  logits = np.zeros((64, VOCAB), np.float32)
  at = lambda seed, step: np.asarray(
    draw(logits, settings(SamplingConfig(1.0, seed=seed)), step=step)
  )
  np.testing.assert_array_equal(at(0, 0), at(0, 0))
  for other in (at(0, 1), at(1, 0)):
    assert (at(0, 0) != other).mean() > 0.5
  assert len(set(at(0, 0).tolist())) == VOCAB


def test_tokens_of_minus_infinity_are_never_drawn():
  logits = np.where(np.arange(VOCAB) % 2, -np.inf, logits_of(3, rows=500)).astype(np.float32)
  for config in (SamplingConfig(5.0), SamplingConfig(5.0, top_k=11, top_p=0.99)):
    assert not (np.asarray(draw(logits, settings(config), step=0)) % 2).any()


@pytest.mark.parametrize(
  "values, message",
  [
    ({"temperature": -1.0}, "temperature must be 0 or more"),
    ({"temperature": float("nan")}, "temperature must be 0 or more"),
    ({"top_k": -1}, "top_k must be 0"),
    ({"top_p": 0.0}, "top_p must be above 0"),
    ({"top_p": 1.5}, "top_p must be above 0"),
    ({"seed": -1}, "seed must be between"),
  ],
)
def test_impossible_settings_are_refused(values, message):
  with pytest.raises(ValueError, match=message):
    SamplingConfig(**values)


def test_text_bans_structure_and_ids_past_the_tokenizer():
  banned = text_banned(96, 90)
  assert banned[[SpecialToken.PAD, SpecialToken.BOI, SpecialToken.USER, 40, 90, 95]].all()
  assert not banned[[SpecialToken.EOS, SpecialToken.END_OF_TURN, 64, 89]].any()
  allowed = text_banned(96, 90, allowed=[SpecialToken.BOI])
  assert np.flatnonzero(banned != allowed).tolist() == [SpecialToken.BOI]
