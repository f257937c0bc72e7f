"""A whole pipeline written by hand."""

import json
import pathlib

import numpy as np
import pytest
from hand_made import CODEC, CONFIG, FAMILY, METRICS, SPEECH, VISION, write_stage
from PIL import Image


@pytest.fixture
def pipeline(tmp_path) -> pathlib.Path:
  """The workdir of a pipeline that has everything but checkpoints."""
  root = tmp_path / "joint"
  codec = {"stage": "audio_codec", "data": {"worlds": [{"speech": {}, "train": 24}]}}
  write_stage(
    root / "codec", codec, [{"step": 1, "loss": 3.0, "held_out/mel": 3.3227}], report=CODEC
  )
  named = {"shape": 0.9876, "nothing": 1.0}
  encoder = {"stage": "visual_encoder", "data": {"worlds": [{"scene": {"nameless": True}}]}}
  write_stage(
    root / "encoder", encoder, [], report={"step": 5, "validation": named, "held_out": named}
  )
  routing = {"step": 5, "specialisation": {"text": 0.4321}, "share": [0.25, 0.75], "map": [[1]]}
  model = write_stage(
    root / "model", CONFIG, METRICS, family=FAMILY, vision=VISION, speech=SPEECH, routing=routing
  )
  for name in ("routing", "vision", "speech"):
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(model / f"{name}.png")
  entry = {"identity": "", "run": 1, "finished": True, "machine": "2 CPU cores"}
  record = {
    "encoder": entry | {"seconds": 91.0, "config": encoder},
    "codec": entry | {"seconds": 21.9, "config": codec},
    "model": entry | {"seconds": 1307.2, "config": CONFIG},
  }
  (root / "pipeline.json").write_text(json.dumps(record))
  return root
