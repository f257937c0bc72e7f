"""Random ViT and CLIP towers of several shapes: transformers and we see the same in a picture."""

import json

import jax
import numpy as np
import pytest
from ours import compare_encoders

from ernie_jax.convert import files
from ernie_jax.convert.vit import from_hf, to_hf
from ernie_jax.vision.vit import VisionTransformer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import vit_twin as twin  # noqa: E402  (needs both)


class Pair:
  """A twin on disk and in memory, and our import of it."""

  def __init__(self, name: str, directory):
    self.model = twin.make(name)
    self.model.save_pretrained(directory, max_shard_size="20KB")
    self.config = files.read_json(directory / "config.json")
    self.tensors = files.TensorFiles(directory)
    self.imported = from_hf(self.config, self.tensors)
    self.forward = jax.jit(VisionTransformer(self.imported.vit).apply)

  def pixels(self, *, scale=1.0):
    """Two pictures in [-1, 1] of the trained size times `scale`."""
    vit = self.imported.vit
    height, width = (int(n * scale) * vit.patch for n in vit.grid)
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (2, height, width, 3)).astype(np.float32)

  def ours(self, pixels):
    return self.forward({"params": self.imported.params}, pixels)

  def theirs(self, pixels, **options):
    vit = self.imported.vit
    normalised = ((pixels + 1) / 2 - np.float32(vit.pixel_mean)) / np.float32(vit.pixel_std)
    return twin.answer(self.model, normalised, **options)


@pytest.fixture(scope="module", params=twin.SHAPES)
def pair(request, tmp_path_factory):
  with jax.default_matmul_precision("highest"):
    yield Pair(request.param, tmp_path_factory.mktemp("twin"))


def test_tokens_pooled_and_head_are_those_of_transformers(pair):
  pixels = pair.pixels()
  ours, theirs = pair.ours(pixels), pair.theirs(pixels)
  compare_encoders(ours, theirs)
  wanted = {"classifier": "logits", "projected": "image_embeds"}
  assert (ours.head is not None) == bool(set(wanted.values()) & set(theirs))


@pytest.mark.parametrize("pair", twin.SQUARE, indirect=True)
def test_interpolated_positions_are_those_of_transformers(pair):
  pixels = pair.pixels(scale=1.5)
  compare_encoders(pair.ours(pixels), pair.theirs(pixels, interpolate_pos_encoding=True))


def test_transformers_loads_the_export_and_every_bit_is_as_before(pair, tmp_path):
  imported = pair.imported
  exported = to_hf(imported.vit, imported.params, base=pair.config, prefix=imported.prefix)
  assert exported.config == pair.config
  assert set(exported.tensors) == set(pair.tensors)
  files.write_tensors(tmp_path, exported.tensors, shard_bytes=20_000)
  files.write_json(tmp_path / "config.json", exported.config)
  state = type(pair.model).from_pretrained(tmp_path).state_dict()
  before = pair.model.state_dict()
  assert state.keys() == before.keys()
  for name, tensor in before.items():
    assert torch.equal(state[name], tensor), name


def test_without_the_import_s_files_ours_say_all_that_transformers_needs(pair, tmp_path):
  exported = to_hf(pair.imported.vit, pair.imported.params)
  files.write_tensors(tmp_path, exported.tensors)
  files.write_json(tmp_path / "config.json", json.loads(json.dumps(exported.config)))
  again = getattr(transformers, exported.config["architectures"][0]).from_pretrained(tmp_path)
  assert type(again) is type(pair.model)
  kept, pixels = pair.model, pair.pixels()
  expected = pair.theirs(pixels)
  pair.model = again.eval()
  got = pair.theirs(pixels)
  pair.model = kept
  assert got.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(got[name], value)


def test_the_vision_tower_of_a_whole_clip_is_read_and_goes_out_alone(tmp_path):
  vision = twin.SMALL | dict(image_size=12)
  text = dict(
    hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9
  )
  config = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=5)
  model = twin.scatter(transformers.CLIPModel(config))
  model.save_pretrained(tmp_path / "both")
  config = files.read_json(tmp_path / "both" / "config.json")
  imported = from_hf(config, files.TensorFiles(tmp_path / "both"))
  pixels = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
  mean, std = (np.float32(x) for x in (imported.vit.pixel_mean, imported.vit.pixel_std))
  ours = VisionTransformer(imported.vit).apply(
    {"params": imported.params}, (pixels * std + mean) * 2 - 1
  )
  exported = to_hf(imported.vit, imported.params, base=config, prefix=imported.prefix)
  assert exported.config["model_type"] == "clip_vision_model"
  files.write_tensors(tmp_path, exported.tensors)
  files.write_json(tmp_path / "config.json", exported.config)
  alone = transformers.CLIPVisionModelWithProjection.from_pretrained(tmp_path)
  expected = twin.answer(alone.eval(), pixels)["image_embeds"]
  np.testing.assert_allclose(ours.head, expected, atol=3e-5)
  with torch.no_grad():
    whole = model.get_image_features(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
  whole = whole if isinstance(whole, torch.Tensor) else whole.pooler_output
  np.testing.assert_allclose(ours.head, whole.numpy(), atol=3e-5)
