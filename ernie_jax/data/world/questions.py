"""Questions about scenes, with answers of one or few words, and what guessing would score.

A question names an object only in words that fit no other object of the scene. Statements to be judged
are true half of the time, whatever their form, and a training scene's false ones name no combination that
is held out: else a model would learn that such a combination means "no".
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from ernie_jax.data.media_example import Question
from ernie_jax.data.world.scene import (
  COLOURS,
  MOTIONS,
  PLACES,
  SHAPES,
  SIZES,
  Described,
  Object,
  Scene,
  is_held_out,
  track,
)

NUMBERS = ("none", "one", "two", "three")
_WORDS = {"shape": SHAPES, "colour": tuple(COLOURS), "size": SIZES}
_ORDERS = (("left", "right"), ("above", "below"))  # along each axis
_FAR = 0.2  # of the side: centres this far apart along an axis are in an order that is plain to see

KINDS = (
  "shape",
  "colour",
  "size",
  "place",
  "small",
  "count",
  "relation",
  "yes/no",
  "motion",
  "sign",
)
"""small: the shape of a small object; relation: order of two objects; sign: its text."""


def questions(scene: Scene, rng: np.random.Generator) -> tuple[Question, ...]:
  """One question of every kind that `scene` allows, in the order of `KINDS`; about motion one of every object, about
  order one along each axis, and statements to judge of every form.
  """
  asked = ((kind, ask(scene, rng)) for kind in KINDS for ask in _ASK[kind])
  return tuple(
    Question(question=pair[0], answer=pair[1], kind=kind)
    for kind, pair in asked
    if pair is not None
  )


def choose_question(asked: Sequence[Question], rng: np.random.Generator) -> Question:
  """One of the questions about a scene, every kind alike, then every one of the kind."""
  kind = _pick(rng, list(dict.fromkeys(question.kind for question in asked)))
  return _pick(rng, [question for question in asked if question.kind == kind])


def answer_right(said: str, answer: str) -> bool:
  """Whether both are the same words; capitals, white space, "the" and a full stop do not matter."""
  plain = lambda text: text.lower().strip().removesuffix(".").removeprefix("the ").split()
  return plain(said) == plain(answer)


def majority_baseline(
  asked: Iterable[Question], *, fitted_on: Iterable[Question] | None = None
) -> dict[str, float]:
  """What a guesser scores who reads the question and never sees the scene, for each kind.

  It knows the form of a question (its attribute words blanked) and gives the answer that is most
  frequent for that form in `fitted_on` (`asked` itself if None).
  """
  asked = list(asked)
  counts = defaultdict(Counter)
  for question in asked if fitted_on is None else fitted_on:
    counts[_form(question)][question.answer] += 1
  guess = {form: counter.most_common(1)[0][0] for form, counter in counts.items()}
  right, total = Counter(), Counter()
  for question in asked:
    total[question.kind] += 1
    right[question.kind] += guess.get(_form(question)) == question.answer
  return {kind: right[kind] / total[kind] for kind in total}


_ATTRIBUTES = re.compile(
  r"\b(?:"
  + "|".join(
    sorted([*SHAPES, *COLOURS, *SIZES, *PLACES, "up", "down", "thing"], key=len, reverse=True)
  )
  + r")(?:es|s)?\b"
)


def _form(question: Question) -> str:
  return re.sub(r"(?:\* ?)+", "* ", _ATTRIBUTES.sub("*", question.question))


def reference(
  scene: Scene, thing: Object, rng: np.random.Generator, *, without: tuple[str, ...] = ()
) -> str | None:
  """Words that fit `thing` alone, such as "the small ring at the top"; None if there are none.

  Uses attributes in a random order, only those that tell it from something; none of `without`, and place only in
  a picture, since a place changes in a video.
  """
  names = ["shape", "colour", "size"] + ["place"] * (scene.frames == 1)
  names = [names[i] for i in rng.permutation(len(names)) if names[i] not in without]
  names = [name for name in names if getattr(thing, name) is not None]
  chosen, left = {}, [other for other in scene.objects if other is not thing]
  for name in names:
    fits = [other for other in left if getattr(other, name) == getattr(thing, name)]
    if len(fits) < len(left) or not chosen:
      chosen[name], left = getattr(thing, name), fits
    if not left:
      return f"the {_noun(**chosen)}"
  return None


def _noun(*, shape=None, colour=None, size=None, place=None) -> str:
  words = [word for word in (size, colour, shape or "thing") if word]
  return " ".join(words) + (f" at the {place}" if place else "")


def _pick(rng: np.random.Generator, options):
  return options[int(rng.integers(len(options)))]


def _shuffled(rng: np.random.Generator, options) -> list:
  return [options[i] for i in rng.permutation(len(options))]


def _attribute(name: str, pattern: str, *, of_size: str | None = None):
  """Asks for an attribute of an object that has it and can be named without it."""

  def ask(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    for thing in _shuffled(rng, scene.objects):
      if getattr(thing, name) is None:
        continue
      named = reference(scene, thing, rng, without=(name,))
      if named is not None and of_size in (None, thing.size):
        return pattern.format(named), getattr(thing, name)
    return None

  return ask


def _shape(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
  asked = _attribute("shape", "What shape is {}?")(scene, rng)
  if asked is not None and rng.integers(2):
    shorter = re.sub(r"\bthe (\w+) thing\?", r"\1?", asked[0])  # "What shape is red?"
    return shorter, asked[1]
  return asked


def _place(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
  pattern = "Where is {}?" if scene.frames == 1 else "Where does {} start?"
  return _attribute("place", pattern)(scene, rng)


def _count(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
  """How many there are of all things, of a shape, a colour or a size, or moving."""
  if scene.frames > 1 and rng.integers(4) == 0:
    moving = sum(thing.motion != "still" for thing in scene.objects)
    return "How many things move?", NUMBERS[moving]
  name = _pick(rng, ("all", "shape", "size") + ("colour",) * (not _nameless(scene)))
  if name == "all":
    return "How many things are there?", NUMBERS[len(scene.objects)]
  there = [getattr(thing, name) for thing in scene.objects]
  word = _pick(rng, there) if rng.integers(2) else _pick(rng, _WORDS[name])
  noun = _plural(word) if name == "shape" else f"{word} things"
  return f"How many {noun} are there?", NUMBERS[there.count(word)]


def _plural(shape: str) -> str:
  return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def _pair(scene: Scene, rng: np.random.Generator, axis: int) -> tuple[str, str, int] | None:
  """The names of two objects whose order along an axis is plain, and which of `_ORDERS[axis]` the first one is.

  None in a video, where the order can change while things move.
  """
  if scene.frames > 1:
    return None
  middle = {id(thing): track(thing, 1)[0][axis] for thing in scene.objects}
  names = {id(thing): reference(scene, thing, rng, without=("place",)) for thing in scene.objects}
  for first in _shuffled(rng, scene.objects):
    for second in _shuffled(rng, scene.objects):
      far = middle[id(second)] - middle[id(first)] > _FAR
      if far and names[id(first)] and names[id(second)]:
        before, after = names[id(first)], names[id(second)]
        return (after, before, 1) if rng.integers(2) else (before, after, 0)
  return None


def _relation(axis: int):
  """Asks for the order of two objects of a picture along an axis."""
  alternatives = ("left or right of", "above or below")[axis]

  def ask(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    pair = _pair(scene, rng, axis)
    if pair is None:
      return None
    first, second, order = pair
    return f"Is {first} {alternatives} {second}?", _ORDERS[axis][order]

  return ask


def _motion(number: int):
  """Asks which way object `number` of a video moves."""

  def ask(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    if scene.frames == 1 or number >= len(scene.objects):
      return None
    thing = scene.objects[number]
    named = reference(scene, thing, rng, without=("motion",))
    return named and (f"Which way does {named} move?", thing.motion)

  return ask


def _sign(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
  del rng
  return ("What does the sign say?", scene.sign.text) if scene.sign else None


def _judge(form):
  """Asks for a statement of a form to be judged, which is true half of the time."""

  def ask(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    true = bool(rng.integers(2))
    question = form(scene, rng, true)
    return question and (question, "yes" if true else "no")

  return ask


def _exists(scene: Scene, rng: np.random.Generator, true: bool) -> str:
  """Whether there is a thing of a colour and a shape; of a shape, where colours have no names."""
  if _nameless(scene):
    there = {thing.shape for thing in scene.objects}
    return f"Is there a {_pick(rng, [shape for shape in SHAPES if (shape in there) == true])}?"
  there = {(thing.colour, thing.shape) for thing in scene.objects}
  options = [
    pair
    for pair in ((colour, shape) for colour in COLOURS for shape in SHAPES)
    if (pair in there) == true and (scene.held_out or not _held_out(*pair))
  ]
  # A false pair shares a word with a true one, or the question would be too easy.
  near = [pair for pair in options if any(set(pair) & set(other) for other in there)]
  colour, shape = _pick(rng, near)
  return f"Is there a {colour} {shape}?"


def _is_attribute(scene: Scene, rng: np.random.Generator, true: bool) -> str | None:
  """Whether an object has a colour or a size."""
  name = "size" if _nameless(scene) else _pick(rng, ("colour", "size"))
  for thing in _shuffled(rng, scene.objects):
    named = reference(scene, thing, rng, without=(name,))
    if named is None:
      continue
    right = getattr(thing, name)
    wrong = [
      word
      for word in _WORDS[name]
      if word != right and (name == "size" or scene.held_out or not _held_out(word, thing.shape))
    ]
    return f"Is {named} {right if true else _pick(rng, wrong)}?"
  return None


def _is_before(axis: int):
  """States the order of two objects of a picture along an axis."""
  words = (("left of", "right of"), ("above", "below"))[axis]

  def state(scene: Scene, rng: np.random.Generator, true: bool) -> str | None:
    pair = _pair(scene, rng, axis)
    if pair is None:
      return None
    first, second, order = pair
    return f"Is {first} {words[order if true else 1 - order]} {second}?"

  return state


def _moves(number: int):
  """States that object `number` of a video, which moves, does so in a direction."""

  def state(scene: Scene, rng: np.random.Generator, true: bool) -> str | None:
    if number >= len(scene.objects) or scene.objects[number].motion == "still":
      return None
    thing = scene.objects[number]
    named = reference(scene, thing, rng, without=("motion",))
    wrong = [motion for motion in MOTIONS if motion not in (thing.motion, "still")]
    return named and f"Does {named} move {thing.motion if true else _pick(rng, wrong)}?"

  return state


def _nameless(scene: Scene) -> bool:
  return any(thing.colour is None for thing in scene.objects)


def _held_out(colour: str, shape: str) -> bool:
  return is_held_out(Described(shape=shape, colour=colour))


_OBJECTS = range(3)  # of a scene, at most
_AXES = range(2)
_STATEMENTS = (_exists, _is_attribute, *map(_is_before, _AXES), *map(_moves, _OBJECTS))
_ASK = {
  "shape": (_shape,),
  "colour": (_attribute("colour", "What colour is {}?"),),
  "size": (_attribute("size", "What size is {}?"),),
  "place": (_place,),
  "small": (_attribute("shape", "What shape is {}?", of_size="small"),),
  "count": (_count,),
  "relation": tuple(map(_relation, _AXES)),
  "yes/no": tuple(map(_judge, _STATEMENTS)),
  "motion": tuple(map(_motion, _OBJECTS)),
  "sign": (_sign,),
}
