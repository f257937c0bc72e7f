"""A mesh uses every device, or says in one line which key to change."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from ernie_jax.config import build
from ernie_jax.errors import UserError
from ernie_jax.sharding import mesh as meshes
from ernie_jax.sharding import rules
from ernie_jax.sharding.mesh import MeshConfig, make_mesh


@pytest.mark.parametrize(
  ("config", "wanted"),
  [
    (MeshConfig(), {"data": 8}),
    (MeshConfig(expert=4), {"data": 2, "expert": 4}),
    (MeshConfig(data=1, fsdp=-1, tensor=2), {"fsdp": 4, "tensor": 2}),
    (MeshConfig(data=2, fsdp=2, context=2), {"data": 2, "fsdp": 2, "context": 2}),
  ],
)
def test_minus_one_takes_whatever_devices_are_left(config, wanted):
  mesh = make_mesh(config)
  assert {axis: size for axis, size in mesh.shape.items() if size > 1} == wanted
  assert mesh.axis_names == meshes.AXES
  assert all(kind == jax.sharding.AxisType.Auto for kind in mesh.axis_types)


def test_axes_that_spell_out_a_smaller_mesh_get_the_first_devices():
  mesh = make_mesh(MeshConfig(data=1, expert=2))
  assert list(mesh.devices.flat) == jax.devices()[:2]


def test_a_cpu_is_split_among_the_cores_of_the_process_and_each_stage_takes_what_it_asks_for():
  code = """
import jax
from ernie_jax.sharding import mesh
mesh._cores = lambda: 3
mesh.split_cpu(8)
config = mesh.MeshConfig
print(len(jax.devices()), *(mesh.make_mesh(config(cpu_split=n)).size for n in (0, 1, 2, 4)))
"""
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout.split() == ["2", "1", "1", "2", "2"]


@pytest.mark.parametrize(
  ("config", "message"),
  [
    (MeshConfig(expert=3), r"config\.mesh\.expert=3 does not divide 8 devices$"),
    (MeshConfig(fsdp=4, tensor=4), r"config\.mesh\.tensor=4 .* 8 devices \(2 left by the other"),
  ],
)
def test_a_mesh_that_does_not_divide_the_devices_names_the_key(config, message):
  with pytest.raises(UserError, match=message):
    make_mesh(config)


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"tensor": 0}, "tensor must be positive"),
    ({"cpu_split": -1}, "cpu_split must not be negative"),
    ({"fsdp": -1}, "only one axis may be -1"),
    ({"stage": 2}, "stage must be 1"),
    ({"capacity_factor": 0.0}, "capacity_factor must be positive"),
    ({"transport": "pigeon"}, r"config\.mesh\.transport must be one of"),
    ({"experts": 2}, r"config\.mesh\.experts; did you mean config\.mesh\.expert"),
  ],
)
def test_a_bad_mesh_config_names_the_key(values, message):
  with pytest.raises(UserError, match=message):
    build(MeshConfig, values, path="config.mesh")


def test_one_device_is_no_mesh_at_all():
  """So that a run on one device compiles the very program it would compile without a mesh."""
  mesh = make_mesh(MeshConfig(), jax.devices()[:1])
  with rules.enter(mesh):
    assert meshes.active_mesh() is None
    entered = jax.jit(constrained).lower(jnp.ones((2, 2))).as_text()
  assert entered == jax.jit(constrained).lower(jnp.ones((2, 2))).as_text()


def test_simulated_devices_that_cannot_be_had_are_a_user_error():
  with pytest.raises(UserError, match=r"config\.mesh\.simulated_devices=5 cannot be had"):
    meshes.simulate_devices(5)


def test_simulated_devices_that_are_there_are_accepted():
  meshes.simulate_devices(8)
  meshes.simulate_devices(0)
  assert jax.device_count() == 8


def test_quick_compiling_leaves_the_last_word_to_the_user(monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=1")
  meshes.compile_quickly()
  first, *_, last = os.environ["XLA_FLAGS"].split()
  assert (first, last) == (
    "--xla_backend_optimization_level=0",
    "--xla_backend_optimization_level=1",
  )


def constrained(x):
  return rules.logical_constraint(x, ("batch", "act_embed")) + 1
