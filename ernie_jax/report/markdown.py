"""A document as Markdown, its pictures and sounds as files beside it."""

import dataclasses
import functools
import re
from collections.abc import Mapping

from ernie_jax.report.document import (
  Block,
  Code,
  Document,
  Figure,
  Film,
  Gallery,
  Sample,
  Section,
  Sound,
  Table,
  Text,
  slug,
)
from ernie_jax.report.html import VERDICTS

_PER_ROW = 4  # samples side by side
_SPECIAL = re.compile(r"([\\`*_{}\[\]|#~])")


@dataclasses.dataclass(frozen=True)
class Markdown:
  """The text, and by its relative path each file that it shows."""

  text: str
  files: Mapping[str, bytes] = dataclasses.field(repr=False)


def render_markdown(document: Document, *, folder: str) -> Markdown:
  """The whole page; its files are to lie in a `folder` beside it."""
  page = _Page(folder)
  body = "\n\n".join(page.block(block, 2) for block in document.blocks)
  return Markdown(f"# {escaped(document.title)}\n\n{body}\n", page.files)


def escaped(words: str) -> str:
  """Plain text as Markdown that shows it; lines are kept."""
  plain = words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
  return _SPECIAL.sub(r"\\\1", plain).replace("\n", "<br>")


class _Page:
  """Renders blocks and collects files."""

  def __init__(self, folder: str):
    self.files: dict[str, bytes] = {}
    self._folder, self._part = folder, "part"

  @functools.singledispatchmethod
  def block(self, block: Block, level: int) -> str:
    """The Markdown of one block whose section has headings of a `level`."""
    raise TypeError(f"no block of a document: {block!r}")

  @block.register
  def _(self, block: Section, level: int) -> str:
    title, self._part = escaped(block.title), slug(block.title)
    inside = "\n\n".join(self.block(one, level + 1) for one in block.blocks)
    if block.folded:
      return f"<details>\n<summary>{title}</summary>\n\n{inside}\n\n</details>"
    return f"{'#' * min(level, 6)} {title}\n\n{inside}"

  @block.register
  def _(self, block: Text, level: int) -> str:
    command = f"\n\n{_fenced(block.command, 'sh')}" if block.command else ""
    return escaped(block.words) + command

  @block.register
  def _(self, block: Code, level: int) -> str:
    return _fenced(block.words)

  @block.register
  def _(self, block: Table, level: int) -> str:
    rule = ["---" if i < block.left else "---:" for i in range(len(block.columns))]
    rows = [[escaped(cell) for cell in row] for row in (block.columns, *block.rows)]
    note = f"\n\n{escaped(block.note)}" if block.note else ""
    return "\n".join(map(_row, [rows[0], rule, *rows[1:]])) + note

  @block.register
  def _(self, block: Figure, level: int) -> str:
    return self._media(block)

  @block.register
  def _(self, block: Film, level: int) -> str:
    return self._media(block)

  @block.register
  def _(self, block: Sound, level: int) -> str:
    return self._media(block)

  @block.register
  def _(self, block: Gallery, level: int) -> str:
    cells = [self._sample(sample) for sample in block.samples]
    width = min(_PER_ROW, len(cells))
    cells += [""] * (-len(cells) % width)
    rows = [cells[i : i + width] for i in range(0, len(cells), width)]
    return "\n".join(map(_row, [[" "] * width, ["---"] * width, *rows]))

  def _sample(self, sample: Sample) -> str:
    lines = [self._media(one) for one in (sample.media, sample.sound) if one is not None]
    lines += [escaped(f"{name} {words}" if name else words) for name, words in sample.lines]
    lines += [] if sample.right is None else [VERDICTS[sample.right]]
    return "<br>".join(lines)

  def _media(self, media: Figure | Film | Sound) -> str:
    if isinstance(media, Sound):
      return f"[▶ {escaped(media.label)}]({self._file(media.wav, 'wav')})"
    kind, data = ("gif", media.gif) if isinstance(media, Film) else ("png", media.png)
    return f"![{escaped(media.alt)}]({self._file(data, kind)})"

  def _file(self, data: bytes, kind: str) -> str:
    """Keeps a file under a name that says which section shows it."""
    path = f"{self._folder}/{len(self.files):03d}-{self._part}.{kind}"
    self.files[path] = data
    return path


def _row(cells: list[str]) -> str:
  return f"| {' | '.join(cells)} |"


def _fenced(words: str, language: str = "") -> str:
  """Between fences longer than any in the words."""
  fence = "`" * max(3, 1 + max(map(len, re.findall("`+", words)), default=0))
  return f"{fence}{language}\n{words}\n{fence}"
