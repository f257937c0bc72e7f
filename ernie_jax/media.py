"""From pixels to what the unified model reads and predicts: the frozen tokenizer and the understanding path.

    encoded = encode(params, frozen, batch, config=config, model=model)        # teacher forcing
    output = UnifiedModel(model).apply({"params": params}, batch.row, bias, media=encoded.media)

The tokenizer is trained before and never changes here: its parameters (`frozen`) are state, not
parameters. Of the model's own parameters `understand` belongs to this file.

Letters: B rows, V slots of one kind, F pixel frames, T latent frames, S elements of a frame, d bits,
I entries of a row's drawn slots, C those of its context slots, D model width, K scales.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.inputs import Media
from ernie_jax.kernels.platform import platform
from ernie_jax.objectives.history import HistoryConfig, flip_strength
from ernie_jax.sequence.media import MediaRow, MediaShapes
from ernie_jax.sequence.row import Kind, Row
from ernie_jax.sharding.mesh import active_mesh
from ernie_jax.vision.quantizer import corrupt
from ernie_jax.vision.tokenizer import TokenizerConfig, VisualTokenizer, to_float
from ernie_jax.vision.understand import UnderstandConfig, Understanding

_PIECES = 8  # of a kind of slots, of which those that nothing fills are skipped
TEACHER_FORCING = HistoryConfig(flip_min=0.0, flip_max=0.0, flip_growth=0.0)


@dataclasses.dataclass(frozen=True)
class MediaConfig:
  """The two encoders.

  Raises:
    ValueError: the understanding path does not fit the tokenizer's strides.
  """

  tokenizer: TokenizerConfig
  understand: UnderstandConfig = UnderstandConfig()

  def __post_init__(self):
    t, u = self.tokenizer, self.understand
    if u.vit.patch != t.spatial:
      raise ValueError(
        f"understand.vit.patch must be the tokenizer's {t.spatial}, got {u.vit.patch}"
      )
    if t.temporal > 1 and u.group_frames != t.temporal:
      raise ValueError(
        f"understand.group_frames must be the tokenizer's {t.temporal}, got {u.group_frames}"
      )

  def shapes(self, *, window: int | None = None) -> MediaShapes:
    """What a row's builder must know."""
    t = self.tokenizer
    grid = self.understand.merged(1, t.side, t.side).grid
    return MediaShapes(scales=t.quantizer.scales, stride=t.temporal, grid=grid, window=window)


@dataclasses.dataclass(frozen=True, eq=False)
class Vision:
  """A trained visual tokenizer beside the configs of both encoders.

  Attributes:
    config: see `MediaConfig`.
    tokenizer: parameters of the visual tokenizer.
    encoder: parameters of a trained ViT, to be looked with and left as they are; None: the model trains its own.
  """

  config: MediaConfig
  tokenizer: Any
  encoder: Any = None


@flax.struct.dataclass
class Encoded:
  """A batch's media as a model takes them, and the bits that it should predict.

  Attributes:
    media: see `Media`.
    targets: bool [B, I, d], the bit targets of the drawn slots' elements; element e of a slot is entry
      start[slot] + e.
  """

  media: Media
  targets: Bool[Array, "B I d"]


FROZEN_ENCODER = "understand/vit"  # where a given encoder lies among a model's parameters


def initial_understanding(vision: Vision, width: int, key: Array) -> Any:
  """Parameters of the understanding path, boxed with their axis names: fresh but for a given encoder."""
  config, t = vision.config, vision.config.tokenizer
  pixels = jnp.zeros((1, t.side, t.side, 3))
  features = jnp.zeros((1, t.quantizer.side, t.quantizer.side, t.widths[-1]))
  params = Understanding(config.understand, width).init(key, pixels, features)["params"]
  if vision.encoder is None:
    return params
  put = lambda box, value: box.replace_boxed(jnp.asarray(value))
  is_box = lambda x: hasattr(x, "replace_boxed")
  return {**params, "vit": jax.tree.map(put, params["vit"], vision.encoder, is_leaf=is_box)}


def hold_encoder(params: Any) -> Any:
  """A model's parameters, with no gradient to the encoder."""
  understand = params["understand"]
  held = jax.lax.stop_gradient(understand["vit"])
  return {**params, "understand": {**understand, "vit": held}}


def encode(
  params: Any,
  frozen: Any,
  batch: MediaRow,
  *,
  config: MediaConfig,
  model: ModelConfig,
  history: HistoryConfig = TEACHER_FORCING,
  key: Array | None = None,
) -> Encoded:
  """Inputs, targets and context tokens of a batch of rows.

  Args:
    params: the model's; the gradient reaches `understand` alone.
    frozen: the tokenizer's.
    batch: fields with a leading [B].
    config, model: what `params` and `frozen` are of.
    history: how often bits of the history flip; the default is teacher forcing.
    key: of the flips; not needed for teacher forcing.
  """
  rows = batch.row.kind.shape[0]
  key = jax.random.key(0) if key is None else key
  code = config.tokenizer.quantizer
  nothing = lambda dtype, n: jnp.zeros((rows, 0, n), dtype)
  inputs, targets = [nothing(jnp.float32, code.bits)], [nothing(bool, code.bits)]
  context = [nothing(jnp.float32, model.width)]
  starts: list[np.ndarray] = []

  drawn_entries = seen_entries = 0
  for i, pixels in enumerate(batch.drawn):
    one = _history(frozen, pixels, config, history, jax.random.fold_in(key, i))
    inputs.append(one.inputs.reshape(rows, -1, code.bits))
    targets.append(one.targets.reshape(rows, -1, code.bits))
    starts.append(_starts(drawn_entries, inputs[-1], pixels))
    drawn_entries += inputs[-1].shape[1]
  first = sum(pixels.shape[1] for pixels in batch.drawn)
  for pixels in batch.seen:
    filled = _filled(batch.row, first + np.arange(pixels.shape[1]))
    tokens = understand(params, frozen, pixels, config=config, model=model, filled=filled)
    context.append(tokens.reshape(rows, -1, model.width))
    starts.append(_starts(seen_entries, context[-1], pixels))
    seen_entries += context[-1].shape[1]
    first += pixels.shape[1]
  media = Media(
    inputs=jnp.concatenate(inputs, axis=1),
    context=jnp.concatenate(context, axis=1),
    start=jnp.asarray(np.concatenate(starts) if starts else np.zeros(1), jnp.int32),
  )
  return Encoded(media=media, targets=jnp.concatenate(targets, axis=1))


def understand(
  params: Any,
  frozen: Any,
  pixels: UInt8[Array, "B V F H W 3"],
  *,
  config: MediaConfig,
  model: ModelConfig,
  filled: Bool[Array, "B V"],
) -> Float[Array, "B V N D"]:
  """Context tokens of media slots; those of slots that are not `filled` mean nothing."""
  tokenizer = VisualTokenizer(config.tokenizer)
  module = Understanding(config.understand, model.width)

  def encoded(slots):
    video = to_float(slots)
    features = tokenizer.apply({"params": frozen}, video, method=VisualTokenizer.features)
    features = jax.lax.stop_gradient(features)
    return module.apply({"params": params["understand"]}, video, features)

  flat = pixels.reshape(-1, *pixels.shape[2:])
  # On an accelerator pieces one after another would cost more; between devices sorting would move pictures.
  if platform() == "cpu" and active_mesh() is None:
    tokens = of_filled(encoded, flat, filled.reshape(-1))
  else:
    tokens = encoded(flat)
  return tokens.reshape(*pixels.shape[:2], *tokens.shape[1:])


def of_filled(
  encoded: Callable[[Array], Array], slots: Array, filled: Bool[Array, "S"]
) -> Float[Array, "S N D"]:
  """`encoded(slots)`, a few slots at a time, without the work for slots that are not filled.

  Of the slots that a row may fill most stay empty, and encoding them all took a fifth of a training step on CPU.
  For the gradient each of the pieces keeps a copy of the weights of `encoded`: meant for small ones.
  """
  count = len(slots)
  size = -(-count // _PIECES)
  pieces = -(-count // size)
  order = jnp.argsort(~filled, stable=True)  # those that are filled first
  of_piece = jnp.pad(order, (0, pieces * size - count)).reshape(pieces, size)
  shape = jax.eval_shape(encoded, slots[:size])

  def piece(_, index):
    skipped = lambda _: jnp.zeros(shape.shape, shape.dtype)
    return None, jax.lax.cond(filled[index[0]], encoded, skipped, slots[index])

  _, tokens = jax.lax.scan(piece, None, of_piece)
  return tokens.reshape(pieces * size, *shape.shape[1:])[jnp.argsort(order)]


def _filled(row: Row, numbers: np.ndarray) -> Bool[Array, "B V"]:
  """Which of the slots of these numbers are looked at."""
  looks = jnp.asarray(row.kind == Kind.VISION_CONTEXT)
  of_slot = jnp.asarray(row.media_slot)[..., None] == numbers
  return jnp.any(looks[..., None] & of_slot, axis=1)


def _history(frozen, pixels, config: MediaConfig, history: HistoryConfig, key: Array):
  """`Corrupted` of all slots [B V F H W 3] of one kind, with rows and slots on one axis."""
  code = config.tokenizer.quantizer
  video = to_float(pixels).reshape(-1, *pixels.shape[2:])
  tokenizer = VisualTokenizer(config.tokenizer)
  latent = tokenizer.apply({"params": frozen}, video, method=VisualTokenizer.encode)
  magnitudes = tokenizer.apply({"params": frozen}, method=VisualTokenizer.magnitudes)
  draw, flip = jax.random.split(key)
  strength = flip_strength(draw, *latent.shape[:2], len(code.sides), history)
  return corrupt(latent, magnitudes, code, strength, flip)


def _starts(before: int, entries: Array, pixels: Array) -> np.ndarray:
  """First entry of each slot of one kind: all are equally long."""
  slots = pixels.shape[1]
  return before + np.arange(slots) * (entries.shape[1] // slots)
