"""Drawing pictures and videos scale by scale on the key-value cache, with classifier-free guidance.

    painter = Painter(saved.model, saved.vision.config, options=options)
    weights = painter.load(saved.params, saved.bias, saved.vision.tokenizer)
    videos = painter.draw(weights, [draw_prompt(ids, frames=1, side=32)], how=DrawingConfig())

A row is laid out whole, by the code that lays out training rows, and cut into blocks: the prompt up to
BOI or BOV (and the frames that are given) goes in at once; then each scale is one block, whose input is
the sum of the bits drawn before it. An image is a video of one frame. One call of the device draws one frame.

Letters: P prompts, R rows (P, or 2P with guidance: the prompts, then the same without their words),
L positions, T latent frames, K scales, N elements of a frame, d bits, h w latent sides, F pixel frames.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from ernie_jax import media as media_lib
from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.inputs import Active, Cache, Media, empty_cache
from ernie_jax.backbone.vision_io import bit_logits
from ernie_jax.generate import blocks
from ernie_jax.generate.blocks import Weights
from ernie_jax.generate.prompts import prompt_batch
from ernie_jax.model import UnifiedModel
from ernie_jax.sequence import Drawn, Item, LayoutOptions, MediaRow, Row, SpecialToken, Text
from ernie_jax.vision.quantizer import (
  QuantizerConfig,
  add_scale,
  block_input,
  empty_total,
  quantize,
)
from ernie_jax.vision.tokenizer import VisualTokenizer, to_float, to_pixels


@dataclasses.dataclass(frozen=True)
class DrawingConfig:
  """How bits are drawn. Defaults: what small runs liked; temperature 1 was clearly worse there.

  Attributes:
    temperature: divides the logits of a bit; 0 takes the likelier value.
    guidance: how far the prompt's logits are followed past those without words; 1 is the prompt alone,
      and twice as fast.
    scale_ramp: share of the guidance beyond 1 that the first scale lacks; it comes in linearly until
      the last scale (VAR has 1, all of it).
    frame_decay: factor on the guidance beyond 1 from one latent frame to the next.
    seed: of the draws; equal seeds and prompts give equal pictures.

  Raises:
    ValueError: a value outside its range.
  """

  temperature: float = 0.5
  guidance: float = 2.0
  scale_ramp: float = 0.0
  frame_decay: float = 1.0
  seed: int = 0

  def __post_init__(self):
    if not (np.isfinite(self.temperature) and self.temperature >= 0):
      raise ValueError(f"temperature must be 0 or more, got {self.temperature}")
    if not (np.isfinite(self.guidance) and self.guidance >= 0):
      raise ValueError(f"guidance must be 0 or more, got {self.guidance}")
    for name in ("scale_ramp", "frame_decay"):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
    if not 0 <= self.seed < 2**32:
      raise ValueError(f"seed must be between 0 and 2^32 - 1, got {self.seed}")

  def schedule(self, frames: int, scales: int) -> Float[np.ndarray, "T K"]:
    """The guidance of each scale of each latent frame."""
    along = np.arange(scales) / max(1, scales - 1)
    share = 1 - self.scale_ramp * (1 - along)
    decay = self.frame_decay ** np.arange(frames)
    return (1 + (self.guidance - 1) * decay[:, None] * share).astype(np.float32)


def drawing_of(config: Mapping[str, Any], **changed: float | None) -> DrawingConfig:
  """How an experiment's config says that its model draws when it is evaluated.

  `changed`: fields, where not None, in place of the config's.

  Raises:
    ValueError: a value out of range; the message begins with the field.
  """
  values = config.get("evaluation", {})
  values = {name: values[name] for name in ("temperature", "guidance") if name in values}
  return DrawingConfig(
    **values | {name: value for name, value in changed.items() if value is not None}
  )


@flax.struct.dataclass
class Canvas:
  """Where drawing stands.

  Attributes:
    cache: of all positions so far.
    logits: float32 [R, d, 2], of the next frame's first scale.
  """

  cache: Cache
  logits: Float[Array, "R d 2"]


@flax.struct.dataclass
class Frame:
  """One drawn latent frame: the sum [P, 1, h, w, d], its bits [P, N, d] and their guided margins."""

  total: Float[Array, "P 1 h w d"]
  bits: Bool[Array, "P N d"]
  margins: Float[Array, "P N d"]


def draw_prompt(
  words: Sequence[int],
  *,
  frames: int,
  side: int,
  given: UInt8[np.ndarray, "F H W 3"] | None = None,
  before: Sequence[Item] = (),
) -> list[Item]:
  """A prompt that ends with what is to be drawn, in the form of training's `draw`.

  Args:
    words: token ids of the caption; possibly none.
    frames: F, 1 for a picture.
    side: H = W.
    given: the first frames, which a video continues.
    before: what stands before the words: text, and pictures from `given_picture`.
  """
  canvas = np.zeros((frames, side, side, 3), np.uint8)
  latent = 0
  if given is not None:
    canvas[: len(given)] = given
    latent = 1
  spoken = [Text(tuple(words), learn=False)] if len(words) else []
  return [Text((int(SpecialToken.BOS),)), *before, *spoken, Drawn(canvas, given=latent)]


def given_picture(picture: UInt8[np.ndarray, "1 H W 3"]) -> Drawn:
  """A picture of the prompt that was drawn before, as in a story."""
  return Drawn(picture, given=1)


class Painter:
  """The compiled functions of one model shape; parameters are given to each call.

  Attributes:
    config: the model's config as it is decoded (all layers unrolled).
    media: the encoders' configs.
  """

  def __init__(
    self,
    config: ModelConfig,
    media: media_lib.MediaConfig,
    *,
    options: LayoutOptions | None = None,
    window: int | None = None,
  ):
    """Compiles nothing yet. `options` and `window` are those of training."""
    self.config = blocks.decoding_config(config)
    self.media = media
    self.options = options or LayoutOptions()
    self.shapes = media.shapes(window=window)
    self._model = UnifiedModel(self.config)
    self._load = jax.jit(lambda params, bias: blocks.decoding_weights(params, bias, config))
    self._begin = jax.jit(self._begin_function, static_argnames="slots")
    self._frame = jax.jit(
      self._frame_function, static_argnames=("prompts", "goes_on"), donate_argnames="canvas"
    )
    self._sums = jax.jit(self._sums_function)
    self._finish = jax.jit(self._finish_function)

  def load(self, params: Any, bias: Float[Array, "N E"], tokenizer: Any) -> Weights:
    """Parameters, router bias and the visual tokenizer's parameters, arranged for drawing: a copy."""
    return self._load(params, bias).replace(tokenizer=jax.tree.map(jnp.asarray, tokenizer))

  def draw(
    self,
    weights: Weights,
    prompts: Sequence[Sequence[Item]],
    *,
    how: DrawingConfig,
    active: Active | None = None,
    progress: Callable[[int, int], None] | None = None,
    at_least: int = 0,
  ) -> UInt8[np.ndarray, "P F H W 3"]:
    """Draws what each prompt ends with.

    Args:
      weights: from `load`.
      prompts: items whose last one is `Drawn` (`draw_prompt`), of one number of frames in all prompts.
      how: temperature, guidance, seed. Prompt p draws the same alone and in a batch at the same place.
      active: the member to run, by masks for all rows alike; None is the whole model.
      progress: called with (latent frames done, all of them).
      at_least: positions to lay out, as `prompt_batch` has it.

    Raises:
      ValueError: a prompt that does not end with `Drawn`, or prompts of different forms.
    """
    made = self.frames(
      weights, prompts, how=how, active=active, progress=progress, at_least=at_least
    )
    totals = [frame.total for frame in made]
    last = _last(prompts)
    if last.given:
      frames = self.media.tokenizer.pixel_frames(last.given)
      totals.insert(0, self._sums(weights, np.stack([p[-1].media[:frames] for p in prompts])))
    return np.asarray(self._finish(weights, totals))

  def frames(
    self,
    weights: Weights,
    prompts: Sequence[Sequence[Item]],
    *,
    how: DrawingConfig,
    active: Active | None = None,
    progress: Callable[[int, int], None] | None = None,
    at_least: int = 0,
  ) -> list[Frame]:
    """The latent frames that `draw` decodes; arguments as there."""
    last = _last(prompts)
    frames, given = self.shapes.latent_frames(len(last.media)), last.given
    code = self.media.tokenizer.quantizer
    n, tail = code.elements, (frames - given) * code.elements + 1
    rows = [*prompts]
    if how.guidance != 1:
      rows += [[Text((int(SpecialToken.BOS),)), prompt[-1]] for prompt in prompts]
    batch = prompt_batch(rows, self.shapes, self.options, tail=tail, at_least=at_least)
    start = batch.row.kind.shape[1] - tail
    cut = lambda a, b: jax.tree.map(lambda x: x[:, a:b], batch.row)
    first = batch.replace(row=cut(0, start))
    canvas = self._begin(weights, first, active, slots=start + tail - 1)
    guidance = how.schedule(frames, len(code.sides))
    key = jax.random.key(np.uint32(how.seed))
    made = []
    for f in range(given, frames):
      at = start + (f - given) * n
      canvas, frame = self._frame(
        weights,
        canvas,
        cut(at, at + n),
        np.int32(f * n),
        guidance[f],
        np.float32(how.temperature),
        jax.random.fold_in(key, f),
        active,
        prompts=len(prompts),
        goes_on=frames > 1,
      )
      made.append(frame)
      if progress is not None:
        jax.block_until_ready(frame.total)
        progress(f + 1 - given, frames - given)
    return made

  def _begin_function(self, weights: Weights, batch: MediaRow, active, slots: int) -> Canvas:
    """Prompts into a fresh cache."""
    encoded = media_lib.encode(
      weights.params, weights.tokenizer, batch, config=self.media, model=self.config
    )
    cache = empty_cache(self.config, batch.row.kind.shape[0], slots)
    logits, cache = self._run(weights, batch.row, active, cache, encoded.media)
    return Canvas(cache=cache, logits=logits[:, -1])

  def _frame_function(
    self,
    weights: Weights,
    canvas: Canvas,
    row: Row,
    element,
    guidance: Float[Array, "K"],
    temperature,
    key: Array,
    active: Active | None,
    prompts: int,
    goes_on: bool,
  ) -> tuple[Canvas, Frame]:
    """Draws a frame of which `row` [R, N] is the layout and `element` the first element.

    `goes_on`: the frame's sum goes into the cache too, since another frame follows.
    """
    code = self.media.tokenizer.quantizer
    model = VisualTokenizer(self.media.tokenizer)
    magnitudes = model.apply({"params": weights.tokenizer}, method=VisualTokenizer.magnitudes)
    rows = row.kind.shape[0]
    cache, logits = canvas.cache, canvas.logits[:, None]
    total = empty_total(prompts, 1, code)
    bits, margins = [], []
    for k in range(len(code.sides) + goes_on):
      if k:  # the last block, if the video goes on, is the sum on the grid of scale 1
        here = (
          slice(sum(code.areas[1:k]), sum(code.areas[1 : k + 1]))
          if k < len(code.sides)
          else slice(-1, None)
        )
        block = jax.tree.map(lambda x, s=here: x[:, s], row)
        sums = block_input(total, k % len(code.sides), code)[:, 0]
        sums = jnp.tile(sums, (rows // prompts, 1, 1))
        logits, cache = self._run(
          weights, block, active, cache, _block_media(sums, element, here, code)
        )
      if k == len(code.sides):
        break
      margin = logits[..., 1] - logits[..., 0]
      if rows > prompts:
        with_words, without = margin[:prompts], margin[prompts:]
        margin = without + guidance[k] * (with_words - without)
      drawn = _draw_bits(margin, temperature, jax.random.fold_in(key, k))
      total = add_scale(total, drawn[:, None], magnitudes, k, code)
      bits.append(drawn)
      margins.append(margin)
    frame = Frame(
      total=total, bits=jnp.concatenate(bits, axis=1), margins=jnp.concatenate(margins, axis=1)
    )
    return Canvas(cache=cache, logits=logits[:, -1]), frame

  def _run(
    self, weights: Weights, block: Row, active: Active | None, cache: Cache, media: Media
  ) -> tuple[Float[Array, "R L d 2"], Cache]:
    """Bit logits at every position of a block, and the cache with the block in it."""
    out = self._model.apply({"params": weights.params}, block, weights.bias, active, cache, media)
    return bit_logits(out.hidden, weights.params, self.config), out.cache

  def _sums_function(self, weights: Weights, pixels: UInt8[Array, "P F H W 3"]) -> Array:
    code, model = self.media.tokenizer.quantizer, VisualTokenizer(self.media.tokenizer)
    variables = {"params": weights.tokenizer}
    latent = model.apply(variables, to_float(pixels), method=VisualTokenizer.encode)
    magnitudes = model.apply(variables, method=VisualTokenizer.magnitudes)
    return quantize(latent, magnitudes, code).total

  def _finish_function(self, weights: Weights, totals: list[Array]) -> UInt8[Array, "P F H W 3"]:
    """Sums of all frames to pixels."""
    total = jnp.concatenate(totals, axis=1)
    model = VisualTokenizer(self.media.tokenizer)
    return to_pixels(
      model.apply({"params": weights.tokenizer}, total, method=VisualTokenizer.decode)
    )


def _block_media(
  sums: Float[Array, "R area d"], element: Array, here: slice, code: QuantizerConfig
) -> Media:
  """`Media` of one block: its first input, which comes before element `element` + here.start + 1."""
  offset = code.elements - 1 if here.start == -1 else here.start
  # An input's entry is start + its element - 1, and the block's first one must be entry 0.
  return Media(
    inputs=sums,
    context=jnp.zeros((sums.shape[0], 0, 1), sums.dtype),
    start=jnp.reshape(-(element + offset), (1,)),
  )


def _draw_bits(
  margin: Float[Array, "P area d"], temperature: Array, key: Array
) -> Bool[Array, "P area d"]:
  """A coin for every bit; each prompt has its own key, so its neighbours do not matter."""
  keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(margin.shape[0]))
  uniform = jax.vmap(lambda k: jax.random.uniform(k, margin.shape[1:]))(keys)
  warm = uniform < jax.nn.sigmoid(margin / jnp.maximum(temperature, 1e-6))
  return jnp.where(temperature > 0, warm, margin > 0)


def _last(prompts: Sequence[Sequence[Item]]) -> Drawn:
  """What the first prompt draws; all must draw something of its form."""
  form = lambda item: (len(item.media), item.given) if isinstance(item, Drawn) else None
  forms = {form(prompt[-1]) for prompt in prompts}
  if len(forms) != 1 or None in forms:
    raise ValueError("prompts must all end with media of one form to draw")
  return prompts[0][-1]
