"""The tokenizer: round trips, special ids, word boundaries, dropout, and its file."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_jax.errors import UserError
from ernie_jax.sequence.special import RESERVED_IDS, SpecialToken
from ernie_jax.text.tokenizer import MIN_VOCAB_SIZE, Tokenizer, train_tokenizer

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=()), max_size=60)
SURROGATES = st.text(alphabet=st.sampled_from("\ud800\udbff\udc00\udfffa \n😀"), max_size=12)
CODE = st.lists(
  st.sampled_from(["import", " ", "\n", "    ", "self", ".", "_x1", "é", "中文", "0", "\t", "😀"]),
  max_size=25,
).map("".join)
rules = settings(deadline=None, max_examples=50)


@rules
@given(text=ANY_TEXT | SURROGATES | CODE)
def test_any_string_comes_back(tokenizer, text):
  ids = tokenizer.encode(text)
  assert ids.dtype == np.int32
  assert tokenizer.decode(ids) == text


@rules
@given(text=ANY_TEXT | SURROGATES | CODE)
def test_words_partition_the_text(tokenizer, text):
  assert "".join(tokenizer.split(text)) == text


@rules
@given(text=ANY_TEXT | SURROGATES | CODE)
def test_no_piece_joins_text_white_space_and_text(tokenizer, text):
  for i in tokenizer.encode(text):
    whole = tokenizer.decode([i]).rstrip("\ufffd")
    assert not re.search(r"\S\s", whole), "white space only begins a piece"
    assert not re.search(r"\s\s\S|[^\S ]\S", whole), "one blank at most joins what follows"


@rules
@given(text=ANY_TEXT | SURROGATES | CODE)
def test_python_merging_equals_sentencepiece(tokenizer, text):
  for word in filter(None, tokenizer.split(text)):
    assert tokenizer._merge(word) == tokenizer.encode(word).tolist()


@rules
@given(text=CODE, seed=st.integers(0, 9), rate=st.sampled_from([0.1, 0.5, 1.0]))
def test_dropout_is_decided_by_the_generator_and_keeps_the_text(tokenizer, text, seed, rate):
  draw = lambda t: t.encode(text, dropout=rate, rng=np.random.default_rng(seed)).tolist()
  first = draw(tokenizer)
  tokenizer._variants.clear()  # as in another process: the cache must not matter
  assert draw(tokenizer) == first
  assert tokenizer.decode(first) == text


def test_dropout_lengthens_text_and_varies(tokenizer, corpus_dir):
  text = next(corpus_dir.glob("*.py")).read_text()
  rng = np.random.default_rng(0)
  one, two = (tokenizer.encode(text, dropout=0.1, rng=rng) for _ in range(2))
  plain = len(tokenizer.encode(text))
  assert 1.05 * plain < len(one) < 1.4 * plain
  assert one.tolist() != two.tolist()


def test_full_dropout_leaves_single_bytes(tokenizer):
  ids = tokenizer.encode("import", dropout=1.0, rng=np.random.default_rng(0))
  assert len(ids) == 2 * len("import")


def test_dropout_without_a_generator_is_refused(tokenizer):
  with pytest.raises(ValueError, match="rng"):
    tokenizer.encode("a", dropout=0.1)


@pytest.mark.parametrize("text", ["<|BOS|>", "<s>", "</s>", "<unk>", "\u2581", "<0x0A>", "<pad>"])
def test_text_never_becomes_a_special_token(tokenizer, text):
  ids = tokenizer.encode(text)
  assert (ids >= RESERVED_IDS).all()
  assert tokenizer.decode(ids) == text


def test_surrogate_break_keeps_halves_apart(tokenizer):
  assert SpecialToken.SURROGATE_BREAK in tokenizer.encode("\ud83d\ude00")
  assert tokenizer.decode(tokenizer.encode("\ud83d\ude00")) == "\ud83d\ude00" != "😀"
  assert SpecialToken.SURROGATE_BREAK not in tokenizer.encode("😀")


@rules
@given(ids=st.lists(st.integers(-2, 700) | st.integers(0, 70), max_size=30), cut=st.integers(0, 30))
def test_decode_takes_any_ids_whole_or_in_parts(tokenizer, ids, cut):
  stream = tokenizer.stream(show_special=True)
  parts = stream.push(ids[:cut]) + stream.push(ids[cut:]) + stream.finish()
  assert parts == tokenizer.decode(ids, show_special=True)
  one_by_one = tokenizer.stream(show_special=True)
  assert "".join(one_by_one.push([i]) for i in ids) + one_by_one.finish() == parts


def test_special_tokens_are_dropped_or_shown(tokenizer):
  ids = [SpecialToken.BOS, *tokenizer.encode("hi"), SpecialToken.EOS, 63]
  assert tokenizer.decode(ids) == "hi"
  assert tokenizer.decode(ids, show_special=True) == "<|BOS|>hi<|EOS|><|RESERVED_63|>"


def test_odd_bytes_and_foreign_ids_become_the_replacement_character(tokenizer):
  byte = tokenizer.encode("a", dropout=1.0, rng=np.random.default_rng(0))[:1]
  assert tokenizer.decode(byte) == "\ufffd"
  assert tokenizer.decode([tokenizer.vocab_size, -1]) == "\ufffd\ufffd"


def test_stream_holds_back_half_a_character(tokenizer):
  ids = tokenizer.encode("😀", dropout=1.0, rng=np.random.default_rng(0))
  stream = tokenizer.stream()
  assert [stream.push([i]) for i in ids] == ["", "", "", "😀"]


def test_save_and_load_keep_ids_and_fingerprint(tokenizer, tmp_path):
  tokenizer.save(tmp_path / "deep" / "tokenizer.model")
  loaded = Tokenizer.load(tmp_path / "deep" / "tokenizer.model")
  assert loaded.fingerprint == tokenizer.fingerprint
  assert loaded.vocab_size == tokenizer.vocab_size == 640
  assert loaded.encode("import os").tolist() == tokenizer.encode("import os").tolist()
  assert [p.name for p in (tmp_path / "deep").iterdir()] == ["tokenizer.model"]


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "other", "directory"])
def test_a_bad_file_is_a_user_error_that_names_it(tokenizer, tmp_path, damage):
  path = tmp_path / "tokenizer.model"
  tokenizer.save(path)
  data = path.read_bytes()
  path.unlink()
  if damage == "truncated":
    path.write_bytes(data[: len(data) // 2])
  elif damage == "flipped":
    path.write_bytes(data[:-100] + b"?" + data[-99:])
  elif damage == "other":
    path.write_bytes(b"hello")
  elif damage == "directory":
    path.mkdir()
  with pytest.raises(UserError, match=re.escape(str(path))):
    Tokenizer.load(path)


def test_training_depends_on_the_words_and_not_on_their_order():
  texts = ["one two three one", "two words and more words"]
  first = train_tokenizer(texts, vocab_size=MIN_VOCAB_SIZE + 5)
  assert first.vocab_size == MIN_VOCAB_SIZE + 5
  assert (
    train_tokenizer(texts[::-1], vocab_size=MIN_VOCAB_SIZE + 5).fingerprint == first.fingerprint
  )


def test_rare_bytes_stay_in_the_vocabulary_of_a_large_text():
  counts = ["the same words again and again\n" * 100_000]
  tokenizer = train_tokenizer(counts, vocab_size=MIN_VOCAB_SIZE + 3)
  assert tokenizer.decode(tokenizer.encode("中\U0010ffff")) == "中\U0010ffff"


def test_a_vocabulary_the_text_cannot_fill_is_a_user_error_that_says_what_can():
  with pytest.raises(UserError, match=r"at most \d+ is possible") as e:
    train_tokenizer(["a b a b"], vocab_size=5000)
  most = int(re.search(r"at most (\d+)", str(e.value))[1])
  assert train_tokenizer(["a b a b"], vocab_size=most).vocab_size == most


@pytest.mark.parametrize("texts, size, words", [(["a"], 100, "at least"), ([], 5000, "no text")])
def test_impossible_training_is_a_user_error(texts, size, words):
  with pytest.raises(UserError, match=words):
    train_tokenizer(texts, vocab_size=size)
