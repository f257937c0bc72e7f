"""The command's half for speech: what the flags ask for, as prompts; sound files in and out.

Everything that can be refused is refused before anything is compiled, and a file appears whole or not at all.
"""

import dataclasses
import itertools
import pathlib
import time
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from ernie_jax.audio.codec import STRIDE
from ernie_jax.data.audio import RATE, SOUNDS, read_audio, to_int16, write_audio
from ernie_jax.data.speech_tasks import listen, speak
from ernie_jax.errors import UserError
from ernie_jax.evaluate.oracles.pitch import read_pitch
from ernie_jax.generate.prompts import prompt_length
from ernie_jax.generate.speak import SpeakingConfig, Voicebox
from ernie_jax.sequence import Item
from ernie_jax.speech import Encoded, encode_corpus
from ernie_jax.train.model_io import SavedModel

TRANSCRIBE = "Transcribe."  # the one thing to be asked of speech


@dataclasses.dataclass(frozen=True)
class SpeechRequest:
  """What the flags say about speech.

  Attributes:
    speech: file to write; empty for none.
    speaker: name of a speaker of the training data; empty for none.
    voice: file of a voice to speak in; empty for none.
    inputs: files to read.
  """

  speech: str = ""
  speaker: str = ""
  voice: str = ""
  inputs: tuple[str, ...] = ()

  @property
  def wanted(self) -> bool:
    """Whether the command is about speech alone: a sound beside a picture asks about the picture."""
    heard = bool(self.inputs) and all(map(is_sound, self.inputs))
    return bool(self.speech or self.speaker or self.voice) or heard

  def check(self, prompt: str | None) -> None:
    """Refuses what needs no model to refuse.

    Raises:
      UserError: flags that do not go together, an extension that cannot be written, no such folder.
    """
    if self.speech:
      if self.inputs:
        raise UserError("--speech speaks --prompt; it takes no --input (a voice is --voice)")
      if not prompt:
        raise UserError("--speech needs the words to speak: --prompt=TEXT")
      if self.speaker and self.voice:
        raise UserError("give either --speaker or --voice, not both")
      path = pathlib.Path(self.speech)
      if path.suffix.lower() not in SOUNDS:
        raise UserError(f"--speech: write a {' or '.join(SOUNDS)} file, not {path}")
      if not path.absolute().parent.is_dir():
        raise UserError(f"--speech: there is no directory {path.parent}")
      return
    if self.speaker or self.voice:
      raise UserError("--speaker and --voice say how --speech=FILE shall sound; give it too")
    if len(self.inputs) != 1:
      raise UserError("--input: a transcript is of one sound file")
    if (prompt or TRANSCRIBE).strip().rstrip(".").lower() != TRANSCRIBE[:-1].lower():
      raise UserError(f"--prompt: speech is answered with its words alone: --prompt={TRANSCRIBE}")


def is_sound(path: str) -> bool:
  """Whether a file is one of sound, by its name."""
  return pathlib.Path(path).suffix.lower() in SOUNDS


def need_speech(saved: SavedModel, workdir: str, flag: str) -> None:
  """Refuses a model that cannot listen or speak.

  Raises:
    UserError: it has no audio, or no text tokenizer.
  """
  if saved.model.audio is None or saved.speech is None:
    raise UserError(f"--{flag}: the model in {workdir} has no audio; it was trained without speech")
  if saved.tokenizer is None:
    raise UserError(f"--{flag}: the model in {workdir} has no text tokenizer")


def listening_prompt(saved: SavedModel, path: str) -> list[Item]:
  """A sound file, to be written down.

  Raises:
    UserError: it cannot be read, or is longer than a row.
  """
  codes = encode(saved, path).codes
  room = _row_length(saved) - 4  # BOS, BOA, EOA and SEP
  if len(codes) > room:
    raise UserError(
      f"--input: {path} is {len(codes) * STRIDE / RATE:.1f} s long, but a row that the model was trained"
      f" on holds {max(0, room) * STRIDE / RATE:.1f} s"
    )
  return listen(codes, None)


def speaking_prompt(saved: SavedModel, request: SpeechRequest, words: Sequence[int]) -> list[Item]:
  """Words to be spoken, in the voice that is asked for.

  Raises:
    UserError: an unknown speaker, a voice that cannot be read, or words that fill the row.
  """
  prompt = speak(words, _voice(saved, request), None)
  if room_for_speech(saved, prompt) < 1:
    raise UserError(
      f"--prompt: {len(words)} tokens leave no room to speak in the {_row_length(saved)} positions of a row"
      " that the model was trained on"
    )
  return prompt


def room_for_speech(saved: SavedModel, prompt: Sequence[Item]) -> int:
  """Frames that a row holds after a prompt."""
  return _row_length(saved) - prompt_length(prompt, None) - 3  # BOA, EOA and EOS


def write_speech(
  saved: SavedModel,
  prompt: Sequence[Item],
  path: str,
  *,
  how: SpeakingConfig,
  max_frames: int,
  say: Callable[[str], None],
) -> None:
  """Speaks a prompt into a file, and says how soon and how fast.

  Raises:
    UserError: the file cannot be written.
  """
  voicebox = Voicebox(saved.model, saved.speech.config)
  weights = voicebox.load(saved.params, saved.bias, saved.speech)
  start = time.perf_counter()
  speaking = lambda: voicebox.sounds(weights, [prompt], how=how, max_frames=max_frames)
  list(itertools.islice(speaking(), 2))  # compiles all that the next call runs
  say(f"compiled in {time.perf_counter() - start:.1f} s")
  pieces, first = [], 0.0
  start = time.perf_counter()
  for piece in speaking():
    pieces.append(piece.waveform[0, : piece.lengths[0]])
    first = first or time.perf_counter() - start
  seconds = time.perf_counter() - start
  waveform = np.clip(np.concatenate(pieces), -1, 1)
  write_audio(path, waveform)
  length = len(waveform) / RATE
  say(
    f"wrote {path}: {length:.2f} s of speech in {seconds:.2f} s, the first of it after"
    f" {1000 * first:.0f} ms"
  )


def _voice(saved: SavedModel, request: SpeechRequest) -> Float[np.ndarray, " S"]:
  """The voice of a clip, of a known speaker, or the mean of all known ones."""
  if request.voice:
    return encode(saved, request.voice).voice
  if not request.speaker:
    voices = list(saved.voices.values())
    return np.mean(voices, axis=0) if voices else np.zeros(saved.model.audio.voice, np.float32)
  if request.speaker not in saved.voices:
    known = ", ".join(sorted(saved.voices, key=lambda name: (len(name), name))[:12])
    raise UserError(
      f"--speaker: no speaker {request.speaker!r} in the training data; known are {known or 'none'}"
      + (", .." if len(saved.voices) > 12 else "")
    )
  return saved.voices[request.speaker]


def encode(saved: SavedModel, path: str) -> Encoded:
  """A sound file through the model's codec.

  Raises:
    UserError: it cannot be read.
  """
  (encoded,) = encode_corpus(saved.speech, [to_int16(read_audio(path))], tracker=read_pitch)
  return encoded


def _row_length(saved: SavedModel) -> int:
  return saved.config["data"]["row_length"]
