"""The forms of examples with speech, in training and in prompts.

    speak   BOS words [voice] BOA frames EOA EOS
    listen  BOS BOA frames EOA SEP words EOS

Prompts are written by the same functions with None in the place of what the model makes. Token ids
throughout; the forms are our choice.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from ernie_jax.sequence import Clip, Item, Speaker, SpecialToken, Text

_BOS, _EOS, _SEP = int(SpecialToken.BOS), int(SpecialToken.EOS), int(SpecialToken.SEP)


def speak(
  words: Sequence[int],
  voice: Float[np.ndarray, "S"],
  codes: Int[np.ndarray, "n R"] | None,
) -> list[Item]:
  """Words, how the speaker sounds, and the words spoken."""
  items = [Text((_BOS, *words), learn=False), Speaker(voice)]
  return items if codes is None else [*items, Clip(codes), Text((_EOS,))]


def listen(codes: Int[np.ndarray, "n R"], words: Sequence[int] | None) -> list[Item]:
  """Speech and what is said in it."""
  items = [Text((_BOS,)), Clip(codes, learn=False), Text((_SEP,), learn=False)]
  return items if words is None else [*items, Text((*words, _EOS))]
