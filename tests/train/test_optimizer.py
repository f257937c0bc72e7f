"""Who owns which parameter, each stacked matrix treated as if alone, and frozen parts left alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.model import UnifiedModel
from ernie_jax.sequence.row import empty_row
from ernie_jax.train.optimizer import (
  OptimizerConfig,
  decay_mask,
  freeze_inactive,
  make_optimizer,
  matrix_axes,
)

RATE = 0.1


def flat(tree):
  pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in pairs}


def muon_owned(params):
  """For every parameter, by its path, whether Muon owns it."""
  return {name: matrix_axes(name, leaf) is not None for name, leaf in flat(params).items()}


@pytest.fixture(scope="module")
def model_shapes():
  """Parameters of a model that has every kind of layer: dense, scanned, unrolled, MTP, own head."""
  config = ModelConfig(
    vocab_size=32, depth=4, width=16, heads=2, kv_heads=1, head_dim=8, experts=4, top_k=2,
    expert_width=8, shared_width=8, dense_layers=1, dense_width=24, top_layers=1,
    tie_embeddings=False, mtp_depth=1, mtp_width=8,
  )  # fmt: skip
  row = jax.tree.map(lambda a: jnp.asarray(a)[None], empty_row(8))
  bias = jnp.zeros((4, 4))
  shapes = jax.eval_shape(lambda: UnifiedModel(config).init(jax.random.key(0), row, bias))
  return nn.unbox(shapes)["params"]


def test_muon_owns_every_matrix_inside_the_layers_and_nothing_else(model_shapes):
  owned = muon_owned(model_shapes)
  modules = ("query", "key", "value", "out", "gate", "up", "down", "project")
  for name, is_owned in owned.items():
    last = [p for p in name.split("/") if p != "kernel"][-1]
    assert is_owned == (last in modules and not name.endswith("scale")), name
  assert owned["stack/layers/moe/experts/down"] and owned["stack/top_0/moe/experts/gate"]
  assert owned["stack/dense_layers/mlp/up/kernel"] and owned["mtp_0/project/kernel"]
  for name in ("embed/embedding", "head", "stack/layers/moe/router/kernel"):
    assert not owned[name]


def test_the_muon_state_holds_second_moments_only_for_what_adam_owns(model_shapes):
  optimizer = make_optimizer(OptimizerConfig(name="muon"), lambda s: RATE, model_shapes)
  names = flat(jax.eval_shape(optimizer.init, model_shapes))
  for name, is_owned in muon_owned(model_shapes).items():
    assert any(n.endswith(f"nu/{name}") for n in names) != is_owned, name


def test_decay_skips_scales_biases_and_by_default_the_embedding(model_shapes):
  mask = flat(decay_mask(OptimizerConfig(), model_shapes | {"dense": {"bias": jnp.ones(3)}}))
  skipped = {name for name, decays in mask.items() if not decays}
  assert skipped == {n for n in mask if n.endswith(("scale", "bias", "embedding"))}
  assert mask["head"] and mask["stack/layers/moe/router/kernel"]
  assert flat(decay_mask(OptimizerConfig(decay_embeddings=True), model_shapes))["embed/embedding"]


def step(params, grads, config, *, updates: int):
  """The parameters after some updates with the same gradients."""
  optimizer = make_optimizer(config, lambda s: RATE, params)

  @jax.jit
  def run(params, grads):
    state = optimizer.init(params)
    for _ in range(updates):
      change, state = optimizer.update(grads, state, params)
      params = optax.apply_updates(params, change)
    return params

  return run(params, grads)


def normal(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
  ("path", "shape", "matrix"),
  [
    (("moe", "experts", "gate"), (2, 2, 8, 6), (8, 6)),
    (("moe", "experts", "down"), (2, 2, 6, 8), (6, 8)),
    (("attention", "query", "kernel"), (3, 8, 2, 4), (8, 8)),
    (("attention", "out", "kernel"), (3, 2, 3, 8), (6, 8)),
    (("mlp", "up", "kernel"), (2, 8, 6), (8, 6)),
  ],
)
def test_each_layer_and_expert_is_orthogonalised_as_if_alone(path, shape, matrix):
  """A stacked kernel gets the updates its slices get as the only matrix of a model."""
  config = OptimizerConfig(name="muon", clip_norm=0.0, muon_iterations=2)
  leaf = normal(0, *shape)
  grad = np.sin(3 * leaf) * 7
  nest = lambda x: {path[0]: {path[1]: {path[2]: x}}}
  got = jax.tree.leaves(step(nest(leaf), nest(grad), config, updates=1))[0]

  one = lambda x: {"mlp": {"up": {"kernel": x}}}
  alone = jax.jit(lambda leaf, grad: step(one(leaf), one(grad), config, updates=1))
  slices = [x.reshape(-1, *matrix) for x in (leaf, grad, got)]
  for leaf_slice, grad_slice, got_slice in zip(*slices):
    expected = alone(leaf_slice, grad_slice)["mlp"]["up"]["kernel"]
    np.testing.assert_allclose(got_slice, expected, atol=2e-5)


def test_a_muon_update_is_orthogonal_with_the_size_of_an_adamw_update():
  params = {"mlp": {"up": {"kernel": normal(0, 5, 32, 64)}}}
  config = OptimizerConfig(name="muon", clip_norm=0.0, weight_decay=0.0)
  optimizer = make_optimizer(config, lambda s: 1.0, params)
  updates, _ = optimizer.update(params, optimizer.init(params), params)
  update = updates["mlp"]["up"]["kernel"] / (0.2 * 64**0.5)
  values = np.linalg.svd(update, compute_uv=False)
  assert values.min() > 0.4 and values.max() < 1.3
  rms = float(jnp.sqrt(jnp.mean(jnp.square(updates["mlp"]["up"]["kernel"]))))
  assert rms == pytest.approx(0.2, rel=0.3)


def test_adamw_is_optax_adamw_with_clipping():
  params = {"mlp": {"up": {"kernel": normal(0, 4, 4)}}, "norm": {"scale": normal(1, 4)}}
  grads = jax.tree.map(np.sin, params)
  reference = optax.chain(
    optax.clip_by_global_norm(0.5),
    optax.adamw(RATE, b1=0.9, b2=0.95, weight_decay=0.3, mask={"mlp": True, "norm": False}),
  )

  @jax.jit
  def run(params):
    state = reference.init(params)
    for _ in range(2):
      updates, state = reference.update(grads, state, params)
      params = optax.apply_updates(params, updates)
    return params

  got = step(params, grads, OptimizerConfig(weight_decay=0.3, clip_norm=0.5), updates=2)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, run(params))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_inactive_layers_and_experts_keep_parameters_and_moments(name):
  params = {
    "embed": {"embedding": normal(0, 6, 4)},
    "layers": {
      "norm": {"scale": normal(1, 2, 4)},
      "mlp": {"up": {"kernel": normal(2, 2, 4, 4)}},
      "moe": {"experts": {"up": normal(3, 2, 3, 4, 4)}},
    },
  }
  grads = jax.tree.map(np.cos, params)
  config = OptimizerConfig(name=name)
  optimizer = make_optimizer(config, lambda s: RATE, params)
  update = jax.jit(lambda g, s, p, a: optimizer.update(g, s, p, active=a))
  _, warm = update(grads, optimizer.init(params), params, None)
  layer, expert = np.array([1.0, 0.0]), np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
  active = {"layers": layer, "layers/moe/experts": expert}
  updates, state = update(grads, warm, params, active)
  free, free_state = update(grads, warm, params, None)

  def check(name, got, moved, still):
    if "experts" in name:
      mask = expert.reshape(2, 3, 1, 1)
    elif "layers" in name:
      mask = layer.reshape((2,) + (1,) * (got.ndim - 1))
    else:
      mask = np.ones(())
    np.testing.assert_allclose(
      got, np.where(mask, moved, still), rtol=1e-5, atol=1e-6, err_msg=name
    )
    assert not np.allclose(moved, still)

  for name, got in flat(updates).items():
    check(name, got, flat(free)[name], np.zeros_like(got))
  moments = [n for n in flat(state) if "/mu/" in n or "/nu/" in n]
  assert len(moments) == (8 if config.name == "adamw" else 6)
  for name in moments:
    check(name, flat(state)[name], flat(free_state)[name], flat(warm)[name])


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_frozen_parameters_never_move_and_have_no_moments(name):
  params = {part: {"up": {"kernel": jnp.full((4, 8), 0.5)}} for part in ("still", "stillness")}
  optimizer = make_optimizer(OptimizerConfig(name=name), lambda s: RATE, params, frozen=("still",))
  state = optimizer.init(params)
  moments = [n for n, x in flat(state).items() if getattr(x, "shape", ()) == (4, 8)]
  assert moments and all("stillness" in n for n in moments)
  updates, _ = optimizer.update(params, state, params)
  assert np.abs(updates["stillness"]["up"]["kernel"]).min() > 0
  np.testing.assert_array_equal(updates["still"]["up"]["kernel"], 0)  # not even by decay
  alone = {"stillness": params["stillness"]}
  plain = make_optimizer(OptimizerConfig(name=name), lambda s: RATE, alone)
  expected, _ = plain.update(alone, plain.init(alone), alone)
  np.testing.assert_allclose(
    updates["stillness"]["up"]["kernel"], expected["stillness"]["up"]["kernel"], rtol=1e-6
  )


def test_a_shape_or_name_that_fits_no_parameter_is_refused():
  params = {"layers": {"kernel": jnp.ones((2, 4, 4))}}
  optimizer = freeze_inactive(optax.sgd(0.1))
  for active, told in [
    ({"layers": jnp.ones(3)}, "shape"),
    ({"layer": jnp.ones(2)}, "no parameter"),
  ]:
    with pytest.raises(ValueError, match=told):
      optimizer.update(params, optimizer.init(params), params, active=active)


@pytest.mark.parametrize(
  "values", [{"b1": 1.0}, {"weight_decay": -0.1}, {"clip_norm": -1.0}, {"muon_iterations": 0}]
)
def test_impossible_values_are_refused(values):
  with pytest.raises(ValueError):
    OptimizerConfig(**values)
