"""What the table of rules does to parameters and activations, and what it refuses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from ernie_jax.errors import UserError
from ernie_jax.sharding import rules
from ernie_jax.sharding.mesh import MeshConfig, active_config, active_mesh, make_mesh

CONFIG = MeshConfig(fsdp=2, tensor=2)


class Tiny(nn.Module):
  """A scanned stack of one dense layer with remat and logical names, and with constraints, which the real one lacks."""

  hidden: str = "mlp"

  @nn.compact
  def __call__(self, x):
    cell = nn.scan(
      nn.remat(Cell),
      variable_axes={"params": 0, "intermediates": 0},
      split_rngs={"params": True},
      length=3,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return cell(hidden=self.hidden)(x, None)[0]


class Cell(nn.Module):
  hidden: str

  @nn.compact
  def __call__(self, x, _):
    named = lambda *names: nn.with_logical_partitioning(nn.initializers.ones, names)
    up = self.param("up", named("embed", self.hidden), (8, 16))
    down = self.param("down", named(self.hidden, "embed"), (16, 8))
    scale = self.param("scale", named("norm"), (8,))
    hidden = rules.logical_constraint(x @ up, ("batch", "length", "act_heads"))
    self.sow("intermediates", "hidden", hidden)
    return rules.logical_constraint(hidden @ down * scale, ("batch", "length", "act_embed")), None


def abstract(**fields):
  return jax.eval_shape(Tiny(**fields).init, jax.random.key(0), jnp.ones((8, 4, 8)))["params"]


def test_parameters_are_divided_as_the_table_says():
  mesh = make_mesh(CONFIG)
  shardings = rules.param_shardings(abstract(), mesh)
  (cell,) = shardings.values()
  assert cell["up"].spec == P(None, "fsdp", "tensor")
  assert cell["down"].spec == P(None, "tensor", "fsdp")
  assert cell["scale"].spec == P(None, None)
  init = lambda key: nn.unbox(Tiny().init(key, jnp.ones((8, 4, 8))))["params"]
  with rules.enter(mesh):
    params = jax.jit(init, out_shardings=shardings)(jax.random.key(0))
  (cell,) = params.values()
  assert cell["up"].sharding.spec == P(None, "fsdp", "tensor")
  assert cell["up"].addressable_shards[0].data.shape == (3, 4, 8)


def test_an_activation_that_is_constrained_inside_a_scan_is_divided_as_the_table_says():
  mesh = make_mesh(CONFIG)
  params = nn.unbox(Tiny().init(jax.random.key(0), jnp.ones((8, 4, 8))))["params"]
  run = jax.jit(lambda p, x: Tiny().apply({"params": p}, x, mutable="intermediates")[1])
  with rules.enter(mesh):
    (hidden,) = jax.tree.leaves(run(params, jnp.ones((8, 4, 8))))
  assert hidden.shape == (3, 8, 4, 16)
  # data 2 x fsdp 2 over the batch, tensor 2 over the hidden width.
  assert hidden.addressable_shards[0].data.shape == (3, 2, 4, 8)


def test_optimizer_moments_are_divided_as_their_parameters():
  boxed = abstract()
  moments = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.bfloat16), boxed)
  mesh = make_mesh(CONFIG)
  assert rules.param_shardings(moments, mesh) == rules.param_shardings(boxed, mesh)


@pytest.mark.parametrize("mesh", [None, CONFIG], ids=["one device", "mesh"])
def test_an_unknown_logical_name_is_refused(mesh):
  mesh = mesh and make_mesh(mesh)
  with rules.enter(mesh), pytest.raises(ValueError, match="unknown logical axis 'bacth'"):
    rules.logical_constraint(jnp.ones((8, 4)), ("bacth", None))


def test_a_parameter_with_an_unknown_logical_name_is_refused():
  with pytest.raises(ValueError, match="unknown logical axis 'hiden'"):
    rules.param_shardings(abstract(hidden="hiden"), make_mesh(CONFIG))


def test_a_constraint_needs_one_name_for_each_axis():
  with pytest.raises(ValueError, match="names 1 axes of an array of shape"):
    rules.logical_constraint(jnp.ones((8, 4)), ("batch",))


def test_two_axes_cannot_want_the_same_mesh_axis():
  with pytest.raises(ValueError, match="use a mesh axis twice"):
    rules.spec(("heads", "mlp"))


def test_an_activation_that_does_not_divide_names_the_mesh_keys():
  """XLA would copy it to every device without a word."""
  message = r"the batch axis = 6 does not divide by config\.mesh\.data=2 \* config\.mesh\.fsdp=2"
  with rules.enter(make_mesh(CONFIG)), pytest.raises(UserError, match=message):
    jax.jit(lambda x: rules.logical_constraint(x, ("batch", None)))(jnp.ones((6, 4)))


def test_an_axis_of_length_one_stays_whole():
  with rules.enter(make_mesh(CONFIG)):
    x = jax.jit(lambda x: rules.logical_constraint(x, ("batch", "act_heads")))(jnp.ones((1, 4)))
  assert x.addressable_shards[0].data.shape == (1, 2)


def test_a_parameter_that_does_not_divide_is_named():
  mesh = make_mesh(MeshConfig(tensor=8))
  box = nn.LogicallyPartitioned(jax.ShapeDtypeStruct((8, 6), jnp.float32), ("embed", "kv_heads"))
  message = r"parameter key/kernel: the kv_heads axis = 6 does not divide by config\.mesh\.tensor=8"
  with pytest.raises(UserError, match=message):
    rules.param_shardings({"key": {"kernel": box}}, mesh)


def test_a_large_parameter_without_names_is_refused_and_a_small_one_is_replicated():
  mesh = make_mesh(CONFIG)
  small = {"step": jax.ShapeDtypeStruct((), jnp.int32), "rng": jax.eval_shape(jax.random.key, 0)}
  assert all(s.spec == P() for s in jax.tree.leaves(rules.param_shardings(small, mesh)))
  with pytest.raises(ValueError, match=r"parameter big has shape .* no logical axis names"):
    rules.param_shardings({"big": jax.ShapeDtypeStruct((1024, 512), jnp.float32)}, mesh)


def test_sizes_of_a_model_are_checked_with_both_keys_named():
  mesh = make_mesh(MeshConfig(tensor=4))
  rules.validate_model(mesh, {"config.model.heads": ("heads", 8)})
  message = r"config\.model\.kv_heads = 2 does not divide by config\.mesh\.tensor=4"
  with pytest.raises(UserError, match=message):
    rules.validate_model(mesh, {"config.model.kv_heads": ("kv_heads", 2)})


def test_mesh_rules_and_transport_are_entered_and_left_together():
  config = MeshConfig(expert=2, transport="ring")
  with rules.enter(make_mesh(config), config):
    assert active_mesh().shape["expert"] == 2
    assert active_config() == config
    assert nn.logical_to_mesh_axes(("embed", "vocab")) == P("fsdp", "tensor")
  assert active_mesh() is None
  assert active_config() == MeshConfig()
  assert not nn.get_logical_axis_rules()


def test_another_transport_is_another_compilation():
  """Rules and globals are not in the key of JAX's compilation cache; the transport must be."""
  traced = []
  run = jax.jit(lambda x: traced.append(active_config().transport) or x)
  for transport in ("ring", "all_to_all", "ring"):
    config = MeshConfig(transport=transport)
    with rules.enter(make_mesh(config), config):
      run(jnp.ones(8))
  assert traced == ["ring", "all_to_all"]
