"""The parts an example is made of, in the order they are read; `layout.py` turns them into a row.

A part says what is there and what of it is learnt; it holds no pixels or samples, only the number of
the media slot that does. Serialised as in sections 3.2 and 4 of the ERNIE 5.0 report:

    Text           t t t
    ContextMedia   BOI I I .. EOI                      (BOV .. EOV for more than one frame)
    VisionTarget   BOI [S1 on the S2 grid] .. SS EOI   (one frame: an image)
                   BOV [F1S1 ..] F1SS [F2S1 ..] F2SS EOV
    Voice          V                                   (who speaks in the audio after it)
    Audio          BOA A1 .. An EOA

Whether a token is learnt is a matter of the part it belongs to, not of the part before it that predicts
it: a prompt's last token learns to predict the first token of the answer.
"""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Text:
  """Text and special tokens (BOS, SEP and roles are the caller's to write).

  Attributes:
    tokens: the ids, a sequence or an integer array.
    learn: whether predicting these tokens is part of the loss; False for a prompt.
  """

  tokens: Sequence[int]
  learn: bool = True

  @property
  def length(self) -> int:
    """Number of positions in the row."""
    return len(self.tokens)


@dataclasses.dataclass(frozen=True)
class ContextMedia:
  """An image or a video to understand: features, no loss.

  Attributes:
    slot: the vision slot.
    frames: understanding frames T, after merging; 1 for an image.
    grid: (h, w) understanding tokens of a frame.

  Raises:
    ValueError: a negative slot, or a size below 1.
  """

  slot: int
  frames: int
  grid: tuple[int, int]

  def __post_init__(self):
    _check_slot(self.slot)
    _check_size("frames", self.frames)
    for side in self.grid:
      _check_size("grid", side)

  @property
  def length(self) -> int:
    """Number of positions in the row."""
    return self.frames * self.grid[0] * self.grid[1] + 2


@dataclasses.dataclass(frozen=True)
class VisionTarget:
  """An image or a video to generate, frame by frame and scale by scale; an image is one frame.

  Attributes:
    slot: the vision slot.
    frames: latent frames T; 1 for an image.
    scales: (h, w) of every scale, the first 1 x 1 (it is predicted from one position), none smaller
      than the one before it.
    given: how many leading frames are given and not learnt (an image that a video continues);
      `given == frames` makes the whole part context.
    window: a frame's tokens are hidden from frames more than `window` later in this part; None: never
      (windowed temporal attention, report section on video; VideoAR, arXiv 2601.05966).
    dropped: frames hidden from every later frame of this part (random history masking, same sources),
      drawn by the caller. The first scale of the next frame is still predicted from the sum of a
      dropped frame, since that is the position that predicts it.

  Raises:
    ValueError: a value outside what is said above.
  """

  slot: int
  frames: int
  scales: tuple[tuple[int, int], ...]
  given: int = 0
  window: int | None = None
  dropped: tuple[int, ...] = ()

  def __post_init__(self):
    _check_slot(self.slot)
    _check_size("frames", self.frames)
    if not self.scales or tuple(self.scales[0]) != (1, 1):
      raise ValueError(f"scales: the first scale must be (1, 1), got {self.scales!r}")
    for before, scale in zip(self.scales, self.scales[1:]):
      if scale[0] < before[0] or scale[1] < before[1]:
        raise ValueError(
          f"scales: no scale may be smaller than the one before, got {self.scales!r}"
        )
    if not 0 <= self.given <= self.frames:
      raise ValueError(f"given must be in [0, frames={self.frames}], got {self.given}")
    if self.window is not None and self.window < 0:
      raise ValueError(f"window must not be negative, got {self.window}")
    if any(not 0 <= frame < self.frames for frame in self.dropped):
      raise ValueError(f"dropped frames must be in [0, frames={self.frames}), got {self.dropped!r}")

  @property
  def areas(self) -> tuple[int, ...]:
    """Tokens of each scale."""
    return tuple(h * w for h, w in self.scales)

  @property
  def elements_per_frame(self) -> int:
    """N, the tokens of all scales of a frame: what `media_element` counts."""
    return sum(self.areas)

  @property
  def length(self) -> int:
    """Number of positions in the row: the sum of a frame takes the place that scale 1 leaves free."""
    return self.frames * self.elements_per_frame + 2


@dataclasses.dataclass(frozen=True)
class Audio:
  """A clip of codec frames, to be spoken (learnt) or to be listened to.

  Attributes:
    slot: the audio slot.
    frames: codec frames n.
    learn: whether predicting the codes and the end is part of the loss; False for recognition.

  Raises:
    ValueError: a negative slot, or no frames.
  """

  slot: int
  frames: int
  learn: bool = True

  def __post_init__(self):
    _check_slot(self.slot)
    _check_size("frames", self.frames)

  @property
  def length(self) -> int:
    """Number of positions in the row."""
    return self.frames + 2


@dataclasses.dataclass(frozen=True)
class Voice:
  """One position that says how a speaker sounds (report: a speaker embedding in the context)."""

  @property
  def length(self) -> int:
    """Number of positions in the row."""
    return 1


Part = Text | ContextMedia | VisionTarget | Audio | Voice


def _check_slot(slot: int) -> None:
  if slot < 0:
    raise ValueError(f"slot must not be negative, got {slot}")


def _check_size(name: str, size: int) -> None:
  if size < 1:
    raise ValueError(f"{name} must be at least 1, got {size}")
