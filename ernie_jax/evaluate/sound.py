"""What a codec keeps of any sound: `python -m ernie_jax.evaluate.sound --workdir=runs/codec --sound=DIR`.

DIR is a folder of WAV and FLAC files, as `data.speech_files.SpeechFolder` takes it. Nothing is known of what is
said there, so the figures are distances from the recordings; --sheet shows spectrograms and --rebuilt keeps what
came back, to be listened to.
"""

import json
import pathlib
from collections.abc import Sequence

from absl import flags

from ernie_jax import cli
from ernie_jax.data.audio import write_audio
from ernie_jax.data.speech_files import SpeechFolder, read_example, read_lines
from ernie_jax.errors import UserError
from ernie_jax.evaluate import codec
from ernie_jax.train.codec_io import load_codec
from ernie_jax.whole_file import written_whole

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of the trained codec.", allow_override=True
)
_SOUND = flags.DEFINE_string("sound", None, "Folder of sound files.")
_JSON = flags.DEFINE_string("json", None, "File to write the figures to.", allow_override=True)
_SHEET = flags.DEFINE_string("sheet", None, "PNG file of spectrograms.", allow_override=True)
_REBUILT = flags.DEFINE_string("rebuilt", None, "Folder to write the reconstructions to.")
_CLIPS = flags.DEFINE_integer("clips", 256, "The first files of the folder, at most.")


def main(argv: Sequence[str]) -> None:
  """Runs the command; see the module's docstring."""
  del argv
  if _CLIPS.value < 1:
    raise UserError(f"--clips must be at least 1, got {_CLIPS.value}")
  saved = load_codec(cli.require(_WORKDIR, example="runs/codec"))
  source = SpeechFolder(path=cli.require(_SOUND, example="recordings"))
  examples = [read_example(source, line) for line in read_lines(source)[: _CLIPS.value]]
  waveforms = [e.waveform for e in examples]
  done = codec.reconstruct(saved.config, saved.params, saved.vectors, waveforms)
  found = codec.score(done, examples, saved.vectors)
  print(codec.describe(found))
  if _SHEET.value:
    codec.write_sheet(pathlib.Path(_SHEET.value), done)
  if _REBUILT.value:
    for number, sound in enumerate(done.after):
      write_audio(pathlib.Path(_REBUILT.value) / f"{number:06}.wav", sound)
  if _JSON.value:
    with written_whole(_JSON.value) as part:
      part.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
  cli.run(main)
