"""How the world's English is spoken: every word that carries meaning has a word of the world's phones.

What is written of scenes is English, and the synthesiser says syllables of a consonant and a vowel; so a
text is said word by word from a fixed table. *The rule*: function words (`SILENT`) are not said, the
ending -s or -es of a plural or a verb is not said, and all else is said in the order in which it is written. "How many
red things are there?" is "nobe koka sofi sifo": many, red, thing, there.

Words of the table have two syllables. They differ from each other in two phones at least, words of one
attribute in three, and from every word of `speech.VOCABULARY` in two, the halves of its long ones included.
"""

import re

# Drawn once.
# fmt: off
PRONUNCIATIONS = {
  "circle": "nise", "square": "belo", "triangle": "duma", "cross": "dosi", "ring": "kufi",
  "red": "koka", "green": "bibu", "blue": "suli", "yellow": "fesu", "purple": "kedi", "cyan": "munu",
  "small": "kani", "large": "mime",
  "top": "suko", "bottom": "lude", "left": "nuba", "right": "sane", "centre": "laku",
  "up": "fida", "down": "nofu", "still": "bado", "above": "seki", "below": "mola",
  "thing": "sofi", "shape": "boki", "colour": "kobi", "size": "seda", "sign": "fuke",
  "where": "mena", "many": "nobe", "there": "sifo", "way": "kase", "start": "deni", "move": "fino",
  "say": "kula", "turn": "baka", "become": "dano", "come": "nako", "go": "fali", "picture": "lelu",
  "first": "lomi", "then": "nudo",
}
# fmt: on
# What is left says the same, in the world's few forms of questions and sentences.
# fmt: off
SILENT = frozenset((
  "a", "and", "are", "at", "away", "does", "how", "into", "is", "of", "or", "the", "to", "what", "which",
))
# fmt: on


def pronounce(text: str) -> tuple[str, ...]:
  """The words that are said, in order; none where every word is silent.

  Raises:
    ValueError: a word that the table does not have.
  """
  written = re.findall(r"[^\W\d_]+", text.lower())
  return tuple(_said(word) for word in written if word not in SILENT)


def _said(word: str) -> str:
  for form in (word, word.removesuffix("s"), word.removesuffix("es")):
    if form in PRONUNCIATIONS:
      return PRONUNCIATIONS[form]
  raise ValueError(f"the word {word!r} has no pronunciation")
