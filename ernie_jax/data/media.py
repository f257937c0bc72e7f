"""Pictures and videos in and out of files, as uint8 [T, H, W, 3]; a picture is a video of one frame.

Every kind of picture becomes RGB: transparency is laid on white, 16 bits are cut to 8, and what the camera
says about orientation is applied. A file that cannot be read whole is refused, with its name: training on
half a picture is worse than stopping. Files are written under another name and renamed, so that a reader
never meets half of one.

GIF and WebP give each frame its own duration; such a file is read at the rate of its shortest frame, longer
ones repeated, since a video here has one rate.
"""

import contextlib
import io
import itertools
import os
import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import GifImagePlugin, Image, ImageOps, UnidentifiedImageError

from ernie_jax.errors import UserError
from ernie_jax.whole_file import written_whole

PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp")
VIDEOS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")
_PICTURE_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
_ANIMATED = ("PNG", "GIF", "WEBP")  # of the rest only the first picture counts
# Nothing that names other files or addresses, such as a playlist, is taken for a video.
_VIDEO_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
_MOST_BYTES = 2**31  # of one decoded file; a video longer than that must be read in part
_REST_MS = 100  # what browsers show a frame for whose duration is 0


def read_media(
  path: str | os.PathLike,
  *,
  frames: int | None = None,
  most: int | None = None,
  side: int | None = None,
  every: int = 1,
) -> UInt8[np.ndarray, "T H W 3"]:
  """Reads a picture or a video.

  Args:
    path: a file; its extension says whether it is a picture or a video.
    frames: read the first `frames` frames (1: the first frame of a video); None: all.
    most: read no more frames than this; fewer will do.
    side: cut the middle square and resize it to side x side; None: as it is.
    every: keep each `every`-th frame.

  Returns:
    uint8 [T, H, W, 3], T = `frames` where given.

  Raises:
    UserError: the file is absent, empty, cut short, damaged, not what its extension says, of an
      unknown kind, or has fewer than `frames` frames. One line that names the file.
  """
  path = Path(path)
  suffix = path.suffix.lower()
  if suffix not in PICTURES + VIDEOS:
    raise UserError(f"{path}: not a picture or video; known are {' '.join(PICTURES + VIDEOS)}")
  try:
    with open(path, "rb") as file:
      if not os.fstat(file.fileno()).st_size:
        raise UserError(f"{path}: the file is empty")
      pictures = _pictures(file, path) if suffix in PICTURES else _video_frames(file, path)
      with contextlib.closing(pictures):
        chosen = itertools.islice(pictures, 0, None, every)
        wanted = most if frames is None else frames
        return _gather(chosen, path, frames=wanted, least=frames or 1, side=side)
  except OSError as e:
    raise UserError(f"{path}: cannot be read: {e.strerror or e}") from e


def write_media(
  path: str | os.PathLike, media: UInt8[np.ndarray, "T H W 3"], *, fps: float = 8.0
) -> None:
  """Writes a PNG (one frame), GIF or MP4 (any number), by the extension of `path`.

  A GIF has at most 256 colours a frame; PNG keeps the values exactly. Missing folders are made.

  Raises:
    UserError: another extension, several frames for a PNG, or the file cannot be written.
    ValueError: `media` has another form.
  """
  path = Path(path)
  writers = {".png": _write_png, ".gif": _write_gif, ".mp4": _write_mp4}
  writer = writers.get(path.suffix.lower())
  if writer is None:
    raise UserError(f"{path}: cannot write this kind of file; known are {' '.join(writers)}")
  if media.dtype != np.uint8 or media.ndim != 4 or media.shape[-1] != 3 or 0 in media.shape:
    raise ValueError(f"media must be uint8 [T, H, W, 3], got {media.dtype} {media.shape}")
  if writer is _write_png and len(media) > 1:
    raise UserError(f"{path}: a PNG holds one picture, not {len(media)} frames; use .gif or .mp4")
  if writer is _write_mp4:
    _import_av(path)
  with written_whole(path) as part, open(part, "wb") as file:
    writer(file, media, fps)


def fit_media(array: np.ndarray, *, side: int) -> UInt8[np.ndarray, "T side side 3"]:
  """Brings decoded media to the form that `read_media` returns.

  Args:
    array: [H, W, C] or [T, H, W, C], uint8 or uint16; C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.
    side: as in `read_media`.

  Raises:
    ValueError: another shape or type.
  """
  frames = array[None] if array.ndim == 3 else array
  if frames.ndim != 4 or 0 in frames.shape or frames.shape[-1] not in (1, 2, 3, 4):
    raise ValueError(f"not [H, W, C] or [T, H, W, C] with 1 to 4 channels: {array.shape}")
  if frames.dtype == np.uint16:
    frames = (frames >> 8).astype(np.uint8)
  if frames.dtype != np.uint8:
    raise ValueError(f"neither uint8 nor uint16: {array.dtype}")
  if frames.shape[-1] == 1:
    frames = frames.repeat(3, axis=-1)
  images = (_to_rgb(Image.fromarray(np.ascontiguousarray(frame))) for frame in frames)
  return np.stack([np.asarray(_to_square(image, side)) for image in images])


def _gather(
  pictures: Iterator[Image.Image], path: Path, *, frames: int | None, least: int, side: int | None
) -> np.ndarray:
  """Stacks the first `frames` pictures (at least `least`), resized."""
  arrays: list[np.ndarray] = []
  for picture in itertools.islice(pictures, frames):
    array = np.asarray(picture if side is None else _to_square(picture, side))
    if (len(arrays) + 1) * array.nbytes > _MOST_BYTES:
      raise UserError(f"{path}: too long to read whole; ask for fewer frames or a smaller side")
    if arrays and array.shape != arrays[0].shape:
      raise UserError(f"{path}: its frames differ in size")
    arrays.append(array)
  if len(arrays) < least:
    raise UserError(f"{path}: has {len(arrays)} frames, {least} are needed")
  return np.stack(arrays)


def _to_square(picture: Image.Image, side: int) -> Image.Image:
  short = min(picture.size)
  left, top = ((length - short) / 2 for length in picture.size)
  if picture.size == (side, side):
    return picture
  box = (left, top, left + short, top + short)
  return picture.resize((side, side), Image.Resampling.BICUBIC, box=box)


def _pictures(file: io.BufferedReader, path: Path) -> Iterator[Image.Image]:
  """The frames of a picture file as RGB, each as often as its duration asks."""
  try:
    with Image.open(file, formats=_PICTURE_FORMATS) as image:
      if image.format == "GIF":
        _check_gif_end(file, path)
      count = getattr(image, "n_frames", 1) if image.format in _ANIMATED else 1
      repeats = _repeats(image, count)
      for number in range(count):
        image.seek(number)
        picture = _to_rgb(image)
        yield from itertools.repeat(picture, repeats[number])
  except UnidentifiedImageError as e:
    raise UserError(f"{path}: not a picture, or damaged at its beginning") from e
  except Image.DecompressionBombError as e:
    raise UserError(f"{path}: too many pixels") from e
  # Pillow's decoders raise all of these on damaged files.
  except (OSError, EOFError, SyntaxError, ValueError, LookupError, TypeError, struct.error) as e:
    reason = " ".join(str(e).split()) or type(e).__name__
    raise UserError(f"{path}: damaged or cut short ({reason})") from e


def _repeats(image: Image.Image, count: int) -> list[int]:
  """How often each frame is shown at the rate of the shortest."""
  if count == 1:
    return [1]
  durations = []
  for number in range(count):
    image.seek(number)
    image.load()  # without which WebP has no duration, and a later seek loses a damaged frame
    durations.append(image.info.get("duration") or _REST_MS)
  return [max(1, round(duration / min(durations))) for duration in durations]


def _to_rgb(image: Image.Image) -> Image.Image:
  image.load()
  image = ImageOps.exif_transpose(image)
  if image.mode.startswith("I"):  # 16 bits a pixel, which conversion would clip, not scale
    return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)).convert(
      "RGB"
    )
  if image.has_transparency_data:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
  return image.convert("RGB")


def _check_gif_end(file: io.BufferedReader, path: Path) -> None:
  """A GIF that was cut between two frames reads without an error; its last byte is missing."""
  here = file.tell()
  size = file.seek(0, os.SEEK_END)
  file.seek(max(0, size - 4096))
  end = file.read().rstrip(b"\0\r\n ")
  file.seek(here)
  if not end.endswith(b";"):
    raise UserError(f"{path}: damaged or cut short (it has no end)")


def _video_frames(file: io.BufferedReader, path: Path) -> Iterator[Image.Image]:
  """The frames of the first video stream as RGB."""
  av = _import_av(path)
  try:
    options = {"format_whitelist": _VIDEO_FORMATS}
    with av.open(file, options=options, metadata_errors="replace") as container:
      ends = {"mp4": _mp4_ends, "matroska": _matroska_ends, "avi": _avi_ends}
      for name in ends.keys() & set(container.format.name.split(",")):
        _check_end(path, ends[name])
      if not container.streams.video:
        raise UserError(f"{path}: holds no video")
      for frame in container.decode(container.streams.video[0]):
        if frame.is_corrupt:
          raise UserError(f"{path}: damaged or cut short")
        array = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
        yield Image.fromarray(np.ascontiguousarray(array))
  except (av.error.FFmpegError, ValueError) as e:
    raise UserError(f"{path}: not a video, damaged or cut short") from e


def _check_end(path: Path, ends: Callable[[io.BufferedReader, int], Iterator[int]]) -> None:
  """A video whose end is missing may read without an error, only shorter; but its parts do not fit into the file."""
  size = os.path.getsize(path)
  with open(path, "rb") as file:
    if any(end > size for end in ends(file, size)):
      raise UserError(f"{path}: damaged or cut short")


def _mp4_ends(file: io.BufferedReader, size: int) -> Iterator[int]:
  """Where each box of an MP4 ends."""
  at = 0
  while at < size:
    file.seek(at)
    head = file.read(16)
    length = int.from_bytes(head[:4], "big")
    if length == 1:
      length = int.from_bytes(head[8:16], "big")
    elif length == 0:  # to the end of the file
      length = size - at
    at = at + length if length >= 8 else size + 1
    yield at


def _avi_ends(file: io.BufferedReader, size: int) -> Iterator[int]:
  """Where each RIFF chunk of an AVI ends."""
  at = 0
  while at < size:
    file.seek(at)
    head = file.read(8)
    if not head.startswith(b"RIFF"):
      return
    length = int.from_bytes(head[4:], "little")
    if length in (0, 2**32 - 1):  # streamed: unknown
      return
    at += 8 + length + length % 2
    yield at


def _matroska_ends(file: io.BufferedReader, size: int) -> Iterator[int]:
  """Where the header and the segment of a Matroska or WebM file end, unless it was streamed (all bits 1: unknown)."""
  at = 0
  for name in (b"\x1aE\xdf\xa3", b"\x18S\x80g"):  # the header, the segment
    file.seek(at)
    head = file.read(12)
    if not head.startswith(name):
      return
    width = 9 - head[4].bit_length() if len(head) > 4 and head[4] else 9  # bytes of the length
    if width > 8:
      return
    bits = 7 * width
    length = int.from_bytes(head[4 : 4 + width], "big") & ((1 << bits) - 1)
    if length == (1 << bits) - 1:
      return
    at += 4 + width + length
    yield at


def _import_av(path: Path):
  try:
    import av  # optional: only videos need it, and it is large
  except ImportError as e:
    raise UserError(f"{path}: video files need the extra: pip install 'ernie_jax[media]'") from e
  return av


def _write_png(file: io.BufferedWriter, media: np.ndarray, fps: float) -> None:
  del fps
  Image.fromarray(media[0]).save(file, format="PNG")


def _write_gif(file: io.BufferedWriter, media: np.ndarray, fps: float) -> None:
  """Every frame whole, with its own palette; Pillow's own writer leaves out frames that repeat."""
  _, height, width, _ = media.shape
  duration = max(20, round(100 / fps) * 10)  # ms in steps of 10; viewers slow down what is shorter
  screen = width.to_bytes(2, "little") + height.to_bytes(2, "little") + b"\0\0\0"
  file.write(b"GIF89a" + screen)
  file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0")  # repeat for ever
  for frame in media:
    image = Image.fromarray(frame).quantize(256, kmeans=1, dither=Image.Dither.NONE)
    for block in GifImagePlugin.getdata(image, duration=duration, include_color_table=True):
      file.write(block)
  file.write(b";")


def _write_mp4(file: io.BufferedWriter, media: np.ndarray, fps: float) -> None:
  import av

  _, height, width, _ = media.shape
  with av.open(file, mode="w", format="mp4") as container:
    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
    stream.width, stream.height = width, height
    # Players want half-resolution colour, which odd sides cannot have.
    stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
    stream.options = {"crf": "10"}  # nearly without loss: these files are small
    for frame in media:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(stream.encode())
