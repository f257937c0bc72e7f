"""The search over a loop of units against every sequence tried; pitch and mixtures against plain formulas."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from ernie_jax.evaluate.oracles.decoder import Loop
from ernie_jax.evaluate.oracles.phones import fit_mixtures, in_context
from ernie_jax.evaluate.oracles.pitch import pitch_errors, read_pitch, semitones

UNITS = [[0, 1], [1, 2, 0], [2]]
ENTRY = [-0.5, -0.2, -1.0]


def best_by_trial(scores):
  """The value of the best path, over all sequences of units and all ways to stretch their states."""
  frames, best = len(scores), -np.inf
  for count in range(1, frames + 1):
    for sequence in itertools.product(range(len(UNITS)), repeat=count):
      states = [s for u in sequence for s in UNITS[u]]
      if len(states) > frames:
        continue
      for cuts in itertools.combinations(range(1, frames), len(states) - 1):
        edges = [0, *cuts, frames]
        value = sum(ENTRY[u] for u in sequence)
        value += sum(scores[a:b, s].sum() for s, a, b in zip(states, edges, edges[1:]))
        best = max(best, value)
  return best


def value_of(spans, scores):
  """The value of what was found, with the best stretching of each unit's states."""
  total = 0.0
  for span in spans:
    states, inside = UNITS[span.unit], scores[span.start : span.end]
    options = []
    for cuts in itertools.combinations(range(1, len(inside)), len(states) - 1):
      edges = [0, *cuts, len(inside)]
      options.append(sum(inside[a:b, s].sum() for s, a, b in zip(states, edges, edges[1:])))
    total += ENTRY[span.unit] + max(options)
  return total


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.integers(0, 2**31))
def test_the_search_finds_the_best_of_all_sequences(lengths, seed):
  rng = np.random.default_rng(seed)
  clips = [rng.normal(size=(n, 3)).astype(np.float32) for n in lengths]
  for spans, scores in zip(Loop(UNITS, ENTRY).decode(clips), clips):
    assert [s.end for s in spans[:-1]] == [s.start for s in spans[1:]]
    assert spans[0].start == 0 and spans[-1].end == len(scores)
    assert value_of(spans, scores) == pytest.approx(best_by_trial(scores), abs=1e-4)


def test_a_clip_shorter_than_any_unit_has_none():
  empty, short, long = np.zeros((0, 2)), np.zeros((1, 2)), np.zeros((3, 2))
  found = Loop([[0, 1]], [0.0]).decode([empty, short, long])
  assert found[:2] == [(), ()] and len(found[2]) == 1


@settings(deadline=None, max_examples=30)
@given(st.floats(75, 380), st.integers(0, 100))
def test_pitch_of_a_buzz_is_found_within_a_tenth_of_a_semitone(hz, seed):
  time = np.arange(8000) / 16_000
  rng = np.random.default_rng(seed)
  buzz = sum(
    rng.uniform(0.3, 1) / k * np.sin(2 * np.pi * (hz * k * time + rng.random()))
    for k in range(1, int(4000 / hz))
  )
  found = read_pitch((0.1 * buzz).astype(np.float32))[5:-5]
  assert (found > 0).all()
  assert np.abs(semitones(np.median(found), hz)) < 0.1


def test_neither_noise_nor_silence_has_a_pitch():
  noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
  assert (read_pitch(noise) > 0).mean() < 0.05
  assert not read_pitch(np.zeros(4000, np.float32)).any()
  assert read_pitch(np.zeros(100, np.float32)).shape == (0,)


def test_tracks_are_compared_where_both_are_voiced():
  errors = pitch_errors(np.array([100.0, 0, 200, 400]), np.array([100.0, 100, 100]))
  assert errors.tolist() == [0, 12]


def test_scores_are_the_logarithm_of_the_mixture():
  rng = np.random.default_rng(0)
  values = [rng.normal(size=(120, 4)).astype(np.float32) for _ in range(4)]
  states = [rng.integers(0, 3, 120) for _ in values]
  for v, s in zip(values, states):
    v[:, 0] += 3.0 * s
  fitted = fit_mixtures(values, states, width=5, parts=2)
  points = (in_context(values[0]) - fitted.mean) @ fitted.discriminants
  direct = [
    [
      np.log(np.exp(w + norm.logpdf(x, c, s).sum(-1)).sum())
      for w, c, s in zip(fitted.weights, fitted.centres, fitted.spreads)
    ]
    for x in points[:, None]
  ]
  scores = fitted.scores(values[0])
  constant = points.shape[1] / 2 * np.log(2 * np.pi)
  assert scores - constant == pytest.approx(np.array(direct), abs=1e-3)
  assert (scores.argmax(-1) == states[0]).mean() > 0.8
