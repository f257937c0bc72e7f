"""Against optax's Muon, matrix by matrix; divided among devices or not; blocks of any size."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers
from optax.contrib import scale_by_muon as optax_muon

from ernie_jax.sharding import rules
from ernie_jax.sharding.mesh import MeshConfig, make_mesh
from ernie_jax.train import muon

LAST_TWO = MuonDimensionNumbers((-2,), (-1,))
HEADS_OUT = MuonDimensionNumbers((-3,), (-2, -1))
HEADS_IN = MuonDimensionNumbers((-3, -2), (-1,))
KINDS = {
  "wide": LAST_TWO, "tall": LAST_TWO, "experts": LAST_TWO, "square": LAST_TWO, "query": HEADS_OUT,
  "out": HEADS_IN, "still": LAST_TWO,
}  # fmt: skip
SHAPES = {
  "wide": (5, 8, 12), "tall": (12, 8), "experts": (2, 3, 12, 8), "square": (8, 8), "query": (3, 8, 2, 6),
  "out": (2, 2, 6, 8), "still": (3, 8, 12),
}  # fmt: skip


def normal(*shape):
  return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def gradients(seed):
  rng = np.random.default_rng(seed)
  found = {k: rng.standard_normal(s).astype(np.float32) for k, s in SHAPES.items()}
  low_rank = found["wide"][0, :, :1] * found["wide"][0, :1]
  return found | {"still": np.zeros(SHAPES["still"], np.float32), "low": low_rank}


def updates(transform, *, steps: int = 3):
  """The last update after some with different gradients."""
  kinds = KINDS | {"low": LAST_TWO}

  @jax.jit
  def run(*gradients):
    state = transform(lambda tree: {name: kinds[name] for name in tree}).init(gradients[0])
    for g in gradients:
      update, state = transform(lambda tree: {name: kinds[name] for name in tree}).update(g, state)
    return update

  return run(*(gradients(seed) for seed in range(steps)))


def of_optax(axes):
  return optax_muon(ns_steps=5, beta=0.9, weight_dimension_numbers=axes)


def of_ours(axes):
  return muon.scale_by_muon(axes, iterations=5, momentum=0.9)


# Rounding of what a matrix has next to nothing of grows with it: by 3.44 in each iteration, 485 times in five.
TOLERANCE = 485 * 2**-22


def check_equal(got, expected):
  assert set(got) == set(expected)
  for name, value in expected.items():
    np.testing.assert_allclose(got[name], value, rtol=0, atol=TOLERANCE, err_msg=name)
  np.testing.assert_array_equal(got["still"], 0)
  assert np.abs(got["experts"]).max() > 0.1


@pytest.mark.parametrize("numbers", [1, 2 * 96, 7 * 96, 1 << 20])
def test_updates_are_optaxs_whatever_the_block(numbers, monkeypatch):
  monkeypatch.setattr(muon, "_BLOCK_OF_PLATFORM", {"cpu": numbers})
  check_equal(updates(of_ours), updates(of_optax))


@pytest.mark.parametrize("axes", [{"data": 8}, {"data": 2, "fsdp": 4}])
def test_updates_on_a_mesh_are_those_of_one_device(axes):
  expected, config = updates(of_ours), MeshConfig(**axes)
  with rules.enter(make_mesh(config), config):
    got = jax.device_get(updates(of_ours))
  check_equal(got, expected)


def test_each_device_orthogonalises_its_part_and_one_gather_joins_them():
  """24 matrices of one shape in two parameters: three on each of eight devices, and nothing else is gathered."""
  tree = {"a": jnp.ones((16, 8, 12)), "b": jnp.ones((8, 12, 8))}
  axes = {"a": LAST_TWO, "b": LAST_TWO}
  config = MeshConfig(data=8)
  with rules.enter(make_mesh(config), config):
    run = jax.jit(lambda tree: muon.orthogonal(tree, axes, iterations=2))
    text = run.lower(tree).compile().as_text()
  assert text.count(" all-gather(") == 1
  products = [line for line in text.splitlines() if " dot(" in line]
  assert products and all("f32[3,8," in line for line in products)


def test_what_is_divided_already_stays_so():
  """Experts on four devices and hidden widths on two: no device sees another's experts, and no loop gathers them."""
  config = MeshConfig(expert=4, tensor=2)
  mesh = make_mesh(config)
  place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "expert", None, None))
  tree = {"experts": jax.device_put(normal(2, 8, 12, 8), place)}
  with rules.enter(mesh, config):
    run = jax.jit(lambda tree: muon.orthogonal(tree, {"experts": LAST_TWO}, iterations=2))
    text = run.lower(tree).compile().as_text()
    got = run(tree)["experts"]
  assert " all-gather(" not in text and " while(" not in text
  products = [line for line in text.splitlines() if " dot(" in line]
  assert products and all("f32[2,2,8," in line for line in products)
  alone = muon.orthogonal({"experts": normal(2, 8, 12, 8)}, {"experts": LAST_TWO}, iterations=2)
  np.testing.assert_allclose(got, alone["experts"], rtol=0, atol=TOLERANCE)


def test_momentum_is_kept_under_the_names_of_the_parameters():
  axes = lambda tree: {name: KINDS[name] for name in tree}
  state = of_ours(axes).init({"wide": jnp.ones((5, 8, 12))})
  paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(state)]
  names = [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]
  assert names == ["count", "mu/wide"] and not np.any(state.mu["wide"])
  assert optax.tree.get(state, "count") == 0
