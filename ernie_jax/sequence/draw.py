"""A row as a table a person can read, for documentation and for looking at what a pipeline made."""

from ernie_jax.sequence.row import Kind, Row
from ernie_jax.sequence.special import SpecialToken

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
