"""Sound in the unified model: what each code may depend on, with codes given or chosen in mid-pass."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_speech import (
  CODE,
  LENGTH,
  MODEL,
  batch_of,
  clear_params,
  codes,
  listen,
  row_of,
  speak,
)

from ernie_jax.backbone.audio_io import code_logits, given_audio
from ernie_jax.backbone.config import AudioConfig, ModelConfig
from ernie_jax.backbone.inputs import Audio, empty_cache
from ernie_jax.elastic.family import ElasticConfig, activate, parse_member, sample
from ernie_jax.elastic.slicing import slice_params
from ernie_jax.model import UnifiedModel, initial_bias, text_logits
from ernie_jax.objectives.audio import audio_loss
from ernie_jax.objectives.history import SoundHistoryConfig, misheard
from ernie_jax.sequence import Clip, Kind, Text, predicts_audio
from ernie_jax.train.pretrain import unboxed_params

EXACT = dict(rtol=1e-6, atol=1e-6)
CLOSE = dict(rtol=1e-4, atol=1e-5)
LAST = dataclasses.replace(MODEL, audio=dataclasses.replace(CODE, heads="last"))
FURTHER = dataclasses.replace(MODEL, mtp_depth=1, mtp_width=8, remat="full")
MODELS = {"depth": MODEL, "last": LAST, "mtp": FURTHER}


@pytest.fixture(scope="module")
def params():
  """Parameters of each model, in which every part matters: the same, but for the module of MTP."""
  whole = clear_params(FURTHER)
  plain = {name: tree for name, tree in whole.items() if name != "mtp_0"}
  return {"depth": plain, "last": plain, "mtp": whole}


@functools.cache
def passing(model: ModelConfig = MODEL):
  """The jitted (params, row, audio, active) -> (logits of codes [B, L, R, V + 1], text logits)."""

  def run(params, row, audio, active=None):
    output = UnifiedModel(model).apply(
      {"params": params}, row, initial_bias(model), active, audio=audio
    )
    heads = [code_logits(h, r, params, model) for r, h in enumerate(output.audio)]
    return jnp.stack(heads, axis=2), text_logits(output.hidden, params, model)

  return jax.jit(run)


@pytest.fixture(scope="module")
def batch():
  """One row that speaks, listens and speaks again."""
  return batch_of(row_of(speak(0), listen(1), speak(2, frames=2)))


def test_every_position_reads_what_the_one_before_it_predicts(batch):
  row, audio = batch.row, given_audio(batch.sound)
  predicting = predicts_audio(row)[0]
  wanted = []
  for seed, frames in ((0, 4), (1, 4), (2, 2)):
    wanted += [*codes(seed, frames), np.full(CODE.levels, CODE.codes)]
  np.testing.assert_array_equal(batch.sound.codes[0][predicting], wanted)
  assert not batch.sound.codes[0][~predicting].any()
  heard = np.asarray(audio.heard)[0][row.kind[0] == Kind.AUDIO]
  np.testing.assert_array_equal(heard, np.concatenate([codes(0, 4), codes(1, 4), codes(2, 2)]))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("level", range(CODE.levels))
def test_a_code_changes_no_level_up_to_its_own_but_later_levels_and_frames(
  params, batch, level, name
):
  model, row = MODELS[name], batch.row
  at = int(np.flatnonzero(row.kind[0] == Kind.AUDIO)[1])  # predicts the third frame
  changed = batch.sound.codes.copy()
  changed[0, at, level] = (changed[0, at, level] + 1) % CODE.codes
  other = batch.replace(sound=batch.sound.replace(codes=changed))
  before, after = (
    np.asarray(passing(model)(params[name], row, given_audio(b.sound))[0])[0]
    for b in (batch, other)
  )
  earlier = np.arange(LENGTH) < at
  np.testing.assert_allclose(before[earlier], after[earlier], **EXACT)
  np.testing.assert_allclose(before[at, : level + 1], after[at, : level + 1], **EXACT)
  moved = np.abs(before - after).max(axis=-1)
  assert (moved[at, level + 1 :] > 1e-4).all()
  assert (moved[at + 1] > 1e-4).all()
  elsewhere = row.example[0] != row.example[0, at]
  np.testing.assert_allclose(before[elsewhere], after[elsewhere], **EXACT)


@pytest.mark.parametrize("name", MODELS)
def test_choosing_codes_in_mid_pass_position_by_position_equals_one_pass_with_the_same_codes(
  params, name
):
  model, p = MODELS[name], params[name]
  items = speak(0, frames=5)[:-1]
  batch = batch_of(row_of(items, length=12))
  row, audio = batch.row, given_audio(batch.sound)
  start = int(np.flatnonzero(predicts_audio(row)[0])[0])
  plain = dataclasses.replace(model, mtp_depth=0, remat="none")

  @jax.jit
  def step(cache, block, audio, wanted):
    found = []

    def choose(level, logits, before):
      found.append(logits)
      return wanted[..., level]

    output = UnifiedModel(plain).apply(
      {"params": p}, block, initial_bias(plain), None, cache, audio=audio, choose=choose
    )
    logits = [code_logits(h, r, p, plain) for r, h in enumerate(output.audio)]
    return output.cache, jnp.stack(found or logits, axis=2), output.codes

  cut = lambda a, b: jax.tree.map(lambda x: x[:, a:b], row)
  part = lambda a, b, keep: Audio(
    heard=audio.heard[:, a:b],
    voice=audio.voice[:, a:b],
    codes=audio.codes[:, a:b] if keep else None,
  )
  cache = empty_cache(plain, 1, 12)
  cache, _, _ = step(cache, cut(0, start), part(0, start, True), audio.codes[:, :start])
  made = []
  for at in range(start, 10):
    wanted = audio.codes[:, at : at + 1]
    block = part(at, at + 1, False)
    cache, logits, chosen = step(cache, cut(at, at + 1), block, wanted)
    np.testing.assert_array_equal(chosen, wanted)
    made.append(np.asarray(logits[0, 0]))
  whole = np.asarray(passing(model)(p, row, audio)[0])[0, start:10]
  np.testing.assert_allclose(made, whole, rtol=2e-4, atol=2e-4)


def test_the_end_is_a_class_of_every_head_and_is_learnt_by_each(params, batch):
  row = batch.row
  got, _ = passing()(params["depth"], row, given_audio(batch.sound))
  assert got.shape == (1, LENGTH, CODE.levels, CODE.codes + 1)
  logp = np.asarray(jax.nn.log_softmax(got[0], axis=-1))
  learnt = predicts_audio(row)[0] & (row.media_weight[0] > 0)
  assert learnt.sum() == 5 + 3  # the clip that is listened to is not among them
  wanted = np.stack(
    [
      [-logp[i, r, batch.sound.codes[0, i, r]] for r in range(CODE.levels)]
      for i in np.flatnonzero(learnt)
    ]
  )
  assert (batch.sound.codes[0][learnt] == CODE.codes).all(axis=-1).sum() == 2

  def loss(params, weights):
    output = UnifiedModel(MODEL).apply(
      {"params": params}, row, initial_bias(MODEL), audio=given_audio(batch.sound)
    )
    return audio_loss(output, row, batch.sound.codes, params, MODEL, level_weights=weights)

  run = jax.jit(loss, static_argnums=1)
  found = run(params["depth"], ())
  np.testing.assert_allclose(found.by_level, wanted.mean(axis=0), rtol=1e-5)
  assert float(found.codes) == pytest.approx(wanted.mean(), rel=1e-5)
  assert float(found.frames) == 8
  weighted = run(params["depth"], (2.0, 1.0, 1.0))
  shares = np.array([0.5, 0.25, 0.25])
  assert float(weighted.codes) == pytest.approx(wanted.mean(axis=0) @ shares, rel=1e-5)
  with pytest.raises(ValueError, match="2 level weights for 3 levels"):
    run(params["depth"], (1.0, 1.0))


def test_the_voice_reaches_the_speech_after_it_and_no_other_example(params, batch):
  row = batch.row
  at = np.flatnonzero(row.kind[0] == Kind.VOICE)
  assert len(at) == 2
  changed = batch.sound.voice.copy()
  changed[0, at[0]] += 1.0
  other = batch.sound.replace(voice=changed)
  before, after = (
    np.asarray(passing()(params["depth"], row, given_audio(s))[0])[0] for s in (batch.sound, other)
  )
  own = (row.example[0] == 1) & predicts_audio(row)[0]
  assert (np.abs(before - after).max(axis=(1, 2))[own] > 1e-4).all()
  np.testing.assert_allclose(before[row.example[0] != 1], after[row.example[0] != 1], **EXACT)


def test_what_is_heard_reaches_the_transcript(params, batch):
  row = batch.row
  at = int(np.flatnonzero((row.kind[0] == Kind.AUDIO) & (row.example[0] == 2))[0])
  changed = batch.sound.codes.copy()
  changed[0, at] = (changed[0, at] + 1) % CODE.codes
  before, after = (
    np.asarray(passing()(params["depth"], row, given_audio(s))[1])[0]
    for s in (batch.sound, batch.sound.replace(codes=changed))
  )
  text = (row.example[0] == 2) & (row.text_weight[0] > 0) & (np.arange(LENGTH) > at)
  assert text.sum() == 3 and (np.abs(before - after).max(axis=-1)[text] > 1e-4).all()


@pytest.mark.parametrize("size", ["3x2x1", "4x4x1"])
def test_a_member_run_by_masks_and_the_member_cut_out_predict_the_same_codes(params, batch, size):
  kinds = {"elastic": ElasticConfig(min_depth=1), "model": MODEL}
  member, usage = parse_member(size, MODEL), np.arange(16, dtype=np.float32).reshape(4, 4)
  active = activate(member, usage, **kinds)
  small = slice_params(params["depth"], initial_bias(MODEL), usage, member, **kinds)
  audio = given_audio(batch.sound)
  masked, text = passing()(params["depth"], batch.row, audio, active)
  own, own_text = passing(small.model)(small.params, batch.row, audio)
  live = np.asarray(batch.row.example[0] > 0)
  np.testing.assert_allclose(masked[0, live], own[0, live], **CLOSE)
  np.testing.assert_allclose(text[0, live], own_text[0, live], **CLOSE)
  full, _ = passing()(params["depth"], batch.row, audio)
  assert np.abs(full - masked)[0, live].max() > 1e-2


def test_no_member_loses_a_layer_with_a_head_and_all_draws_share_one_compilation(params, batch):
  elastic = ElasticConfig(depth_full=0.0, width_full=0.5, sparsity_full=0.5)
  run = passing.__wrapped__(MODEL)  # with a cache of compilations of its own
  audio = given_audio(batch.sound)
  for seed in range(4):
    active = sample(jax.random.key(seed), 1, elastic=elastic, model=MODEL)
    assert np.asarray(active.layers)[-CODE.levels :].all() and not np.asarray(active.layers).all()
    run(params["depth"], batch.row, audio, active)
  assert run._cache_size() == 1


def test_mishearing_is_as_frequent_as_asked_and_changes_no_target(batch):
  sound = batch.sound.replace(codes=np.tile(batch.sound.codes, (400, 1, 1)))
  audio = given_audio(sound)
  found = misheard(audio, CODE, SoundHistoryConfig(dropped=0.2, replaced=0.3), jax.random.key(0))
  heard, was = np.asarray(found.heard), np.asarray(audio.heard)
  gone = (heard < 0).all(axis=-1)
  assert gone.mean() == pytest.approx(0.2, abs=0.01) and (heard[~gone] >= 0).all()
  inside = ~gone & (was < CODE.codes).all(axis=-1)
  wrong = (heard != was)[inside].mean()
  assert wrong == pytest.approx(0.3 * (1 - 1 / CODE.codes), abs=0.01)
  assert heard.max() <= CODE.codes
  np.testing.assert_array_equal(found.codes, audio.codes)
  clean = misheard(audio, CODE, SoundHistoryConfig(dropped=0.0, replaced=0.0), jax.random.key(0))
  np.testing.assert_array_equal(clean.heard, audio.heard)


def test_a_frame_that_is_not_heard_is_an_empty_input(params, batch):
  row, audio = batch.row, given_audio(batch.sound)
  at = int(np.flatnonzero((row.kind[0] == Kind.AUDIO) & (row.example[0] == 2))[1])
  gone = audio.replace(heard=audio.heard.at[0, at].set(-1))
  empty = jax.tree.map(lambda a: a, params["depth"])
  table = np.zeros_like(empty["audio"]["embedding"])
  fed_back = dict(codes=audio.codes * 0, heard=audio.heard * 0)
  silent = {**empty, "audio": {**empty["audio"], "embedding": table}}
  # With empty tables nothing can be heard anywhere, so leaving a frame out changes nothing.
  for change, same in ((gone, silent), (audio.replace(**fed_back), silent)):
    one, two = (np.asarray(passing()(same, row, a)[1]) for a in (audio, change))
    np.testing.assert_allclose(one, two, **EXACT)
  one, two = (np.asarray(passing()(params["depth"], row, a)[1])[0] for a in (audio, gone))
  assert np.abs(one - two)[at].max() > 1e-4
  np.testing.assert_allclose(one[:at], two[:at], **EXACT)


def test_a_model_without_audio_has_no_parameter_of_it_and_heads_need_their_layers():
  plain = dataclasses.replace(MODEL, audio=None)
  shapes = jax.eval_shape(lambda: unboxed_params(plain, jax.random.key(0)))
  assert set(shapes) == {"embed", "stack", "final_norm"}
  with pytest.raises(ValueError, match=r"top_layers \(2\) must be at least audio.levels \(3\)"):
    dataclasses.replace(MODEL, top_layers=2)
  assert dataclasses.replace(LAST, top_layers=0).audio.heads == "last"
  with pytest.raises(ValueError, match="heads must be"):
    AudioConfig(heads="first")


def test_clips_and_voices_of_another_shape_are_refused():
  for wrong in (np.zeros((2, 2), int), np.full((2, 3), CODE.codes), np.full((2, 3), -1)):
    with pytest.raises(ValueError, match=r"codes must be \[n, 3\] below 6"):
      row_of([Text((1,)), Clip(wrong)])
