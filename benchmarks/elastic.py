"""What elasticity costs and gains: the text experiment trained as a family and as a plain model.

  python -m benchmarks.elastic [--json=PATH] [--seeds=3] [--lengths=1,4] [--config=FILE]

1. Step time with elastic inputs when every row runs the full configuration, against a step without
   them, rounds interleaved, medians quoted.
2. For each seed: the held-out loss of the full model of both runs (same steps, same data order), and of
   every member: cut out of the family, and cut out of the plain run by the same rule (truncation).
3. The same at longer lengths, one seed, for the trend.

Runs are kept under --workdir and resumed or reused, so the benchmark can be interrupted.
"""

import dataclasses
import json
import os
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_flags

from ernie_jax import cli
from ernie_jax.data.pipeline import held_out_sets, training_pipeline
from ernie_jax.elastic.family import activate, full_member, members_of
from ernie_jax.evaluate.held_out import score
from ernie_jax.train import run as run_lib
from ernie_jax.train import state as state_lib
from ernie_jax.train.experiment import Experiment, build_experiment
from ernie_jax.train.model_io import load_model
from ernie_jax.train.optimizer import make_optimizer
from ernie_jax.train.pretrain import Pretrain
from ernie_jax.train.schedule import make_schedule
from ernie_jax.train.step import make_step

CONFIG = config_flags.DEFINE_config_file("config", "experiments/text.py", "Config file.")
JSON = flags.DEFINE_string("json", None, "Write the figures to this file.")
WORKDIR = flags.DEFINE_string("workdir", "runs/elastic_benchmark", "Where the runs are kept.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds at the config's own length.")
LENGTHS = flags.DEFINE_list("lengths", ["1"], "Multiples of the config's steps; one seed past 1.")
ROUNDS = flags.DEFINE_integer("rounds", 15, "Timed rounds of the step time.")
ROWS = flags.DEFINE_integer("rows", 256, "Held-out rows.")

PLAIN = {"depth_full": 1.0, "width_full": 1.0, "sparsity_full": 1.0}
# Elastic inputs are there, but every draw is full: a probability that float32 rounds to one.
ALWAYS_FULL = {name: 1 - 1e-12 for name in PLAIN}


def main(argv) -> None:
  del argv
  experiment = build_experiment(CONFIG.value)
  root = pathlib.Path(WORKDIR.value)
  figures = {"cores": os.cpu_count(), "step_time": step_time(experiment), "runs": []}
  print(f"elastic inputs, all rows full: step time x {figures['step_time']['ratio']:.4f}")
  for length in map(int, LENGTHS.value):
    for seed in range(SEEDS.value if length == 1 else 1):
      figures["runs"].append(compare(experiment, root, seed=seed, length=length))
      print(json.dumps(figures["runs"][-1], indent=2), flush=True)
      _write(figures)
  _summary(figures)


def compare(experiment: Experiment, root: pathlib.Path, *, seed: int, length: int) -> dict:
  """Held-out loss of both runs' full model and members."""
  family = _trained(experiment, root / f"elastic_{seed}_{length}", seed, length, {})
  plain = _trained(experiment, root / f"plain_{seed}_{length}", seed, length, PLAIN)
  held_out = held_out_sets(experiment.data, family.tokenizer, max_rows=ROWS.value)
  full = full_member(experiment.model)

  def loss(saved, member) -> float:
    active = None
    if member != full:
      active = activate(member, saved.usage, elastic=experiment.elastic, model=experiment.model)
    return score(saved.params, saved.bias, held_out, model=saved.model, active=active).loss

  rows = {
    member.name: {"elastic": loss(family, member), "truncated_plain": loss(plain, member)}
    for member in members_of(experiment.elastic, experiment.model)
  }
  gap = rows[full.name]["elastic"] / rows[full.name]["truncated_plain"] - 1
  return {"seed": seed, "length": length, "full_gap": gap, "members": rows}


def step_time(experiment: Experiment) -> dict:
  """Median seconds of a step without elastic inputs and with them, every row full."""
  sides = {name: _stepper(experiment, e) for name, e in (("plain", PLAIN), ("full", ALWAYS_FULL))}
  seconds = {name: [] for name in sides}
  for i in range(ROUNDS.value + 2):
    for name, step in sides.items():
      start = time.perf_counter()
      step()
      if i > 1:
        seconds[name].append(time.perf_counter() - start)
  median = {name: statistics.median(s) for name, s in seconds.items()}
  return {"seconds": median, "ratio": median["full"] / median["plain"]}


def _stepper(experiment: Experiment, elastic: dict):
  e = dataclasses.replace(
    experiment, elastic=dataclasses.replace(experiment.elastic, **elastic, members=())
  )
  root = pathlib.Path(WORKDIR.value) / "step_time"
  tokenizer = run_lib.get_tokenizer(e, root)
  data = training_pipeline(e.data, tokenizer)
  batch = jax.tree.map(lambda x: jnp.asarray(x)[None], next(data))
  data.close()
  task = Pretrain(e.model, e.elastic, e.objective)
  schedule = make_schedule(e.train.schedule, e.train.steps)
  params = jax.eval_shape(lambda: state_lib.initial_params(task, e.seed))
  optimizer = make_optimizer(e.train.optimizer, schedule, params)
  state = state_lib.create(task, optimizer, e.seed)
  run = jax.jit(make_step(task, optimizer, schedule), donate_argnums=0)

  def step():
    nonlocal state
    state, report = run(state, batch, jnp.asarray(1))
    jax.block_until_ready(report)

  return step


def _trained(experiment: Experiment, workdir: pathlib.Path, seed: int, length: int, elastic: dict):
  """The saved model of a run, trained now if it is not there."""
  train = dataclasses.replace(experiment.train, steps=experiment.train.steps * length)
  switch = min(experiment.objective.mtp_switch * length, np.iinfo(np.int32).max)
  objective = dataclasses.replace(experiment.objective, mtp_switch=switch)
  first_step = experiment.elastic.first_step * length
  e = dataclasses.replace(
    experiment,
    seed=seed,
    train=train,
    objective=objective,
    elastic=dataclasses.replace(experiment.elastic, **elastic, first_step=first_step),
    data=dataclasses.replace(experiment.data, seed=seed),
  )
  run_lib.run_experiment(e, workdir, with_report=False)
  return load_model(workdir)


def _summary(figures: dict) -> None:
  for length in sorted({r["length"] for r in figures["runs"]}):
    runs = [r for r in figures["runs"] if r["length"] == length]
    gaps = [100 * r["full_gap"] for r in runs]
    print(f"\nlength x {length}, {len(runs)} seed(s): full member's loss against the plain run's:")
    print(f"  {np.mean(gaps):+.2f} % (each: {', '.join(f'{g:+.2f}' for g in gaps)})")
    print(f"  {'member':10}{'family':>10}{'truncated':>12}{'gain':>9}")
    for name in runs[0]["members"]:
      mean = lambda key, n=name, rs=runs: np.mean([r["members"][n][key] for r in rs])
      family, cut = mean("elastic"), mean("truncated_plain")
      print(f"  {name:10}{family:10.4f}{cut:12.4f}{100 * (1 - family / cut):8.1f} %")


def _write(figures: dict) -> None:
  if JSON.value:
    pathlib.Path(JSON.value).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
  cli.run(main)
