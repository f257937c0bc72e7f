"""One document in two renderings: the same words and numbers, escaped, with every file in place."""

import re

import numpy as np
import pytest
from hand_made import parsed

from ernie_jax.report.document import (
  Code,
  Document,
  Gallery,
  Sample,
  Section,
  Table,
  Text,
  slug,
  tidy,
)
from ernie_jax.report.html import render_html
from ernie_jax.report.markdown import escaped, render_markdown
from ernie_jax.report.media import heard, shown

NASTY = '<script>alert("&")</script> a|b *c* `d` [e](http://f) "g"'


@pytest.fixture
def document() -> Document:
  picture = shown(np.zeros((1, 4, 4, 3), np.uint8), f"a picture of {NASTY}")
  film = shown(np.arange(3 * 48, dtype=np.uint8).reshape(3, 4, 4, 3), "a film")
  sound = heard(np.zeros(800, np.float32), "silence")
  samples = (
    Sample(picture, (("asked:", NASTY),), True),
    Sample(film, (("", "second\nline"),), False),
    Sample(sound),
    Sample(picture, sound=heard(np.ones(800, np.float32), "a question")),
  )
  table = Table(("what", "score"), ((NASTY, "0.123"), ("b", "4,567")), note="a < b")
  inner = Section("Part", (Code("```\n<code>"), picture, film, sound), folded=True)
  blocks = (Text(NASTY, "python -m x --y='<z>'"), table, Gallery(samples), inner)
  return Document(NASTY, (Section("Part", blocks), Section("Part", (Text("again"),))))


def test_html_is_whole_and_escaped(document):
  page = render_html(document)
  checker = parsed(page)
  text = "".join(checker.text)
  assert "<script" not in page and text.count(NASTY) >= 5
  for words in ("0.123", "4,567", "a < b", "✓ right", "✗ wrong", "python -m x --y='<z>'"):
    assert words in text
  kinds = [link.partition(";")[0] for link in checker.links if ";" in link]
  assert sorted(set(kinds)) == ["data:audio/wav", "data:image/gif", "data:image/png"]
  assert [link for link in checker.links if link[0] == "#"] == ["#part", "#part-3"]


def test_markdown_says_the_same_and_its_files_are_there(document):
  made = render_markdown(document, folder="files")
  links = re.findall(r"(?<!\\)\]\(([^)]*)\)", made.text)
  assert links == list(made.files) and len(links) == 8
  assert all(re.fullmatch(r"files/00\d-part\.(png|gif|wav)", link) for link in links)
  assert "<script" not in made.text and "](http" not in made.text.replace("\\](http", "")
  for words in ("0.123", "4,567", "a &lt; b", "✓ right", "✗ wrong", "python -m x --y='<z>'"):
    assert words in made.text
  assert "````\n```\n<code>\n````" in made.text
  widths = {
    line.replace("\\|", "").count("|") for line in made.text.splitlines() if line[:1] == "|"
  }
  assert widths == {3, 5}  # the table's and the gallery's


def test_media_are_whole_files():
  picture = shown(np.zeros((1, 32, 32, 3), np.uint8), "black")
  assert (picture.width, picture.height) == (160, 160) and picture.png[1:4] == b"PNG"
  film = shown(np.zeros((9, 32, 32, 3), np.uint8), "black")
  assert film.gif[:6] == b"GIF89a" and film.width == 160
  sound = heard(np.array([0, 0.5, -0.5], np.float32), "three samples")
  assert sound.wav[:4] == b"RIFF" and sound.wav[-6:] == b"\x00\x00\x00\x40\x00\xc0"


def test_parts_that_are_not_there_leave_nothing():
  assert tidy("empty", None, None) is None
  assert tidy("one", None, Text("x")) == Section("one", (Text("x"),))
  assert slug("Text -> speech, 2") == "text-speech-2" and slug("->") == "part"
  assert escaped("a_b|c\nd") == "a\\_b\\|c<br>d"
  with pytest.raises(ValueError, match="a row has 1 cells, the head 2"):
    Table(("a", "b"), (("c",),))
