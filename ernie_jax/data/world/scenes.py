"""The world's scenes as a TFDS data set: pictures or videos with captions, questions and documents.

Three splits: "train" and "validation", whose scenes hold only the combinations of shape and colour that
training may see, and which share no scene, and "held_out", each of whose scenes has an object that it may not
see (`Scene.split`). Example i of a split follows from the seed alone, so builds are equal everywhere.
"""

import dataclasses
import os
from collections.abc import Iterator

import numpy as np

from ernie_jax.data.builds import Build, build_key, prepare_build
from ernie_jax.data.media_example import Document, MediaExample
from ernie_jax.data.media_records import MediaBuilder
from ernie_jax.data.world.documents import story
from ernie_jax.data.world.language import captions
from ernie_jax.data.world.questions import questions
from ernie_jax.data.world.render import render
from ernie_jax.data.world.scene_sampling import SceneConfig, sample_scene

_FORMAT = 7  # part of the build's name: raise it when the records of equal settings change
SPLITS = ("train", "validation", "held_out")


@dataclasses.dataclass(frozen=True)
class WorldSource:
  """Which scenes to draw, and how many.

  Attributes:
    side: of the pictures, in pixels; a multiple of 32.
    scene: how scenes are drawn; `scene.frames` 1 for pictures, 1 + 4n for videos.
    train, validation, held_out: examples of each split.
    captions: kept with each example, in different styles; 0: its examples are asked about, not drawn or told.
    documents: share of the pictures that also have a document; videos have none.
    seed: of all of it.
    weight: share of the rows of a mixture, relative to the other sources.
    judged: whether evaluations take their prompts from it, or it is there for training alone.
  """

  side: int = 32
  scene: SceneConfig = SceneConfig()
  train: int = 20_000
  validation: int = 1_000
  held_out: int = 1_000
  captions: int = 4
  documents: float = 0.25
  seed: int = 0
  weight: float = 1.0
  judged: bool = True

  def __post_init__(self):
    for name in ("train", "validation", "held_out"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    if self.captions < 0:
      raise ValueError(f"captions must not be negative, got {self.captions}")
    if self.scene.nameless and (self.captions or self.documents):
      raise ValueError(
        "captions and documents must be 0 where colours are nameless: they would name them"
      )
    if self.side < 32 or self.side % 32:
      raise ValueError(f"side must be a multiple of 32, got {self.side}")
    if not 0 <= self.documents <= 1:
      raise ValueError(f"documents must be in [0, 1], got {self.documents}")
    if self.seed < 0:
      raise ValueError(f"seed must not be negative, got {self.seed}")
    if not self.weight > 0:
      raise ValueError(f"weight must be positive, got {self.weight}")

  @property
  def label(self) -> str:
    """What to call the source in messages."""
    return f"the world's {'pictures' if self.scene.frames == 1 else 'videos'}"


class WorldScenes(MediaBuilder):
  """Pictures or videos of a procedural world; `prepare` is the way to use it."""

  def splits(self) -> tuple[str, ...]:
    """See `SPLITS`."""
    return SPLITS

  def examples(self, split: str) -> Iterator[MediaExample]:
    """As many as the source says."""
    source = self.builder_config.source
    for index in range(getattr(source, split)):
      yield draw_example(source, split, index)


def draw_example(source: WorldSource, split: str, index: int) -> MediaExample:
  """Example `index` of a split, for any index >= 0."""
  rng = np.random.default_rng([source.seed, SPLITS.index(split), index])
  scene = sample_scene(rng, source.scene, split=split)
  document = None
  if scene.frames == 1 and rng.random() < source.documents:
    told = story(scene, source.scene, rng)
    document = Document(
      texts=told.texts,
      pictures=np.concatenate([render(s, source.side) for s in told.scenes]),
      scenes=tuple(s.to_json() for s in told.scenes),
    )
  return MediaExample(
    media=render(scene, source.side),
    captions=captions(scene, rng, source.captions),
    questions=questions(scene, rng),
    document=document,
    scene=scene.to_json(),
    name=f"{source.label} {split}[{index}]",
  )


def prepare(source: WorldSource, data_dir: str | os.PathLike) -> Build:
  """Builds the records of `source` under `data_dir`, unless that very build is there already.

  Raises:
    UserError: `data_dir` cannot be written.
  """
  settings = {**dataclasses.asdict(source), "format": _FORMAT}
  del settings["weight"], settings["judged"]
  label = f"{'pictures' if source.scene.frames == 1 else 'videos'}-{source.side}"
  return prepare_build(
    WorldScenes, source, key=build_key(label, settings), data_dir=data_dir, label=source.label
  )
