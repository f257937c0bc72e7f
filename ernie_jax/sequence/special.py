"""The special tokens and their ids, which are fixed: every tokenizer reserves the first 64 ids.

They live here and not beside the tokenizer because laying out a row needs them and needs no tokenizer.
"""

import enum

RESERVED_IDS = 64  # ids below this are special or kept for special tokens to come


class SpecialToken(enum.IntEnum):
  """A token that stands for structure and never for characters. Ids are our choice."""

  PAD = 0
  BOS = 1
  EOS = 2
  SEP = 3
  BOI = 4  # opens an image
  EOI = 5
  BOV = 6  # opens a video
  EOV = 7
  NEXT_FRAME = 8  # a target only: the video goes on after this frame
  BOA = 9  # opens audio
  EOA = 10
  SYSTEM = 11
  USER = 12
  ASSISTANT = 13
  END_OF_TURN = 14
  THINK = 15
  END_THINK = 16
  SURROGATE_BREAK = 17  # keeps two lone UTF-16 surrogates from joining into a pair
