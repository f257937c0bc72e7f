"""The command's half for pictures and videos: what the flags ask for, as prompts; files in and out.

Everything that can be refused is refused before anything is compiled, and a file appears whole or not at all.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8

from ernie_jax import config as config_lib
from ernie_jax.data.media import read_media, write_media
from ernie_jax.data.media_rows import MediaDataConfig
from ernie_jax.data.media_tasks import answer, describe, hear
from ernie_jax.errors import UserError
from ernie_jax.generate.draw import DrawingConfig, Painter, draw_prompt, given_picture
from ernie_jax.generate.printing import say
from ernie_jax.generate.prompts import prompt_length
from ernie_jax.generate.speech_command import encode, is_sound
from ernie_jax.media import Vision
from ernie_jax.sequence import Item, Seen, SpecialToken, Text
from ernie_jax.train.model_io import SavedModel

PLACE = "<picture>"  # in a prompt, where the next picture of --input stands
_BOS = Text((int(SpecialToken.BOS),))


@dataclasses.dataclass(frozen=True)
class MediaRequest:
  """What the flags say about media.

  Attributes:
    image, video: file to write, at most one of them; empty for neither.
    inputs: files to read.
    every: keep each `every`-th frame of a video that is read.
    frames: F of a drawn video; None for as many as the model was trained on.
    count: pictures or videos to draw.
    fps: frames per second of a written video.
    story: pictures between text, at most; 0 for no story.
  """

  image: str = ""
  video: str = ""
  inputs: tuple[str, ...] = ()
  every: int = 1
  frames: int | None = None
  count: int = 1
  fps: float = 8.0
  story: int = 0

  @property
  def draws(self) -> bool:
    """Whether a picture or a video is to be drawn."""
    return bool(self.image or self.video)

  def check(self) -> None:
    """Refuses what needs no model to refuse.

    Raises:
      UserError: two outputs, an extension that cannot be written, no such folder, a bad number.
    """
    if self.image and self.video:
      raise UserError("give either --image or --video, not both")
    if self.draws and any(map(is_sound, self.inputs)):
      raise UserError("give either --image or --video, or sound to read, not both")
    outputs = (("image", self.image, (".png",)), ("video", self.video, (".gif", ".mp4")))
    for flag, path, known in outputs:
      if not path:
        continue
      if pathlib.Path(path).suffix.lower() not in known:
        raise UserError(f"--{flag}: write a {' or '.join(known)} file, not {path}")
      if not pathlib.Path(path).absolute().parent.is_dir():
        raise UserError(f"--{flag}: there is no directory {pathlib.Path(path).parent}")
    if self.story and (not self.image or self.story < 0):
      raise UserError("--story needs --image, and a positive number of pictures")
    if self.count < 1:
      raise UserError(f"--count must be at least 1, got {self.count}")
    if self.every < 1:
      raise UserError(f"--every must be at least 1, got {self.every}")
    if self.frames is not None and self.frames < 1:
      raise UserError(f"--frames must be at least 1, got {self.frames}")
    if not 0 < self.fps < math.inf:
      raise UserError(f"--fps must be a positive number, got {self.fps:g}")
    if self.video and len(self.inputs) > 1:
      raise UserError("--video continues one --input at most")


def need_vision(saved: SavedModel, workdir: str, flag: str) -> Vision:
  """The model's vision.

  Raises:
    UserError: it has none.
  """
  if saved.model.vision is None or saved.vision is None:
    raise UserError(f"--{flag}: the model in {workdir} has no vision; it was trained on text alone")
  if saved.tokenizer is None:
    raise UserError(f"--{flag}: the model in {workdir} has no text tokenizer")
  return saved.vision


def media_data(saved: SavedModel) -> MediaDataConfig:
  """How the model's media were laid out in training."""
  values = saved.config.get("data", {}).get("media", {})
  return config_lib.build(MediaDataConfig, values, path="config.data.media")


def text_prompt(saved: SavedModel, request: MediaRequest, prompt: str | None) -> list[Item]:
  """A caption or an answer: the one picture or video of `inputs`, and a question if there is one, written or heard.

  Where `prompt` has places for pictures (`PLACE`), a document of both that the model goes on with.

  Raises:
    UserError: more than one input of a kind, two questions, other places than pictures, or a file that cannot be read.
  """
  if prompt is not None and PLACE in prompt:
    if any(map(is_sound, request.inputs)):
      raise UserError(f"--prompt: a {PLACE} is the place of a picture; sound has none")
    return _fitting(saved, "input", [_BOS, *_interleaved(saved, request, prompt, Seen)])
  looked = [path for path in request.inputs if not is_sound(path)]
  heard = [path for path in request.inputs if is_sound(path)]
  if len(looked) != 1:
    raise UserError(
      f"--input: a caption or an answer is about one picture or video; several have a {PLACE} each in --prompt"
    )
  if len(heard) > 1:
    raise UserError("--input: one question at a time can be heard about a picture or video")
  if heard and prompt is not None:
    raise UserError(f"--prompt: the question is heard in {heard[0]}; leave one of them out")
  media = _read(looked[0], saved, request.every)
  if heard:
    return hear(media, encode(saved, heard[0]).codes, None)
  return (
    describe(media, None)
    if prompt is None
    else answer(media, [(saved.tokenizer.encode(prompt).tolist(), None)])
  )


def drawing_prompt(saved: SavedModel, request: MediaRequest, prompt: str) -> list[Item]:
  """What is to be drawn: from words, after pictures and between them, or as what follows a picture.

  Raises:
    UserError: a model that was not trained to draw that, an input that cannot be read or used, or more than a row
      holds.
  """
  data, side = media_data(saved), saved.vision.config.tokenizer.side
  _check_draws(data, request)
  if request.image:
    before = _interleaved(saved, request, prompt, given_picture)
    return _fitting(saved, "image", draw_prompt((), frames=1, side=side, before=before))
  if PLACE in prompt:
    raise UserError(f"--prompt: a video begins with the picture of --input; leave {PLACE} out")
  frames = data.slots.frames if request.frames is None else request.frames
  tokenizer = saved.vision.config.tokenizer
  try:
    latent = tokenizer.latent_frames(frames)
  except ValueError as e:
    raise UserError(f"--{e}") from e
  if tokenizer.temporal == 1 or latent < 2:
    raise UserError(f"--video: {frames} frame(s) make no video for this model's visual tokenizer")
  inputs = _pictures(saved, request)
  given, words = inputs[0] if inputs else None, saved.tokenizer.encode(prompt).tolist()
  return _fitting(saved, "frames", draw_prompt(words, frames=frames, side=side, given=given))


def story_prompt(saved: SavedModel, request: MediaRequest, prompt: str) -> list[Item]:
  """A document so far: pictures that are given, and words after or between them.

  Raises:
    UserError: a model that was not trained to draw, an input that cannot be read or used, or more pictures than a
      row holds.
  """
  _check_draws(media_data(saved), request)
  story = [_BOS, *_interleaved(saved, request, prompt, given_picture)]
  side = saved.vision.config.tokenizer.side
  canvas = given_picture(np.zeros((1, side, side, 3), np.uint8))
  _fitting(saved, "story", [*story, *[canvas] * request.story])
  return story


def _interleaved(
  saved: SavedModel, request: MediaRequest, prompt: str, form: Callable[[np.ndarray], Item]
) -> list[Item]:
  """Text with each picture in its place, or before all words where no place is marked."""
  count = len(request.inputs)
  first, *texts = (
    [part.strip() for part in prompt.split(PLACE)] if PLACE in prompt else [""] * count + [prompt]
  )
  if len(texts) != count:
    raise UserError(f"--prompt: it has {len(texts)} {PLACE}, but --input {count} picture(s)")
  said = lambda text: [Text(tuple(saved.tokenizer.encode(text).tolist()))] if text else []
  items = said(first)
  for picture, text in zip(_pictures(saved, request), texts):
    items += [form(picture), *said(text)]
  return items


def _check_draws(data: MediaDataConfig, request: MediaRequest) -> None:
  slots = data.slots
  if request.video and not slots.drawn_videos:
    raise UserError("--video: this model was not trained to draw videos")
  if not (slots.drawn_images or slots.drawn_videos):
    raise UserError("--image: this model was not trained to draw, only to look")


def _fitting(saved: SavedModel, flag: str, items: list[Item]) -> list[Item]:
  """The items, which a row of training could hold."""
  shapes = saved.vision.config.shapes(window=media_data(saved).look_back)
  needed, length = prompt_length(items, shapes), saved.config["data"]["row_length"]
  if needed > length:
    raise UserError(
      f"--{flag}: prompt and drawings take {needed} positions, too many for the {length} of a row that"
      " the model was trained on"
    )
  return items


def _pictures(saved: SavedModel, request: MediaRequest) -> list[UInt8[np.ndarray, "1 H W 3"]]:
  inputs = [_read(path, saved, request.every) for path in request.inputs]
  if any(len(media) > 1 for media in inputs):
    raise UserError("--input: what is drawn or told follows pictures, not videos")
  return inputs


def draw(
  saved: SavedModel,
  vision: Vision,
  data: MediaDataConfig,
  prompt: Sequence[Item],
  *,
  count: int,
  how: DrawingConfig,
  progress: Callable[[int, int], None] | None = None,
) -> UInt8[np.ndarray, "P F H W 3"]:
  """Draws a prompt `count` times, each time otherwise."""
  painter = Painter(saved.model, vision.config, options=data.options(), window=data.look_back)
  weights = painter.load(saved.params, saved.bias, vision.tokenizer)
  return painter.draw(weights, [prompt] * count, how=how, progress=progress)


def write(path: str, made: UInt8[np.ndarray, "P F H W 3"], *, fps: float) -> list[pathlib.Path]:
  """Writes each of `made`: to `path` if it is one, else to NAME_1, NAME_2, ... beside it.

  Raises:
    UserError: a file cannot be written.
  """
  base = pathlib.Path(path)
  paths = [base]
  if len(made) > 1:
    paths = [numbered(path, i) for i in range(1, len(made) + 1)]
  for one, frames in zip(paths, made):
    write_media(one, frames, fps=fps)
  return paths


def numbered(path: str, number: int) -> pathlib.Path:
  """NAME_number beside NAME."""
  base = pathlib.Path(path)
  return base.with_stem(f"{base.stem}_{number}")


def _read(path: str, saved: SavedModel, every: int) -> UInt8[np.ndarray, "F H W 3"]:
  """A picture, or as many frames of a video as the model was trained on; says so where there are more."""
  side, wanted = saved.vision.config.tokenizer.side, media_data(saved).slots.frames
  found = read_media(path, side=side, most=wanted + 1, every=every)
  if wanted == 1 < len(found):
    raise UserError(f"--input: {path} is a video, but the model was trained on pictures")
  if 1 < len(found) < wanted:
    counted = f" at one in {every}" if every > 1 else ""
    raise UserError(
      f"--input: {path} has {len(found)} frames{counted}, but the model was trained on videos of {wanted}"
    )
  if len(found) > wanted:
    counted = f", one in {every}," if every > 1 else ""
    say(f"{path}: looks at its first {wanted} frames{counted} as in training; --every=N thins it")
  return found[:wanted]
