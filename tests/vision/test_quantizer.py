"""The quantizer's identities: what bits say, what gradients reach, what corruption keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_jax.sequence.layout import lay_out
from ernie_jax.sequence.parts import VisionTarget
from ernie_jax.vision import quantizer as q
from ernie_jax.vision.resize import area_matrix, linear_matrix, resize

CFG = q.QuantizerConfig(sides=(1, 2, 4), bits=3)
UNEVEN = q.QuantizerConfig(sides=(1, 3, 4, 7), bits=2)
MAGNITUDES = {3: jnp.array([0.9, 0.5, 0.4]), 4: jnp.array([0.9, 0.5, 0.4, 0.3])}


def latents(cfg, seed=0, rows=2, frames=2):
  return jax.random.normal(jax.random.key(seed), (rows, frames, cfg.side, cfg.side, cfg.bits))


def magnitudes(cfg):
  return MAGNITUDES[len(cfg.sides)]


@pytest.mark.parametrize("cfg", [CFG, UNEVEN])
@pytest.mark.parametrize("jitted", [False, True])
def test_bits_alone_rebuild_the_encoder_side_sum_exactly(cfg, jitted):
  wrap = jax.jit if jitted else lambda f: f
  whole = wrap(lambda x, m: q.quantize(x, m, cfg))(latents(cfg), magnitudes(cfg))
  rebuilt = wrap(lambda b, m: q.total_from_bits(b, m, cfg))(whole.bits, magnitudes(cfg))
  np.testing.assert_array_equal(whole.total, rebuilt)


@pytest.mark.parametrize("cfg", [CFG, UNEVEN])
def test_gradient_of_the_sum_is_the_identity_to_the_latent(cfg):
  x, cotangent = latents(cfg), latents(cfg, seed=1)
  _, back = jax.vjp(lambda x: q.quantize(x, magnitudes(cfg), cfg).total, x)
  np.testing.assert_array_equal(back(cotangent)[0], cotangent)


def test_gradient_of_the_sum_to_the_magnitudes_is_that_of_the_codes():
  x, m = latents(CFG), magnitudes(CFG)
  found = jax.grad(lambda m: (q.quantize(x, m, CFG).total * latents(CFG, 1)).sum())(m)
  bits = q.quantize(x, m, CFG).bits
  want = jax.grad(lambda m: (q.total_from_bits(bits, m, CFG) * latents(CFG, 1)).sum())(m)
  np.testing.assert_allclose(found, want, rtol=1e-5)


@pytest.mark.parametrize("scale", range(3))
def test_commitment_of_any_one_scale_reaches_the_encoder(scale):
  def commitment(x):
    out = q.quantize(x, magnitudes(CFG), CFG)
    far = out.residuals - jax.lax.stop_gradient(out.codes)
    return jnp.square(far[..., CFG.part(scale), :]).sum()

  # Of a cell's gradient, what shrinking by area passes on, and nothing by way of earlier sums.
  x = latents(CFG)
  out = q.quantize(x, magnitudes(CFG), CFG)
  grid = (2 * (out.residuals - out.codes))[..., CFG.part(scale), :]
  side = CFG.sides[scale]
  shrink = area_matrix(CFG.side, side)
  grid = grid.reshape(2, 2, side, side, 3)
  want = np.einsum("Hh,Ww,btHWd->bthwd", shrink, shrink, grid)
  np.testing.assert_allclose(jax.grad(commitment)(x), want, atol=1e-5)
  assert np.abs(want).min() > 0


def plain_loop(x, m, cfg):
  """The loop of the module docstring, one frame and one cell at a time."""
  bits, total = np.zeros((*x.shape[:2], cfg.elements, cfg.bits), bool), np.zeros(x.shape)
  for b, t, d in np.ndindex(*x.shape[:2], cfg.bits):
    for k, side in enumerate(cfg.sides):
      down, up = area_matrix(cfg.side, side), linear_matrix(side, cfg.side)
      residual = down @ (x[b, t, :, :, d] - total[b, t, :, :, d]) @ down.T
      bits[b, t, cfg.part(k), d] = (residual > 0).reshape(-1)
      total[b, t, :, :, d] += up @ np.where(residual > 0, m[k], -m[k]) @ up.T
  return bits, total


@pytest.mark.parametrize("cfg", [CFG, UNEVEN])
def test_quantize_equals_a_plain_loop(cfg):
  x = latents(cfg)
  bits, total = plain_loop(np.asarray(x, np.float64), np.asarray(magnitudes(cfg)), cfg)
  found = q.quantize(x, magnitudes(cfg), cfg)
  np.testing.assert_array_equal(found.bits, bits)
  np.testing.assert_allclose(found.total, total, atol=1e-5)


def test_frames_are_quantised_one_by_one():
  x = latents(CFG, frames=3)
  whole = q.quantize(x, magnitudes(CFG), CFG)
  for t in range(3):
    one = q.quantize(x[:, t : t + 1], magnitudes(CFG), CFG)
    np.testing.assert_array_equal(whole.bits[:, t : t + 1], one.bits)


def test_a_scale_left_out_adds_nothing_and_later_scales_make_up_for_it():
  x, keep = latents(CFG), jnp.array([[True, False, True], [True, True, True]])
  out = q.quantize(x, magnitudes(CFG), CFG, keep=keep)
  np.testing.assert_array_equal(out.total[1], q.quantize(x, magnitudes(CFG), CFG).total[1])
  m = magnitudes(CFG)[jnp.array([0, 2])]
  np.testing.assert_array_equal(out.total[0], q.quantize(x, m, without_scale(CFG, 1)).total[0])


def without_scale(cfg, scale):
  sides = tuple(s for k, s in enumerate(cfg.sides) if k != scale)
  return q.QuantizerConfig(sides=sides, bits=cfg.bits)


def test_the_first_and_the_last_scale_are_never_left_out():
  keep = np.asarray(q.draw_scales(jax.random.key(0), 400, UNEVEN, drop=0.5))
  assert keep[:, [0, -1]].all()
  assert 0.4 < keep[:, 1:-1].mean() < 0.6


@pytest.mark.parametrize("cfg", [CFG, UNEVEN])
def test_corruption_of_strength_zero_is_teacher_forcing(cfg):
  x, m = latents(cfg), magnitudes(cfg)
  strength = jnp.zeros((2, 2, len(cfg.sides)))
  found = q.corrupt(x, m, cfg, strength, jax.random.key(0))
  plain = q.quantize(x, m, cfg)
  np.testing.assert_array_equal(found.targets, plain.bits)
  np.testing.assert_array_equal(found.bits, plain.bits)
  np.testing.assert_array_equal(found.inputs, q.inputs_from_bits(plain.bits, m, cfg))


def test_corrupted_inputs_are_those_of_the_flipped_bits():
  x, m = latents(CFG), magnitudes(CFG)
  found = q.corrupt(x, m, CFG, jnp.full((2, 2, 3), 0.3), jax.random.key(0))
  np.testing.assert_array_equal(found.inputs, q.inputs_from_bits(found.bits, m, CFG))
  share = np.mean(np.asarray(found.bits != found.targets))
  assert 0.2 < share < 0.4


def test_targets_after_a_flip_are_the_signs_of_what_the_flip_left():
  x, m = latents(CFG), magnitudes(CFG)
  strength = jnp.zeros((2, 2, 3)).at[:, :, 0].set(1.0)  # every bit of scale 1, no other
  found = q.corrupt(x, m, CFG, strength, jax.random.key(0))
  plain = q.quantize(x, m, CFG)
  first = CFG.part(0)
  np.testing.assert_array_equal(found.targets[..., first, :], plain.bits[..., first, :])
  np.testing.assert_array_equal(found.bits[..., first, :], ~plain.bits[..., first, :])
  wrong = jnp.where(plain.bits[..., first, :], -m[0], m[0])[..., None, :]
  residual = resize(x - wrong, 2, "area").reshape(2, 2, 4, 3)
  np.testing.assert_array_equal(found.targets[..., CFG.part(1), :], residual > 0)
  assert (found.targets != plain.bits).any()


def test_strength_is_per_row_frame_and_scale():
  strength = jnp.zeros((2, 2, 3)).at[1, 0, 2].set(1.0)
  found = q.corrupt(latents(CFG), magnitudes(CFG), CFG, strength, jax.random.key(0))
  flips = np.asarray(found.bits != found.targets).mean(-1)
  want = np.zeros((2, 2, CFG.elements))
  want[1, 0, CFG.part(2)] = 1.0
  np.testing.assert_array_equal(flips, want)


def test_elements_and_inputs_are_in_the_order_of_the_rows():
  """Each position of a laid-out video reads the sum of what is before the element that it predicts."""
  frames, scales = 2, CFG.scales
  row = lay_out([VisionTarget(slot=0, frames=frames, scales=scales)])
  x, m = latents(CFG, frames=frames), magnitudes(CFG)
  bits = q.quantize(x, m, CFG).bits
  inputs = q.inputs_from_bits(bits, m, CFG).reshape(2, -1, CFG.bits)
  assert row.media_element[0] == 0 and row.length == inputs.shape[1] + 2
  for position in range(1, row.length - 1):
    element = int(row.media_element[position])
    frame, within = divmod(element, CFG.elements)
    k = next(k for k in range(3) if within < CFG.part(k).stop)
    if k == 0:  # the sum of the frame before
      frame, last = frame - 1, 3
    else:
      last = k
    total = q.empty_total(2, 1, CFG)
    for j in range(last):
      total = q.add_scale(total, bits[:, frame : frame + 1, CFG.part(j)], m, j, CFG)
    block = q.block_input(total, k, CFG)[:, 0, within - CFG.part(k).start]
    np.testing.assert_array_equal(inputs[:, element - 1], block)


def test_a_later_scale_or_frame_never_changes_an_earlier_input():
  bits = q.quantize(latents(CFG), magnitudes(CFG), CFG).bits
  before = q.inputs_from_bits(bits, magnitudes(CFG), CFG).reshape(2, -1, 3)
  flat = bits.reshape(2, -1, 3)
  for element in range(flat.shape[1]):
    changed = flat.at[:, element].set(~flat[:, element]).reshape(bits.shape)
    after = q.inputs_from_bits(changed, magnitudes(CFG), CFG).reshape(2, -1, 3)
    frame, within = divmod(element, CFG.elements)
    k = next(k for k in range(3) if within < CFG.part(k).stop)
    # Inputs of elements up to the end of the changed scale.
    same = frame * CFG.elements + CFG.part(k).stop - 1
    np.testing.assert_array_equal(before[:, :same], after[:, :same])
    assert (before[:, same:] != after[:, same:]).any()


def test_usage_is_that_of_a_scale_among_its_own_elements():
  bits = np.zeros((4, 1, CFG.elements, CFG.bits), bool)
  bits[:2, :, CFG.part(0)] = True  # balanced at scale 1, where there is one element a frame
  bits[:, :, CFG.part(2)] = True  # constant
  found = q.bit_usage(jnp.asarray(bits), CFG)
  np.testing.assert_allclose(found, [1.0, 0.0, 0.0], atol=1e-4)
  keep = jnp.array([[True] * 3] * 2 + [[False] * 3] * 2)
  np.testing.assert_allclose(q.bit_usage(jnp.asarray(bits), CFG, keep=keep)[0], 0.0, atol=1e-4)


@given(st.integers(1, 24), st.integers(1, 24))
@settings(max_examples=50, deadline=None)
def test_resizing_keeps_constants_and_area_keeps_the_mean(source, target):
  for matrix in (area_matrix(source, target), linear_matrix(source, target)):
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    assert (matrix >= 0).all()
  np.testing.assert_allclose(area_matrix(source, target).mean(0), 1 / source, atol=1e-6)


def test_linear_interpolation_reads_between_cell_centres():
  found = resize(jnp.arange(2.0)[:, None, None] * jnp.ones((1, 2, 1)), 4, "linear")
  np.testing.assert_allclose(found[:, 0, 0], [0, 0.25, 0.75, 1])


@pytest.mark.parametrize("sides", [(), (2, 4), (1, 4, 2), (1, 1)])
def test_sides_that_do_not_grow_from_one_are_refused(sides):
  with pytest.raises(ValueError, match="sides"):
    q.QuantizerConfig(sides=sides)


def test_a_latent_of_another_shape_is_refused():
  with pytest.raises(ValueError, match=r"\[B, T, 4, 4, 3\]"):
    q.quantize(jnp.zeros((1, 1, 4, 4, 2)), magnitudes(CFG), CFG)
