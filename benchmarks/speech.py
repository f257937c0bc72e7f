"""What two choices of next-codec prediction are worth: distillation of the first level, and depth-wise heads.

  python -m benchmarks.speech [--seeds=3] [--steps=1000] [--json=PATH]

Three models of `experiments/speech.py`, the same steps and the same data for each seed:

    depth         the levels of a frame predicted one after another by the last layers; a distilled codec
    last          all heads on the last layer (`experiments/speech.py:last`); the same codec
    undistilled   as `depth`, with a codec whose first level is not aligned to the teacher (loss.semantic = 0)

The codecs are trained first, one of each kind, so the seeds are those of the models alone. Runs are kept under
--workdir and resumed or reused, so the benchmark can be interrupted.
"""

import dataclasses
import json
import os
import pathlib

from absl import flags
from ml_collections import config_flags

from benchmarks import seeds
from ernie_jax import cli
from ernie_jax.evaluate.judged import FLOOR
from ernie_jax.evaluate.speech import evaluate_spoken
from ernie_jax.train import audio_codec_run
from ernie_jax.train.experiment import build_experiment
from ernie_jax.train.model_io import SavedModel

WORKDIR = flags.DEFINE_string("workdir", "runs/speech_benchmark", "Where the runs are kept.")
JSON = flags.DEFINE_string("json", None, "Write the figures to this file.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each variant.")
STEPS = flags.DEFINE_integer("steps", 1000, "Steps of each model.")
PROMPTS = flags.DEFINE_integer("prompts", 256, "Held-out utterances of each task.")
CODEC = config_flags.DEFINE_config_file("config_codec", "experiments/audio_codec.py", "The codec.")
CONFIGS = {
  name: config_flags.DEFINE_config_file(f"config_{name}", f"experiments/speech.py{arg}", "Config.")
  for name, arg in (("depth", ""), ("last", ":last"))
}
VARIANTS = {  # heads, and the weight of distillation in the codec's loss
  "depth": ("depth", None),
  "last": ("last", None),
  "undistilled": ("depth", 0.0),
}
SPLIT = "validation"
REBUILT = "rebuilt"
FIGURES = {
  "heard words": ("speech -> text", "word_error"),
  "said words": ("text -> speech", "word_error"),
  "said phones": ("text -> speech", "phone_error"),
  "pitch off": ("text -> speech", "pitch_off"),
}


def main(argv) -> None:
  del argv
  root = pathlib.Path(WORKDIR.value)
  codecs = {semantic: codec(root, semantic) for semantic in dict.fromkeys([None, 0.0])}
  figures = {"cores": os.cpu_count(), "steps": STEPS.value, "variants": {v: [] for v in VARIANTS}}
  beside = {}
  for seed in range(SEEDS.value):
    for variant, (heads, semantic) in VARIANTS.items():
      saved = trained(root / f"{variant}_{seed}", heads, codecs[semantic], seed)
      scores, others = scored(saved)
      beside |= {f"codec, {variant}": others[REBUILT]} if heads == "depth" else {}
      beside[FLOOR] = others[FLOOR]
      figures["variants"][variant].append(scores)
      print(f"{variant:12} seed {seed}: {json.dumps(scores)}", flush=True)
      if JSON.value:
        pathlib.Path(JSON.value).write_text(json.dumps(figures | {"beside": beside}, indent=2))
  print(seeds.table(figures["variants"], beside))


def codec(root: pathlib.Path, semantic: float | None) -> pathlib.Path:
  """The workdir of a codec, trained now if it is not there; `semantic` in place of its config's weight."""
  e = audio_codec_run.build_experiment(CODEC.value)
  if semantic is not None:
    e = dataclasses.replace(e, loss=dataclasses.replace(e.loss, semantic=semantic))
  workdir = root / f"codec_{e.loss.semantic:g}"
  audio_codec_run.run_experiment(e, workdir)
  return workdir


def trained(workdir: pathlib.Path, heads: str, codec: pathlib.Path, seed: int) -> SavedModel:
  """The model of a variant and seed, trained now if it is not there."""
  e = build_experiment(CONFIGS[heads].value)
  e = dataclasses.replace(
    e,
    train=dataclasses.replace(e.train, steps=STEPS.value),
    audio=dataclasses.replace(e.audio, codec=str(codec)),
  )
  return seeds.trained(e, workdir, seed=seed)


def scored(saved: SavedModel) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
  """Errors of the whole model, and those that stand beside them by column."""
  report = evaluate_spoken(saved, members=(), prompts=PROMPTS.value)
  found = {
    name: report.scores[SPLIT][task][attribute] for name, (task, attribute) in FIGURES.items()
  }
  of = lambda column: {name: one[column] for name, one in found.items() if column in one}
  return of(report.columns[0]), {column: of(column) for column in (FLOOR, REBUILT)}


if __name__ == "__main__":
  cli.run(main)
