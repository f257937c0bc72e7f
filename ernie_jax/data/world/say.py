"""Says an English text of the world in one of its voices: a question to ask about a picture.

  python -m ernie_jax.data.world.say --text="What shape is red?" --out=question.wav --voice_number=33

Voices 0 to 31 are those of training, 32 to 39 are never heard there. `pronounce.py` says which words are known.
"""

from collections.abc import Sequence

import numpy as np
from absl import flags

from ernie_jax import cli
from ernie_jax.data.audio import write_audio
from ernie_jax.data.world.speech import TRAINING_SPEAKERS, UNSEEN_SPEAKERS, SpeechConfig
from ernie_jax.data.world.speech_synthesis import synthesise
from ernie_jax.data.world.spoken import record
from ernie_jax.errors import UserError

_TEXT = flags.DEFINE_string("text", None, "What to say.", allow_override=True)
_OUT = flags.DEFINE_string("out", None, "WAV or FLAC file to write.", allow_override=True)
_NUMBER = flags.DEFINE_integer("voice_number", 0, "Who says it.", allow_override=True)


def main(argv: Sequence[str]) -> None:
  """Runs the command; see the module's docstring."""
  del argv
  text, out = cli.require(_TEXT, example="'What shape is red?'"), cli.require(_OUT, example="a.wav")
  if _NUMBER.value not in (*TRAINING_SPEAKERS, *UNSEEN_SPEAKERS):
    raise UserError(f"--voice_number must be 0 to {UNSEEN_SPEAKERS[-1]}, got {_NUMBER.value}")
  try:
    said = record(text, SpeechConfig(), np.random.default_rng(0), speaker=_NUMBER.value)
  except ValueError as e:
    raise UserError(f"--text: {e}") from e
  write_audio(out, synthesise(said).waveform)
  print(f"wrote {out}: {said.text}")


if __name__ == "__main__":
  cli.run(main)
