"""What each modality pulls the shared layers with: `python -m ernie_jax.analysis.gradients --workdir=RUN`.

Losses of a common size (`objectives/balance.py`) need not have gradients of one: an answer of two tokens moves the layers
more than a row of a program does. An optimizer that normalises the whole (Muon, Adam) gives each modality the part that its gradient has
in the sum. Here batches of the run's own data go through the model as they do in training, and the gradient of each
modality's weighted loss in the parameters of the stack is taken alone.

Letters: D parameters of the stack.

Our choice: the mean over batches, as its noise cancels in momentum and its signal does not; the means that losses are
divided by are those of these batches.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jaxtyping import Float

from ernie_jax import cli
from ernie_jax.data.pipeline import training_pipeline
from ernie_jax.errors import UserError
from ernie_jax.evaluate.family_table import align
from ernie_jax.train.experiment import build_experiment
from ernie_jax.train.held_out_loss import coder_of, media_shapes
from ernie_jax.train.model_io import SavedModel
from ernie_jax.train.pretrain import Pretrain, Variables

BATCHES = 8


@dataclasses.dataclass(frozen=True)
class ModalityGradient:
  """One modality.

  Attributes:
    name: of its loss.
    batches: in how many it was.
    loss: the mean, in nats per token, bit or code.
    weight: what the config gives it.
    noise: mean norm of one batch's weighted gradient.
    signal: norm of the mean gradient.
    share: of the sum of all: the part of the sum's length along itself that this one is. They add up to 1.
  """

  name: str
  batches: int
  loss: float
  weight: float
  noise: float
  signal: float
  share: float


@dataclasses.dataclass(frozen=True)
class GradientReport:
  """The modalities, and the step of the checkpoint."""

  modalities: tuple[ModalityGradient, ...]
  step: int

  def to_json(self) -> dict[str, Any]:
    """Ready for JSON."""
    return dataclasses.asdict(self)

  def to_text(self) -> str:
    """An aligned table."""
    lines = [("modality", "batches", "loss", "weight", "one batch", "mean", "share")]
    for m in self.modalities:
      norms = (f"{m.noise:.3f}", f"{m.signal:.3f}")
      lines.append(
        (m.name, f"{m.batches}", f"{m.loss:.3f}", f"{m.weight:g}", *norms, f"{m.share:.1%}")
      )
    about = f"gradients of the stack, norms of weighted losses; step {self.step:,}"
    return "\n".join([*align(lines), about])


def measure_gradients(saved: SavedModel, *, batches: int = BATCHES) -> GradientReport:
  """Takes the gradient of each modality's loss alone on the first batches of the training data.

  Raises:
    UserError: the model was not trained here, or none of the batches has anything to learn.
  """
  if saved.tokenizer is None or "data" not in saved.config:
    raise UserError("--workdir: this model was not trained here, so there is no data of its own")
  e = build_experiment(saved.config)
  task = Pretrain(e.model, e.elastic, e.objective, saved.vision, saved.speech)
  names = task.modalities
  of = functools.partial(_gradient, task)
  gradient, params = jax.jit(jax.grad(of, has_aux=True)), jax.device_put(saved.params)
  tokenizer = None if saved.vision is None else saved.vision.tokenizer
  variables = jax.device_put(Variables(saved.bias, saved.usage, tokenizer))
  take = lambda chosen, *rest: gradient(
    params["stack"], params, variables, dict(zip(names, chosen)), *rest, jnp.asarray(saved.step)
  )
  found: dict[str, list[tuple[float, np.ndarray]]] = {name: [] for name in names}
  data = training_pipeline(
    e.data, saved.tokenizer, shapes=media_shapes(e, saved.vision), coder=coder_of(saved.speech)
  )
  try:
    for i in tqdm.trange(batches, desc="batches", leave=False):
      batch, key = next(data), jax.random.key(i)
      none, _ = take(np.zeros(len(names), np.float32), batch, key)  # the router's own
      for name, one in zip(names, np.eye(len(names), dtype=np.float32)):
        with_it, losses = take(one, batch, key)
        if (loss := float(losses[name])) > 0:
          found[name].append((loss, _flat(with_it) - _flat(none)))
  finally:
    data.close()
  return _report(found, task, batches, saved.step)


def _gradient(task: Pretrain, stack, params, variables, weights, batch, key, step):
  """The loss with these weights, to be differentiated by the first argument, and the losses themselves."""
  weights = dict.fromkeys(task.weights(variables), 0.0) | weights
  done = task.loss({**params, "stack": stack}, variables, batch, key, step, weights=weights)
  return done.loss, {name: done.metrics[f"loss/{name}"] for name in task.modalities}


def _flat(tree: Any) -> Float[np.ndarray, "D"]:
  return np.concatenate([np.ravel(np.asarray(x)) for x in jax.tree.leaves(tree)])


def _report(found, task: Pretrain, batches: int, step: int) -> GradientReport:
  weights = task.weights(Variables(None, None))  # no means: as configured
  rows, means = [], {}
  for name, seen in found.items():
    if not seen:
      continue
    loss = float(np.mean([loss for loss, _ in seen]))
    scale = weights[name] / (loss if task.objective.rescale else 1.0)
    noise = scale * float(np.mean([np.linalg.norm(g) for _, g in seen]))
    means[name] = scale * np.sum([g for _, g in seen], axis=0) / batches
    rows.append((name, len(seen), loss, weights[name], noise))
  if not rows:
    raise UserError("--batches: nothing in so few batches is learnt")
  total = sum(means.values())
  length = max(float(total @ total), 1e-30)
  return GradientReport(
    modalities=tuple(
      ModalityGradient(
        *row,
        signal=float(np.linalg.norm(means[row[0]])),
        share=float(means[row[0]] @ total) / length,
      )
      for row in rows
    ),
    step=step,
  )


if __name__ == "__main__":
  from ernie_jax.analysis import gradients_command  # flags only where this is the program

  cli.run(gradients_command.main)
