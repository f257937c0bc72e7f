"""Runs of several seeds: trained or reused, and their figures as means and standard deviations."""

import dataclasses
import pathlib
import statistics
from collections.abc import Mapping, Sequence

from ernie_jax.train import run as run_lib
from ernie_jax.train.experiment import Experiment
from ernie_jax.train.model_io import SavedModel, load_model


def trained(experiment: Experiment, workdir: pathlib.Path, *, seed: int) -> SavedModel:
  """The model of a seed of an experiment: resumed where it stopped, trained now if it is not there."""
  data = dataclasses.replace(experiment.data, seed=seed)
  experiment = dataclasses.replace(experiment, seed=seed, data=data)
  run_lib.run_experiment(experiment, workdir, with_report=False)
  return load_model(workdir)


def table(
  runs: Mapping[str, Sequence[Mapping[str, float]]], beside: Mapping[str, Mapping[str, float]]
) -> str:
  """Mean and standard deviation of each figure of each variant over its runs, and figures to stand beside them."""
  names = list(next(iter(runs.values()))[0])
  lines = [f"{'':14}" + "".join(f"{name:>20}" for name in names)]
  for variant, scores in runs.items():
    cells = []
    for name in names:
      values = [score[name] for score in scores]
      spread = statistics.stdev(values) if len(values) > 1 else 0.0
      cells.append(f"{statistics.mean(values):.3f} +- {spread:.3f}")
    lines.append(f"{variant:14}" + "".join(f"{cell:>20}" for cell in cells))
  for title, values in beside.items():
    cells = "".join(f"{values[name]:>20.3f}" if name in values else f"{'':20}" for name in names)
    lines.append(f"{title:14}{cells}")
  return "\n".join(lines)
