"""What a model with vision is asked when its drawing and reading are scored: prompts from the world's scenes.

Scenes of "validation" hold combinations of shape and colour that training saw, those of "held_out" have at
least one that it never saw. Example i of a split follows from the config, so every model is asked the same.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ernie_jax.data.media_example import MediaExample, Question
from ernie_jax.data.media_rows import MediaDataConfig
from ernie_jax.data.world.scene import Scene, scene_from_json
from ernie_jax.data.world.scenes import WorldSource, draw_example

SPLITS = {"validation": "seen combinations", "held_out": "never-trained combinations"}


@dataclasses.dataclass(frozen=True)
class Task:
  """One ability.

  Attributes:
    name: for people.
    form: as the tasks of training are called.
    moving: whether it is about videos.
    headline: the attribute that decides whether an output is right.
  """

  name: str
  form: str
  moving: bool
  headline: str

  @property
  def draws(self) -> bool:
    """Whether its outputs are pixels; else they are text."""
    return self.form in ("draw", "extend")


TASKS = (
  Task("text -> picture", "draw", False, "all_correct"),
  Task("picture -> caption", "describe", False, "exact"),
  Task("picture question", "answer", False, "right"),
  Task("text -> video", "draw", True, "objects_and_direction"),
  Task("video -> caption", "describe", True, "exact"),
  Task("video question", "answer", True, "right"),
  Task("picture -> video", "extend", True, "kept"),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
  """A scene with the words that are used of it.

  Attributes:
    media: the ground truth, cut to the frames that the model knows.
    scene: its state.
    caption: what is to be drawn.
    question: the one that is asked.
    questions: all that could be.
  """

  media: np.ndarray
  scene: Scene
  caption: str
  question: Question
  questions: tuple[Question, ...]


Prompts = Mapping[tuple[str, bool], Sequence[Prompt]]  # by split and whether they are of videos


def make_prompts(config: MediaDataConfig, count: int) -> Prompts:
  """`count` prompts of each split, of pictures and of videos as far as the config has them in its world."""
  made = {}
  for moving in (False, True):
    sources = [world for world in config.worlds if (world.scene.frames > 1) == moving]
    if not sources:
      continue
    for split in SPLITS:
      made[split, moving] = [
        _prompt(sources[i % len(sources)], split, i // len(sources), config.slots.frames)
        for i in range(count)
      ]
  return made


def _prompt(source: WorldSource, split: str, index: int, frames: int) -> Prompt:
  example: MediaExample = draw_example(source, split, index)
  draw = np.random.default_rng([list(SPLITS).index(split), source.scene.frames, index])
  return Prompt(
    media=example.media[:frames],
    scene=scene_from_json(example.scene),
    caption=example.captions[0],
    question=example.questions[draw.integers(len(example.questions))],
    questions=example.questions,
  )
