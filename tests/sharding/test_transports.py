"""Each transport gives the values and gradients of the dense single-device experts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_jax.backbone.dispatch import expert_mlp
from ernie_jax.errors import UserError
from ernie_jax.sharding import ahead_of_time, rules, transports
from ernie_jax.sharding.mesh import MeshConfig, make_mesh

B, L, D, F, E, K = 8, 6, 8, 16, 8, 3


def all_to_all(**axes):
  """With buffers that these problems do not overflow."""
  return MeshConfig(**axes, transport="all_to_all", capacity_factor=3.0)


def ring(**axes):
  return MeshConfig(**axes, transport="ring")


def dense(x, experts, gates, live, weights):
  """Every expert on every token; the slow truth for one device."""
  hidden = jax.nn.silu(jnp.einsum("td,edf->tef", x, weights["gate"]))
  hidden = hidden * jnp.einsum("td,edf->tef", x, weights["up"])
  each = jnp.einsum("tef,efd->ted", hidden, weights["down"])
  chosen = jax.nn.one_hot(experts, each.shape[1]) * jnp.where(live, gates, 0)[..., None]
  return jnp.einsum("tke,ted->td", chosen, each)


def problem(seed=0, *, batch=B, length=L, favourite=None):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  scores = rng.normal(size=(batch, length, E))
  if favourite is not None:
    scores[..., favourite] += 100.0
  experts = jnp.asarray(np.argsort(-scores, axis=-1)[..., :K].astype(np.int32))
  weights = {"gate": draw(E, D, F), "up": draw(E, D, F), "down": draw(E, F, D)}
  weights = {name: w / w.shape[1] ** 0.5 for name, w in weights.items()}
  live = jnp.asarray(rng.random((batch, length, K)) < 0.8)
  return draw(batch, length, D), experts, draw(batch, length, K), live, weights


def delivered(x, experts, gates, live, weights):
  return transports.deliver(x, experts, gates, live, weights, local_fn=dense)


@jax.jit
def loss_and_gradients(x, experts, gates, live, weights):
  def loss(x, gates, weights):
    result = delivered(x, experts, gates, live, weights)
    return jnp.sum(jnp.sin(result.out)), result

  (_, result), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(x, gates, weights)
  return result, gradients


def run(config, arguments):
  with rules.enter(make_mesh(config) if config else None, config):
    return loss_and_gradients(*arguments)


def assert_same(found, wanted):
  """To 1e-5 of the largest entry: sums over tokens and widths run in another order."""
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * float(jnp.abs(b).max()))


SHAPES = {
  "expert=8": {"expert": 8},
  "data=4 expert=2": {"expert": 2},
  "data=2 expert=4": {"expert": 4},
  "expert=4 tensor=2": {"expert": 4, "tensor": 2},
  "fsdp=2 expert=4": {"fsdp": 2, "expert": 4},
  "fsdp=2 expert=2 tensor=2": {"fsdp": 2, "expert": 2, "tensor": 2},
  "expert=4 context=2": {"expert": 4, "context": 2},
}
CASES = {f"{n} {t.__name__}": t(**s) for n, s in SHAPES.items() for t in (all_to_all, ring)}
CASES["fsdp=4 tensor=2"] = MeshConfig(fsdp=4, tensor=2)  # no expert axis, so no transport


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_transport_equals_one_device_in_values_and_gradients(config):
  wanted, wanted_gradients = run(None, problem())
  found, gradients = run(config, problem())
  assert_same(found.out, wanted.out)
  assert_same(gradients, wanted_gradients)
  assert found.overflowed == 0


def test_without_a_mesh_the_result_is_the_dense_reference():
  x, experts, gates, live, weights = problem()
  flat = [a.reshape(-1, a.shape[-1]) for a in (x, experts, gates, live)]
  found, _ = run(None, (x, experts, gates, live, weights))
  assert_same(found.out.reshape(-1, D), dense(*flat, weights))


@pytest.mark.parametrize("make", [all_to_all, ring])
def test_grouped_experts_equal_the_dense_reference_under_a_mesh(make):
  """The experts that the model really uses, sorting and grouped matmul included."""
  _, wanted = run(None, problem())
  config = make(expert=2, tensor=2)
  with rules.enter(make_mesh(config), config):
    loss = lambda x, gates, weights, experts, live: jnp.sum(
      jnp.sin(transports.deliver(x, experts, gates, live, weights, local_fn=grouped).out)
    )
    x, experts, gates, live, weights = problem()
    gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(x, gates, weights, experts, live)
  assert_same(gradients, wanted)


def grouped(x, experts, gates, live, weights):
  return expert_mlp(x, experts, gates, live, weights["gate"], weights["up"], weights["down"])


@pytest.mark.parametrize("shape", [{"expert": 4}, {"expert": 2, "tensor": 2, "fsdp": 2}], ids=str)
def test_an_overflowing_buffer_takes_the_ring_and_drops_nothing(shape):
  arguments = problem(length=24, favourite=5)
  wanted, wanted_gradients = run(None, arguments)
  found, gradients = run(MeshConfig(**shape, capacity_factor=0.5), arguments)
  assert found.overflowed == 1
  assert_same(found.out, wanted.out)
  assert_same(gradients, wanted_gradients)


def test_one_overflowing_device_sends_every_device_to_the_ring():
  x, experts, gates, live, weights = problem(length=24)
  live = live.at[1:].set(False).at[0].set(True)
  experts = experts.at[0].set(jnp.arange(K))  # the first row, so the first device, wants one other
  config = MeshConfig(expert=2, capacity_factor=1.0)
  wanted, wanted_gradients = run(None, (x, experts, gates, live, weights))
  found, gradients = run(config, (x, experts, gates, live, weights))
  assert found.overflowed == 1
  assert_same(found.out, wanted.out)
  assert_same(gradients, wanted_gradients)


@pytest.mark.parametrize("make", [all_to_all, ring])
def test_experts_that_nobody_chose_get_zero_gradient(make):
  x, experts, gates, live, weights = problem(favourite=5)
  live = live & (experts == 5)
  wanted, wanted_gradients = run(None, (x, experts, gates, live, weights))
  found, gradients = run(make(expert=8), (x, experts, gates, live, weights))
  assert_same(found.out, wanted.out)
  assert_same(gradients, wanted_gradients)
  assert not gradients[2]["gate"][jnp.arange(E) != 5].any()


@pytest.mark.parametrize(
  "config",
  [None, all_to_all(expert=4), ring(expert=4), MeshConfig(expert=4, capacity_factor=0.1)],
  ids=["one device", "all_to_all", "ring", "overflow"],
)
def test_nothing_leaks_from_what_is_not_live(config):
  x, experts, gates, live, weights = problem(length=24)
  live = live.at[:, ::2].set(False)
  dirty = (
    x.at[:, ::2].set(jnp.nan),
    jnp.where(live, experts, 10_000),
    jnp.where(live, gates, jnp.nan),
  )
  clean = run(None, (x, experts, gates, live, weights))
  found, gradients = run(config, (*dirty, live, weights))
  assert_same(found.out, clean[0].out)
  assert_same(gradients, clean[1])
  assert not found.out[:, ::2].any()


@pytest.mark.parametrize("make", [all_to_all, ring])
def test_rows_and_positions_that_the_mesh_does_not_divide_are_padded(make):
  arguments = problem(batch=1, length=1)
  wanted, wanted_gradients = run(None, arguments)
  found, gradients = run(make(expert=4, context=2), arguments)
  assert_same(found.out, wanted.out)
  assert_same(gradients, wanted_gradients)


def test_experts_that_the_mesh_does_not_divide_are_a_user_error():
  config = MeshConfig(expert=8)
  x, experts, gates, live, weights = problem()
  weights = jax.tree.map(lambda w: w[:6], weights)
  with (
    rules.enter(make_mesh(config), config),
    pytest.raises(UserError, match=r"config\.mesh\.expert=8 does not divide the 6 experts"),
  ):
    delivered(x, experts, gates, live, weights)


@pytest.mark.parametrize(
  ("config", "wanted"),
  [
    (ring(expert=8), {"all-gather": 3, "reduce-scatter": 1}),
    (MeshConfig(expert=8, capacity_factor=100.0), {"all-to-all": 3}),  # it cannot overflow
    (
      all_to_all(expert=8),  # the vote, the ring it may lead to, and the transport itself
      {"all-reduce": 1, "all-gather": 3, "reduce-scatter": 1, "all-to-all": 3},
    ),
    (ring(fsdp=8), {"all-gather": 3}),
    (ring(tensor=8), {"all-reduce": 1}),
  ],
  ids=["ring", "all_to_all", "all_to_all or ring", "fsdp", "tensor"],
)
def test_forward_collectives_are_the_ones_the_transport_names(config, wanted):
  """Arguments are placed as the layer wants them, so that whatever moves is the layer's own."""
  mesh = make_mesh(config)
  tokens = jax.NamedSharding(mesh, transports.TOKENS)
  kernels = {n: jax.NamedSharding(mesh, rules.spec(a)) for n, a in transports.EXPERT_AXES.items()}
  apply = jax.jit(
    lambda *a: delivered(*a).out, in_shardings=(tokens,) * 4 + (kernels,), out_shardings=tokens
  )
  shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), problem())
  with rules.enter(mesh, config):
    report = ahead_of_time.report(apply.lower(*shapes).compile())
  assert report.collectives == wanted
