"""Hugging Face ViT and CLIP vision checkpoints to our encoder's parameters and back.

Pure functions on names and arrays: a conversion renames, transposes and stacks, and loses no bit. Read
are `ViTModel`, `ViTForImageClassification`, `CLIPVisionModel`, `CLIPVisionModelWithProjection` and the
vision tower of a whole `CLIPModel`, which goes out as a tower with projection.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ernie_jax.convert import vit_config
from ernie_jax.convert.ernie45 import Exported
from ernie_jax.convert.names import Slot
from ernie_jax.convert.tensors import Precision, StoredTensors, check_names, read_tree
from ernie_jax.convert.vit_names import (
  PATCH,
  is_other,
  prefix_of,
  slots,
  tree_shapes,
  usual_prefix,
)
from ernie_jax.vision.vit import VitConfig


@dataclasses.dataclass(frozen=True)
class ImportedVit:
  """A checkpoint as we hold it.

  Attributes:
    vit: its config.
    params: nested dicts of float32 NumPy arrays, as `VisionTransformer` takes them.
    precision: the types it was stored in.
    prefix: of its names, see `vit_names`.
  """

  vit: VitConfig
  params: dict[str, Any]
  precision: Precision
  prefix: str


def read_vit(
  config: Mapping[str, Any], names: Iterable[str], pixels: Mapping[str, Any] | None = None
) -> VitConfig:
  """The encoder of a checkpoint, from its JSON files and the names of its tensors.

  Raises:
    UserError: a config we do not implement, a tensor that is absent, or one too many.
  """
  names = set(names)
  vit = vit_config.to_vit(config, names, pixels)
  check_names({slot.name for slot in slots(vit, prefix_of(names))}, names, allowed=is_other)
  return vit


def from_hf(
  config: Mapping[str, Any],
  tensors: Mapping[str, np.ndarray],
  *,
  pixels: Mapping[str, Any] | None = None,
  progress: Callable[[list[Slot]], Iterable[Slot]] = iter,
) -> ImportedVit:
  """Imports a checkpoint.

  Args:
    config: the parsed config.json.
    tensors: by their names on disk; each is read once, so the mapping may read files lazily.
    pixels: the parsed preprocessor_config.json; None: the published one of the architecture.
    progress: wraps the list of tensors, for a progress bar.

  Raises:
    UserError: see `read_vit`; or a tensor of another shape or type than its config says.
  """
  vit, prefix = read_vit(config, tensors, pixels), prefix_of(tensors)
  params, precision = read_tree(
    tree_shapes(vit),
    list(slots(vit, prefix)),
    tensors,
    typical=prefix + PATCH[vit_config.kind_of(vit)],
    progress=progress,
  )
  return ImportedVit(vit=vit, params=params, precision=precision, prefix=prefix)


def to_hf(
  vit: VitConfig,
  params: Mapping[str, Any],
  *,
  precision: Precision | None = None,
  base: Mapping[str, Any] | None = None,
  prefix: str | None = None,
) -> Exported:
  """Exports an encoder; `from_hf` of the result gives the same arrays, bit for bit.

  Args:
    precision: types to store; None for float32.
    base: the config.json that the encoder was imported with, whose other keys are kept.
    prefix: of the names; None for that of transformers 5.

  Raises:
    UserError: neither ViT nor CLIP has such an encoder.
  """
  precision = precision or Precision()
  prefix = usual_prefix(vit) if prefix is None else prefix
  config = vit_config.to_json(vit, dtype=precision.dtype, base=base)
  tensors = StoredTensors(slots(vit, prefix), params, precision)
  return Exported(config=config, tensors=tensors)
