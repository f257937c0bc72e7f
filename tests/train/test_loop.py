"""The loop with a task of two numbers: ramp, resume, stopping, and steps that are not finite."""

import dataclasses
import json
import os
import signal
import time

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_jax.errors import UserError
from ernie_jax.sharding.mesh import MeshConfig, make_mesh
from ernie_jax.train import checkpoint, loop
from ernie_jax.train.loop import Run, Stopped, TrainConfig, train
from ernie_jax.train.metrics import read_metrics
from ernie_jax.train.optimizer import OptimizerConfig
from ernie_jax.train.schedule import BatchRampConfig, ScheduleConfig
from ernie_jax.train.task import Loss


@flax.struct.dataclass
class Batch:
  x: np.ndarray


class Line:
  """Fits `weight`; `other` never meets the data. Counts the rows it has seen."""

  def init(self, key):
    other = nn.LogicallyPartitioned(jax.random.normal(key, (300_000,)), names=("embed",))
    params = {"model": {"weight": jax.random.normal(key, (4,)), "other": other}}
    return params, {"rows": jnp.zeros(())}

  def loss(self, params, variables, batch, key, step):
    noise = jax.random.uniform(key)
    p = params["model"]
    error = batch.x @ p["weight"] - 1 - noise
    value = jnp.mean(jnp.square(error)) + 1e-3 * jnp.mean(jnp.square(p["other"]))
    return Loss(
      loss=value, metrics={"noise": noise}, counts={"rows": jnp.float32(batch.x.shape[0])}
    )

  def update(self, variables, counts, step):
    return {"rows": variables["rows"] + counts["rows"]}


class Batches:
  """Batch n is made from n; `bad` maps numbers to what spoils them."""

  def __init__(self, rows=3, bad=()):
    self.rows, self.bad, self.next, self.signal_at = rows, bad, 0, None

  def __next__(self):
    n, self.next = self.next, self.next + 1
    if n == self.signal_at:
      os.kill(os.getpid(), signal.SIGTERM)
    x = np.random.default_rng(n).normal(size=(self.rows, 4)).astype(np.float32)
    return Batch(x=x * np.float32(np.nan) if n in self.bad else x)

  def get_state(self):
    return {"next": self.next}

  def set_state(self, state):
    self.next = state["next"]


CONFIG = TrainConfig(
  steps=12, schedule=ScheduleConfig(kind="constant", warmup_steps=2), log_every=1,
  checkpoint_every=4,
)  # fmt: skip


def run_of(workdir, data=None, **changes) -> Run:
  values = {
    "task": Line(), "data": data or Batches(), "workdir": workdir, "seed": 0,
    "tokens_per_microbatch": 3, "flops_per_token": 1.0,
  }  # fmt: skip
  return Run(**(values | changes))


def losses(workdir) -> list[float]:
  return [line["loss"] for line in read_metrics(workdir)]


def test_a_longer_run_continues_a_finished_one_exactly(tmp_path):
  train(CONFIG, run_of(tmp_path / "whole"))
  train(dataclasses.replace(CONFIG, steps=6), run_of(tmp_path / "parts"))
  assert checkpoint.steps(tmp_path / "parts" / "checkpoints") == [4, 6]
  train(CONFIG, run_of(tmp_path / "parts"))
  assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
  assert len(set(losses(tmp_path / "whole"))) == 12


def test_a_finished_run_is_given_back_without_a_step(tmp_path):
  state = train(CONFIG, run_of(tmp_path))
  again = train(CONFIG, run_of(tmp_path, data=Batches(bad=range(100))))
  jax.tree.map(np.testing.assert_array_equal, again.params, state.params)
  assert int(again.step) == 12 and len(losses(tmp_path)) == 12


def test_sigterm_finishes_the_step_saves_it_and_gives_the_signal_back(tmp_path):
  before = signal.getsignal(signal.SIGTERM)
  data = Batches()
  data.signal_at = 6
  with pytest.raises(Stopped) as e:
    train(CONFIG, run_of(tmp_path / "stopped", data=data))
  assert e.value.args == (7,)
  assert checkpoint.steps(tmp_path / "stopped" / "checkpoints")[-1] == 7
  assert signal.getsignal(signal.SIGTERM) is before
  train(CONFIG, run_of(tmp_path / "stopped"))
  train(CONFIG, run_of(tmp_path / "whole"))
  assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


@pytest.mark.parametrize("bad, kept", [(5, 4), (3, None), (11, 8)])
def test_a_step_that_is_not_finite_stops_names_its_tensors_and_saves_nothing(tmp_path, bad, kept):
  with pytest.raises(UserError) as e:
    train(CONFIG, run_of(tmp_path, data=Batches(bad=[bad])))
  told = str(e.value)
  assert f"step {bad + 1} is not finite: loss=nan; gradient of model/weight;" in told
  assert "other" not in told and "\n" not in told
  assert (
    "there is no checkpoint yet" if kept is None else f"checkpoint, step {kept}, stays"
  ) in told
  assert max(checkpoint.steps(tmp_path / "checkpoints"), default=None) == kept
  assert all(np.isfinite(losses(tmp_path))) and len(losses(tmp_path)) == bad
  # With the cause removed, the same workdir goes on from what was good.
  train(CONFIG, run_of(tmp_path))
  assert len(losses(tmp_path)) == 12


def test_the_ramp_takes_its_micro_batches_and_compiles_once(tmp_path, monkeypatch):
  compiled = []
  make = loop._compiled_once
  monkeypatch.setattr(loop, "_compiled_once", lambda *a: compiled.append(make(*a)) or compiled[-1])
  config = dataclasses.replace(CONFIG, ramp=BatchRampConfig(start=1, end=3, steps=6))
  data = Batches()
  state = train(config, run_of(tmp_path, data=data))
  counts = [line["microbatches"] for line in read_metrics(tmp_path)]
  assert counts == [1, 1, 1, 2, 2, 2] + [3] * 6
  assert data.next == sum(counts) and float(state.variables["rows"]) == 3 * sum(counts)
  assert compiled[0]._cache_size() == 1


@pytest.mark.parametrize("where", ["resumed", "begun with another's parameters"])
def test_a_run_that_goes_on_from_something_compiles_once(tmp_path, monkeypatch, where):
  begin = None
  if where == "resumed":
    train(dataclasses.replace(CONFIG, steps=6), run_of(tmp_path))
  else:
    put = lambda x: jax.device_put(np.asarray(x), x.sharding)
    begin = lambda state: state.replace(params=jax.tree.map(put, state.params))
  compiled = []
  make = loop._compiled_once
  monkeypatch.setattr(loop, "_compiled_once", lambda *a: compiled.append(make(*a)) or compiled[-1])
  train(CONFIG, run_of(tmp_path, begin=begin))
  assert compiled[0]._cache_size() == 1


def test_a_run_on_a_mesh_is_that_of_one_device_and_resumes_exactly(tmp_path):
  config = MeshConfig(data=2, fsdp=2)
  mesh = lambda: {"mesh": make_mesh(config), "mesh_config": config, "data": Batches(rows=4)}
  state = train(CONFIG, run_of(tmp_path / "mesh", **mesh()))
  assert len(state.params["model"]["other"].sharding.device_set) == 4
  train(dataclasses.replace(CONFIG, steps=5), run_of(tmp_path / "parts", **mesh()))
  train(CONFIG, run_of(tmp_path / "parts", **mesh()))
  assert losses(tmp_path / "parts") == losses(tmp_path / "mesh")
  train(CONFIG, run_of(tmp_path / "one", data=Batches(rows=4)))
  np.testing.assert_allclose(losses(tmp_path / "mesh"), losses(tmp_path / "one"), rtol=1e-5)


def test_a_full_disk_is_told_and_the_last_good_checkpoint_stays(tmp_path, small_files):
  train(dataclasses.replace(CONFIG, steps=4), run_of(tmp_path / "run"))
  with small_files(100_000), pytest.raises(UserError) as e:
    train(CONFIG, run_of(tmp_path / "run"))
  assert "saving step" in str(e.value) and "\n" not in str(e.value)
  assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [4]
  train(CONFIG, run_of(tmp_path / "run"))
  train(CONFIG, run_of(tmp_path / "whole"))
  assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_a_checkpoint_of_another_optimizer_is_refused_and_kept(tmp_path):
  train(dataclasses.replace(CONFIG, steps=4), run_of(tmp_path))
  before = (tmp_path / "metrics.jsonl").read_bytes()
  other = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(name="muon"))
  with pytest.raises(UserError, match="made by another config"):
    train(other, run_of(tmp_path))
  assert (tmp_path / "metrics.jsonl").read_bytes() == before
  assert checkpoint.steps(tmp_path / "checkpoints") == [4]


class SlowBatches(Batches):
  """Each batch takes longer to make than a step takes."""

  def __next__(self):
    time.sleep(0.05)
    return super().__next__()


def test_a_run_that_waits_for_its_data_says_so(tmp_path):
  train(CONFIG, run_of(tmp_path / "slow", SlowBatches()))
  train(CONFIG, run_of(tmp_path / "quick"))
  slow, quick = (
    [line["data_wait"] for line in read_metrics(tmp_path / name)[1:]] for name in ("slow", "quick")
  )
  assert all(0 <= share <= 1 for share in slow + quick)
  assert np.median(slow) > 0.5 > np.median(quick)


def test_an_evaluation_is_in_no_steps_time(tmp_path):
  def evaluate(state):
    time.sleep(1.0)
    return {"held_out/loss": float(state.step)}

  config = dataclasses.replace(CONFIG, steps=8, evaluate_every=3, checkpoint_every=8)
  train(config, run_of(tmp_path, evaluate=evaluate))
  lines = read_metrics(tmp_path)
  assert [line["held_out/loss"] for line in lines if "held_out/loss" in line] == [3, 6]
  speeds = [line["tokens_per_second"] for line in lines[1:]]  # the first has compilation in it
  assert min(speeds) > 3 / 0.9  # a step has three tokens


def test_a_run_begins_with_what_it_is_given(tmp_path):
  given = {"weight": np.arange(4, dtype=np.float32)}

  def begin(state):
    params = {"model": {**state.params["model"], "weight": jnp.asarray(given["weight"])}}
    return state.replace(params=params)

  still = dataclasses.replace(CONFIG, steps=1, optimizer=OptimizerConfig(weight_decay=0.0))
  rate = dataclasses.replace(CONFIG.schedule, peak=1e-9)
  run = run_of(tmp_path, begin=begin)
  state = train(dataclasses.replace(still, schedule=rate), run)
  np.testing.assert_allclose(state.params["model"]["weight"], given["weight"], atol=1e-5)
  again = train(dataclasses.replace(still, steps=2, schedule=rate), run_of(tmp_path))
  assert int(again.step) == 2
  np.testing.assert_allclose(again.params["model"]["weight"], given["weight"], atol=1e-5)


def test_a_run_that_never_saved_starts_over(tmp_path):
  lines = [json.dumps({"step": s, "loss": 0.0}) + "\n" for s in range(1, 4)]
  (tmp_path / "metrics.jsonl").write_text("".join(lines))
  train(CONFIG, run_of(tmp_path))
  assert [line["step"] for line in read_metrics(tmp_path)] == list(range(1, 13))
  assert losses(tmp_path)[0] != 0
