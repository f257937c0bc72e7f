"""The curves of one stage as one picture, and their last values as a table."""

import io
from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import EngFormatter, MaxNLocator

from ernie_jax.evaluate.figures import Series, draw_bits, draw_codes, draw_losses, smoothed
from ernie_jax.report.document import Figure
from ernie_jax.report.runs import StageRun

_DPI = 110
_KINDS = {
  "text": "text",
  "understanding": "text about media",
  "bits": "pictures and videos",
  "codes": "speech",
}
_UNITS = {
  "text": "nats per token",
  "understanding": "nats per token",
  "bits": "nats per bit",
  "codes": "nats per code",
}
_HELD_OUT = {
  "text": {"held_out/loss": ""},
  "understanding": {
    "held_out/media_text": "of pictures and videos",
    "held_out/speech_text": "of speech",
  },
  "bits": {"held_out/bits": ""},
  "codes": {"held_out/codes": ""},
}


def curve_figure(stage: StageRun) -> Figure | None:
  """All curves of a stage; None where it logged none."""
  panels = _panels(stage)
  if not panels:
    return None
  columns = min(2, len(panels))
  rows = -(-len(panels) // columns)
  canvas = Canvas(figsize=(6.0 * columns, 3.8 * rows), layout="constrained")
  for place, draw in enumerate(panels.values(), 1):
    axes = canvas.add_subplot(rows, columns, place)
    axes.spines["top"].set_visible(False)
    axes.grid(alpha=0.25)
    draw(axes, stage.metrics)
  file = io.BytesIO()
  canvas.savefig(file, dpi=_DPI, format="png")
  width, height = (round(side * _DPI) for side in canvas.get_size_inches())
  last = int(max(steps[-1] for steps, _ in stage.metrics.values()))
  alt = f"Curves of {stage.name} over {last:,} steps: {', '.join(panels)}"
  return Figure(file.getvalue(), alt, width, height)


def last_values(metrics: Mapping[str, Series]) -> tuple[tuple[str, ...], ...]:
  """A row for the loss of each kind: its unit, first and last value, the last one rescaled, and the last held out."""
  rows = []
  for kind, name in _KINDS.items():
    if f"loss/{kind}" in metrics:
      values = metrics[f"loss/{kind}"][1]
      held_out = {
        words: _last(metrics[key][1]) for key, words in _HELD_OUT[kind].items() if key in metrics
      }
      told = "\n".join(f"{words} {value}".strip() for words, value in held_out.items())
      rescaled = metrics.get(f"rescaled/{kind}")
      size = "" if rescaled is None else _last(rescaled[1])
      rows.append((f"{name}, {_UNITS[kind]}", _last(values[::-1]), _last(values), size, told))
  if not rows and "loss" in metrics:
    values = metrics["loss"][1]
    rows.append(("loss", _last(values[::-1]), _last(values), "", ""))
    held_out = [key for key in metrics if key.startswith("held_out/")]
    rows += [(_words(key), "", "", "", _last(metrics[key][1])) for key in held_out]
  return tuple(rows)


def _last(values: np.ndarray) -> str:
  """The last number there is."""
  real = values[np.isfinite(values)]
  return f"{real[-1]:.4f}" if len(real) else ""


def _panels(stage: StageRun) -> dict[str, Callable[[Axes, Mapping[str, Series]], None]]:
  """What there is something to draw for, by its name."""
  metrics = {key: one for key, one in stage.metrics.items() if one[1].ndim == 1}
  panels = {}
  if stage.is_model:
    told = {"loss/text", "loss/understanding"} & set(metrics)
    if told or "loss" in metrics:
      panels["text" if told else "loss"] = draw_losses
    panels |= {"pictures and videos": draw_bits} if "loss/bits" in metrics else {}
    panels |= {"speech": draw_codes} if "loss/codes" in metrics else {}
    if any(key.startswith("rescaled/") for key in metrics):
      panels["rescaled losses"] = draw_rescaled
  else:
    panels |= {"loss": draw_total} if "loss" in metrics else {}
    panels |= {
      _words(key): lambda axes, every, key=key: draw_held_out(axes, every, key)
      for key in metrics
      if key.startswith("held_out/")
    }
  if "tokens_per_second" in metrics:
    panels["speed"] = draw_speed
  return panels


def draw_rescaled(axes: Axes, metrics: Mapping[str, Series]) -> None:
  """What each kind's loss is after it was divided by its running mean; the optimizer sees these."""
  for key, (steps, losses) in metrics.items():
    if key.startswith("rescaled/"):
      name = key.removeprefix("rescaled/")
      axes.plot(steps, smoothed(losses), label=_KINDS.get(name, name))
  axes.set(title="Rescaled losses, smoothed", xlabel="step", ylabel="loss over its running mean")
  axes.legend(framealpha=0.85, edgecolor="none")


def draw_total(axes: Axes, metrics: Mapping[str, Series]) -> None:
  """The training loss of a stage that has one of its own kind, and the learning rate."""
  steps, losses = metrics["loss"]
  axes.plot(steps, losses, alpha=0.3, linewidth=0.8)
  axes.plot(steps, smoothed(losses), color="C0")
  axes.set(title="Training loss, smoothed", xlabel="step")
  if "learning_rate" in metrics:
    rate = axes.twinx()
    rate.spines["top"].set_visible(False)
    rate.plot(*metrics["learning_rate"], ":", color="gray")
    rate.set_ylabel("learning rate (dotted)", color="gray")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    rate.set_ylim(bottom=0)
  axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def draw_held_out(axes: Axes, metrics: Mapping[str, Series], key: str) -> None:
  """One measure of what is held out."""
  axes.plot(*metrics[key], "o-", markersize=4)
  axes.set(title=_words(key).capitalize(), xlabel="step")
  axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def draw_speed(axes: Axes, metrics: Mapping[str, Series]) -> None:
  """Tokens a second of logged steps."""
  axes.plot(*metrics["tokens_per_second"], ".", markersize=3)
  axes.set(title="Speed", xlabel="step", ylabel="tokens a second")
  axes.set_ylim(bottom=0)
  axes.yaxis.set_major_formatter(EngFormatter(sep=""))
  axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def _words(key: str) -> str:
  return key.replace("held_out/", "held out: ").replace("_", " ").replace("/", ", ")
