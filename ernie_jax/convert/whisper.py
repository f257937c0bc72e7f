"""The encoder of a Hugging Face Whisper checkpoint as our parameters.

Read are `WhisperForConditionalGeneration`, `WhisperModel` and a bare `WhisperEncoder`; the decoder is passed
over. One direction only: the encoder teaches (`ernie_jax.audio.teacher`) and is never trained here.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ernie_jax.audio.whisper import WhisperConfig, WhisperEncoder
from ernie_jax.convert.json_values import positive, present
from ernie_jax.convert.names import Slot
from ernie_jax.convert.tensors import check_names, read_tree
from ernie_jax.convert.vit_config import activation
from ernie_jax.convert.vit_names import ReshapedSlot, norm_slots
from ernie_jax.errors import UserError

KIND = "whisper"

_KEYS = {  # ours: (theirs, the published default)
  "bands": ("num_mel_bins", 80),
  "depth": ("encoder_layers", 4),
  "width": ("d_model", 384),
  "heads": ("encoder_attention_heads", 6),
  "mlp_width": ("encoder_ffn_dim", 1536),
  "positions": ("max_source_positions", 1500),
}
_PREFIXES = ("model.encoder.", "encoder.", "")
_LINEAR = {
  "self_attn.q_proj": "attention/query",
  "self_attn.k_proj": "attention/key",
  "self_attn.v_proj": "attention/value",
  "self_attn.out_proj": "attention/out",
  "fc1": "mlp/up",
  "fc2": "mlp/down",
}
_NORMS = {"self_attn_layer_norm": "attention_norm", "final_layer_norm": "mlp_norm"}
_FIRST = "conv1.weight"


@dataclasses.dataclass(frozen=True)
class ConvSlot(Slot):
  """The kernel of a convolution in time: [D, C, 3] there, [3, C, D] here."""

  def disk_shape(self, part: tuple[int, ...]) -> tuple[int, ...]:
    """The tensor's shape on disk when our part has the shape `part`."""
    return part[::-1]

  def to_ours(self, tensor: np.ndarray, part: tuple[int, ...]) -> np.ndarray:
    """The tensor turned into our part."""
    return tensor.T


def read_whisper(config: Mapping[str, Any], names: Iterable[str]) -> WhisperConfig:
  """The encoder of a checkpoint, from its config.json and the names of its tensors.

  Raises:
    UserError: a config we do not implement, a tensor that is absent, or one too many.
  """
  names = set(names)
  fields = {ours: positive(present(config, *theirs), theirs[0]) for ours, theirs in _KEYS.items()}
  key = "activation_function"
  fields["activation"] = activation(present(config, key, "gelu"), key)
  try:
    encoder = WhisperConfig(**fields)
  except ValueError as e:
    raise UserError(f"config.json: {e}") from e
  prefix = _prefix(names)
  other = lambda name: bool(prefix) and not name.startswith(prefix)
  check_names({slot.name for slot in slots(encoder, prefix)}, names, allowed=other)
  return encoder


def from_hf(
  config: Mapping[str, Any],
  tensors: Mapping[str, np.ndarray],
  *,
  progress: Callable[[list[Slot]], Iterable[Slot]] = iter,
) -> dict[str, Any]:
  """The encoder's parameters, nested dicts of float32 arrays as `WhisperEncoder` takes them.

  Args:
    config: the parsed config.json.
    tensors: by their names on disk; each is read once, so the mapping may read files lazily.
    progress: wraps the list of tensors, for a progress bar.

  Raises:
    UserError: see `read_whisper`; or a tensor of another shape or type than its config says.
  """
  encoder, prefix = read_whisper(config, tensors), _prefix(set(tensors))
  wanted = list(slots(encoder, prefix))
  params, _ = read_tree(
    tree_shapes(encoder), wanted, tensors, typical=prefix + _FIRST, progress=progress
  )
  return params


def tree_shapes(encoder: WhisperConfig) -> dict[str, Any]:
  """The encoder's parameters with shapes in place of arrays; computes nothing."""
  init = lambda: WhisperEncoder(encoder).init(jax.random.key(0), jnp.zeros((1, 2, encoder.bands)))
  return nn.unbox(jax.eval_shape(init))["params"]


def slots(encoder: WhisperConfig, prefix: str) -> Iterator[Slot]:
  """Every tensor of the encoder, bottom to top."""
  for conv in ("conv1", "conv2"):
    yield ConvSlot(f"{prefix}{conv}.weight", (conv, "kernel"))
    yield Slot(f"{prefix}{conv}.bias", (conv, "bias"))
  yield Slot(f"{prefix}embed_positions.weight", ("positions",))
  for layer in range(encoder.depth):
    start = f"{prefix}layers.{layer}."
    for name, ours in _NORMS.items():
      yield from norm_slots(start + name, ("blocks", ours), (layer,))
    for name, inner in _LINEAR.items():
      path, inputs = ("blocks", *inner.split("/")), 2 if inner == "attention/out" else 1
      yield Slot(f"{start}{name}.weight", (*path, "kernel"), (layer,), inputs)
      if inner != "attention/key":  # stays zero, see `WhisperEncoder`
        size = encoder.mlp_width if inner == "mlp/up" else encoder.width
        yield ReshapedSlot(f"{start}{name}.bias", (*path, "bias"), (layer,), shape=(size,))
  yield from norm_slots(f"{prefix}layer_norm", ("last_norm",), ())


def _prefix(names: set[str]) -> str:
  return next((p for p in _PREFIXES if p + _FIRST in names), _PREFIXES[0])
