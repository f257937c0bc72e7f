"""Uni-RoPE: which pair reads which coordinate, and the identities that make positions relative."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_jax.backbone.rotary import pair_coordinates, rotary_angles, rotate


def turned(x, position, *, base=1e4):
  """x [L, H, C] at positions [L, 3]."""
  cos, sin = rotary_angles(jnp.asarray(position, jnp.float32), head_dim=x.shape[-1], base=base)
  return np.asarray(rotate(jnp.asarray(x), cos, sin))


def plain_rope(x, index, *, base):
  """RoPE of Su et al. (2021) on interleaved pairs, one number at a time."""
  out = np.zeros_like(x)
  length, heads, size = x.shape
  for i in range(length):
    for h in range(heads):
      for j in range(size // 2):
        angle = index[i] * base ** (-2 * j / size)
        a, b = x[i, h, 2 * j], x[i, h, 2 * j + 1]
        out[i, h, 2 * j] = a * np.cos(angle) - b * np.sin(angle)
        out[i, h, 2 * j + 1] = a * np.sin(angle) + b * np.cos(angle)
  return out


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("head_dim", [2, 6, 16, 64])
@pytest.mark.parametrize("base", [1e4, 1e6])
def test_equal_coordinates_are_plain_rope(head_dim, base):
  index = np.array([0, 1, 5, 40])
  x = normal(4, 2, head_dim)
  expected = plain_rope(x.astype(np.float64), index, base=base)
  np.testing.assert_allclose(
    turned(x, np.repeat(index[:, None], 3, axis=1), base=base), expected, atol=1e-5
  )


coordinates = st.tuples(*[st.integers(-50, 50)] * 3)


@given(coordinates, coordinates, coordinates, st.sampled_from([4, 8, 20, 64]))
@settings(max_examples=30, deadline=None)
def test_scores_depend_only_on_the_difference_of_positions(query, key, shift, head_dim):
  q, k = normal(1, 1, head_dim), normal(1, 1, head_dim, seed=1)
  score = lambda a, b: (turned(q, [a]) * turned(k, [b])).sum()
  move = lambda a: tuple(x + s for x, s in zip(a, shift))
  np.testing.assert_allclose(score(move(query), move(key)), score(query, key), atol=2e-3)


@given(coordinates, st.sampled_from([4, 10, 128]))
@settings(max_examples=30, deadline=None)
def test_turning_keeps_every_pairs_length_and_the_origin_turns_nothing(position, head_dim):
  x = normal(1, 3, head_dim)
  lengths = lambda y: np.linalg.norm(y.reshape(1, 3, -1, 2), axis=-1)
  np.testing.assert_allclose(lengths(turned(x, [position])), lengths(x), rtol=1e-5)
  np.testing.assert_array_equal(turned(x, [(0, 0, 0)]), x)


def test_64_pairs_are_split_22_height_22_width_20_time():
  reads = pair_coordinates(64)
  assert [int((reads == c).sum()) for c in (1, 2, 0)] == [22, 22, 20]
  assert (reads[:44:2] == 1).all() and (reads[1:44:2] == 2).all()
  assert (reads[44:] == 0).all()


@given(st.integers(1, 128))
@settings(max_examples=50, deadline=None)
def test_any_size_gives_height_and_width_alternating_pairs_and_time_the_slowest(pairs):
  reads = pair_coordinates(pairs)
  spatial = int((reads > 0).sum())
  assert reads.shape == (pairs,)
  assert abs((pairs - spatial) - pairs * 20 / 64) <= 0.5
  np.testing.assert_array_equal(reads[:spatial], 1 + np.arange(spatial) % 2)
  assert (reads[spatial:] == 0).all()


@pytest.mark.parametrize("coordinate", [0, 1, 2])
def test_a_coordinate_turns_only_the_pairs_that_read_it(coordinate):
  position = np.zeros((1, 3))
  position[0, coordinate] = 3
  x = normal(1, 1, 32)
  moved = np.any((turned(x, position) != x).reshape(16, 2), axis=-1)
  np.testing.assert_array_equal(moved, pair_coordinates(16) == coordinate)


def test_the_first_pair_turns_by_one_radian_a_step_and_the_last_by_nearly_base_to_minus_one():
  base, pairs = 1e6, 64
  position = jnp.full((1, 3), 1.0)
  cos, sin = rotary_angles(position, head_dim=2 * pairs, base=base)
  angle = np.arctan2(np.asarray(sin), np.asarray(cos))[0]
  np.testing.assert_allclose(angle[0], 1.0, rtol=1e-6)
  np.testing.assert_allclose(angle[-1], base ** (-(pairs - 1) / pairs), rtol=1e-5)


def test_positions_may_be_fractions_and_bfloat16_stays_bfloat16():
  """Visual scales are centre-aligned, so their coordinates are not whole."""
  x = normal(1, 1, 8)
  half = turned(x, [(0.5, 0.5, 0.5)])
  np.testing.assert_allclose(half, plain_rope(x, [0.5], base=1e4), atol=1e-6)
  cos, sin = rotary_angles(jnp.ones((1, 3)), head_dim=8, base=1e4)
  assert rotate(jnp.asarray(x, jnp.bfloat16), cos, sin).dtype == jnp.bfloat16
