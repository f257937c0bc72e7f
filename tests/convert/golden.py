"""Small checkpoints and transformers' answers about them: an ERNIE 4.5 by `ernie45_twin.py`, and vision
transformers by `vit_twin.py`."""

import dataclasses
import json
import pathlib

import numpy as np
from safetensors.numpy import save_file

GOLDENS = pathlib.Path(__file__).parent / "goldens"


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
  with np.load(GOLDENS / "ernie45_moe.npz") as file:
    answers = {name: file[name] for name in ("ids", "logits", "mtp_logits", "greedy")}
    return Golden(
      config=json.loads(str(file["config"])), tensors=_named(file, "tensor:"), **answers
    )


@dataclasses.dataclass
class VitGolden:
  """config.json, tensors, pictures [B, H, W, 3] uint8, and transformers' constants and answers by name."""

  config: dict
  tensors: dict[str, np.ndarray]
  pictures: np.ndarray
  mean: np.ndarray
  std: np.ndarray
  answers: dict[str, np.ndarray]


def load_vit(name: str) -> VitGolden:
  """Reads the golden file of a vision transformer."""
  with np.load(GOLDENS / f"{name}.npz") as file:
    return VitGolden(
      config=json.loads(str(file["config"])),
      tensors=_named(file, "tensor:"),
      answers=_named(file, "answer:"),
      **{key: file[key] for key in ("pictures", "mean", "std")},
    )


def _named(file, prefix: str) -> dict[str, np.ndarray]:
  return {key.removeprefix(prefix): file[key] for key in file.files if key.startswith(prefix)}
