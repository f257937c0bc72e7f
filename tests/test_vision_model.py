"""Pictures and videos in the unified model: what each prediction may depend on, and what must not matter."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_vision import (
  CODE,
  CONFIG,
  LENGTH,
  MODEL,
  SLOTS,
  TOKENIZER,
  batch_of,
  clear_params,
  frozen_tokenizer,
  media,
  row_of,
)

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.vision_io import bit_logits, grow_bits
from ernie_jax.elastic.family import ElasticConfig, activate, parse_member
from ernie_jax.elastic.slicing import slice_params
from ernie_jax.media import TEACHER_FORCING, encode, of_filled
from ernie_jax.model import UnifiedModel, initial_bias
from ernie_jax.objectives.history import HistoryConfig, flip_strength
from ernie_jax.objectives.vision import vision_loss
from ernie_jax.sequence import Drawn, Kind, RowBuilder, Seen, Text
from ernie_jax.train.pretrain import unboxed_params
from ernie_jax.vision.quantizer import inputs_from_bits
from ernie_jax.vision.tokenizer import VisualTokenizer, to_float

EXACT = dict(rtol=1e-6, atol=1e-6)
CLOSE = dict(rtol=1e-4, atol=1e-5)
N = CODE.elements


@pytest.fixture(scope="module")
def frozen():
  return frozen_tokenizer()


@pytest.fixture(scope="module")
def params(frozen):
  """Parameters in which every part matters."""
  return clear_params(frozen)


@functools.cache
def encoding(history: HistoryConfig = TEACHER_FORCING):
  """The jitted (params, frozen, batch) -> Encoded."""
  key = jax.random.key(7)
  run = lambda params, frozen, batch: encode(
    params, frozen, batch, config=CONFIG, model=MODEL, history=history, key=key
  )
  return jax.jit(run)


@functools.cache
def logits(model: ModelConfig = MODEL):
  """The jitted (params, row, media, active) -> logits of bits [B, L, d, 2]."""

  def run(params, row, media, active=None):
    output = UnifiedModel(model).apply(
      {"params": params}, row, initial_bias(model), active, media=media
    )
    return bit_logits(output.hidden, params, model)

  return jax.jit(run)


PICTURE, VIDEO = media(0), media(1, 9)
DRAW = [Text((1, 70)), Drawn(PICTURE), Text((2,))]
FILM = [Text((1,)), Drawn(VIDEO), Text((2,))]
LOOK = [Text((1,)), Seen(media(2)), Text((3, 80, 2))]
WATCH = [Text((1,)), Seen(media(3, 9)), Text((3, 81, 2))]


@pytest.fixture(scope="module")
def batch():
  """One row with all four kinds of slots in use."""
  return batch_of(row_of(DRAW, FILM, LOOK, WATCH))


@pytest.fixture(scope="module")
def encoded(params, frozen, batch):
  return encoding()(params, frozen, batch)


def test_without_errors_in_the_history_inputs_and_targets_are_those_of_teacher_forcing(
  frozen, encoded
):
  tokenizer = VisualTokenizer(TOKENIZER)
  for pixels, start in ((PICTURE, 0), (VIDEO, 2 * N)):
    found = tokenizer.apply({"params": frozen}, to_float(pixels)[None])
    size = tokenizer.apply({"params": frozen}, method=VisualTokenizer.magnitudes)
    bits = found.quantized.bits
    here = slice(start, start + bits.shape[1] * N)
    np.testing.assert_array_equal(encoded.targets[0, here], bits.reshape(-1, CODE.bits))
    wanted = inputs_from_bits(bits, size, CODE).reshape(-1, CODE.bits)
    np.testing.assert_allclose(encoded.media.inputs[0, here], wanted, **CLOSE)


def test_errors_in_the_history_change_inputs_and_later_targets_but_no_first_target(
  params, frozen, batch
):
  history = HistoryConfig(flip_min=0.3, flip_max=0.3)
  clean, flipped = (encoding(h)(params, frozen, batch) for h in (TEACHER_FORCING, history))
  at = slice(2 * N, 5 * N)  # the video
  assert (clean.media.inputs[0, at] != flipped.media.inputs[0, at]).any(axis=-1).mean() > 0.9
  different = (clean.targets != flipped.targets)[0, at].reshape(3, N, -1)
  assert not different[:, 0].any() and different[:, 1:].any()


def test_flips_grow_with_time_and_are_inherited_by_the_next_frame():
  config = HistoryConfig(flip_min=0.1, flip_max=0.2, flip_growth=0.05)
  found = np.asarray(flip_strength(jax.random.key(0), 4000, 3, 2, config))
  low, high = np.array([0.1, 0.15, 0.2]), np.array([0.2, 0.25, 0.3])
  assert (found[..., 1] >= low - 1e-6).all() and (found <= high[:, None] + 1e-6).all()
  np.testing.assert_allclose(found[:, :, 1].mean(0), (low + high) / 2, atol=2e-3)
  before, first = found[:, :-1, 1], found[:, 1:, 0]
  assert (first >= before - 1e-6).all()
  # Uniform between what the frame before ended with and the frame's own largest.
  share = (first - before) / (high[1:] - before)
  np.testing.assert_allclose(np.quantile(share, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.03)
  plain = dataclasses.replace(config, inherit=False)
  free = np.asarray(flip_strength(jax.random.key(0), 4000, 3, 2, plain))
  np.testing.assert_allclose(free.mean(0), np.stack([(low + high) / 2] * 2, 1), atol=2e-3)


def test_an_image_is_a_video_of_one_frame(params, frozen):
  still = np.concatenate([PICTURE, VIDEO[1:]])  # begins with the picture and then goes on
  got = encoding()(
    params, frozen, batch_of(row_of([Drawn(PICTURE), Drawn(still), Seen(PICTURE), Seen(still)]))
  )
  starts = np.asarray(got.media.start)
  image, video = slice(starts[0], starts[0] + N), slice(starts[2], starts[2] + N)
  np.testing.assert_allclose(got.media.inputs[0, image], got.media.inputs[0, video], **EXACT)
  np.testing.assert_array_equal(got.targets[0, image], got.targets[0, video])
  tokens = got.media.context[0]
  np.testing.assert_allclose(
    tokens[starts[3] : starts[3] + 4], tokens[starts[4] : starts[4] + 4], **CLOSE
  )


def drawn_positions(row) -> np.ndarray:
  return np.flatnonzero(row.kind[0] == Kind.VISION_TARGET)


@pytest.mark.parametrize("which", range(0, 84, 7))
def test_an_input_never_changes_an_earlier_scale_frame_or_another_example(
  params, batch, encoded, which
):
  row = jax.tree.map(np.asarray, batch.row)
  at = drawn_positions(row)[which]
  entry = encoded.media.start[row.media_slot[0, at]] + row.media_element[0, at] - 1
  changed = encoded.media.replace(inputs=encoded.media.inputs.at[0, entry].add(1.0))
  before, after = (np.asarray(logits()(params, row, m))[0] for m in (encoded.media, changed))
  earlier = (row.group[0] < row.group[0, at]) | (row.example[0] != row.example[0, at])
  np.testing.assert_allclose(before[earlier], after[earlier], **EXACT)
  assert np.abs(before[at] - after[at]).max() > 1e-4


@pytest.mark.parametrize(("which", "of"), [(2, "image"), (3, "video")])
def test_what_is_seen_reaches_the_text_after_it_and_nothing_else(params, frozen, batch, which, of):
  seen = [s.copy() for s in batch.seen]
  seen[which - 2][:, :, -1] ^= 255  # the last frame
  row = jax.tree.map(np.asarray, batch.row)
  other = encoding()(params, frozen, batch.replace(seen=tuple(seen)))
  same = encoding()(params, frozen, batch)
  before, after = (np.asarray(logits()(params, row, e.media))[0] for e in (same, other))
  example = row.example[0] == which + 1
  np.testing.assert_allclose(before[~example], after[~example], **EXACT)
  text = example & (row.kind[0] == Kind.TEXT) & (np.arange(LENGTH) > np.flatnonzero(example)[5])
  assert np.abs(before[text] - after[text]).max() > 1e-4


def test_later_pixels_never_change_an_earlier_frame(params, frozen, batch, encoded):
  drawn = [d.copy() for d in batch.drawn]
  drawn[1][:, :, 5:] ^= 255  # the third latent frame
  other = encoding()(params, frozen, batch.replace(drawn=tuple(drawn)))
  row = jax.tree.map(np.asarray, batch.row)
  before, after = (np.asarray(logits()(params, row, e.media))[0] for e in (encoded, other))
  third = (row.media_slot[0] == 2) & (row.media_element[0] > 2 * N)
  changed = np.abs(before - after).max(axis=(1, 2)) > 1e-5
  assert changed[third].any() and not changed[row.group[0] < row.group[0][third].min()].any()
  np.testing.assert_array_equal(encoded.targets[0, : 4 * N], other.targets[0, : 4 * N])


def test_the_loss_is_the_mean_over_bits_of_the_weighted_elements(params, batch, encoded):
  row = jax.tree.map(np.asarray, batch.row)
  got = logits()(params, row, encoded.media)
  total = weights = 0.0
  for position in range(LENGTH):
    weight = float(row.media_weight[0, position])
    if not weight:
      continue
    entry = int(encoded.media.start[row.media_slot[0, position]]) + int(
      row.media_element[0, position]
    )
    logp = jax.nn.log_softmax(got[0, position], axis=-1)
    bits = np.asarray(encoded.targets[0, entry]).astype(int)
    total -= weight * float(np.mean(np.take_along_axis(np.asarray(logp), bits[:, None], -1)))
    weights += weight

  def loss(params, row, media):
    output = UnifiedModel(MODEL).apply({"params": params}, row, initial_bias(MODEL), media=media)
    return vision_loss(output, row, encoded.targets, media.start, params, MODEL)

  found = jax.jit(loss)(params, row, encoded.media)
  assert float(found.bits) == pytest.approx(total / weights, rel=1e-5)
  assert float(found.elements) == pytest.approx(4 * N)


def test_a_member_run_by_masks_and_the_member_cut_out_predict_the_same_bits(params, batch, encoded):
  elastic = ElasticConfig(min_depth=1)
  member = parse_member("1x2x1", MODEL)
  usage = np.arange(8, dtype=np.float32).reshape(2, 4)
  active = activate(member, usage, elastic=elastic, model=MODEL)
  small = slice_params(params, initial_bias(MODEL), usage, member, elastic=elastic, model=MODEL)
  masked = logits()(params, batch.row, encoded.media, active)
  own = logits(small.model)(small.params, batch.row, encoded.media)
  live = np.asarray(batch.row.example[0] > 0)
  np.testing.assert_allclose(masked[0, live], own[0, live], **CLOSE)
  full = logits()(params, batch.row, encoded.media)
  assert np.abs(full - masked)[0, live].max() > 1e-2


def test_growing_bits_leaves_the_old_bits_logits_as_they_were(params, batch, encoded):
  wide = dataclasses.replace(MODEL, vision=dataclasses.replace(CODE, bits=8))
  grown = grow_bits(params, 5, 8)
  shapes = jax.eval_shape(lambda: unboxed_params(wide, jax.random.key(0)))
  assert jax.tree.map(np.shape, grown["vision"]) == jax.tree.map(
    lambda s: s.shape, shapes["vision"]
  )
  rng = np.random.default_rng(0)
  more = rng.normal(size=(*encoded.media.inputs.shape[:2], 3)).astype(np.float32)
  inputs = np.concatenate([encoded.media.inputs, more], axis=-1)
  old = logits()(params, batch.row, encoded.media)
  new = logits(wide)(grown, batch.row, encoded.media.replace(inputs=inputs))
  np.testing.assert_allclose(new[..., :5, :], old, **CLOSE)
  np.testing.assert_array_equal(new[..., 5:, :], 0)
  with pytest.raises(ValueError, match="grow, not shrink"):
    grow_bits(params, 5, 4)


def test_a_model_without_vision_has_no_parameter_of_it():
  text = dataclasses.replace(MODEL, vision=None)
  plain = jax.eval_shape(lambda: unboxed_params(text, jax.random.key(0)))
  assert set(plain) == {"embed", "stack", "final_norm"}


def test_a_row_takes_no_more_than_its_slots_and_positions_hold():
  builder = RowBuilder(CONFIG.shapes(), SLOTS, length=60)
  assert builder.fits(DRAW) and builder.add(DRAW) and builder.add(DRAW)
  assert not builder.fits(DRAW) and not builder.add(DRAW)  # neither a slot nor room
  assert not builder.add([Text((1,) * 9)])  # 52 of 60 positions are taken
  assert builder.add([Text((1,) * 8)])
  row = builder.finish()
  assert row.row.length == 60 and row.row.example.max() == 3
  with pytest.raises(ValueError, match="1 or 9 frames, got 5"):
    builder.add([Drawn(media(0, 5))])
  with pytest.raises(ValueError, match=r"\[F, 16, 16, 3\]"):
    builder.add([Seen(np.zeros((1, 8, 16, 3), np.uint8))])


@pytest.mark.parametrize("filled", [[], [0], [2, 3, 7], list(range(11))])
def test_slots_that_nothing_fills_cost_no_work_and_change_nothing(filled):
  slots = jnp.asarray(np.random.default_rng(0).normal(size=(11, 5)), jnp.float32)
  used = np.isin(np.arange(11), filled)
  whole = lambda w: jnp.tanh(slots[:, None] * w) + 1  # [S, 1, 5], nowhere 0
  pieces = lambda w: of_filled(lambda s: jnp.tanh(s[:, None] * w) + 1, slots, jnp.asarray(used))
  w = jnp.linspace(0.5, 1.5, 5)
  tokens = jax.jit(pieces)(w)
  np.testing.assert_allclose(tokens[used], whole(w)[used], rtol=1e-5, atol=1e-6)
  assert (np.asarray(tokens == 0).all((1, 2))).sum() == {0: 11, 1: 9, 3: 7, 11: 0}[
    len(filled)
  ]  # pieces of two
  own = lambda tokens: jnp.sum(jnp.where(used[:, None, None], tokens, 0) ** 2)
  gradient = lambda f: jax.grad(lambda w: own(f(w)))(w)
  np.testing.assert_allclose(gradient(pieces), gradient(whole), rtol=1e-5)


def test_a_black_picture_is_looked_at():
  black = [Text((1,)), Seen(np.zeros((1, 16, 16, 3), np.uint8)), Text((3, 80, 2))]
  frozen = frozen_tokenizer()
  context = encoding()(clear_params(frozen), frozen, batch_of(row_of(black))).media.context
  assert np.abs(context[0, 0]).max() > 0
