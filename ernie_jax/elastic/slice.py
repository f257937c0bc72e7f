"""Writes one member of a trained family as a model of its own, which every other tool reads.

  python -m ernie_jax.elastic.slice --workdir=runs/quickstart --member=4x16x2 --out=runs/small

The new workdir holds a config, a checkpoint without optimizer state, and the tokenizer; evaluate and
generate work on it as on any other. This is an entry point: it stands above the rooms, so it alone in
this folder knows how models are stored.
"""

import dataclasses
import pathlib

import numpy as np
from absl import flags

from ernie_jax import cli
from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.parameters import model_cost
from ernie_jax.elastic.family import ElasticConfig, Member, kept_layers, parse_member
from ernie_jax.elastic.slicing import member_config, slice_params
from ernie_jax.errors import UserError
from ernie_jax.train.model_io import SavedModel, load_model, save_model

WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of the trained family.", allow_override=True
)
MEMBER = flags.DEFINE_string(
  "member", None, "Which member: DEPTHxEXPERTSxTOPK.", allow_override=True
)
OUT = flags.DEFINE_string("out", None, "New directory for the smaller model.")
STEP = flags.DEFINE_integer(
  "step", None, "Checkpoint to slice; the newest if not given.", allow_override=True
)


def slice_member(
  workdir: str | pathlib.Path, member: str, out: str | pathlib.Path, *, step: int | None = None
) -> SavedModel:
  """Cuts `member` (`DEPTHxEXPERTSxTOPK`) out of a workdir's checkpoint and saves it in `out`.

  Its outputs equal those of the full model under `elastic.family.activate`. Of the family's named
  members the slice keeps those that are the same sub-network in both.

  Raises:
    UserError: no model in `workdir`, a member that it does not contain, or `out` cannot be written
      or already holds a model.
  """
  saved = load_model(workdir, step=step)
  chosen = parse_member(member, saved.model, key="--member")
  sliced = slice_params(
    saved.params, saved.bias, saved.usage, chosen, elastic=saved.elastic, model=saved.model
  )
  small = dataclasses.replace(
    saved,
    model=sliced.model,
    elastic=sliced_family(chosen, saved.elastic, saved.model),
    params=sliced.params,
    bias=sliced.bias,
    usage=sliced.usage,
  )
  try:
    save_model(out, small)
  except UserError as e:
    raise UserError(f"--out: {e}") from e
  except OSError as e:
    raise UserError(f"--out: cannot write {e.filename or out}: {e.strerror}") from e
  return small


def sliced_family(member: Member, elastic: ElasticConfig, model: ModelConfig) -> ElasticConfig:
  """The family inside `member`: sizes that fit, and the named members that are the same in both."""
  smaller = member_config(member, elastic=elastic, model=model)
  kept = np.flatnonzero(kept_layers(member.depth, elastic, model))

  def is_inside(name: str) -> bool:
    try:
      other = parse_member(name, smaller)
    except UserError:
      return False
    within = kept[kept_layers(other.depth, elastic, smaller)]
    return np.array_equal(within, np.flatnonzero(kept_layers(other.depth, elastic, model)))

  return dataclasses.replace(
    elastic,
    min_depth=max(1, min(elastic.min_depth, smaller.depth - 1)),
    min_top_k=min(elastic.min_top_k, smaller.top_k),
    widths=tuple(w for w in elastic.widths if smaller.top_k <= w <= smaller.experts),
    members=tuple(filter(is_inside, elastic.members)),
  )


def main(argv: list[str]) -> None:
  """Runs the command; see the module's docstring."""
  del argv
  workdir = cli.require(WORKDIR, example="runs/quickstart")
  member = cli.require(MEMBER, example="4x16x2")
  out = cli.require(OUT, example="runs/small")
  print(f"slicing {member} out of {workdir} into {out}", flush=True)
  small = slice_member(workdir, member, out, step=STEP.value)
  cost = model_cost(small.model, 1)
  print(
    f"wrote {out}: step {small.step}, {cost.params_total:,} parameters, {cost.params_active:,} active"
  )


if __name__ == "__main__":
  cli.run(main)
