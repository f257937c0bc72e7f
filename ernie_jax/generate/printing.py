"""What the command prints: text as it is made to standard output, all about it to standard error."""

import sys
import time
from collections.abc import Iterator, Sequence

from ernie_jax.data.media_tasks import parts
from ernie_jax.generate.decode import Generated
from ernie_jax.text.tokenizer import TextStream, Tokenizer


def print_pieces(
  prompt: Sequence[int], pieces: Iterator[Generated], tokenizer: Tokenizer | None
) -> None:
  """Prints a prompt and the pieces that follow it as they come: text, a line for each part; ids without a tokenizer."""
  sys.stdout.reconfigure(errors="replace")  # a lone surrogate has no UTF-8
  write = lambda text: print(text, end="", flush=True)
  stream = None if tokenizer is None else tokenizer.stream()
  write(_ids(prompt).removeprefix(",") if stream is None else _text(stream, prompt))
  start, count = time.perf_counter(), 0
  for piece in pieces:
    ids = piece.row(0)
    count += len(ids)
    write(_ids(ids) if stream is None else _text(stream, ids))
  seconds = time.perf_counter() - start
  write("\n" if stream is None else stream.finish() + "\n")
  say(f"{count} tokens in {seconds:.2f} s: {count / seconds:.1f} tokens/s, prompt included")


def say(line: str) -> None:
  """A line about what is done."""
  print(line, file=sys.stderr, flush=True)


def _ids(ids: Sequence[int]) -> str:
  return "".join(f",{i}" for i in ids)


def _text(stream: TextStream, ids: Sequence[int]) -> str:
  first, *others = parts(ids)
  return stream.push(first) + "".join(f"{stream.finish()}\n{stream.push(part)}" for part in others)
