"""A converted encoder on disk: what adaptation starts from, what teaches, what `convert` reads and writes.

A workdir holds `config.json` (with the encoder's kind as a key, and no `model`, so that no other command takes
it for a language model) and `checkpoints/STEP` with `params`.
"""

import dataclasses
import json
import pathlib
from typing import Any, Literal

from ernie_jax import config as config_lib
from ernie_jax.audio.whisper import WhisperConfig
from ernie_jax.train import checkpoint
from ernie_jax.train.model_io import write_config
from ernie_jax.train.stage_io import chosen_step, read_stage_config
from ernie_jax.vision.vit import VitConfig

Kind = Literal["vit", "whisper"]
_CONFIGS = {"vit": VitConfig, "whisper": WhisperConfig}
_WHAT = {"vit": "vision transformer", "whisper": "Whisper encoder"}


@dataclasses.dataclass
class SavedEncoder:
  """An encoder with all that is needed to run it.

  Attributes:
    values: the experiment's config as a plain dict.
    config: the encoder's, built and checked.
    params: nested dicts of NumPy arrays, as `VisionTransformer` or `WhisperEncoder` takes them.
    step: the training step it was saved at.
  """

  values: dict[str, Any]
  config: VitConfig | WhisperConfig
  params: Any
  step: int


def held_kind(workdir: str | pathlib.Path) -> Kind | None:
  """Which encoder a workdir's config says that it holds; None: it holds none."""
  try:
    values = json.loads((pathlib.Path(workdir) / "config.json").read_text())
  except (OSError, ValueError):
    return None
  return next((kind for kind in _CONFIGS if isinstance(values, dict) and kind in values), None)


def load_encoder(
  workdir: str | pathlib.Path, kind: Kind, *, step: int | None = None
) -> SavedEncoder:
  """Reads the newest checkpoint of a workdir, or that of `step`, into host memory.

  Raises:
    UserError: no encoder of this kind there, or no such step.
  """
  values = read_stage_config(workdir, key=kind, what=_WHAT[kind])
  step = chosen_step(workdir, step, what=_WHAT[kind])
  return SavedEncoder(
    values=values,
    config=config_lib.build(_CONFIGS[kind], values[kind], path=f"config.{kind}"),
    params=checkpoint.load_params(
      pathlib.Path(workdir) / "checkpoints", step, subtree=_subtree(values)
    ),
    step=step,
  )


def _subtree(values: dict[str, Any]) -> str:
  """Where the encoder lies: beside the layer that taught it, where it was trained here."""
  return "params/vit" if values.get("stage") == "visual_encoder" else "params"


def save_encoder(workdir: str | pathlib.Path, saved: SavedEncoder) -> None:
  """Writes an ordinary checkpoint without optimizer state into a workdir that holds none."""
  kind = next(kind for kind, config in _CONFIGS.items() if isinstance(saved.config, config))
  write_config(workdir, dict(saved.values) | {kind: config_lib.to_dict(saved.config)})
  with checkpoint.Checkpoints(str(pathlib.Path(workdir) / "checkpoints")) as checkpoints:
    checkpoints.save(saved.step, {"params": saved.params}, {})
