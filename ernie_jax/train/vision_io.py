"""The frozen visual tokenizer of a run: where it comes from, and the switch to one of more bits."""

import dataclasses
import pathlib
from typing import Any

import jax

from ernie_jax import config as config_lib
from ernie_jax.backbone.vision_io import grow_bits
from ernie_jax.errors import UserError
from ernie_jax.media import FROZEN_ENCODER, MediaConfig, Vision
from ernie_jax.speech import Speech
from ernie_jax.train import checkpoint
from ernie_jax.train.encoder_io import load_encoder
from ernie_jax.train.experiment import Experiment
from ernie_jax.train.model_io import SavedModel, read_media_config, stored_bits, write_media_config
from ernie_jax.train.pretrain import Pretrain
from ernie_jax.train.stage_io import first_difference
from ernie_jax.train.state import TrainState
from ernie_jax.train.tokenizer_io import load_tokenizer
from ernie_jax.vision.quantizer import QuantizerConfig

_FREE = ("remat", "dtype")  # of an encoder: how it is run, not what it is


def get_vision(
  experiment: Experiment, workdir: pathlib.Path, start: SavedModel | None = None
) -> Vision | None:
  """The frozen visual tokenizer: that of the newest checkpoint, or on the first run the config's or `start`'s.

  Raises:
    UserError: it is not there, or does not fit the config.
  """
  e, folder = experiment, workdir / "checkpoints"
  if e.model.vision is None:
    return None
  if checkpoint.steps(folder) and stored_bits(folder) == e.model.vision.bits:
    return _stored_vision(e, workdir)
  encoder = _get_encoder(e, folder, start)
  if start is not None and not e.vision.tokenizer:
    if jax.process_index() == 0:
      write_media_config(folder, start.vision.config.tokenizer)
    return dataclasses.replace(start.vision, encoder=encoder)
  if not e.vision.tokenizer:
    raise UserError("config.vision.tokenizer must be the workdir of a trained visual tokenizer")
  saved = load_tokenizer(e.vision.tokenizer)
  if saved.config.quantizer != e.model.vision:
    raise UserError(
      f"config.model.vision is {code_name(e.model.vision)}, but the tokenizer in {e.vision.tokenizer} has"
      f" {code_name(saved.config.quantizer)}"
    )
  try:
    config = MediaConfig(tokenizer=saved.config, understand=e.vision.understand)
    slots = e.data.media.slots
    if e.data.media.sources:
      if slots.side != saved.config.side:
        raise ValueError(f"the tokenizer reads {saved.config.side} pixels a side, not {slots.side}")
      if slots.drawn_videos or slots.seen_videos:
        saved.config.latent_frames(slots.frames)
      config.shapes()
  except ValueError as error:
    raise UserError(f"config.vision: {error}") from error
  if jax.process_index() == 0:
    write_media_config(folder, saved.config)
  return Vision(config, saved.params, encoder)


def _get_encoder(experiment: Experiment, folder: pathlib.Path, start: SavedModel | None) -> Any:
  """The parameters of the frozen encoder: the newest checkpoint's, `start`'s or those of the config; or None.

  Raises:
    UserError: it is not there, or of another shape than the config's.
  """
  e = experiment
  if not e.vision.encoder:
    return None
  if checkpoint.steps(folder):
    return checkpoint.load_params(folder, subtree=f"params/{FROZEN_ENCODER}")
  if start is not None and start.vision is not None:
    return start.params["understand"]["vit"]
  saved = load_encoder(e.vision.encoder, "vit")
  old, new = (config_lib.to_dict(c) for c in (saved.config, e.vision.understand.vit))
  if found := first_difference(old, new, "config.vision.understand.vit", _FREE):
    raise UserError(f"config.vision.encoder: {e.vision.encoder} is of another shape: {found}")
  return saved.params


def _stored_vision(experiment: Experiment, workdir: pathlib.Path) -> Vision:
  """The visual tokenizer of the newest checkpoint."""
  folder = workdir / "checkpoints"
  config = read_media_config(folder, config_lib.to_dict(experiment), stored_bits(folder))
  if config is None:
    raise UserError(f"--workdir: {workdir} holds a checkpoint without a visual tokenizer")
  tokenizer = checkpoint.load_params(folder, subtree="variables/tokenizer")
  return Vision(config, tokenizer, _get_encoder(experiment, folder, None))


def before_switch(
  experiment: Experiment,
  workdir: pathlib.Path,
  vision: Vision | None,
  speech: Speech | None,
) -> Pretrain | None:
  """The task of a checkpoint with fewer bits, from which this run switches; None if there is none."""
  if vision is None or not checkpoint.steps(workdir / "checkpoints"):
    return None
  old = _stored_vision(experiment, workdir)
  if old.config.tokenizer.quantizer == experiment.model.vision:
    return None
  model = dataclasses.replace(experiment.model, vision=old.config.tokenizer.quantizer)
  return Pretrain(model, experiment.elastic, experiment.objective, old, speech)


def switch_tokenizer(state: TrainState, before: Pretrain, after: Pretrain) -> TrainState:
  """The state of a run that goes on with a visual tokenizer of more bits (ERNIE 5.0, section 3.1).

  Parameters and the optimizer's moments of new bits begin at zero; everything else goes on.
  """
  old, new = before.config.vision.bits, after.config.vision.bits
  grow = lambda tree: grow_bits(tree, old, new)
  return state.replace(
    params=grow(state.params),
    opt_state=grow(state.opt_state),
    variables=state.variables.replace(
      tokenizer=jax.tree.map(jax.numpy.asarray, after.vision.tokenizer)
    ),
  )


def code_name(code: QuantizerConfig) -> str:
  return f"{code.bits} bits on the sides {','.join(map(str, code.sides))}"
