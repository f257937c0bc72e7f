"""Real synthesis: text through the program espeak-ng, where it is installed.

It serves as speech that nothing here was made to fit. Nothing depends on it.
"""

import dataclasses
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ernie_jax.data.audio import read_audio
from ernie_jax.errors import UserError

PROGRAM = "espeak-ng"
_SECONDS = 60.0  # that one text may take


@dataclasses.dataclass(frozen=True)
class EspeakVoice:
  """How it is to speak.

  Attributes:
    name: a voice or language it knows, such as "en-gb" or "en-us+f3".
    pitch: 0 to 99, 50 the voice's own.
    speed: words a minute.
  """

  name: str = "en-gb"
  pitch: int = 50
  speed: int = 160

  def __post_init__(self):
    if not self.name or self.name.startswith("-"):
      raise ValueError(f"name must be a voice, got {self.name!r}")
    if not 0 <= self.pitch <= 99:
      raise ValueError(f"pitch must be 0 to 99, got {self.pitch}")
    if not 80 <= self.speed <= 450:
      raise ValueError(f"speed must be 80 to 450, got {self.speed}")


def installed() -> bool:
  """Whether the program can be found."""
  return shutil.which(PROGRAM) is not None


def say(text: str, voice: EspeakVoice = EspeakVoice()) -> Float[np.ndarray, "S"]:
  """Speaks `text`: float32 at 16 kHz.

  Raises:
    UserError: the program is not installed, does not know the voice, or says nothing.
  """
  program = shutil.which(PROGRAM)
  if program is None:
    raise UserError(f"{PROGRAM} is not installed; your package manager has it under that name")
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "said.wav"
    options = ["-v", voice.name, "-p", str(voice.pitch), "-s", str(voice.speed), "-w", str(path)]
    try:
      # The text comes by standard input, so that none of it is taken for an option.
      done = subprocess.run(
        [program, *options, "--stdin"],
        input=text.encode(),
        capture_output=True,
        timeout=_SECONDS,
        check=False,
      )
    except subprocess.TimeoutExpired as e:
      raise UserError(f"{PROGRAM} did not finish within {_SECONDS:g} s") from e
    if done.returncode or not path.exists():
      said = done.stderr.decode("utf-8", "replace").strip().splitlines()
      raise UserError(
        f"{PROGRAM} failed for voice {voice.name}: {said[-1] if said else 'no sound'}"
      )
    return read_audio(path)
