"""Our side of a comparison: plain text rows through the model, greedy decoding in its plainest form, and what
an encoder gives by the names of transformers."""

import functools

import jax
import numpy as np

from ernie_jax.backbone.inputs import empty_cache
from ernie_jax.model import UnifiedModel, text_logits
from ernie_jax.sequence.row import Kind, Row, empty_row
from ernie_jax.vision.vit import VitOutput


def text_rows(ids: np.ndarray, *, length: int | None = None, start: int = 0) -> Row:
  """Rows [B, length] of ids [B, L] at positions start.., padded at the end; targets are the next id."""
  rows, count = ids.shape
  length = length or count
  real = np.arange(length) < count
  index = (start + np.arange(length)).astype(np.int32)
  fit = lambda a: np.pad(a, ((0, 0), (0, length - count))).astype(np.int32)
  row = empty_row(length)
  row = row.replace(
    kind=np.where(real, Kind.TEXT, Kind.PAD).astype(np.int32),
    position=np.repeat(index[:, None], 3, axis=1).astype(np.float32),
    group=index,
    example=real.astype(np.int32),
  )
  batch = jax.tree.map(lambda a: np.broadcast_to(a, (rows, *a.shape)), row)
  return batch.replace(token=fit(ids), target=fit(np.roll(ids, -1, axis=1)))


class Ours:
  """An imported model that answers what the twin is asked.

  Args:
    length: rows are padded to it, so that one compilation answers everything.
  """

  def __init__(self, imported, *, length: int):
    self.imported, self.length = imported, length
    c = imported.model
    model = UnifiedModel(c)

    @jax.jit
    def forward(params, bias, row):
      out = model.apply({"params": params}, row, bias)
      return jax.tree.map(lambda h: text_logits(h, params, c), (out.hidden, out.mtp))

    @jax.jit
    def step(params, bias, row, cache):
      out = model.apply({"params": params}, row, bias, None, cache)
      return text_logits(out.hidden[:, -1], params, c), out.cache

    self._forward = functools.partial(forward, imported.params)
    self._step = functools.partial(step, imported.params)

  def logits(self, ids: np.ndarray, *, bias: np.ndarray | None = None) -> np.ndarray:
    """Logits [B, L, V], with another router bias if one is given."""
    return self._all(ids, bias)[0][:, : ids.shape[1]]

  def mtp_logits(self, ids: np.ndarray) -> np.ndarray:
    """The first MTP module's logits [B, L - 1, V]: the last id has nothing ahead."""
    return self._all(ids)[1][0][:, : ids.shape[1] - 1]

  def greedy(self, ids: np.ndarray, count: int) -> np.ndarray:
    """The continuation [B, count] without a cache: the whole row again for every token."""
    prompt = ids.shape[1]
    for _ in range(count):
      chosen = np.argmax(self.logits(ids)[:, -1], axis=-1)
      ids = np.concatenate([ids, chosen[:, None]], axis=1)
    return ids[:, prompt:]

  def greedy_cached(self, ids: np.ndarray, count: int, *, block: int = 1) -> np.ndarray:
    """The continuation [B, count] with the cache: the prompt in blocks, then token by token."""
    rows, prompt = ids.shape
    cache = empty_cache(self.imported.model, rows, self.length)
    pieces = [(at, ids[:, at : at + block]) for at in range(0, prompt, block)]
    out = []
    while len(out) < count:
      for at, piece in pieces:
        row = text_rows(piece, start=at)
        logits, cache = self._step(self.imported.bias, row, cache)
      out.append(np.argmax(np.asarray(logits), axis=-1))
      pieces = [(prompt + len(out) - 1, out[-1][:, None])]
    return np.stack(out, axis=1)

  def _all(self, ids: np.ndarray, bias: np.ndarray | None = None):
    bias = self.imported.bias if bias is None else bias
    return jax.tree.map(np.asarray, self._forward(bias, text_rows(ids, length=self.length)))


def compare_encoders(ours: VitOutput, theirs: dict[str, np.ndarray]) -> None:
  """Everything transformers returned is among our outputs, and large enough to tell."""
  known = {
    "last_hidden_state": ours.tokens,
    "pooler_output": ours.pooled,
    "logits": ours.head,
    "image_embeds": ours.head,
  }
  for name, expected in theirs.items():
    assert np.abs(expected).max() > 0.5, name
    np.testing.assert_allclose(known[name], expected, atol=3e-5, err_msg=name)
