"""What a codec keeps: distance of spectra, what a program still hears, and what each level carries.

Distances of spectra rank codecs badly: word error is 0 while pitch and phones are wrong. So the oracle of
the world judges reconstructions by words, phones (without a vocabulary) and pitch, beside its ceiling on the
originals and its floor on words of other clips.

Letters: N clips, S samples, T codec frames, R levels, V codes, D width of the latent, K classes.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.cm
import matplotlib.image
import numpy as np
from jaxtyping import Float, Int

from ernie_jax.audio import losses
from ernie_jax.audio.analysis import HOP
from ernie_jax.audio.codec import (
  STRIDE,
  Codec,
  CodecConfig,
  decode_codes,
  encode_codes,
  whole_frames,
)
from ernie_jax.data.audio import to_float
from ernie_jax.data.speech_example import SpeechExample
from ernie_jax.data.world.speech import PHONES, utterance_from_json
from ernie_jax.data.world.speech_synthesis import code_labels
from ernie_jax.evaluate.oracles.pitch import pitch_errors, read_pitch
from ernie_jax.evaluate.oracles.score import shuffled
from ernie_jax.evaluate.oracles.speech import Reading, SpeechOracle
from ernie_jax.evaluate.oracles.speech_score import Said, expected, judge_speech, summarise
from ernie_jax.whole_file import written_whole

_BATCH = 16
_LEAST_FRAMES = 16  # clips are filled up to this many codec frames times a power of two
_SHEET_SECONDS, _SHEET_WINDOW, _SHEET_ROWS = 1.6, 512, 128


@dataclasses.dataclass(frozen=True, eq=False)
class Reconstructed:
  """Clips through a codec.

  Attributes:
    before, after: float32 [S] each, equally long.
    codes: int32 [T, R] each.
  """

  before: list[np.ndarray]
  after: list[np.ndarray]
  codes: list[np.ndarray]


def reconstruct(
  config: CodecConfig, params: Any, vectors: Any, waveforms: Sequence[np.ndarray]
) -> Reconstructed:
  """Encodes and decodes int16 clips of any length. Nothing looks ahead, so filling up changes nothing."""

  run = _runner(config)
  after: list[Any] = [None] * len(waveforms)
  codes: list[Any] = [None] * len(waveforms)
  order = sorted(range(len(waveforms)), key=lambda i: len(waveforms[i]))
  for start in range(0, len(order), _BATCH):
    chosen = order[start : start + _BATCH]
    frames = _LEAST_FRAMES
    while frames < whole_frames(len(waveforms[chosen[-1]])):
      frames *= 2
    batch = np.zeros((_BATCH, frames * STRIDE), np.float32)
    for row, i in zip(batch, chosen):
      row[: len(waveforms[i])] = to_float(waveforms[i])
    found, sound = jax.device_get(run(params, vectors, batch))
    for i, c, s in zip(chosen, found, sound):
      codes[i] = c[: whole_frames(len(waveforms[i]))]
      after[i] = np.clip(s[: len(waveforms[i])], -1, 1)
  return Reconstructed(before=[to_float(w) for w in waveforms], after=after, codes=codes)


def score(
  done: Reconstructed,
  examples: Sequence[SpeechExample],
  vectors: Float[np.ndarray, "R V D"],
  *,
  oracle: SpeechOracle | None = None,
  seed: int = 0,
) -> dict[str, Any]:
  """All figures, ready for JSON.

  Returns:
    `mel` (mean absolute difference of log mel magnitudes), `si_sdr` (dB), `heard_median` and `heard_off`
    (of the semitones between the pitch read in the recordings and in what came back, where both are
    voiced: their median, and the share more than one off), `perplexity` and `used` (codes) of each level;
    with an oracle and known utterances `oracle`, `ceiling` and `floor` (see
    `oracles.speech_score.summarise`), and `probes` where frames are labelled.
  """
  pairs = list(zip(done.before, done.after))
  codes = np.concatenate(done.codes)
  found = {
    "examples": len(examples),
    "mel": float(np.mean([mel_distance(*p) for p in pairs])),
    "si_sdr": float(np.mean([si_sdr(*p) for p in pairs])),
    **_heard_pitch(pairs),
    **usage(codes, vectors.shape[1]),
  }
  if oracle is not None and all(e.utterance for e in examples):
    said = [expected(utterance_from_json(e.utterance), e.f0) for e in examples]
    heard, ceiling = oracle.read(done.after), oracle.read(done.before)
    found["oracle"] = _judged(oracle, heard, said)
    found["ceiling"] = _judged(oracle, ceiling, said)
    if len(said) > 1:
      others = shuffled(said, np.random.default_rng(seed))
      found["floor"] = _judged(oracle, heard, others)
  if len(examples) > 1 and all(len(e.phones) for e in examples):
    found["probes"] = probes(done.codes, examples, vectors, seed=seed)
  return found


def mel_distance(before: Float[np.ndarray, "S"], after: Float[np.ndarray, "S"]) -> float:
  """Mean absolute difference of log mel magnitudes at the resolutions of training."""
  length = len(before) // (2 * STRIDE) * 2 * STRIDE or len(before)
  terms = _spectral(after[None, :length], before[None, :length])
  return float(terms)


def si_sdr(before: Float[np.ndarray, "S"], after: Float[np.ndarray, "S"]) -> float:
  """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019); low wherever phases are made up."""
  before, after = before - before.mean(), after - after.mean()
  target = before * (after @ before) / (before @ before + 1e-9)
  error = after - target
  return float(10 * np.log10((target @ target + 1e-9) / (error @ error + 1e-9)))


def usage(codes: Int[np.ndarray, "n R"], count: int) -> dict[str, list[float]]:
  """`perplexity` of each level's use, and how many codes are `used` at all."""
  shares = [np.bincount(c, minlength=count) / len(c) for c in codes.T]
  entropy = [-(s[s > 0] * np.log(s[s > 0])).sum() for s in shares]
  return {
    "perplexity": [float(np.exp(e)) for e in entropy],
    "used": [int((s > 0).sum()) for s in shares],
  }


def probes(
  codes: Sequence[Int[np.ndarray, "T R"]],
  examples: Sequence[SpeechExample],
  vectors: Float[np.ndarray, "R V D"],
  *,
  seed: int = 0,
) -> dict[str, list[float]]:
  """How often a linear probe of a level's vectors is right, frame by frame, on the other half of the clips.

  Returns:
    for each level `phone` (that which fills most of the codec frame) and `speaker`; and their `chance`, the
    share of the most frequent class.
  """
  halves = np.random.default_rng(seed).permutation(len(examples)) % 2
  names = sorted({e.speaker for e in examples})
  labels = {
    "phone": [code_labels(e.phones).astype(int) for e in examples],
    "speaker": [np.full(len(c), names.index(e.speaker)) for c, e in zip(codes, examples)],
  }
  side = np.concatenate([np.full(len(c), h) for c, h in zip(codes, halves)])
  flat = np.concatenate(codes)
  found: dict[str, list[float]] = {}
  for name, classes in (("phone", len(PHONES)), ("speaker", len(names))):
    wanted = np.concatenate(labels[name])
    found[name] = [
      _probe(vectors[level][flat[:, level]], wanted, side == 0, classes)
      for level in range(flat.shape[1])
    ]
    found[f"{name}_chance"] = [float(np.bincount(wanted).max() / len(wanted))]
  return found


def describe(found: dict[str, Any]) -> str:
  """A score as lines for people."""
  row = lambda values, form: ", ".join(format(v, form) for v in values)
  lines = [
    f"{found['examples']} clips",
    f"mel distance     {found['mel']:.3f}",
    f"SI-SDR           {found['si_sdr']:.2f} dB",
    *_pitch_line(found),
    f"perplexity       {row(found['perplexity'], '.0f')} (codes in use: {row(found['used'], 'd')})",
  ]
  for name, value in found.get("oracle", {}).items():
    floor = found.get("floor", {}).get(name, float("nan"))
    ceiling = found["ceiling"].get(name, float("nan"))
    lines.append(f"{name:16} {value:.4f} (originals {ceiling:.4f}, words of others {floor:.4f})")
  for name in ("phone", "speaker"):
    if "probes" in found:
      chance = found["probes"][f"{name}_chance"][0]
      lines.append(f"probe of {name:7} {row(found['probes'][name], '.3f')} (chance {chance:.3f})")
  return "\n".join(lines)


def _pitch_line(found: dict[str, Any]) -> list[str]:
  if "heard_median" not in found:
    return []
  median, off = found["heard_median"], 100 * found["heard_off"]
  return [f"pitch            {median:.2f} semitones (median), {off:.1f} % more than one off"]


def write_sheet(path: pathlib.Path, done: Reconstructed, *, columns: int = 4) -> None:
  """A PNG of spectrograms: originals above, reconstructions below, clips side by side."""
  rows = []
  for clips in (done.before, done.after):
    cells = [np.pad(spectrogram(c), ((2, 2), (2, 2))) for c in clips[:columns]]
    rows.append(np.concatenate(cells, axis=1))
  picture = matplotlib.cm.magma(np.concatenate(rows))
  with written_whole(path) as part:
    matplotlib.image.imsave(part, picture, format="png")


def spectrogram(
  waveform: Float[np.ndarray, "S"], *, seconds: float = _SHEET_SECONDS
) -> Float[np.ndarray, "H W"]:
  """Log magnitudes in [0, 1], up to 8 kHz upwards, of the first `seconds`; silence follows a shorter clip."""
  samples = int(seconds * 16_000)
  cut = np.pad(waveform[:samples], (0, max(samples - len(waveform), 0) + _SHEET_WINDOW))
  windows = np.lib.stride_tricks.sliding_window_view(cut, _SHEET_WINDOW)[::HOP]
  size = np.abs(np.fft.rfft(windows * np.hanning(_SHEET_WINDOW)))[:, 1:]
  size = size.reshape(len(size), _SHEET_ROWS, -1).max(-1)
  level = 20 * np.log10(size / (_SHEET_WINDOW / 4) + 1e-5)
  return np.clip(1 + level / 80, 0, 1).T[::-1]


@functools.cache  # compiled once, also when asked for while training
def _runner(config: CodecConfig):
  @jax.jit
  def run(params, vectors, batch):
    codes = encode_codes(Codec(config), params, vectors, batch)
    return codes, decode_codes(Codec(config), params, vectors, codes)

  return run


def _heard_pitch(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
  errors = np.concatenate([pitch_errors(read_pitch(b), read_pitch(a)) for a, b in pairs])
  if not len(errors):
    return {}
  return {"heard_median": float(np.median(errors)), "heard_off": float((errors > 1).mean())}


def _judged(
  oracle: SpeechOracle, heard: Sequence[Reading], said: Sequence[Said]
) -> dict[str, float]:
  voices = sorted({s.speaker for s in said})
  return summarise([judge_speech(oracle, h, s, candidates=voices) for h, s in zip(heard, said)])


@jax.jit
def _spectral(found, wanted):
  return losses.spectral_terms(found, wanted, losses.SpectraConfig()).mel


def _probe(x: np.ndarray, wanted: np.ndarray, fit: np.ndarray, classes: int) -> float:
  """Logistic regression by Newton-like steps of Adam on the half `fit`; its accuracy on the other."""
  mean, spread = x[fit].mean(0), x[fit].std(0) + 1e-3
  x = jnp.asarray(np.pad((x - mean) / spread, ((0, 0), (0, 1)), constant_values=1), jnp.float32)
  weights = _fit_probe(x[fit], jnp.asarray(wanted[fit]), jnp.zeros((x.shape[1], classes)))
  right = np.asarray((x[~fit] @ weights).argmax(-1)) == wanted[~fit]
  return float(right.mean())


@jax.jit
def _fit_probe(x, wanted, weights):
  goal = jax.nn.one_hot(wanted, weights.shape[1])

  def step(i, state):
    w, m, v = state
    g = x.T @ (jax.nn.softmax(x @ w) - goal) / len(x) + 1e-5 * w
    m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
    w = w - 0.1 * (1 - i / 400) * m / (jnp.sqrt(v) + 1e-6)
    return w, m, v

  return jax.lax.fori_loop(0, 400, step, (weights, 0 * weights, 0 * weights))[0]
