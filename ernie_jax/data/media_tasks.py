"""The forms of examples with media: what stands before, between and after pictures, in training and in prompts.

    draw      BOS caption [picture or video drawn] EOS
    extend    BOS caption [video drawn, its first frame given] EOS
    describe  BOS [seen] SEP caption EOS
    answer    BOS [seen] SEP question SEP answer EOS SEP question SEP answer EOS ..
    document  BOS text [picture] text [picture] .. EOS

A document that ends with a picture is a story: its pictures are drawn. One that ends with text tells what
was to be seen: its pictures are looked at. Prompts are written by the same functions with None in the
place of what the model makes. Token ids throughout; the forms are our choice.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from ernie_jax.sequence import Drawn, Item, Seen, SpecialToken, Text

_BOS, _EOS, _SEP = int(SpecialToken.BOS), int(SpecialToken.EOS), int(SpecialToken.SEP)
Pixels = UInt8[np.ndarray, "F H W 3"]


def draw(caption: Sequence[int], drawn: Drawn) -> list[Item]:
  """A caption and what it describes; an empty caption is what guidance compares with."""
  return [Text((_BOS, *caption), learn=False), drawn, Text((_EOS,))]


def describe(media: Pixels, caption: Sequence[int] | None) -> list[Item]:
  """Media and a caption."""
  items = [Text((_BOS,)), Seen(media), Text((_SEP,), learn=False)]
  return items if caption is None else [*items, Text((*caption, _EOS))]


def answer(
  media: Pixels, turns: Sequence[tuple[Sequence[int], Sequence[int] | None]]
) -> list[Item]:
  """Media, and questions about them with their answers, one after another."""
  items: list[Item] = [Text((_BOS,)), Seen(media)]
  for question, answered in turns:
    items.append(Text((_SEP, *question, _SEP), learn=False))
    if answered is not None:
      items.append(Text((*answered, _EOS)))
  return items


def document(texts: Sequence[Sequence[int]], pictures: UInt8[np.ndarray, "n H W 3"]) -> list[Item]:
  """n + 1 texts around n pictures."""
  form = Seen if len(texts[-1]) else Drawn
  items: list[Item] = [Text((_BOS, *texts[0]))]
  for picture, text in zip(pictures, texts[1:]):
    items.append(form(picture[None]))
    if len(text):
      items.append(Text(tuple(text)))
  return [*items, Text((_EOS,))]
