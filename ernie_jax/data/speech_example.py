"""What one record about speech says, wherever it comes from: the world, files, or a TFDS set.

An example does not say what is to be learnt from it; the rows' builder draws recognition or synthesis.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int16, UInt8


@dataclasses.dataclass(frozen=True, eq=False)
class SpeechExample:
  """One clip with all that is known about it.

  Attributes:
    waveform: 16 bits at 16 kHz.
    transcript: what is said; possibly empty.
    speaker: a name for the voice, the same wherever it speaks in this source; empty where unknown.
    phones: label of each 8 ms (`data/world/speech.PHONES`); empty where unknown.
    f0: pitch in Hz of each 8 ms, 0 without voice; empty where unknown.
    utterance: the state that `waveform` was made from as JSON; empty where unknown.
    name: where it comes from, for messages.

  Raises:
    ValueError: `waveform` has another form.
  """

  waveform: Int16[np.ndarray, "S"] = dataclasses.field(repr=False)
  transcript: str = ""
  speaker: str = ""
  phones: UInt8[np.ndarray, "F"] = dataclasses.field(
    default_factory=lambda: np.zeros(0, np.uint8), repr=False
  )
  f0: Float[np.ndarray, "F"] = dataclasses.field(
    default_factory=lambda: np.zeros(0, np.float32), repr=False
  )
  utterance: str = ""
  name: str = ""

  def __post_init__(self):
    wave = self.waveform
    if wave.dtype != np.int16 or wave.ndim != 1 or not wave.size:
      raise ValueError(f"waveform must be int16 [S], got {wave.dtype} {wave.shape}")

  @property
  def seconds(self) -> float:
    """Its length."""
    return len(self.waveform) / 16_000
