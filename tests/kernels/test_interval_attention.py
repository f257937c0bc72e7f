"""Interval attention: both back ends against a slow NumPy reference on rows of every kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_jax.kernels import interval_attention
from ernie_jax.kernels.interval_attention import KeyRule, QueryRule, attend, visible
from ernie_jax.sequence import Audio, ContextMedia, Row, Text, VisionTarget, lay_out, pack
from ernie_jax.sequence import visible as visible_on_host

LENGTH = 61  # not a multiple of any block
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8


def multimodal_row(seed: int, length: int = LENGTH) -> Row:
  """Two or three packed examples of random parts, some with hidden intervals, then padding."""
  rng = np.random.default_rng(seed)
  text = lambda: Text(tuple(rng.integers(64, 90, rng.integers(1, 6))))
  scales = ((1, 1), (1, 2))
  media = [
    lambda: VisionTarget(slot=0, frames=3, scales=scales, window=int(rng.integers(0, 3))),
    lambda: VisionTarget(slot=0, frames=3, scales=scales, dropped=(int(rng.integers(0, 3)),)),
    lambda: ContextMedia(slot=0, frames=2, grid=(1, 2)),
    lambda: Audio(slot=0, frames=3),
  ]
  examples = [
    lay_out([text(), media[rng.integers(len(media))](), text()]) for _ in range(rng.integers(2, 4))
  ]
  return pack(examples, length)


def rules(rows: list[Row]) -> tuple[QueryRule, KeyRule]:
  """The kernel's view of a batch of rows."""
  row = jax.tree.map(lambda *fields: jnp.stack(fields), *rows)
  index = jnp.broadcast_to(jnp.arange(row.group.shape[1]), row.group.shape)
  return (
    QueryRule(example=row.example, group=row.group, index=index),
    KeyRule(row.example, row.group, row.hidden_from, row.hidden_to),
  )


def inputs(batch: int, length: int = LENGTH, seed: int = 0):
  """q, k, v and a cotangent."""
  rng = np.random.default_rng(seed)
  shapes = [(batch, length, h, HEAD_DIM) for h in (HEADS, KV_HEADS, KV_HEADS, HEADS)]
  return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def reference(q, k, v, mask):
  """Head by head and query by query, in float64."""
  out = np.zeros(q.shape)
  for b in range(q.shape[0]):
    for h in range(HEADS):
      g = h // (HEADS // KV_HEADS)
      for i in np.flatnonzero(mask[b].any(-1)):
        seen = np.flatnonzero(mask[b, i])
        scores = k[b, seen, g].astype(np.float64) @ q[b, i, h] / np.sqrt(HEAD_DIM)
        weights = np.exp(scores - scores.max())
        out[b, i, h] = weights / weights.sum() @ v[b, seen, g]
  return out


@pytest.fixture(scope="module")
def batch():
  return [multimodal_row(seed) for seed in range(3)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  """Tiles of 16 x 16, so that a short row has several and the last is not full."""
  monkeypatch.setattr(interval_attention, "block_for", lambda queries, keys: 16)


@pytest.mark.parametrize("seed", range(8))
def test_the_rule_on_the_device_is_the_rule_on_the_host(seed):
  row = multimodal_row(seed)
  np.testing.assert_array_equal(visible(*rules([row]))[0], visible_on_host(row))


def test_the_rows_of_these_tests_hide_keys_and_have_groups_of_several(batch):
  assert any((row.hidden_from < row.hidden_to).any() for row in batch)
  assert any(np.triu(visible_on_host(row), 1).any() for row in batch)


@pytest.mark.parametrize("backend", ["dense", "blocked"])
def test_values_equal_the_reference(batch, backend):
  q, k, v, _ = inputs(len(batch))
  out = attend(q, k, v, *rules(batch), backend=backend)
  mask = np.stack([visible_on_host(row) for row in batch])
  np.testing.assert_allclose(out, reference(q, k, v, mask), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["dense", "blocked"])
def test_gradients_equal_those_of_a_plain_softmax(batch, backend):
  q, k, v, cotangent = inputs(len(batch))
  mask = np.stack([visible_on_host(row) for row in batch])

  def plain(q, k, v):
    spread = lambda x: jnp.repeat(x, HEADS // KV_HEADS, axis=2)
    scores = jnp.einsum("bqhc,bshc->bhqs", q, spread(k)) / np.sqrt(HEAD_DIM)
    scores = jnp.where(mask[:, None], scores, -1e9)
    weights = jax.nn.softmax(scores, axis=-1) * mask.any(-1)[:, None, :, None]
    return jnp.einsum("bhqs,bshc->bqhc", weights, spread(v))

  kernel = lambda q, k, v: attend(q, k, v, *rules(batch), backend=backend)
  gradient = lambda f: jax.grad(lambda *x: jnp.vdot(f(*x), cotangent), argnums=(0, 1, 2))(q, k, v)
  for got, wanted in zip(gradient(kernel), gradient(plain)):
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["dense", "blocked"])
def test_a_row_of_padding_gives_zeros_and_finite_gradients(backend):
  row = pack([], LENGTH)
  q, k, v, cotangent = inputs(1)
  loss = lambda q, k, v: jnp.vdot(attend(q, k, v, *rules([row]), backend=backend), cotangent)
  assert not np.any(attend(q, k, v, *rules([row]), backend=backend))
  for gradient in jax.grad(loss, argnums=(0, 1, 2))(q, k, v):
    assert not np.any(gradient)


@pytest.mark.parametrize("backend", ["dense", "blocked"])
def test_what_padding_holds_changes_nothing(batch, backend):
  q, k, v, cotangent = inputs(len(batch))
  padding = np.stack([row.example == 0 for row in batch])
  assert padding.any()
  spoil = lambda x: np.where(padding[..., None, None], 1e30, x).astype(np.float32)
  run = lambda k, v: attend(q, k, v, *rules(batch), backend=backend)
  np.testing.assert_array_equal(run(spoil(k), spoil(v)), run(k, v))
  loss = lambda k, v: jnp.vdot(run(k, v), cotangent)
  for got, wanted in zip(
    jax.grad(loss, argnums=(0, 1))(spoil(k), spoil(v)), jax.grad(loss, argnums=(0, 1))(k, v)
  ):
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_few_queries_on_a_long_cache_take_the_dense_form(monkeypatch):
  def refuse(*_):
    raise AssertionError("blocked")

  monkeypatch.setattr(interval_attention, "blocked_attention", refuse)
  zeros = lambda n, heads: jnp.zeros((1, n, heads, HEAD_DIM))
  ints = lambda n: jnp.zeros((1, n), jnp.int32)
  queries, keys = QueryRule(*[ints(1)] * 3), KeyRule(*[ints(4096)] * 4)
  attend(zeros(1, HEADS), zeros(4096, KV_HEADS), zeros(4096, KV_HEADS), queries, keys)


def test_an_unknown_back_end_is_refused(batch):
  q, k, v, _ = inputs(len(batch))
  with pytest.raises(ValueError, match="unknown attention back end 'fast'"):
    attend(q, k, v, *rules(batch), backend="fast")
