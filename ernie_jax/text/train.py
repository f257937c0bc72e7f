"""Trains a tokenizer: `python -m ernie_jax.text.train --vocab_size=4096 --out=tokenizer.model`."""

import sys
import time
from collections.abc import Iterator, Sequence

from absl import flags

from ernie_jax import cli
from ernie_jax.errors import UserError
from ernie_jax.text import files
from ernie_jax.text.tokenizer import train_tokenizer

_SOURCE = flags.DEFINE_string(
  "source", "", "Directory, file or glob of text; empty: Python's standard library."
)
_VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 4096, "Number of ids, 64 reserved ones included.")
_OUT = flags.DEFINE_string("out", None, "File to write.", required=True)
_MAX_BYTES = flags.DEFINE_integer("max_bytes", 32_000_000, "Read no more text than this.")
_VALIDATION_PERCENT = flags.DEFINE_float(
  "validation_percent",
  5.0,
  "Share of the files left out, the same files as in training; of a single file, its end.",
)


def training_texts(source: str, *, max_bytes: int, validation_percent: float) -> Iterator[str]:
  """The texts of the training side of `source`, up to `max_bytes`, with progress on stderr.

  The text that would exceed them is cut.

  Raises:
    UserError: as `files.sides`.
  """
  sides = files.sides(source, validation_percent)
  total, shown, count = 0, time.monotonic(), len(sides.train)
  for number, (_, text) in enumerate(files.texts(sides, "train", validation_percent), 1):
    data = text.encode()[: max_bytes - total]
    total += len(data)
    yield data.decode(errors="ignore")
    last = number == count or total >= max_bytes
    if last or time.monotonic() - shown > 1:
      shown = time.monotonic()
      print(f"read {number}/{count} files, {total / 1e6:.1f} MB", file=sys.stderr)
    if last:
      return


def main(argv: Sequence[str]) -> None:
  """Runs the command; see the module's docstring."""
  if _MAX_BYTES.value <= 0:
    raise UserError(f"--max_bytes must be positive, got {_MAX_BYTES.value}")
  if not 0 < _VALIDATION_PERCENT.value < 100:
    raise UserError(f"--validation_percent must be in (0, 100), got {_VALIDATION_PERCENT.value:g}")
  start = time.monotonic()
  texts = training_texts(
    _SOURCE.value, max_bytes=_MAX_BYTES.value, validation_percent=_VALIDATION_PERCENT.value
  )
  tokenizer = train_tokenizer(texts, vocab_size=_VOCAB_SIZE.value)
  tokenizer.save(_OUT.value)
  seconds = time.monotonic() - start
  print(f"wrote {_OUT.value}: {tokenizer.vocab_size} ids, {seconds:.0f} s")


if __name__ == "__main__":
  cli.run(main)
