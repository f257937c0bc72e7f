"""from-hf and to-hf of vision transformers: whole round trips, and one line for every mistake."""

import dataclasses

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_jax.convert import files, vit_config
from ernie_jax.convert.__main__ import export_checkpoint, import_checkpoint
from ernie_jax.convert.tensors import Precision
from ernie_jax.convert.vit import from_hf, to_hf
from ernie_jax.convert.vit_names import slots, tree_shapes, usual_prefix
from ernie_jax.errors import UserError
from ernie_jax.train.encoder_io import load_encoder
from ernie_jax.train.model_io import load_model
from ernie_jax.vision.vit import VitConfig

VIT = VitConfig(depth=2, width=8, heads=2, mlp_width=12, grid=(2, 3), class_token=True, pool="tanh")
CLIP = dataclasses.replace(
  VIT, grid=(2, 2), patch_bias=False, norm_first=True, norm_last="pooled", pool="class", head=6,
  head_bias=False, activation="quick_gelu",
)  # fmt: skip
KINDS = {"vit": VIT, "clip": CLIP}


def random_params(vit):
  rng = np.random.default_rng(0)
  draw = lambda leaf: rng.normal(size=leaf.shape).astype(ml_dtypes.bfloat16).astype(np.float32)
  return jax.tree.map(draw, tree_shapes(vit))


def write(directory, vit, *, dtype="float32", extra=None, prefix=None, **config):
  """A checkpoint with keys and files of its own."""
  directory.mkdir()
  exported = to_hf(vit, random_params(vit), precision=Precision(dtype), prefix=prefix)
  files.write_tensors(directory, dict(exported.tensors) | (extra or {}))
  files.write_json(directory / "config.json", exported.config | {"note": "kept"} | config)
  return directory


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_comes_back_with_every_bit_type_and_small_file(kind, dtype, tmp_path):
  directory = write(tmp_path / "hf", KINDS[kind], dtype=dtype, prefix="vision_model.")
  pixels = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1.0, 2.0, 3.0], "crop": 7}
  files.write_json(directory / "preprocessor_config.json", pixels)
  import_checkpoint(directory, tmp_path / "work")
  export_checkpoint(tmp_path / "work", tmp_path / "again", shard_bytes=2000)
  before, after = files.TensorFiles(directory), files.TensorFiles(tmp_path / "again")
  assert len(after.files) > 1 and set(after) == set(before)
  for name, tensor in before.items():
    assert after[name].dtype == tensor.dtype
    assert after[name].tobytes() == tensor.tobytes(), name
  for file in ("config.json", "preprocessor_config.json"):
    assert files.read_json(tmp_path / "again" / file) == files.read_json(directory / file)
  saved = load_encoder(tmp_path / "work", "vit").config
  assert (saved.pixel_mean, saved.pixel_std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


def test_dtype_casts_every_tensor(tmp_path):
  import_checkpoint(write(tmp_path / "hf", VIT), tmp_path / "work")
  export_checkpoint(tmp_path / "work", tmp_path / "half", dtype="bfloat16")
  half = files.TensorFiles(tmp_path / "half")
  assert {half[name].dtype for name in half} == {np.dtype(ml_dtypes.bfloat16)}


@st.composite
def encoders(draw) -> VitConfig:
  base = KINDS[draw(st.sampled_from(list(KINDS)))]
  changes = dict(depth=draw(st.integers(1, 3)), heads=draw(st.sampled_from([1, 4])), norm_eps=1e-7)
  if base is VIT:
    changes |= draw(st.sampled_from([{}, {"pool": "class"}, {"pool": "class", "head": 4}]))
    changes |= dict(qkv_bias=draw(st.booleans()))
  else:
    changes |= dict(head=draw(st.sampled_from([0, 3])))
  return dataclasses.replace(base, **changes)


@given(encoders())
@settings(max_examples=15, deadline=None)
def test_every_element_of_the_tree_has_exactly_one_tensor(vit):
  count = jax.tree.map(lambda leaf: np.zeros(leaf.shape, int), tree_shapes(vit))
  names = [slot.name for slot in slots(vit, usual_prefix(vit))]
  for slot in slots(vit, usual_prefix(vit)):
    leaf = count
    for key in slot.path:
      leaf = leaf[key]
    leaf[slot.index] += 1
  assert len(set(names)) == len(names)
  assert all((leaf == 1).all() for leaf in jax.tree.leaves(count))


@given(encoders())
@settings(max_examples=15, deadline=None)
def test_an_encoder_survives_the_way_out_and_back(vit):
  params = random_params(vit)
  exported = to_hf(vit, params)
  again = from_hf(exported.config, exported.tensors, pixels=vit_config.preprocessor(vit))
  assert again.vit == vit
  jax.tree.map(np.testing.assert_array_equal, again.params, params)


def test_what_is_not_the_vision_tower_is_passed_over(tmp_path):
  extra = {
    "text_model.embeddings.token_embedding.weight": np.zeros((2, 2), np.float32),
    "vision_model.embeddings.position_ids": np.arange(5)[None],
    "logit_scale": np.zeros((), np.float32),
  }
  import_checkpoint(write(tmp_path / "hf", CLIP, extra=extra), tmp_path / "work")
  assert load_encoder(tmp_path / "work", "vit").config.head == 6


def test_published_defaults_stand_for_absent_keys():
  vit = vit_config.to_vit({"model_type": "vit"}, [])
  assert (vit.width, vit.depth, vit.patch, vit.grid) == (768, 12, 16, (14, 14))
  assert (vit.norm_eps, vit.activation, vit.pixel_mean) == (1e-12, "gelu", (0.5, 0.5, 0.5))
  both = {"model_type": "clip", "projection_dim": 640, "vision_config": {"patch_size": 14}}
  clip = vit_config.to_vit(both, ["visual_projection.weight"])
  assert (clip.head, clip.patch, clip.norm_eps, clip.activation) == (640, 14, 1e-5, "quick_gelu")
  assert clip.pixel_mean[0] == 0.48145466


@pytest.mark.parametrize(
  ("config", "named"),
  [
    ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
    ({"num_channels": 1}, "num_channels is 1"),
    ({"image_size": 9}, "image_size 9"),
    ({"patch_size": [4, 4]}, "patch_size must be"),
    ({"num_attention_heads": 3}, "heads"),
    ({"pooler_act": "relu"}, "pooler_act is 'relu'"),
    ({"num_hidden_layers": 3}, r"no tensor encoder\.layer\.2"),
    ({"num_hidden_layers": 1}, r"unexpected tensor encoder\.layer\.1"),
    ({"intermediate_size": 13}, r"encoder\.layer\.0\.intermediate\.dense\.weight has shape"),
    ({"model_type": "siglip"}, "siglip"),
    ({"hidden_act": ["gelu"]}, r"hidden_act is \['gelu'\]"),
    ({"layer_norm_eps": "x"}, "layer_norm_eps must be a number, got 'x'"),
    ({"layer_norm_eps": float("inf")}, "layer_norm_eps must be a number"),
    ({"model_type": "clip", "vision_config": [1]}, r"vision_config must be an object"),
  ],
)
def test_a_bad_checkpoint_is_one_line_naming_what_is_wrong_and_leaves_nothing(
  config, named, tmp_path
):
  directory = write(tmp_path / "hf", VIT, **config)
  with pytest.raises(UserError, match=named) as error:
    import_checkpoint(directory, tmp_path / "work")
  assert "\n" not in str(error.value)
  assert [p.name for p in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize(
  ("pixels", "named"),
  [
    ({"image_mean": 0.5}, "image_mean must be a list of three numbers, got 0.5"),
    ({"image_mean": []}, "image_mean must be a list of three numbers"),
    ({"image_std": [1, 1, "x"]}, "image_std must be a number, got 'x'"),
  ],
)
def test_pixels_that_are_no_numbers_are_told_with_their_file(pixels, named, tmp_path):
  directory = write(tmp_path / "hf", VIT)
  files.write_json(directory / "preprocessor_config.json", pixels)
  with pytest.raises(UserError, match=rf"preprocessor_config\.json: {named}"):
    import_checkpoint(directory, tmp_path / "work")


@pytest.mark.parametrize("key", ["layer_norm_eps", "num_labels", "id2label"])
def test_null_is_as_good_as_absent(key):
  config = {"model_type": "vit", "hidden_size": 24}
  with_null = vit_config.to_vit(config | {key: None}, ["classifier.weight"])
  assert with_null == vit_config.to_vit(config, ["classifier.weight"])


def test_labels_that_are_no_table_are_told():
  with pytest.raises(UserError, match="id2label must be an object with keys, got 3"):
    vit_config.to_vit({"model_type": "vit", "id2label": 3}, ["classifier.weight"])


@pytest.mark.parametrize(
  ("change", "key"),
  [
    ({"positions": "sincos"}, "positions"),
    ({"class_token": False, "pool": "none"}, "class_token"),
    ({"patch_bias": False}, "patch_bias"),
    ({"head": 3}, "pool"),
    ({"pool": "mean"}, "pool"),
    ({"norm_first": True}, "patch_bias"),
  ],
)
def test_an_encoder_that_hugging_face_lacks_is_refused_by_the_name_of_its_key(change, key):
  vit = dataclasses.replace(VIT, **change)
  with pytest.raises(UserError, match=f"vit.{key}"):
    to_hf(vit, {})


def test_a_vision_transformer_is_not_taken_for_a_language_model(tmp_path):
  import_checkpoint(write(tmp_path / "hf", VIT), tmp_path / "work")
  with pytest.raises(UserError, match="not the config of a model"):
    load_model(tmp_path / "work")
  with pytest.raises(UserError, match="holds no vision transformer"):
    load_encoder(tmp_path / "hf", "vit")
  with pytest.raises(UserError, match="no checkpoint of step 7"):
    load_encoder(tmp_path / "work", "vit", step=7)
