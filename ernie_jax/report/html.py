"""A document as one HTML file that needs no other: style, pictures and sounds are in it."""

import base64
import functools
import itertools
from html import escape

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
from ernie_jax.report.style import STYLE

VERDICTS = {True: "✓ right", False: "✗ wrong"}


def render_html(document: Document) -> str:
  """The whole page."""
  page = _Page()
  body = "\n".join(page.block(block, 2) for block in document.blocks)
  title = escape(document.title)
  parts = "".join(f'<li><a href="#{name}">{escape(words)}</a></li>' for name, words in page.parts)
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
    f"<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
    f'<nav aria-label="Contents"><ul>{parts}</ul></nav>\n{body}\n</main>\n</body>\n</html>\n'
  )


class _Page:
  """Renders blocks and remembers the sections of the first level, which the contents list."""

  def __init__(self):
    self.parts: list[tuple[str, str]] = []
    self._names: set[str] = set()

  @functools.singledispatchmethod
  def block(self, block: Block, level: int) -> str:
    """The HTML of one block whose section has headings of a `level`."""
    raise TypeError(f"no block of a document: {block!r}")

  @block.register
  def _(self, block: Section, level: int) -> str:
    name = self._name(block.title)
    if level == 2:
      self.parts.append((name, block.title))
    inside = "\n".join(self.block(one, level + 1) for one in block.blocks)
    heading = f"h{min(level, 6)}"
    title = f"<{heading}>{escape(block.title)}</{heading}>"
    if block.folded:
      head = f"<summary>{title}</summary>"
      return f'<section id="{name}">\n<details>{head}\n{inside}\n</details>\n</section>'
    return f'<section id="{name}">\n{title}\n{inside}\n</section>'

  @block.register
  def _(self, block: Text, level: int) -> str:
    command = f"<pre><code>{escape(block.command)}</code></pre>" if block.command else ""
    return f"<p>{escape(block.words)}</p>{command}"

  @block.register
  def _(self, block: Code, level: int) -> str:
    return f"<pre><code>{escape(block.words)}</code></pre>"

  @block.register
  def _(self, block: Table, level: int) -> str:
    side = lambda i: "" if i < block.left else ' class="number"'
    head = "".join(
      f'<th scope="col"{side(i)}>{escape(words)}</th>' for i, words in enumerate(block.columns)
    )
    rows = "\n".join(
      "<tr>" + "".join(f"<td{side(i)}>{_lines(cell)}</td>" for i, cell in enumerate(row)) + "</tr>"
      for row in block.rows
    )
    note = f'<p class="note">{_lines(block.note)}</p>' if block.note else ""
    return (
      f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n'
      f"</table></div>{note}"
    )

  @block.register
  def _(self, block: Figure, level: int) -> str:
    return f'<p class="figure">{_media(block)}</p>'

  @block.register
  def _(self, block: Film, level: int) -> str:
    return f"<p>{_media(block)}</p>"

  @block.register
  def _(self, block: Sound, level: int) -> str:
    return f"<p>{_media(block)}</p>"

  @block.register
  def _(self, block: Gallery, level: int) -> str:
    return '<div class="gallery">\n' + "\n".join(map(_sample, block.samples)) + "\n</div>"

  def _name(self, title: str) -> str:
    """An anchor that no other section has."""
    for number in itertools.count(1):
      name = slug(title) if number == 1 else f"{slug(title)}-{number}"
      if name not in self._names:
        self._names.add(name)
        return name
    raise AssertionError("unreachable")


def _sample(sample: Sample) -> str:
  lines = "".join(
    f"<div>{f'<b>{escape(name)}</b> ' if name else ''}{_lines(words)}</div>"
    for name, words in sample.lines
  )
  verdict = ""
  if sample.right is not None:
    kind = "right" if sample.right else "wrong"
    verdict = f'<div class="{kind}">{VERDICTS[sample.right]}</div>'
  media = _media(sample.media) + ("" if sample.sound is None else _media(sample.sound))
  return f"<figure>{media}<figcaption>{lines}{verdict}</figcaption></figure>"


def _media(media: Figure | Film | Sound) -> str:
  if isinstance(media, Sound):
    source = _data("audio/wav", media.wav)
    label = escape(media.label)
    return f'<audio controls preload="metadata" aria-label="{label}" src="{source}"></audio>'
  kind, data = ("gif", media.gif) if isinstance(media, Film) else ("png", media.png)
  size = f'width="{media.width}" height="{media.height}"'
  return f'<img alt="{escape(media.alt)}" {size} src="{_data(f"image/{kind}", data)}">'


def _data(kind: str, data: bytes) -> str:
  return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _lines(words: str) -> str:
  return escape(words).replace("\n", "<br>")
