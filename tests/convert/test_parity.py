"""Random ERNIE 4.5 models of several shapes: transformers and we give the same answers.

Weights and router bias are much larger than at initialisation, where logits are near zero and hide
errors. Files are written by transformers in small shards, and ours are read by transformers.
"""

import json

import jax
import numpy as np
import pytest
from ours import Ours

from ernie_jax.convert import files, from_hf, to_hf

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import ernie45_twin as twin  # noqa: E402  (needs both)

PROMPT, COUNT = 9, 7


class Pair:
  """A twin on disk and in memory, and our import of it."""

  def __init__(self, name: str, directory):
    self.model = twin.make(name)
    self.directory = directory
    self.model.save_pretrained(directory, max_shard_size="20KB")
    self.config = files.read_json(directory / "config.json")
    self.tensors = files.TensorFiles(directory)
    self.imported = from_hf(self.config, self.tensors)
    self.ours = Ours(self.imported, length=PROMPT + COUNT)
    self.ids = np.random.default_rng(0).integers(3, twin.VOCAB, (2, PROMPT + COUNT))


@pytest.fixture(scope="module", params=twin.PARITY)
def pair(request, tmp_path_factory):
  with jax.default_matmul_precision("highest"):
    yield Pair(request.param, tmp_path_factory.mktemp("twin"))


def test_logits_are_those_of_transformers(pair):
  assert len(pair.tensors.files) > 1
  expected = twin.logits(pair.model, pair.ids)
  assert np.abs(expected).max() > 3
  np.testing.assert_allclose(pair.ours.logits(pair.ids), expected, atol=1e-4)


def test_greedy_continuation_is_that_of_transformers_with_and_without_cache(pair):
  prompt = pair.ids[:, :PROMPT]
  expected = twin.greedy(pair.model, prompt, COUNT)
  np.testing.assert_array_equal(pair.ours.greedy(prompt, COUNT), expected)
  np.testing.assert_array_equal(pair.ours.greedy_cached(prompt, COUNT), expected)


def test_transformers_loads_the_export_and_every_bit_is_as_before(pair, tmp_path):
  imported = pair.imported
  exported = to_hf(imported.model, imported.params, imported.bias, base=pair.config)
  assert exported.config == pair.config
  assert set(exported.tensors) == set(pair.tensors)
  files.write_tensors(tmp_path, exported.tensors, shard_bytes=20_000)
  files.write_json(tmp_path / "config.json", exported.config)
  again = type(pair.model).from_pretrained(tmp_path)
  state, before = again.state_dict(), pair.model.state_dict()
  assert state.keys() == before.keys()
  for name, tensor in before.items():
    assert torch.equal(state[name], tensor), name


def test_a_config_written_from_scratch_makes_the_same_transformers_model(pair):
  """Without the config.json of an import, ours must say all that transformers needs to know."""
  exported = to_hf(pair.imported.model, pair.imported.params, pair.imported.bias)
  config = type(pair.model.config)(**json.loads(json.dumps(exported.config)))
  same = "num_attention_heads num_key_value_heads rms_norm_eps rope_parameters tie_word_embeddings"
  moe = "moe_k moe_norm_min moe_layer_start_index moe_layer_end_index moe_layer_interval"
  for key in f"{same} {moe if imported_has_experts(pair) else 'head_dim'}".split():
    assert getattr(config, key) == getattr(pair.model.config, key), key
  rebuilt = type(pair.model)(config)
  shapes = lambda model: {name: value.shape for name, value in model.state_dict().items()}
  assert shapes(rebuilt) == shapes(pair.model)


def imported_has_experts(pair) -> bool:
  return pair.imported.model.moe_layers > 0
