"""The tokenizer's losses against their definitions, and what each gradient reaches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_jax.vision import losses
from ernie_jax.vision.discriminator import Discriminator, DiscriminatorConfig
from ernie_jax.vision.quantizer import QuantizerConfig, draw_scales, quantize

CFG = QuantizerConfig(sides=(1, 2, 4), bits=3)
M = jnp.array([0.9, 0.5, 0.4])


def latent(rows=4):
  return jax.random.normal(jax.random.key(0), (rows, 1, 4, 4, 3))


def test_the_last_scales_commitment_alone_reaches_the_encoder():
  last = lambda x: losses.commitment(quantize(x, M, CFG), CFG)[-1]
  assert np.all(np.abs(jax.grad(last)(latent())) > 0)


def test_commitment_leaves_magnitudes_and_codebook_leaves_the_encoder_alone():
  terms = lambda f: lambda x, m: f(quantize(x, m, CFG), CFG).sum()
  on_latent, on_magnitudes = jax.grad(terms(losses.commitment), (0, 1))(latent(), M)
  assert np.any(on_latent != 0) and not np.any(on_magnitudes)
  on_latent, on_magnitudes = jax.grad(terms(losses.codebook), (0, 1))(latent(), M)
  assert not np.any(on_latent) and np.all(on_magnitudes != 0)


def test_the_codebook_term_is_least_where_a_magnitude_is_the_mean_residual():
  x = latent()
  best = jnp.abs(quantize(x, M, CFG).residuals[..., :1, :]).mean()
  first = lambda m: losses.codebook(quantize(x, M.at[0].set(m), CFG), CFG)[0]
  assert abs(jax.grad(first)(best)) < 1e-5 < abs(jax.grad(first)(best + 0.1))


def test_a_dropped_scale_has_no_loss():
  keep = jnp.array([[True, False, True]] * 4)
  out = quantize(latent(), M, CFG, keep=keep)
  assert losses.commitment(out, CFG, keep=keep)[1] == 0
  assert np.all(losses.commitment(out, CFG, keep=keep)[jnp.array([0, 2])] > 0)
  some = draw_scales(jax.random.key(0), 4, CFG, drop=0.5).at[0].set(jnp.array([True] * 3))
  used = np.asarray(some[:, 1])
  alone = quantize(latent()[used], M, CFG, keep=some[used])
  whole = quantize(latent(), M, CFG, keep=some)
  np.testing.assert_allclose(
    losses.commitment(whole, CFG, keep=some)[1],
    losses.commitment(alone, CFG, keep=some[used])[1],
    rtol=1e-5,
  )


@pytest.mark.parametrize("shift, diversity", [(0.0, 1.0), (50.0, 0.0)])
def test_diversity_is_one_for_balanced_and_zero_for_constant_bits(shift, diversity):
  x = latent(2)
  x = jnp.concatenate([x, -x]) + shift
  found = losses.bit_entropy(quantize(x, M, CFG), CFG, sharpness=200.0)
  if shift:  # later scales see what the first left, which is the same for all bits
    assert found.diversity < 0.7
  else:
    np.testing.assert_allclose(found.diversity, diversity, atol=1e-3)
  assert found.doubt < 0.1


def test_doubt_is_one_for_residuals_of_zero_and_its_gradient_is_finite():
  entropy = lambda x: losses.bit_entropy(quantize(x, M, CFG), CFG)
  np.testing.assert_allclose(
    losses.bit_entropy(
      quantize(jnp.zeros((1, 1, 4, 4, 3)), M * 1e-6, CFG), CFG, sharpness=0.0
    ).doubt,
    1.0,
    atol=1e-4,
  )
  grads = jax.grad(lambda x: entropy(x).doubt - entropy(x).diversity)(jnp.zeros((1, 1, 4, 4, 3)))
  assert np.all(np.isfinite(grads))


def test_detail_weighs_pixels_by_the_contrast_around_them():
  wanted = jnp.zeros((1, 1, 8, 8, 3)).at[:, :, :, 4:].set(1.0)
  plain = losses.squared_error(wanted, wanted + 0.1, detail=0.0)
  np.testing.assert_allclose(plain, 0.01, rtol=1e-4)
  error = lambda column: losses.squared_error(
    wanted.at[..., column, :].add(0.1), wanted, detail=2.0
  )
  np.testing.assert_allclose(error(0), 0.01 / 8, rtol=1e-4)
  # Beside the edge a third of the 3 x 3 pixels are on the other side.
  np.testing.assert_allclose(error(4), 0.01 / 8 * (1 + 2 * np.sqrt(2 / 9)), rtol=1e-4)


def test_edges_forgive_a_shift_of_all_levels_only():
  x = jax.random.normal(jax.random.key(0), (1, 1, 4, 4, 3))
  np.testing.assert_allclose(losses.edge_loss(x + 0.3, x), 0, atol=1e-6)
  assert losses.edge_loss(x.at[0, 0, 1, 1].add(0.3), x) > 0.01


def test_perceptual_and_cosine_distances_are_zero_at_equality_and_ignore_length():
  maps = [jax.random.normal(jax.random.key(i), (2, 4, 4, 5)) for i in range(2)]
  double = [2 * m for m in maps]
  np.testing.assert_allclose(losses.perceptual_loss(maps, double), 0, atol=1e-6)
  np.testing.assert_allclose(losses.cosine_distance(maps[0], double[0]), 0, atol=1e-6)
  assert losses.perceptual_loss(maps, maps[::-1]) > 0.1
  np.testing.assert_allclose(losses.cosine_distance(maps[0], -maps[0]), 2, rtol=1e-5)
  grads = jax.grad(lambda m: losses.perceptual_loss([m], maps[:1]))(jnp.zeros_like(maps[0]))
  assert np.all(np.isfinite(grads))


def test_the_two_sides_of_the_game():
  real, fake = jnp.array([2.0, 0.5]), jnp.array([-2.0, 0.0])
  np.testing.assert_allclose(losses.discriminator_loss(real, fake), (0.25 + 0.5) / 2)
  np.testing.assert_allclose(losses.generator_loss(fake), 1.0)
  average = losses.LogitMeans(real=jnp.array(1.0), fake=jnp.array(-1.0))
  want = np.mean([9, 2.25]) + np.mean([9, 1])
  np.testing.assert_allclose(losses.lecam_loss(real, fake, average), want)


@pytest.mark.parametrize("time, sees", [(1, False), (2, True)])
def test_the_discriminator_sees_earlier_frames_if_it_is_told_to(time, sees):
  model = Discriminator(DiscriminatorConfig(widths=(4, 6), time=time))
  x = jax.random.normal(jax.random.key(0), (1, 2, 8, 8, 3))
  params = jax.jit(model.init)(jax.random.key(1), x)
  run = jax.jit(model.apply)
  logits, other = run(params, x), run(params, x.at[:, 0].add(1.0))
  assert logits.shape == (1, 2, 2, 2)
  assert bool(np.any(logits[:, 1] != other[:, 1])) == sees
