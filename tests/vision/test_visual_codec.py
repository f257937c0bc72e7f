"""The tokenizer: causal, the same in chunks, and on one frame the image tokenizer that it came from."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_jax.vision import tokenizer as t
from ernie_jax.vision.grow import inflate, widen
from ernie_jax.vision.quantizer import QuantizerConfig

IMAGE = t.TokenizerConfig(
  quantizer=QuantizerConfig(sides=(1, 2), bits=3), patch=2, widths=(6, 8), blocks=1
)
VIDEO = dataclasses.replace(IMAGE, temporal=4, temporal_kernel=3)


@functools.cache
def trained(config: t.TokenizerConfig):
  """Parameters none of which is zero or one, as after training."""
  params = t.initial_params(config, jax.random.key(0))
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  noisy = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)]
  return jax.tree.unflatten(tree, noisy)


def video(frames, seed=0, rows=2):
  return jax.random.normal(jax.random.key(seed), (rows, frames, 8, 8, 3))


@functools.cache
def jitted(config, method):
  return jax.jit(lambda p, x: t.VisualTokenizer(config).apply({"params": p}, x, method=method))


encode_chunk = jax.jit(t.encode_chunk, static_argnums=0)
decode_chunk = jax.jit(t.decode_chunk, static_argnums=0)


def encode(config, params, x):
  return jitted(config, "encode")(params, x)


def decode(config, params, x):
  return jitted(config, "decode")(params, x)


def test_an_inflated_tokenizer_does_to_images_what_the_image_tokenizer_does():
  params = trained(IMAGE)
  inflated = inflate(params, VIDEO)
  before = jitted(IMAGE, "__call__")(params, video(1))
  after = jitted(VIDEO, "__call__")(inflated, video(1))
  for name in ("features", "latent", "video"):
    np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
  np.testing.assert_array_equal(before.quantized.bits, after.quantized.bits)


def test_inflation_puts_the_kernel_in_the_last_slice():
  params, inflated = trained(IMAGE), inflate(trained(IMAGE), VIDEO)
  for old, new in (
    (params["encoder"]["stem"]["kernel"], inflated["encoder"]["stem"]["kernel"]),
    (
      params["decoder"]["level_0_block_0"]["conv_1"]["kernel"],
      inflated["decoder"]["level_0_block_0"]["conv_1"]["kernel"],
    ),
  ):
    assert new.shape[0] > 1
    np.testing.assert_array_equal(new[-1], old[0])
    assert not np.any(new[:-1])


def test_inflation_refuses_another_shape():
  with pytest.raises(ValueError, match="cannot be inflated"):
    inflate(trained(IMAGE), dataclasses.replace(VIDEO, widths=(6, 9)))


def with_bits(bits):
  code = dataclasses.replace(VIDEO.quantizer, bits=bits)
  return dataclasses.replace(VIDEO, quantizer=code)


def test_a_wider_tokenizers_first_bits_mean_what_they_meant():
  params, wide = trained(VIDEO), with_bits(7)
  grown = widen(params, wide)
  before, after = encode(VIDEO, params, video(5)), encode(wide, grown, video(5))
  share = after[..., :3] / before  # one number for each place: that of the norm
  np.testing.assert_allclose(share, np.broadcast_to(share[..., :1], share.shape), rtol=1e-4)
  assert (share > 0).all() and 0.5 < np.median(share) < 1.5
  new = np.asarray(after[..., 3:])
  assert (new.std(axis=(0, 1, 2, 3)) > 0.1).all()  # signs that can be learnt, each its own
  old = np.asarray(after[..., :3]).reshape(-1, 3)
  mixture, error, rank, _ = np.linalg.lstsq(old, new.reshape(-1, 4))
  assert rank == 3 and error.max() < 1e-6  # where old ones are balanced, so are they
  np.testing.assert_allclose(np.linalg.norm(mixture, axis=0), 1, rtol=1e-3)
  total = jax.random.normal(jax.random.key(2), (2, 2, 2, 2, 7))
  np.testing.assert_allclose(
    decode(wide, grown, total), decode(VIDEO, params, total[..., :3]), rtol=1e-5, atol=1e-5
  )


def test_a_narrower_tokenizer_is_refused():
  with pytest.raises(ValueError, match="not shrink: 3 to 2"):
    widen(trained(VIDEO), with_bits(2))


def test_the_first_frame_of_a_video_is_an_image():
  params, x = trained(VIDEO), video(9)
  latent = encode(VIDEO, params, x)
  assert latent.shape == (2, 3, 2, 2, 3)
  np.testing.assert_allclose(latent[:, :1], encode(VIDEO, params, x[:, :1]), atol=1e-5)
  whole = decode(VIDEO, params, latent)
  assert whole.shape == x.shape
  np.testing.assert_allclose(whole[:, :1], decode(VIDEO, params, latent[:, :1]), atol=1e-5)


@pytest.mark.parametrize("changed", range(9))
def test_a_latent_frame_depends_on_its_own_and_earlier_frames_only(changed):
  params, x = trained(VIDEO), video(9)
  other = x.at[:, changed].add(1.0)
  differs = np.any(encode(VIDEO, params, x) != encode(VIDEO, params, other), axis=(0, 2, 3, 4))
  first = -(-changed // 4)
  assert not differs[:first].any() and differs[first:].all()


@pytest.mark.parametrize("changed", range(3))
def test_a_decoded_frame_depends_on_its_own_and_earlier_latents_only(changed):
  params, z = trained(VIDEO), jax.random.normal(jax.random.key(2), (1, 3, 2, 2, 3))
  differs = np.any(
    decode(VIDEO, params, z) != decode(VIDEO, params, z.at[:, changed].add(1.0)), axis=(0, 2, 3, 4)
  )
  first = VIDEO.pixel_frames(changed) if changed else 0
  assert not differs[:first].any() and differs[first:].all()


@pytest.mark.parametrize("parts", [(1, 4, 4, 8), (5, 12), (9, 4, 4)])
def test_chunks_encode_to_the_whole(parts):
  model, params, x = t.VisualTokenizer(VIDEO), trained(VIDEO), video(17)
  stream, at, latents = None, 0, []
  for size in parts:
    chunk = encode_chunk(model, params, x[:, at : at + size], stream)
    latents.append(chunk.value)
    stream, at = chunk.stream, at + size
  np.testing.assert_allclose(jnp.concatenate(latents, 1), encode(VIDEO, params, x), atol=2e-5)


@pytest.mark.parametrize("parts", [(1, 1, 1, 2), (2, 3)])
def test_chunks_decode_to_the_whole(parts):
  model, params = t.VisualTokenizer(VIDEO), trained(VIDEO)
  z = jax.random.normal(jax.random.key(2), (2, 5, 2, 2, 3))
  stream, at, frames = None, 0, []
  for size in parts:
    chunk = decode_chunk(model, params, z[:, at : at + size], stream)
    frames.append(chunk.value)
    stream, at = chunk.stream, at + size
  np.testing.assert_allclose(jnp.concatenate(frames, 1), decode(VIDEO, params, z), atol=2e-5)


@pytest.mark.parametrize("side, reach", [(1, 0), (3, 2)])
def test_how_far_a_latent_looks_around_is_the_encoder_s_kernels(side, reach):
  """One stem, then one block of two convolutions: with kernels of side 3 more than two places away."""
  config = dataclasses.replace(IMAGE, widths=(6,), patch=1, encoder_side=side)
  config = dataclasses.replace(config, quantizer=QuantizerConfig(sides=(1, 8), bits=3))
  params, x = trained(config), video(1)
  moved = x.at[:, :, 4, 4].add(1.0)
  changed = np.any(encode(config, params, x) != encode(config, params, moved), axis=(0, 1, -1))
  rows, columns = np.nonzero(changed)
  far = max(np.abs(rows - 4).max(), np.abs(columns - 4).max())
  assert changed[4, 4] and (far == 0 if reach == 0 else far > reach)


def test_bits_of_one_patch_and_latent_frame_move_with_what_is_seen():
  """An encoder that sees neither neighbours nor the past: shifted by a patch, later by a latent frame, all else alike."""
  config = dataclasses.replace(VIDEO, encoder_side=1, encoder_time=1)
  params, x = trained(config), np.asarray(video(9)).copy()
  shift = config.spatial
  x[:, 5:, :, shift:] = x[:, 1:5, :, :-shift]
  latent = encode(config, params, jnp.asarray(x))
  np.testing.assert_allclose(latent[:, 2, :, 1:], latent[:, 1, :, :-1], atol=1e-5)
  chunk = encode_chunk(t.VisualTokenizer(config), params, jnp.asarray(x[:, :5]))
  rest = encode_chunk(t.VisualTokenizer(config), params, jnp.asarray(x[:, 5:]), chunk.stream)
  np.testing.assert_allclose(rest.value, latent[:, 2:], atol=1e-5)
  past = x.copy()
  past[:, 1:5] += 1.0
  np.testing.assert_array_equal(encode(config, params, jnp.asarray(past))[:, 2], latent[:, 2])


def test_frames_and_sides_that_do_not_fit_are_refused():
  params, model = trained(VIDEO), t.VisualTokenizer(VIDEO)
  with pytest.raises(ValueError, match="1 \\+ 4m, got 4"):
    model.apply({"params": params}, video(4), method="encode")
  with pytest.raises(ValueError, match="\\[B, T, 8, 8, 3\\]"):
    model.apply({"params": params}, video(1)[:, :, :4], method="encode")
  chunk = t.encode_chunk(model, params, video(1))
  with pytest.raises(ValueError, match="multiple of 4"):
    t.encode_chunk(model, params, video(3), chunk.stream)


@pytest.mark.parametrize("widths, spatial", [((64,), 4), ((64, 96), 8), ((64, 96, 128), 16)])
def test_sizes_by_shape(widths, spatial):
  config = t.TokenizerConfig(widths=widths, temporal=4)
  assert config.spatial == spatial and config.side == 8 * spatial
  shape = jax.ShapeDtypeStruct((1, 9, config.side, config.side, 3), jnp.float32)
  params = jax.eval_shape(lambda: t.initial_params(config, jax.random.key(0)))
  out = jax.eval_shape(
    lambda p, x: t.VisualTokenizer(config).apply({"params": p}, x), params, shape
  )
  assert out.video.shape == shape.shape
  assert out.latent.shape == (1, 3, 8, 8, 12)
  assert out.features.shape == (1, 3, 8, 8, widths[-1])


def test_the_gradient_reaches_every_parameter():
  params, x = trained(VIDEO), video(9)
  model = t.VisualTokenizer(VIDEO)
  grads = jax.jit(jax.grad(lambda p: jnp.square(model.apply({"params": p}, x).video - x).sum()))(
    params
  )
  for path, g in jax.tree_util.tree_leaves_with_path(grads):
    assert np.any(g != 0), jax.tree_util.keystr(path)


def test_pixels_survive_the_way_to_floats_and_back():
  levels = np.arange(256, dtype=np.uint8)
  np.testing.assert_array_equal(t.to_pixels(t.to_float(levels)), levels)
  x = np.arange(2 * 4 * 4 * 3).reshape(2, 4, 4, 3)
  np.testing.assert_array_equal(t.depth_to_space(t.space_to_depth(x, 2), 2), x)
