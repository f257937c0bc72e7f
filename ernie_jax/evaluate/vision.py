"""What a model with vision draws and reads, judged by programs: one table, its JSON and a contact sheet.

    found = evaluate_vision(load_model("runs/vision"), prompts=512)
    print(found.to_text())

Every figure stands beside its floor (outputs judged by other prompts; for questions, the most frequent
answer), controls (the first frame, held; the question of another prompt, heard) and its ceilings (the truth, and the
truth through the visual tokenizer), all of the same prompts, of combinations that training saw and of those that it
never saw. A model that was trained on pictures which are spoken about also hears the questions about pictures, in
voices of training and in others: it writes them down (`written`: in words that sound alike), then answers.
"""

import dataclasses
import time
from collections.abc import Sequence

from ernie_jax import config as config_lib
from ernie_jax.data.media_rows import MediaDataConfig
from ernie_jax.elastic.family import Member
from ernie_jax.errors import UserError
from ernie_jax.evaluate.judged import (
  FLOOR,
  PROMPTS,
  Job,
  JudgedReport,
  Maker,
  judge_all,
  member_makers,
)
from ernie_jax.evaluate.vision_makers import OtherQuestion, Rebuilt, Static, Studio, Truth
from ernie_jax.evaluate.vision_prompts import HEARD, SPLITS, TASKS, asked_of, make_prompts
from ernie_jax.evaluate.vision_scores import VisionJudge
from ernie_jax.generate.draw import DrawingConfig, drawing_of
from ernie_jax.train.model_io import SavedModel


@dataclasses.dataclass(frozen=True)
class VisionReport(JudgedReport):
  """What was drawn and read.

  Attributes:
    drawing: how bits were drawn.
  """

  splits = SPLITS
  drawing: DrawingConfig

  def _about(self) -> str:
    how = self.drawing
    return (
      f"{self.prompts} prompts of each task and split; step {self.step:,}; drawn at temperature"
      f" {how.temperature:g} and guidance {how.guidance:g}; {self.seconds:,.0f} s in all\n"
      f"{FLOOR}: judged by other prompts, questions by the most frequent answer; static: the true first"
      " frame, held; rebuilt: the truth through the visual tokenizer"
      + ("; other question: that of another prompt, heard" if self._hears else "")
    )

  @property
  def _hears(self) -> bool:
    return any(HEARD.name in tasks for tasks in self.scores.values())


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
  if saved.speech is None:
    data = dataclasses.replace(data, spoken=())
  began = time.perf_counter()
  asked = make_prompts(data, prompts)
  drawing = drawing or drawing_of(saved.config)
  if makers is None:
    makers = member_makers(saved, Studio(saved, data, asked, drawing), members)
  beside = [Static(), Rebuilt(saved.vision.config.tokenizer, saved.vision.tokenizer), Truth()]
  if data.spoken:
    beside.insert(0, OtherQuestion(makers[0]))
  jobs = [
    Job(split, task, many)
    for split in SPLITS
    for task in (*TASKS, HEARD)
    if (many := asked_of(split, task, asked))
  ]
  return VisionReport(
    **judge_all(makers, beside, jobs, VisionJudge()),
    prompts=prompts,
    step=saved.step,
    seconds=time.perf_counter() - began,
    drawing=drawing,
  )


def drawing_by_flags(saved: SavedModel, **changed: float | None) -> DrawingConfig:
  """See `generate.draw.drawing_of`.

  Raises:
    UserError: a value out of range.
  """
  try:
    return drawing_of(saved.config, **changed)
  except ValueError as e:
    raise UserError(f"--draw_{e}") from e  # the message begins with the field
