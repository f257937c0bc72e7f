"""The vision transformer: sizes, positions, pooling; parity with transformers is in tests/convert."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_jax.sharding.rules import spec
from ernie_jax.vision.positions import cubic_matrix, resize, sincos
from ernie_jax.vision.vit import Block, VisionTransformer, VitConfig

SMALL = VitConfig(patch=4, grid=(3, 3), depth=3, width=16, heads=2, mlp_width=20)
CLASS = dict(class_token=True, pool="class", head=5)


def pictures(*shape, seed=0):
  return np.random.default_rng(seed).uniform(-1, 1, (*shape, 3)).astype(np.float32)


def initialised(vit, pixels):
  return nn.unbox(jax.jit(VisionTransformer(vit).init)(jax.random.key(0), pixels))


@pytest.mark.parametrize("kind", [{}, CLASS, {"pool": "mean", "positions": "sincos"}])
def test_every_picture_is_encoded_alone_whatever_axes_lead_and_at_other_sizes(kind):
  vit = dataclasses.replace(SMALL, **kind)
  pixels = pictures(2, 3, 8, 20)
  params = initialised(vit, pixels)
  forward = jax.jit(VisionTransformer(vit).apply)
  out, one = forward(params, pixels), forward(params, pixels[1, 2])
  assert out.patches.shape == (2, 3, 2, 5, 16)
  assert out.tokens.shape == (2, 3, 10 + int(vit.class_token), 16)
  for whole, alone in zip(jax.tree.leaves(out), jax.tree.leaves(one)):
    np.testing.assert_allclose(whole[1, 2], alone, atol=1e-5)
  assert (out.pooled is None) == (vit.pool == "none") and (out.head is None) == (vit.head == 0)


def test_patches_are_the_tokens_after_the_class_token_row_by_row():
  vit = dataclasses.replace(SMALL, **CLASS)
  pixels = pictures(12, 12)
  out = VisionTransformer(vit).apply(initialised(vit, pixels), pixels)
  np.testing.assert_array_equal(out.patches[1, 2], out.tokens[1 + 1 * 3 + 2])
  np.testing.assert_array_equal(out.pooled, out.tokens[0])


def test_scanned_blocks_are_the_blocks_one_after_the_other():
  pixels = pictures(12, 12)
  variables = initialised(SMALL, pixels)
  params = variables["params"]
  cut = [pixels[4 * i : 4 * i + 4, 4 * j : 4 * j + 4] for i in range(3) for j in range(3)]
  x = np.einsum("lpqc,pqcd->ld", np.stack(cut), params["patch_embed"]["kernel"])
  x = (x + params["positions"])[None]
  for layer in range(SMALL.depth):
    one = jax.tree.map(lambda a, n=layer: a[n], params["blocks"])
    x = Block(SMALL).apply({"params": one}, x)
  x = np.asarray(x[0])
  expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + SMALL.norm_eps)
  got = VisionTransformer(SMALL).apply(variables, pixels).tokens
  np.testing.assert_allclose(got, expected, atol=1e-5)


def test_recomputing_in_the_backward_pass_changes_no_gradient():
  pixels = pictures(12, 12)
  variables = initialised(SMALL, pixels)

  def gradient(remat):
    model = VisionTransformer(dataclasses.replace(SMALL, remat=remat))
    return jax.jit(jax.grad(lambda v: jnp.sum(model.apply(v, pixels).tokens ** 3)))(variables)

  for a, b in zip(jax.tree.leaves(gradient("none")), jax.tree.leaves(gradient("full"))):
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_pixels_are_normalised_as_the_weights_expect():
  pixels = pictures(12, 12)
  variables = initialised(SMALL, pixels)
  mean, std = (0.1, 0.4, 0.8), (0.2, 0.5, 1.5)
  other = VisionTransformer(dataclasses.replace(SMALL, pixel_mean=mean, pixel_std=std))
  already = ((pixels + 1) / 2 - np.float32(mean)) / np.float32(std)
  expected = VisionTransformer(SMALL).apply(variables, already).tokens
  np.testing.assert_allclose(other.apply(variables, pixels).tokens, expected, atol=1e-5)


@given(st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_the_bicubic_matrix_is_torch_s_and_keeps_a_constant(old, new):
  torch = pytest.importorskip("torch")
  matrix = cubic_matrix(old, new)
  np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
  eye = torch.eye(old)[None, :, :, None]  # one channel for each sample
  expected = torch.nn.functional.interpolate(eye, size=(new, 1), mode="bicubic")
  np.testing.assert_allclose(matrix, expected[0, :, :, 0].numpy().T, atol=1e-5)


def test_positions_of_the_trained_grid_are_not_touched():
  table = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)
  assert resize(table, (2, 3), (2, 3)) is table
  np.testing.assert_array_equal(cubic_matrix(5, 5), np.eye(5))


@given(st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_sincos_positions_are_functions_of_row_and_column(h, w):
  table = sincos((h, w), (h, w), 16).reshape(h, w, 16)
  columns, rows = np.split(table, 2, axis=-1)
  np.testing.assert_array_equal(columns, np.broadcast_to(columns[:1], columns.shape))
  np.testing.assert_array_equal(rows, np.broadcast_to(rows[:, :1], rows.shape))
  np.testing.assert_allclose(rows[:, 0, 0], np.sin(np.arange(h)), atol=1e-6)
  assert len(np.unique(table.reshape(-1, 16).round(5), axis=0)) == h * w


def test_sincos_positions_of_a_finer_grid_lie_between_those_of_the_trained_one():
  fine = sincos((1, 2), (1, 4), 8)
  np.testing.assert_allclose(fine[:, 0], np.sin([-0.25, 0.25, 0.75, 1.25]), atol=1e-6)


@pytest.mark.parametrize(
  ("sizes", "parameters"),
  [
    (dict(depth=12, width=768, heads=12, mlp_width=3072), 86_567_656),  # ViT-B/16, as published
    (dict(depth=24, width=1024, heads=16, mlp_width=4096), 304_326_632),  # ViT-L/16
  ],
)
def test_published_sizes_have_the_published_parameters_and_known_axes(sizes, parameters):
  vit = VitConfig(patch=16, grid=(14, 14), class_token=True, pool="class", head=1000, **sizes)
  model, pixels = VisionTransformer(vit), jax.ShapeDtypeStruct((8, 224, 224, 3), jnp.float32)
  boxed = jax.eval_shape(model.init, jax.random.key(0), pixels)
  leaves = jax.tree.leaves(boxed, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))
  assert sum(math.prod(leaf.value.shape) for leaf in leaves) == parameters
  for leaf in leaves:
    assert len(leaf.names) == len(leaf.value.shape)
    spec(leaf.names)
  assert jax.eval_shape(model.apply, nn.unbox(boxed), pixels).head.shape == (8, 1000)


def test_a_picture_that_does_not_divide_into_patches_is_refused():
  with pytest.raises(ValueError, match="10 x 12"):
    VisionTransformer(SMALL).init(jax.random.key(0), pictures(10, 12))


@pytest.mark.parametrize(
  ("change", "named"),
  [
    ({"heads": 3}, "heads"),
    ({"depth": 0}, "depth"),
    ({"grid": (3,)}, "grid"),
    ({"pool": "tanh"}, "class_token"),
    ({"head": 2}, "pool"),
    ({"norm_last": "pooled"}, "norm_last"),
    ({"pixel_std": (1.0, 0.0, 1.0)}, "pixel_std"),
    ({"activation": "relu"}, "activation"),
  ],
)
def test_a_config_that_makes_no_sense_is_refused(change, named):
  with pytest.raises(ValueError, match=named):
    dataclasses.replace(SMALL, **change)
