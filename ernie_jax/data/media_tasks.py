"""The forms of examples with media: what stands before, between and after pictures, in training and in prompts.

    draw      BOS caption [picture or video drawn] EOS
    extend    BOS caption [video drawn, its first frame given] EOS
    describe  BOS [seen] SEP caption EOS
    answer    BOS [seen] SEP question SEP answer EOS SEP question SEP answer EOS ..
    hear      BOS [seen] SEP [question heard] SEP question SEP answer EOS
    document  BOS text [picture] text [picture] .. EOS

What is heard is written down before it is answered (chain of modality: SpeechGPT, Zhang et al. 2023), so that from
there on it is a question that is read. When the answer alone was learnt, questions of number, order and yes or no
stayed at their floors.

A document that ends with a picture is a story: its pictures are drawn. One that ends with text tells what
was to be seen: its pictures are looked at. In either some texts may be speech: what is followed by a picture
is heard, `BOA frames EOA`, and the last text is spoken by the model, `[voice] BOA frames EOA`. Prompts are
written by the same functions with None in the place of what the model makes. Token ids throughout; the forms
are our choice.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from ernie_jax.sequence import Clip, Drawn, Item, Seen, Speaker, SpecialToken, Text

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


def hear(
  media: Pixels,
  question: Int[np.ndarray, "n R"],
  turn: tuple[Sequence[int], Sequence[int]] | None,
) -> list[Item]:
  """Media, the codes of a question about them, then the question in writing and its answer."""
  items = [Text((_BOS,)), Seen(media), Text((_SEP,), learn=False), Clip(question, learn=False)]
  items.append(Text((_SEP,), learn=False))
  if turn is None:
    return items
  written, answered = turn
  return [*items, Text((*written, _SEP, *answered, _EOS))]


def parts(told: Sequence[int]) -> list[list[int]]:
  """What a model tells, split at SEP: of a question that was heard, the question and the answer."""
  found: list[list[int]] = [[]]
  for token in told:
    if token == _SEP:
      found.append([])
    else:
      found[-1].append(token)
  return found


@dataclasses.dataclass(frozen=True, eq=False)
class Said:
  """A text of a document as speech.

  Attributes:
    codes: of the recording.
    voice: how its speaker sounds in another one.
  """

  codes: Int[np.ndarray, "n R"]
  voice: Float[np.ndarray, "S"]


def document(
  texts: Sequence[Sequence[int] | Said], pictures: UInt8[np.ndarray, "n H W 3"]
) -> list[Item]:
  """n + 1 texts around n pictures; the last one is empty in a story."""
  first, last = texts[0], texts[-1]
  form = Seen if isinstance(last, Said) or len(last) else Drawn
  items: list[Item] = [Text((_BOS, *(() if isinstance(first, Said) else first)))]
  if isinstance(first, Said):
    items += _told(first, learn=False)
  for i, (picture, text) in enumerate(zip(pictures, texts[1:]), start=1):
    items += [form(picture[None]), *_told(text, learn=i == len(pictures))]
  return [*items, Text((_EOS,))]


def _told(text: Sequence[int] | Said, *, learn: bool) -> list[Item]:
  """A text, which is learnt, or speech, which is so where `learn` says it."""
  if not isinstance(text, Said):
    return [Text(tuple(text))] if len(text) else []
  spoken = Clip(text.codes, learn=learn)
  return [Speaker(text.voice), spoken] if learn else [spoken]
