"""Decoding: equal to recomputing everything, independent of padding and batch, compiled once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_jax.backbone.inputs import all_active
from ernie_jax.elastic.family import ElasticConfig, Member, activate
from ernie_jax.elastic.slicing import slice_params
from ernie_jax.errors import UserError
from ernie_jax.generate.decode import CHUNK, Decoder
from ernie_jax.generate.sampling import SamplingConfig
from ernie_jax.model import UnifiedModel, text_logits
from ernie_jax.sequence import Text, lay_out, pad

GREEDY = SamplingConfig(temperature=0.0)
PROMPTS = [[1, 70, 71, 72, 73], [1, 80], [1, 90, 91]]


@pytest.fixture(scope="module")
def log_probabilities(config, params, bias):
  """ids -> log-probabilities [len(ids), V] by one pass over the whole row, without a cache."""
  model = UnifiedModel(config)

  @jax.jit
  def run(row):
    hidden = model.apply({"params": params}, row, bias).hidden
    return jax.nn.log_softmax(text_logits(hidden, params, config))

  def of(ids):
    row = pad(lay_out([Text(ids)]), 64)
    return np.asarray(run(jax.tree.map(lambda a: a[None], row)))[0, : len(ids)]

  return of


def test_greedy_decoding_equals_recomputing_everything(decoder, weights, log_probabilities):
  made = decoder.generate(weights, PROMPTS, sampling=GREEDY, max_new_tokens=20)
  assert made.tokens.shape == (3, 20) and (made.lengths == 20).all()
  for b, prompt in enumerate(PROMPTS):
    logs = log_probabilities(prompt + made.row(b))[len(prompt) - 1 : -1]
    chosen = np.take_along_axis(logs, made.tokens[b][:, None], axis=1)[:, 0]
    np.testing.assert_allclose(made.logprobs[b], chosen, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(chosen, logs.max(-1), rtol=1e-4, atol=1e-5)
  assert len(set(made.tokens.ravel().tolist())) > 3


def test_log_probabilities_of_drawn_tokens_are_the_models_own(decoder, weights, log_probabilities):
  how = SamplingConfig(temperature=2.0, top_k=20, top_p=0.9, seed=4)
  made = decoder.generate(weights, PROMPTS, sampling=how, max_new_tokens=20)
  for b, prompt in enumerate(PROMPTS):
    logs = log_probabilities(prompt + made.row(b))[len(prompt) - 1 : -1]
    chosen = np.take_along_axis(logs, made.tokens[b][:, None], axis=1)[:, 0]
    np.testing.assert_allclose(made.logprobs[b], chosen, rtol=1e-4, atol=1e-5)


def test_a_row_of_a_batch_is_what_it_is_alone(decoder, weights):
  together = decoder.generate(weights, PROMPTS, sampling=GREEDY, max_new_tokens=20)
  for b, prompt in enumerate(PROMPTS):
    alone = decoder.generate(weights, [prompt] * 3, sampling=GREEDY, max_new_tokens=20)
    np.testing.assert_array_equal(together.tokens[b], alone.tokens[0])


def test_equal_seeds_draw_equal_tokens_and_other_seeds_others(decoder, weights):
  run = lambda seed, tokens=20: decoder.generate(
    weights, PROMPTS, sampling=SamplingConfig(1.0, seed=seed), max_new_tokens=tokens
  )
  first = run(0)
  np.testing.assert_array_equal(first.tokens, run(0).tokens)
  np.testing.assert_array_equal(first.tokens[:, :7], run(0, tokens=7).tokens)
  assert (first.tokens != run(1).tokens).mean() > 0.5


def test_a_row_ends_with_the_first_stop_token_it_draws(decoder, weights):
  free = decoder.generate(weights, PROMPTS, sampling=GREEDY, max_new_tokens=30)
  stop = int(free.tokens[0, 4])
  made = decoder.generate(weights, PROMPTS, sampling=GREEDY, max_new_tokens=30, stop_ids=[stop, 2])
  assert made.lengths[0] <= 5 and made.row(0)[-1] == stop
  for b in range(len(PROMPTS)):
    row = free.row(b)
    ends = [i + 1 for i, token in enumerate(row) if token in (stop, 2)]
    assert made.row(b) == row[: ends[0] if ends else 30]
    assert not made.tokens[b, made.lengths[b] :].any()
    assert not made.logprobs[b, made.lengths[b] :].any()


def test_decoding_ends_when_every_row_has_stopped(decoder, weights):
  every = range(decoder.config.vocab_size)
  made = decoder.generate(weights, PROMPTS, sampling=GREEDY, max_new_tokens=30, stop_ids=every)
  assert made.tokens.shape == (3, 1) and (made.lengths == 1).all()


def test_streaming_gives_the_same_tokens_in_pieces(decoder, weights):
  arguments = dict(sampling=SamplingConfig(1.0), max_new_tokens=2 * CHUNK)
  pieces = list(decoder.stream(weights, PROMPTS, **arguments))
  assert [p.tokens.shape[1] for p in pieces] == [1, CHUNK, CHUNK - 1]
  joined = np.concatenate([p.tokens for p in pieces], axis=1)
  np.testing.assert_array_equal(joined, decoder.generate(weights, PROMPTS, **arguments).tokens)


def test_banned_ids_are_never_made(decoder, weights):
  banned = np.arange(decoder.config.vocab_size) % 2 == 1
  for how in (GREEDY, SamplingConfig(3.0)):
    made = decoder.generate(weights, PROMPTS, sampling=how, max_new_tokens=20, banned=banned)
    assert not (made.tokens % 2).any()


def test_lengths_of_one_bucket_and_settings_compile_nothing_anew(config, weights):
  decoder = Decoder(config, cache_length=48)
  compiled = lambda: (decoder._prefill._cache_size(), decoder._advance._cache_size())
  for length, how, tokens in [
    (3, GREEDY, 5),
    (16, SamplingConfig(0.7, top_k=5, seed=3), 20),
    (1, SamplingConfig(1.0, top_p=0.5), 31),
  ]:
    prompt = [[64 + i for i in range(length)]]
    decoder.generate(weights, prompt, sampling=how, max_new_tokens=tokens, stop_ids=[tokens])
    assert compiled() == (1, 1)
  decoder.generate(weights, [[64] * 17], sampling=GREEDY, max_new_tokens=5)
  assert compiled() == (2, 1)


@pytest.mark.parametrize("length, tokens", [(60, 4), (33, 31), (1, 63)])
def test_the_cache_can_be_filled_to_its_last_slot(
  decoder, weights, log_probabilities, length, tokens
):
  prompt = np.random.default_rng(0).integers(64, 96, length).tolist()
  made = decoder.generate(weights, [prompt], sampling=GREEDY, max_new_tokens=tokens)
  logs = log_probabilities(prompt + made.row(0))[length - 1 : -1]
  np.testing.assert_allclose(made.logprobs[0], logs.max(-1), rtol=1e-4, atol=1e-5)


def test_a_sliced_member_decodes_what_the_full_model_decodes_by_masks(
  config, params, bias, decoder, weights
):
  member, elastic = Member(depth=2, experts=3, top_k=1), ElasticConfig()
  usage = jnp.asarray(np.random.default_rng(0).random((3, 4)), jnp.float32)
  active = activate(member, usage, elastic=elastic, model=config)
  arguments = dict(sampling=GREEDY, max_new_tokens=20)
  masked = decoder.generate(weights, PROMPTS, active=active, **arguments)
  sliced = slice_params(params, bias, usage, member, elastic=elastic, model=config)
  small = Decoder(sliced.model, cache_length=64)
  cut = small.generate(small.load(sliced.params, sliced.bias), PROMPTS, **arguments)
  np.testing.assert_array_equal(masked.tokens, cut.tokens)
  np.testing.assert_allclose(masked.logprobs, cut.logprobs, rtol=1e-4, atol=1e-5)
  full = decoder.generate(weights, PROMPTS, active=all_active(config), **arguments)
  assert (full.tokens != cut.tokens).any()


def test_bfloat16_decodes_near_float32(config, params, bias, decoder, weights):
  half = Decoder(dataclasses.replace(config, dtype="bfloat16"), cache_length=64)
  made = half.generate(half.load(params, bias), PROMPTS, sampling=GREEDY, max_new_tokens=1)
  wanted = decoder.generate(weights, PROMPTS, sampling=GREEDY, max_new_tokens=1)
  np.testing.assert_allclose(made.logprobs, wanted.logprobs, atol=0.3)
  assert half.load(params, bias).params["embed"]["embedding"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
  "prompts, tokens, message",
  [
    ([[64] * 64], 1, "the prompt has 64 tokens, which leaves no room in a cache of 64"),
    ([[64] * 40], 30, "40 tokens and max_new_tokens=30 do not fit in a cache of 64"),
    ([[64], []], 5, "the prompt is empty"),
    ([], 5, "the prompt is empty"),
    ([[64, 96]], 5, "the prompt has the id 96, but this model knows 0 to 95"),
    ([[-1, 96]], 5, "the prompt has the id -1"),
    ([[64]], 0, "max_new_tokens must be at least 1"),
  ],
)
def test_what_cannot_be_decoded_is_told_in_one_line(decoder, weights, prompts, tokens, message):
  with pytest.raises(UserError, match=message):
    decoder.generate(weights, prompts, sampling=GREEDY, max_new_tokens=tokens)
