"""What a report says, before it is HTML or Markdown: a small tree of parts, all text plain.

Renderers (`html`, `markdown`) escape; nothing here is marked up. Media are bytes of whole files.
"""

import dataclasses
import re
from typing import TypeAlias


@dataclasses.dataclass(frozen=True)
class Text:
  """A paragraph.

  Attributes:
    words: plain text.
    command: a line for a shell that belongs to it; empty for none.
  """

  words: str
  command: str = ""


@dataclasses.dataclass(frozen=True)
class Code:
  """Text that keeps its lines, such as a config or what a model wrote."""

  words: str


@dataclasses.dataclass(frozen=True)
class Table:
  """Cells as text; the first `left` columns are words, the others numbers.

  Attributes:
    columns: the head.
    rows: each as long as the head.
    left: columns that stand to the left.
    note: a line below.
  """

  columns: tuple[str, ...]
  rows: tuple[tuple[str, ...], ...]
  left: int = 1
  note: str = ""

  def __post_init__(self):
    if wrong := [row for row in self.rows if len(row) != len(self.columns)]:
      raise ValueError(f"a row has {len(wrong[0])} cells, the head {len(self.columns)}: {wrong[0]}")

  def compact(self) -> "Table":
    """Without columns in which nothing stands."""
    keep = [i for i in range(len(self.columns)) if any(row[i] for row in self.rows)]
    pick = lambda cells: tuple(cells[i] for i in keep)
    left = sum(i < self.left for i in keep)
    return Table(pick(self.columns), tuple(map(pick, self.rows)), left=left, note=self.note)


@dataclasses.dataclass(frozen=True)
class Figure:
  """A picture.

  Attributes:
    png: the file.
    alt: what can be seen, for those who cannot.
    width, height: in pixels.
  """

  png: bytes = dataclasses.field(repr=False)
  alt: str
  width: int
  height: int


@dataclasses.dataclass(frozen=True)
class Film:
  """A short video without sound, repeated for ever; see `Figure`."""

  gif: bytes = dataclasses.field(repr=False)
  alt: str
  width: int
  height: int


@dataclasses.dataclass(frozen=True)
class Sound:
  """Something to listen to.

  Attributes:
    wav: the file.
    label: what can be heard.
  """

  wav: bytes = dataclasses.field(repr=False)
  label: str


@dataclasses.dataclass(frozen=True)
class Sample:
  """Something to look at or listen to, with its words.

  Attributes:
    media: it.
    lines: pairs such as ("said", "fana kosole"); a name may be empty.
    right: how it was judged; None: it was not.
    sound: what is heard with it; None: nothing.
  """

  media: Figure | Film | Sound
  lines: tuple[tuple[str, str], ...] = ()
  right: bool | None = None
  sound: Sound | None = None


@dataclasses.dataclass(frozen=True)
class Gallery:
  """Samples side by side."""

  samples: tuple[Sample, ...]


@dataclasses.dataclass(frozen=True)
class Section:
  """A titled part.

  Attributes:
    title: its heading.
    blocks: what is in it; an empty section is left out by `tidy`.
    folded: whether a reader unfolds it first.
  """

  title: str
  blocks: "tuple[Block, ...]"
  folded: bool = False


@dataclasses.dataclass(frozen=True)
class Document:
  """A whole page."""

  title: str
  blocks: "tuple[Block, ...]"


Block: TypeAlias = Text | Code | Table | Figure | Film | Sound | Gallery | Section


def tidy(title: str, *blocks: Block | None, folded: bool = False) -> Section | None:
  """A section of what is there; None where nothing is."""
  kept = tuple(block for block in blocks if block is not None)
  return Section(title, kept, folded) if kept else None


def slug(title: str) -> str:
  """A title as the name of an anchor or a file."""
  return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "part"
