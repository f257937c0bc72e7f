"""Expert use as a picture: the panels of ERNIE 5.0's figures 8 to 10, and the load of every layer.

Made without pyplot, as `evaluate/figures.py`. Colours are Okabe and Ito's, which colour-blind readers can
tell apart: understanding is blue, generation orange, the lighter of both for pictures.
"""

import os

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from ernie_jax.analysis.routing_report import (
  RoutingReport,
  iou_by_chance,
  top_count,
  top_experts,
)
from ernie_jax.whole_file import written_whole

_NOTE = 8  # font size
_LEGEND = {"framealpha": 0.85, "edgecolor": "none", "fontsize": _NOTE}
_STYLE = {  # colour, marker and line
  "text": ("#444444", "o", "-"),
  "image understanding": ("#56B4E9", "s", "--"),
  "video understanding": ("#0072B2", "D", "--"),
  "image generation": ("#E69F00", "^", "-."),
  "video generation": ("#D55E00", "v", "-."),
  "audio": ("#009E73", "P", ":"),
}
_WIDTH = 13.0  # inches
_BARS, _CELLS, _LINES = 1.15, 0.55, 3.7  # height of a group's bars and cells, and of the lines


def write_routing_figure(report: RoutingReport, path: str | os.PathLike) -> None:
  """Writes a PNG; with one group alone it has no panels of pairs.

  Raises:
    UserError: the file cannot be written.
  """
  heights = [0.9 + _BARS * len(report.groups)]
  panels = [draw_activation]
  if len(report.groups) > 1:
    heights.append(1.9 + _CELLS * (len(report.groups) - 1))
    panels.append(draw_overlaps)
  heights.append(_LINES)
  figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
  parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
  for part, draw in zip(parts, panels):
    draw(part, report)
  entropy, load = parts[-1].subplots(1, 2)
  draw_entropy(entropy, report)
  draw_load(load, report)
  with written_whole(path) as part:
    figure.savefig(part, dpi=130, format="png")


def draw_activation(figure: Figure | SubFigure, report: RoutingReport) -> None:
  """Share of each group's tokens that activate each expert: a row of bars a group, a column a layer."""
  marked = report.marked
  figure.suptitle(
    f"Expert activation: share of a group's tokens that choose each expert (top {report.top_k} of"
    f" {report.experts})\ndark: the group's top 25 % of experts; dashed: all experts alike"
  )
  grid = figure.subplots(len(report.groups), len(marked), sharex=True, sharey=True, squeeze=False)
  experts = np.arange(report.experts)
  for row, group in zip(grid, report.groups):
    color = _STYLE[group.name][0]
    for axes, place in zip(row, marked.values()):
      use = group.activation[place]
      alpha = np.where(top_experts(use), 1.0, 0.4)
      colors = [matplotlib.colors.to_rgba(color, a) for a in alpha]
      axes.bar(experts, use, width=0.85, color=colors)
      axes.axhline(report.top_k / report.experts, color="black", linewidth=0.7, linestyle="--")
      axes.spines[["top", "right"]].set_visible(False)
      axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 4, 5, 8, 10]))
      axes.set_xlim(-0.6, report.experts - 0.4)
    words = group.name.replace(" ", "\n")
    row[0].set_ylabel(words, rotation=0, ha="right", va="center", labelpad=8)
  for axes, title in zip(grid[0], _titles(report)):
    axes.set_title(title)
  for axes in grid[-1]:
    axes.set_xlabel("expert")


def draw_overlaps(figure: Figure | SubFigure, report: RoutingReport) -> None:
  """IoU of the groups' top experts at the marked layers, as heat maps below the diagonal."""
  marked, groups = report.marked, report.groups
  size = top_count(report.experts)
  figure.suptitle(
    f"IoU of the groups' top 25 % of experts (two random sets of {size}:"
    f" {iou_by_chance(report.experts):.2f} on average)\n"
  )
  names = [group.name for group in groups]
  values = np.full((len(report.layers), len(names), len(names)), np.nan)
  for pair in report.overlaps:
    values[:, names.index(pair.second), names.index(pair.first)] = pair.iou
  row = figure.subplots(1, len(marked), squeeze=False)[0]
  for axes, place, title in zip(row, marked.values(), _titles(report)):
    shown = values[place, 1:, :-1]
    image = axes.imshow(shown, vmin=0, vmax=1, cmap="cividis")
    for (y, x), value in np.ndenumerate(shown):
      if np.isfinite(value):
        color = "white" if value < 0.55 else "black"
        axes.text(x, y, f"{value:.2f}", ha="center", va="center", color=color, fontsize=9)
    axes.set_title(title)
    axes.set_xticks(range(len(names) - 1), [n.replace(" ", "\n") for n in names[:-1]])
    axes.tick_params(axis="x", labelsize=_NOTE, rotation=45 if len(names) > 4 else 0)
    axes.set_yticks(range(len(names) - 1), names[1:] if axes is row[0] else [])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
  figure.colorbar(image, ax=row.tolist(), shrink=0.8, label="IoU")


def draw_entropy(axes: Axes, report: RoutingReport) -> None:
  """Normalised entropy of each group's expert use, a line a group over the layers."""
  lowest = np.log(report.top_k) / np.log(max(2, report.experts))
  for group in report.groups:
    color, marker, line = _STYLE[group.name]
    axes.plot(
      report.layers, group.entropy, line, color=color, marker=marker, markersize=5, label=group.name
    )
  axes.axhline(1, color="gray", linewidth=0.8, linestyle="--")
  least = min(group.entropy.min() for group in report.groups)
  if least < lowest + 0.15:
    axes.axhline(lowest, color="gray", linewidth=0.8, linestyle="--")
    axes.annotate(
      f"always the same {report.top_k} experts", (1, lowest), (-2, -6), ha="right", va="top",
      xycoords=axes.get_yaxis_transform(), textcoords="offset points", fontsize=_NOTE, color="gray",
    )  # fmt: skip
    axes.set_ylim(bottom=lowest - 0.12 * (1.02 - lowest))
  axes.set(title="Normalised entropy of expert use", ylabel="entropy / log experts")
  _over_layers(axes, report)
  if len(report.groups) > 1:
    axes.legend(**_LEGEND, loc="upper left", bbox_to_anchor=(1, 1))
  else:
    axes.set_title(f"Normalised entropy of expert use, {report.groups[0].name}")


def draw_load(axes: Axes, report: RoutingReport) -> None:
  """The busiest expert of each layer over all tokens; the number on a bar counts dead experts."""
  axes.bar(report.layers, report.max_over_mean, width=0.7, color="#999999")
  axes.axhline(1, color="black", linewidth=0.8, linestyle="--")
  dead = report.dead
  for layer, height, count in zip(report.layers, report.max_over_mean, dead):
    if count:
      axes.annotate(
        str(count), (layer, height), (0, 2), textcoords="offset points", ha="center", fontsize=_NOTE
      )
  note = "numbers: dead experts" if any(dead) else "no dead experts"
  axes.set(title=f"Busiest expert, all tokens ({note})", ylabel="load / mean load")
  axes.set_ylim(0, 1.12 * max(1.0, report.max_over_mean.max()))
  _over_layers(axes, report)


def _over_layers(axes: Axes, report: RoutingReport) -> None:
  axes.set_xlabel("layer")
  axes.spines[["top", "right"]].set_visible(False)
  axes.grid(alpha=0.25)
  axes.set_axisbelow(True)
  axes.set_xlim(report.layers[0] - 0.5, report.layers[-1] + 0.5)
  axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))


def _titles(report: RoutingReport) -> list[str]:
  """Of the marked layers, with their numbers."""
  return [
    f"{name} MoE layer (layer {report.layers[place]})" for name, place in report.marked.items()
  ]
