"""Captions of scenes, and their meaning read back.

A caption names every object once, with size, colour, shape, place and, in a video, how it moves, and the sign
if there is one; the background goes unsaid. Objects come in any order, and a *style* fixes how: one list or
several sentences, place first or last. The patterns that write are the ones that read, so every caption
parses. Attribute words have no synonyms: one word, one meaning, so that a small model can be scored exactly.

Reading is wider than writing: size, colour, place and motion may be left out, as people do in prompts.
"""

import dataclasses
import re

import numpy as np

from ernie_jax.data.world.scene import (
  COLOURS,
  MOTIONS,
  PLACES,
  SHAPES,
  SIGN_ALPHABET,
  SIZES,
  Described,
  Scene,
)

# How a motion is said beside a noun, and as a verb.
_MOVING = {m: "standing still" if m == "still" else f"moving {m}" for m in MOTIONS}
_MOVES = {m: "stands still" if m == "still" else f"moves {m}" for m in MOTIONS}


@dataclasses.dataclass(frozen=True)
class DescribedSign:
  """A sign as far as words fix it; None is what they leave open."""

  text: str
  place: str | None = None


@dataclasses.dataclass(frozen=True)
class Description:
  """What a caption says.

  Attributes:
    objects: in the caption's order.
    sign: None if it names none.
  """

  objects: tuple[Described, ...]
  sign: DescribedSign | None = None

  def same_as(self, other: "Description") -> bool:
    """Whether both name the same things, in whatever order."""
    return self.sign == other.sign and _sorted(self.objects) == _sorted(other.objects)


@dataclasses.dataclass(frozen=True)
class _Style:
  """One way to caption.

  Attributes:
    things: patterns of an object; the first is the one that is written, the others only read.
    signs: patterns of a sign, in the same way.
    begin: what comes first.
    between, before_last, end: what joins the clauses.
  """

  things: tuple[str, ...]
  signs: tuple[str, ...]
  begin: str = ""
  between: str = ", "
  before_last: str = " and "
  end: str = ""


_THING = "a {size}{colour}{shape}"
_SIGN = "a sign at the {place} that says {text}"
_AT_SIGN = "at the {place} a sign that says {text}"
_IS_SIGN = "a sign at the {place} says {text}"
_THERE_SIGN = "at the {place} there is a sign that says {text}"
_SHORT_SIGN = "a sign that says {text}"


def _sentences(thing: str, sign: str) -> _Style:
  return _Style((thing,), (sign,), between=". ", before_last=". ", end=".")


_LIST = f"{_THING} at the {{place}}"
_PICTURE_STYLES = (
  _Style((_LIST, _THING), (_SIGN, _SHORT_SIGN)),
  _Style((_LIST, _THING), (_SIGN, _SHORT_SIGN), begin="a picture of "),
  _Style((_LIST, _THING), (_SIGN, _SHORT_SIGN), begin="there is "),
  _Style((f"at the {{place}} {_THING}",), (_AT_SIGN,)),
  _sentences(f"{_THING} is at the {{place}}", _IS_SIGN),
  _sentences(f"at the {{place}} there is {_THING}", _THERE_SIGN),
)
_MOVING_LIST = f"{_THING} at the {{place}} {{moving}}"
_MOVING_ONLY = f"{_THING} {{moving}}"
_VIDEO_STYLES = (
  _Style((_MOVING_LIST, _MOVING_ONLY), (_SIGN, _SHORT_SIGN)),
  _Style((_MOVING_LIST, _MOVING_ONLY), (_SIGN, _SHORT_SIGN), begin="a video of "),
  _Style((_MOVING_LIST, _MOVING_ONLY), (_SIGN, _SHORT_SIGN), begin="there is "),
  _Style((f"at the {{place}} {_THING} {{moving}}",), (_AT_SIGN,)),
  _sentences(f"{_THING} is at the {{place}} and {{moves}}", _IS_SIGN),
  _sentences(f"{_THING} at the {{place}} {{moves}}", _IS_SIGN),
)


def describe(scene: Scene) -> Description:
  """What a full caption of `scene` says: no motion for a picture."""
  objects = tuple(thing.described() for thing in scene.objects)
  if scene.frames == 1:
    objects = tuple(dataclasses.replace(thing, motion=None) for thing in objects)
  sign = scene.sign and DescribedSign(scene.sign.text, scene.sign.place)
  return Description(objects, sign)


def caption(scene: Scene, rng: np.random.Generator) -> str:
  """One caption, in a random style and order."""
  styles = _PICTURE_STYLES if scene.frames == 1 else _VIDEO_STYLES
  return _write(describe(scene), styles[rng.integers(len(styles))], rng)


def captions(scene: Scene, rng: np.random.Generator, count: int) -> tuple[str, ...]:
  """`count` captions in random orders, each of another style as long as there are styles."""
  styles = _PICTURE_STYLES if scene.frames == 1 else _VIDEO_STYLES
  description = describe(scene)
  order = rng.permutation(len(styles))
  return tuple(_write(description, styles[order[i % len(styles)]], rng) for i in range(count))


def parse_caption(text: str) -> Description | None:
  """What a caption says, or None where it is not in the language of captions.

  Capitals, white space and a full stop at the end do not matter.
  """
  text = " ".join(text.split()).removesuffix(".")
  for reader in _READERS:
    description = reader.read(text)
    if description is not None:
      return description
  return None


def caption_exact(text: str, scene: Scene) -> bool:
  """Whether `text` says of every object and the sign everything that a full caption says, and no more."""
  description = parse_caption(text)
  return description is not None and description.same_as(describe(scene))


def _write(description: Description, style: _Style, rng: np.random.Generator) -> str:
  clauses = [_fill(style.things[0], thing) for thing in description.objects]
  if description.sign is not None:
    sign = description.sign
    clauses.append(style.signs[0].format(place=sign.place, text=sign.text))
  clauses = [clauses[i] for i in rng.permutation(len(clauses))]
  start = style.between.join(clauses[:-1])
  joined = style.before_last.join([start, clauses[-1]] if start else clauses)
  return style.begin + joined + style.end


def _fill(pattern: str, thing: Described) -> str:
  return pattern.format(
    size=f"{thing.size} ",
    colour=f"{thing.colour} ",
    shape=thing.shape,
    place=thing.place,
    moving=_MOVING.get(thing.motion),
    moves=_MOVES.get(thing.motion),
  )


def _one_of(name: str, words, *, optional_space: bool = False) -> str:
  """A named group of words, the longest first so that no word hides one that it begins."""
  words = "|".join(sorted(words, key=len, reverse=True))
  return f"(?:(?P<{name}>{words}) )?" if optional_space else f"(?P<{name}>{words})"


_SLOTS = {
  "size": _one_of("size", SIZES, optional_space=True),
  "colour": _one_of("colour", COLOURS, optional_space=True),
  "shape": _one_of("shape", SHAPES),
  "place": _one_of("place", PLACES),
  "moving": _one_of("moving", _MOVING.values()),
  "moves": _one_of("moves", _MOVES.values()),
  "text": f"(?P<text>[{SIGN_ALPHABET}]+)",
}
_MOTION_OF = {said: motion for table in (_MOVING, _MOVES) for motion, said in table.items()}


class _Reader:
  """Reads captions of one style."""

  def __init__(self, style: _Style):
    compile_all = lambda patterns: [
      re.compile(p.format(**_SLOTS) + r"\b", re.IGNORECASE) for p in patterns
    ]
    self._begin = style.begin
    self._things, self._signs = compile_all(style.things), compile_all(style.signs)
    joints = {style.between, style.before_last, ", and "} if not style.end else {style.between}
    self._joint = re.compile("|".join(sorted(joints, key=len, reverse=True)), re.IGNORECASE)

  def read(self, text: str) -> Description | None:
    """The description, if the whole text is of this style."""
    if not text.lower().startswith(self._begin):
      return None
    at, objects, signs = len(self._begin), [], []
    while True:
      if match := _first(self._things, text, at):
        objects.append(_thing(match))
      elif match := _first(self._signs, text, at):
        signs.append(_sign(match))
      else:
        return None
      at = match.end()
      if at == len(text):
        break
      joint = self._joint.match(text, at)
      if joint is None:
        return None
      at = joint.end()
    return Description(tuple(objects), *signs) if len(signs) <= 1 else None


_READERS = tuple(_Reader(style) for style in _PICTURE_STYLES + _VIDEO_STYLES)


def _first(patterns: list[re.Pattern], text: str, at: int) -> re.Match | None:
  """The match of the first pattern that matches; the longest patterns come first."""
  return next((m for p in patterns if (m := p.match(text, at))), None)


def _thing(match: re.Match) -> Described:
  found = {k: v.lower() for k, v in match.groupdict().items() if v is not None}
  motion = found.pop("moving", None) or found.pop("moves", None)
  return Described(**found, motion=motion and _MOTION_OF[motion])


def _sign(match: re.Match) -> DescribedSign:
  found = match.groupdict()
  return DescribedSign(found["text"].upper(), found.get("place") and found["place"].lower())


def _sorted(objects: tuple[Described, ...]) -> list[str]:
  return sorted(map(repr, objects))
