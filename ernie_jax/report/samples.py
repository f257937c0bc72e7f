"""Samples of a trained model to look at and to listen to, made as its evaluation makes them.

One batch for each direction, of prompts of all splits, so that every program is compiled once. What is right is
said by the evaluation's own judges; speech that the oracle has not been fitted for yet is not judged.
"""

import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import tqdm

from ernie_jax import config as config_lib
from ernie_jax.data.audio import to_float
from ernie_jax.data.pipeline import DataConfig
from ernie_jax.evaluate import speech_makers, speech_prompts, vision_makers, vision_prompts
from ernie_jax.evaluate.judged import MemberMaker, member_makers
from ernie_jax.evaluate.oracles.speech import SpeechOracle
from ernie_jax.evaluate.report import sample as continued
from ernie_jax.evaluate.speech import speaking_of
from ernie_jax.evaluate.vision_scores import Reader, judge
from ernie_jax.generate.draw import drawing_of
from ernie_jax.report.document import Code, Gallery, Sample, Section, Text, tidy
from ernie_jax.report.media import heard, shown
from ernie_jax.report.results import arrowed
from ernie_jax.train.model_io import SavedModel

SAMPLES = 8  # of each direction

P = TypeVar("P")


def samples(saved: SavedModel, *, count: int = SAMPLES) -> list[Section]:
  """What the full model does in each direction that its data know; a progress bar tells of it.

  Args:
    saved: the model, with the config of its data.
    count: of each direction.

  Raises:
    UserError: the config of its data is not one that we know.
  """
  if saved.tokenizer is None or "data" not in saved.config:
    return []
  data = config_lib.build(DataConfig, saved.config["data"], path="config.data")
  vision = vision_prompts.make_prompts(data.media, count) if saved.vision is not None else {}
  spoken = {}
  if saved.speech is not None and data.speech.worlds:
    spoken = speech_prompts.make_prompts(data.speech, count)
  looking = [t for t in (*vision_prompts.TASKS, vision_prompts.HEARD) if _asked(t, vision)]
  total = count * (len(looking) + (len(speech_prompts.TASKS) if spoken else 0))
  parts = [_written(saved)]
  with tqdm.tqdm(total=total, desc="samples", unit="sample", leave=False, disable=not total) as bar:
    if vision:
      parts += _visual(saved, data, vision, looking, count, bar)
    if spoken:
      parts += _spoken(saved, data, spoken, count, bar)
  return [part for part in parts if part is not None]


def _written(saved: SavedModel) -> Section | None:
  """What the model writes after the prompt of its config."""
  prompt = saved.config.get("evaluation", {}).get("prompt")
  if not prompt:
    return None
  words = continued(saved, prompt).encode(errors="replace").decode()
  return tidy("text", Text(f"Written after {prompt!r}:"), Code(_printable(words)))


def _visual(saved, data: DataConfig, prompts, tasks, count: int, bar) -> Iterator[Section | None]:
  """Sections of what is drawn and told."""
  studio = vision_makers.Studio(saved, data.media, prompts, drawing_of(saved.config))
  maker, reader = _full(saved, studio), Reader()
  for task in tasks:
    asked = _mixed(_asked(task, prompts), count)
    outputs = maker.make(task, [prompt for _, prompt in asked], bar.update)
    found = judge(task, outputs, [prompt for _, prompt in asked], reader)
    made = [
      _seen(
        task, prompt, output, bool(np.all(one[task.headline] == 1)), vision_prompts.SPLITS[split]
      )
      for (split, prompt), output, one in zip(asked, outputs, found)
    ]
    yield tidy(arrowed(task.name), Gallery(tuple(made)))


def _asked(task: vision_prompts.Task, prompts: vision_prompts.Prompts) -> dict[str, Sequence[Any]]:
  """The prompts of each split that has any for a task."""
  by_split = {split: vision_prompts.asked_of(split, task, prompts) for split, _ in prompts}
  return {split: many for split, many in by_split.items() if many}


def _seen(task, prompt, output: Any, right: bool, split: str) -> Sample:
  """One drawing under its words, or a picture with what was asked, written or heard, and told of it."""
  if task.draws:
    name = "continues the first frame of" if task.form == "extend" else "asked:"
    alt = f"A {'video' if task.moving else 'picture'} drawn by the model for: {prompt.caption}"
    return Sample(shown(output, alt), ((name, prompt.caption), ("", f"({split})")), right)
  alt = f"A {'video' if task.moving else 'picture'} shown to the model: {prompt.caption}"
  lines = [("told:", _printable(output)), ("", f"({split})")]
  sound = None
  if task.answers:
    question = prompt.question
    lines = [("asked:", question.question)]
    if task == vision_prompts.HEARD:
      line, _, output = output.rpartition("\n")
      lines.append(("written:", _printable(line)))
    lines += [("answered:", _printable(output)), ("true answer:", question.answer)]
    lines.append(("", f"({split})"))
  if task == vision_prompts.HEARD:
    sound = heard(to_float(prompt.waveform), f"A question played to the model: {question.question}")
  return Sample(shown(prompt.media, alt), tuple(lines), right, sound)


def _spoken(saved, data: DataConfig, prompts, count: int, bar) -> Iterator[Section | None]:
  """Sections of what is heard and said."""
  maker = _full(saved, speech_makers.Studio(saved, prompts, speaking_of(temperature=None)))
  oracle = _kept_oracle(pathlib.Path(data.data_dir).expanduser() / "oracles")
  asked = _mixed(prompts, count)
  for task in speech_prompts.TASKS:
    outputs = maker.make(task, [prompt for _, prompt in asked], bar.update)
    if task.speaks:
      read = [one.text for one in oracle.read(outputs)] if oracle else [None] * len(outputs)
      made = [_said(*one) for one in zip(asked, outputs, read)]
    else:
      made = [_written_down(*one) for one in zip(asked, outputs)]
    yield tidy(arrowed(task.name), Gallery(tuple(made)))


def _said(asked: tuple[str, Any], waveform: np.ndarray, read: str | None) -> Sample:
  """A sentence that the model spoke."""
  split, prompt = asked
  label = f"Spoken by the model: {prompt.text}"
  lines = [("asked:", prompt.text), ("voice:", str(prompt.utterance.speaker))]
  lines += [] if read is None else [("heard by the judge:", read or "(nothing)")]
  right = None if read is None else read.split() == prompt.text.split()
  return Sample(heard(waveform, label), (*lines, _about(split)), right)


def _written_down(asked: tuple[str, Any], text: str) -> Sample:
  """A recording and the model's transcript of it."""
  split, prompt = asked
  sound = heard(to_float(prompt.waveform), f"A recording played to the model: {prompt.text}")
  lines = (("said:", prompt.text), ("written:", _printable(text)), _about(split))
  return Sample(sound, lines, text.lower().split() == prompt.text.split())


def _about(split: str) -> tuple[str, str]:
  return "", f"({speech_prompts.SPLITS[split]})"


def _full(saved: SavedModel, studio) -> MemberMaker:
  """The full model at work."""
  return member_makers(saved, studio, ())[0]


def _mixed(prompts: Mapping[str, Sequence[P]], count: int) -> list[tuple[str, P]]:
  """`count` prompts with their splits, as many of each as can be, split by split."""
  turns = itertools.chain(
    *zip(*([(split, one) for one in many] for split, many in prompts.items()))
  )
  order = list(prompts)
  return sorted(itertools.islice(turns, count), key=lambda pair: order.index(pair[0]))


def _kept_oracle(folder: pathlib.Path) -> SpeechOracle | None:
  """The judge of speech where an evaluation has fitted it; fitting takes longer than all samples."""
  return SpeechOracle.load(folder) if any(folder.glob("speech-*.npz")) else None


def _printable(text: str) -> str:
  """What a model wrote, without what no page can show."""
  kept = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
  return kept.strip("\n") or "(nothing)"
