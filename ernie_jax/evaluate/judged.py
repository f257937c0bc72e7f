"""Outputs of members, judged by programs: the loop over prompts, the table, its JSON and its sheet.

`vision.py` and `speech.py` say what is asked and how an output is judged. Every figure stands beside its
floor (outputs judged by other prompts), controls and ceilings, all of the same prompts.
"""

import abc
import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import tqdm

from ernie_jax.backbone.inputs import Active
from ernie_jax.elastic.family import Member, activate, full_member, members_of
from ernie_jax.evaluate.family_table import align
from ernie_jax.evaluate.sheet import Shown, write_sheet
from ernie_jax.train.model_io import SavedModel

PROMPTS = 512  # of each task and split, where nothing else is said
FLOOR = "floor"

Scores = dict[str, float]
Progress = Callable[[int], Any]


class Task(Protocol):
  """One ability; `name` is for people."""

  name: str


class Maker(Protocol):
  """Makes what is scored.

  Attributes:
    name: of its column.
    per_second: outputs a second for each task's name, compilation left out; empty where it says nothing.
  """

  name: str
  per_second: Mapping[str, float]

  def make(self, task: Any, prompts: Sequence[Any], progress: Progress) -> Sequence[Any] | None:
    """An output for each prompt, None for a task that it does not do; `progress` counts prompts done."""


class Studio(Protocol):
  """The compiled functions of one saved model, for every member and every task; each compiles once.

  Attributes:
    batch: prompts of one call.
    warm: tasks that compile nothing any more.
  """

  batch: int
  warm: set[Any]

  def run(
    self, task: Any, prompts: Sequence[Any], active: Active | None, number: int
  ) -> Sequence[Any]:
    """Outputs of one batch; `number` makes its draws differ from those of other batches."""


class Judge(Protocol):
  """How outputs are judged."""

  def score(self, task: Any, outputs: Sequence[Any], prompts: Sequence[Any]) -> Scores:
    """Each attribute over all outputs, the headline first; what applies to none is left out."""

  def floor(self, task: Any, outputs: Sequence[Any], prompts: Sequence[Any]) -> Scores:
    """What can be had without heeding the prompt; empty for one prompt."""

  def show(
    self, split: str, task: Any, outputs: Sequence[Any], prompts: Sequence[Any]
  ) -> list[Shown]:
    """Some of the outputs for the sheet."""


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
  """Prompts of a split for a task."""

  split: str
  task: Task
  prompts: Sequence[Any]


@dataclasses.dataclass(frozen=True)
class JudgedReport(abc.ABC):
  """Scores by split, task, attribute and column.

  Attributes:
    scores: the first attribute of a task is its headline; a column without a figure is not there.
    columns: the makers that were scored, the floor, and its ceilings and controls.
    per_second: of each maker, outputs a second by task, compilation left out.
    shown: outputs of the first maker, for the sheet.
    prompts: of each task and split.
    step: the training step of the checkpoint.
    seconds: that all of it took.
  """

  splits: ClassVar[Mapping[str, str]]  # what each split has, for people

  scores: dict[str, dict[str, dict[str, dict[str, float]]]]
  columns: tuple[str, ...]
  per_second: dict[str, dict[str, float]]
  shown: tuple[Shown, ...] = dataclasses.field(repr=False)
  prompts: int
  step: int
  seconds: float

  def to_json(self) -> dict[str, Any]:
    """All but the outputs, ready for JSON."""
    values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "shown"}
    plain = lambda v: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v
    return {name: plain(value) for name, value in values.items()} | {"columns": list(self.columns)}

  def to_text(self) -> str:
    """One aligned table."""
    lines = [("", *self.columns)]
    for split, tasks in self.scores.items():
      lines.append(self._title(self.splits[split]))
      for task, attributes in tasks.items():
        for i, (attribute, values) in enumerate(attributes.items()):
          label = f"{task}: {attribute}" if i == 0 else f"    {attribute}"
          lines.append(self._line(label, values, ".3f"))
    lines.append(self._title("a second"))
    for task in dict.fromkeys(name for tasks in self.scores.values() for name in tasks):
      rates = {c: rate for c in self.columns if (rate := self.per_second.get(c, {}).get(task))}
      if rates:
        lines.append(self._line(task, rates, ",.1f"))
    lines += self._more_lines()
    return "\n".join([*align(lines), self._about()])

  def write_sheet(self, path: str | os.PathLike) -> None:
    """A PNG of outputs with their prompts; see `sheet.write_sheet`."""
    write_sheet(path, self.shown)

  def _title(self, text: str) -> tuple[str, ...]:
    return (text.upper(), *[""] * len(self.columns))

  def _line(self, label: str, values: Mapping[str, float], form: str) -> tuple[str, ...]:
    return (label, *(format(values[c], form) if c in values else "" for c in self.columns))

  def _more_lines(self) -> list[tuple[str, ...]]:
    """Lines at the end of the table."""
    return []

  @abc.abstractmethod
  def _about(self) -> str:
    """What the columns are and how all of it was made."""


class MemberMaker:
  """A member of the family at work.

  Attributes:
    active: the member, as an input of the whole model; skipped layers cost nothing, and a slice would
      compile everything anew.
  """

  def __init__(self, name: str, studio: Studio, active: Active | None):
    self.name, self.active, self._studio = name, active, studio
    self._timed: dict[str, tuple[int, float]] = {}

  @property
  def per_second(self) -> dict[str, float]:
    """Prompts a second in batches that compiled nothing."""
    return {name: count / seconds for name, (count, seconds) in self._timed.items()}

  def make(self, task: Task, prompts: Sequence[Any], progress: Progress) -> list[Any]:
    """See `Maker`."""
    outputs = []
    for number, start in enumerate(range(0, len(prompts), self._studio.batch)):
      asked = prompts[start : start + self._studio.batch]
      began = time.perf_counter()
      outputs += self._studio.run(task, asked, self.active, number)
      if task in self._studio.warm:
        count, seconds = self._timed.get(task.name, (0, 0.0))
        self._timed[task.name] = count + len(asked), seconds + time.perf_counter() - began
      self._studio.warm.add(task)
      progress(len(asked))
    return outputs


def member_makers(
  saved: SavedModel, studio: Studio, members: Sequence[Member] | None
) -> list[MemberMaker]:
  """The full model and `members`; None: those that the model's config names."""
  kinds = {"elastic": saved.elastic, "model": saved.model}
  members = members_of(**kinds) if members is None else members
  members = dict.fromkeys([full_member(saved.model), *members])
  return [MemberMaker(m.name, studio, activate(m, saved.usage, **kinds)) for m in members]


def judge_all(
  makers: Sequence[Maker], beside: Sequence[Maker], jobs: Sequence[Job], judge: Judge
) -> dict[str, Any]:
  """Runs and judges everything under one progress bar.

  Args:
    makers: what is scored; the floor is of the first one's outputs, and so is what is shown.
    beside: controls and ceilings.
    jobs: what is asked, in the order of the table.
    judge: of all outputs.

  Returns:
    `scores`, `columns`, `per_second` and `shown` of a `JudgedReport`.
  """
  scores: dict[str, dict] = {}
  shown: list[Shown] = []
  total = sum(len(job.prompts) for job in jobs) * (len(makers) + len(beside))
  with tqdm.tqdm(total=total, desc="evaluating", unit="prompt", leave=False) as bar:
    for job in jobs:
      columns: dict[str, Scores] = {}
      for maker in (*makers, *beside):
        outputs = maker.make(job.task, job.prompts, bar.update)
        if outputs is None:
          continue
        columns[maker.name] = judge.score(job.task, outputs, job.prompts)
        if maker is makers[0]:
          columns[FLOOR] = judge.floor(job.task, outputs, job.prompts)
          shown += judge.show(job.split, job.task, outputs, job.prompts)
      scores.setdefault(job.split, {})[job.task.name] = _by_attribute(columns)
  return {
    "scores": scores,
    "columns": (*(maker.name for maker in makers), FLOOR, *(maker.name for maker in beside)),
    "per_second": {maker.name: dict(maker.per_second) for maker in makers},
    "shown": tuple(shown),
  }


def _by_attribute(columns: Mapping[str, Scores]) -> dict[str, dict[str, float]]:
  """Figures by attribute and column, in the order of the column that has most: it is complete."""
  names = itertools.chain(*sorted(columns.values(), key=len, reverse=True))
  return {
    name: {column: found[name] for column, found in columns.items() if name in found}
    for name in dict.fromkeys(names)
  }
