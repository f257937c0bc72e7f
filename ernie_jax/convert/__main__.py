"""Hugging Face checkpoints of ERNIE 4.5 text models and vision transformers in and out, of Whisper in.

`python -m ernie_jax.convert from-hf DIR --workdir=OUT` imports DIR into a workdir that every other
command reads. `python -m ernie_jax.convert to-hf DIR --workdir=IN` exports a workdir to DIR, in the types
it was imported with (float32 for a model trained here) or in `--dtype`. Neither leaves anything
half-written, and neither overwrites.
"""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from ernie_jax import cli
from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.parameters import model_cost
from ernie_jax.convert import files, vit_command, vit_config, whisper
from ernie_jax.convert.ernie45 import from_hf, read_model, to_hf
from ernie_jax.convert.tensors import DTYPES, Precision
from ernie_jax.elastic.family import ElasticConfig
from ernie_jax.errors import UserError
from ernie_jax.train.encoder_io import SavedEncoder, held_kind, save_encoder
from ernie_jax.train.model_io import SavedModel, load_model, save_model

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Workdir of the model to write or to read.", allow_override=True
)
_DTYPE = flags.DEFINE_enum(
  "dtype", None, list(DTYPES), "to-hf: type of the weights; the routers' stay float32."
)
_STEP = flags.DEFINE_integer(
  "step", None, "to-hf: which checkpoint; the newest by default.", allow_override=True
)

ORIGIN = "hugging_face"  # in a workdir: the small files of the checkpoint it was imported from
_PRECISION = "precision.json"

_bar = functools.partial(tqdm, unit="tensor", disable=None)  # None: only on a terminal


def import_checkpoint(directory: pathlib.Path, workdir: pathlib.Path) -> None:
  """Writes the checkpoint in `directory` as a new workdir.

  Raises:
    UserError: `directory` holds no checkpoint that is supported, or `workdir` is in use.
  """
  if not directory.is_dir():
    raise UserError(f"from-hf: {directory} is not a directory")
  config = files.read_json(directory / files.CONFIG)
  if config.get("model_type") in vit_config.KINDS:
    vit_command.import_vit(directory, workdir, config)
    return
  if config.get("model_type") == whisper.KIND:
    import_whisper(directory, workdir, config)
    return
  tensors = files.TensorFiles(directory)
  model = read_model(config, tensors)
  print(
    f"from {directory}: {_describe(model)}, {len(tensors)} tensors in {len(tensors.files)} files"
  )
  with files.written_whole(workdir, named="--workdir") as target:
    imported = from_hf(config, tensors, progress=_bar)
    saved = SavedModel(
      config={"name": directory.resolve().name},
      model=imported.model,
      elastic=ElasticConfig(depth_full=1.0, width_full=1.0, sparsity_full=1.0),
      params=imported.params,
      bias=imported.bias,
      usage=np.full_like(imported.bias, 1 / model.experts),  # nobody measured it
      tokenizer=None,
      step=0,
    )
    save_model(target, saved)
    origin = target / ORIGIN
    origin.mkdir()
    files.carry_along(directory, origin)
    files.write_json(origin / files.CONFIG, config)
    precision = imported.precision
    record = {"dtype": precision.dtype, "exceptions": dict(precision.exceptions)}
    files.write_json(target / _PRECISION, record)
  print(f"wrote {workdir}")


def import_whisper(
  directory: pathlib.Path, workdir: pathlib.Path, config: Mapping[str, Any]
) -> None:
  """Writes the encoder of the Whisper in `directory`, whose config.json is `config`, as a new workdir.

  Raises:
    UserError: the checkpoint is not whole or not supported, or `workdir` is in use.
  """
  tensors = files.TensorFiles(directory)
  encoder = whisper.read_whisper(config, tensors)
  print(f"from {directory}: Whisper's encoder, {encoder.depth} layers x {encoder.width}")
  with files.written_whole(workdir, named="--workdir") as target:
    params = whisper.from_hf(config, tensors, progress=_bar)
    name = {"name": directory.resolve().name}
    save_encoder(target, SavedEncoder(values=name, config=encoder, params=params, step=0))
  print(f"wrote {workdir}")


def export_checkpoint(
  workdir: pathlib.Path,
  directory: pathlib.Path,
  *,
  dtype: str | None = None,
  step: int | None = None,
  shard_bytes: int = files.SHARD_BYTES,
) -> None:
  """Writes the model in `workdir` as a new checkpoint directory.

  Raises:
    UserError: no model in `workdir`, one that the architecture cannot express, or `directory` is in use.
  """
  encoder = held_kind(workdir)
  if encoder == "whisper":
    raise UserError(f"to-hf: {workdir} holds a Whisper encoder, which is only read, never changed")
  if encoder == "vit":
    vit_command.export_vit(workdir, directory, dtype=dtype, step=step, shard_bytes=shard_bytes)
    return
  saved = load_model(workdir, step=step)
  origin = workdir / ORIGIN
  base = files.read_json(origin / files.CONFIG) if origin.is_dir() else None
  if dtype is not None:
    precision = Precision(dtype)
  elif origin.is_dir():
    precision = Precision(**files.read_json(workdir / _PRECISION))
  else:
    precision = Precision()
  exported = to_hf(saved.model, saved.params, saved.bias, precision=precision, base=base)
  print(f"from {workdir}, step {saved.step}: {_describe(saved.model)}, as {precision.dtype}")
  with files.written_whole(directory, named="to-hf") as target:
    if origin.is_dir():
      files.carry_along(origin, target)
    files.write_json(target / files.CONFIG, exported.config)
    names = files.write_tensors(target, exported.tensors, progress=_bar, shard_bytes=shard_bytes)
  print(f"wrote {directory}: {len(exported.tensors)} tensors in {len(names)} files")


def _describe(model: ModelConfig) -> str:
  cost = model_cost(model, 1)
  kind = f"{model.experts} experts, top {model.top_k}" if model.moe_layers else "dense"
  mtp = f", {model.mtp_depth} MTP" if model.mtp_depth else ""
  total, active = _short(cost.params_total), _short(cost.params_active)
  return f"{model.depth} layers x {model.width}, {kind}{mtp}, {total} parameters ({active} active)"


def _short(count: int) -> str:
  """A count to three digits, in thousands, millions or billions."""
  size, unit = next(((s, u) for s, u in ((1e9, "B"), (1e6, "M")) if count >= s), (1e3, "k"))
  return f"{count / size:.3g} {unit}"


def main(argv: list[str]) -> None:
  commands = {"from-hf": _from_hf, "to-hf": _to_hf}
  if len(argv) != 3 or argv[1] not in commands:
    raise UserError(
      "usage: from-hf DIR --workdir=OUT, or to-hf DIR --workdir=IN [--dtype=bfloat16]"
    )
  workdir = pathlib.Path(cli.require(_WORKDIR, example="runs/ernie45"))
  commands[argv[1]](pathlib.Path(argv[2]), workdir)


def _from_hf(directory: pathlib.Path, workdir: pathlib.Path) -> None:
  for flag in (_DTYPE, _STEP):
    if flag.value is not None:
      raise UserError(f"--{flag.name} is for to-hf; from-hf keeps every bit")
  import_checkpoint(directory, workdir)


def _to_hf(directory: pathlib.Path, workdir: pathlib.Path) -> None:
  export_checkpoint(workdir, directory, dtype=_DTYPE.value, step=_STEP.value)


if __name__ == "__main__":
  cli.run(main, arguments=2)
