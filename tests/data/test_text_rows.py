"""Rows of text: every token once, no leaks, dropout that loses no text, and the held-out bytes."""

import itertools

import numpy as np
import pytest

from ernie_jax.data.held_out import held_out
from ernie_jax.data.text_rows import TextRows
from ernie_jax.sequence.row import Kind
from ernie_jax.sequence.special import SpecialToken

LENGTH = 48


def canonical(pieces, tokenizer):
  """The tokens of each piece, in file order, with BOS and EOS: the slow, obvious way."""
  for piece in pieces:
    ids = tokenizer.encode(piece.text).tolist()
    yield [SpecialToken.BOS] * piece.first + ids + [SpecialToken.EOS] * piece.last


def flat(lists):
  return list(itertools.chain.from_iterable(lists))


def epoch(rows, number=0):
  return [rows[number * len(rows) + i] for i in range(len(rows))]


def inputs(row):
  return row.token[row.kind == Kind.TEXT].tolist()


def targets(row):
  return row.target[row.text_weight > 0].tolist()


@pytest.fixture(scope="session")
def shuffled(train, tokenizer):
  return TextRows(train, tokenizer, length=LENGTH, seed=3)


@pytest.fixture(scope="session")
def in_order(validation, tokenizer):
  return TextRows(validation, tokenizer, length=LENGTH, shuffle=False)


def test_rows_in_file_order_spell_the_files(in_order, validation, tokenizer):
  stream = flat(canonical(validation, tokenizer))
  rows = epoch(in_order)
  assert flat(map(inputs, rows)) == stream
  assert [t for t in stream if t != SpecialToken.BOS] == flat(map(targets, rows))
  assert all((row.kind == Kind.TEXT).all() for row in rows[:-1])


@pytest.mark.parametrize("number", [0, 1, 7])
def test_every_epoch_has_every_token_once_and_no_stretch_twice(shuffled, train, tokenizer, number):
  rows = [None] * len(shuffled)
  for i, row in enumerate(epoch(shuffled, number)):
    rows[shuffled._epoch(number).rows[i]] = row
  pieces = list(canonical(train, tokenizer))
  order = shuffled._epoch(number).order.tolist()
  assert sorted(order) == list(range(len(pieces)))
  assert flat(map(inputs, rows)) == flat(pieces[j] for j in order)
  assert flat(map(targets, rows)) == flat(pieces[j][1:] for j in order)


def test_epochs_and_seeds_differ_and_repeat(shuffled, train, tokenizer):
  n = len(shuffled)
  assert inputs(shuffled[0]) != inputs(shuffled[n])
  other = TextRows(train, tokenizer, length=LENGTH, seed=4)
  assert inputs(other[0]) != inputs(shuffled[0])
  same = TextRows(train, tokenizer, length=LENGTH, seed=3)
  assert inputs(same[2 * n + 5]) == inputs(shuffled[2 * n + 5])


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_packing_never_leaks(train, tokenizer, dropout):
  rows = TextRows(train, tokenizer, length=LENGTH, bpe_dropout=dropout)
  several = 0
  for row in epoch(rows):
    used = int((row.kind == Kind.TEXT).sum())
    assert (row.kind[:used] == Kind.TEXT).all() and (row.example[used:] == 0).all()
    assert (row.text_weight[used:] == 0).all()
    assert (np.diff(row.group) > 0).all()
    assert sorted(set(row.example[:used])) == list(range(1, row.example[:used].max() + 1))
    for p in range(used):
      begins = p == 0 or row.example[p] != row.example[p - 1]
      assert row.position[p].tolist() == [0 if begins else row.position[p - 1][0] + 1] * 3
      if p + 1 < used:
        goes_on = row.example[p] == row.example[p + 1]
        assert row.text_weight[p] == goes_on
        assert row.target[p] == (row.token[p + 1] if goes_on else 0)
    several += row.example.max() > 1
  assert several > 3


@pytest.mark.parametrize("rate", [0.1, 0.6])
def test_dropout_keeps_each_rows_text_and_fits(train, tokenizer, rate):
  dropped = TextRows(train, tokenizer, length=LENGTH, seed=3, bpe_dropout=rate)
  plain = TextRows(train, tokenizer, length=dropped.capacity, seed=3)
  assert dropped.capacity < LENGTH and len(dropped) == len(plain)
  changed = 0
  rows = [dropped[i] for i in range(80)]
  for a, b in zip(rows, (plain[i] for i in range(80))):
    assert a.example.max() == b.example.max()
    for example in range(1, a.example.max() + 1):
      ids = [r.token[r.example == example] for r in (a, b)]
      assert tokenizer.decode(ids[0], show_special=True) == tokenizer.decode(
        ids[1], show_special=True
      )
    ends = [
      r.text_weight[np.flatnonzero(r.kind)[-1]] * r.target[np.flatnonzero(r.kind)[-1]]
      for r in (a, b)
    ]
    assert ends[0] == ends[1]
    changed += inputs(a) != inputs(b)
  assert changed > 0.9 * len(rows)
  filled = np.mean([(row.kind == Kind.TEXT).mean() for row in rows])
  assert filled > 0.75


def test_dropout_draws_anew_each_epoch_and_the_same_each_time(train, tokenizer):
  make = lambda: TextRows(train, tokenizer, length=LENGTH, seed=3, bpe_dropout=0.2)
  rows, again = make(), make()
  assert all(inputs(rows[i]) == inputs(again[i]) for i in (0, 5, len(rows) + 3))


def test_the_first_target_of_a_row_is_promised_by_the_row_before(validation, tokenizer):
  rows = TextRows(validation, tokenizer, length=LENGTH, shuffle=False, bpe_dropout=0.3)
  checked = 0
  for before, after in zip(epoch(rows), epoch(rows)[1:]):
    last = np.flatnonzero(before.kind)[-1]
    if before.text_weight[last]:
      assert before.target[last] == after.token[0]
      checked += 1
  assert checked > 10


def test_counts_are_kept_and_a_damaged_file_is_counted_again(validation, tokenizer, in_order):
  kept = validation.build.directory.parent / f"validation-tokens-{tokenizer.fingerprint}.npz"
  assert kept.exists()
  kept.write_bytes(kept.read_bytes()[:50])
  again = TextRows(validation, tokenizer, length=LENGTH, shuffle=False)
  assert again.tokens == in_order.tokens and len(again) == len(in_order)


@pytest.mark.parametrize("max_rows", [1, 2, 5, 17, 10_000])
def test_held_out_bytes_are_those_of_the_targets(in_order, validation, tokenizer, max_rows):
  held = held_out(in_order, max_rows=max_rows)
  assert held.rows.token.shape == (min(max_rows, len(in_order)), LENGTH)
  ids = held.rows.target[held.rows.text_weight > 0]
  assert tokenizer.decode(ids) == held.text
  assert held.utf8_bytes == len(held.text.encode()) > 0
  everything = "".join(p.text for p in validation)
  assert everything.startswith(held.text)
  if max_rows > len(in_order):
    assert held.text == everything


@pytest.mark.parametrize("options", [{"shuffle": True}, {"shuffle": False, "bpe_dropout": 0.1}])
def test_held_out_text_must_be_plain(validation, tokenizer, options):
  with pytest.raises(ValueError, match="file order"):
    held_out(TextRows(validation, tokenizer, length=LENGTH, **options), max_rows=1)
