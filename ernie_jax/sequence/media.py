"""Rows with media slots: pictures and videos are put into slots, and a row says which position reads what.

    builder = RowBuilder(shapes, slots, length=256)
    builder.add([Text((BOS, 70)), Drawn(picture), Text((EOS,))])     # False where it does not fit
    row = builder.finish()

A row has four kinds of slots, numbered in this order: pictures that are drawn, videos that are drawn,
pictures that are only looked at, videos that are only looked at. Each kind has its own fixed number, so
that a batch has fixed shapes and no picture costs the work of a video or of a path that nothing reads.
An image is a video of one frame: the kinds differ in the number of frames and in nothing else.
Sound needs no slots (`sound.py`).

Letters: V slots of one kind, F pixel frames, H W pixels, T latent frames. NumPy only.
"""

import dataclasses
from collections.abc import Sequence

import flax.struct
import numpy as np
from jaxtyping import UInt8

from ernie_jax.sequence.layout import LayoutOptions, lay_out
from ernie_jax.sequence.pack import pack
from ernie_jax.sequence.parts import Audio, ContextMedia, Part, Text, VisionTarget, Voice
from ernie_jax.sequence.row import Row
from ernie_jax.sequence.sound import Clip, Sound, SoundShape, Speaker, silence, sound_of


@dataclasses.dataclass(frozen=True)
class SlotsConfig:
  """Slots of every row; what no example of a row uses stays black and is read by nobody.

  Attributes:
    side: height and width of all media in pixels.
    frames: F of a video: 1 + a multiple of the tokenizer's temporal stride.
    drawn_images, drawn_videos: slots of what the row learns to draw, or continues.
    seen_images, seen_videos: slots of what it only looks at.

  Raises:
    ValueError: a size below 1, or a negative number.
  """

  side: int = 32
  frames: int = 9
  drawn_images: int = 2
  drawn_videos: int = 0
  seen_images: int = 2
  seen_videos: int = 0

  def __post_init__(self):
    for name in ("side", "frames"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    if min(self.counts) < 0:
      raise ValueError(f"slots must not be negative, got {list(self.counts)}")

  @property
  def counts(self) -> tuple[int, int, int, int]:
    """Slots of each kind, in the order of their numbers."""
    return self.drawn_images, self.drawn_videos, self.seen_images, self.seen_videos


@dataclasses.dataclass(frozen=True)
class MediaShapes:
  """How media become positions: what a row's builder must know of the tokenizer and the encoder.

  Attributes:
    scales: (h, w) of each scale of a drawn frame.
    stride: pixel frames to a latent frame after the first.
    grid: (h, w) understanding tokens of a frame.
    window: see `VisionTarget`.
  """

  scales: tuple[tuple[int, int], ...]
  stride: int
  grid: tuple[int, int]
  window: int | None = None

  def latent_frames(self, frames: int) -> int:
    """T of F pixel frames.

    Raises:
      ValueError: F is not 1 + a multiple of the stride.
    """
    if frames < 1 or (frames - 1) % self.stride:
      raise ValueError(f"frames must be 1 + a multiple of {self.stride}, got {frames}")
    return 1 + (frames - 1) // self.stride


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
  """A picture or video that the example draws; a `VisionTarget` of its own slot.

  Attributes:
    media: uint8 [F, H, W, 3].
    given, dropped: latent frames, see `VisionTarget`.
  """

  media: UInt8[np.ndarray, "F H W 3"]
  given: int = 0
  dropped: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
  """A picture or video that the example looks at; a `ContextMedia` of its own slot."""

  media: UInt8[np.ndarray, "F H W 3"]


Item = Text | Drawn | Seen | Clip | Speaker
NO_SLOTS = SlotsConfig(side=1, frames=1, drawn_images=0, seen_images=0)


@flax.struct.dataclass
class MediaRow:
  """A row, or a batch of rows, with its slots.

  Attributes:
    row: fields [L] or [B, L].
    drawn: uint8 [*B, V, F, H, W, 3], one array for each kind of drawn slots that there is.
    seen: the same of those that are only looked at.
    sound: codes and voices of its positions; None where the rows of a run have no sound at all.
  """

  row: Row
  drawn: tuple[UInt8[np.ndarray, "*B V F H W 3"], ...]
  seen: tuple[UInt8[np.ndarray, "*B V F H W 3"], ...]
  sound: Sound | None = None


@dataclasses.dataclass(frozen=True)
class _Placed:
  """An example in a row: its parts, (kind, number, pixels) of the slots that it fills, and how many of each are then used."""

  parts: list[Part]
  media: list[tuple[int, int, np.ndarray]]
  used: list[int]


class RowBuilder:
  """Packs examples of items into one row of fixed length with fixed slots."""

  def __init__(
    self,
    shapes: MediaShapes | None,
    slots: SlotsConfig,
    *,
    length: int,
    options: LayoutOptions | None = None,
    sound: SoundShape | None = None,
  ):
    """An empty row.

    Args:
      shapes: how pictures and videos become positions; None where `slots` has none.
      slots: of the row.
      length: L.
      options: of the layout.
      sound: the shape of clips and voices; None: a row without sound.
    """
    self.shapes, self.slots, self.length, self.sound = shapes, slots, length, sound
    self._options = options
    self._examples: list[Row] = []
    self._sounds: list[Sound] = []
    self._clips = 0
    self._free = length
    self._used = [0, 0, 0, 0]
    frames = (1, slots.frames) * 2
    self._pixels = [
      np.zeros((count, f, slots.side, slots.side, 3), np.uint8)
      for count, f in zip(slots.counts, frames)
    ]

  def add(self, items: Sequence[Item]) -> bool:
    """Adds an example, or says that the row has no room for it.

    Raises:
      ValueError: media of another size, or of a number of frames that no slot has.
    """
    placed = self._placed(items)
    if placed is None:
      return False
    for kind, number, pixels in placed.media:
      self._pixels[kind][number] = pixels
    self._examples.append(lay_out(placed.parts, options=self._options))
    self._used = placed.used
    self._free -= self._examples[-1].length
    if self.sound is not None:
      clips = [item for item in items if isinstance(item, Clip)]
      speakers = [item for item in items if isinstance(item, Speaker)]
      self._sounds.append(sound_of(self._examples[-1], clips, speakers, self.sound))
      self._clips += len(clips)
    return True

  def fits(self, items: Sequence[Item]) -> bool:
    """Whether `add` would add it, of items that can be laid out."""
    return self._placed(items) is not None

  def _placed(self, items: Sequence[Item]) -> _Placed | None:
    """Where an example would lie; None where the row has no room."""
    taken = list(self._used)
    parts, media = [], []
    clips = [item for item in items if isinstance(item, Clip)]
    for item in items:
      if isinstance(item, Clip):
        item = Audio(slot=self._clips + clips.index(item), frames=len(item.codes), learn=item.learn)
      elif isinstance(item, Speaker):
        item = Voice()
      elif not isinstance(item, Text):
        kind = self._kind(item)
        if taken[kind] == self.slots.counts[kind]:
          return None
        media.append((kind, taken[kind], item.media))
        item = self._part(item, sum(self.slots.counts[:kind]) + taken[kind])
        taken[kind] += 1
      parts.append(item)
    if sum(part.length for part in parts) > self._free:
      return None
    return _Placed(parts, media, taken)

  def finish(self) -> MediaRow:
    """The row as far as it was filled."""
    present = [pixels if len(pixels) else None for pixels in self._pixels]
    kept = lambda kinds: tuple(present[k] for k in kinds if present[k] is not None)
    return MediaRow(
      row=pack(self._examples, self.length),
      drawn=kept((0, 1)),
      seen=kept((2, 3)),
      sound=self._all_sound(),
    )

  def _all_sound(self) -> Sound | None:
    if self.sound is None:
      return None
    parts = [*self._sounds, silence(self._free, self.sound)]
    joined = lambda name: np.concatenate([getattr(part, name) for part in parts])
    return Sound(codes=joined("codes"), voice=joined("voice"))

  def _kind(self, item: Drawn | Seen) -> int:
    shape = item.media.shape
    side = self.slots.side
    if shape[1:] != (side, side, 3):
      raise ValueError(f"media must be [F, {side}, {side}, 3], got {shape}")
    if shape[0] not in (1, self.slots.frames):
      raise ValueError(f"media must have 1 or {self.slots.frames} frames, got {shape[0]}")
    return 2 * isinstance(item, Seen) + (shape[0] > 1)

  def _part(self, item: Drawn | Seen, slot: int) -> Part:
    frames = self.shapes.latent_frames(len(item.media))
    if isinstance(item, Seen):
      return ContextMedia(slot=slot, frames=frames, grid=self.shapes.grid)
    return VisionTarget(
      slot=slot,
      frames=frames,
      scales=self.shapes.scales,
      given=item.given,
      window=self.shapes.window,
      dropped=item.dropped,
    )
