"""from-hf and to-hf for vision transformers: directories in and out, whole or not at all."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from ernie_jax.convert import files
from ernie_jax.convert.tensors import Precision
from ernie_jax.convert.vit import from_hf, read_vit, to_hf
from ernie_jax.convert.vit_config import preprocessor
from ernie_jax.train.encoder_io import SavedEncoder, load_encoder, save_encoder
from ernie_jax.vision.vit import VitConfig

ORIGIN, PREPROCESSOR = "hugging_face", "preprocessor_config.json"
_RECORD = "stored.json"  # the types and the prefix of the names of an imported checkpoint

_bar = functools.partial(tqdm, unit="tensor", disable=None)  # None: only on a terminal


def import_vit(directory: pathlib.Path, workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
  """Writes the checkpoint in `directory`, whose config.json is `config`, as a new workdir.

  Raises:
    UserError: the checkpoint is not whole or not supported, or `workdir` is in use.
  """
  tensors = files.TensorFiles(directory)
  path = directory / PREPROCESSOR
  pixels = files.read_json(path) if path.is_file() else None
  vit = read_vit(config, tensors, pixels)
  print(f"from {directory}: {_describe(vit)}, {len(tensors)} tensors in {len(tensors.files)} files")
  with files.written_whole(workdir, named="--workdir") as target:
    imported = from_hf(config, tensors, pixels=pixels, progress=_bar)
    name = {"name": directory.resolve().name}
    save_encoder(target, SavedEncoder(values=name, config=vit, params=imported.params, step=0))
    origin = target / ORIGIN
    origin.mkdir()
    files.carry_along(directory, origin)
    files.write_json(origin / files.CONFIG, config)
    precision = imported.precision
    record = {"dtype": precision.dtype, "exceptions": dict(precision.exceptions)}
    files.write_json(target / _RECORD, {"prefix": imported.prefix, "precision": record})
  print(f"wrote {workdir}")


def export_vit(
  workdir: pathlib.Path,
  directory: pathlib.Path,
  *,
  dtype: str | None = None,
  step: int | None = None,
  shard_bytes: int = files.SHARD_BYTES,
) -> None:
  """Writes the encoder in `workdir` as a new checkpoint directory.

  Raises:
    UserError: an encoder that neither ViT nor CLIP can express, or `directory` is in use.
  """
  saved = load_encoder(workdir, "vit", step=step)
  origin = workdir / ORIGIN
  base, prefix, precision = None, None, Precision(dtype or "float32")
  if origin.is_dir():
    base, record = files.read_json(origin / files.CONFIG), files.read_json(workdir / _RECORD)
    prefix = record["prefix"]
    precision = Precision(dtype) if dtype else Precision(**record["precision"])
  exported = to_hf(saved.config, saved.params, precision=precision, base=base, prefix=prefix)
  print(f"from {workdir}, step {saved.step}: {_describe(saved.config)}, as {precision.dtype}")
  with files.written_whole(directory, named="to-hf") as target:
    if origin.is_dir():
      files.carry_along(origin, target)
    else:
      files.write_json(target / PREPROCESSOR, preprocessor(saved.config))
    files.write_json(target / files.CONFIG, exported.config)
    names = files.write_tensors(target, exported.tensors, progress=_bar, shard_bytes=shard_bytes)
  print(f"wrote {directory}: {len(exported.tensors)} tensors in {len(names)} files")


def _describe(vit: VitConfig) -> str:
  side = "x".join(str(n * vit.patch) for n in vit.grid)
  return f"vision transformer, {vit.depth} layers x {vit.width}, patches of {vit.patch} at {side}"
