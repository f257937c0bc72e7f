"""Held-out text: the first rows of a validation split, and exactly the text that their targets spell."""

import dataclasses

import numpy as np

from ernie_jax.data.mixture import stack_rows
from ernie_jax.data.text_rows import TextRows
from ernie_jax.sequence.row import Row


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """What to evaluate on.

  Attributes:
    rows: a batch [n, L] in file order.
    text: the text of the files, in the same order, as far as the rows' targets go. Every token of it is a target
      of weight 1 once; besides these only EOS, once a file, is a target.
  """

  rows: Row
  text: str

  @property
  def utf8_bytes(self) -> int:
    """The number by which the summed loss (in nats, over ln 2) is divided to give bits per byte."""
    return len(self.text.encode("utf-8"))


def held_out(source: TextRows, *, max_rows: int) -> HeldOut:
  """The first `max_rows` rows of `source`, or all of them.

  Where the rows end inside a word, the tokens of that word get weight 0.

  Raises:
    ValueError: `source` is shuffled or uses dropout, so that its text would not be covered once.
  """
  if source.shuffle or source.bpe_dropout > 0:
    raise ValueError("held-out rows must be in file order, without dropout")
  count = min(max_rows, len(source))
  rows = stack_rows([source[i] for i in range(count)])
  known = min(
    count * source.capacity + 1, source.tokens
  )  # the last target is one past the last input
  text, whole = _covered(source, known)
  weight = rows.text_weight.reshape(-1).copy()
  weight[max(whole - 1, 0) :] = 0  # position p has the target p + 1
  return HeldOut(rows=rows.replace(text_weight=weight.reshape(rows.text_weight.shape)), text=text)


def _covered(source: TextRows, known: int) -> tuple[str, int]:
  """The text of the whole units of stream[:known], and how many tokens those are."""
  order, starts = source.file_order()
  text: list[str] = []
  for j, index in enumerate(order.tolist()):
    if starts[j + 1] <= known:
      text.append(source.pieces[index].text)
      continue
    piece = source.encoded(index)
    units = int(np.searchsorted(piece.starts, known - starts[j], side="right")) - 1
    text += [word for word in piece.words[:units] if word is not None]
    return "".join(text), int(starts[j] + piece.starts[units])
  return "".join(text), source.tokens
