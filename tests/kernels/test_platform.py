"""Kernels choose by the platform that is compiled for, which need not be the one that compiles."""

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from ernie_jax.kernels.blocked_attention import block_for
from ernie_jax.kernels.grouped_matmul import resolve
from ernie_jax.kernels.platform import platform


@pytest.mark.parametrize(
  ("name", "block", "experts"),
  [("tpu", 128, "megablox"), ("gpu", 128, "ragged"), ("cpu", 64, "blocked")],
)
def test_an_entered_mesh_decides(name, block, experts):
  device = AbstractDevice(device_kind=name, num_cores=None, platform=name)
  with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("data",), abstract_device=device)):
    assert (platform(), block_for(300, 300), resolve("auto")) == (name, block, experts)
    assert block_for(20, 10) == 32  # no larger than the row needs


def test_without_a_mesh_it_is_the_default():
  assert platform() == jax.default_backend()
