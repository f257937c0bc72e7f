"""Vision transformers against transformers' recorded answers, where transformers is not installed.

The golden files hold a ViT with its pooler and a CLIP vision tower with projection, two layers of width 24
each, with random weights that no norm or bias hides, and two pictures. Their pixels went through
transformers' image processors with the constants of each, written by `python tests/convert/vit_twin.py`
with transformers 5.23 and torch 2.13 on a CPU.
"""

import golden
import jax
import numpy as np
import pytest
from ours import compare_encoders

from ernie_jax.convert.vit import from_hf, to_hf
from ernie_jax.vision.tokenizer import to_float
from ernie_jax.vision.vit import VisionTransformer


@pytest.fixture(params=["vit", "clip_vision"])
def known(request):
  return golden.load_vit(request.param)


def test_from_pixels_on_outputs_are_those_of_transformers(known):
  imported = from_hf(known.config, known.tensors)
  apply = jax.jit(VisionTransformer(imported.vit).apply)
  with jax.default_matmul_precision("highest"):
    ours = apply({"params": imported.params}, to_float(known.pictures))
  assert {"last_hidden_state"} < set(known.answers)
  compare_encoders(ours, known.answers)


def test_published_pixels_are_the_constants_of_transformers(known):
  vit = from_hf(known.config, known.tensors).vit
  np.testing.assert_array_equal(vit.pixel_mean, known.mean)
  np.testing.assert_array_equal(vit.pixel_std, known.std)


def test_export_returns_the_same_tensors_bit_for_bit(known):
  imported = from_hf(known.config, known.tensors)
  exported = to_hf(imported.vit, imported.params, base=known.config, prefix=imported.prefix)
  assert exported.config == known.config
  assert sorted(exported.tensors) == sorted(known.tensors)
  for name, tensor in known.tensors.items():
    assert exported.tensors[name].tobytes() == tensor.tobytes(), name
