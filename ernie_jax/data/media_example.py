"""What one record about pictures or videos says, wherever it comes from: the world, files, or a TFDS set.

An example does not say what is to be learnt from it. The rows' builder draws a task that the example can
serve: caption -> picture or video, picture or video -> caption, a question and its answer, a picture and
the video that continues it, or a document of text and pictures.
"""

import dataclasses

import numpy as np
from jaxtyping import UInt8


@dataclasses.dataclass(frozen=True)
class Question:
  """A question about the media of an example, and its answer.

  Attributes:
    question: what is asked.
    answer: one or a few words.
    kind: what ability it asks for, to score kinds apart; empty where the source does not say.
  """

  question: str
  answer: str
  kind: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Document:
  """Text with pictures in it: texts[0], pictures[0], texts[1], pictures[1], .. texts[n].

  Attributes:
    texts: n + 1 texts, the first and the last possibly empty.
    pictures: uint8 [n, H, W, 3].
    scenes: the state of each picture as JSON, or empty where none is known.

  Raises:
    ValueError: the numbers do not fit together, or the pictures have another form.
  """

  texts: tuple[str, ...]
  pictures: UInt8[np.ndarray, "n H W 3"] = dataclasses.field(repr=False)
  scenes: tuple[str, ...] = ()

  def __post_init__(self):
    _check_media("pictures", self.pictures)
    if len(self.texts) != len(self.pictures) + 1:
      raise ValueError(f"{len(self.pictures)} pictures stand between {len(self.texts)} texts")
    if self.scenes and len(self.scenes) != len(self.pictures):
      raise ValueError(f"{len(self.pictures)} pictures have {len(self.scenes)} scenes")


@dataclasses.dataclass(frozen=True, eq=False)
class MediaExample:
  """One picture or video with all that is known about it.

  Attributes:
    media: uint8 [T, H, W, 3]; a picture is a video of one frame.
    captions: texts that each describe it on their own; possibly none.
    questions: what can be asked about it; possibly none.
    document: a document of pictures of the same size, or None.
    scene: the state that `media` was rendered from as JSON (`data/world/scene.py`); empty where unknown.
    name: where it comes from, for messages.

  Raises:
    ValueError: `media` has another form.
  """

  media: UInt8[np.ndarray, "T H W 3"] = dataclasses.field(repr=False)
  captions: tuple[str, ...] = ()
  questions: tuple[Question, ...] = ()
  document: Document | None = None
  scene: str = ""
  name: str = ""

  def __post_init__(self):
    _check_media("media", self.media)

  @property
  def frames(self) -> int:
    """T."""
    return len(self.media)


def _check_media(name: str, array: np.ndarray) -> None:
  if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape:
    raise ValueError(f"{name} must be uint8 [n, H, W, 3], got {array.dtype} {array.shape}")
