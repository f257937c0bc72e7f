"""Checkpoints of a training run: asynchronous, atomic, strict, readable without the program's tree.

A checkpoint holds one pytree of arrays (parameters, optimizer state, router bias, step, random key)
and one small JSON dict (`extra`: where the data iterator stands, the config). Both are in the same
directory, which is written under a temporary name and renamed when complete, so a run killed while
saving leaves either a whole checkpoint or none. The pytree is stored as nested dicts of names,
whatever containers it was made of, so tools can read it without building the model. Uses the v1
interface of Orbax.

Gotchas: only the training run may open `Checkpoints` on a directory, because opening removes what an
interrupted save left; readers use the functions below it. Orbax casts to the asked dtype and tells
of a wrong tree in no useful way, so names, shapes and dtypes are compared here first.
"""

import contextlib
import logging
import re
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging as absl_logging
from etils import epath
from orbax.checkpoint import v1 as ocp

from ernie_jax.errors import UserError

_STATE = "state"
_policies = ocp.training.preservation_policies


class Checkpoints:
  """The checkpoints of one run, under `directory`, written by this process (or these processes).

  Args:
    directory: made if absent; a path or a bucket address.
    keep_latest: how many of the newest checkpoints stay.
    keep_every: steps that are multiples of this stay for ever; None keeps the newest only.

  Raises (any method): UserError when the disk is full, the directory cannot be written, or a
    checkpoint does not fit. An error of the background save is raised by the next `save`, `wait`,
    `restore` or `close`; checkpoints already complete are unharmed by it.
  """

  def __init__(self, directory: str, *, keep_latest: int = 2, keep_every: int | None = None):
    if keep_latest < 1:
      raise ValueError("keep_latest must be at least 1")
    self.directory = epath.Path(directory).resolve()
    policies = [_policies.LatestN(keep_latest)]
    if keep_every is not None:
      policies.append(_policies.EveryNSteps(keep_every))
    self._policy = _policies.AnyPreservationPolicy(policies)
    self._saving: tuple[int, Any] | None = None
    with _told("opening checkpoints", self.directory):
      self.directory.mkdir(parents=True, exist_ok=True)
    self._open()

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, kind, error, trace) -> None:
    if kind is None:
      self.close()
      return
    try:
      self.close()
    except Exception as e:
      error.add_note(f"closing the checkpoints failed too: {e}")

  def save(self, step: int, state: Any, extra: Mapping[str, Any]) -> bool:
    """Starts saving and returns once the arrays are copied; they may then be donated.

    Args:
      step: a step that already has a checkpoint is left as it is.
      state: a pytree of arrays; typed random keys are stored as their data.
      extra: JSON-ready.

    Returns:
      Whether a save was started.
    """
    self.wait()
    if step in self.steps():
      return False
    tree = _nested(state, _storable)
    try:
      with _told(f"saving step {step}", self.directory):
        response = self._manager.save_checkpointables_async(
          step, {_STATE: tree}, force=True, custom_metadata=dict(extra)
        )
    except BaseException:
      self._reopen()
      raise
    self._saving = (step, response)
    return True

  def wait(self) -> None:
    """Returns when no save is under way; raises the error of one that failed."""
    if self._saving is None:
      return
    (step, response), self._saving = self._saving, None
    try:
      with _told(f"saving step {step}", self.directory):
        response.result()
    except BaseException:
      self._reopen()
      raise

  def close(self) -> None:
    """Waits for the save under way and stops the background threads."""
    try:
      self.wait()
    finally:
      self._manager.close()

  def steps(self) -> list[int]:
    """The steps of all complete checkpoints, in order."""
    return steps(self.directory)

  def latest_step(self) -> int | None:
    return max(self.steps(), default=None)

  def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
    """Reads a checkpoint into the structure, dtypes and shardings of `like`.

    Args:
      step: one of `steps()`.
      like: a pytree of `ShapeDtypeStruct` (or arrays). A leaf without a sharding goes to the first
        device; shardings need not be those it was saved with.

    Returns:
      The pytree and the `extra` dict.

    Raises:
      UserError: no such step, or a leaf is absent, unknown, or of another shape or dtype.
    """
    self.wait()
    path = _path_of(self.directory, step)
    _compare(metadata(self.directory, step), _flat(_nested(like, _abstract)), path)
    tree = _load(path, _nested(like, _abstract))
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    values = [_revive(_lookup(tree, _names(p)), leaf) for p, leaf in paths]
    return jax.tree.unflatten(structure, values), load_extra(self.directory, step)

  def _open(self) -> None:
    """Removes what unfinished saves left, then opens the manager, which reads what there is."""
    if jax.process_index() == 0:
      for left in self.directory.glob("*.orbax-checkpoint-tmp*"):
        # A failed save's threads may still be writing there: what stays is removed at the next start.
        with contextlib.suppress(OSError):
          left.rmtree(missing_ok=True)
    self._manager = ocp.training.Checkpointer(self.directory, preservation_policy=self._policy)

  def _reopen(self) -> None:
    """A failed save stays in the manager and would be raised again by every later call."""
    try:
      self._manager.close()
    except Exception as e:
      absl_logging.info("closing after a failed save: %s", e)
    self._open()


def steps(directory: str | epath.Path) -> list[int]:
  """The steps of all complete checkpoints in `directory`, in order; empty if there is none."""
  directory = epath.Path(directory)
  if not directory.exists():
    return []
  names = [p.name for p in directory.iterdir() if re.fullmatch(r"\d+", p.name)]
  return sorted(int(n) for n in names if (directory / n / "_CHECKPOINT_METADATA").exists())


def metadata(directory: str | epath.Path, step: int | None = None) -> dict[str, Any]:
  """Shape and dtype of every array of a checkpoint (the newest for None), by its name.

  Names are joined by `/`, as `params/embed/embedding`; no array is read.
  """
  tree = _stored_tree(_path_of(directory, step))
  return {name: jax.ShapeDtypeStruct(m.shape, m.dtype) for name, m in _flat(tree).items()}


def load_extra(directory: str | epath.Path, step: int | None = None) -> dict[str, Any]:
  """The JSON dict saved with a checkpoint (the newest for None)."""
  return _stored(_path_of(directory, step)).custom_metadata or {}


def load_params(
  directory: str | epath.Path, step: int | None = None, *, subtree: str = "params"
) -> Any:
  """Reads one subtree into host memory as nested dicts of NumPy arrays, needing no model.

  Args:
    directory: of the checkpoints.
    step: the newest for None.
    subtree: names joined by `/`, as in `metadata`; only its arrays are read.

  Raises:
    UserError: no checkpoint, or no such subtree in it.
  """
  path = _path_of(directory, step)
  stored = _stored_tree(path)
  wanted = _flat(stored)
  names = {n for n in wanted if n == subtree or n.startswith(f"{subtree}/")}
  if not names:
    raise UserError(f"checkpoint {path} holds no {subtree!r}; it holds {', '.join(stored)}")
  abstract: dict[str, Any] = {}
  for name, leaf in wanted.items():
    target = np.empty(leaf.shape, leaf.dtype) if name in names else ocp.PLACEHOLDER
    _insert(abstract, name.split("/"), target)
  with _alone():
    return _lookup(_load(path, abstract), subtree.split("/"))


# Names and trees.


def _names(path: tuple) -> list[str]:
  return [jax.tree_util.keystr((key,), simple=True) for key in path]


def _nested(tree: Any, convert) -> dict[str, Any]:
  """`tree` as nested dicts of names, whatever its containers are, each leaf converted."""
  result: dict[str, Any] = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    _insert(result, _names(path), convert(leaf))
  return result


def _insert(tree: dict[str, Any], names: list[str], leaf: Any) -> None:
  for name in names[:-1]:
    tree = tree.setdefault(name, {})
  tree[names[-1]] = leaf


def _lookup(tree: Mapping[str, Any], names: list[str]) -> Any:
  for name in names:
    tree = tree[name]
  return tree


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
  if not isinstance(tree, Mapping):
    return {prefix: tree}
  return {
    name: leaf
    for key, child in tree.items()
    for name, leaf in _flat(child, f"{prefix}/{key}" if prefix else key).items()
  }


def _is_key(leaf: Any) -> bool:
  return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _storable(leaf: Any) -> Any:
  return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
  shape = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
  first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  sharding = getattr(leaf, "sharding", None) or first
  return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def _revive(value: Any, leaf: Any) -> Any:
  """Turns stored key data back into the typed key that `leaf` describes."""
  if not _is_key(leaf):
    return value
  found = []  # Only an array, traced or not, tells its implementation; a ShapeDtypeStruct does not.
  jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), leaf)
  return jax.random.wrap_key_data(value, impl=found[0])


# Reading.


def _path_of(directory: str | epath.Path, step: int | None) -> epath.Path:
  """The directory of a step (the newest for None) that has a complete checkpoint."""
  directory = epath.Path(directory).resolve()
  known = steps(directory)
  if not known:
    raise UserError(f"there is no checkpoint in {directory}")
  if step is None:
    step = known[-1]
  if step not in known:
    listed = ", ".join(map(str, known))
    raise UserError(f"there is no checkpoint of step {step} in {directory}; there is {listed}")
  return directory / str(step)


def _stored(path: epath.Path) -> Any:
  with _told("reading", path):
    return ocp.checkpointables_metadata(path)


def _stored_tree(path: epath.Path) -> dict[str, Any]:
  tree = _stored(path).metadata[_STATE]
  if tree is None:  # Orbax logs what it met and returns nothing.
    raise UserError(f"checkpoint {path} is damaged: its list of arrays cannot be read")
  return tree


def _load(path: epath.Path, abstract: Any) -> Any:
  with _told("reading", path), warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="Sharding info not provided")
    return ocp.load_checkpointables(path, {_STATE: abstract})[_STATE]


def _alone() -> ocp.Context:
  """In it this process reads by itself: Orbax would wait for the others, which may not be reading."""
  own, context = jax.process_index(), ocp.Context()
  context.multiprocessing.primary_host = own
  context.multiprocessing.active_processes = {own}
  context.multiprocessing.barrier_sync_key_prefix = f"process_{own}"
  return context


def _compare(stored: Mapping[str, Any], wanted: Mapping[str, Any], path: epath.Path) -> None:
  """Raises a `UserError` about the first leaf in which a checkpoint differs from what is wanted."""
  reason = None
  for name in [*wanted, *stored]:
    if name not in stored:
      reason = f"it has no {name}"
    elif name not in wanted:
      reason = f"its {name} is unknown here"
    elif tuple(stored[name].shape) != tuple(wanted[name].shape):
      shapes = f"{list(stored[name].shape)}, not {list(wanted[name].shape)}"
      reason = f"its {name} has shape {shapes}"
    elif stored[name].dtype != wanted[name].dtype:
      reason = f"its {name} is {stored[name].dtype}, not {wanted[name].dtype}"
    if reason:
      raise UserError(f"checkpoint {path}: {reason}; this checkpoint was made by another config")


# Errors.


class _told:
  """Turns an error of the file system into a `UserError`; any other error passes as it is."""

  def __init__(self, doing: str, directory: epath.Path):
    self.doing, self.directory = doing, directory

  def __enter__(self) -> None:
    return None

  def __exit__(self, kind, error, trace) -> None:
    text = str(error)
    # TensorStore puts what the system said into the text of a ValueError.
    said = re.search(r"([^:]+) \[os_error_code", text)
    if said is None and not isinstance(error, OSError) and "Error reading" not in text:
      return
    told = said.group(1).strip() if said else text.splitlines()[0]
    if "saving" in self.doing:
      told += "; checkpoints already complete are unharmed"
    raise UserError(f"{self.doing} in {self.directory} failed: {told}") from error


def _keep_record(record: logging.LogRecord) -> bool:
  """Orbax logs, often with a traceback, errors that it also raises to our caller."""
  if "orbax" not in record.pathname:
    return True
  return record.exc_info is None and "Failed to get metadata" not in record.getMessage()


absl_logging.get_absl_logger().addFilter(_keep_record)
