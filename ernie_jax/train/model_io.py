"""A trained model on disk: what every tool that is not the trainer reads and writes.

A workdir holds `config.json` (the experiment as it was built) and `checkpoints/STEP` with at least
`params` and `variables` (the routers' bias and measured use); the text tokenizer is an asset beside them.
A model with vision keeps its visual tokenizer's parameters in `variables` and its shape as an asset; a
model with audio its codec likewise, and the voices of the speakers that it was trained on.
Training adds optimizer state; a sliced or converted model has none and is otherwise the same.
"""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from ernie_jax import config as config_lib
from ernie_jax.audio.codec import CodecConfig
from ernie_jax.backbone.config import ModelConfig
from ernie_jax.elastic.family import ElasticConfig
from ernie_jax.errors import UserError
from ernie_jax.media import MediaConfig, Vision
from ernie_jax.speech import Speech
from ernie_jax.text.tokenizer import Tokenizer
from ernie_jax.train import checkpoint
from ernie_jax.vision.tokenizer import TokenizerConfig
from ernie_jax.vision.understand import UnderstandConfig
from ernie_jax.whole_file import written_whole

TOKENIZER = "tokenizer.model"
VISUAL_TOKENIZER = "visual_tokenizer_{bits}.json"  # a run may switch to more bits
CODEC, VOICES = "audio_codec.json", "voices.json"


@dataclasses.dataclass
class SavedModel:
  """A model with all that is needed to run it.

  Attributes:
    config: the experiment's config as a plain dict, with `model` and `elastic`.
    model, elastic: the same, built and checked.
    params: nested dicts of NumPy arrays.
    bias, usage: float32 [N, E], the routers' bias and the measured use of their experts.
    tokenizer: None for an imported checkpoint that has its own.
    step: the training step it was saved at.
    vision: the visual tokenizer and the encoders' configs; None without vision.
    speech: the audio codec; None without audio.
    voices: float32 [S] of each speaker by name, from training.
  """

  config: dict[str, Any]
  model: ModelConfig
  elastic: ElasticConfig
  params: Any
  bias: np.ndarray
  usage: np.ndarray
  tokenizer: Tokenizer | None
  step: int
  vision: Vision | None = None
  speech: Speech | None = None
  voices: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


def model_workdir(workdir: str | pathlib.Path) -> pathlib.Path:
  """The folder of a pipeline's last model, where `workdir` is a pipeline's; otherwise `workdir`.

  Raises:
    UserError: the pipeline's record or a stage's config is not JSON.
  """
  workdir = pathlib.Path(workdir)
  if not (workdir / "pipeline.json").exists():
    return workdir
  folders = [workdir / name for name in _read_json(workdir / "pipeline.json")]  # in their order
  there = [folder for folder in folders if (folder / "config.json").exists()]
  models = [folder for folder in there if _is_model(_read_json(folder / "config.json"))]
  return models[-1] if models else workdir


def read_config(workdir: str | pathlib.Path) -> dict[str, Any]:
  """The experiment's config of a workdir, of the model of a pipeline's.

  Raises:
    UserError: the workdir or its config is not there, cannot be read, or is not JSON of a model.
  """
  path = model_workdir(workdir) / "config.json"
  if not path.exists():
    raise UserError(f"--workdir: no trained model in {workdir} (there is no {path.name})")
  values = _read_json(path)
  if not _is_model(values):
    raise UserError(f"{path} is not the config of a model: it has no model and elastic")
  return values


def _read_json(path: pathlib.Path) -> Any:
  try:
    return json.loads(path.read_text())
  except OSError as e:
    raise UserError(f"cannot read {path}: {e.strerror}") from e
  except ValueError as e:
    raise UserError(f"{path} is not valid JSON: {e}") from e


def _is_model(values: Any) -> bool:
  """Whether a config is a model's."""
  return isinstance(values, dict) and {"model", "elastic"} <= set(values)


def write_config(workdir: str | pathlib.Path, config: dict[str, Any]) -> None:
  """Writes config.json so that it appears whole."""
  with written_whole(pathlib.Path(workdir) / "config.json") as part:
    part.write_text(json.dumps(config, indent=2) + "\n")


def load_model(workdir: str | pathlib.Path, *, step: int | None = None) -> SavedModel:
  """Reads the newest checkpoint of a workdir, or that of `step`, into host memory.

  Args:
    workdir: of a model, or of the pipeline that trained it.
    step: of the checkpoint; None for the newest.

  Raises:
    UserError: no model there, or no such step.
  """
  workdir = model_workdir(workdir)
  values = read_config(workdir)
  folder = pathlib.Path(workdir) / "checkpoints"
  known = checkpoint.steps(folder)
  if not known:
    raise UserError(f"--workdir: {workdir} has no complete checkpoint yet")
  step = known[-1] if step is None else step
  if step not in known:
    raise UserError(f"--step: no checkpoint of step {step} in {workdir}; there are {known}")
  variables = checkpoint.load_params(folder, step, subtree="variables")
  asset = folder / "assets" / TOKENIZER
  model = config_lib.build(ModelConfig, values["model"], path="config.model")
  vision = _vision(folder, values, step, variables.get("tokenizer"))
  if vision is not None:  # the config may be ahead of a checkpoint before a switch to more bits
    model = dataclasses.replace(model, vision=vision.config.tokenizer.quantizer)
  return SavedModel(
    config=values,
    model=model,
    elastic=config_lib.build(ElasticConfig, values["elastic"], path="config.elastic"),
    params=checkpoint.load_params(folder, step, subtree="params"),
    bias=variables["bias"],
    usage=variables["usage"],
    tokenizer=Tokenizer.load(asset) if asset.exists() else None,
    step=step,
    vision=vision,
    speech=_speech(folder, variables.get("codec")),
    voices=read_voices(folder),
  )


def stored_bits(folder: pathlib.Path, step: int | None = None) -> int | None:
  """Bits of the visual code that a checkpoint (None: the newest) was saved with; None without vision."""
  found = checkpoint.metadata(folder, step).get("params/vision/input")
  return None if found is None else found.shape[0]


def read_media_config(
  folder: pathlib.Path, values: dict[str, Any], bits: int | None
) -> MediaConfig | None:
  """The encoders' configs beside checkpoints of so many bits; None where there is no visual tokenizer.

  Raises:
    UserError: they cannot be read.
  """
  path = folder / "assets" / VISUAL_TOKENIZER.format(bits=bits)
  if bits is None or not path.exists():
    return None
  stored = _read_json(path)
  understand = values.get("vision", {}).get("understand", {})
  return MediaConfig(
    tokenizer=config_lib.build(TokenizerConfig, stored, path=str(path)),
    understand=config_lib.build(UnderstandConfig, understand, path="config.vision.understand"),
  )


def write_media_config(folder: pathlib.Path, tokenizer: TokenizerConfig) -> None:
  """Stores the shape of the visual tokenizer beside the checkpoints."""
  name = VISUAL_TOKENIZER.format(bits=tokenizer.quantizer.bits)
  with written_whole(folder / "assets" / name) as part:
    part.write_text(json.dumps(config_lib.to_dict(tokenizer), indent=2) + "\n")


def read_voices(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """The voices stored beside checkpoints; none without audio.

  Raises:
    UserError: they cannot be read.
  """
  path = folder / "assets" / VOICES
  if not path.exists():
    return {}
  return {name: np.asarray(v, np.float32) for name, v in _read_json(path).items()}


def write_audio_assets(
  folder: pathlib.Path, codec: CodecConfig, voices: dict[str, np.ndarray]
) -> None:
  """Stores the shape of the audio codec and the speakers' voices beside the checkpoints."""
  listed = {name: [round(float(x), 5) for x in voice] for name, voice in voices.items()}
  for name, values in ((CODEC, config_lib.to_dict(codec)), (VOICES, listed)):
    with written_whole(folder / "assets" / name) as part:
      part.write_text(json.dumps(values, indent=2) + "\n")


def read_codec_shape(folder: pathlib.Path) -> CodecConfig | None:
  """The config of the audio codec stored beside checkpoints; None without audio.

  Raises:
    UserError: it cannot be read.
  """
  path = folder / "assets" / CODEC
  return config_lib.build(CodecConfig, _read_json(path), path=str(path)) if path.exists() else None


def _speech(folder: pathlib.Path, codec: Any) -> Speech | None:
  config = read_codec_shape(folder)
  return None if config is None or codec is None else Speech(config, **codec)


def _vision(
  folder: pathlib.Path, values: dict[str, Any], step: int, tokenizer: Any
) -> Vision | None:
  config = read_media_config(folder, values, stored_bits(folder, step))
  return None if config is None or tokenizer is None else Vision(config, tokenizer)


def save_model(workdir: str | pathlib.Path, saved: SavedModel) -> None:
  """Writes an ordinary checkpoint without optimizer state.

  Raises:
    UserError: the workdir already holds a checkpoint.
  """
  folder = pathlib.Path(workdir) / "checkpoints"
  if checkpoint.steps(folder):
    raise UserError(f"{workdir} already holds a model; choose an empty directory")
  values = dict(saved.config)
  values["model"] = config_lib.to_dict(saved.model)
  values["elastic"] = config_lib.to_dict(saved.elastic)
  write_config(workdir, values)
  state = {"params": saved.params, "variables": {"bias": saved.bias, "usage": saved.usage}}
  if saved.vision is not None:
    state["variables"]["tokenizer"] = saved.vision.tokenizer
    write_media_config(folder, saved.vision.config.tokenizer)
  if saved.speech is not None:
    state["variables"]["codec"] = saved.speech.frozen
    write_audio_assets(folder, saved.speech.config, saved.voices)
  if saved.tokenizer is not None:
    saved.tokenizer.save(folder / "assets" / TOKENIZER)
  with checkpoint.Checkpoints(str(folder)) as checkpoints:
    checkpoints.save(saved.step, state, {})
