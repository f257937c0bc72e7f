"""`python -m ernie_jax.elastic.slice`: a workdir of its own, which scores as the masked member does."""

import jax
import numpy as np
import pytest

from ernie_jax import config as config_lib
from ernie_jax.backbone.config import ModelConfig
from ernie_jax.data.pipeline import DataConfig, held_out_sets
from ernie_jax.data.text_files import TextSource
from ernie_jax.elastic.family import ElasticConfig, activate, members_of, parse_member
from ernie_jax.elastic.slice import slice_member
from ernie_jax.errors import UserError
from ernie_jax.evaluate.held_out import score
from ernie_jax.train.model_io import SavedModel, load_model, save_model
from ernie_jax.train.pretrain import unboxed_params


@pytest.fixture(scope="module")
def data(corpus_dir, tmp_path_factory) -> DataConfig:
  sources = (TextSource(path=str(corpus_dir), validation_percent=20.0),)
  return DataConfig(row_length=64, sources=sources, data_dir=str(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def workdir(data, tokenizer, tmp_path_factory):
  """A saved family whose routers differ in bias and in use."""
  model = ModelConfig(
    vocab_size=tokenizer.vocab_size, depth=4, width=16, heads=2, kv_heads=1, head_dim=8, experts=4,
    top_k=2, expert_width=8, shared_width=8, dense_layers=1, dense_width=16, top_layers=1,
  )  # fmt: skip
  rng = np.random.default_rng(0)
  params = jax.device_get(unboxed_params(model, jax.random.key(0)))
  saved = SavedModel(
    config={"data": config_lib.to_dict(data), "text": {"tokenizer": ""}, "name": "small"},
    model=model,
    elastic=ElasticConfig(members=("3x4x2", "3x3x1", "2x2x1", "4x2x2"), min_depth=3, widths=(2, 3)),
    params=jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32), params),
    bias=rng.normal(0, 0.1, (4, 4)).astype(np.float32),
    usage=rng.uniform(0.1, 1, (4, 4)).astype(np.float32),
    tokenizer=tokenizer,
    step=7,
  )
  folder = tmp_path_factory.mktemp("family") / "run"
  save_model(folder, saved)
  return folder


def test_a_slice_scores_held_out_text_as_the_masked_member(workdir, data, tokenizer, tmp_path):
  slice_member(workdir, "3x3x1", tmp_path / "small")
  full, small = load_model(workdir), load_model(tmp_path / "small")
  held_out = held_out_sets(data, tokenizer, max_rows=40)
  member = parse_member("3x3x1", full.model)
  active = activate(member, full.usage, elastic=full.elastic, model=full.model)
  masked = score(full.params, full.bias, held_out, model=full.model, active=active)
  own = score(small.params, small.bias, held_out, model=small.model)
  assert own.loss == pytest.approx(masked.loss, rel=1e-5)
  plain = score(full.params, full.bias, held_out, model=full.model)
  assert abs(own.loss - plain.loss) > 1e-4


def test_a_slice_is_a_whole_workdir_with_the_members_that_it_shares(workdir, tmp_path):
  slice_member(workdir, "3x4x2", tmp_path / "small")
  full, small = load_model(workdir), load_model(tmp_path / "small")
  assert small.step == 7 and small.config["data"] == full.config["data"]
  assert small.config["text"] == full.config["text"]
  assert small.tokenizer.encode("def f(x):").tolist() == full.tokenizer.encode("def f(x):").tolist()
  # 4x2x2 is too deep. 2x2x1 keeps layers 0 and 3 in both, so it is the same member.
  assert [m.name for m in members_of(small.elastic, small.model)] == ["3x4x2", "3x3x1", "2x2x1"]
  assert small.elastic.min_depth == 2 and small.elastic.widths == (2, 3)


def test_slicing_twice_gives_the_member_of_the_family(workdir, tmp_path):
  slice_member(workdir, "3x4x2", tmp_path / "middle")
  twice = slice_member(tmp_path / "middle", "2x2x1", tmp_path / "twice")
  once = slice_member(workdir, "2x2x1", tmp_path / "once")
  jax.tree.map(np.testing.assert_array_equal, twice.params, once.params)
  assert twice.model == once.model


@pytest.mark.parametrize(
  ("member", "told"), [("5x4x2", "depth 5"), ("4x4x3", "top-k 3"), ("4x4", "not of the form")]
)
def test_a_member_that_is_not_in_the_checkpoint_is_refused(workdir, tmp_path, member, told):
  with pytest.raises(UserError, match=f"--member: .*{told}"):
    slice_member(workdir, member, tmp_path / "small")
  assert not (tmp_path / "small").exists()


def test_a_model_is_never_written_over(workdir, tmp_path):
  before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
  with pytest.raises(UserError, match="already holds a model"):
    slice_member(workdir, "3x4x2", workdir)
  assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="--out: cannot write"):
    slice_member(workdir, "3x4x2", tmp_path / "file")
