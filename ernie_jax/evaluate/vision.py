"""What a model with vision draws and reads, judged by programs: one table, its JSON and a contact sheet.

    found = evaluate_vision(load_model("runs/vision"), prompts=512)
    print(found.to_text())

Every figure stands beside its floor (outputs judged by other prompts; for questions, the most frequent
answer), a control (the first frame, held) and its ceilings (the truth, and the truth through the visual
tokenizer), all of the same prompts, of combinations that training saw and of those that it never saw.
"""

import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tqdm

from ernie_jax import config as config_lib
from ernie_jax.data.media_rows import MediaDataConfig
from ernie_jax.elastic.family import Member, activate, full_member, members_of
from ernie_jax.errors import UserError
from ernie_jax.evaluate.family_table import align
from ernie_jax.evaluate.vision_makers import (
  Maker,
  MemberMaker,
  Progress,
  Rebuilt,
  Static,
  Studio,
  Truth,
)
from ernie_jax.evaluate.vision_prompts import SPLITS, TASKS, Prompt, Prompts, Task, make_prompts
from ernie_jax.evaluate.vision_scores import Reader, Scores, floor, judge, mean
from ernie_jax.evaluate.vision_sheet import Shown, write_sheet
from ernie_jax.generate.draw import DrawingConfig
from ernie_jax.train.model_io import SavedModel

PROMPTS = 512
# Outputs of each task and split on the contact sheet: two lines of it.
SHOWN, SHOWN_VIDEOS = 16, 4
FLOOR = "floor"


@dataclasses.dataclass(frozen=True)
class VisionReport:
  """Scores by split, task, attribute and column.

  Attributes:
    scores: the first attribute of a task is its headline; a column without a figure is not there.
    columns: the makers that were scored, the floor, and its ceilings and control.
    per_second: of each maker, outputs a second by task, compilation left out.
    shown: outputs of the first maker, for the sheet.
    prompts: of each task and split.
    step: the training step of the checkpoint.
    drawing: how bits were drawn.
    seconds: that all of it took.
  """

  scores: dict[str, dict[str, dict[str, dict[str, float]]]]
  columns: tuple[str, ...]
  per_second: dict[str, dict[str, float]]
  shown: tuple[Shown, ...] = dataclasses.field(repr=False)
  prompts: int
  step: int
  drawing: DrawingConfig
  seconds: float

  def to_json(self) -> dict[str, Any]:
    """All but the outputs, ready for JSON."""
    values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "shown"}
    return {**values, "columns": list(self.columns), "drawing": vars(self.drawing)}

  def to_text(self) -> str:
    """One aligned table."""
    lines = [("", *self.columns)]
    for split, tasks in self.scores.items():
      lines.append((SPLITS[split].upper(), *[""] * len(self.columns)))
      for task, attributes in tasks.items():
        for i, (attribute, values) in enumerate(attributes.items()):
          label = f"{task}: {attribute}" if i == 0 else f"    {attribute}"
          lines.append((label, *(_figure(values.get(c), ".3f") for c in self.columns)))
    lines.append(("A SECOND", *[""] * len(self.columns)))
    for task in TASKS:
      rates = [self.per_second.get(c, {}).get(task.name) for c in self.columns]
      if any(rates):
        lines.append((task.name, *(_figure(rate, ",.1f") for rate in rates)))
    how = self.drawing
    about = (
      f"{self.prompts} prompts of each task and split; step {self.step:,}; drawn at temperature"
      f" {how.temperature:g} and guidance {how.guidance:g}; {self.seconds:,.0f} s in all\n"
      f"{FLOOR}: judged by other prompts, questions by the most frequent answer; static: the true first"
      " frame, held; rebuilt: the truth through the visual tokenizer"
    )
    return "\n".join([*align(lines), about])

  def write_sheet(self, path: str | pathlib.Path) -> None:
    """A PNG of outputs with their prompts; see `vision_sheet.write_sheet`."""
    write_sheet(path, self.shown)


def evaluate_vision(
  saved: SavedModel,
  *,
  members: Sequence[Member] | None = None,
  prompts: int = PROMPTS,
  drawing: DrawingConfig | None = None,
  makers: Sequence[Maker] | None = None,
) -> VisionReport | None:
  """Scores what members of a model draw and read; None if it was not trained on scenes of the world.

  Args:
    saved: the model, with its tokenizers and the config of its data.
    members: which ones; None is those that its config names. The full model is always among them.
    prompts: of each task and split.
    drawing: how bits are drawn; None: as the model's config says (`config.evaluation`).
    makers: what is scored in place of members.

  Raises:
    ValueError: no prompts.
  """
  if prompts < 1:
    raise ValueError(f"prompts must be at least 1, got {prompts}")
  data = config_lib.build(
    MediaDataConfig, saved.config.get("data", {}).get("media", {}), path="config.data.media"
  )
  if saved.vision is None or saved.tokenizer is None or not data.worlds:
    return None
  began = time.perf_counter()
  asked = make_prompts(data, prompts)
  drawing = drawing or drawing_of(saved)
  if makers is None:
    makers = _member_makers(saved, Studio(saved, data, asked, drawing), members)
  beside = [Static(), Rebuilt(saved.vision.config.tokenizer, saved.vision.tokenizer), Truth()]
  scores, shown = _score(makers, beside, asked)
  return VisionReport(
    scores=scores,
    columns=(*(maker.name for maker in makers), FLOOR, *(maker.name for maker in beside)),
    per_second={maker.name: dict(maker.per_second) for maker in makers},
    shown=tuple(shown),
    prompts=prompts,
    step=saved.step,
    drawing=drawing,
    seconds=time.perf_counter() - began,
  )


def drawing_of(saved: SavedModel, **changed: float | None) -> DrawingConfig:
  """How the model's config says that pictures are drawn for its evaluation.

  `changed`: temperature and guidance, where not None, in place of the config's.

  Raises:
    UserError: a value out of range.
  """
  values = saved.config.get("evaluation", {})
  values = {name: values[name] for name in ("temperature", "guidance") if name in values}
  values |= {name: value for name, value in changed.items() if value is not None}
  try:
    return DrawingConfig(**values)
  except ValueError as e:
    raise UserError(f"--draw_{e}") from e  # the message begins with the field


def _member_makers(
  saved: SavedModel, studio: Studio, members: Sequence[Member] | None
) -> list[MemberMaker]:
  kinds = {"elastic": saved.elastic, "model": saved.model}
  members = members_of(**kinds) if members is None else members
  members = dict.fromkeys([full_member(saved.model), *members])
  return [MemberMaker(m.name, studio, activate(m, saved.usage, **kinds)) for m in members]


def _score(
  makers: Sequence[Maker], beside: Sequence[Maker], asked: Prompts
) -> tuple[dict, list[Shown]]:
  """The scores of all makers, and outputs of the first one."""
  reader, shown = Reader(), []
  jobs = [
    (split, task, asked[split, task.moving])
    for split in SPLITS
    for task in TASKS
    if (split, task.moving) in asked
  ]
  scores: dict = {split: {} for split in SPLITS}
  total = sum(len(prompts) for _, _, prompts in jobs) * (len(makers) + len(beside))
  with tqdm.tqdm(total=total, desc="evaluating", unit="prompt", leave=False) as bar:
    for split, task, prompts in jobs:
      columns, outputs = _score_task(task, prompts, makers, beside, reader, bar.update)
      # Attributes in the order of the first maker's, whose outputs are complete.
      scores[split][task.name] = {
        name: {column: found[name] for column, found in columns.items() if name in found}
        for name in columns[makers[0].name]
      }
      shown += [_show(split, task, *pair, reader) for pair in zip(prompts, outputs)]
  return scores, shown


def _score_task(
  task: Task,
  prompts: Sequence[Prompt],
  makers: Sequence[Maker],
  beside: Sequence[Maker],
  reader: Reader,
  progress: Progress,
) -> tuple[dict[str, Scores], list]:
  """A task's scores by column, and some outputs of the first maker."""
  columns: dict[str, Scores] = {}
  shown = []
  for maker in (*makers, *beside):
    outputs = maker.make(task, prompts, progress)
    if outputs is None:
      continue
    columns[maker.name] = mean(judge(task, outputs, prompts, reader))
    if maker is makers[0]:
      columns[FLOOR] = floor(task, outputs, prompts, reader)
      shown = list(outputs[: SHOWN_VIDEOS if task.moving else SHOWN])
  return columns, shown


def _show(split: str, task: Task, prompt: Prompt, output: Any, reader: Reader) -> Shown:
  """One output for the sheet."""
  (found,) = judge(task, [output], [prompt], reader)
  asked = {"describe": "", "answer": prompt.question.question}.get(task.form, prompt.caption)
  return Shown(
    section=f"{task.name}, {SPLITS[split]}",
    media=output if task.draws else prompt.media,
    words=asked if task.draws else f"{asked}\n{output}".strip(),
    right=bool(np.all(found[task.headline] == 1)),
  )


def _figure(value: float | None, form: str) -> str:
  return "" if value is None else format(value, form)
