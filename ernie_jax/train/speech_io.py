"""The frozen codec of a run: where it comes from, and what is kept of it beside the checkpoints."""

import pathlib

import jax

from ernie_jax.data.speech_rows import open_coded
from ernie_jax.errors import UserError
from ernie_jax.speech import Speech
from ernie_jax.train import checkpoint
from ernie_jax.train.codec_io import load_codec
from ernie_jax.train.experiment import Experiment
from ernie_jax.train.held_out_loss import coder_of
from ernie_jax.train.model_io import SavedModel, read_codec_shape, write_audio_assets


def get_speech(
  experiment: Experiment, workdir: pathlib.Path, start: SavedModel | None = None
) -> Speech | None:
  """The audio codec: that of the newest checkpoint, or on the first run the config's or `start`'s.

  On the first run the corpus is encoded, and the voices of its speakers are kept.

  Raises:
    UserError: it is not there, or does not fit the config.
  """
  e, folder = experiment, workdir / "checkpoints"
  if e.model.audio is None:
    return None
  if checkpoint.steps(folder):
    config = read_codec_shape(folder)
    if config is None:
      raise UserError(f"--workdir: {workdir} holds a checkpoint without an audio codec")
    return Speech(config, **checkpoint.load_params(folder, subtree="variables/codec"))
  if start is not None:
    speech = start.speech
  elif e.audio.codec:
    saved = load_codec(e.audio.codec)
    speech = Speech(saved.config, saved.params, saved.vectors)
  else:
    raise UserError("config.audio.codec must be the workdir of a trained audio codec")
  try:
    speech.check(e.model.audio)
  except ValueError as error:
    raise UserError(f"config.model.audio: {error}") from error
  voices = {}
  for source in open_coded(e.data.speech, "train", coder_of(speech), data_dir=e.data.data_dir):
    voices |= source.voices()
  if jax.process_index() == 0:
    write_audio_assets(folder, speech.config, voices)
  return speech
