"""Real synthesis: lines of text through the program espeak-ng, where it is installed, into a folder of speech.

  python -m ernie_jax.data.espeak --text=lines.txt --out=said [--voices=en-us,en-us+f3] [--pitches=30,50,70]

It serves as speech that nothing here was made to fit. The folder is one of `speech_files.SpeechFolder`: train
on it as on recordings, or hear what a codec keeps of it (`python -m ernie_jax.evaluate.sound`).
"""

import dataclasses
import itertools
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tqdm
from absl import flags
from jaxtyping import Float

from ernie_jax import cli
from ernie_jax.data import folders
from ernie_jax.data.audio import read_audio, write_audio
from ernie_jax.errors import UserError

PROGRAM = "espeak-ng"
_SECONDS = 60.0  # that one text may take
_TEXT = flags.DEFINE_string("text", None, "File with a text to be spoken on each line.")
_OUT = flags.DEFINE_string("out", None, "New folder for the speech.", allow_override=True)
_VOICES = flags.DEFINE_list(
  "voices", ["en-gb", "en-us", "en-us+f3"], "Voices; the lines take turns with them."
)
_PITCHES = flags.DEFINE_list("pitches", ["50"], "Pitches of each voice, 0 to 99.")
_SPEED = flags.DEFINE_integer("speed", 160, "Words a minute.")


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


def write_speech(texts: Sequence[str], voices: Sequence[EspeakVoice], folder: Path) -> None:
  """Speaks every text, by the voices in turn, into a new folder of WAV files with `metadata.jsonl`.

  The folder appears whole: what a failure leaves behind is another one beside it, which the next call
  empties.

  Raises:
    UserError: the folder is there already or cannot be written, or `say` fails.
  """
  if folder.exists():
    raise UserError(f"{folder} is there already")
  part = folder.with_name(f".{folder.name}.part")
  shutil.rmtree(part, ignore_errors=True)
  lines = []
  pairs = list(zip(texts, itertools.cycle(voices)))
  for number, (text, voice) in enumerate(tqdm.tqdm(pairs, desc="speaking", unit="line")):
    name = f"{number:06}.wav"
    write_audio(part / name, say(text, voice))
    speaker = f"{voice.name} {voice.pitch}"
    lines.append(json.dumps({"file_name": name, "transcript": text, "speaker": speaker}))
  try:
    (part / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    part.replace(folder)
  except OSError as e:
    raise UserError(f"cannot write {folder}: {e.strerror or e}") from e


def main(argv: Sequence[str]) -> None:
  """Runs the command; see the module's docstring."""
  del argv
  path = Path(cli.require(_TEXT, example="lines.txt"))
  out = Path(cli.require(_OUT, example="said"))
  texts = [line.strip() for line in folders.text_of(path).splitlines() if line.strip()]
  if not texts:
    raise UserError(f"--text: {path} has no lines")
  try:
    voices = [
      EspeakVoice(name=name, pitch=int(pitch), speed=_SPEED.value)
      for name, pitch in itertools.product(_VOICES.value, _PITCHES.value)
    ]
  except ValueError as e:
    raise UserError(f"--voices, --pitches or --speed: {e}") from e
  if not voices:
    raise UserError("--voices and --pitches must not be empty")
  write_speech(texts, voices, out)
  print(f"wrote {len(texts)} clips to {out}")


if __name__ == "__main__":
  cli.run(main)
