"""What a run reports: JSON lines and TensorBoard events on disk, progress on the terminal.

`metrics.jsonl` holds one object a logged step and reads as if the run had never been interrupted:
a resumed run first removes what came after its checkpoint, a half-written last line included.
With several processes only the first one writes and shows.
"""

import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

import flax.struct
import jax
import numpy as np
import tqdm

from ernie_jax.whole_file import written_whole

FILE_NAME = "metrics.jsonl"


class MetricsWriter:
  """Appends metrics to WORKDIR/metrics.jsonl and WORKDIR/tensorboard; a context manager.

  Args:
    workdir: made if absent.
    resume_step: the step of the checkpoint the run continues from; lines of later steps are removed.
      None starts anew and removes all lines.
  """

  def __init__(self, workdir: str | os.PathLike, resume_step: int | None):
    self._file, self._events = None, None
    if jax.process_index() != 0:
      return
    path = pathlib.Path(workdir) / FILE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    _drop_after(path, resume_step)
    self._file = path.open("a", encoding="utf-8")
    import tensorboardX  # Imports PyTorch where there is one: seconds that a mistyped flag need not wait for.

    purge = 0 if resume_step is None else resume_step + 1
    self._events = tensorboardX.SummaryWriter(
      str(path.parent / "tensorboard"), purge_step=purge, flush_secs=10
    )

  def __enter__(self) -> "MetricsWriter":
    return self

  def __exit__(self, *error) -> None:
    self.close()

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Writes the metrics of `step`.

    Args:
      step: number of updates done.
      values: numbers, scalar arrays, or vectors (one number a layer, say), which become lists in the
        file and `NAME/0`, `NAME/1`... in TensorBoard. A value that is not finite is written as the
        string "nan", "inf" or "-inf", which JSON has no numbers for, and left out of TensorBoard.
    """
    if self._file is None:
      return
    plain = {name: np.asarray(value).tolist() for name, value in values.items()}
    line = {"step": int(step)} | {name: _json_ready(value) for name, value in plain.items()}
    # One write of a whole line: a kill leaves at most this one incomplete.
    self._file.write(json.dumps(line, allow_nan=False) + "\n")
    self._file.flush()
    for name, value in plain.items():
      items = enumerate(value) if isinstance(value, list) else [(None, value)]
      for index, item in items:
        label = name if index is None else f"{name}/{index}"
        if math.isfinite(item):  # TensorBoard's library warns of others, a line each
          self._events.add_scalar(label, item, step)

  def close(self) -> None:
    """Closes both files. Closing twice is harmless."""
    if self._file is not None:
      self._file.close()
      self._events.close()
      self._file = None


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """The complete lines of WORKDIR/metrics.jsonl, in order; empty if there is no such file."""
  path = pathlib.Path(workdir) / FILE_NAME
  return [line for _, line in _lines(path)] if path.exists() else []


def _lines(path: pathlib.Path) -> list[tuple[str, dict[str, Any]]]:
  """Text and content of every line that is a whole JSON object with a step."""
  found = []
  for text in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
    try:
      line = json.loads(text)
    except ValueError:
      continue
    if text.endswith("\n") and isinstance(line, dict) and "step" in line:
      found.append((text, line))
  return found


def _drop_after(path: pathlib.Path, step: int | None) -> None:
  """Removes lines of steps after `step` (all for None) and incomplete ones, in one atomic move."""
  if not path.exists():
    return
  kept = "".join(text for text, line in _lines(path) if step is not None and line["step"] <= step)
  if kept.encode() != path.read_bytes():
    with written_whole(path) as part:
      part.write_text(kept, encoding="utf-8")


def _json_ready(value: Any) -> Any:
  if isinstance(value, list):
    return [_json_ready(v) for v in value]
  if isinstance(value, float) and not math.isfinite(value):
    return str(value)
  return value


@flax.struct.dataclass
class Rates:
  """Speed since the last report.

  Attributes:
    tokens_per_second: of all processes.
    flops_per_second: model FLOPs, that is, without recomputation.
    utilisation: `flops_per_second` over the devices' peak, from 0 to 1; None if that is unknown.
  """

  tokens_per_second: float
  flops_per_second: float
  utilisation: float | None

  def __str__(self) -> str:
    text = f"{_short(self.tokens_per_second)}tok/s, {_short(self.flops_per_second)}FLOP/s"
    return text if self.utilisation is None else f"{text} ({100 * self.utilisation:.1f} %)"


class Progress:
  """A progress bar with loss, tokens/s, model FLOP/s, utilisation and time left.

  On a terminal a bar; elsewhere (a log file, a pipe) a line now and then. A context manager.

  Args:
    total: steps of the whole run.
    start: steps already done when it starts or resumes.
    peak_flops: of all devices (`hardware.peak_flops`), or None.
    stream: where it is shown; standard error by default.
    seconds: least time between two lines where there is no terminal.
  """

  def __init__(
    self,
    total: int,
    *,
    start: int = 0,
    peak_flops: float | None = None,
    stream: TextIO | None = None,
    seconds: float = 15.0,
  ):
    self._stream = sys.stderr if stream is None else stream
    self._total, self._step, self._peak = total, start, peak_flops
    self._shows = jax.process_index() == 0
    self._seconds, self._last_line = seconds, -math.inf
    self._clock = time.perf_counter()
    self._paces = 0
    self._pace = 0.0  # Seconds a step, smoothed.
    self._bar = None
    if self._shows and self._stream.isatty():
      shape = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
      self._bar = tqdm.tqdm(
        total=total, initial=start, file=self._stream, bar_format=shape, dynamic_ncols=True
      )

  def __enter__(self) -> "Progress":
    return self

  def __exit__(self, *error) -> None:
    self.close()

  def update(self, step: int, *, loss: float, tokens: float, flops: float) -> Rates:
    """Reports that `step` updates are done.

    Call it when the loss has been fetched, so that the clock covers finished work only.

    Args:
      step: updates done.
      loss: of the last step.
      tokens, flops: handled by all processes since the last call.
    """
    now = time.perf_counter()
    elapsed, self._clock = max(now - self._clock, 1e-9), now
    steps, self._step = max(step - self._step, 1), step
    rates = Rates(
      tokens_per_second=tokens / elapsed,
      flops_per_second=flops / elapsed,
      utilisation=None if self._peak is None else flops / elapsed / self._peak,
    )
    # The first interval holds the compilation, so the second one replaces it.
    pace, self._paces = elapsed / steps, self._paces + 1
    self._pace = pace if self._paces <= 2 else 0.8 * self._pace + 0.2 * pace
    if self._shows:
      left = _clock((self._total - step) * self._pace)
      self._show(step, f"loss {loss:.4f}, {rates}, {left} left", now)
    return rates

  def restart(self) -> None:
    """Starts the clock anew: what was done since the last report was none of the training."""
    self._clock = time.perf_counter()

  def write(self, text: str) -> None:
    """Prints a line of its own, above the bar if there is one."""
    if not self._shows:
      return
    if self._bar is None:
      print(text, file=self._stream, flush=True)
    else:
      tqdm.tqdm.write(text, file=self._stream)

  def close(self) -> None:
    if self._bar is not None:
      self._bar.close()

  def _show(self, step: int, text: str, now: float) -> None:
    if self._bar is not None:
      self._bar.n = step
      self._bar.set_postfix_str(text)
    elif now - self._last_line >= self._seconds or step >= self._total:
      self._last_line = now
      self.write(f"step {step}/{self._total}: {text}")


def _short(number: float) -> str:
  """`12.3 k`, ready for a unit: three digits with the prefix that suits them."""
  for prefix in ("", "k", "M", "G", "T", "P"):
    if abs(number) < 999.5:
      return f"{number:.3g} {prefix}"
    number /= 1000
  return f"{number:.3g} E"


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(round(max(0.0, seconds)), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
