"""One of two processes with two devices each: run by test_distributed.py, not by hand.

Each reads its half of a batch, takes one expert-parallel step across the process boundary, and checks
the result against the whole computed alone.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from ernie_jax.sharding import distributed, rules, transports
from ernie_jax.sharding.mesh import MeshConfig, make_mesh, simulate_devices

ROWS, LENGTH, WIDTH, EXPERTS, K = 8, 4, 8, 4, 2


def local_experts(x, experts, gates, live, weights):
  """One matrix for each expert."""
  chosen = jax.nn.one_hot(experts, weights.shape[0]) * jnp.where(live, gates, 0)[..., None]
  return jnp.einsum("tke,td,edf->tf", chosen, x, weights)


def layer(batch, weights):
  arguments = (batch["x"], batch["experts"], batch["gates"], batch["gates"] > 0.1)
  return transports.deliver(
    *arguments, weights, local_fn=local_experts, weight_axes=("experts", "embed", None)
  ).out


def main(transport: str) -> None:
  distributed.initialize()
  simulate_devices(2)
  config = MeshConfig(expert=4, transport=transport)
  mesh = make_mesh(config)
  assert (jax.process_count(), mesh.size) == (2, 4)

  rng = np.random.default_rng(0)  # the same on both
  whole = {
    "x": rng.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32),
    "experts": rng.integers(0, EXPERTS, (ROWS, LENGTH, K)).astype(np.int32),
    "gates": rng.random((ROWS, LENGTH, K)).astype(np.float32),
  }
  weights = rng.normal(size=(EXPERTS, WIDTH, WIDTH)).astype(np.float32)
  part = distributed.host_slice(mesh)
  assert (part.index, part.count) == (jax.process_index(), 2)
  rows = slice(part.index * ROWS // part.count, (part.index + 1) * ROWS // part.count)
  batch = distributed.host_batch_to_global(jax.tree.map(lambda a: a[rows], whole), mesh)

  loss = lambda w, b: jnp.sum(layer(b, w) ** 2)
  with rules.enter(mesh, config):
    total = jax.jit(lambda b: b["x"].sum())(batch)
    out = jax.jit(layer)(batch, weights)
    gradient = jax.jit(jax.grad(loss))(weights, batch)
  out, gradient, total = distributed.fetch((out, gradient, total))
  np.testing.assert_allclose(total, whole["x"].sum(), rtol=1e-5)
  np.testing.assert_allclose(out, layer(whole, weights), rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(gradient, jax.grad(loss)(weights, whole), rtol=1e-4, atol=1e-4)
  print(f"process {jax.process_index()} agrees")


if __name__ == "__main__":
  main(*sys.argv[1:])
