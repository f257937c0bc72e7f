"""One example with a picture and speech in it, through the whole model: understanding path and audio embeddings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_speech import CODE, SHAPE, codes, voice
from small_vision import CONFIG, MODEL, SLOTS, frozen_tokenizer, media

from ernie_jax.data.media_tasks import Said, document, hear
from ernie_jax.elastic.family import ElasticConfig
from ernie_jax.media import Vision
from ernie_jax.sequence import Kind, RowBuilder
from ernie_jax.train.pretrain import ObjectiveConfig, Pretrain, initial_variables, unboxed_params

LENGTH = 96
BOTH = dataclasses.replace(MODEL, depth=4, top_layers=3, audio=CODE)


def row_of(*examples):
  builder = RowBuilder(CONFIG.shapes(), SLOTS, length=LENGTH, sound=SHAPE)
  assert all([builder.add(items) for items in examples])
  return builder.finish()


def batch_of(*rows):
  return jax.tree.map(lambda *fields: np.stack(fields), *rows)


@pytest.fixture(scope="module")
def loss_of():
  """Loss and gradient of a batch, without errors in what is heard."""
  frozen = frozen_tokenizer()
  quiet = dataclasses.replace(ObjectiveConfig().sound_history, dropped=0.0, replaced=0.0)
  plain = ElasticConfig(depth_full=1.0, width_full=1.0, sparsity_full=1.0)
  task = Pretrain(BOTH, plain, ObjectiveConfig(sound_history=quiet), Vision(CONFIG, frozen))
  params = unboxed_params(BOTH, jax.random.key(0), Vision(CONFIG, frozen))
  variables = initial_variables(BOTH, frozen)

  @jax.jit
  def run(params, variables, batch):
    def with_metrics(p):
      found = task.loss(p, variables, batch, jax.random.key(0), jnp.asarray(0))
      return found.loss, found.metrics

    return jax.value_and_grad(with_metrics, has_aux=True)(params)

  return lambda batch: run(params, variables, batch)


def size(tree) -> float:
  return float(sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(tree)))


def test_the_answer_to_a_heard_question_teaches_both_eye_and_ear(loss_of):
  rows = [row_of(hear(media(i), codes(i, 5), ((80, 81), (70 + i, 71)))) for i in range(2)]
  for one in rows:
    assert (one.row.kind == Kind.AUDIO).any() and (one.row.kind == Kind.VISION_CONTEXT).any()
  (loss, metrics), gradient = loss_of(batch_of(*rows))
  assert np.isfinite(loss) and np.isfinite(size(gradient))
  assert metrics["loss/understanding"] > 0 and metrics["loss/codes"] == 0
  assert size(gradient["understand"]) > 0
  assert size(gradient["audio"]["embedding"]) > 0
  same = batch_of(*rows)
  other = row_of(hear(media(0), codes(9, 5), ((80, 81), (70, 71))))  # another question
  (elsewhere, _), _ = loss_of(batch_of(other, rows[1]))
  assert elsewhere != loss and loss_of(same)[0][0] == loss


def test_a_document_with_speech_learns_text_bits_and_codes_at_once(loss_of):
  said = Said(codes(3, 6), voice(3))
  pictures = np.concatenate([media(1), media(2)])
  story = row_of(document([said, (80, 81), ()], pictures))
  riddle = row_of(document([(80,), said], pictures[:1]))
  (loss, metrics), gradient = loss_of(batch_of(story, riddle))
  assert np.isfinite(loss)
  for name in ("understanding", "bits", "codes"):
    assert metrics[f"loss/{name}"] > 0, name
  for name in ("embedding", "head", "voice"):
    assert size(gradient["audio"][name]) > 0
