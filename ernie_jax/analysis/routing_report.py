"""Which experts each group of tokens uses: the numbers of ERNIE 5.0's figures 8 to 10.

Letters: N MoE layers, E experts, K choices per token.
"""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from ernie_jax.evaluate.family_table import align

TOP_SHARE = 0.25  # of the experts, whose sets are compared


@dataclasses.dataclass(frozen=True, eq=False)
class GroupRouting:
  """One group of tokens.

  Attributes:
    name: as in the report, such as "image generation".
    tokens: how many were routed.
    activation: share of them that activate each expert; every layer's shares sum to K.
  """

  name: str
  tokens: int
  activation: Float[np.ndarray, "N E"]

  @property
  def entropy(self) -> Float[np.ndarray, "N"]:
    """Normalised entropy of expert use, see `normalised_entropy`."""
    return normalised_entropy(self.activation)


@dataclasses.dataclass(frozen=True, eq=False)
class Overlap:
  """IoU of two groups' sets of most activated experts, layer by layer."""

  first: str
  second: str
  iou: Float[np.ndarray, "N"]


@dataclasses.dataclass(frozen=True, eq=False)
class RoutingReport:
  """Expert use of a model on held-out rows.

  Attributes:
    groups: those that the rows have, in the report's order.
    load: share of each layer's assignments that each expert takes, all tokens together, sources as often as
      in training.
    layers: number of each MoE layer among all layers, from 1.
    top_k: K.
    rows: rows that were run.
    step: the training step of the checkpoint.
  """

  groups: tuple[GroupRouting, ...]
  load: Float[np.ndarray, "N E"]
  layers: tuple[int, ...]
  top_k: int
  rows: int
  step: int

  @property
  def experts(self) -> int:
    """E."""
    return self.load.shape[1]

  @property
  def marked(self) -> dict[str, int]:
    """Indices into N of the layers that tables and figures show, by name; fewer in a shallow model."""
    last = len(self.layers) - 1
    places = {"first": 0, "middle": len(self.layers) // 2, "last": last}
    if last < 2:
      del places["middle"]
    return places if last else {"only": 0}

  @property
  def overlaps(self) -> tuple[Overlap, ...]:
    """Each pair of groups."""
    tops = {group.name: top_experts(group.activation) for group in self.groups}
    pairs = itertools.combinations(tops, 2)
    return tuple(Overlap(a, b, iou(tops[a], tops[b])) for a, b in pairs)

  @property
  def max_over_mean(self) -> Float[np.ndarray, "N"]:
    """How many times its fair share the busiest expert of a layer takes; 1 is perfect."""
    return self.load.max(-1) * self.experts

  @property
  def dead(self) -> tuple[int, ...]:
    """Experts of each layer that no token activates."""
    return tuple((self.load == 0).sum(-1).tolist())

  def to_json(self) -> dict[str, Any]:
    """All figures, ready for JSON; lists over layers from the bottom up."""
    numbers = lambda values: np.round(values, 6).tolist()
    return {
      "step": self.step,
      "rows": self.rows,
      "experts": self.experts,
      "top_k": self.top_k,
      "layers": list(self.layers),
      "groups": {
        g.name: {
          "tokens": g.tokens,
          "activation": numbers(g.activation),
          "entropy": numbers(g.entropy),
        }
        for g in self.groups
      },
      "iou": [
        {"groups": [pair.first, pair.second], "iou": numbers(pair.iou)} for pair in self.overlaps
      ],
      "iou_by_chance": round(iou_by_chance(self.experts), 6),
      "load": {"max_over_mean": numbers(self.max_over_mean), "dead": list(self.dead)},
    }

  def to_text(self) -> str:
    """Aligned tables: entropy of each group, IoU of each pair, and the load of each layer."""
    marked = self.marked
    at = lambda values: [f"{values[i]:.3f}" for i in marked.values()]
    lines = [("entropy", "tokens", *marked)]
    lines += [(g.name, f"{g.tokens:,}", *at(g.entropy)) for g in self.groups]
    parts = ["\n".join(align(lines))]
    if self.overlaps:
      lines = [("IoU of the top 25 %", *marked)]
      lines += [(f"{p.first} - {p.second}", *at(p.iou)) for p in self.overlaps]
      chance = f"two random sets: {iou_by_chance(self.experts):.3f}"
      parts.append("\n".join([*align(lines), chance]))
    lines = [("MoE layer", "busiest / mean load", "dead experts")]
    lines += [
      (str(n), f"{busiest:.2f}", str(dead))
      for n, busiest, dead in zip(self.layers, self.max_over_mean, self.dead)
    ]
    about = (
      f"{self.rows} held-out rows; {self.experts} experts, {self.top_k} for each token;"
      f" step {self.step:,}"
    )
    return "\n\n".join([*parts, "\n".join([*align(lines), about])])


def normalised_entropy(use: Float[np.ndarray, "*N E"]) -> Float[np.ndarray, "*N"]:
  """-sum p log p / log E of each expert's share p of the whole use: 1 where all are used alike.

  Tokens that all choose the same K experts give log K / log E, the least there can be.
  """
  share = use / use.sum(-1, keepdims=True)
  logs = np.log(share, where=share > 0, out=np.zeros_like(share))
  return -(share * logs).sum(-1) / math.log(max(2, use.shape[-1])) + 0.0  # no -0


def top_count(experts: int) -> int:
  """How many experts the top 25 % are: at least one."""
  return max(1, round(TOP_SHARE * experts))


def top_experts(activation: Float[np.ndarray, "*N E"]) -> Bool[np.ndarray, "*N E"]:
  """The most activated 25 % of the experts; of equals, those of lower number."""
  order = np.argsort(-activation, axis=-1, kind="stable")
  best = order[..., : top_count(activation.shape[-1])]
  chosen = np.zeros(activation.shape, bool)
  np.put_along_axis(chosen, best, True, axis=-1)
  return chosen


def iou(a: Bool[np.ndarray, "*N E"], b: Bool[np.ndarray, "*N E"]) -> Float[np.ndarray, "*N"]:
  """Size of the intersection over that of the union, of sets that are not empty."""
  return (a & b).sum(-1) / (a | b).sum(-1)


def iou_by_chance(experts: int) -> float:
  """The mean IoU of two independent random sets of 25 % of so many experts."""
  size = top_count(experts)
  ways = lambda shared: math.comb(size, shared) * math.comb(experts - size, size - shared)
  mean = sum(ways(i) * i / (2 * size - i) for i in range(size + 1))
  return mean / math.comb(experts, size)
