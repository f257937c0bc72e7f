"""What the training command can train: each stage builds its experiment from a config, and runs it."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from ernie_jax.errors import UserError

# Named, not imported: a stage's program loads no other stage.
_STAGES = {
  "pretrain": ("experiment:build_experiment", "run:run_experiment"),
  "visual_tokenizer": (
    "visual_tokenizer_run:build_experiment",
    "visual_tokenizer_run:run_experiment",
  ),
  "visual_encoder": ("visual_encoder_run:build_experiment", "visual_encoder_run:run_experiment"),
  "audio_codec": ("audio_codec_run:build_experiment", "audio_codec_run:run_experiment"),
  "text_tokenizer": (
    "text_tokenizer_run:build_experiment",
    "text_tokenizer_run:run_experiment",
    "text_tokenizer_run:counted",
  ),
  "pipeline": ("pipeline_run:build_experiment", "pipeline_run:run_experiment"),
}


@dataclasses.dataclass(frozen=True)
class Stage:
  """One kind of training.

  Attributes:
    build: checks a whole config (anything that maps its keys to values) and gives the experiment.
    run: does what is left to do of an experiment in a workdir.
    counted: what of a whole config, as a plain dict, has a part in what is trained; by default all of it.
  """

  build: Callable[[Any], Any]
  run: Callable[..., None]
  counted: Callable[[dict[str, Any]], dict[str, Any]] = dict


def stage_of(values: Mapping[str, Any]) -> Stage:
  """The stage that a config's key `stage` names; pre-training where it has none.

  Raises:
    UserError: an unknown stage.
  """
  name = values.get("stage", "pretrain")
  if name not in _STAGES:
    raise UserError(f"config.stage must be one of {', '.join(_STAGES)}, got {name!r}")
  return Stage(*map(_find, _STAGES[name]))


def _find(name: str) -> Callable:
  module, function = name.split(":")
  return getattr(importlib.import_module(f"ernie_jax.train.{module}"), function)
