"""Arrays as files in memory: enlarged PNGs and GIFs of pixels, WAV of sound; and pictures that are files already."""

import io
import pathlib
import tempfile
import wave

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError

from ernie_jax.data.audio import RATE, to_int16
from ernie_jax.data.media import write_media
from ernie_jax.errors import UserError
from ernie_jax.report.document import Figure, Film, Sound

_SIDE = 160  # pixels that small pictures are enlarged to, about
_FPS = 4.0


def shown(media: UInt8[np.ndarray, "F H W 3"], alt: str) -> Figure | Film:
  """One frame as a picture, several as a film; pixels are enlarged a whole number of times."""
  scale = max(1, _SIDE // media.shape[1])
  large = media.repeat(scale, 1).repeat(scale, 2)
  kind, suffix = (Figure, "png") if len(large) == 1 else (Film, "gif")
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / f"shown.{suffix}"
    write_media(path, large, fps=_FPS)
    return kind(path.read_bytes(), alt, large.shape[2], large.shape[1])


def heard(waveform: Float[np.ndarray, "S"], label: str) -> Sound:
  """A waveform at 16 kHz as something to listen to."""
  file = io.BytesIO()
  with wave.open(file, "wb") as writer:
    writer.setparams((1, 2, RATE, 0, "NONE", ""))
    writer.writeframes(to_int16(waveform).astype("<i2").tobytes())
  return Sound(file.getvalue(), label)


def picture_of(path: pathlib.Path, alt: str) -> Figure | None:
  """A PNG file as a figure; None where there is none.

  Raises:
    UserError: it is no picture.
  """
  try:
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
      return Figure(data, alt, *image.size)
  except FileNotFoundError:
    return None
  except (OSError, UnidentifiedImageError) as e:
    raise UserError(f"cannot read {path}: {e}") from e
