"""The one training loop: every stage's task runs here, with the same resume, metrics and checkpoints.

What resumes exactly: parameters, optimizer, variables, random key and data position are one atomic
checkpoint; each step's randomness is a function of its number; `metrics.jsonl` is cut back to the
restored step. So a run that was killed continues bit for bit as if it never was.
"""

import contextlib
import dataclasses
import pathlib
import signal
import time
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ernie_jax.errors import UserError
from ernie_jax.sharding import distributed, rules
from ernie_jax.sharding.mesh import MeshConfig
from ernie_jax.train import state as state_lib
from ernie_jax.train.checkpoint import Checkpoints
from ernie_jax.train.hardware import peak_flops
from ernie_jax.train.metrics import MetricsWriter, Progress
from ernie_jax.train.optimizer import OptimizerConfig, make_optimizer
from ernie_jax.train.schedule import (
  BatchRampConfig,
  ScheduleConfig,
  make_schedule,
  microbatches_at,
)
from ernie_jax.train.step import Report, leaf_names, make_step
from ernie_jax.train.task import Task


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """How long, how fast, and what is kept.

  Attributes:
    steps: optimizer steps of the run.
    schedule, optimizer: see their modules.
    ramp: micro-batches in a step, possibly growing (a batch ramp and gradient accumulation in one).
    log_every: steps between lines in metrics.jsonl.
    evaluate_every: steps between held-out losses; 0 for none before the end.
    checkpoint_every: steps between checkpoints; one more is always written at the end.
    keep_latest: how many of the newest checkpoints stay; keep_every: steps that are multiples of this
      stay for ever, 0 for none.
    profile: first and last step, from 0, of a profile written to WORKDIR/profile; empty for none.
  """

  steps: int
  schedule: ScheduleConfig
  optimizer: OptimizerConfig = OptimizerConfig()
  ramp: BatchRampConfig = BatchRampConfig()
  log_every: int = 10
  evaluate_every: int = 0
  checkpoint_every: int = 200
  keep_latest: int = 2
  keep_every: int = 0
  profile: tuple[int, ...] = ()

  def __post_init__(self):
    for name in ("steps", "log_every", "checkpoint_every", "keep_latest"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    for name in ("evaluate_every", "keep_every"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
    if self.profile and not (len(self.profile) == 2 and 0 <= self.profile[0] <= self.profile[1]):
      raise ValueError(f"profile must be [first, last], got {list(self.profile)}")


class Data(Protocol):
  """An endless iterator of this host's micro-batches whose whole state is JSON-ready."""

  def __next__(self) -> Any: ...
  def get_state(self) -> dict[str, Any]: ...
  def set_state(self, state: dict[str, Any]) -> None: ...


@dataclasses.dataclass
class Run:
  """What the loop is given besides its config.

  Attributes:
    task: what is trained.
    data: its micro-batches.
    workdir: where checkpoints and metrics go.
    seed: of parameters and of every draw.
    tokens_per_microbatch: positions, over all hosts, for tokens/s.
    flops_per_token: model FLOPs, forward and backward, for utilisation.
    dtype: compute type, for the peak that utilisation is measured against.
    mesh, mesh_config: where arrays live; None is one device.
    evaluate: (state) -> metrics, called every `evaluate_every` steps.
    before: the task that the newest checkpoint is of, where that is another one, and
    adapt: what makes its state this task's.
    begin: what a fresh state becomes before the first step; None: it stays as it is.
  """

  task: Task
  data: Data
  workdir: pathlib.Path
  seed: int
  tokens_per_microbatch: int
  flops_per_token: float
  dtype: str = "float32"
  mesh: jax.sharding.Mesh | None = None
  mesh_config: MeshConfig | None = None
  evaluate: Callable[[state_lib.TrainState], dict[str, float]] | None = None
  before: Task | None = None
  adapt: Callable[[state_lib.TrainState], state_lib.TrainState] | None = None
  begin: Callable[[state_lib.TrainState], state_lib.TrainState] | None = None


class Stopped(Exception):
  """The run was asked to stop (SIGTERM) and has saved itself; args: the step."""


def train(config: TrainConfig, run: Run) -> state_lib.TrainState:
  """Trains to `config.steps`, from the newest checkpoint in the workdir if there is one.

  Raises:
    UserError: a step was not finite (the tensors are named), the checkpoint is of another config,
      or the disk is full. The last good checkpoint stays.
    Stopped: after SIGTERM, with everything saved.
  """
  schedule = make_schedule(config.schedule, config.steps)
  params = jax.eval_shape(lambda: state_lib.initial_params(run.task, run.seed))
  frozen = getattr(run.task, "frozen", ())
  optimizer = make_optimizer(config.optimizer, schedule, params, frozen=frozen)
  checkpoints = Checkpoints(
    str(run.workdir / "checkpoints"),
    keep_latest=config.keep_latest,
    keep_every=config.keep_every or None,
  )
  peak = peak_flops(run.dtype)  # measured on one device, so outside the mesh
  # Signals are caught until the last checkpoint is closed, so they are entered before it.
  with rules.enter(run.mesh, run.mesh_config), _catch_sigterm() as stopping, checkpoints:
    state = _start(run, optimizer, checkpoints)
    # What came from elsewhere is committed to its device and what was computed is not; so is all that a step makes of
    # both, and the second step would be compiled anew.
    state = jax.device_put(state, jax.tree.map(lambda x: x.sharding, state))
    first = int(state.step)
    if first >= config.steps:
      return state
    step_fn = _compiled_once(make_step(run.task, optimizer, schedule), state, run.mesh)
    writer = MetricsWriter(run.workdir, resume_step=first)
    progress = Progress(config.steps, start=first, peak_flops=peak)
    with writer, progress:
      loop = _Loop(config, run, checkpoints, writer, progress, leaf_names(state.params))
      return loop.steps(state, step_fn, stopping)


def _start(run: Run, optimizer, checkpoints: Checkpoints) -> state_lib.TrainState:
  """The newest checkpoint's state, with the data moved to its position, or a fresh state."""
  latest = checkpoints.latest_step()
  if latest is None:
    fresh = state_lib.create(run.task, optimizer, run.seed, run.mesh)
    return fresh if run.begin is None else run.begin(fresh)
  like = state_lib.shape_of(run.before or run.task, optimizer, run.seed, run.mesh)
  state, extra = checkpoints.restore(latest, like)
  if run.adapt is not None:
    state = run.adapt(state)
    if run.mesh is not None and run.mesh.size > 1:
      own = state_lib.shape_of(run.task, optimizer, run.seed, run.mesh)
      state = jax.device_put(state, jax.tree.map(lambda x: x.sharding, own))
  run.data.set_state(extra["data"])
  return state


def _compiled_once(step: Callable, state: state_lib.TrainState, mesh) -> Callable:
  """`step` jitted; on a mesh its state stays where it was put, or the second step compiles anew."""
  if mesh is None or mesh.size == 1:
    return jax.jit(step, donate_argnums=0)
  placed = jax.tree.map(lambda x: x.sharding, state)
  return jax.jit(step, donate_argnums=0, out_shardings=(placed, None))


class _Loop:
  """The steps themselves. Reports are read one step late, so that the device never waits for the host."""

  def __init__(self, config, run, checkpoints, writer, progress, names):
    self.config, self.run, self.checkpoints = config, run, checkpoints
    self.writer, self.progress, self.names = writer, progress, names
    self.pending: tuple[int, int, Report] | None = None
    self.waits = _Waits()

  def steps(self, state, step_fn, stopping: "_Stopping"):
    """Runs to the end, or to SIGTERM."""
    config = self.config
    with contextlib.closing(_Profiler(config.profile, self.run.workdir / "profile")) as profiler:
      return self._steps(state, step_fn, stopping, profiler)

  def _steps(self, state, step_fn, stopping: "_Stopping", profiler: "_Profiler"):
    config = self.config
    for step in range(int(state.step), config.steps):
      profiler.before(step)
      count = microbatches_at(step, config.ramp)
      with self.waits:
        batches = self._gather(count)
      state, report = step_fn(state, batches, jnp.asarray(count))
      self._read_pending()
      self.pending = (step, count, report)
      profiler.after(step, state)
      done = step + 1
      if self.run.evaluate and config.evaluate_every and done % config.evaluate_every == 0:
        self._read_pending(lambda state=state: self.run.evaluate(state))
      last = done == config.steps
      stop = stopping.now(ask_others=last or done % config.log_every == 0)
      if last or stop or done % config.checkpoint_every == 0:
        self._read_pending()  # nothing is saved before its loss is known to be finite
        self._save(done, state)
      if stop and not last:
        self.checkpoints.wait()
        raise Stopped(done)
    return state

  def _gather(self, count: int):
    """`count` micro-batches stacked on a leading axis that always has the ramp's largest length."""
    size = max(self.config.ramp.start, self.config.ramp.end)
    micro = [next(self.run.data) for _ in range(count)]
    micro += [micro[-1]] * (size - count)  # filling: the step does not read it
    stacked = jax.tree.map(lambda *x: np.stack(x), *micro)
    return distributed.host_batch_to_global(stacked, self.run.mesh, batch_axis=1)

  def _save(self, step: int, state) -> None:
    self.checkpoints.save(step, state, {"data": self.run.data.get_state()})

  def _read_pending(self, evaluate: Callable[[], dict[str, float]] | None = None) -> None:
    """Waits for the last step's report, checks it, logs it (always with held-out metrics, if asked for).

    What `evaluate` takes is in no step's time.
    """
    if self.pending is None:
      return
    (step, count, report), self.pending = self.pending, None
    report = distributed.fetch(report)
    if not report.finite:
      raise UserError(self._culprits(step, report))
    tokens = count * self.run.tokens_per_microbatch
    flops = tokens * self.run.flops_per_token
    rates = self.progress.update(step + 1, loss=float(report.loss), tokens=tokens, flops=flops)
    done = step + 1
    if done in (1, self.config.steps) or done % self.config.log_every == 0 or evaluate:
      waited = self.waits.share()
      values = {
        "loss": report.loss,
        **report.metrics,
        **(self._evaluated(evaluate) if evaluate else {}),
        "grad_norm": report.grad_norm,
        "learning_rate": report.learning_rate,
        "microbatches": count,
        "tokens_per_second": rates.tokens_per_second,
        "flops_per_second": rates.flops_per_second,
        "utilisation": rates.utilisation or 0.0,
        "data_wait": waited,
      }
      self.writer.write(done, values)

  def _evaluated(self, evaluate: Callable[[], dict[str, float]]) -> dict[str, float]:
    """The held-out metrics; clocks begin anew after them."""
    found = evaluate()
    self.progress.restart()
    self.waits = _Waits()
    return found

  def _culprits(self, step: int, report: Report) -> str:
    bad = [
      n for n, norm in zip(self.names, report.leaf_norms, strict=True) if not np.isfinite(norm)
    ]
    losses = [
      f"{n}={v}"
      for n, v in report.metrics.items()
      if not np.all(np.isfinite(v)) and not n.startswith("router/")  # NaN where no row ran a layer
    ]
    what = [] if np.isfinite(report.loss) else [f"loss={report.loss}"]
    what += losses
    if bad:
      shown = ", ".join(bad[:8]) + (f" and {len(bad) - 8} more" if len(bad) > 8 else "")
      what.append(f"gradient of {shown}")
    self.checkpoints.wait()  # one may still be on its way
    latest = self.checkpoints.latest_step()
    kept = (
      "there is no checkpoint yet"
      if latest is None
      else f"the last good checkpoint, step {latest}, stays"
    )
    return f"step {step + 1} is not finite: {'; '.join(what)}; training stopped, {kept}"


class _Waits:
  """How much of the time goes into getting batches ready, which the loop does while the device works on the last one."""

  def __init__(self):
    self._since = time.perf_counter()
    self._waited = 0.0

  def __enter__(self) -> None:
    self._began = time.perf_counter()

  def __exit__(self, *error) -> None:
    self._waited += time.perf_counter() - self._began

  def share(self) -> float:
    """Of the time since it was last asked: the most that the device can have waited for data."""
    since, waited = self._since, self._waited
    self._since, self._waited = time.perf_counter(), 0.0
    return waited / (self._since - since)


class _Profiler:
  """Traces steps first..last of `profile`."""

  def __init__(self, profile: tuple[int, ...], directory: pathlib.Path):
    self.first, self.last = profile or (-1, -1)
    self.directory, self.running = directory, False

  def before(self, step: int) -> None:
    if step == self.first:
      jax.profiler.start_trace(str(self.directory))
      self.running = True

  def after(self, step: int, state) -> None:
    if self.running and step == self.last:
      jax.block_until_ready(state)
      self.close()

  def close(self) -> None:
    """Writes what was traced, also where the run ends before the last step of the profile."""
    if self.running:
      jax.profiler.stop_trace()
      self.running = False


class _Stopping:
  """Whether SIGTERM has arrived, on any host."""

  def __init__(self):
    self.asked = False

  def ask(self, *_) -> None:
    self.asked = True

  def now(self, *, ask_others: bool) -> bool:
    """The same answer on all hosts, so that all save the same step.

    Several hosts ask each other only at the steps of `ask_others`: it makes the devices wait.
    """
    if jax.process_count() == 1:
      return self.asked
    if not ask_others:
      return False
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(self.asked))))


class _catch_sigterm:
  """SIGTERM finishes the running step instead of killing the process."""

  def __enter__(self) -> _Stopping:
    stopping = _Stopping()
    self.previous = None
    with contextlib.suppress(ValueError):  # not the main thread: signals go elsewhere
      self.previous = signal.signal(signal.SIGTERM, stopping.ask)
    return stopping

  def __exit__(self, *_) -> None:
    if self.previous is not None:
      signal.signal(signal.SIGTERM, self.previous)
