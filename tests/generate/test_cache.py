"""The cache: any cut of a row into blocks computes what one pass over the row computes."""

import jax
import numpy as np
import pytest

from ernie_jax.backbone.inputs import empty_cache
from ernie_jax.model import UnifiedModel
from ernie_jax.sequence import (
  Audio,
  ContextMedia,
  Row,
  Text,
  VisionTarget,
  empty_row,
  join,
  lay_out,
  visible,
)

CLOSE = dict(rtol=1e-4, atol=1e-5)


def multimodal_row() -> Row:
  """A context image, a video with a temporal window and a dropped frame, audio, and text between."""
  video = VisionTarget(slot=1, frames=4, scales=((1, 1), (1, 2)), window=1, dropped=(0,))
  image = ContextMedia(slot=0, frames=1, grid=(1, 2))
  return lay_out(
    [Text((1, 64, 65)), image, Text((66,)), video, Audio(slot=0, frames=2), Text((67,))]
  )


def whole_groups(row: Row) -> list[int]:
  """Ends of the blocks if each group is its own block."""
  return [*np.flatnonzero(np.diff(row.group)) + 1, row.length]


@pytest.fixture(scope="module")
def step(config, params, bias):
  model = UnifiedModel(config)
  return jax.jit(lambda row, cache: model.apply({"params": params}, row, bias, None, cache))


def through_cache(step, config, row: Row, ends: list[int]) -> np.ndarray:
  """Hidden states of a row that enters the cache in blocks that stop at `ends`."""
  cache, start, hidden = empty_cache(config, 1, 40), 0, []
  for end in ends:
    out = step(jax.tree.map(lambda a, s=start, e=end: a[None, s:e], row), cache)
    cache, start = out.cache, end
    hidden.append(out.hidden[0])
  return np.concatenate(hidden)


def with_vectors(row: Row) -> Row:
  """Media positions as text of some id: until media are embedded they would all be zero vectors."""
  tokens = np.where(row.kind == 1, row.token, 70 + np.arange(row.length) % 20)
  return row.replace(kind=np.where(row.kind > 0, 1, 0), token=tokens.astype(np.int32))


def test_the_row_of_these_tests_has_wide_groups_and_hidden_keys():
  row = multimodal_row()
  assert np.triu(visible(row), 1).any() and (row.hidden_from < row.hidden_to).any()
  assert row.length <= 40


@pytest.mark.parametrize("embed", [lambda row: row, with_vectors], ids=["as-it-is", "with-vectors"])
@pytest.mark.parametrize("cut", ["groups", "two halves"])
def test_blocks_of_whole_groups_equal_one_pass(step, config, embed, cut):
  row = embed(multimodal_row())
  ends = whole_groups(row)
  ends = ends if cut == "groups" else [ends[len(ends) // 2], ends[-1]]
  wanted = step(jax.tree.map(lambda a: a[None], row), None).hidden[0]
  np.testing.assert_allclose(through_cache(step, config, row, ends), wanted, **CLOSE)


def test_a_block_of_text_equals_its_tokens_one_by_one(step, config):
  row = lay_out([Text(tuple(range(64, 76)))])
  single = through_cache(step, config, row, list(range(1, 13)))
  block = through_cache(step, config, row, [1, 2, 6, 12])
  np.testing.assert_allclose(single, block, **CLOSE)


def test_padding_on_the_left_moves_nothing(step, config):
  row = with_vectors(multimodal_row())
  padded = join([empty_row(3), row])  # moves hidden intervals to the slots the row will take
  ends = [3 + end for end in whole_groups(row)]
  got = through_cache(step, config, padded, ends)[3:]
  np.testing.assert_allclose(got, through_cache(step, config, row, whole_groups(row)), **CLOSE)


def test_slots_not_filled_yet_are_seen_by_nobody(step, config):
  row = lay_out([Text((64, 65, 66))])
  one = jax.tree.map(lambda a: a[None], row)
  cache = empty_cache(config, 1, 40)
  spoilt = cache.replace(k=cache.k + 7.0, v=cache.v - 7.0)
  np.testing.assert_array_equal(step(one, spoilt).hidden, step(one, cache).hidden)
