"""Learning rates at the points where a schedule changes, and the batch ramp."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_jax.train.schedule import (
  BatchRampConfig,
  ScheduleConfig,
  make_schedule,
  microbatches_at,
)


@pytest.mark.parametrize(
  ("kind", "values"),
  [
    # 100 steps, 10 of warm-up, a decay over the last 20, a tenth of the peak at the end.
    ("wsd", {0: 0.1, 4: 0.5, 9: 1.0, 50: 1.0, 79: 1.0, 89: 0.55, 99: 0.1, 500: 0.1}),
    ("cosine", {0: 0.1, 9: 1.0, 54: 0.55, 99: 0.1, 500: 0.1}),
    ("constant", {0: 0.1, 9: 1.0, 99: 1.0, 500: 1.0}),
  ],
)
def test_values_at_key_points(kind, values):
  config = ScheduleConfig(
    kind=kind, peak=3e-3, warmup_steps=10, decay_fraction=0.2, final_ratio=0.1
  )
  schedule = make_schedule(config, 100)
  for step, ratio in values.items():
    assert float(schedule(step)) == pytest.approx(3e-3 * ratio, rel=1e-5), step


def test_without_warmup_or_decay_the_rate_is_the_peak():
  config = ScheduleConfig(kind="wsd", peak=1.0, warmup_steps=0, decay_fraction=0.0)
  assert [float(make_schedule(config, 10)(s)) for s in (0, 5, 9)] == [1, 1, 1]


@settings(deadline=None, max_examples=30)
@given(
  kind=st.sampled_from(["wsd", "cosine", "constant"]),
  total=st.integers(1, 300),
  warmup=st.integers(0, 400),
  fraction=st.floats(0, 1),
  final=st.floats(0, 1),
)
def test_rises_then_never_rises_again_and_stays_within_the_peak(
  kind, total, warmup, fraction, final
):
  config = ScheduleConfig(kind, 2.0, warmup, fraction, final)
  rates = np.asarray(make_schedule(config, total)(jnp.arange(300)))[:total]
  assert np.all(np.isfinite(rates)) and np.all(rates >= 0) and np.all(rates <= 2.0 + 1e-6)
  after = rates[min(warmup, total) :]
  assert np.all(np.diff(after) <= 1e-6)
  if kind != "constant" and warmup < total and not (kind == "wsd" and fraction == 0):
    assert float(rates[-1]) == pytest.approx(2.0 * final, abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(start=st.integers(1, 8), extra=st.integers(0, 8), steps=st.integers(0, 50))
def test_the_batch_grows_from_start_to_end(start, extra, steps):
  config = BatchRampConfig(start, start + extra, steps)
  counts = [microbatches_at(s, config) for s in range(steps + 5)]
  assert counts == sorted(counts)
  assert counts[steps:] == [start + extra] * 5
  assert counts[0] == (start if steps else start + extra)


@pytest.mark.parametrize(
  "make",
  [
    lambda: ScheduleConfig(peak=0.0),
    lambda: ScheduleConfig(warmup_steps=-1),
    lambda: ScheduleConfig(decay_fraction=1.5),
    lambda: ScheduleConfig(final_ratio=-0.1),
    lambda: BatchRampConfig(start=4, end=2),
    lambda: BatchRampConfig(start=0),
    lambda: BatchRampConfig(steps=-1),
  ],
)
def test_impossible_values_are_refused(make):
  with pytest.raises(ValueError):
    make()
