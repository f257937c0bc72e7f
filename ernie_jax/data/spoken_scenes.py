"""Pictures with what is said about them: the examples of a `SpokenSource`, their recordings as codes.

Letters: n codec frames, R levels, V numbers of a voice.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from ernie_jax.data.media_example import MediaExample, Question
from ernie_jax.data.media_sources import Examples, open_examples
from ernie_jax.data.speech_codes import CodedSpeech, Coder, coded_speech
from ernie_jax.data.world.spoken import Recordings, SpokenSource


@dataclasses.dataclass(frozen=True, eq=False)
class SpokenScene:
  """A picture, a question about it that was recorded, and perhaps a document read aloud.

  Attributes:
    example: the picture, with all that is written about it.
    question: the one that is heard.
    asked: its codes.
    texts: codes of the document's texts; empty where none was recorded.
  """

  example: MediaExample
  question: Question
  asked: Int[np.ndarray, "n R"]
  texts: Mapping[str, Int[np.ndarray, "n R"]]


class SpokenScenes(Sequence[SpokenScene]):
  """The pictures of a split that are spoken about."""

  def __init__(self, examples: Examples, clips: CodedSpeech):
    """`clips`: codes of the `Recordings` of `examples`: of each of the first pictures, its own in a row."""
    self._examples, self._clips, self.fingerprint = examples, clips, clips.fingerprint
    self._own: list[list[int]] = []  # numbers of the clips of each picture
    before = None
    for number, clip in enumerate(clips):
      if clip.name != before:
        self._own.append([])
        before = clip.name
      self._own[-1].append(number)

  def __len__(self) -> int:
    return len(self._own)

  def __getitem__(self, index: int) -> SpokenScene:
    example = self._examples[index]
    asked, *told = (self._clips[number] for number in self._own[index])
    question = next(q for q in example.questions if q.question == asked.transcript)
    return SpokenScene(
      example=example,
      question=question,
      asked=asked.codes,
      texts={clip.transcript: clip.codes for clip in told},
    )

  def voice(self, index: int, rng: np.random.Generator) -> Float[np.ndarray, "V"]:
    """The voice of who speaks about a picture, from another recording."""
    return self._clips.other_voice(self._own[index][0], rng)


def open_spoken(
  sources: Sequence[SpokenSource], split: str, coder: Coder, *, data_dir: str | os.PathLike
) -> list[SpokenScenes]:
  """Opens a split of every source, recording and encoding what is said where that is needed.

  Raises:
    UserError: the pictures or the codes cannot be kept there.
  """
  opened = []
  for source in sources:
    examples = open_examples(source.scenes, split, data_dir=data_dir)
    clips = coded_speech(Recordings(examples, source), coder, data_dir=data_dir)
    opened.append(SpokenScenes(examples, clips))
  return opened
