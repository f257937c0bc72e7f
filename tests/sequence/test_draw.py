"""Rows as people see them."""

import numpy as np

from ernie_jax.sequence import (
  Audio,
  SpecialToken,
  Text,
  VisionTarget,
  describe,
  lay_out,
  pack,
  picture,
  visible,
)


def row():
  scales = ((1, 1), (2, 2))
  drawn = [Text((SpecialToken.BOS, 70)), VisionTarget(slot=0, frames=1, scales=scales)]
  said = [Text((SpecialToken.BOS, 80)), Audio(slot=0, frames=2)]
  return pack([lay_out(drawn), lay_out(said)], 18)


def test_the_table_has_a_line_for_every_position_and_one_for_the_padding():
  lines = describe(row()).splitlines()
  assert len(lines) == 1 + int((row().example > 0).sum()) + 1
  assert lines[1].split()[3] == "BOS" and "padding" in lines[-1]


def test_the_picture_is_white_where_nothing_is_seen_and_nowhere_else():
  made, cell = row(), 5
  drawn = picture(made, cell=cell)
  assert drawn.shape == (19 * cell, 19 * cell, 3)
  middles = drawn[cell // 2 :: cell, cell // 2 :: cell][1:, 1:]
  np.testing.assert_array_equal((middles < 255).any(-1), visible(made))


def test_kinds_have_their_colours_and_the_own_group_is_darker():
  made = row()
  middles = picture(made, cell=1)[1:, 1:].astype(int)
  block = np.flatnonzero(
    made.group == made.group[4]
  )  # the second scale: positions that see each other
  last = block[-1] + 1  # the sum after it sees them as history
  assert len(block) == 4
  assert (middles[block[0], block[1]] < middles[last, block[1]]).all()
  assert tuple(middles[last, 0]) != tuple(middles[last, block[0]])
