"""The residual quantizer: identities of its gradient, the state of its codebooks, parity with NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_jax.audio import quantizer as q

CFG = q.RvqConfig(levels=3, codes=8, width=6, semantic_width=4, decay=0.5)


def latents(seed=0, rows=2, frames=5):
  return jax.random.normal(jax.random.key(seed), (rows, frames, CFG.width))


def vectors(cfg=CFG):
  return q.fresh_codebooks(cfg, jax.random.key(1)).vectors


def test_codes_alone_rebuild_the_decoders_input_exactly():
  out = q.quantize(latents(), vectors(), CFG)
  np.testing.assert_array_equal(q.total_from_codes(out.codes, vectors()), out.total)
  np.testing.assert_allclose(out.taken.sum(2), out.total, atol=1e-6)


@pytest.mark.parametrize("keep", [None, [[True, False, False], [True, True, True]]])
def test_gradient_of_the_sum_is_the_identity(keep):
  keep = None if keep is None else jnp.array(keep)
  x, cotangent = latents(), latents(3)
  _, back = jax.vjp(lambda x: q.quantize(x, vectors(), CFG, keep=keep).total, x)
  np.testing.assert_array_equal(back(cotangent)[0], cotangent)


@pytest.mark.parametrize("level", range(3))
def test_commitment_of_any_one_level_reaches_the_encoder(level):
  x = latents()
  found = jax.grad(lambda x: q.commitment(q.quantize(x, vectors(), CFG), CFG)[level])(x)
  out = q.quantize(x, vectors(), CFG)
  want = 2 * (out.residuals - out.taken)[:, :, level] / (CFG.width * x.shape[0] * x.shape[1])
  np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-7)
  assert np.abs(found).max() > 0


def plain(x, books, semantic):
  """The loop of the module docstring, one vector at a time."""
  codes, total = [], np.zeros_like(x)
  for level, book in enumerate(books):
    residual = x - total
    if level == 0:
      residual = np.where(np.arange(len(x)) < semantic, residual, 0)
    codes.append(int(np.square(book - residual).sum(-1).argmin()))
    total = total + book[codes[-1]]
  return codes, total


@given(st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_it_is_the_plain_loop(seed):
  x = latents(seed, rows=1, frames=3)
  out = q.quantize(x, vectors(), CFG)
  for t in range(3):
    codes, total = plain(np.asarray(x[0, t]), np.asarray(vectors()), CFG.semantic_width)
    assert out.codes[0, t].tolist() == codes
    np.testing.assert_allclose(out.total[0, t], total, atol=1e-6)


def test_level_one_sees_and_fills_its_own_dimensions_alone():
  x = latents()
  out = q.quantize(x, vectors(), CFG)
  other = q.quantize(x.at[..., CFG.semantic_width :].add(5.0), vectors(), CFG)
  np.testing.assert_array_equal(out.codes[..., 0], other.codes[..., 0])
  assert (out.codes[..., 1] != other.codes[..., 1]).any()
  assert not out.taken[:, :, 0, CFG.semantic_width :].any()


def test_a_level_left_out_adds_nothing_and_counts_nothing():
  x = latents()
  keep = jnp.array([[True, False, False], [True, True, True]])
  out = q.quantize(x, vectors(), CFG, keep=keep)
  np.testing.assert_array_equal(out.total[0], out.taken[0, :, 0])
  found = q.count(out, CFG, keep=keep)
  np.testing.assert_array_equal(found.count.sum(-1), [10, 5, 5])
  drawn = np.asarray(q.draw_levels(jax.random.key(0), 3000, CFG, drop=0.6))
  assert drawn[:, 0].all() and (drawn[:, 1] >= drawn[:, 2]).all()
  np.testing.assert_allclose(drawn[:, 2].mean(), 0.4 + 0.6 / 3, atol=0.04)


def test_codes_move_to_the_mean_of_what_chose_them():
  x = latents(rows=8, frames=32)
  books = q.fresh_codebooks(CFG, jax.random.key(1))
  still = dataclasses.replace(CFG, decay=0.0)
  found = q.count(q.quantize(x, books.vectors, CFG), CFG)
  new = q.moved(books, found, still)
  codes = np.asarray(q.quantize(x, books.vectors, CFG).codes[..., 0]).reshape(-1)
  points = np.asarray(x).reshape(-1, CFG.width) * (np.arange(CFG.width) < CFG.semantic_width)
  code = np.bincount(codes).argmax()
  np.testing.assert_allclose(new.vectors[0, code], points[codes == code].mean(0), atol=1e-5)
  for unused in set(range(CFG.codes)) - set(codes.tolist()):
    np.testing.assert_array_equal(new.vectors[0, unused], books.vectors[0, unused])


def test_counts_add_up_over_parts_of_a_batch():
  x = latents(rows=4)
  whole = q.count(q.quantize(x, vectors(), CFG), CFG)
  parts = [q.count(q.quantize(x[i : i + 2], vectors(), CFG), CFG) for i in (0, 2)]
  jax.tree.map(lambda w, a, b: np.testing.assert_allclose(w, a + b, atol=1e-5), whole, *parts)


def test_dead_codes_are_revived_and_then_used():
  books = q.fresh_codebooks(CFG, jax.random.key(1))
  far = books.vectors.at[:, 2:].add(100.0 * CFG.filled()[:, None])  # six codes that nothing chooses
  books = books.replace(vectors=far, sum=far)
  x = latents(rows=16, frames=32)

  @jax.jit
  def step(books, key):
    books = q.moved(books, q.count(q.quantize(x, books.vectors, CFG), CFG), CFG)
    return books, q.revived(books, CFG, key)

  def used(books):
    codes = np.asarray(q.quantize(x, books.vectors, CFG).codes).reshape(-1, CFG.levels)
    return [len(set(c.tolist())) for c in codes.T]

  assert max(used(books)) <= 2
  plain = books
  for i in range(12):
    plain, _ = step(plain, jax.random.key(i))
    _, books = step(books, jax.random.key(i))
  assert max(used(plain)) <= 2
  assert min(used(books)) == CFG.codes
  assert (np.abs(books.vectors) < 10).all()


def test_codes_in_use_are_left_alone():
  books = q.fresh_codebooks(CFG, jax.random.key(1))  # all counts are equal
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
    q.revived(books, CFG, jax.random.key(2)),
    books,
  )


def test_k_means_starts_every_level_better_than_chance():
  x = latents(rows=1, frames=256)[0]
  start = jax.jit(lambda x: q.start_codebooks(x, CFG, jax.random.key(0)))(x)
  far = lambda v: float(jnp.square(x - q.quantize(x[None], v, CFG).total[0]).mean())
  assert far(start.vectors) < 0.6 * far(vectors())
  shares = jnp.stack(
    [jnp.bincount(c, length=CFG.codes) for c in q.quantize(x[None], start.vectors, CFG).codes[0].T]
  )
  assert (q.perplexity(shares) > 0.7 * CFG.codes).all()
  with pytest.raises(ValueError, match="fewer than"):
    q.start_codebooks(x[:4], CFG, jax.random.key(0))


def test_perplexity_counts_evenly_used_codes():
  shares = jnp.array([[1.0, 1, 1, 1], [4, 0, 0, 0]])
  np.testing.assert_allclose(q.perplexity(shares), [4, 1], rtol=1e-4)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"levels": 0}, "levels"),
    ({"codes": 1}, "codes"),
    ({"semantic_width": 7}, "semantic_width"),
    ({"decay": 1.0}, "decay"),
  ],
)
def test_impossible_values_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(CFG, **change)


def test_a_latent_of_another_width_is_refused():
  with pytest.raises(ValueError, match=r"\[B, T, 6\]"):
    q.quantize(jnp.zeros((1, 2, 5)), vectors(), CFG)
