"""The config.json of Hugging Face ViT and CLIP vision towers and our `VitConfig`, each made from the other.

A file may leave out what equals the published default, so those defaults stand here. What pixels a tower
expects stands in preprocessor_config.json; without that file it is the published one of its kind.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ernie_jax.convert.json_values import number, positive, present, table
from ernie_jax.errors import UserError
from ernie_jax.vision.vit import VitConfig

VIT, CLIP, CLIP_BOTH = "vit", "clip_vision_model", "clip"  # the last has a text tower as well
KINDS = (VIT, CLIP, CLIP_BOTH)

POOLER, CLASSIFIER, PROJECTION = (
  "pooler.dense.weight",
  "classifier.weight",
  "visual_projection.weight",
)

ACTIVATIONS = {
  "gelu": "gelu",
  "gelu_pytorch_tanh": "gelu_tanh",
  "gelu_new": "gelu_tanh",
  "quick_gelu": "quick_gelu",
}
_COMMON = {
  "hidden_size": 768,
  "num_hidden_layers": 12,
  "num_attention_heads": 12,
  "intermediate_size": 3072,
  "image_size": 224,
  "num_channels": 3,
}
_DEFAULTS = {
  VIT: _COMMON
  | {"patch_size": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "qkv_bias": True},
  CLIP: _COMMON
  | {"patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "projection_dim": 512},
}
_PIXELS = {
  VIT: {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]},
  CLIP: {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
  },
}


def activation(value: Any, key: str) -> str:
  """Our name of an activation. Raises: UserError naming the key of one that we do not have."""
  if not isinstance(value, str) or value not in ACTIVATIONS:
    raise UserError(f"config.json: {key} is {value!r}; known: {', '.join(ACTIVATIONS)}")
  return ACTIVATIONS[value]


def tower_config(config: Mapping[str, Any]) -> dict[str, Any]:
  """The vision tower's own config: CLIP's file for both towers holds it under `vision_config`.

  Raises:
    UserError: another architecture, or a `vision_config` that is no object.
  """
  kind = config.get("model_type")
  if kind not in KINDS:
    raise UserError(f"config.json: model_type {kind!r} is not supported; known: {', '.join(KINDS)}")
  if kind != CLIP_BOTH:
    return dict(config)
  tower = table(config, "vision_config") | {"model_type": CLIP}
  if config.get("projection_dim") is not None:
    tower["projection_dim"] = config["projection_dim"]
  return tower


def to_vit(
  config: Mapping[str, Any], names: Iterable[str], pixels: Mapping[str, Any] | None = None
) -> VitConfig:
  """The `VitConfig` of a checkpoint.

  Args:
    config: the parsed config.json.
    names: of its tensors, which say what is on top: a pooler, a classifier, a projection.
    pixels: the parsed preprocessor_config.json.

  Raises:
    UserError: another architecture, a malformed key, or a value we do not implement.
  """
  tower = tower_config(config)
  kind, names = tower["model_type"], list(names)
  has = lambda end: any(name.endswith(end) for name in names)
  value = lambda key: present(tower, key, _DEFAULTS[kind][key])
  patch = positive(value("patch_size"), "patch_size")
  if value("num_channels") != 3:
    raise UserError(f"config.json: num_channels is {value('num_channels')!r}; only 3 is supported")
  fields = dict(
    patch=patch,
    grid=_grid(value("image_size"), patch),
    depth=positive(value("num_hidden_layers"), "num_hidden_layers"),
    width=positive(value("hidden_size"), "hidden_size"),
    heads=positive(value("num_attention_heads"), "num_attention_heads"),
    mlp_width=positive(value("intermediate_size"), "intermediate_size"),
    activation=activation(value("hidden_act"), "hidden_act"),
    class_token=True,
    norm_eps=number(value("layer_norm_eps"), "layer_norm_eps"),
    pixel_mean=_channels(pixels or {}, "image_mean", kind),
    pixel_std=_channels(pixels or {}, "image_std", kind),
    pool="class",
  )
  if kind == VIT:
    fields |= dict(qkv_bias=bool(value("qkv_bias")))
    if has(CLASSIFIER):
      fields |= dict(head=_labels(tower))
    if has(POOLER):
      fields |= dict(pool=_pooler(tower, fields["width"]))
  else:
    fields |= dict(patch_bias=False, norm_first=True, norm_last="pooled", head_bias=False)
    if has(PROJECTION):
      fields |= dict(head=positive(value("projection_dim"), "projection_dim"))
  try:
    return VitConfig(**fields)
  except ValueError as e:
    raise UserError(f"config.json: {e}") from e


def to_json(vit: VitConfig, *, dtype: str, base: Mapping[str, Any] | None = None) -> dict[str, Any]:
  """The config.json of a tower.

  Args:
    dtype: type of the exported weights.
    base: the config.json it was imported with. Its keys are kept; only those whose meaning changed are
      written anew. Of a CLIP with both towers the vision tower's is written.

  Raises:
    UserError: neither ViT nor CLIP has such an encoder; the message names the key.
  """
  kind = kind_of(vit)
  wanted = _fields(vit, kind, dtype)
  tower = {} if base is None else tower_config(base)
  if tower.get("model_type") != kind:
    return wanted
  names = [end for end, there in _tops(vit, kind).items() if there]
  was = _fields(to_vit(tower, names), kind, tower.get("dtype", tower.get("torch_dtype")) or dtype)
  changed = {key: value for key, value in wanted.items() if value != was.get(key)}
  if "torch_dtype" in tower and "dtype" in changed:
    tower["torch_dtype"] = changed.pop("dtype")
  if base.get("model_type") == CLIP_BOTH:
    changed["architectures"] = wanted["architectures"]
  return tower | changed


def kind_of(vit: VitConfig) -> str:
  """Which of the two architectures an encoder is.

  Raises:
    UserError: neither; the message names the key that is in the way.
  """
  kind = CLIP if vit.norm_first else VIT
  fixed = dict(class_token=True, positions="learned")
  if kind == CLIP:
    fixed |= dict(
      qkv_bias=True, patch_bias=False, norm_last="pooled", pool="class", head_bias=False
    )
  else:
    fixed |= dict(patch_bias=True, norm_last="tokens", head_bias=True)
  for key, value in fixed.items():
    if getattr(vit, key) != value:
      raise UserError(f"a Hugging Face {kind} has no such encoder: vit.{key} must be {value!r}")
  if vit.pool not in ("class", "tanh"):
    raise UserError(
      f"a Hugging Face {kind} has no such encoder: vit.pool must be 'class' or 'tanh'"
    )
  if kind == VIT and vit.head and vit.pool != "class":
    raise UserError("a Hugging Face vit has no such encoder: vit.pool must be 'class' with a head")
  if kind == CLIP and vit.grid[0] != vit.grid[1]:
    raise UserError("a Hugging Face clip_vision_model has no such encoder: vit.grid must be square")
  return kind


def preprocessor(vit: VitConfig) -> dict[str, Any]:
  """A preprocessor_config.json with which transformers gives a picture the pixels that we give it."""
  return {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(vit.pixel_mean),
    "image_std": list(vit.pixel_std),
    "size": {"height": vit.grid[0] * vit.patch, "width": vit.grid[1] * vit.patch},
  }


def _fields(vit: VitConfig, kind: str, dtype: str) -> dict[str, Any]:
  """All keys of config.json that an encoder decides."""
  activation = next(hf for hf, ours in ACTIVATIONS.items() if ours == vit.activation)
  side = [n * vit.patch for n in vit.grid]
  fields = {
    "architectures": [_architecture(vit, kind)],
    "model_type": kind,
    "hidden_size": vit.width,
    "num_hidden_layers": vit.depth,
    "num_attention_heads": vit.heads,
    "intermediate_size": vit.mlp_width,
    "hidden_act": activation,
    "layer_norm_eps": vit.norm_eps,
    "image_size": side[0] if side[0] == side[1] else side,
    "patch_size": vit.patch,
    "num_channels": 3,
    "dtype": dtype,
  }
  if kind == VIT:
    fields["qkv_bias"] = vit.qkv_bias
    if vit.head:
      fields["id2label"] = {str(i): f"LABEL_{i}" for i in range(vit.head)}
      fields["label2id"] = {label: int(i) for i, label in fields["id2label"].items()}
  elif vit.head:
    fields["projection_dim"] = vit.head
  return fields


def _tops(vit: VitConfig, kind: str) -> dict[str, bool]:
  """Which of the tensors that tell what is on top an encoder has."""
  head = bool(vit.head)
  return {
    POOLER: vit.pool == "tanh",
    CLASSIFIER: head and kind == VIT,
    PROJECTION: head and kind == CLIP,
  }


def _architecture(vit: VitConfig, kind: str) -> str:
  if kind == VIT:
    return "ViTForImageClassification" if vit.head else "ViTModel"
  return "CLIPVisionModelWithProjection" if vit.head else "CLIPVisionModel"


def _labels(tower: Mapping[str, Any]) -> int:
  """How many classes; transformers' default is two."""
  labels = len(table(tower, "id2label"))
  return labels or positive(present(tower, "num_labels", 2), "num_labels")


def _pooler(tower: Mapping[str, Any], width: int) -> str:
  only = {"pooler_act": "tanh", "pooler_output_size": width}
  for key, value in only.items():
    if tower.get(key, value) not in (value, None):
      raise UserError(f"config.json: {key} is {tower[key]!r}; only {value!r} is supported")
  return "tanh"


def _grid(size: Any, patch: int) -> tuple[int, int]:
  sides = list(size) if isinstance(size, (list, tuple)) else [size, size]
  sides = [positive(side, "image_size") for side in sides]
  if len(sides) != 2 or any(side % patch for side in sides):
    raise UserError(f"config.json: image_size {size!r} is no multiple of patch_size {patch}")
  return sides[0] // patch, sides[1] // patch


def _channels(pixels: Mapping[str, Any], key: str, kind: str) -> tuple[float, ...]:
  """A number for each channel."""
  file, value = "preprocessor_config.json", present(pixels, key, _PIXELS[kind][key])
  if not isinstance(value, list) or len(value) != 3:
    raise UserError(f"{file}: {key} must be a list of three numbers, got {value!r}")
  return tuple(number(channel, key, file=file) for channel in value)
