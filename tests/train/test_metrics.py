"""The metrics file reads as if the run had never stopped; progress works without a terminal."""

import io
import json
import math
import pathlib
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboardX.proto.event_pb2 import Event

from ernie_jax.train.metrics import MetricsWriter, Progress, Rates, read_metrics


def events(workdir: pathlib.Path) -> dict[str, dict[int, float]]:
  """Scalars by tag and step, read from the records of the event files themselves."""
  found: dict[str, dict[int, float]] = {}
  for path in sorted((workdir / "tensorboard").iterdir()):
    data, at = path.read_bytes(), 0
    while at < len(data):
      (length,) = struct.unpack_from("<Q", data, at)
      event = Event.FromString(data[at + 12 : at + 12 + length])
      at += length + 16
      for value in event.summary.value:
        found.setdefault(value.tag, {})[event.step] = value.simple_value
  return found


def test_every_step_is_one_json_object_and_a_tensorboard_event(tmp_path):
  with MetricsWriter(tmp_path / "run", None) as writer:
    writer.write(1, {"loss": jnp.float32(0.1), "dead": np.array([0, 2]), "count": 3})
    writer.write(2, {"loss": 0.1 + 0.2})
  lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
  assert lines == [
    {"step": 1, "loss": float(np.float32(0.1)), "dead": [0, 2], "count": 3},
    {"step": 2, "loss": 0.1 + 0.2},
  ]
  found = events(tmp_path / "run")
  assert found["loss"] == {1: pytest.approx(0.1), 2: pytest.approx(0.3)}
  assert found["dead/1"] == {1: 2.0} and found["count"] == {1: 3.0}


def test_values_that_are_not_finite_keep_the_file_valid_json(tmp_path):
  with MetricsWriter(tmp_path, None) as writer:
    writer.write(1, {"loss": math.nan, "layers": np.array([1.0, -np.inf])})

  def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")

  line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
  assert line == {"step": 1, "loss": "nan", "layers": [1.0, "-inf"]}
  assert events(tmp_path) == {"layers/0": {1: 1.0}}


@settings(deadline=None, max_examples=30)
@given(
  losses=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=12),
  data=st.data(),
)
def test_a_run_killed_and_resumed_leaves_the_file_of_an_uninterrupted_one(
  tmp_path_factory, losses, data
):
  """Stop after any step, resume from any earlier checkpoint, lose any part of the last line."""
  whole, parts = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("parts")
  with MetricsWriter(whole, None) as writer:
    for step, loss in enumerate(losses, 1):
      writer.write(step, {"loss": loss})
  stop = data.draw(st.integers(1, len(losses)))
  resume = data.draw(st.one_of(st.none(), st.integers(1, stop)))
  with MetricsWriter(parts, None) as writer:
    for step, loss in enumerate(losses[:stop], 1):
      writer.write(step, {"loss": loss})
  path = parts / "metrics.jsonl"
  if resume != stop:
    length = len(path.read_bytes().splitlines(keepends=True)[-1])
    with path.open("r+b") as file:
      file.truncate(path.stat().st_size - data.draw(st.integers(0, length)))
  with MetricsWriter(parts, resume) as writer:
    for step, loss in enumerate(losses[resume or 0 :], (resume or 0) + 1):
      writer.write(step, {"loss": loss})
  assert path.read_bytes() == (whole / "metrics.jsonl").read_bytes()
  assert [x["loss"] for x in read_metrics(parts)] == losses
  assert not list(parts.glob("*.part"))


def test_reading_a_file_that_is_being_written_skips_the_incomplete_line(tmp_path):
  (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
  assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}]
  assert read_metrics(tmp_path / "absent") == []


def report(progress, steps):
  return [progress.update(s, loss=2.5, tokens=1000, flops=2e9) for s in steps]


def test_without_a_terminal_progress_prints_whole_lines_now_and_then():
  stream = io.StringIO()
  with Progress(5, peak_flops=1e15, stream=stream, seconds=3600) as progress:
    rates = report(progress, range(1, 6))
    progress.write("saved")
  lines = stream.getvalue().splitlines()
  assert [x.split(":")[0] for x in lines] == ["step 1/5", "step 5/5", "saved"]
  assert "loss 2.5000" in lines[0] and "tok/s" in lines[0] and "FLOP/s (" in lines[0]
  assert lines[1].endswith("0:00 left") and "\r" not in stream.getvalue()
  for r in rates:
    assert r.utilisation == pytest.approx(r.flops_per_second / 1e15)
    assert r.flops_per_second == pytest.approx(2e6 * r.tokens_per_second)


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_on_a_terminal_progress_is_a_bar_that_starts_where_the_run_resumes():
  stream = Terminal()
  with Progress(100, start=40, stream=stream) as progress:
    report(progress, [50])
  shown = stream.getvalue()
  assert "40/100" in shown and "50/100" in shown and "loss 2.5000" in shown and "left" in shown


def test_rates_are_told_with_three_digits_and_a_prefix():
  assert str(Rates(12345.0, 4.56e10, 0.1234)) == "12.3 ktok/s, 45.6 GFLOP/s (12.3 %)"
  assert str(Rates(999.9, 0.0, None)) == "1 ktok/s, 0 FLOP/s"
