"""A small trained family in a workdir, as training leaves it, and its held-out text."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from ernie_jax import config as config_lib
from ernie_jax.backbone.config import ModelConfig
from ernie_jax.data.pipeline import DataConfig, held_out_sets
from ernie_jax.data.text_files import TextSource
from ernie_jax.elastic.family import ElasticConfig
from ernie_jax.evaluate.family_table import MAX_ROWS
from ernie_jax.train.model_io import SavedModel, save_model
from ernie_jax.train.pretrain import unboxed_params

TABLE_ROWS = 24  # fewer than there are


@pytest.fixture(scope="session")
def data(corpus_dir, tmp_path_factory) -> DataConfig:
  return DataConfig(
    row_length=64,
    sources=(TextSource(path=str(corpus_dir), validation_percent=20.0),),
    data_dir=str(tmp_path_factory.mktemp("data")),
  )


@pytest.fixture(scope="session")
def held_out(data, tokenizer):
  return held_out_sets(data, tokenizer, max_rows=MAX_ROWS)


@pytest.fixture(scope="session")
def saved(data, tokenizer) -> SavedModel:
  """A family of 2 layers and 4 experts whose routers differ in bias and use."""
  model = ModelConfig(
    vocab_size=tokenizer.vocab_size,
    depth=2,
    width=16,
    heads=2,
    kv_heads=1,
    head_dim=8,
    experts=4,
    top_k=2,
    expert_width=8,
    shared_width=8,
  )
  elastic = ElasticConfig(members=("1x4x2", "2x2x1"))
  rng = np.random.default_rng(0)
  params = jax.device_get(unboxed_params(model, jax.random.key(0)))
  params = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32), params)
  return SavedModel(
    config={
      "data": config_lib.to_dict(data),
      "evaluation": {"prompt": "def ", "table_rows": TABLE_ROWS},
    },
    model=model,
    elastic=elastic,
    params=params,
    bias=rng.normal(0, 0.1, (2, 4)).astype(np.float32),
    usage=rng.uniform(0.1, 1, (2, 4)).astype(np.float32),
    tokenizer=tokenizer,
    step=5,
  )


@pytest.fixture
def workdir(saved, tmp_path):
  save_model(tmp_path / "run", saved)
  lines = [
    {
      "step": step,
      "loss": 7.0 - step,
      "learning_rate": 1e-3,
      "router/max_over_mean": [1.5, 1.2],
      "router/entropy": [0.9, 0.95],
      "router/dead": [0, 1],
    }
    for step in range(1, 6)
  ]
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (tmp_path / "run" / "metrics.jsonl").write_text(text)
  return tmp_path / "run"


@pytest.fixture
def foreign(saved) -> SavedModel:
  """A model that was imported: no data, no tokenizer of ours."""
  return dataclasses.replace(saved, config={}, tokenizer=None)
