"""Compiled for a TPU, the routed experts cost their own FLOPs, forward and backward.

The compiler's cost analysis takes a Pallas kernel's FLOPs from the kernel's own declaration (2 M D F each),
so the declaration alone proves little. The test therefore also checks that the program holds exactly the nine
grouped kernels (three products, each with its two gradients) and no matrix product besides, and adds what
the declaration hides: a tile that straddles two groups is computed for both, at most one extra tile per expert
and product. With `ragged` in place of `megablox`, whose weight gradient is a dense convolution on the pinned
stack, the same count is several times the ideal.
"""

import json
import os
import re
import subprocess
import sys

from ernie_jax.kernels.megablox import row_tile

TOKENS, CHOICES, EXPERTS, WIDTH, HIDDEN = 2048, 8, 16, 512, 256
PRODUCTS = 9

PROGRAM = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ernie_jax.backbone.dispatch import expert_mlp

t, k, e, d, f = map(int, sys.argv[1:])
chip = topologies.get_topology_desc(platform="tpu", topology_name="v5p:2x2x1").devices[:1]
on_chip = NamedSharding(Mesh(np.array(chip), ("chip",)), PartitionSpec())
array = lambda dtype, *shape: jax.ShapeDtypeStruct(shape, dtype, sharding=on_chip)
bf16 = jnp.bfloat16

def step(experts, live, dout, x, gates, *weights):
  def mlp(x, gates, *weights):
    return expert_mlp(x, experts, gates, live, *weights, backend="megablox")
  out, back = jax.vjp(mlp, x, gates, *weights)
  return out, back(dout)

compiled = jax.jit(step).lower(
  array(jnp.int32, t, k), array(bool, t, k), array(bf16, t, d), array(bf16, t, d),
  array(jnp.float32, t, k), array(bf16, e, d, f), array(bf16, e, d, f), array(bf16, e, f, d),
).compile()
json.dump({"flops": compiled.cost_analysis()["flops"], "hlo": compiled.as_text()}, sys.stdout)
"""


def _compile_for_v5p():
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # another process may be compiling too
  }
  shape = [str(n) for n in (TOKENS, CHOICES, EXPERTS, WIDTH, HIDDEN)]
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM, *shape], env=environment, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout)


def test_forward_and_backward_cost_at_most_a_fifth_more_than_ideal_on_v5p():
  program = _compile_for_v5p()
  rows = TOKENS * CHOICES
  ideal = PRODUCTS * 2 * rows * WIDTH * HIDDEN
  opcodes = re.findall(r"= \S+ ([a-z-]+)\(", program["hlo"])
  kernels = program["hlo"].count('custom_call_target="tpu_custom_call"')

  assert kernels == PRODUCTS
  assert not {"dot", "convolution", "ragged-dot"} & set(opcodes)
  beside_the_kernels = program["flops"] - ideal
  straddling = row_tile(rows, EXPERTS, alignment=1) * (EXPERTS - 1) / rows
  assert beside_the_kernels >= 0
  assert ideal * (1 + straddling) + beside_the_kernels <= 1.2 * ideal
