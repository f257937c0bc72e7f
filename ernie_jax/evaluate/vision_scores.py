"""Outputs against what was asked: the oracles' scores of drawn pictures and videos, exact texts, and floors.

Letters: F pixel frames, S side.
"""

import concurrent.futures
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ernie_jax.data.world.language import caption_exact
from ernie_jax.data.world.pronounce import pronounce
from ernie_jax.data.world.questions import KINDS, answer_right, majority_baseline
from ernie_jax.data.world.scene import Scene
from ernie_jax.evaluate.judged import Scores
from ernie_jax.evaluate.oracles.image import Reading, read_picture, score_reading
from ernie_jax.evaluate.oracles.score import shuffled
from ernie_jax.evaluate.oracles.video import VideoScore, score_readings
from ernie_jax.evaluate.sheet import Shown
from ernie_jax.evaluate.vision_makers import Outputs
from ernie_jax.evaluate.vision_prompts import HEARD, SPLITS, Prompt, Task

_EXTENDED = ("kept", "objects", "permanence", "direction", "trajectory", "nothing_else")
# Outputs of each task and split on the sheet: two lines of it.
SHOWN, SHOWN_VIDEOS = 16, 4


class Reader:
  """Reads frames by the picture oracle, several at a time, and no frame twice.

  The floor judges the outputs that were read already, and a held frame is one frame.
  """

  def __init__(self):
    self._known: dict[bytes, Reading] = {}

  def read(self, videos: Sequence[UInt8[np.ndarray, "F S S 3"]]) -> list[list[Reading]]:
    """The reading of every frame."""
    names = [[hashlib.sha1(frame.tobytes()).digest() for frame in video] for video in videos]
    new = {
      name: frame
      for video, row in zip(videos, names)
      for frame, name in zip(video, row)
      if name not in self._known
    }
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
      self._known |= zip(new, pool.map(read_picture, new.values()))
    return [[self._known[name] for name in row] for row in names]


class VisionJudge:
  """See `judged.Judge`."""

  def __init__(self):
    self._reader = Reader()

  def score(self, task: Task, outputs: Outputs, prompts: Sequence[Prompt]) -> Scores:
    """The mean of each attribute."""
    return mean(judge(task, outputs, prompts, self._reader))

  def floor(self, task: Task, outputs: Outputs, prompts: Sequence[Prompt]) -> Scores:
    """See `floor`."""
    return floor(task, outputs, prompts, self._reader)

  def show(
    self, split: str, task: Task, outputs: Outputs, prompts: Sequence[Prompt]
  ) -> list[Shown]:
    """The first outputs; right ones have the task's headline."""
    count = SHOWN_VIDEOS if task.moving else SHOWN
    outputs, prompts = outputs[:count], prompts[:count]
    found = judge(task, outputs, prompts, self._reader)
    return [
      Shown(
        section=f"{task.name}, {SPLITS[split]}",
        media=output if task.draws else prompt.media,
        words=prompt.caption if task.draws else _told(task, prompt, output),
        right=bool(np.all(one[task.headline] == 1)),
      )
      for output, prompt, one in zip(outputs, prompts, found)
    ]


def judge(
  task: Task, outputs: Outputs, prompts: Sequence[Prompt], reader: Reader
) -> list[dict[str, Any]]:
  """The attributes of every output; None is what its prompt does not ask for."""
  scenes = [prompt.scene for prompt in prompts]
  if task.form == "describe":
    return [{"exact": caption_exact(text, scene)} for text, scene in zip(outputs, scenes)]
  if task.answers:
    return [_answered(task, text, prompt) for text, prompt in zip(outputs, prompts)]
  read = reader.read(outputs)
  return [_drawn(task, readings, scene) for readings, scene in zip(read, scenes)]


def mean(judged: Sequence[Mapping[str, Any]]) -> Scores:
  """The mean of each attribute over the outputs that it applies to."""
  values: dict[str, list[float]] = {}
  for one in judged:
    for name, value in one.items():
      values.setdefault(name, []).extend([] if value is None else [float(value)])
  return {name: float(np.mean(some)) for name, some in values.items() if some}


def floor(task: Task, outputs: Outputs, prompts: Sequence[Prompt], reader: Reader) -> Scores:
  """What can be had without heeding the prompt.

  Each drawing or caption is judged by another prompt; a question is answered by what is most often right
  for its form, counted over all questions of the same scenes.
  """
  if task.answers:
    asked = [prompt.question for prompt in prompts]
    counted = [question for prompt in prompts for question in prompt.questions]
    by_kind = majority_baseline(asked, fitted_on=counted)
    right = [by_kind[question.kind] for question in asked]
    found = {"right": float(np.mean(right)), **{k: by_kind[k] for k in KINDS if k in by_kind}}
    if task == HEARD and len(prompts) > 1:
      others = [prompt.question for prompt in shuffled(prompts, np.random.default_rng(0))]
      same = [_sounds(a.question) == _sounds(b.question) for a, b in zip(asked, others)]
      found["written"] = float(np.mean(same))
    return found
  if len(prompts) < 2:
    return {}
  others = shuffled(prompts, np.random.default_rng(0))
  return mean(judge(task, outputs, others, reader))


def _told(task: Task, prompt: Prompt, output: str) -> str:
  """What was asked, and the answer; of a question that was heard, what the model wrote down of it."""
  asked = prompt.question.question if task.answers and task != HEARD else ""
  return f"{asked}\n{output}".strip()


def _answered(task: Task, text: str, prompt: Prompt) -> dict[str, Any]:
  """Of a question that was heard also whether it was written down, in words that sound like it."""
  asked = prompt.question
  written = {}
  if task == HEARD:
    line, _, text = text.rpartition("\n")
    written = {"written": _sounds(line) == _sounds(asked.question)}
  right = answer_right(text, asked.answer)
  return {"right": right, **written, **{k: right if k == asked.kind else None for k in KINDS}}


def _sounds(text: str) -> tuple[str, ...] | None:
  """What is said of a text; None where it cannot be said."""
  try:
    return pronounce(text)
  except ValueError:
    return None


def _drawn(task: Task, readings: list[Reading], scene: Scene) -> dict[str, Any]:
  """The attributes of a picture or video, the headline first."""
  score = score_readings(readings, scene) if task.moving else score_reading(readings[0], scene)
  found = dict(vars(score))
  if task.form == "extend":
    found["kept"] = _kept(score)
    return {name: found[name] for name in _EXTENDED}
  if scene.sign is None:
    found["sign"] = None  # all the others show none: `all_correct` has it
  return {task.headline: found[task.headline], **found}


def _kept(score: VideoScore) -> bool:
  """Whether every object of the given picture is what and where it was, and there in every frame."""
  return score.objects == 1 and score.permanence == 1
