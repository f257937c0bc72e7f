"""Text alone and text about media: each its own mean, in one walk over the logits."""

import jax
import numpy as np
import pytest

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.model import Output
from ernie_jax.objectives.text import text_loss
from ernie_jax.sequence import Audio, ContextMedia, Text, VisionTarget, lay_out, pack
from ernie_jax.sequence import SpecialToken as S

CONFIG = ModelConfig(vocab_size=96, depth=1, width=8, heads=1, kv_heads=1, head_dim=8)
ALONE = [Text((S.BOS, *range(70, 82), S.EOS))]
ASKED = [
  Text((S.BOS,)),
  ContextMedia(slot=0, frames=1, grid=(1, 2)),
  Text((S.SEP, 70, S.SEP), learn=False),
  Text((71, S.EOS)),
]
DRAWN = [
  Text((S.BOS, 72, 73), learn=False),
  VisionTarget(slot=0, frames=1, scales=((1, 1), (2, 2))),
  Text((S.EOS,)),
]
HEARD = [Text((S.BOS,)), Audio(slot=0, frames=2), Text((74, 75, S.EOS))]


def batch(*rows):
  packed = [pack([lay_out(one) for one in examples], 32) for examples in rows]
  return jax.tree.map(lambda *fields: np.stack(fields), *packed)


def naive(hidden, kernel, row, *, media: bool):
  """Mean over the targets of examples that have media, or have none, one position after another."""
  losses, tokens = [], 0.0
  for b, i in zip(*np.nonzero(row.text_weight)):
    kinds = set(row.kind[b][row.example[b] == row.example[b, i]].tolist())
    if (kinds != {1}) == media:
      logs = jax.nn.log_softmax(hidden[b, i] @ kernel)
      losses.append(-logs[row.target[b, i]] * row.text_weight[b, i])
      tokens += row.text_weight[b, i]
  return sum(losses) / max(tokens, 1.0)


@pytest.mark.parametrize(
  "rows",
  [
    ([ALONE, ASKED], [DRAWN, HEARD]),
    ([ASKED, ALONE], []),  # an empty row
    ([ALONE],),
    ([HEARD, ASKED],),
  ],
)
def test_each_kind_has_its_mean_and_its_weight(rows):
  row, rng = batch(*rows), np.random.default_rng(0)
  hidden = rng.normal(size=(*row.kind.shape, 8)).astype(np.float32)
  params = {"embed": {"embedding": rng.normal(size=(96, 8)).astype(np.float32)}}
  kernel = params["embed"]["embedding"].T
  weights = {"text": 0.5, "understanding": 3.0}

  def loss(hidden, row):
    output = Output(hidden=hidden, mtp=(), stats=None)
    return text_loss(output, row, params, CONFIG, weights)

  spoilt = np.where(row.text_weight[..., None] > 0, hidden, np.nan)
  found, gradient = loss(spoilt, row), jax.grad(lambda h: loss(h, row).weighed)(spoilt)
  total = lambda h: 0.5 * naive(h, kernel, row, media=False) + 3 * naive(h, kernel, row, media=True)
  wanted, wanted_gradient = jax.value_and_grad(total)(hidden)
  np.testing.assert_allclose(
    found.means["text"], naive(hidden, kernel, row, media=False), rtol=1e-5
  )
  told = naive(hidden, kernel, row, media=True)
  np.testing.assert_allclose(found.means["understanding"], told, rtol=1e-5)
  np.testing.assert_allclose(found.weighed, wanted, rtol=1e-5)
  np.testing.assert_allclose(gradient, wanted_gradient, rtol=1e-4, atol=1e-6)
  assert sum(found.tokens.values()) == row.text_weight.sum()
  assert found.further.shape == (0,)
  zero = jax.grad(lambda h: sum(loss(h, row).means.values()))(hidden)
  assert not np.any(zero)  # means are for people
