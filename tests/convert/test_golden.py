"""The backbone against transformers' recorded answers, where transformers is not installed.

The golden file holds a three-layer ERNIE 4.5 (one dense layer, four experts, one MTP module) with
random weights of scale 0.3 and a random router bias, written by `python tests/convert/ernie45_twin.py`
with transformers 5.23 and torch 2.13 on a CPU, eager attention and experts.
"""

import golden
import jax
import numpy as np
import pytest
from ours import Ours

from ernie_jax.convert import from_hf, to_hf


@pytest.fixture(scope="module")
def known():
  return golden.load()


@pytest.fixture(scope="module")
def ours(known):
  with jax.default_matmul_precision("highest"):
    yield Ours(from_hf(known.config, known.tensors), length=20)


def test_logits_are_those_of_transformers(known, ours):
  assert np.abs(known.logits).max() > 3
  np.testing.assert_allclose(ours.logits(known.ids), known.logits, atol=1e-4)


def test_mtp_logits_are_those_of_modules_made_of_transformers_parts(known, ours):
  np.testing.assert_allclose(ours.mtp_logits(known.ids), known.mtp_logits, atol=1e-4)


def test_greedy_continuation_is_that_of_transformers_with_and_without_cache(known, ours):
  count = known.greedy.shape[1]
  np.testing.assert_array_equal(ours.greedy(known.ids, count), known.greedy)
  np.testing.assert_array_equal(ours.greedy_cached(known.ids, count, block=12), known.greedy)


def test_the_router_bias_decides_some_of_the_golden_answers(known, ours):
  """Without this the comparison could pass while the bias is dropped."""
  unbiased = ours.logits(known.ids, bias=np.zeros_like(ours.imported.bias))
  assert np.abs(unbiased - known.logits).max() > 1e-2


def test_export_returns_the_same_tensors_bit_for_bit(known):
  imported = from_hf(known.config, known.tensors)
  exported = to_hf(imported.model, imported.params, imported.bias, base=known.config)
  assert exported.config == known.config
  assert sorted(exported.tensors) == sorted(known.tensors)
  for name, tensor in known.tensors.items():
    assert exported.tensors[name].tobytes() == tensor.tobytes(), name
