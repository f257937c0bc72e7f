"""Speaking on the cache: the same predictions as one pass over the whole row, whatever is batched or streamed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_speech import CODE, MODEL, SHAPE, clear_params, codes, voice

from ernie_jax.audio.codec import STRIDE, Codec, CodecConfig, EncoderConfig, initial_params
from ernie_jax.audio.decoders import DecoderConfig
from ernie_jax.audio.quantizer import RvqConfig, fresh_codebooks, total_from_codes
from ernie_jax.backbone.audio_io import code_logits, given_audio
from ernie_jax.data import speech_tasks
from ernie_jax.elastic.family import ElasticConfig, activate, parse_member
from ernie_jax.elastic.slicing import slice_params
from ernie_jax.generate.decode import Decoder
from ernie_jax.generate.prompts import prompt_batch
from ernie_jax.generate.sampling import SamplingConfig
from ernie_jax.generate.speak import CHUNK, FIRST, SpeakingConfig, Voicebox
from ernie_jax.model import UnifiedModel, initial_bias, text_logits
from ernie_jax.sequence import Clip, Text, predicts_audio
from ernie_jax.speech import Speech

CLOSE = dict(rtol=2e-4, atol=2e-4)
WARM = SpeakingConfig(temperature=1.0, seed=3)
SMALL = dict(width=8, blocks=1, frame_width=8, frame_blocks=1)
CODEC = CodecConfig(
  quantizer=RvqConfig(levels=CODE.levels, codes=CODE.codes, width=8, semantic_width=4),
  encoder=EncoderConfig(**SMALL),
  decoder=DecoderConfig(**SMALL),
)


@pytest.fixture(scope="module")
def params():
  return clear_params()


@pytest.fixture(scope="module")
def speech():
  books = fresh_codebooks(CODEC.quantizer, jax.random.key(1))
  return Speech(CODEC, initial_params(CODEC, jax.random.key(0)), books.vectors)


@pytest.fixture(scope="module")
def voicebox() -> Voicebox:
  return Voicebox(MODEL, CODEC)


@pytest.fixture(scope="module")
def weights(voicebox, params, speech):
  return voicebox.load(params, initial_bias(MODEL), speech)


def prompt(*words: int, seed: int = 0):
  return speech_tasks.speak(words, voice(seed), None)


# As many prompts everywhere, so that little is compiled.
THREE = [prompt(70), prompt(71, 72, 73), prompt(seed=1)]


def frames(voicebox, weights, prompts, how=WARM, most=14, **kinds):
  """(codes, lengths, logprobs) of all pieces."""
  pieces = list(voicebox.frames(weights, prompts, how=how, max_frames=most, **kinds))
  joined = lambda name: np.concatenate([getattr(piece, name) for piece in pieces], axis=1)
  return joined("codes"), np.sum([p.lengths for p in pieces], axis=0), joined("logprobs")


@functools.cache
def whole():
  """The jitted (params, batch) -> (log-probabilities of codes [B, L, R, V + 1], text logits), in one pass."""

  def run(params, batch):
    output = UnifiedModel(MODEL).apply(
      {"params": params}, batch.row, initial_bias(MODEL), audio=given_audio(batch.sound)
    )
    heads = [code_logits(h, r, params, MODEL) for r, h in enumerate(output.audio)]
    return jax.nn.log_softmax(jnp.stack(heads, axis=2)), text_logits(output.hidden, params, MODEL)

  return jax.jit(run)


def test_speaking_on_the_cache_predicts_what_one_pass_predicts(voicebox, weights, params):
  prompts = [prompt(70, 71), prompt(72, 73, 74, 75, seed=1), prompt()]
  made, lengths, logprobs = frames(voicebox, weights, prompts)
  assert (lengths >= 1).all() and lengths.max() > FIRST
  for items, said, length, found in zip(prompts, made, lengths, logprobs):
    batch = prompt_batch([[*items, Clip(said[:length])]], None, None, sound=SHAPE)
    logp = np.asarray(whole()(params, batch)[0])[0][predicts_audio(batch.row)[0]]
    wanted = np.take_along_axis(logp[:length], said[:length, :, None], axis=-1)[..., 0]
    np.testing.assert_allclose(found[:length], wanted, **CLOSE)


def test_the_first_level_decides_the_end_and_no_other_level_may(voicebox, weights):
  found = []
  for seed in range(4):
    hot = SpeakingConfig(temperature=50.0, seed=seed)
    made, lengths, logprobs = frames(voicebox, weights, THREE, how=hot)
    past = np.arange(made.shape[1]) >= lengths[:, None]
    assert not made[past].any() and not logprobs[past].any()
    assert made.max() < CODE.codes and (logprobs[~past] < 0).all()
    found += lengths.tolist()
  assert min(found) >= 1 and min(found) < 14 and len(set(found)) > 2


def test_a_clip_speaks_the_same_alone_and_in_a_batch_and_otherwise_with_another_seed_or_voice(
  voicebox, weights
):
  together, lengths, _ = frames(voicebox, weights, THREE)
  alone, length, _ = frames(voicebox, weights, THREE[:1])
  n = int(length[0])
  assert lengths[0] == n
  np.testing.assert_array_equal(together[0, :n], alone[0, :n])
  cold = SpeakingConfig(temperature=0.0)
  first, _, _ = frames(voicebox, weights, THREE[:1], how=cold)
  again, _, _ = frames(voicebox, weights, THREE[:1], how=dataclasses.replace(cold, seed=9))
  np.testing.assert_array_equal(first, again)
  for other in (
    frames(voicebox, weights, THREE[:1], how=dataclasses.replace(WARM, seed=4)),
    frames(voicebox, weights, [prompt(70, seed=5)]),
  ):
    assert other[0].shape != alone.shape or (other[0] != alone).any()


def test_sound_streams_out_as_the_whole_clip_would_sound(voicebox, weights, speech):
  made, lengths, _ = frames(voicebox, weights, THREE)
  pieces = list(voicebox.sounds(weights, THREE, how=WARM, max_frames=14))
  assert pieces[0].waveform.shape == (3, FIRST * STRIDE)
  assert all(p.waveform.shape[1] == CHUNK * STRIDE for p in pieces[1:])
  total = total_from_codes(jnp.asarray(made), speech.vectors)
  decode = jax.jit(
    lambda params, x: Codec(CODEC).apply({"params": params}, x, method=Codec.decode).waveform
  )
  wanted = np.asarray(decode(speech.params, total))
  found = np.concatenate([p.waveform for p in pieces], axis=1)
  for one, all_, length in zip(found, wanted, lengths):
    samples = length * STRIDE
    np.testing.assert_allclose(
      one[:samples], all_[:samples], rtol=1e-3, atol=1e-3
    )  # noise and phases round
    assert not one[samples:].any() and np.abs(one[:samples]).max() > 0
  np.testing.assert_array_equal(np.sum([p.lengths for p in pieces], axis=0), lengths * STRIDE)


def test_members_speak_and_a_member_cut_out_speaks_the_same(voicebox, weights, params):
  member, usage = parse_member("3x2x1", MODEL), np.arange(16, dtype=np.float32).reshape(4, 4)
  kinds = {"elastic": ElasticConfig(min_depth=1), "model": MODEL}
  active = activate(member, usage, **kinds)
  small = slice_params(params, initial_bias(MODEL), usage, member, **kinds)
  own = Voicebox(small.model)
  masked = frames(voicebox, weights, [prompt(70)], active=active)
  cut = frames(own, own.load(small.params, small.bias), [prompt(70)])
  np.testing.assert_array_equal(masked[0], cut[0])
  np.testing.assert_allclose(masked[2], cut[2], **CLOSE)
  full = frames(voicebox, weights, [prompt(70)])
  assert full[0].shape != masked[0].shape or np.abs(full[2] - masked[2]).max() > 1e-2


def test_the_words_after_speech_are_what_one_pass_says(params):
  prompts = [speech_tasks.listen(codes(i, 3 + i), None) for i in range(2)]
  decoder = Decoder(MODEL, cache_length=40)
  weights = decoder.load(params, initial_bias(MODEL))
  batch = prompt_batch(prompts, None, None, sound=SHAPE)
  greedy = SamplingConfig(temperature=0.0)
  pieces = list(decoder.stream_media(weights, batch, sampling=greedy, max_new_tokens=6))
  made = np.concatenate([piece.tokens for piece in pieces], axis=1)
  for items, tokens in zip(prompts, made):
    full = [*items, Text(tuple(tokens[:-1].tolist()))]
    logits = whole()(params, prompt_batch([full], None, None, sound=SHAPE))[1][0]
    np.testing.assert_array_equal(np.argmax(logits[-6:], axis=-1), tokens)


def test_what_cannot_be_spoken_is_refused(voicebox, weights):
  with pytest.raises(ValueError, match="0 prompts"):
    list(voicebox.frames(weights, [], how=WARM, max_frames=3))
  for wrong in ({"temperature": -1}, {"temperature": float("nan")}, {"seed": -1}):
    with pytest.raises(ValueError, match=next(iter(wrong))):
      SpeakingConfig(**wrong)
