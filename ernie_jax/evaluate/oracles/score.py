"""What every oracle's figures need: means over scores, and prompts dealt to the wrong pictures.

A score is reported beside its ceiling (the same oracle on ground truth, and on reconstructions) and its
floor (each output judged by another one's prompt).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from ernie_jax.data.world.scene import Described


class SignWords(Protocol):
  """A sign as far as words fix it, such as `scene.Sign`; None is what they leave open."""

  text: str | None
  place: str | None


class Expected(Protocol):
  """What a prompt fixes, such as a `scene.Scene`: all objects, and the sign if there must be one."""

  objects: Sequence[Described]
  sign: SignWords | None


T = TypeVar("T")
WORDS = ("shape", "colour", "size", "place")  # what a picture shows of an object
_WEIGHTS = {"place": 1.1, "colour": 1.0, "shape": 0.9, "size": 0.5}


def mean_scores(scores: Sequence[Any]) -> dict[str, float]:
  """The mean of each attribute over score dataclasses; what is None in all of them is left out.

  An attribute that is None in one score (such as the direction where nothing moves) is averaged over
  the others.
  """
  means = {}
  for field in dataclasses.fields(scores[0]):
    values = [v for s in scores if (v := getattr(s, field.name)) is not None]
    if values:
      means[field.name] = float(np.mean(values))
  return means


def shuffled(items: Sequence[T], rng: np.random.Generator) -> list[T]:
  """The items in an order in which none keeps its place: prompts for the floor.

  Raises:
    ValueError: there are fewer than two.
  """
  if len(items) < 2:
    raise ValueError(f"at least two items are needed, got {len(items)}")
  order = rng.permutation(len(items))
  dealt = [None] * len(items)
  for here, there in zip(order, np.roll(order, 1)):
    dealt[here] = items[there]
  return dealt


def sign_matches(expected: SignWords | None, found: SignWords | None) -> bool:
  """Whether a sign has the text and place that the words fix, or is missing where there must be none."""
  if expected is None or found is None:
    return expected is found
  return expected.text in (None, found.text) and expected.place in (None, found.place)


def matches(expected: Described, found: Described, attribute: str) -> bool:
  """Whether an attribute is as the words say, or left open by them."""
  wanted = getattr(expected, attribute)
  return wanted is None or wanted == getattr(found, attribute)


def pair_up(expected: Sequence[Described], found: Sequence[Described]) -> list[Described | None]:
  """For each expected object the found one that it is paired with, so that most attributes agree."""
  partners: list[Described | None] = [None] * len(expected)
  if not expected or not found:
    return partners
  agreement = [
    [sum(w for name, w in _WEIGHTS.items() if matches(e, f, name)) for f in found] for e in expected
  ]
  for i, j in zip(*linear_sum_assignment(agreement, maximize=True)):
    partners[i] = found[j]
  return partners


def share(
  expected: Sequence[Described], partners: Sequence[Described | None], attribute: str
) -> float:
  """The share of expected objects whose partner has the attribute right; one without a partner has not."""
  right = [p is not None and matches(e, p, attribute) for e, p in zip(expected, partners)]
  return sum(right) / len(right)
