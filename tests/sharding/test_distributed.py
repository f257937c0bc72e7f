"""Two processes make one run; a coordinator half given is a user error."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from ernie_jax.errors import UserError
from ernie_jax.sharding import distributed
from ernie_jax.sharding.mesh import MeshConfig, make_mesh

SCRIPT = pathlib.Path(__file__).parent / "two_processes.py"


@pytest.mark.parametrize("transport", ["all_to_all", "ring"])
def test_two_processes_with_two_devices_each_agree_with_one(transport):
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
  shared = {
    **os.environ,
    "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
    "JAX_NUM_PROCESSES": "2",
    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
  }
  processes = [
    subprocess.Popen(
      [sys.executable, str(SCRIPT), transport],
      env={**shared, "JAX_PROCESS_ID": str(index)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  try:
    outputs = [p.communicate(timeout=60) for p in processes]
  finally:
    for p in processes:
      p.kill()
  for index, (out, err) in enumerate(outputs):
    assert f"process {index} agrees" in out, err[-3000:]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({}, r"not num_processes; set it or JAX_NUM_PROCESSES"),
    ({"num_processes": 2}, r"not process_id; set it or JAX_PROCESS_ID"),
    ({"num_processes": 2, "process_id": 2}, r"process_id=2 must be .* below num_processes=2"),
  ],
)
def test_a_coordinator_without_the_rest_is_a_user_error(arguments, message, monkeypatch):
  monkeypatch.delenv("JAX_NUM_PROCESSES", raising=False)
  monkeypatch.delenv("JAX_PROCESS_ID", raising=False)
  with pytest.raises(UserError, match=message):
    distributed.initialize("127.0.0.1:1", **arguments)


def test_without_a_coordinator_there_is_one_process(monkeypatch):
  monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
  distributed.initialize()
  assert jax.process_count() == 1


def test_a_batch_is_divided_over_the_batch_axes_and_comes_back_whole():
  mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
  batch = {"token": np.arange(24).reshape(8, 3), "weight": np.ones(8)}
  there = distributed.host_batch_to_global(batch, mesh)
  assert there["token"].addressable_shards[0].data.shape == (2, 3)
  assert distributed.host_slice(mesh) == distributed.HostSlice(0, 1)
  np.testing.assert_array_equal(distributed.fetch(there)["token"], batch["token"])


def test_micro_batches_keep_their_leading_axis():
  there = distributed.host_batch_to_global(
    np.ones((3, 8, 2)), make_mesh(MeshConfig()), batch_axis=1
  )
  assert there.addressable_shards[0].data.shape == (3, 1, 2)


def test_a_batch_that_the_mesh_does_not_divide_names_the_keys():
  message = r"a batch of 6 rows does not divide by config\.mesh\.data=8"
  with pytest.raises(UserError, match=message):
    distributed.host_batch_to_global(np.ones((6, 3)), make_mesh(MeshConfig()))
