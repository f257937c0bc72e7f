"""Loss and bits per byte are exact sums over the held-out targets, for the model and its members."""

import math

import jax
import numpy as np
import pytest

from ernie_jax.elastic.family import activate, parse_member
from ernie_jax.elastic.slicing import slice_params
from ernie_jax.evaluate import held_out as module
from ernie_jax.evaluate.held_out import score
from ernie_jax.model import UnifiedModel, text_logits
from ernie_jax.sharding import rules
from ernie_jax.sharding.mesh import MeshConfig, make_mesh


def test_uniform_logits_cost_log_of_the_vocabulary_for_every_token(saved, held_out):
  flat = jax.tree.map(np.zeros_like, saved.params)
  got = score(flat, saved.bias, held_out, model=saved.model)
  tokens = sum(float(h.rows.text_weight.sum()) for h in held_out)
  size = sum(len(h.text.encode()) for h in held_out)
  assert got.tokens == tokens > 500
  assert got.loss == pytest.approx(math.log(saved.model.vocab_size), rel=1e-6)
  expected = math.log2(saved.model.vocab_size) * tokens / size
  assert got.bits_per_byte == pytest.approx(expected, rel=1e-6)


def test_score_is_the_weighted_sum_over_the_logits(saved, held_out):
  rows = held_out[0].rows

  @jax.jit
  def logits_of(params):
    output = UnifiedModel(saved.model).apply({"params": params}, rows, saved.bias)
    return text_logits(output.hidden, params, saved.model)

  logits = np.asarray(logits_of(saved.params), np.float64)
  norm = np.log(np.exp(logits).sum(-1))
  picked = np.take_along_axis(logits, rows.target[..., None], -1)[..., 0]
  expected = np.sum((norm - picked) * rows.text_weight)
  got = score(saved.params, saved.bias, held_out, model=saved.model)
  assert got.nats == pytest.approx(expected, rel=1e-5)


def test_batches_cover_every_row_once_and_filling_costs_nothing(saved, held_out, monkeypatch):
  whole = score(saved.params, saved.bias, held_out, model=saved.model)
  count, length = held_out[0].rows.kind.shape
  size = next(n for n in range(5, 12) if count % n)  # so the last batch is filled up
  monkeypatch.setattr(module, "BATCH_TOKENS", size * length)
  parts = score(saved.params, saved.bias, held_out, model=saved.model)
  assert (parts.tokens, parts.utf8_bytes) == (whole.tokens, whole.utf8_bytes)
  assert parts.nats == pytest.approx(whole.nats, rel=1e-6)


def test_a_mesh_changes_nothing_whatever_the_batch_size(saved, held_out, monkeypatch):
  alone = score(saved.params, saved.bias, held_out, model=saved.model)
  config = MeshConfig(data=2, expert=2)
  monkeypatch.setattr(module, "BATCH_TOKENS", 61 * held_out[0].rows.length)
  with rules.enter(make_mesh(config), config):
    divided = score(saved.params, saved.bias, held_out, model=saved.model)
  assert divided.nats == pytest.approx(alone.nats, rel=1e-5)
  assert divided.tokens == alone.tokens


@pytest.mark.parametrize("name", ["2x4x2", "1x4x2", "2x2x1"])
def test_a_member_scores_the_same_masked_and_sliced(saved, held_out, name):
  member = parse_member(name, saved.model)
  kinds = {"elastic": saved.elastic, "model": saved.model}
  active = activate(member, saved.usage, **kinds)
  masked = score(saved.params, saved.bias, held_out, model=saved.model, active=active)
  sliced = slice_params(saved.params, saved.bias, saved.usage, member, **kinds)
  own = score(sliced.params, sliced.bias, held_out, model=sliced.model)
  assert masked.nats == pytest.approx(own.nats, rel=1e-5)
  full = score(saved.params, saved.bias, held_out, model=saved.model)
  # Five steps of training leave a member's score near the full one's, by as little as 5e-5 of it.
  assert (abs(masked.nats - full.nats) < 1e-5 * full.nats) == (name == "2x4x2")


def test_all_members_share_one_compilation(saved, held_out):
  module._losses.clear_cache()
  for name in ("2x4x2", "1x4x2", "1x2x1"):
    member = parse_member(name, saved.model)
    active = activate(member, saved.usage, elastic=saved.elastic, model=saved.model)
    score(saved.params, saved.bias, held_out, model=saved.model, active=active)
  assert module._losses._cache_size() == 1
