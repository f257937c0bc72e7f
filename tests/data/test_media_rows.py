"""Rows with media: what is drawn depends on the row's number alone, and each task has its own form."""

import dataclasses

import jax
import numpy as np
import pytest
from small_vision import CONFIG, SLOTS, media

from ernie_jax.data.media_example import Document, MediaExample, Question
from ernie_jax.data.media_files import MediaFolder
from ernie_jax.data.media_rows import MediaDataConfig, MediaRows, TaskWeights, media_texts
from ernie_jax.data.mixture import stack_rows
from ernie_jax.data.pipeline import Pipeline
from ernie_jax.data.world.scenes import WorldSource
from ernie_jax.errors import UserError
from ernie_jax.sequence import Kind, SpecialToken
from ernie_jax.text.tokenizer import train_tokenizer

LENGTH = 110
N = CONFIG.tokenizer.quantizer.elements
NONE = {field.name: 0.0 for field in dataclasses.fields(TaskWeights)}


class Known:
  """A few examples made here."""

  def __init__(self, examples, name="known"):
    self.examples, self.fingerprint, self.key = examples, name, name

  def __len__(self):
    return len(self.examples)

  def __getitem__(self, index):
    return self.examples[index]


def picture(seed: int) -> MediaExample:
  return MediaExample(
    media=media(seed),
    captions=(f"a red circle {seed}",),
    questions=(Question("what shape", "circle"),),
    document=Document(("first", "then", ""), np.concatenate([media(seed), media(seed + 50)])),
    name=f"picture {seed}",
  )


def video(seed: int) -> MediaExample:
  return MediaExample(media=media(seed, 13), captions=("it moves up",), name=f"video {seed}")


@pytest.fixture(scope="module")
def words():
  return train_tokenizer(["a red circle 1", "it moves up", "first then what shape"], vocab_size=330)


def rows(
  words, *, length: int = LENGTH, sources=None, regularise=True, bpe_dropout=0.0, **changed
) -> MediaRows:
  sources = sources or [Known([picture(i) for i in range(6)]), Known([video(i) for i in range(4)])]
  folders = tuple(MediaFolder(path=str(i), side=16) for i in range(len(sources)))
  config = MediaDataConfig(folders=folders, slots=SLOTS, **changed)
  return MediaRows(
    sources, words, CONFIG.shapes(window=config.look_back), config, length=length, seed=3,
    regularise=regularise, bpe_dropout=bpe_dropout,
  )  # fmt: skip


def only(task: str) -> TaskWeights:
  return TaskWeights(**{**NONE, task: 1.0})


def tokens(row, example: int = 1) -> list[int]:
  return row.token[(row.example == example) & (row.kind == Kind.TEXT)].tolist()


def test_a_row_depends_on_its_number_alone(words):
  first, second = rows(words), rows(words)
  backwards = [second[i] for i in reversed(range(6))][::-1]
  for i in range(6):
    jax.tree.map(np.testing.assert_array_equal, first[i], backwards[i])
  assert any((first[i].row.token != first[0].row.token).any() for i in range(1, 6))


def test_a_pipeline_goes_on_at_its_row(words):
  make = lambda: Pipeline(
    [rows(words)], [1.0], rows_per_batch=2, threads=1, names=["config.data.media"]
  )
  whole = make()
  wanted = [next(whole) for _ in range(4)]
  state = None
  part = make()
  for _ in range(2):
    next(part)
  state = part.get_state()
  again = make()
  again.set_state(state)
  jax.tree.map(np.testing.assert_array_equal, next(again), wanted[2])
  assert wanted[0].drawn[0].shape == (2, 2, 1, 16, 16, 3)
  other = Pipeline([rows(words, sources=[Known([picture(1)], "new"), Known([video(1)])])], [1.0],
                   rows_per_batch=2, threads=1, names=["config.data.media"])  # fmt: skip
  with pytest.raises(UserError, match=r"config\.data\.media has changed"):
    other.set_state(state)
  for one in (whole, part, again, other):
    one.close()


def test_a_drawn_picture_stands_between_its_caption_and_the_end(words):
  row = rows(words, tasks=only("draw"), sources=[Known([picture(1)])], no_caption=0.0)[0]
  caption = words.encode("a red circle 1").tolist()
  ends = [SpecialToken.BOI, SpecialToken.EOI, SpecialToken.EOS]
  assert tokens(row.row) == [SpecialToken.BOS, *caption, *ends]
  assert (row.row.kind[row.row.example == 1] == Kind.VISION_TARGET).sum() == N
  np.testing.assert_array_equal(row.drawn[0][0], media(1))
  learnt = row.row.target[(row.row.example == 1) & (row.row.text_weight > 0)].tolist()
  assert learnt == ends  # of the words none


def test_captions_are_left_out_as_often_as_asked_in_training_only(words):
  source = [Known([picture(1)])]
  count = lambda made: np.mean([tokens(made[i].row)[1] == SpecialToken.BOI for i in range(60)])
  half = dict(tasks=only("draw"), sources=source, no_caption=0.5)
  assert 0.3 < count(rows(words, **half)) < 0.7
  assert count(rows(words, regularise=False, **half)) == 0


def test_text_about_what_is_seen_is_learnt_and_the_question_is_not(words):
  row = rows(words, tasks=only("answer"), sources=[Known([picture(2)])])[0]
  asked, said = words.encode("what shape").tolist(), words.encode("circle").tolist()
  brackets = [SpecialToken.BOI, SpecialToken.EOI]
  sep, eos = SpecialToken.SEP, SpecialToken.EOS
  assert tokens(row.row) == [SpecialToken.BOS, *brackets, sep, *asked, sep, *said, eos]
  learnt = row.row.target[(row.row.example == 1) & (row.row.text_weight > 0)].tolist()
  assert learnt == [*said, eos]
  np.testing.assert_array_equal(row.seen[0][0], media(2))
  told = rows(words, tasks=only("describe"), sources=[Known([picture(2)])])[0]
  caption = words.encode("a red circle 2").tolist()
  assert tokens(told.row) == [SpecialToken.BOS, *brackets, sep, *caption, eos]


def test_merges_are_dropped_in_what_is_given_and_not_in_what_is_learnt(words):
  made = lambda task, rate: (
    rows(words, tasks=only(task), sources=[Known([picture(2)])], no_caption=0.0, bpe_dropout=rate)[
      0
    ].row
  )
  for task, learnt in (("describe", "a red circle 2"), ("answer", "circle")):
    row = made(task, 1.0)
    target = row.target[(row.example == 1) & (row.text_weight > 0)].tolist()
    assert target == [*words.encode(learnt).tolist(), SpecialToken.EOS]
  count = lambda row: len(tokens(row))
  assert count(made("draw", 1.0)) > count(made("draw", 0.0))
  assert count(made("answer", 1.0)) > count(made("answer", 0.0))  # the question
  assert count(made("describe", 1.0)) == count(made("describe", 0.0))


def test_several_questions_are_asked_of_one_picture_each_once(words):
  kinds = ("what shape", "first then", "it moves")
  asked = tuple(Question(kind, answer) for kind, answer in zip(kinds, ("circle", "up", "red")))
  source = [Known([dataclasses.replace(picture(2), questions=asked)])]
  row = rows(words, tasks=only("answer"), sources=source, questions=2)[0].row
  learned = [words.decode(t) for t in _split(tokens(row)) if t]
  turns = list(zip(learned[0::2], learned[1::2]))
  known = {(q.question, q.answer) for q in asked}
  assert len(turns) == len(set(turns)) == 2 and set(turns) <= known
  all_of_them = rows(words, tasks=only("answer"), sources=source, questions=9)[0].row
  assert len([t for t in _split(tokens(all_of_them)) if t]) == 6
  many = rows(words, tasks=only("answer"), sources=source, questions=2)
  orders = {tuple(tokens(many[i].row)) for i in range(9)}
  assert len(orders) > 1


def test_questions_of_some_kinds_can_be_asked_alone(words):
  asked = (Question("what shape", "circle", "shape"), Question("it moves", "up", "motion"))
  source = [Known([dataclasses.replace(picture(2), questions=asked)])]
  some = lambda kinds: rows(words, tasks=only("answer"), sources=source, questions=9, kinds=kinds)
  text = lambda row: [words.decode(t) for t in _split(tokens(row.row)) if t]
  assert text(some(("motion", "sign"))[0]) == ["it moves", "up"]
  assert (
    len(text(some(())[0])) == len(text(some(("sign",))[0])) == 4
  )  # all, where none is of these kinds


def test_what_is_asked_about_and_not_told_is_not_drawn(words):
  example = dataclasses.replace(picture(0), captions=(), document=None)
  for row in (rows(words, sources=[Known([example])])[i].row for i in range(5)):
    assert (row.kind == Kind.VISION_CONTEXT).any() and not (row.kind == Kind.VISION_TARGET).any()
  asked = dataclasses.replace(video(1), captions=(), questions=example.questions)
  for i in range(5):
    row = rows(words, sources=[Known([asked])])[i].row
    assert not (row.kind == Kind.VISION_TARGET).any()
  silent = dataclasses.replace(example, questions=())
  assert (rows(words, sources=[Known([silent])])[0].row.kind == Kind.VISION_TARGET).any()


def test_questions_that_no_row_could_hold_are_left_out(words):
  asked = tuple(Question(f"what shape {i}", "circle") for i in range(6))
  example = dataclasses.replace(picture(0), questions=asked)
  source = rows(
    words, sources=[Known([example])], tasks=only("answer"), questions=6, length=LENGTH // 2
  )
  counts = [tokens(source[i].row).count(int(SpecialToken.SEP)) // 2 for i in range(4)]
  assert all(0 < count < 6 for count in counts)


def _split(ids: list[int]) -> list[list[int]]:
  """Texts between special tokens."""
  parts = [[]]
  for token in ids:
    if token in set(SpecialToken):
      parts.append([])
    else:
      parts[-1].append(token)
  return parts


def test_a_continued_video_learns_no_bit_of_its_first_frame(words):
  row = rows(words, tasks=only("extend"), sources=[Known([video(1)])], drop_frame=1.0)[0].row
  first = (row.example == 1) & (row.media_slot >= 0) & (row.media_element < N)
  assert not row.media_weight[first].any()
  assert (row.media_weight[(row.media_element >= N) & (row.media_element < 3 * N)] > 0).any()
  # A window of 4 hides nothing of 3 frames; the second may be dropped, the first is given.
  hidden = row.hidden_from < row.hidden_to
  assert hidden.sum() == N and not hidden[first].any()


def test_dropped_frames_and_the_window_hide_keys(words):
  source = [Known([video(1)])]
  dropped = rows(words, tasks=only("draw"), sources=source, drop_frame=1.0)[0].row
  assert (dropped.hidden_from < dropped.hidden_to).sum() == 2 * N
  near = rows(words, tasks=only("draw"), sources=source, drop_frame=0.0, window=1)[0].row
  assert (near.hidden_from < near.hidden_to).sum() == N


def test_a_document_that_ends_with_a_picture_draws_its_pictures(words):
  story = rows(words, tasks=only("document"), sources=[Known([picture(1)])])[0]
  np.testing.assert_array_equal(story.drawn[0][0], media(1))
  np.testing.assert_array_equal(story.drawn[0][1], media(51))
  example = picture(1)
  riddle = dataclasses.replace(
    example, document=Document(("first", "then"), example.document.pictures[:1])
  )
  seen = rows(words, tasks=only("document"), sources=[Known([riddle])])[0]
  np.testing.assert_array_equal(seen.seen[0][0], media(1))
  assert not seen.drawn[0].any()


def test_an_example_that_no_row_can_hold_is_named(words):
  with pytest.raises(UserError, match=r"video 1 does not fit.*row_length \(60\)"):
    rows(words, length=60, tasks=only("draw"), sources=[Known([video(1)])])[0]
  short = dataclasses.replace(video(1), media=media(1, 5))
  with pytest.raises(UserError, match="video 1 has 5 frames, fewer than"):
    rows(words, tasks=only("draw"), sources=[Known([short])])[0]


def test_rows_of_a_batch_have_one_form(words):
  made = rows(words)
  batch = stack_rows([made[i] for i in range(3)])
  assert batch.row.kind.shape == (3, LENGTH)
  shapes = [kind.shape[1:3] for kind in (*batch.drawn, *batch.seen)]
  assert shapes == [(2, 1), (1, 9), (1, 1), (1, 9)]


def test_the_text_tokenizer_is_trained_on_all_words_of_the_media():
  texts = set(media_texts([Known([picture(1)]), Known([video(2)])], max_chars=10_000))
  assert texts == {"a red circle 1", "what shape", "circle", "first", "then", "", "it moves up"}


def test_a_kind_of_question_that_the_world_does_not_ask_is_refused():
  with pytest.raises(ValueError, match="kinds has 'smal'; the world's are shape, colour"):
    MediaDataConfig(worlds=(WorldSource(),), kinds=("smal", "sign"))
  MediaDataConfig(folders=(MediaFolder(path="mine"),), kinds=("mood",))  # a folder names its own
