"""What a model with audio hears and says, judged by a program: one table, its JSON and a sheet of spectrograms.

    found = evaluate_spoken(load_model("runs/speech"), prompts=512)
    print(found.to_text())

"speech -> text" writes down recordings; "text -> speech" says words in the voice of another clip of the
speaker (`speech_scores` says what it must meet). Every figure is an error, beside its floor (outputs judged by
other prompts), a control (the clip that shows the voice, played back) and its ceilings: what the oracle hears
in the recordings, and in the recordings through the codec. All are of the same prompts: voices and pairs of
words that training had, voices that it had not, and pairs of words that it had not.
"""

import dataclasses
import pathlib
import time
from collections.abc import Sequence

from ernie_jax import config as config_lib
from ernie_jax.data.pipeline import DataConfig
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
from ernie_jax.evaluate.oracles.speech import SpeechOracle
from ernie_jax.evaluate.speech_makers import Rebuilt, Reference, Streaming, Studio, Truth
from ernie_jax.evaluate.speech_prompts import SPLITS, TASKS, make_prompts
from ernie_jax.evaluate.speech_scores import Ear, SpeechJudge
from ernie_jax.generate.speak import SpeakingConfig
from ernie_jax.train.model_io import SavedModel


@dataclasses.dataclass(frozen=True)
class SpokenReport(JudgedReport):
  """What was heard and said.

  Attributes:
    speaking: how codes were drawn.
    streaming: of each member, how soon and how fast it speaks one prompt.
  """

  splits = SPLITS
  speaking: SpeakingConfig
  streaming: dict[str, Streaming]

  def _more_lines(self) -> list[tuple[str, ...]]:
    if not self.streaming:
      return []
    labels = {
      "first_ms": ("first sound, ms", ".0f"),
      "stall_ms": ("longest stall, ms", ".0f"),
      "real_time_factor": ("seconds a second of sound", ".2f"),
    }
    lines = [self._title("one at a time")]
    for name, (label, form) in labels.items():
      values = {column: getattr(one, name) for column, one in self.streaming.items()}
      lines.append(self._line(label, values, form))
    return lines

  def to_json(self):
    """See `JudgedReport`."""
    streaming = {name: dataclasses.asdict(one) for name, one in self.streaming.items()}
    return super().to_json() | {"streaming": streaming}

  def _about(self) -> str:
    return (
      f"{self.prompts} prompts of each task and split; step {self.step:,}; spoken at temperature"
      f" {self.speaking.temperature:g}; {self.seconds:,.0f} s in all\n"
      f"{FLOOR}: judged by other prompts; reference: the clip that shows the voice, played back; rebuilt:"
      " recordings through the codec, and\nwhat the oracle hears in them; truth: the same of recordings;"
      " pitch in semitones from the voice's mean, off: by more than one"
    )


def evaluate_spoken(
  saved: SavedModel,
  *,
  members: Sequence[Member] | None = None,
  prompts: int = PROMPTS,
  speaking: SpeakingConfig | None = None,
  makers: Sequence[Maker] | None = None,
  oracle: SpeechOracle | None = None,
) -> SpokenReport | None:
  """Scores what members of a model hear and say; None if it was not trained on the world's utterances.

  Args:
    saved: the model, with its codec, its tokenizer and the config of its data.
    members: which ones; None is those that its config names. The full model is always among them.
    prompts: of each task and split.
    speaking: how codes are drawn; None: as by default.
    makers: what is scored in place of members.
    oracle: None: the one kept in the folder `oracles` of the data, fitted now if it is not there.

  Raises:
    ValueError: no prompts.
    UserError: the oracle cannot be kept there.
  """
  if prompts < 1:
    raise ValueError(f"prompts must be at least 1, got {prompts}")
  data = config_lib.build(DataConfig, saved.config.get("data", {}), path="config.data")
  if saved.speech is None or saved.tokenizer is None or not data.speech.worlds:
    return None
  began = time.perf_counter()
  asked = make_prompts(data.speech, prompts)
  speaking = speaking or SpeakingConfig()
  ear = Ear(oracle or SpeechOracle.load(pathlib.Path(data.data_dir).expanduser() / "oracles"))
  streaming = {}
  if makers is None:
    studio = Studio(saved, asked, speaking)
    makers = member_makers(saved, studio, members)
    streaming = {m.name: studio.stream(asked["validation"], m.active) for m in makers}
  jobs = [Job(split, task, many) for split, many in asked.items() for task in TASKS]
  beside = [Reference(), Rebuilt(ear, saved.speech), Truth(ear)]
  return SpokenReport(
    **judge_all(makers, beside, jobs, SpeechJudge(ear)),
    prompts=prompts,
    step=saved.step,
    seconds=time.perf_counter() - began,
    speaking=speaking,
    streaming=streaming,
  )


def speaking_of(*, temperature: float | None) -> SpeakingConfig:
  """How speech is drawn at a temperature from the command; None: as by default.

  Raises:
    UserError: it is out of range.
  """
  try:
    return SpeakingConfig() if temperature is None else SpeakingConfig(temperature=temperature)
  except ValueError as e:
    raise UserError(f"--speak_{e}") from e  # the message begins with the field
