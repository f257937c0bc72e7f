"""The report's attention merger against its parts alone and an MLP, on questions that need fine detail.

  python -m benchmarks.merger --tokenizer=runs/tokenizer --encoder=runs/encoder [--seeds=3] [--json=PATH]

Every variant of `experiments/fine_detail.py` has as many parameters, the same steps and the same data for
each seed. Scored are questions of held-out pictures about the text of a sign and the shape of small objects.
Runs are kept under --workdir and resumed or reused.
"""

import dataclasses
import json
import os
import pathlib

from absl import flags
from ml_collections import config_flags

from benchmarks import seeds
from ernie_jax import cli, config
from ernie_jax.data.media_rows import MediaDataConfig
from ernie_jax.errors import UserError
from ernie_jax.evaluate.judged import MemberMaker
from ernie_jax.evaluate.vision_makers import Studio
from ernie_jax.evaluate.vision_prompts import TASKS, make_prompts
from ernie_jax.evaluate.vision_scores import Reader, floor, judge, mean
from ernie_jax.generate.draw import drawing_of
from ernie_jax.train.experiment import build_experiment
from ernie_jax.train.model_io import SavedModel

TOKENIZER = flags.DEFINE_string("tokenizer", None, "Workdir of a trained visual tokenizer.")
ENCODER = flags.DEFINE_string(
  "encoder", "", "Workdir of a trained visual encoder; none: the model trains its own."
)
WORKDIR = flags.DEFINE_string("workdir", "runs/merger_benchmark", "Where the runs are kept.")
JSON = flags.DEFINE_string("json", None, "Write the figures to this file.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each variant.")
PROMPTS = flags.DEFINE_integer("prompts", 512, "Held-out pictures, each asked both kinds.")
VARIANTS = ("merger", "mlp", "cnn", "vit")
EXPERIMENT = "experiments/fine_detail.py"
CONFIGS = {
  name: config_flags.DEFINE_config_file(f"config_{name}", f"{EXPERIMENT}:{name}", "Config file.")
  for name in VARIANTS
}
KINDS = ("sign", "small")
ASKED = next(task for task in TASKS if task.name == "picture question")


def main(argv) -> None:
  del argv
  if not TOKENIZER.value:
    raise UserError("--tokenizer is missing")
  figures = {"cores": os.cpu_count(), "variants": {name: [] for name in VARIANTS}, "floor": {}}
  for seed in range(SEEDS.value):
    for name in VARIANTS:
      saved = trained(name, seed)
      scores, figures["floor"] = scored(saved)
      figures["variants"][name].append(scores)
      print(f"{name:8} seed {seed}: {json.dumps(scores)}", flush=True)
      if JSON.value:
        pathlib.Path(JSON.value).write_text(json.dumps(figures, indent=2))
  print(seeds.table(figures["variants"], {"floor": figures["floor"]}))


def trained(name: str, seed: int) -> SavedModel:
  """The model of a variant and seed, trained now if it is not there."""
  e = build_experiment(CONFIGS[name].value)
  encoder = "" if name == "cnn" else ENCODER.value
  vision = dataclasses.replace(e.vision, tokenizer=TOKENIZER.value, encoder=encoder)
  e = dataclasses.replace(e, vision=vision)
  return seeds.trained(e, pathlib.Path(WORKDIR.value) / f"{name}_{seed}", seed=seed)


def scored(saved: SavedModel) -> tuple[dict[str, float], dict[str, float]]:
  """Share of right answers by kind, and what the most frequent answer scores."""
  media = saved.config["data"]["media"]
  data = config.build(MediaDataConfig, media, path="config.data.media")
  made = make_prompts(data, PROMPTS.value)
  asked = [
    dataclasses.replace(prompt, question=question)
    for prompt in made["validation", False]
    for question in prompt.questions
    if question.kind in KINDS
  ]
  studio = Studio(saved, data, {("validation", False): asked}, drawing_of(saved.config))
  outputs = MemberMaker("full", studio, None).make(ASKED, asked, lambda count: None)
  reader = Reader()
  found = mean(judge(ASKED, outputs, asked, reader))
  guessed = floor(ASKED, outputs, asked, reader)
  return {n: found[n] for n in KINDS}, {n: guessed[n] for n in KINDS}


if __name__ == "__main__":
  cli.run(main)
