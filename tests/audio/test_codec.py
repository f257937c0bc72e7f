"""The codec: parts equal the whole, nothing looks ahead, sources are what they should be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_jax.audio import analysis, losses, sources
from ernie_jax.audio.codec import (
  STRIDE,
  Codec,
  CodecConfig,
  EncoderConfig,
  decode_chunk,
  decode_codes,
  encode_chunk,
  encode_codes,
  initial_params,
)
from ernie_jax.audio.decoders import DecoderConfig
from ernie_jax.audio.discriminator import DiscriminatorConfig, Discriminators, feature_loss
from ernie_jax.audio.quantizer import RvqConfig, fresh_codebooks, quantize
from ernie_jax.audio.teacher import FeatureTeacher, LabelTeacher

CODE = RvqConfig(levels=3, codes=8, width=6, semantic_width=4)
SMALL = {"width": 8, "blocks": 1, "frame_width": 4, "frame_blocks": 1}
KINDS = ("source_filter", "istft")
FRAMES = 6


def config(kind):
  return CodecConfig(CODE, EncoderConfig(**SMALL), DecoderConfig(kind=kind, **SMALL))


@functools.cache
def clip(kind):
  """A codec, its parameters and codes, some sound, and what the codec makes of it."""
  cfg = config(kind)
  params = initial_params(cfg, jax.random.key(0))
  params = jax.tree.map(lambda x: x + 0.02, params)  # zeros would hide what they multiply
  vectors = fresh_codebooks(CODE, jax.random.key(1)).vectors
  sound = 0.1 * jax.random.normal(jax.random.key(2), (2, FRAMES * STRIDE))
  return cfg, params, vectors, sound, jitted(kind, "whole")(params, vectors, sound)


@functools.cache
def jitted(kind, what):
  model = Codec(config(kind))
  functions = {
    "whole": lambda p, v, x: model.apply({"params": p}, x, v),
    "encode": lambda p, x, s: encode_chunk(model, p, x, s),
    "decode": lambda p, x, s: decode_chunk(model, p, x, s),
  }
  return jax.jit(functions[what])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["encode", "decode"])
def test_parts_give_what_the_whole_gives(kind, what):
  _, params, _, sound, out = clip(kind)
  whole = out.latent if what == "encode" else out.waveform
  x = sound if what == "encode" else out.quantized.total
  unit = STRIDE if what == "encode" else 1
  found, stream = [], None
  for start, stop in ((0, 2), (2, 4), (4, 6)):
    part = jitted(kind, what)(params, x[:, start * unit : stop * unit], stream)
    found.append(part.value)
    stream = part.stream
  np.testing.assert_allclose(np.concatenate(found, 1), whole, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_future_changes_nothing_before(kind):
  _, params, vectors, sound, out = clip(kind)
  for frame in (1, 4):
    at = frame * STRIDE
    other = sound.at[:, at:].set(-0.3 * sound[:, at:] + 0.01)
    changed = jitted(kind, "whole")(params, vectors, other)
    np.testing.assert_array_equal(changed.latent[:, :frame], out.latent[:, :frame])
    np.testing.assert_array_equal(changed.waveform[:, :at], out.waveform[:, :at])
    assert (changed.latent[:, frame] != out.latent[:, frame]).any()
    assert (changed.quantized.codes[:, frame:] != out.quantized.codes[:, frame:]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_codes_alone_give_the_sound(kind):
  cfg, params, vectors, sound, out = clip(kind)
  model = Codec(cfg)

  def both(params, sound):
    codes = encode_codes(model, params, vectors, sound)
    return codes, decode_codes(model, params, vectors, codes)

  codes, again = jax.jit(both)(params, sound)
  np.testing.assert_array_equal(codes, out.quantized.codes)
  largest = np.abs(out.waveform).max()
  np.testing.assert_allclose(again, out.waveform, atol=5e-3 * largest)
  assert again.shape == sound.shape and largest > 1e-3


def test_sound_of_no_whole_frames_is_refused():
  cfg, params, *_ = clip("istft")
  with pytest.raises(ValueError, match="1280n"):
    Codec(cfg).apply({"params": params}, jnp.zeros((1, 1281)), method=Codec.encode)


def test_the_pulses_have_the_pitch_and_unit_power():
  f0 = jnp.full((1, 100), 125.0)
  out = sources.voice(f0, sources.still(1))
  np.testing.assert_allclose(np.square(out.pulses).sum() / out.pulses.size, 1, rtol=0.05)
  found = np.flatnonzero(np.asarray(out.pulses[0]) > 1)
  np.testing.assert_allclose(np.diff(found), 128, atol=1)
  higher = sources.voice(f0 * 2, sources.still(1))
  assert abs((higher.pulses[0] > 1).sum() - 2 * len(found)) <= 1


def test_blocks_overlap_and_their_end_is_carried():
  blocks = jnp.arange(3 * 4 * 128.0).reshape(1, 3, 4 * 128)
  out, tail = sources.overlap(blocks, None)
  want = np.zeros(6 * 128)
  for i in range(3):
    want[i * 128 : (i + 4) * 128] += np.asarray(blocks[0, i])
  np.testing.assert_allclose(np.concatenate([out[0], tail.reshape(-1)]), want)


def test_features_show_the_pitch():
  t = np.arange(16_000) / 16_000
  hz = 200.0
  sound = sum(np.sin(2 * np.pi * hz * k * t) for k in (1, 2, 3))[None].astype(np.float32)
  image = np.asarray(analysis.features(sound))[0, :, analysis.MELS : -1]
  pitches = np.geomspace(70, 400, analysis.PITCHES)
  near = np.abs(np.log2(pitches / hz)) < 0.3
  assert abs(12 * np.log2(pitches[near][image[50, near].argmax()] / hz)) < 0.5


def test_spectral_terms_ignore_phase_and_feel_level():
  t, bell = np.arange(8000) / 16_000, np.hanning(8000)  # no clicks at the ends
  sine = lambda hz, a, shift=0.0: jnp.asarray(bell * a * np.sin(2 * np.pi * hz * t + shift))[None]
  far = lambda a, b: float(losses.spectral_terms(a, b, losses.SpectraConfig()).mel)
  x = sine(500, 0.3)
  assert far(x, x) < 1e-6
  assert far(sine(500, 0.3, 1.0), x) < 0.1 * far(sine(500, 0.1), x)
  assert far(sine(500, 0.1), x) < far(sine(1500, 0.3), x)
  terms = lambda y: losses.spectral_terms(y, x, losses.SpectraConfig())
  grads = jax.grad(lambda y: terms(y).mel + terms(y).stft)(jnp.zeros_like(x))
  assert np.isfinite(grads).all()


def test_pitch_counts_where_there_is_voice():
  wanted = jnp.array([[100.0, 0.0, 200.0]])
  found = jnp.array([[100.0 * 2 ** (1 / 12), 50.0, 200.0]])
  np.testing.assert_allclose(losses.pitch_error(found, wanted), 0.5, rtol=1e-4)
  grads = jax.grad(lambda f: losses.pitch_loss(f, wanted))(found)
  assert grads[0, 0] > 0 and grads[0, 1] == 0
  assert float(losses.pitch_loss(found, jnp.zeros_like(wanted))) == 0


def test_teachers_pool_to_codec_frames():
  phones = jnp.concatenate([jnp.zeros(10), jnp.full(5, 1), jnp.full(5, 2), jnp.full(10, 255)])
  phones = phones.astype(jnp.uint8)[None]
  sure = lambda p: jnp.log(jnp.asarray(p) + 1e-9)
  right = sure([[[1, 0, 0], [0, 0.5, 0.5], [1, 0, 0]]])
  teacher = LabelTeacher(3)
  np.testing.assert_allclose(teacher.loss(right, None, phones), np.log(2) / 2, rtol=1e-4)
  assert teacher.loss(jnp.roll(right, 1, axis=1), None, phones) > 1
  features = jax.random.normal(jax.random.key(0), (1, 12, 5))
  pooled = features.reshape(1, 3, 4, 5).mean(2)
  teacher = FeatureTeacher(lambda wave: features, 5)
  assert float(teacher.loss(3 * pooled, None, phones)) < 1e-5
  assert float(teacher.loss(pooled[:, ::-1], None, phones)) > 0.1
  with pytest.raises(ValueError, match="cannot be pooled"):
    teacher.loss(jnp.zeros((1, 5, 5)), None, phones)


def test_matching_maps_cost_nothing():
  model = Discriminators(DiscriminatorConfig(windows=(256,), widths=(4, 4)))
  sound = 0.1 * jax.random.normal(jax.random.key(0), (1, 1280))
  judge = jax.jit(lambda x: model.init_with_output(jax.random.key(1), x)[0])
  real = judge(sound)
  assert float(feature_loss(real, real)) == 0
  assert float(feature_loss(real, judge(0.1 * sound))) > 0.01


@pytest.mark.parametrize("config", [DiscriminatorConfig, losses.SpectraConfig])
def test_windows_that_no_quarter_divides_are_refused_at_once(config):
  with pytest.raises(ValueError, match="windows must be multiples of 4, got 255"):
    config(windows=(512, 255, 256, 256))


def test_the_decoder_reads_the_sum_of_levels():
  _, _, vectors, _, out = clip("istft")
  again = quantize(out.latent, vectors, CODE)
  np.testing.assert_array_equal(again.codes, out.quantized.codes)
  np.testing.assert_allclose(out.quantized.taken.sum(2), out.quantized.total, atol=1e-6)
