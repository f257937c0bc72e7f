"""From sound to codes and voices: a corpus is encoded in batches as each clip would be alone."""

import jax
import numpy as np
import pytest

from ernie_jax.audio.codec import (
  STRIDE,
  Codec,
  CodecConfig,
  EncoderConfig,
  encode_codes,
  initial_params,
)
from ernie_jax.audio.decoders import DecoderConfig
from ernie_jax.audio.quantizer import RvqConfig, fresh_codebooks
from ernie_jax.backbone.config import AudioConfig
from ernie_jax.data.audio import to_int16
from ernie_jax.data.world.speech import SpeechConfig, sample_utterance
from ernie_jax.data.world.speech_synthesis import synthesise
from ernie_jax.evaluate.oracles.pitch import read_pitch
from ernie_jax.speech import VOICE, CorpusCoder, Speech, encode_corpus, voice_of

SMALL = dict(width=8, blocks=1, frame_width=8, frame_blocks=1)
CODEC = CodecConfig(
  quantizer=RvqConfig(levels=2, codes=16, width=8, semantic_width=4),
  encoder=EncoderConfig(**SMALL),
  decoder=DecoderConfig(**SMALL),
)


@pytest.fixture(scope="module")
def speech() -> Speech:
  books = fresh_codebooks(CODEC.quantizer, jax.random.key(1))
  return Speech(CODEC, initial_params(CODEC, jax.random.key(0)), np.asarray(books.vectors))


@pytest.fixture(scope="module")
def spoken():
  """Ten utterances with their speakers."""
  rng = np.random.default_rng(5)
  drawn = [sample_utterance(rng, SpeechConfig(), split="train") for _ in range(10)]
  return [(u, to_int16(synthesise(u).waveform)) for u in drawn]


def test_clips_of_any_length_have_the_codes_that_they_have_alone(speech, spoken):
  clips = [spoken[0][1], spoken[1][1][: 5 * STRIDE + 7], spoken[2][1][:90]]
  found = encode_corpus(speech, clips, tracker=read_pitch)
  for clip, got in zip(clips, found):
    frames = -(-len(clip) // STRIDE)
    alone = np.zeros((1, frames * STRIDE), np.float32)
    alone[0, : len(clip)] = clip.astype(np.float32) / 32768
    wanted = encode_codes(Codec(CODEC), speech.params, speech.vectors, alone)[0]
    assert got.codes.shape == (frames, 2) and got.voice.shape == (VOICE,)
    assert (got.codes == wanted).mean() > 0.97  # sums in another order may move a code on an edge
  assert encode_corpus(speech, [], tracker=read_pitch) == []


def test_a_voice_tells_pitch_in_octaves_and_is_finite_without_any(spoken):
  mels = np.random.default_rng(0).normal(size=(50, 64))
  f0 = np.full(50, 150.0)
  f0[:10] = 0
  low, high = voice_of(mels, f0), voice_of(mels, 2 * f0)
  np.testing.assert_allclose(high - low, [2.0, *[0.0] * (VOICE - 1)], atol=1e-5)
  assert low[0] == pytest.approx(0, abs=1e-6)
  for nothing in (voice_of(mels, 0 * f0), voice_of(mels[:0], f0[:0])):
    assert np.isfinite(nothing).all() and nothing[0] == 0


def test_louder_speech_is_the_same_voice(speech, spoken):
  clip = spoken[3][1]
  loud, soft = encode_corpus(speech, [clip, (clip // 3).astype(np.int16)], tracker=read_pitch)
  other = encode_corpus(speech, [spoken[4][1]], tracker=read_pitch)[0]
  assert spoken[3][0].speaker != spoken[4][0].speaker
  assert np.abs(loud.voice - soft.voice).max() < 0.3 * np.abs(loud.voice - other.voice).max()


def test_a_coder_is_named_by_its_weights_and_must_fit_the_model(speech):
  coder = CorpusCoder(speech, tracker=read_pitch)
  assert (coder.shape.levels, coder.shape.codes, coder.shape.voice) == (2, 16, VOICE)
  other = Speech(CODEC, speech.params, speech.vectors + 1)
  assert len({coder.fingerprint, CorpusCoder(other, tracker=read_pitch).fingerprint}) == 2
  speech.check(AudioConfig(levels=2, codes=16, voice=VOICE))
  for wrong in (None, AudioConfig(levels=3, codes=16), AudioConfig(levels=2, codes=8)):
    with pytest.raises(ValueError, match="2 levels of 16 codes"):
      speech.check(wrong)
