"""What lies under each patch of a scene's pictures: labels for an encoder, and batches of labelled pictures.

The world knows them, as it knows the phones that teach the audio codec. Shape, colour and size are labelled apart, so
that an encoder has no reason to know them as pairs. Place is where the middle of the thing is: a patch that says what
lies there and not where leaves it to the model that reads with it to tell which of two things is where.

Letters: B pictures, S side, h w grid of patches, A attributes.
"""

import dataclasses
from collections.abc import Sequence

import flax.struct
import numpy as np
from jaxtyping import Array, Int8, UInt8

from ernie_jax.data.media_records import MediaExamples
from ernie_jax.data.row_batches import RowBatches
from ernie_jax.data.world import scenes
from ernie_jax.data.world.render import coverage
from ernie_jax.data.world.scene import (
  COLOURS,
  PLACES,
  SHAPES,
  SIZES,
  Object,
  Scene,
  place_of,
  scene_from_json,
  track,
)
from ernie_jax.data.world.scenes import WorldSource

NOTHING, UNKNOWN = 0, -1
ATTRIBUTES = {"shape": SHAPES, "colour": tuple(COLOURS), "size": SIZES, "place": PLACES}
_LEAST_SHARE = 0.02  # of a patch that a thing covers, to be what lies there


@dataclasses.dataclass(frozen=True)
class LabelledConfig:
  """Which pictures, and how many at a time.

  Attributes:
    worlds: the sources, each with its weight; any frame of a video is a picture.
    rows_per_batch: pictures of a batch over all hosts.
    seed: of the order.
    data_dir: where prepared records are kept; shared by runs.
    cache_mb: memory in which what was read is kept.
  """

  worlds: tuple[WorldSource, ...] = (WorldSource(),)
  rows_per_batch: int = 64
  seed: int = 0
  data_dir: str = ".cache/data"
  cache_mb: int = 1024

  def __post_init__(self):
    if self.rows_per_batch < 1:
      raise ValueError(f"rows_per_batch must be at least 1, got {self.rows_per_batch}")
    for name in ("seed", "cache_mb"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
    if len({source.side for source in self.worlds}) != 1:
      raise ValueError("worlds must be at least one, all of the same side")

  @property
  def side(self) -> int:
    """S."""
    return self.worlds[0].side


@flax.struct.dataclass
class LabelledPictures:
  """A batch, or with a leading frame axis in place of B one example.

  Attributes:
    pixels: uint8 [B, S, S, 3].
    labels: int8 [B, A, h, w], see `patch_labels`.
  """

  pixels: UInt8[Array, "B S S 3"]
  labels: Int8[Array, "B A h w"]


def patch_labels(scene: Scene, side: int, patch: int) -> Int8[np.ndarray, "T A h w"]:
  """For each frame and each of `ATTRIBUTES`, which value (counted from 1) the thing under a patch has.

  `NOTHING` where no thing covers a fiftieth of the patch, the one that covers most where two do, and `UNKNOWN`
  where the attribute has no name. Place is that of the frame.

  Args:
    scene: what was rendered.
    side, patch: of the picture and of a patch, in pixels.
  """
  grid = side // patch
  labels = np.full((scene.frames, len(ATTRIBUTES), grid, grid), NOTHING, np.int8)
  most = np.full((scene.frames, grid, grid), _LEAST_SHARE)
  for thing in scene.objects:
    share = _covered(thing, scene.frames, side, patch)
    here = share > most
    most = np.maximum(most, share)
    for a, values in enumerate(_values(thing, scene.frames)):
      labels[:, a][here] = np.broadcast_to(values[:, None, None], here.shape)[here]
  return labels


def _covered(thing: Object, frames: int, side: int, patch: int):
  """The share [T, h, w] of each patch that a thing covers."""
  pixels = np.arange(side) + 0.5
  dx, dy = (pixels - side * track(thing, frames)[..., None]).transpose(1, 0, 2)
  alpha = coverage(thing.shape, dx[:, None, :], dy[:, :, None], thing.radius * side)
  grid = side // patch
  return alpha.reshape(frames, grid, patch, grid, patch).mean(axis=(2, 4))


def _values(thing: Object, frames: int) -> list[Int8[np.ndarray, "T"]]:
  """The label of each attribute in each frame."""
  said = {name: [getattr(thing, name)] * frames for name in ("shape", "colour", "size")}
  said["place"] = [place_of(x, y) for x, y in track(thing, frames)]
  number = lambda name, value: UNKNOWN if value is None else 1 + ATTRIBUTES[name].index(value)
  return [np.array([number(name, v) for v in said[name]], np.int8) for name in ATTRIBUTES]


class LabelledBatches(RowBatches[LabelledPictures, LabelledPictures]):
  """Batches of single frames of the world's pictures and videos."""

  what = "pictures or videos"

  def __init__(
    self, config: LabelledConfig, split: str, patch: int, *, host: int = 0, hosts: int = 1
  ):
    """Prepares and opens a split of `config`; see `RowBatches`.

    Raises:
      UserError: a source cannot be prepared, or the hosts cannot share a batch evenly.
    """
    super().__init__(
      open_worlds(config.worlds, split, config.data_dir),
      [source.weight for source in config.worlds],
      rows_per_batch=config.rows_per_batch,
      seed=config.seed,
      cache_mb=config.cache_mb,
      host=host,
      hosts=hosts,
    )
    self._patch = patch

  def read(self, source: int, index: int) -> LabelledPictures:
    """See `RowBatches`: all frames."""
    example = self._sources[source][index]
    labels = patch_labels(scene_from_json(example.scene), example.media.shape[1], self._patch)
    return LabelledPictures(pixels=example.media, labels=labels)

  def size(self, example: LabelledPictures) -> int:
    """See `RowBatches`."""
    return example.pixels.nbytes + example.labels.nbytes

  def row(self, example: LabelledPictures, rng: np.random.Generator) -> LabelledPictures:
    """See `RowBatches`: one frame."""
    t = int(rng.integers(len(example.pixels)))
    return LabelledPictures(pixels=example.pixels[t], labels=example.labels[t])

  def stack(self, rows: list[LabelledPictures]) -> LabelledPictures:
    """See `RowBatches`."""
    pixels, labels = ([getattr(row, name) for row in rows] for name in ("pixels", "labels"))
    return LabelledPictures(pixels=np.stack(pixels), labels=np.stack(labels))


def open_worlds(worlds: Sequence[WorldSource], split: str, data_dir: str) -> list[MediaExamples]:
  """Opens a split of every world, preparing it where needed.

  Raises:
    UserError: `data_dir` cannot be written.
  """
  return [MediaExamples(scenes.prepare(source, data_dir), split) for source in worlds]
