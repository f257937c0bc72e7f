"""A small ERNIE 4.5 checkpoint and transformers' answers about it, made by `ernie45_twin.py`."""

import dataclasses
import json
import pathlib

import numpy as np
from safetensors.numpy import save_file

GOLDEN = pathlib.Path(__file__).parent / "goldens" / "ernie45_moe.npz"


@dataclasses.dataclass
class Golden:
  """config.json, tensors by their names on disk, prompt ids [B, L] and what transformers says."""

  config: dict
  tensors: dict[str, np.ndarray]
  ids: np.ndarray
  logits: np.ndarray
  mtp_logits: np.ndarray
  greedy: np.ndarray

  def write(self, directory: pathlib.Path) -> pathlib.Path:
    """The checkpoint as a directory of three shards with a tokenizer's file beside them."""
    directory.mkdir()
    names = sorted(self.tensors)
    file_of = {}
    for i in range(3):
      file = f"model-{i + 1:05}-of-00003.safetensors"
      save_file({name: self.tensors[name] for name in names[i::3]}, directory / file)
      file_of |= dict.fromkeys(names[i::3], file)
    index = {"metadata": {}, "weight_map": file_of}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text(json.dumps(self.config))
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    return directory


def load() -> Golden:
  """Reads the golden file."""
  with np.load(GOLDEN) as file:
    answers = {name: file[name] for name in ("ids", "logits", "mtp_logits", "greedy")}
    tensors = {k.removeprefix("tensor:"): file[k] for k in file.files if k.startswith("tensor:")}
    return Golden(config=json.loads(str(file["config"])), tensors=tensors, **answers)
