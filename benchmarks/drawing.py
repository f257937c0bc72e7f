"""How fast a model draws and reads: one picture alone, and batches of 64.

  python -m benchmarks.drawing --workdir=runs/vision [--json=PATH] [--guidance=2]

Everything is compiled before the clock runs; medians are quoted. Guidance other than 1 runs the model on
every prompt twice, with its words and without.
"""

import dataclasses
import json
import os
import statistics
import time

import jax
from absl import flags

from ernie_jax import cli, config
from ernie_jax.data.media_rows import MediaDataConfig
from ernie_jax.errors import UserError
from ernie_jax.evaluate.vision import drawing_by_flags
from ernie_jax.evaluate.vision_prompts import make_prompts
from ernie_jax.generate.draw import Painter, draw_prompt
from ernie_jax.train.model_io import load_model

WORKDIR = flags.DEFINE_string("workdir", None, "Of a model with vision.")
JSON = flags.DEFINE_string("json", None, "Write the figures to this file.")
GUIDANCE = flags.DEFINE_float("guidance", None, "In place of the config's.")
ROUNDS = flags.DEFINE_integer("rounds", 15, "Timed rounds.")
BATCHES = (1, 64)


def main(argv) -> None:
  del argv
  if not WORKDIR.value:
    raise UserError("--workdir is missing")
  saved = load_model(WORKDIR.value)
  if saved.vision is None or saved.tokenizer is None:
    raise UserError(f"--workdir: the model in {WORKDIR.value} draws no pictures")
  media = saved.config.get("data", {}).get("media", {})
  data = config.build(MediaDataConfig, media, path="config.data.media")
  how = drawing_by_flags(saved, guidance=GUIDANCE.value)
  painter = Painter(saved.model, saved.vision.config, options=data.options(), window=data.look_back)
  weights = painter.load(saved.params, saved.bias, saved.vision.tokenizer)
  prompts = [
    draw_prompt(
      saved.tokenizer.encode(prompt.caption).tolist(), frames=1, side=prompt.media.shape[1]
    )
    for prompt in make_prompts(data, max(BATCHES))["validation", False]
  ]
  figures = {"cores": os.cpu_count(), "guidance": how.guidance}
  for size in BATCHES:
    seconds = []
    for i in range(ROUNDS.value + 2):
      one = dataclasses.replace(how, seed=i)
      start = time.perf_counter()
      jax.block_until_ready(painter.draw(weights, prompts[:size], how=one))
      seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[2:])
    figures[f"batch_{size}"] = {"ms": 1000 * median, "pictures_per_s": size / median}
    print(
      f"batch of {size:2}: {1000 * median:7.1f} ms, {size / median:6.1f} pictures/s", flush=True
    )
  if JSON.value:
    with open(JSON.value, "w") as f:
      json.dump(figures, f, indent=2)


if __name__ == "__main__":
  cli.run(main)
