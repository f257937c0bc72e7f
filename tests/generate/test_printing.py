"""What is printed of pieces as they come."""

import numpy as np

from ernie_jax.generate.decode import Generated
from ernie_jax.generate.printing import print_pieces
from ernie_jax.sequence import SpecialToken
from ernie_jax.text.tokenizer import train_tokenizer


def piece(*ids) -> Generated:
  return Generated(np.int32([ids]), np.array([len(ids)]), np.zeros((1, len(ids)), np.float32))


def test_each_part_stands_on_a_line_and_an_odd_byte_stays_in_its_own(capsys):
  words = train_tokenizer(["what shape is red? a ring"] * 20, vocab_size=330)
  encode = lambda text: words.encode(text).tolist()
  odd = encode("\u4e00")[0]  # the first byte of two
  pieces = [
    piece(*encode("what"), odd),
    piece(SpecialToken.SEP, *encode("ring")),
    piece(SpecialToken.EOS),
  ]
  print_pieces([], iter(pieces), words)
  printed = capsys.readouterr()
  assert printed.out == "what\N{REPLACEMENT CHARACTER}\nring\n"
  assert printed.err.startswith(f"{sum(p.lengths[0] for p in pieces)} tokens in ")


def test_without_a_tokenizer_ids_are_printed(capsys):
  print_pieces([5, 17], iter([piece(9), piece(3, 2)]), None)
  assert capsys.readouterr().out == "5,17,9,3,2\n"
