"""How long Muon's update of a model takes beside optax's, on data-parallel devices that each have all parameters.

  python -m benchmarks.muon [--config=FILE] [--devices=2] [--json=PATH]

Only the parameters that Muon owns, of their shapes, with random gradients; their runs interleaved, medians.
"""

import json
import math
import os

import flax.linen as nn
import jax
from absl import flags
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import config_flags
from optax.contrib import scale_by_muon as optax_muon

from benchmarks.grouped_matmul import FLAGS, measure  # and its --repeats and --json
from ernie_jax import cli
from ernie_jax.sharding import rules
from ernie_jax.sharding.mesh import MeshConfig, make_mesh, simulate_devices
from ernie_jax.train.experiment import build_experiment
from ernie_jax.train.muon import scale_by_muon
from ernie_jax.train.optimizer import matrix_axes
from ernie_jax.train.pretrain import Pretrain

CONFIG = config_flags.DEFINE_config_file("config", "experiments/quickstart.py", "Whose model.")
DEVICES = flags.DEFINE_integer("devices", None, "Of a CPU; default: its cores.")


def main(argv) -> None:
  del argv
  devices = DEVICES.value or os.cpu_count() or 1
  simulate_devices(devices)
  config = MeshConfig(data=devices)
  with rules.enter(mesh := make_mesh(config), config):
    shapes = _matrices()
    everywhere = NamedSharding(mesh, PartitionSpec())
    keys = jax.random.split(jax.random.key(0), len(shapes))
    draw = lambda key, shape: jax.device_put(jax.random.normal(key, shape), everywhere)
    gradients = {name: draw(key, shape) for key, (name, shape) in zip(keys, shapes.items())}
    axes = lambda tree: {name: matrix_axes(name, leaf) for name, leaf in tree.items()}
    transforms = {
      "optax": optax_muon(ns_steps=5, beta=0.95, weight_dimension_numbers=axes),
      "ours": scale_by_muon(axes, iterations=5, momentum=0.95),
    }
    states = {name: jax.jit(t.init)(gradients) for name, t in transforms.items()}
    updates = {name: jax.jit(t.update) for name, t in transforms.items()}
    ms = measure(
      {name: lambda name=name: updates[name](gradients, states[name]) for name in transforms},
      FLAGS.repeats,
    )
  count = sum(math.prod(shape) for shape in shapes.values())
  print(f"{len(shapes)} parameters of Muon's, {count / 1e6:.2f} M numbers, {devices} devices")
  for name, value in ms.items():
    print(f"{name:5s} {value:7.1f} ms, {value / ms['optax']:.2f} of optax's")
  if FLAGS.json:
    with open(FLAGS.json, "w") as f:
      json.dump({"devices": devices, "milliseconds": ms}, f, indent=2)


def _matrices() -> dict[str, tuple[int, ...]]:
  """Shapes of the parameters that Muon owns, by path; of a pipeline, its model's."""
  values = CONFIG.value
  experiment = build_experiment(values.stages.model if "stages" in values else values)
  task = Pretrain(experiment.model, experiment.elastic, experiment.objective)
  params = jax.eval_shape(lambda key: nn.unbox(task.init(key)[0]), jax.random.key(0))
  flat = traverse_util.flatten_dict(params, sep="/")
  return {name: leaf.shape for name, leaf in flat.items() if matrix_axes(name, leaf)}


if __name__ == "__main__":
  cli.run(main)
