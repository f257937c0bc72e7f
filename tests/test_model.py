"""The whole model: what packing, masks, scanning, recomputation and the elastic inputs must not change."""

import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.inputs import Active, all_active
from ernie_jax.backbone.parameters import join_layers, split_layers
from ernie_jax.model import UnifiedModel, initial_bias, text_logits
from ernie_jax.objectives import cross_entropy
from ernie_jax.objectives.cross_entropy import cross_entropy_sum
from ernie_jax.objectives.text import further_targets, text_loss
from ernie_jax.sequence import Row, Text, VisionTarget, lay_out, pack
from ernie_jax.sharding import rules
from ernie_jax.sharding.mesh import MeshConfig, make_mesh

CONFIG = ModelConfig(
  vocab_size=96, depth=3, width=16, heads=2, kv_heads=1, head_dim=8, experts=4, top_k=2,
  expert_width=8, shared_width=8, mtp_depth=2, mtp_width=8, grouped_matmul="reference",
)  # fmt: skip
LENGTH = 28
CLOSE = dict(rtol=1e-4, atol=1e-5)


def batch_of(*rows: Row) -> Row:
  return jax.tree.map(lambda *fields: np.stack(fields), *rows)


def text(*tokens: int) -> Row:
  return lay_out([Text(tokens)])


def example(seed: int) -> Row:
  """Text, a picture of two scales, text."""
  tokens = lambda n: tuple(np.random.default_rng((seed, n)).integers(64, 96, n))
  picture = VisionTarget(slot=0, frames=1, scales=((1, 1), (1, 2)))
  return lay_out([Text(tokens(4)), picture, Text(tokens(3))])


@pytest.fixture(scope="module")
def params():
  """Parameters in which every part matters: norm scales off 1, a router that is not flat."""
  row = batch_of(pack([text(64, 65)], LENGTH))
  init = jax.jit(lambda key: UnifiedModel(CONFIG).init(key, row, initial_bias(CONFIG)))
  tree = nn.unbox(init(jax.random.key(0)))["params"]
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda a: a * 2 + 0.1 * rng.normal(size=a.shape).astype(np.float32), tree)


@functools.cache
def forward(config: ModelConfig):
  """The jitted forward pass (params, row, active) -> Output of a config."""
  model = UnifiedModel(config)
  return jax.jit(
    lambda params, row, active=None: model.apply(
      {"params": params}, row, initial_bias(config), active
    )
  )


@functools.cache
def loss_and_gradient(config: ModelConfig):
  """The jitted (params, row) -> (all text losses, gradient) of a config."""

  def loss(params, row):
    loss = text_loss(forward(config)(params, row), row, params, config)
    return loss.weighed + loss.further.sum()

  return jax.jit(jax.value_and_grad(loss))


def rearranged(params, config: ModelConfig):
  """CONFIG's parameters as another arrangement of the same layers stores them."""
  return {**params, "stack": join_layers(split_layers(params["stack"], CONFIG), config)}


def assert_trees_close(got, wanted):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), got, wanted)


def test_an_example_in_a_packed_row_computes_what_it_computes_alone(params):
  examples = [example(0), text(70, 71, 72), example(1)]
  packed = forward(CONFIG)(params, batch_of(pack(examples, LENGTH)))
  start = 0
  for one in examples:
    alone = forward(CONFIG)(params, batch_of(pack([one], LENGTH)))
    here = slice(start, start + one.length)
    np.testing.assert_allclose(packed.hidden[0, here], alone.hidden[0, : one.length], **CLOSE)
    start += one.length


@pytest.mark.parametrize("changed", [0, 1])
def test_changing_an_example_never_changes_its_neighbour(params, changed):
  first, second = (64, 65, 66, 67), (70, 71, 72)
  other = [(80, 81, 82, 83), second] if changed == 0 else [first, (80, 81, 82)]
  run = lambda examples: forward(CONFIG)(
    params, batch_of(pack([text(*tokens) for tokens in examples], LENGTH))
  )
  before, after = run([first, second]), run(other)
  spans = [slice(0, 4), slice(4, 7)]
  same, moved = spans[1 - changed], spans[changed]
  np.testing.assert_allclose(before.hidden[0, same], after.hidden[0, same], rtol=1e-6, atol=1e-6)
  assert np.abs(before.hidden[0, moved] - after.hidden[0, moved]).max() > 1e-3
  for m in range(CONFIG.mtp_depth):  # an MTP module looks m + 1 ahead, but not over the border
    here = slice(same.start, same.stop - m - 1)
    np.testing.assert_allclose(before.mtp[m][0, here], after.mtp[m][0, here], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("at", [1, 5, 9])
def test_a_later_token_never_changes_an_earlier_hidden_state(params, at):
  tokens = list(range(64, 76))
  row = batch_of(pack([text(*tokens)], LENGTH))
  tokens[at] = 90
  other = batch_of(pack([text(*tokens)], LENGTH))
  before, after = (forward(CONFIG)(params, r).hidden[0] for r in (row, other))
  np.testing.assert_allclose(before[:at], after[:at], rtol=1e-6, atol=1e-6)
  assert np.abs(before[at:12] - after[at:12]).max(-1).min() > 1e-6


@pytest.mark.parametrize(
  "change",
  [{"scan": False}, {"top_layers": 0}, {"top_layers": 2}, {"top_layers": 3}],
  ids=lambda change: "-".join(f"{k}={v}" for k, v in change.items()),
)
def test_how_layers_are_arranged_changes_nothing(params, change):
  config = dataclasses.replace(CONFIG, **change)
  row = batch_of(pack([example(0), example(1)], LENGTH))
  wanted = forward(CONFIG)(params, row)
  got = forward(config)(rearranged(params, config), row)
  assert_trees_close(got, wanted)


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_recomputation_changes_neither_loss_nor_gradient(params, remat):
  row = batch_of(pack([example(0), example(1)], LENGTH))
  wanted = loss_and_gradient(CONFIG)(params, row)
  got = loss_and_gradient(dataclasses.replace(CONFIG, remat=remat))(params, row)
  assert_trees_close(got, wanted)


@pytest.mark.parametrize("dense, top", [(1, 1), (2, 0), (3, 1), (2, 2)])
def test_dense_layers_come_first_wherever_the_top_begins(dense, top):
  config = dataclasses.replace(CONFIG, dense_layers=dense, dense_width=12, top_layers=top)
  row = batch_of(pack([text(64, 65)], LENGTH))
  init = lambda: UnifiedModel(config).init(jax.random.key(0), row, initial_bias(config))
  stack = nn.unbox(jax.eval_shape(init))["params"]["stack"]
  sizes = {segment.name: segment.length for segment in config.segments()}
  assert sum(sizes.values()) == config.depth and set(stack) == set(sizes)
  for segment in config.segments():
    lead = (segment.length,) if segment.stacked else ()
    layer = stack[segment.name]
    if segment.moe:
      assert segment.start >= dense and "mlp" not in layer
      assert layer["moe"]["experts"]["gate"].shape == (*lead, 4, 16, 8)
    else:
      assert segment.stop <= dense and "moe" not in layer
      assert layer["mlp"]["gate"]["kernel"].shape == (*lead, 16, 12)


@pytest.mark.parametrize("rows", [None, 2])
def test_with_everything_active_the_elastic_inputs_change_nothing(params, rows):
  row = batch_of(pack([example(0)], LENGTH), pack([text(70, 71)], LENGTH))
  active = all_active(CONFIG, rows)
  assert_trees_close(forward(CONFIG)(params, row, active), forward(CONFIG)(params, row))


def test_skipping_by_step_equals_masks_by_row(params):
  row = batch_of(pack([example(0)], LENGTH), pack([example(1)], LENGTH))
  layers = jnp.array([True, False, True])
  experts = jnp.ones((3, 4), bool).at[:, 1].set(False).at[2, 3].set(False)
  by_step = Active(layers=layers, experts=experts, top_k=jnp.int32(1))
  by_row = Active(
    layers=jnp.repeat(layers[:, None], 2, axis=1),
    experts=jnp.repeat(experts[:, None], 2, axis=1),
    top_k=jnp.full((2,), 1, jnp.int32),
  )
  got, wanted = (forward(CONFIG)(params, row, active) for active in (by_step, by_row))
  assert_trees_close(got, wanted)
  assert np.abs(got.hidden - forward(CONFIG)(params, row).hidden).max() > 1e-3
  assert not got.stats.load_all[1].any() and not got.stats.load_all[0, 1]


def test_rows_of_a_batch_run_their_own_members(params):
  row = batch_of(pack([example(0)], LENGTH), pack([example(1)], LENGTH))
  active = all_active(CONFIG, 2)
  active = active.replace(layers=active.layers.at[1, 1].set(False), top_k=jnp.array([2, 1]))
  mixed = forward(CONFIG)(params, row, active)
  for b in range(2):
    alone = jax.tree.map(lambda a, b=b: a[b : b + 1], row)
    member = Active(layers=active.layers[:, b], experts=active.experts[:, b], top_k=active.top_k[b])
    got = forward(CONFIG)(params, alone, member)
    np.testing.assert_allclose(mixed.hidden[b : b + 1], got.hidden, **CLOSE)


def test_only_rows_of_the_full_model_count_for_the_bias(params):
  row = batch_of(pack([example(0)], LENGTH), pack([text(70, 71, 72)], LENGTH))
  active = all_active(CONFIG, 2)
  active = active.replace(top_k=jnp.array([1, 2]))
  stats = forward(CONFIG)(params, row, active).stats
  np.testing.assert_array_equal(stats.load.sum(-1), [3 * 2] * 3)
  np.testing.assert_array_equal(stats.load_all.sum(-1), [3 * 2 + example(0).length] * 3)


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_further_targets_stay_inside_a_stretch_of_text_of_one_example(ahead):
  prompt = lay_out([Text((70, 71), learn=False), Text((72, 73, 74))])
  row = pack([example(0), text(64, 65, 66, 67, 68), prompt, example(1)], 40)
  target, weight = further_targets(jax.tree.map(lambda a: jnp.asarray(a)[None], row), ahead)
  for i in range(40):
    predicted = [i + 1 + step for step in range(ahead + 1)]  # positions whose token is predicted
    allowed = predicted[-1] < 40 and all(
      row.example[p] == row.example[i] > 0
      and row.kind[p] == 1
      and row.text_weight[p - 1] > 0
      and row.target[p - 1] == row.token[p]
      for p in predicted
    )
    assert weight[0, i] == allowed
    if allowed:
      assert target[0, i] == row.token[predicted[-1]]
  assert 0 < weight.sum() < row.text_weight.sum()


@pytest.mark.parametrize(
  "config",
  [MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(fsdp=4, context=2), MeshConfig(expert=8)],
  ids=["data, fsdp, tensor", "fsdp, context", "expert"],
)
def test_on_a_mesh_the_kernel_s_gradient_is_added_up_once_however_many_chunks(config, monkeypatch):
  monkeypatch.setattr(cross_entropy, "_CHUNK_OF_PLATFORM", {"cpu": 32})
  rng = np.random.default_rng(0)
  hidden = rng.normal(size=(8, 6, 8)).astype(np.float32)
  kernel = rng.normal(size=(8, 32)).astype(np.float32)
  target, weight = rng.integers(0, 32, (8, 6)), (rng.random((8, 6)) > 0.3).astype(np.float32)
  loss = lambda h, k: 3 * cross_entropy_sum(h, k, target, weight)
  wanted = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(hidden, kernel)
  mesh = make_mesh(config)
  place = lambda *names: jax.NamedSharding(mesh, rules.spec(names))
  placed = (place("batch", "length", None), place("embed", "vocab"))
  with rules.enter(mesh):
    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), in_shardings=placed)
    compiled = run.lower(hidden, kernel).compile()
    value, gradient = run(hidden, kernel)
  np.testing.assert_allclose(value, wanted[0], rtol=1e-5)
  assert_trees_close(gradient, wanted[1])
  parts = kernel.size // config.tensor
  walk = compiled.as_text().split("ENTRY")[0]  # loops' bodies come before what calls them
  summed = [line.split(" all-reduce(")[0] for line in walk.splitlines() if " all-reduce(" in line]
  sizes = [
    np.prod([int(n) for n in s.split(",")])
    for s in re.findall(r"f32\[([\d,]+)\]", " ".join(summed))
  ]
  assert all(size < parts for size in sizes), summed


@pytest.mark.parametrize("chunk_logits", [1 << 22, 7 * 96])
def test_cross_entropy_equals_the_plain_formula(monkeypatch, chunk_logits):
  monkeypatch.setattr(cross_entropy, "_CHUNK_OF_PLATFORM", {"cpu": chunk_logits})
  rng = np.random.default_rng(0)
  hidden = rng.normal(size=(2, 11, 16)).astype(np.float32)
  kernel = rng.normal(size=(16, 96)).astype(np.float32)
  target = rng.integers(0, 96, (2, 11))
  weight = (rng.random((2, 11)) * (rng.random((2, 11)) < 0.7)).astype(np.float32)
  assert (weight == 0).any()

  def plain(hidden, kernel):
    logs = jax.nn.log_softmax(hidden @ kernel)
    return -(jnp.take_along_axis(logs, target[..., None], -1)[..., 0] * weight).sum()

  spoilt = np.where(weight[..., None] > 0, hidden, np.nan)
  loss = lambda h, k: 3 * cross_entropy_sum(h, k, target, weight)
  value, gradient = jax.value_and_grad(loss, argnums=(0, 1))(spoilt, kernel)
  wanted, wanted_gradient = jax.value_and_grad(lambda h, k: 3 * plain(h, k), argnums=(0, 1))(
    hidden, kernel
  )
  np.testing.assert_allclose(value, wanted, rtol=1e-5)
  np.testing.assert_allclose(loss(spoilt, kernel), wanted, rtol=1e-5)  # without a gradient
  assert_trees_close(gradient, wanted_gradient)


def test_untied_heads_have_their_own_kernel(params):
  config = dataclasses.replace(CONFIG, tie_embeddings=False)
  head = np.random.default_rng(0).normal(size=(16, 96)).astype(np.float32)
  hidden = np.ones((1, 16), np.float32)
  logits = text_logits(hidden, {**params, "head": head}, config)
  np.testing.assert_allclose(logits, hidden @ head, rtol=1e-5)
  assert np.abs(text_logits(hidden, params, CONFIG) - logits).max() > 0.1
