"""One experiment as frozen dataclasses, and the ConfigDict with every key that config files edit.

A file in `experiments/` starts from `default_config()`, changes what it is about, and returns it; so each
key that exists can be overridden on the command line, and a misspelled one cannot.
"""

import dataclasses
import importlib.util
import pathlib
from typing import Any

import ml_collections

from ernie_jax import config as config_lib
from ernie_jax.backbone.config import ModelConfig
from ernie_jax.data.pipeline import DataConfig
from ernie_jax.elastic.family import ElasticConfig, check_family
from ernie_jax.errors import UserError
from ernie_jax.sequence.special import RESERVED_IDS
from ernie_jax.sharding.mesh import MeshConfig
from ernie_jax.train.loop import TrainConfig
from ernie_jax.train.pretrain import ObjectiveConfig
from ernie_jax.train.schedule import ScheduleConfig
from ernie_jax.vision.understand import UnderstandConfig


@dataclasses.dataclass(frozen=True)
class TextConfig:
  """The text tokenizer.

  Attributes:
    tokenizer: an existing tokenizer file; empty to train one on the training text.
    training_chars: how much training text to train it on.
  """

  tokenizer: str = ""
  training_chars: int = 8_000_000

  def __post_init__(self):
    if self.training_chars < 1:
      raise ValueError(f"training_chars must be at least 1, got {self.training_chars}")


@dataclasses.dataclass(frozen=True)
class VisionConfig:
  """How pixels become what the model reads; of no effect where `config.model.vision` is None.

  Attributes:
    tokenizer: the workdir of a trained visual tokenizer. It is copied into the first checkpoint, and not
      needed after that.
    encoder: the workdir of a trained vision transformer of the shape `understand.vit`, one's own
      (`visual_encoder_run.py`) or a converted one. It becomes the model's and stays as it is; empty: the model
      trains one from scratch.
    understand: the encoder of pictures and videos that are looked at.
  """

  tokenizer: str = ""
  encoder: str = ""
  understand: UnderstandConfig = UnderstandConfig()


@dataclasses.dataclass(frozen=True)
class FrozenCodecConfig:
  """How sound becomes what the model reads; of no effect where `config.model.audio` is None.

  Attributes:
    codec: the workdir of a trained audio codec. It is copied into the first checkpoint, and not needed
      after that.
  """

  codec: str = ""


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
  """What is measured on held-out text, scenes and utterances.

  Attributes:
    rows: held-out rows for the losses during training.
    table_rows: held-out rows of each source of text for the family's tables at the end, and a quarter as many of
      media and of speech. 512 are some twenty files of the library at 256 positions.
    bigram_chars: training text that the bigram model counts, to which those tables compare; by default all of
      Python's standard library.
    prompt: what the sample at the end of a run continues.
    prompts: scenes of each split that the full model draws and reads at the end of a run with vision, and
      utterances that it hears and says with audio; 0: none. The command asks more, and every member.
    members: of `config.elastic.members`, those that are asked so too.
    temperature, guidance: how scenes are drawn; see `generate.draw.DrawingConfig`.
  """

  rows: int = 16
  table_rows: int = 512
  bigram_chars: int = 32_000_000
  prompt: str = "import os\n"
  prompts: int = 64
  members: tuple[str, ...] = ()
  temperature: float = 0.5
  guidance: float = 2.0

  def __post_init__(self):
    for name in ("rows", "table_rows", "bigram_chars"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    for name in ("prompts", "temperature", "guidance"):
      if not getattr(self, name) >= 0:
        raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Everything that a run is: config.* of a config file.

  Attributes:
    name: for people.
    seed: of parameters and of every draw; the data has its own.
    start: the workdir of a model to go on from, see `start_io.py`; empty: none.
    text, data, model, vision, audio, elastic, objective, train, mesh, evaluation: see their classes.
  """

  name: str = "experiment"
  seed: int = 0
  start: str = ""
  text: TextConfig = TextConfig()
  data: DataConfig = DataConfig()
  model: ModelConfig = ModelConfig(vocab_size=4096)
  vision: VisionConfig = VisionConfig()
  audio: FrozenCodecConfig = FrozenCodecConfig()
  elastic: ElasticConfig = ElasticConfig()
  objective: ObjectiveConfig = ObjectiveConfig()
  train: TrainConfig = TrainConfig(steps=1000, schedule=ScheduleConfig())
  mesh: MeshConfig = MeshConfig()
  evaluation: EvaluationConfig = EvaluationConfig()

  def __post_init__(self):
    check_family(self.elastic, self.model)
    if unknown := [m for m in self.evaluation.members if m not in self.elastic.members]:
      raise UserError(
        f"config.evaluation.members: {unknown[0]!r} is not one of config.elastic.members"
      )
    if self.model.vocab_size <= RESERVED_IDS + 256:
      raise ValueError(
        f"model.vocab_size must be above {RESERVED_IDS + 256}: reserved ids and bytes"
      )
    if self.data.media.sources and self.model.vision is None:
      raise UserError(
        "config.data.media has sources, but config.model.vision is None: the model has no vision"
      )
    if self.data.media.spoken and self.model.audio is None:
      raise UserError(
        "config.data.media.spoken has sources, but config.model.audio is None: the model has no audio"
      )
    if self.data.speech.sources and self.model.audio is None:
      raise UserError(
        "config.data.speech has sources, but config.model.audio is None: the model has no audio"
      )
    if self.model.audio is not None and len(self.objective.level_weights) not in (
      0,
      self.model.audio.levels,
    ):
      raise UserError(
        f"config.objective.level_weights must be empty or {self.model.audio.levels} numbers"
      )
    if self.mesh.stage != 1:
      raise UserError("config.mesh.stage must be 1")


def default_config() -> ml_collections.ConfigDict:
  """A ConfigDict with every key of an experiment at its default."""
  return ml_collections.ConfigDict(plain(Experiment()))


def config_of(beside: str, name: str, arg: str) -> ml_collections.ConfigDict:
  """The config of the file NAME.py that lies beside the file `beside`, for `arg`."""
  path = pathlib.Path(beside).with_name(f"{name}.py")
  spec = importlib.util.spec_from_file_location(f"experiments_{name}", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(arg)


def make_tiny(config: ml_collections.ConfigDict) -> None:
  """Shrinks any text experiment to a run of seconds that still goes through every stage.

  The members of the family must be named anew by the caller: the old names do not fit.
  """
  model, train = config.model, config.train
  dense = 1 if model.dense_layers else 0
  model.update(depth=3, width=32, heads=2, kv_heads=1, head_dim=16, vocab_size=512)
  model.update(experts=4, top_k=2, expert_width=16, shared_width=16 if model.shared_width else 0)
  model.update(dense_layers=dense, dense_width=32 if dense else 0)
  model.update(mtp_depth=min(model.mtp_depth, 1), mtp_width=32 if model.mtp_depth else 0)
  heads = model.audio.levels if model.audio is not None else 0
  model.update(top_layers=min(model.top_layers, max(1, heads)))
  config.elastic.update(members=(), widths=(), min_depth=1)
  config.text.training_chars = 400_000
  config.data.update(row_length=64, rows_per_batch=8)
  train.update(steps=40, log_every=5, checkpoint_every=20, evaluate_every=20)
  train.schedule.update(warmup_steps=5)
  config.objective.mtp_switch = min(config.objective.mtp_switch, 30)
  config.elastic.first_step = min(config.elastic.first_step, 20)
  config.evaluation.update(rows=4, table_rows=16, bigram_chars=400_000)
  config.evaluation.prompts = 0  # drawing takes long to compile
  config.mesh.quick_compile = True


def build_experiment(values: Any) -> Experiment:
  """Checks a whole config.

  Raises:
    UserError: naming the key.
  """
  return config_lib.build(Experiment, dict(values), path="config")


def plain(value: Any) -> Any:
  """Dataclasses as dicts; tuples stay tuples, which is what flags can override."""
  if dataclasses.is_dataclass(value):
    return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
  if isinstance(value, tuple):
    return tuple(plain(v) for v in value)
  return value
