"""What a visual tokenizer keeps: error, use of bits, and whether a program still reads the pictures.

PSNR alone is a weak measure: at 30 dB a quarter of the pictures may already be misread, small shapes
first. So the oracles of the world judge reconstructions, beside their ceiling on the originals.

Letters: N examples, B of a batch, T frames, S side.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import matplotlib.image
import numpy as np
from jaxtyping import Array, Bool, UInt8

from ernie_jax.data.media_example import MediaExample
from ernie_jax.data.world.render import render
from ernie_jax.data.world.scene import Scene, scene_from_json
from ernie_jax.evaluate.oracles.image import judge_picture
from ernie_jax.evaluate.oracles.score import mean_scores
from ernie_jax.evaluate.oracles.video import judge_video
from ernie_jax.vision.quantizer import bit_usage
from ernie_jax.vision.tokenizer import TokenizerConfig, VisualTokenizer, to_float, to_pixels
from ernie_jax.whole_file import written_whole

_CHANGED = 12  # levels: more than this away from the empty scene is foreground
_BATCH = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Reconstructed:
  """Examples through a tokenizer.

  Attributes:
    before, after: the pixels.
    usage: for each scale, the mean entropy of its bits over all examples.
  """

  before: UInt8[np.ndarray, "N T S S 3"]
  after: UInt8[np.ndarray, "N T S S 3"]
  usage: list[float]


def reconstruct(
  config: TokenizerConfig, params: Any, video: UInt8[np.ndarray, "N T S S 3"]
) -> Reconstructed:
  """Encodes and decodes all examples."""
  padded = np.concatenate([video, np.repeat(video[-1:], -len(video) % _BATCH, axis=0)])
  parts = [
    jax.device_get(_through(config, params, padded[i : i + _BATCH]))
    for i in range(0, len(padded), _BATCH)
  ]
  after, bits = (np.concatenate(x)[: len(video)] for x in zip(*parts))
  usage = np.asarray(bit_usage(bits, config.quantizer))
  return Reconstructed(before=video, after=after, usage=[float(u) for u in usage])


@functools.partial(jax.jit, static_argnames="config")
def _through(config: TokenizerConfig, params: Any, batch: UInt8[Array, "B T S S 3"]):
  """(pixels, bits) of a batch."""
  out = VisualTokenizer(config).apply({"params": params}, to_float(batch))
  return to_pixels(out.video), out.quantized.bits


def psnr(
  before: UInt8[np.ndarray, "*n"],
  after: UInt8[np.ndarray, "*n"],
  where: Bool[np.ndarray, "*n"] | None = None,
) -> float:
  """Peak signal-to-noise ratio in dB over all pixels, or over those of `where`."""
  error = np.square(before.astype(np.float64) - after)
  mean = error.mean() if where is None else error[where].mean()
  return float(10 * np.log10(255**2 / max(mean, 1e-10)))


def foreground(scene: Scene, side: int) -> Bool[np.ndarray, "T S S"]:
  """Where a scene is not its background."""
  empty = dataclasses.replace(scene, objects=(), sign=None)
  difference = render(scene, side).astype(int) - render(empty, side)
  return np.abs(difference).max(-1) > _CHANGED


def score(done: Reconstructed, examples: Sequence[MediaExample]) -> dict[str, Any]:
  """PSNR and use of bits; where scenes are known, also of the foreground, and what the oracle reads.

  Returns:
    `psnr`, `usage` and, with scenes, `foreground_psnr`, `oracle` (means over reconstructions) and
    `ceiling` (the same over the originals); ready for JSON.
  """
  found = {"examples": len(examples), "psnr": psnr(done.before, done.after), "usage": done.usage}
  if not all(example.scene for example in examples):
    return found
  frames, side = done.before.shape[1:3]
  scenes = [scene_from_json(example.scene) for example in examples]
  mask = np.stack([foreground(scene, side)[:frames] for scene in scenes])
  found["foreground_psnr"] = psnr(done.before, done.after, mask)
  judge = judge_video if frames > 1 else lambda video, scene: judge_picture(video[0], scene)
  for name, videos in (("oracle", done.after), ("ceiling", done.before)):
    found[name] = mean_scores([judge(v, s) for v, s in zip(videos, scenes)])
  return found


def describe(found: dict[str, Any]) -> str:
  """A score as lines for people."""
  usage = ", ".join(f"{u:.2f}" for u in found["usage"])
  lines = [f"{found['examples']} held-out examples", f"psnr             {found['psnr']:.2f} dB"]
  if "foreground_psnr" in found:
    lines.append(f"foreground psnr  {found['foreground_psnr']:.2f} dB")
  lines.append(f"use of bits      {usage} (1: balanced; scale by scale)")
  for name, value in found.get("oracle", {}).items():
    lines.append(f"{name:16} {value:.3f} of {found['ceiling'][name]:.3f}")
  return "\n".join(lines)


def write_sheet(path: pathlib.Path, done: Reconstructed, *, columns: int = 12) -> None:
  """A PNG of originals above their reconstructions: examples side by side, frames downwards."""
  enlarge = lambda x: x.repeat(3, axis=1).repeat(3, axis=2)
  rows = []
  for t in range(0, done.before.shape[1], 4):
    for video in (done.before, done.after):
      cells = np.pad(enlarge(video[:columns, t]), ((0, 0), (2, 2), (2, 2), (0, 0)))
      rows.append(np.concatenate(list(cells), axis=1))
  with written_whole(path) as part:
    matplotlib.image.imsave(part, np.concatenate(rows), format="png")
