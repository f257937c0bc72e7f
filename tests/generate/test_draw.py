"""Drawing on the cache: the same predictions as one pass over the whole row, whatever is batched or given."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_vision import CODE, CONFIG, MODEL, clear_params, frozen_tokenizer, media

from ernie_jax import media as media_lib
from ernie_jax.backbone.vision_io import bit_logits
from ernie_jax.data import media_tasks
from ernie_jax.elastic.family import ElasticConfig, activate, parse_member
from ernie_jax.elastic.slicing import slice_params
from ernie_jax.errors import UserError
from ernie_jax.generate.decode import Decoder
from ernie_jax.generate.draw import DrawingConfig, Painter, draw_prompt, given_picture
from ernie_jax.generate.prompts import prompt_batch
from ernie_jax.generate.sampling import SamplingConfig
from ernie_jax.generate.story import tell
from ernie_jax.model import UnifiedModel, initial_bias, text_logits
from ernie_jax.sequence import Drawn, LayoutOptions, Text
from ernie_jax.vision.quantizer import inputs_from_bits
from ernie_jax.vision.tokenizer import VisualTokenizer, to_float, to_pixels

N, WINDOW = CODE.elements, 1
CLOSE = dict(rtol=2e-4, atol=2e-4)
CHOSEN = DrawingConfig(temperature=1.0, guidance=1.0, seed=3)


@pytest.fixture(scope="module")
def frozen():
  return frozen_tokenizer()


@pytest.fixture(scope="module")
def params(frozen):
  return clear_params(frozen)


@pytest.fixture(scope="module")
def painter() -> Painter:
  return Painter(MODEL, CONFIG, window=WINDOW)


@pytest.fixture(scope="module")
def weights(painter, params, frozen):
  return painter.load(params, initial_bias(MODEL), frozen)


def prompt(*words: int, frames: int = 1, **kinds):
  return draw_prompt(words, frames=frames, side=16, **kinds)


@functools.cache
def whole():
  """The jitted (params, frozen, row batch, inputs of the drawn frames) -> logits of all bits, in one pass."""

  def run(params, frozen, batch, inputs, start):
    encoded = media_lib.encode(params, frozen, batch, config=CONFIG, model=MODEL)
    filled = jax.vmap(lambda old, new, at: jax.lax.dynamic_update_slice(old, new, (at, 0)))(
      encoded.media.inputs, inputs, start
    )
    output = UnifiedModel(MODEL).apply(
      {"params": params}, batch.row, initial_bias(MODEL),
      media=encoded.media.replace(inputs=filled),
    )  # fmt: skip
    return bit_logits(output.hidden, params, MODEL)

  return jax.jit(run)


def margins_of_one_pass(params, frozen, items, bits):
  """Margins [T' N, d] of every drawn element, given the drawn bits [T', N, d], by one pass over the row."""
  batch = prompt_batch([items], CONFIG.shapes(window=WINDOW), LayoutOptions())
  row, given = jax.tree.map(lambda x: x[0], batch.row), items[-1].given
  magnitudes = VisualTokenizer(CONFIG.tokenizer).apply(
    {"params": frozen}, method=VisualTokenizer.magnitudes
  )
  inputs = inputs_from_bits(jnp.asarray(bits)[None], magnitudes, CODE).reshape(1, -1, CODE.bits)
  slot = row.media_slot.max()
  pictures = sum(isinstance(item, Drawn) and len(item.media) == 1 for item in items)
  before = N * (pictures - (len(items[-1].media) == 1))
  got = whole()(params, frozen, batch, inputs, np.array([before + given * N]))[0]
  at = (row.media_slot == slot) & (row.media_element >= given * N)
  logits = np.asarray(got)[at][: bits.shape[0] * N]
  return logits[..., 1] - logits[..., 0]


CASES = {
  "a picture": prompt(70, 71),
  "a picture without words": prompt(),
  "a video": prompt(72, frames=9),
  "a picture that a video continues": prompt(73, frames=9, given=media(5)),
  "a picture after a picture": prompt(74, before=[Text((75,)), given_picture(media(6))]),
}


@pytest.mark.parametrize("items", CASES.values(), ids=CASES)
def test_drawing_on_the_cache_predicts_what_one_pass_predicts(
  painter, weights, params, frozen, items
):
  made = painter.frames(weights, [items], how=CHOSEN)
  bits = np.stack([frame.bits[0] for frame in made])
  margins = np.concatenate([frame.margins[0] for frame in made])
  wanted = margins_of_one_pass(params, frozen, items, bits)
  assert len(made) == CONFIG.shapes().latent_frames(len(items[-1].media)) - items[-1].given
  np.testing.assert_allclose(margins, wanted, **CLOSE)
  assert 0.2 < bits.mean() < 0.8 and np.abs(margins).max() > 0.1


def test_guidance_goes_from_the_wordless_prediction_past_the_prompts(
  painter, weights, params, frozen
):
  items = prompt(70, 71)
  how = dataclasses.replace(CHOSEN, guidance=2.5, scale_ramp=1.0)
  (frame,) = painter.frames(weights, [items], how=how)
  bits = np.asarray(frame.bits)
  with_words = margins_of_one_pass(params, frozen, items, bits)
  without = margins_of_one_pass(params, frozen, prompt(), bits)
  strength = np.repeat([1.0, 1.75, 2.5], CODE.areas)[:, None]
  np.testing.assert_allclose(frame.margins[0], without + strength * (with_words - without), **CLOSE)


def test_guidance_is_scheduled_over_scales_and_frames():
  how = DrawingConfig(guidance=3.0, scale_ramp=0.5, frame_decay=0.5)
  np.testing.assert_allclose(how.schedule(2, 3), [[2.0, 2.5, 3.0], [1.5, 1.75, 2.0]])
  np.testing.assert_allclose(DrawingConfig(guidance=4.0).schedule(3, 2), 4.0)
  for wrong in ({"temperature": -1}, {"guidance": float("nan")}, {"frame_decay": 2}, {"seed": -1}):
    with pytest.raises(ValueError, match=next(iter(wrong))):
      DrawingConfig(**wrong)


def test_a_prompt_draws_the_same_alone_and_in_a_batch(painter, weights):
  prompts = [prompt(70), prompt(71, 72, 73), prompt()]
  together = painter.draw(weights, prompts, how=CHOSEN)
  alone = painter.draw(weights, prompts[:1], how=CHOSEN)
  assert together.shape == (3, 1, 16, 16, 3) and together.dtype == np.uint8
  assert np.abs(together[0].astype(int) - alone[0].astype(int)).max() <= 1
  assert (together[0] != together[1]).any()
  other = painter.draw(weights, prompts[:1], how=dataclasses.replace(CHOSEN, seed=4))
  assert (alone != other).any()
  cold = dataclasses.replace(CHOSEN, temperature=0.0)
  again = dataclasses.replace(cold, seed=9)
  np.testing.assert_array_equal(
    painter.draw(weights, prompts[:1], how=cold), painter.draw(weights, prompts[:1], how=again)
  )


def test_a_continued_video_begins_with_the_picture_that_was_given(painter, weights, frozen):
  picture = media(5)
  seen = []
  (video,) = painter.draw(
    weights,
    [prompt(73, frames=9, given=picture)],
    how=CHOSEN,
    progress=lambda *done: seen.append(done),
  )
  tokenizer = VisualTokenizer(CONFIG.tokenizer)
  kept = tokenizer.apply({"params": frozen}, to_float(picture)[None]).video
  assert video.shape == (9, 16, 16, 3) and seen == [(1, 2), (2, 2)]
  wanted = np.asarray(to_pixels(kept[0, 0])).astype(int)
  assert np.abs(video[0].astype(int) - wanted).max() <= 1


def test_members_draw_and_a_member_cut_out_draws_the_same(painter, weights, params, frozen):
  member, usage = parse_member("1x2x1", MODEL), np.arange(8, dtype=np.float32).reshape(2, 4)
  kinds = {"elastic": ElasticConfig(min_depth=1), "model": MODEL}
  active = activate(member, usage, **kinds)
  small = slice_params(params, initial_bias(MODEL), usage, member, **kinds)
  own = Painter(small.model, CONFIG, window=WINDOW)
  (masked,) = painter.frames(weights, [prompt(70)], how=CHOSEN, active=active)
  (cut,) = own.frames(own.load(small.params, small.bias, frozen), [prompt(70)], how=CHOSEN)
  (full,) = painter.frames(weights, [prompt(70)], how=CHOSEN)
  np.testing.assert_allclose(masked.margins, cut.margins, **CLOSE)
  assert np.abs(full.margins - masked.margins).max() > 1e-2


@pytest.mark.parametrize("frames", [1, 9])
def test_text_after_media_is_what_one_pass_says(params, frozen, frames):
  prompts = [
    media_tasks.describe(media(7, frames), None),
    media_tasks.answer(media(8, frames), [([80, 81], None)]),
  ]
  decoder = Decoder(MODEL, cache_length=96, media=CONFIG)
  weights = decoder.load(params, initial_bias(MODEL), frozen)
  batch = prompt_batch(prompts, CONFIG.shapes(), LayoutOptions())
  greedy = SamplingConfig(temperature=0.0)
  with pytest.raises(UserError, match="max_new_tokens must be at least 1, got 0"):
    next(decoder.stream_media(weights, batch, sampling=greedy, max_new_tokens=0))
  pieces = list(decoder.stream_media(weights, batch, sampling=greedy, max_new_tokens=6))
  made = np.concatenate([piece.tokens for piece in pieces], axis=1)

  @jax.jit
  def said(batch):
    encoded = media_lib.encode(params, frozen, batch, config=CONFIG, model=MODEL)
    bias = initial_bias(MODEL)
    output = UnifiedModel(MODEL).apply({"params": params}, batch.row, bias, media=encoded.media)
    return text_logits(output.hidden, params, MODEL)

  for items, tokens in zip(prompts, made):
    full = [*items, Text(tuple(tokens[:-1].tolist()))]
    logits = said(prompt_batch([full], CONFIG.shapes(), LayoutOptions()))[0]
    np.testing.assert_array_equal(np.argmax(logits[-6:], axis=-1), tokens)


def test_prompts_of_different_forms_are_refused(painter, weights):
  for prompts in ([prompt(70), prompt(70, frames=9)], [[Text((1, 70))]]):
    with pytest.raises(ValueError, match="must all end with media of one form"):
      painter.draw(weights, prompts, how=CHOSEN)


def test_a_story_opens_pictures_draws_them_and_writes_on(painter, weights):
  decoder = Decoder(MODEL, cache_length=96, media=CONFIG)
  open_at_once = np.ones(MODEL.vocab_size, bool)  # BOI or nothing, then no BOI but one word
  open_at_once[80] = False
  told = list(
    tell(
      decoder,
      painter,
      weights,
      [Text((1, 70))],
      pictures=1,
      sampling=SamplingConfig(temperature=100.0, seed=5),
      drawing=CHOSEN,
      max_new_tokens=3,
      banned=open_at_once,
    )
  )
  pictures = [part for part in told if not isinstance(part, list)]
  assert [p.shape for p in pictures] == [(1, 16, 16, 3)]
  assert all(part == [80] * len(part) for part in told if isinstance(part, list))
  assert told[-1] == [80] * 3  # it wrote on, and drew no other
