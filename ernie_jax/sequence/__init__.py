"""Rows: parts of an example -> positions, groups, hidden intervals, targets and weights. NumPy only.

    row = lay_out([Text((BOS, 70, 71)), VisionTarget(slot=0, frames=1, scales=((1, 1), (2, 2)))])
    print(describe(pack([row], 32)))

Parts (`parts.py`): `Text`, `ContextMedia`, `VisionTarget`, `Audio`, `Voice`; `Part` is any of them, and
`part.length` its positions. One example: `lay_out`, `LayoutOptions` (`layout.py`). Packing: `pack`, `pad`,
`join`. Rows with slots of pictures and videos: `RowBuilder`, `MediaRow` (`media.py`); with codes
of sound and voices: `Clip`, `Speaker`, `Sound` (`sound.py`). The struct itself: `Row`, `Kind`, `empty_row`
(`row.py`, which states the conventions). The attention rule on the host: `visible`, `visible_reference` (`rule.py`). `SpecialToken`, `RESERVED_IDS`
(`special.py`). For people: a table, `describe`, and who sees whom, `picture` (`draw.py`).
"""

from ernie_jax.sequence.draw import describe, picture
from ernie_jax.sequence.layout import LayoutOptions, lay_out, scale_coordinates
from ernie_jax.sequence.media import (
  NO_SLOTS,
  Drawn,
  Item,
  MediaRow,
  MediaShapes,
  RowBuilder,
  Seen,
  SlotsConfig,
)
from ernie_jax.sequence.pack import pack, pad
from ernie_jax.sequence.parts import Audio, ContextMedia, Part, Text, VisionTarget, Voice
from ernie_jax.sequence.row import Kind, Row, empty_row, join
from ernie_jax.sequence.rule import visible, visible_reference
from ernie_jax.sequence.sound import Clip, Sound, SoundShape, Speaker, predicts_audio, silence
from ernie_jax.sequence.special import RESERVED_IDS, SpecialToken

__all__ = [
  "NO_SLOTS",
  "RESERVED_IDS",
  "Audio",
  "Clip",
  "ContextMedia",
  "Drawn",
  "Item",
  "Kind",
  "LayoutOptions",
  "MediaRow",
  "MediaShapes",
  "Part",
  "Row",
  "RowBuilder",
  "Seen",
  "SlotsConfig",
  "Sound",
  "SoundShape",
  "Speaker",
  "SpecialToken",
  "Text",
  "VisionTarget",
  "Voice",
  "describe",
  "empty_row",
  "join",
  "lay_out",
  "pack",
  "pad",
  "picture",
  "predicts_audio",
  "scale_coordinates",
  "silence",
  "visible",
  "visible_reference",
]
