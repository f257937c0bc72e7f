"""Prompts with pictures, videos and speech as batches of rows for a cache.

A prompt is the items of one example (`data/media_tasks.py` writes the forms that training used). Rows of
different length are padded on the left, so that they end together; padding moves nothing else.

Letters: B rows, L positions.
"""

from collections.abc import Sequence

import jax
import numpy as np

from ernie_jax.sequence import (
  Clip,
  Drawn,
  Item,
  LayoutOptions,
  MediaRow,
  MediaShapes,
  Row,
  RowBuilder,
  Seen,
  SlotsConfig,
  Sound,
  SoundShape,
  Speaker,
  Text,
  empty_row,
  join,
  silence,
)

STEP = 16  # lengths are rounded up to multiples of it: fewer compilations


def prompt_batch(
  prompts: Sequence[Sequence[Item]],
  shapes: MediaShapes | None,
  options: LayoutOptions | None,
  *,
  tail: int = 0,
  at_least: int = 0,
  sound: SoundShape | None = None,
) -> MediaRow:
  """Lays out prompts, one row each.

  Args:
    prompts: items of each; all videos in them have one number of frames, all media one side.
    shapes: how pictures and videos become positions; None where there are none.
    options: as in training.
    tail: positions at the end that do not count for rounding the length up.
    at_least: positions to lay out, were all prompts shorter: batches of one length compile once.
    sound: the shape of speech; None where there is none.

  Raises:
    ValueError: media of different sizes.
  """
  slots = _slots(prompts)
  made = []
  for prompt in prompts:
    length = prompt_length(prompt, shapes)
    builder = RowBuilder(shapes, slots, length=length, options=options, sound=sound)
    assert builder.add(prompt)
    made.append(builder.finish())
  longest = max(at_least, *(one.row.length for one in made))
  length = -(-(longest - tail) // STEP) * STEP + tail
  stack = lambda rows: jax.tree.map(lambda *fields: np.stack(fields), *rows)
  return MediaRow(
    row=stack([_pad_left(one.row, length) for one in made]),
    drawn=stack([one.drawn for one in made]),
    seen=stack([one.seen for one in made]),
    sound=None if sound is None else stack([_quiet_left(one.sound, length, sound) for one in made]),
  )


def prompt_length(prompt: Sequence[Item], shapes: MediaShapes | None) -> int:
  """Positions that a prompt takes."""
  return sum(_length(item, shapes) for item in prompt)


def _pad_left(row: Row, length: int) -> Row:
  return join([empty_row(length - row.length), row])


def _quiet_left(sound: Sound, length: int, shape: SoundShape) -> Sound:
  before = silence(length - len(sound.codes), shape)
  return jax.tree.map(lambda *parts: np.concatenate(parts), before, sound)


def _length(item: Item, shapes: MediaShapes | None) -> int:
  if isinstance(item, Text):
    return item.length
  if isinstance(item, Speaker):
    return 1
  if isinstance(item, Clip):
    return len(item.codes) + 2
  frames = shapes.latent_frames(len(item.media))
  scales = [shapes.grid] if isinstance(item, Seen) else shapes.scales
  return frames * sum(h * w for h, w in scales) + 2


def _slots(prompts: Sequence[Sequence[Item]]) -> SlotsConfig:
  """As many slots of each kind as the prompt that has most of it."""
  counts = np.zeros((len(prompts), 4), int)
  sides, frames = set(), {1}
  for row, prompt in zip(counts, prompts):
    for item in prompt:
      if isinstance(item, Drawn | Seen):
        row[2 * isinstance(item, Seen) + (len(item.media) > 1)] += 1
        sides.add(item.media.shape[1])
        frames.add(len(item.media))
  if len(sides) > 1 or len(frames) > 2:
    raise ValueError(f"prompts mix sides {sorted(sides)} and frames {sorted(frames)}")
  names = ("drawn_images", "drawn_videos", "seen_images", "seen_videos")
  most = dict(zip(names, counts.max(axis=0).tolist()))
  return SlotsConfig(side=max(sides, default=1), frames=max(frames), **most)
