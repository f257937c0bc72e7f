"""A row as a table a person can read, and what its positions see as a picture: for documentation, and for
looking at what a pipeline made."""

import numpy as np
from jaxtyping import UInt8

from ernie_jax.sequence.row import Kind, Row
from ernie_jax.sequence.rule import visible
from ernie_jax.sequence.special import SpecialToken

_COLOURS = {
  Kind.PAD: (235, 235, 235),
  Kind.TEXT: (76, 114, 176),
  Kind.VISION_CONTEXT: (129, 114, 179),
  Kind.VISION_TARGET: (221, 132, 82),
  Kind.AUDIO: (85, 168, 104),
  Kind.VOICE: (140, 140, 60),
}

_COLUMNS = (
  "pos",
  "ex",
  "group",
  "input",
  "(t, h, w)",
  "media",
  "hidden",
  "text loss",
  "media loss",
)


def describe(row: Row) -> str:
  """One line per position; padding at the end is one line. `media` is slot:element.

  `hidden` is the interval of queries that do not see this position, `text loss` the target and its
  weight, `media loss` the weight of the element named under `media`.
  """
  padding = int((row.kind == Kind.PAD).sum())
  lines = [_COLUMNS, *(_cells(row, i) for i in range(row.length - padding))]
  widths = [max(len(line[c]) for line in lines) for c in range(len(_COLUMNS))]
  text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip() for line in lines]
  if padding:
    text.append(f"... {padding} positions of padding")
  return "\n".join(text)


def picture(row: Row, *, cell: int = 12) -> UInt8[np.ndarray, "height width 3"]:
  """Who sees whom: a line for each query and a column for each key, `cell` pixels each.

  A key that is seen has the colour of its kind (text blue, drawn media orange, media that are looked at violet,
  sound green, a voice olive), darker within the query's own group; one that is not is white. The first line and
  column show the kinds alone.
  """
  kinds = np.array([_COLOURS[Kind(int(kind))] for kind in row.kind], np.float64)
  seen = visible(row)
  own = (row.group[:, None] == row.group[None]) & seen
  inner = np.where(seen[..., None], kinds[None] * np.where(own, 0.75, 1.0)[..., None], 255.0)
  whole = np.full((row.length + 1, row.length + 1, 3), 255.0)
  whole[1:, 1:], whole[0, 1:], whole[1:, 0] = inner, kinds, kinds
  large = whole.repeat(cell, axis=0).repeat(cell, axis=1)
  if cell > 2:  # a grid of thin lines
    large[::cell] = large[:, ::cell] = 215
  return large.astype(np.uint8)


def _cells(row: Row, i: int) -> tuple[str, ...]:
  kind = Kind(int(row.kind[i]))
  hides = row.hidden_from[i] < row.hidden_to[i]
  return (
    str(i),
    str(row.example[i]),
    str(row.group[i]),
    _token(int(row.token[i])) if kind == Kind.TEXT else kind.name.lower(),
    "({:g}, {:g}, {:g})".format(*row.position[i].tolist()),
    f"{row.media_slot[i]}:{row.media_element[i]}" if row.media_slot[i] >= 0 else "",
    f"[{row.hidden_from[i]}, {row.hidden_to[i]})" if hides else "",
    f"{_token(int(row.target[i]))} x {row.text_weight[i]:.3g}" if row.text_weight[i] else "",
    f"{row.media_weight[i]:.3g}" if row.media_weight[i] else "",
  )


def _token(token: int) -> str:
  """The name of a special token, the number of another."""
  return SpecialToken(token).name if token in set(SpecialToken) else str(token)
