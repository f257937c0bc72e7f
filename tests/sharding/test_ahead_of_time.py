"""A report says what a compiled program needs, for simulated devices and for TPU slices."""

import jax
import jax.numpy as jnp
import pytest

from ernie_jax.errors import UserError
from ernie_jax.sharding import ahead_of_time, rules, transports
from ernie_jax.sharding.mesh import MeshConfig, make_mesh

N = 256


def test_report_counts_flops_and_bytes_of_a_matmul():
  shape = jax.ShapeDtypeStruct((N, N), jnp.float32)
  report = ahead_of_time.compile_report(lambda a, b: a @ b, (shape, shape))
  assert report.flops == pytest.approx(2 * N**3, rel=0.01)
  assert report.argument_bytes == 2 * 4 * N * N
  assert report.output_bytes == 4 * N * N
  assert report.collectives == {}


def test_a_donated_argument_is_not_counted_twice():
  shape = jax.ShapeDtypeStruct((N, N), jnp.float32)
  report = ahead_of_time.compile_report(lambda a: a + 1, (shape,), donate_argnums=0)
  assert report.alias_bytes == 4 * N * N
  assert report.peak_bytes == 4 * N * N + report.temp_bytes


def test_collectives_are_counted_once_each_synchronous_or_not():
  hlo = """
    %a = f32[8] all-reduce(%x), channel_id=1
    %b = (f32[8], f32[64]) all-gather-start(%a), channel_id=2
    %c = f32[64] all-gather-done(%b)
    %d = f32[8] all-to-all(%a), channel_id=3
    %e = f32[8] ragged-all-to-all(%a, %b), channel_id=4
    ROOT %f = f32[8] fusion(%all-reduce.1)
  """
  wanted = {"all-reduce": 1, "all-gather": 1, "ragged-all-to-all": 1, "all-to-all": 1}
  assert ahead_of_time.collective_counts(hlo) == wanted


def test_the_table_has_one_line_for_each_number():
  report = ahead_of_time.Report(2**20, 2**21, 0, 2**20, 3e9, {"all-reduce": 2})
  lines = [line.split() for line in str(report).splitlines()]
  assert ["peak", "memory", "2.0", "MiB"] in lines
  assert ["compute", "3.00", "GFLOP"] in lines
  assert ["all-reduce", "2"] in lines


def test_an_unknown_tpu_slice_is_a_user_error():
  with pytest.raises(UserError, match="cannot compile for TPU topology 'v99:2x2'"):
    ahead_of_time.tpu_devices("v99:2x2")


@pytest.mark.parametrize("transport", ["all_to_all", "ring"])
def test_an_expert_layer_and_its_gradient_compile_for_a_tpu_slice(transport):
  pytest.importorskip("libtpu")
  config = MeshConfig(fsdp=2, expert=4, transport=transport)
  mesh = make_mesh(config, ahead_of_time.tpu_devices("v5p:2x2x2"))
  shape = lambda spec, *dims, dtype=jnp.float32: jax.ShapeDtypeStruct(
    dims, dtype, sharding=jax.NamedSharding(mesh, spec)
  )
  token = lambda width, dtype=jnp.float32: shape(transports.TOKENS, 8, 128, width, dtype=dtype)
  weights = shape(rules.spec(("experts", "embed", None)), 8, 128, 128)

  def loss(x, gates, weights, experts, live):
    found = transports.deliver(
      *(x, experts, gates, live, weights),
      local_fn=one_matrix,
      weight_axes=("experts", "embed", None),
    )
    return found.out.sum()

  arguments = (token(128), token(2), weights, token(2, jnp.int32), token(2, jnp.bool_))
  with rules.enter(mesh, config):
    report = ahead_of_time.compile_report(jax.grad(loss, (0, 1, 2)), arguments)
  assert report.flops > 0
  assert report.collectives["all-gather"] > 0
  assert ("all-to-all" in report.collectives) == (transport == "all_to_all")


def one_matrix(x, experts, gates, live, weights):
  chosen = jax.nn.one_hot(experts, weights.shape[0]) * jnp.where(live, gates, 0)[..., None]
  return jnp.einsum("tke,td,edf->tf", chosen, x, weights)
