"""What a model with vision is asked when its drawing and reading are scored: prompts from the world's scenes.

No scene is one of training. Those of "validation" hold combinations of shape and colour that training saw, those of
"held_out" have at least one that it never saw. Example i of a split follows from the config, so every model is asked the same.
Where pictures are spoken about in training, the questions about them are also heard: those of both splits in voices
of training, and those of "validation" once more in voices that it never heard ("unseen_speakers").
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ernie_jax.data.audio import to_int16
from ernie_jax.data.media_example import MediaExample, Question
from ernie_jax.data.media_rows import MediaDataConfig
from ernie_jax.data.world.questions import choose_question
from ernie_jax.data.world.scene import Scene, scene_from_json
from ernie_jax.data.world.scenes import SPLITS as DRAWN
from ernie_jax.data.world.scenes import WorldSource, draw_example
from ernie_jax.data.world.speech import TRAINING_SPEAKERS, UNSEEN_SPEAKERS
from ernie_jax.data.world.speech_synthesis import synthesise
from ernie_jax.data.world.spoken import SpokenSource, record

SCENES = {"validation": "seen combinations", "held_out": "never-trained combinations"}
VOICES = {"unseen_speakers": "unseen voices"}  # what is heard alone
SPLITS = SCENES | VOICES
# What is drawn for a prompt. Not 0: a seed that ends with it is that of the scene.
_QUESTION, _VOICE = 1, 2


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

  @property
  def answers(self) -> bool:
    """Whether its outputs are answers to a question, read or heard."""
    return self.form in ("answer", "hear")


TASKS = (
  Task("text -> picture", "draw", False, "all_correct"),
  Task("picture -> caption", "describe", False, "exact"),
  Task("picture question", "answer", False, "right"),
  Task("text -> video", "draw", True, "objects_and_direction"),
  Task("video -> caption", "describe", True, "exact"),
  Task("video question", "answer", True, "right"),
  Task("picture -> video", "extend", True, "kept"),
)
HEARD = Task("spoken question", "hear", False, "right")


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
  """A scene with the words that are used of it.

  Attributes:
    media: the ground truth, cut to the frames that the model knows.
    scene: its state.
    caption: what is to be drawn.
    question: the one that is asked.
    questions: all that could be.
    waveform: int16 [S], the question as it is said; None where nobody says it.
  """

  media: np.ndarray
  scene: Scene
  caption: str
  question: Question
  questions: tuple[Question, ...]
  waveform: np.ndarray | None = dataclasses.field(default=None, repr=False)


Prompts = Mapping[tuple[str, bool], Sequence[Prompt]]  # by split and whether they are of videos


def asked_of(split: str, task: Task, prompts: Prompts) -> Sequence[Prompt]:
  """The prompts of a split for a task; none where it is not asked there."""
  many = prompts.get((split, task.moving), ())
  heard = bool(many) and many[0].waveform is not None
  fits = heard if task == HEARD else split not in VOICES
  return many if fits else ()


def make_prompts(config: MediaDataConfig, count: int) -> Prompts:
  """`count` prompts of each split, of pictures and of videos as far as the config has them in its judged worlds.

  Those of pictures are also said where `config.spoken` has sources, as the first of these says it.
  """
  made = {}
  for moving in (False, True):
    judged = [world for world in config.worlds if world.judged]
    sources = [world for world in judged if (world.scene.frames > 1) == moving]
    if not sources:
      continue
    for split in SCENES:
      made[split, moving] = [
        _prompt(sources[i % len(sources)], split, i // len(sources), config.slots.frames)
        for i in range(count)
      ]
  if config.spoken and ("validation", False) in made:
    said = lambda split, voices: [
      _said(prompt, config.spoken[0], voices, index=i)
      for i, prompt in enumerate(made[split, False])
    ]
    made["unseen_speakers", False] = said("validation", UNSEEN_SPEAKERS)
    for split in SCENES:
      made[split, False] = said(split, TRAINING_SPEAKERS)
  return made


def _said(prompt: Prompt, source: SpokenSource, voices: range, *, index: int) -> Prompt:
  """The prompt with its question as one of `voices` says it."""
  draw = np.random.default_rng([source.seed, index, voices.start, _VOICE])
  speaker = int(draw.choice(voices))
  said = record(prompt.question.question, source.speech, draw, speaker=speaker)
  return dataclasses.replace(prompt, waveform=to_int16(synthesise(said).waveform))


def _prompt(source: WorldSource, split: str, index: int, frames: int) -> Prompt:
  example: MediaExample = draw_example(source, split, index)
  draw = np.random.default_rng(
    [source.seed, DRAWN.index(split), index, source.scene.frames, _QUESTION]
  )
  return Prompt(
    media=example.media[:frames],
    scene=scene_from_json(example.scene),
    caption=example.captions[0],
    question=choose_question(example.questions, draw),
    questions=example.questions,
  )
