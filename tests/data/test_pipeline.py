"""Batches: hosts, resuming, mixtures, and the config."""

import dataclasses
import json
import os
import shutil

import jax
import numpy as np
import pytest

from ernie_jax import config as configs
from ernie_jax.data.mixture import mix
from ernie_jax.data.pipeline import (
  DataConfig,
  Pipeline,
  held_out_sets,
  training_pipeline,
  training_texts,
)
from ernie_jax.errors import UserError
from ernie_jax.sequence.row import Kind, empty_row

ROWS = 8


@dataclasses.dataclass
class Numbered:
  """Rows that carry their own number, and the number of their source."""

  source: int
  rows: int = 7
  fingerprint: str = "numbers"

  def __len__(self):
    return self.rows

  def __getitem__(self, index):
    row = empty_row(2)
    row.token[:] = self.source, index
    return row


@pytest.fixture
def config(source, data_dir):
  return DataConfig(
    row_length=32, rows_per_batch=ROWS, seed=1, sources=(source,), data_dir=str(data_dir)
  )


def take(pipeline, count):
  batches = [next(pipeline) for _ in range(count)]
  pipeline.close()
  return batches


def assert_equal(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y)


def joined(parts):
  return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def test_a_batch_is_a_row_with_a_leading_axis(config, tokenizer):
  (batch,) = take(training_pipeline(config, tokenizer), 1)
  assert batch.token.shape == (ROWS, 32) and batch.position.shape == (ROWS, 32, 3)
  assert batch.token.dtype == np.int32 and batch.text_weight.dtype == np.float32
  assert (batch.kind == Kind.TEXT).all()


@pytest.mark.parametrize("hosts", [2, 4])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_hosts_batches_one_after_the_other_are_the_one_host_batch(
  config, tokenizer, hosts, dropout
):
  config = dataclasses.replace(config, bpe_dropout=dropout)
  alone = take(training_pipeline(config, tokenizer), 3)
  shares = [
    take(training_pipeline(config, tokenizer, host=h, hosts=hosts), 3) for h in range(hosts)
  ]
  for batch, *parts in zip(alone, *shares, strict=True):
    assert_equal(joined(parts), batch)


def test_a_source_can_have_a_rate_of_dropout_of_its_own(config, tokenizer):
  def first(rate, own=None):
    sources = tuple(dataclasses.replace(source, bpe_dropout=own) for source in config.sources)
    changed = dataclasses.replace(config, bpe_dropout=rate, sources=sources)
    return take(training_pipeline(changed, tokenizer), 1)[0]

  assert_equal(first(0.9, own=0.0), first(0.0))
  assert_equal(first(0.0, own=0.9), first(0.9))
  assert (first(0.9).token != first(0.0).token).any()


@pytest.mark.parametrize("hosts", [1, 4])
@pytest.mark.parametrize("done", [0, 1, 5])
def test_resuming_on_any_number_of_hosts_goes_on_exactly(config, tokenizer, hosts, done):
  alone = training_pipeline(config, tokenizer)
  for _ in range(done):
    next(alone)
  state = alone.get_state()
  assert state["next_row"] == done * ROWS
  expected = take(alone, 2)
  parts = []
  for h in range(hosts):
    resumed = training_pipeline(config, tokenizer, host=h, hosts=hosts)
    resumed.set_state(state)
    parts.append(take(resumed, 2))
    assert resumed.get_state() == {**state, "next_row": (done + 2) * ROWS}
  for batch, *shares in zip(expected, *parts, strict=True):
    assert_equal(joined(shares), batch)


def test_the_state_ignores_what_was_prefetched_and_can_go_back():
  pipeline = Pipeline([Numbered(0)], [1.0], rows_per_batch=2, prefetch=16)
  first = [next(pipeline).token[:, 1].tolist() for _ in range(3)]
  assert first == [[0, 1], [2, 3], [4, 5]] and pipeline.get_state()["next_row"] == 6
  pipeline.set_state({"next_row": 2, "text": ["numbers"]})
  assert next(pipeline).token[:, 1].tolist() == [2, 3]
  pipeline.close()
  assert next(pipeline).token[:, 1].tolist() == [4, 5], "closing forgets nothing"
  pipeline.close()


def test_the_state_outlives_a_change_of_the_batch_size():
  pipeline = Pipeline([Numbered(0)], [1.0], rows_per_batch=6)
  pipeline.set_state({"next_row": 4, "text": ["numbers"]})
  assert next(pipeline).token[:, 1].tolist() == [4, 5, 6, 7, 8, 9], "epochs go on"
  pipeline.close()


def test_a_state_outlives_a_touched_file_but_not_another_text(config, source, tokenizer, tmp_path):
  shutil.copytree(source.path, tmp_path / "copy")  # every file has another time of change
  other = dataclasses.replace(source, path=str(tmp_path / "copy"))
  both = dataclasses.replace(config, sources=(source, other))
  pipeline = training_pipeline(both, tokenizer)
  state = json.loads(json.dumps(pipeline.get_state() | {"next_row": 3 * ROWS}))
  assert len(set(state["text"])) == 1, "equal text has equal fingerprints, wherever it lies"
  for file in (tmp_path / "copy").rglob("*.py"):
    os.utime(file, (1, 1))
  resumed = training_pipeline(both, tokenizer)
  resumed.set_state(state)
  assert resumed.get_state() == state
  for file in (tmp_path / "copy").rglob("*.py"):
    file.write_text(file.read_text().replace("e", "E"))
  with pytest.raises(UserError, match=r"text of config.data.sources\[1\] has changed"):
    training_pipeline(both, tokenizer).set_state(state)


def test_hosts_that_cannot_share_a_batch_are_a_user_error_naming_the_key():
  with pytest.raises(UserError, match="rows_per_batch"):
    Pipeline([Numbered(0)], [1.0], rows_per_batch=6, hosts=4)


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (0.5, 0.25, 0.25), (0.9, 0.1)])
def test_any_prefix_of_a_mixture_has_the_shares_and_skips_no_row(weights):
  mixed = mix([Numbered(i) for i in range(len(weights))], weights)
  drawn = np.stack([mixed[i].token for i in range(400)])
  for i, weight in enumerate(weights):
    mine = drawn[:, 0] == i
    assert (drawn[mine, 1] == np.arange(mine.sum())).all()
    for prefix in (20, 100, 400):
      assert abs(mine[:prefix].sum() - prefix * weight / sum(weights)) <= 2


@pytest.mark.parametrize(
  "sources, weights",
  [([], []), ([Numbered(0)], [0.0]), ([Numbered(0)], [1, 1]), ([Numbered(0, 0)], [1])],
)
def test_impossible_mixtures_are_refused(sources, weights):
  with pytest.raises(ValueError):
    mix(sources, weights)


def test_two_sources_are_mixed_and_held_out_apart(config, source, tokenizer):
  other = dataclasses.replace(source, piece_chars=500, weight=3.0)
  config = dataclasses.replace(config, sources=(source, other))
  (batch,) = take(training_pipeline(config, tokenizer), 1)
  assert (batch.kind == Kind.TEXT).all()
  held = held_out_sets(config, tokenizer, max_rows=2)
  assert [h.rows.token.shape for h in held] == [(2, 32), (2, 32)]


def test_texts_for_the_tokenizer_come_from_the_training_files_up_to_a_size(config, train):
  texts = list(training_texts(config, max_chars=3000))
  assert texts == [p.text for p in train][: len(texts)]
  assert 3000 <= sum(map(len, texts)) < 4000
  assert len(list(training_texts(config))) == len(train)


def test_the_config_is_built_from_plain_keys():
  built = configs.build(
    DataConfig, {"seed": 3, "sources": [{"path": "x", "weight": 2}]}, path="config.data"
  )
  assert built.sources[0].path == "x" and built.sources[0].weight == 2.0


@pytest.mark.parametrize(
  "key, value",
  [("row_length", 0), ("rows_per_batch", 0), ("bpe_dropout", 1.5), ("sources", ()), ("seed", -1)],
)
def test_an_impossible_value_names_its_key(key, value):
  with pytest.raises(UserError, match=key):
    configs.build(DataConfig, {key: value}, path="config.data")


def test_a_users_error_met_while_prefetching_reaches_the_caller_as_it_is():
  class Damaged(Numbered):
    def __getitem__(self, index):
      raise UserError("record file x is damaged")

  pipeline = Pipeline([Damaged(0)], [1.0], rows_per_batch=2)
  with pytest.raises(UserError, match=r"^record file x is damaged$"):
    next(pipeline)
