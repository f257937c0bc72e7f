"""The understanding path: which patches make which token, and what a token depends on."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_jax.backbone.vision_io import entries, gather_entries
from ernie_jax.sequence import ContextMedia, Text, lay_out, pack
from ernie_jax.sequence.row import Kind
from ernie_jax.sharding.rules import spec
from ernie_jax.vision.understand import (
  Merger,
  UnderstandConfig,
  Understanding,
  comparable,
  parameter_count,
)
from ernie_jax.vision.vit import VisionTransformer, VitConfig

WIDTH, CHANNELS, SIDE = 20, 5, 16
VIT = VitConfig(patch=4, grid=(4, 4), depth=1, width=16, heads=2, mlp_width=24)
VARIANTS = ["merger", "mlp", "cnn", "vit"]
EXACT = dict(atol=1e-6, rtol=1e-5)


def config(variant="merger") -> UnderstandConfig:
  return UnderstandConfig(VIT, variant=variant, hidden=6, heads=2)


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def inputs(frames, seed=0):
  """Pixels and features of one slot of one row."""
  latent = 1 + (frames - 1) // 4
  return (
    normal(1, 1, frames, SIDE, SIDE, 3, seed=seed),
    normal(1, 1, latent, 4, 4, CHANNELS, seed=seed + 1),
  )


@functools.cache
def encoder(variant):
  """(variables with every parameter away from its initial value, the jitted forward pass)."""
  module = Understanding(config(variant), WIDTH)
  variables = nn.unbox(jax.jit(module.init)(jax.random.key(0), *inputs(1)))
  leaves, tree = jax.tree.flatten(variables)
  moved = [leaf + 0.3 * normal(*leaf.shape, seed=i) for i, leaf in enumerate(leaves)]
  return jax.tree.unflatten(tree, moved), jax.jit(module.apply)


def tokens(variant, pixels, features):
  """[T, gh, gw, W] of the one slot."""
  variables, forward = encoder(variant)
  out = np.asarray(forward(variables, pixels, features))
  return out.reshape(-1, 2, 2, WIDTH)


@functools.partial(jax.jit, static_argnums=0)
def merged(variant, *paths):
  """The merger alone."""
  params = encoder(variant)[0]["params"]["merger"]
  return Merger(config(variant), WIDTH).apply({"params": params}, *paths)


def changed(before, after):
  """The (t, i, j) of tokens that differ."""
  return {tuple(map(int, at)) for at in np.argwhere(np.abs(after - before).max(-1) > 1e-5)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_image_is_the_first_frame_of_any_video(variant):
  pixels, features = inputs(9)
  video = tokens(variant, pixels, features)
  image = tokens(variant, pixels[:, :, :1], features[:, :, :1])
  assert video.shape == (3, 2, 2, WIDTH) and image.shape == (1, 2, 2, WIDTH)
  np.testing.assert_allclose(video[:1], image, **EXACT)


@pytest.mark.parametrize("frame", range(9))
def test_a_frame_of_pixels_changes_the_tokens_of_its_own_group_of_frames_and_no_others(frame):
  pixels, features = inputs(9)
  other = pixels.copy()
  other[:, :, frame] += normal(SIDE, SIDE, 3, seed=7)
  group = (frame + 3) // 4
  everywhere = {(group, i, j) for i in range(2) for j in range(2)}
  got = changed(tokens("merger", pixels, features), tokens("merger", other, features))
  assert got == everywhere


@given(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3), st.sampled_from(["merger", "cnn"]))
@settings(max_examples=30, deadline=None)
def test_a_feature_changes_the_one_token_it_belongs_to(t, i, j, variant):
  pixels, features = inputs(9)
  other = features.copy()
  other[0, 0, t, i, j] += normal(CHANNELS, seed=7)
  got = changed(tokens(variant, pixels, features), tokens(variant, pixels, other))
  assert got == {(t, i // 2, j // 2)}


def test_a_token_is_the_merger_of_its_own_patches_and_of_their_features_repeated_in_time():
  """One group at a time: cut out of the encoders' outputs with plain slices."""
  pixels, features = inputs(9)
  params = encoder("merger")[0]["params"]
  vit = VisionTransformer(VIT).apply({"params": params["vit"]}, pixels).patches[0, 0]
  cnn = features @ params["cnn_project"]["kernel"] + params["cnn_project"]["bias"]

  def norm(x, p):
    x = np.asarray(x)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * p["scale"] + p["bias"]

  vit, cnn = norm(vit, params["vit_norm"]), norm(cnn, params["cnn_norm"])[0, 0]
  merge = lambda *paths: Merger(config(), WIDTH).apply({"params": params["merger"]}, *paths)
  whole = tokens("merger", pixels, features)
  for t, frames in enumerate([slice(0, 1), slice(1, 5), slice(5, 9)]):
    for i in range(2):
      for j in range(2):
        rows, columns = slice(2 * i, 2 * i + 2), slice(2 * j, 2 * j + 2)
        patches = vit[frames, rows, columns].reshape(1, 1, 1, -1, VIT.width)
        below = np.repeat(cnn[t : t + 1, rows, columns], len(vit[frames]), axis=0)
        alone = merge(below.reshape(patches.shape), patches)
        assert patches.shape[3] == (4 if t == 0 else 16)
        np.testing.assert_allclose(alone.reshape(-1), whole[t, i, j], atol=1e-5)


@given(st.permutations(range(4)), st.sampled_from(VARIANTS))
@settings(max_examples=40, deadline=None)
def test_a_token_says_where_in_its_group_a_patch_lies(order, variant):
  paths = [
    normal(2, 1, 3, 4, VIT.width, seed=s) for s in range(1 if variant in ("cnn", "vit") else 2)
  ]
  moved = [path[..., list(order), :] for path in paths]
  change = np.abs(merged(variant, *moved) - merged(variant, *paths)).max()
  if list(order) == sorted(order):
    assert change == 0
  else:
    assert change > 1e-4


def test_which_patches_share_a_group_does_matter():
  pixels, features = inputs(1)
  moved = features[..., ::-1, :, :]
  assert changed(tokens("cnn", pixels, features), tokens("cnn", pixels, moved))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_of_a_variant_gets_a_gradient(variant):
  variables, forward = encoder(variant)
  loss = lambda v: jnp.sum(jnp.square(forward(v, *inputs(5))))
  for path, leaf in jax.tree_util.tree_leaves_with_path(jax.grad(loss)(variables)):
    if "key" in jax.tree_util.keystr(path) and "bias" in jax.tree_util.keystr(path):
      continue  # the same for all keys, so softmax cancels it
    assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize("variant", ["mlp", "cnn", "vit"])
def test_a_comparable_variant_has_within_one_percent_the_parameters(variant):
  base = UnderstandConfig(dataclasses.replace(VIT, width=32, depth=2), heads=2)
  sizes = dict(channels=12, width=48)
  other = comparable(base, variant, **sizes)
  assert other.variant == variant and other.vit == base.vit
  wanted = parameter_count(base, **sizes)
  assert abs(parameter_count(other, **sizes) - wanted) < 0.01 * wanted


def test_context_positions_of_a_packed_row_read_their_own_slot_and_element():
  shape = config().merged(9, SIDE, SIDE)
  image = config().merged(1, SIDE, SIDE)
  parts = lambda slot, s: [Text((70,)), ContextMedia(slot, s.frames, s.grid), Text((71, 72))]
  rows = [lay_out(parts(1, shape)), lay_out(parts(0, image))]
  row = jax.tree.map(lambda a: a[None], pack(rows, 32))
  store = normal(1, 2, shape.length, WIDTH)
  entry = entries(row, jnp.array([0, shape.length]))
  got = np.asarray(gather_entries(jnp.asarray(store).reshape(1, -1, WIDTH), entry))
  for at in np.flatnonzero(row.kind[0] == Kind.VISION_CONTEXT):
    expected = store[0, row.media_slot[0, at], row.media_element[0, at]]
    np.testing.assert_array_equal(got[0, at], expected)
  assert (row.kind == Kind.VISION_CONTEXT).sum() == shape.length + image.length
  assert (shape.length, image.length) == (12, 4)


def test_every_parameter_of_a_large_encoder_has_axes_that_the_rules_know():
  vit = VitConfig(patch=14, grid=(16, 16), depth=24, width=1024, heads=16, mlp_width=4096)
  module = Understanding(UnderstandConfig(vit, heads=16), 2560)
  pixels = jax.ShapeDtypeStruct((2, 3, 17, 448, 448, 3), jnp.float32)
  features = jax.ShapeDtypeStruct((2, 3, 5, 32, 32, 48), jnp.float32)
  boxed = jax.eval_shape(module.init, jax.random.key(0), pixels, features)
  is_box = lambda leaf: isinstance(leaf, nn.Partitioned)
  for leaf in jax.tree.leaves(boxed, is_leaf=is_box):
    assert is_box(leaf) and len(leaf.names) == len(leaf.value.shape)
    spec(leaf.names)
  out = jax.eval_shape(module.apply, nn.unbox(boxed), pixels, features)
  assert out.shape == (2, 3, 5 * 16 * 16, 2560)


@pytest.mark.parametrize(
  ("frames", "height", "width", "named"),
  [(4, 16, 16, "frames"), (0, 16, 16, "frames"), (1, 18, 16, "18 x 16"), (1, 12, 16, "groups")],
)
def test_a_size_that_does_not_divide_is_refused(frames, height, width, named):
  with pytest.raises(ValueError, match=named):
    config().merged(frames, height, width)


def test_features_of_another_grid_are_refused():
  with pytest.raises(ValueError, match="features must be"):
    encoder("merger")[1](encoder("merger")[0], inputs(5)[0], inputs(9)[1])


@pytest.mark.parametrize(
  ("change", "named"),
  [({"variant": "mlp"}, "hidden"), ({"heads": 3}, "heads"), ({"group_side": 0}, "group_side")],
)
def test_a_config_that_makes_no_sense_is_refused(change, named):
  with pytest.raises(ValueError, match=named):
    UnderstandConfig(VIT, **({"heads": 2} | change))
