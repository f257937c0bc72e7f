"""The text tokenizer as a stage of its own: trained on the training text of a data config, media and speech included."""

import dataclasses
import pathlib
import time
from typing import Any, Literal

import jax
import ml_collections
from jax.experimental import multihost_utils

from ernie_jax import config as config_lib
from ernie_jax.data.pipeline import DataConfig, training_texts
from ernie_jax.sharding.mesh import MeshConfig
from ernie_jax.text.tokenizer import Tokenizer, train_tokenizer
from ernie_jax.train.experiment import plain
from ernie_jax.train.model_io import TOKENIZER, write_config
from ernie_jax.train.run import writing
from ernie_jax.train.stage_io import check_same, completed, read_stage_config, without

STAGE = "text_tokenizer"


@dataclasses.dataclass(frozen=True)
class TextTokenizerExperiment:
  """Everything that a text tokenizer is.

  Attributes:
    name: for people.
    stage: what the training command dispatches on.
    data: where the text comes from: files, and what is said of media and in speech.
    vocab_size: ids, reserved ones included.
    training_chars: how much text to train it on.
    mesh: of no effect on it; a pipeline compiles quickly where all of its stages do.
  """

  name: str = STAGE
  stage: Literal["text_tokenizer"] = STAGE
  data: DataConfig = DataConfig()
  vocab_size: int = 4096
  training_chars: int = 8_000_000
  mesh: MeshConfig = MeshConfig()

  def __post_init__(self):
    if self.training_chars < 1:
      raise ValueError(f"training_chars must be at least 1, got {self.training_chars}")


def default_config() -> ml_collections.ConfigDict:
  """A ConfigDict with every key at its default."""
  return ml_collections.ConfigDict(plain(TextTokenizerExperiment()))


def build_experiment(values: Any) -> TextTokenizerExperiment:
  """Checks a whole config.

  Raises:
    UserError: naming the key.
  """
  return config_lib.build(TextTokenizerExperiment, dict(values), path="config")


def counted(values: dict[str, Any]) -> dict[str, Any]:
  """A whole config with that part of its data alone that says which text there is: not how rows are made of it."""
  data = values["data"]
  parts = {"files": data["sources"]}
  parts["media"] = {kind: data["media"][kind] for kind in ("worlds", "folders", "tfds")}
  parts["speech"] = {kind: data["speech"][kind] for kind in ("worlds", "folders")}
  return values | {"data": without(parts, ("weight", "bpe_dropout", "judged"))}


def run_experiment(experiment: TextTokenizerExperiment, workdir: pathlib.Path) -> None:
  """Writes WORKDIR/tokenizer.model, unless it is there.

  Raises:
    UserError: bad data, or a workdir that holds another tokenizer or cannot be written.
  """
  e, path = experiment, workdir / TOKENIZER
  with writing(workdir):
    if path.exists():
      old = read_stage_config(workdir, key="vocab_size", what="text tokenizer")
      old, new = counted(completed(old, TextTokenizerExperiment)), counted(config_lib.to_dict(e))
      check_same(workdir, old, new, ("data", "vocab_size", "training_chars"), {})
      print(f"{workdir} is finished: {Tokenizer.load(path).vocab_size} ids")
    elif jax.process_index() == 0:
      began = time.monotonic()
      write_config(workdir, config_lib.to_dict(e))
      texts = training_texts(e.data, max_chars=e.training_chars)
      tokenizer = train_tokenizer(texts, vocab_size=e.vocab_size)
      tokenizer.save(path)
      print(f"wrote {path}: {tokenizer.vocab_size} ids, {time.monotonic() - began:.0f} s")
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("text tokenizer")
