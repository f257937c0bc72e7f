"""One picture of a run: loss curve, the family's loss against size, and the balance of its routers.

Each `draw_*` takes a Matplotlib `Axes`, so a notebook can put the panels where it likes. Figures are made
without pyplot, so nothing here changes a notebook's back end or leaves figures open.
"""

import json
import math
import os
import pathlib
from collections.abc import Mapping

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from ernie_jax.evaluate.family_table import FamilyReport
from ernie_jax.evaluate.labels import place_labels
from ernie_jax.whole_file import written_whole

_LEGEND_LAYERS = 8  # more lines than this, and the legend names only the first, middle and last
_SMOOTHING = 0.02  # half of the moving average's window, as a share of the curve
_NOTE = 8  # font size
_LEGEND = {"framealpha": 0.85, "edgecolor": "none"}
_TEXT = {"loss/text": "text alone", "loss/understanding": "text about media"}
_HELD_OUT_TEXT = {
  "held-out text": "held_out/loss",
  "held-out text about media": "held_out/media_text",
  "held-out text of speech": "held_out/speech_text",
}

Series = tuple[np.ndarray, np.ndarray]


def read_metrics(path: str | os.PathLike) -> dict[str, Series]:
  """Steps and values ([n] or [n, layers]) of every key of a metrics.jsonl; empty if there is none.

  What is not a number, or not finite, is NaN, and so is the loss of a kind that a step had nothing of, which
  is logged as 0; a kind that no step had is left out. A last line that a killed run left unfinished is passed over.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return {}
  points: dict[str, dict[int, np.ndarray]] = {}
  for line in path.read_text().splitlines():
    try:
      values = json.loads(line)
    except json.JSONDecodeError:
      continue
    for key, value in values.items():
      if key != "step" and (number := _numbers(value)) is not None:
        points.setdefault(key, {})[int(values["step"])] = number
  series = {}
  for key, by_step in points.items():
    if len({v.shape for v in by_step.values()}) > 1:
      continue
    values, of_kind = np.array(list(by_step.values())), key.startswith(("loss/", "rescaled/"))
    if of_kind:
      values = np.where(values == 0, np.nan, values)
    if not (of_kind and np.isnan(values).all()):
      series[key] = (np.array(list(by_step)), values)
  return series


def _numbers(value) -> np.ndarray | None:
  """A number or a list of them, or None for anything else, such as a note."""
  try:
    return np.array(value, np.float64)  # None becomes NaN
  except (TypeError, ValueError):
    return None


def write_figure(
  path: str | os.PathLike, report: FamilyReport | None, metrics: Mapping[str, Series]
) -> bool:
  """Writes a PNG of the panels there is something for; without metrics that is the family's alone.

  A run without text of its own has no `report` here; a sliced one has no metrics. Without either nothing is written.

  The file appears whole: a run is complete where its picture is.

  Returns:
    Whether there was something to draw.

  Raises:
    UserError: the file cannot be written.
  """
  panels = [] if report is None else [lambda axes: draw_family(axes, report)]
  curves = {"loss": draw_losses, "loss/bits": draw_bits, "loss/codes": draw_codes}
  drawn = [draw for key, draw in curves.items() if key in metrics]
  panels = [lambda axes, draw=draw: draw(axes, metrics) for draw in drawn] + panels
  if "router/max_over_mean" in metrics:
    panels += [lambda axes: draw_load(axes, metrics), lambda axes: draw_entropy(axes, metrics)]
  if not panels:
    return False
  columns = min(2, len(panels))
  rows = -(-len(panels) // columns)
  figure = Figure(figsize=(6.5 * columns, 4.6 * rows), layout="constrained")
  for number, draw in enumerate(panels, 1):
    axes = figure.add_subplot(rows, columns, number)
    axes.spines["top"].set_visible(False)
    axes.grid(alpha=0.25)
    draw(axes)
  with written_whole(path) as part:
    figure.savefig(part, dpi=130, format="png")
  return True


def draw_losses(axes: Axes, metrics: Mapping[str, Series]) -> None:
  """Training losses of text (where there is none, of all), each kind held out, and the learning rate."""
  kinds = {key: name for key, name in _TEXT.items() if key in metrics}
  for key, name in (kinds or {"loss": ""}).items():
    _draw_loss(axes, metrics, key, name if len(kinds) > 1 else "")
  held_out = {name: key for name, key in _HELD_OUT_TEXT.items() if key in metrics}
  for (name, key), marker in zip(held_out.items(), "osD"):
    label = name if len(held_out) > 1 else "held out"
    axes.plot(*metrics[key], marker, markersize=4, color="black", label=label, fillstyle="none")
  axes.set(title="Text" if kinds else "Loss", ylabel="nats per token")
  if "learning_rate" in metrics:
    rate = axes.twinx()
    rate.spines["top"].set_visible(False)
    rate.plot(*metrics["learning_rate"], ":", color="gray", linewidth=1)
    rate.set_ylabel("learning rate (dotted)", color="gray", fontsize=_NOTE)
    rate.tick_params(axis="y", colors="gray", labelsize=_NOTE)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    rate.set_ylim(bottom=0)
    axes.set_zorder(rate.get_zorder() + 1)  # the twin would be drawn over the legend
    axes.patch.set_visible(False)
  axes.legend(**_LEGEND, loc="upper right")


def draw_bits(axes: Axes, metrics: Mapping[str, Series]) -> None:
  """Training loss of the bits of pictures and videos, smoothed, and held out."""
  _draw_produced(axes, metrics, "bits")
  axes.set(title="Pictures and videos", ylabel="nats per bit")


def draw_codes(axes: Axes, metrics: Mapping[str, Series]) -> None:
  """Training loss of the codes of speech, smoothed, and held out."""
  _draw_produced(axes, metrics, "codes")
  axes.set(title="Speech", ylabel="nats per code")


def _draw_produced(axes: Axes, metrics: Mapping[str, Series], what: str) -> None:
  _draw_loss(axes, metrics, f"loss/{what}")
  if f"held_out/{what}" in metrics:
    axes.plot(*metrics[f"held_out/{what}"], "o", markersize=4, color="black", label="held out")
  axes.legend(**_LEGEND, loc="upper right")


def _draw_loss(axes: Axes, metrics: Mapping[str, Series], key: str, name: str = "") -> None:
  """A loss of each logged step, and smoothed; `name` says of what."""
  steps, losses = metrics[key]
  (line,) = axes.plot(steps, losses, alpha=0.25, linewidth=0.8)
  axes.plot(
    steps, smoothed(losses), color=line.get_color(), label=f"{name or 'training'}, smoothed"
  )
  axes.set(xlabel="step")
  axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def smoothed(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
  """Centred moving average, so without lag; NaN carries no weight.

  The window shrinks towards the start, where losses fall steeply, and is cut off at the end.
  """
  index = np.arange(len(values))
  half = np.minimum(index, round(_SMOOTHING * len(values)))
  low, high = index - half, np.minimum(index + half + 1, len(values))
  real = np.isfinite(values)
  total = np.concatenate([[0], np.cumsum(np.where(real, values, 0))])
  count = np.concatenate([[0], np.cumsum(real)])
  counted = count[high] - count[low]
  return np.where(counted > 0, (total[high] - total[low]) / np.maximum(counted, 1), np.nan)


def draw_family(axes: Axes, report: FamilyReport) -> None:
  """Each member's loss against its active parameters; the axis on the right is the same in bits per byte.

  The baselines stand there as horizontal lines.
  """
  active = np.array([m.params_active for m in report.members], float)
  loss = np.array([m.loss for m in report.members])
  factor = math.log2(math.e) * report.tokens / report.utf8_bytes
  baselines = {
    "xz -9e": report.baselines.xz_bits_per_byte / factor,
    "token bigram": report.baselines.bigram_bits_per_byte / factor,
  }
  if active.max() > 4 * active.min():
    axes.set_xscale("log")
    axes.set_xlim(active.min() / 1.3, active.max() * 1.5)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_formatter(NullFormatter())
  else:
    room = 0.12 * active.max() + 0.12 * np.ptp(active)  # for the labels at the ends
    axes.set_xlim(active.min() - room / 2, active.max() + room)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
  heights = np.array([*loss, *baselines.values()])
  margin = 0.12 * np.ptp(heights) + 1e-3 * heights.max()
  axes.set_ylim(heights.min() - margin, heights.max() + margin)
  axes.xaxis.set_major_formatter(EngFormatter())
  taken = []
  upper = max(baselines, key=baselines.get)
  for (name, level), color in zip(baselines.items(), ("tab:red", "tab:purple")):
    line = axes.axhline(level, color=color, linestyle="--", linewidth=1)
    place, side = ((0, 2), "bottom") if name == upper else ((0, -3), "top")
    at_edge = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
    text = axes.annotate(
      name, (0.99, level), place, **at_edge, color=color, fontsize=_NOTE, ha="right", va=side
    )
    taken += [line, text]
  axes.plot(active[1:], loss[1:], "o", color="tab:blue")
  axes.plot(active[:1], loss[:1], "*", color="tab:blue", markersize=12)
  axes.set(title="The family", xlabel="active parameters", ylabel="held-out nats per token")
  bits = axes.secondary_yaxis("right", functions=(lambda y: y * factor, lambda y: y / factor))
  bits.set_ylabel("bits per byte")
  names = [m.name for m in report.members]
  names[0] += " (full)"
  place_labels(axes, active, loss, names, size=_NOTE, avoid=taken)


def draw_load(axes: Axes, metrics: Mapping[str, Series]) -> None:
  """How many times its fair share the busiest expert of each MoE layer takes; 1 is perfect."""
  _draw_layers(axes, metrics["router/max_over_mean"])
  title = "Busiest expert of each layer"
  if "router/dead" in metrics:
    _, idle = metrics["router/dead"]
    measured = idle[np.isfinite(idle.reshape(len(idle), -1)).any(-1)]
    if len(measured):
      title += f" ({int(np.nansum(measured[-1]))} idle experts when last measured)"
  axes.axhline(1, color="gray", linewidth=0.8, linestyle="--")
  axes.set(title=title, xlabel="step", ylabel="load / mean load")


def draw_entropy(axes: Axes, metrics: Mapping[str, Series]) -> None:
  """Entropy of each MoE layer's load as a share of the most there can be; 1 is perfect."""
  _draw_layers(axes, metrics["router/entropy"])
  axes.axhline(1, color="gray", linewidth=0.8, linestyle="--")
  axes.set(title="Evenness of each layer's load", xlabel="step", ylabel="entropy / log experts")


def _draw_layers(axes: Axes, series: Series) -> None:
  steps, values = series
  values = values.reshape(len(steps), -1)
  count = values.shape[1]
  colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, count))
  named = range(count) if count <= _LEGEND_LAYERS else {0, count // 2, count - 1}
  for n in range(count):
    label = f"MoE layer {n + 1}" if n in named else None
    real = np.isfinite(values[:, n])
    axes.plot(steps[real], values[real, n], color=colors[n], linewidth=1, label=label)
  axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
  axes.legend(**_LEGEND, fontsize=_NOTE, ncols=min(2, count))
