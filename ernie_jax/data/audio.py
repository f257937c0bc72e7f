"""Sound in and out of files, as float32 [S] at 16 kHz, one channel.

Any WAV or FLAC is brought to that form: channels are averaged, integers of any width scaled to [-1, 1], and
other rates resampled. A file that cannot be read whole is refused, with its name.
"""

import importlib
import os
from pathlib import Path
from types import ModuleType

import numpy as np
from jaxtyping import Float, Int16

from ernie_jax.errors import UserError
from ernie_jax.whole_file import written_whole

RATE = 16_000  # samples a second
SOUNDS = (".wav", ".flac")
_SUBTYPES = {".wav": "PCM_16", ".flac": "PCM_16"}
_LOWEST_RATE, _HIGHEST_RATE = 4_000, 384_000
_MOST_SECONDS = 3600.0  # of one file: an hour is 230 MB in memory


def read_audio(path: str | os.PathLike) -> Float[np.ndarray, "S"]:
  """Reads a WAV or FLAC file of any rate, width and number of channels.

  Returns:
    float32 [S] at 16 kHz, in [-1, 1] but for what resampling or a float file puts above.

  Raises:
    UserError: the file is absent, empty, cut short, damaged, not what its extension says, of an unknown
      kind, too long, or has samples that are no numbers. One line that names the file.
  """
  path = Path(path)
  if path.suffix.lower() not in SOUNDS:
    raise UserError(f"{path}: not a sound file; known are {' '.join(SOUNDS)}")
  soundfile = _library("soundfile", path)
  try:
    if not path.stat().st_size:
      raise UserError(f"{path}: the file is empty")
    with open(path, "rb") as file, soundfile.SoundFile(file) as sound:
      _check_header(sound, path)
      expected = sound.frames
      samples = sound.read(dtype="float32", always_2d=True)
  except OSError as e:
    raise UserError(f"{path}: cannot be read: {e.strerror or e}") from e
  except soundfile.LibsndfileError as e:
    raise UserError(f"{path}: damaged, or not a WAV or FLAC file: {e.error_string}") from e
  if len(samples) != expected or not _holds_all(path, expected):
    raise UserError(f"{path}: cut short or damaged: not all of its samples can be read")
  if not np.isfinite(samples).all():
    raise UserError(f"{path}: has samples that are not finite numbers")
  mono = samples.mean(axis=1, dtype=np.float32)
  return mono if sound.samplerate == RATE else _resampled(mono, sound.samplerate, path)


def write_audio(path: str | os.PathLike, waveform: Float[np.ndarray, "S"]) -> None:
  """Writes 16 bits at 16 kHz, WAV or FLAC by the extension, whole or not at all. What exceeds 1 is cut.

  Raises:
    UserError: another extension, or the file cannot be written.
    ValueError: `waveform` has another form.
  """
  path = Path(path)
  subtype = _SUBTYPES.get(path.suffix.lower())
  if subtype is None:
    raise UserError(f"{path}: cannot write this kind of file; known are {' '.join(_SUBTYPES)}")
  waveform = np.asarray(waveform)
  if waveform.ndim != 1 or not np.issubdtype(waveform.dtype, np.floating):
    raise ValueError(f"waveform must be floats [S], got {waveform.dtype} {waveform.shape}")
  soundfile = _library("soundfile", path)
  with written_whole(path) as part, open(part, "wb") as file:
    form = path.suffix[1:].upper()
    soundfile.write(file, to_int16(waveform), RATE, format=form, subtype=subtype)


def to_int16(waveform: Float[np.ndarray, "S"]) -> Int16[np.ndarray, "S"]:
  """Samples in [-1, 1] to 16 bits, rounded; what exceeds is cut."""
  return np.clip(np.round(np.asarray(waveform) * 32768), -32768, 32767).astype(np.int16)


def to_float(samples: Int16[np.ndarray, "S"]) -> Float[np.ndarray, "S"]:
  """16 bits to float32 in [-1, 1)."""
  return samples.astype(np.float32) / 32768


def _check_header(sound, path: Path) -> None:
  if sound.format not in ("WAV", "WAVEX", "RF64", "FLAC"):
    raise UserError(f"{path}: its content is {sound.format}, not WAV or FLAC")
  if not _LOWEST_RATE <= sound.samplerate <= _HIGHEST_RATE:
    raise UserError(
      f"{path}: its rate of {sound.samplerate} Hz is not between {_LOWEST_RATE} and {_HIGHEST_RATE}"
    )
  if not sound.frames:
    raise UserError(f"{path}: holds no samples")
  if sound.frames > _MOST_SECONDS * sound.samplerate:
    raise UserError(f"{path}: longer than {_MOST_SECONDS:.0f} s; cut it into clips")


def _holds_all(path: Path, frames: int) -> bool:
  """Whether a WAV file is as long as its header says: the reader takes a cut one for a shorter one."""
  with open(path, "rb") as file:
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
      return frames > 0
    size = os.fstat(file.fileno()).st_size
    while len(chunk := file.read(8)) == 8:
      length = int.from_bytes(chunk[4:], "little")
      if chunk[:4] == b"data":
        # Programs that write to a pipe leave the length at its largest value.
        return length >= 2**32 - 2**12 or length in (0, 2**31 - 1) or file.tell() + length <= size
      file.seek(length + length % 2, os.SEEK_CUR)
  return False


def _resampled(mono: np.ndarray, rate: int, path: Path) -> Float[np.ndarray, "S"]:
  return _library("soxr", path).resample(mono, rate, RATE).astype(np.float32)


def _library(name: str, path: Path) -> ModuleType:
  try:
    return importlib.import_module(name)
  except (ImportError, OSError) as e:  # OSError: its shared library is missing
    raise UserError(
      f"{path}: sound files need the package {name}: pip install 'ernie_jax[media]'"
    ) from e
