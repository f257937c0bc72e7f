"""A vision transformer on disk: what adaptation starts from and what `convert` reads and writes.

A workdir holds `config.json` (with the key `vit`, and no `model`, so that no other command takes it for
a language model) and `checkpoints/STEP` with `params`.
"""

import dataclasses
import json
import pathlib
from typing import Any

from ernie_jax import config as config_lib
from ernie_jax.errors import UserError
from ernie_jax.train import checkpoint
from ernie_jax.train.model_io import write_config
from ernie_jax.vision.vit import VitConfig


@dataclasses.dataclass
class SavedVit:
  """An encoder with all that is needed to run it.

  Attributes:
    config: the experiment's config as a plain dict, with `vit`.
    vit: the same, built and checked.
    params: nested dicts of NumPy arrays, as `VisionTransformer` takes them.
    step: the training step it was saved at.
  """

  config: dict[str, Any]
  vit: VitConfig
  params: Any
  step: int


def holds_vit(workdir: str | pathlib.Path) -> bool:
  """Whether a workdir's config says that it holds a vision transformer."""
  try:
    values = json.loads((pathlib.Path(workdir) / "config.json").read_text())
  except (OSError, ValueError):
    return False
  return isinstance(values, dict) and "vit" in values


def load_vit(workdir: str | pathlib.Path, *, step: int | None = None) -> SavedVit:
  """Reads the newest checkpoint of a workdir, or that of `step`, into host memory.

  Raises:
    UserError: no vision transformer there, or no such step.
  """
  if not holds_vit(workdir):
    raise UserError(f"--workdir: {workdir} holds no vision transformer (config.json with vit)")
  values = json.loads((pathlib.Path(workdir) / "config.json").read_text())
  folder = pathlib.Path(workdir) / "checkpoints"
  known = checkpoint.steps(folder)
  if not known:
    raise UserError(f"--workdir: {workdir} has no complete checkpoint yet")
  step = known[-1] if step is None else step
  if step not in known:
    raise UserError(f"--step: no checkpoint of step {step} in {workdir}; there are {known}")
  return SavedVit(
    config=values,
    vit=config_lib.build(VitConfig, values["vit"], path="config.vit"),
    params=checkpoint.load_params(folder, step, subtree="params"),
    step=step,
  )


def save_vit(workdir: str | pathlib.Path, saved: SavedVit) -> None:
  """Writes an ordinary checkpoint without optimizer state.

  Raises:
    UserError: the workdir already holds a checkpoint.
  """
  folder = pathlib.Path(workdir) / "checkpoints"
  if checkpoint.steps(folder):
    raise UserError(f"{workdir} already holds a model; choose an empty directory")
  write_config(workdir, dict(saved.config) | {"vit": config_lib.to_dict(saved.vit)})
  with checkpoint.Checkpoints(str(folder)) as checkpoints:
    checkpoints.save(saved.step, {"params": saved.params}, {})
