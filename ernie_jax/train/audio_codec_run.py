"""The codec's experiment from beginning to end: data, first codes, training, scores.

A stage of the same command as all others: a config with `stage = "audio_codec"` is run here.
"""

import dataclasses
import json
import pathlib
from typing import Any, Literal

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from ernie_jax import config as config_lib
from ernie_jax.audio.codec import STRIDE, Codec, CodecConfig, initial_params
from ernie_jax.audio.discriminator import DiscriminatorConfig
from ernie_jax.audio.quantizer import fresh_codebooks, start_codebooks
from ernie_jax.audio.teacher import FeatureTeacher, LabelTeacher, Teacher
from ernie_jax.audio.whisper import listen
from ernie_jax.data.audio import RATE, to_float
from ernie_jax.data.speech_batches import SoundConfig, SpeechBatches, labelled, open_all
from ernie_jax.data.speech_example import SpeechExample
from ernie_jax.data.world.speech import PHONES
from ernie_jax.errors import UserError
from ernie_jax.evaluate import codec as evaluate
from ernie_jax.evaluate.oracles.pitch import read_pitch
from ernie_jax.evaluate.oracles.speech import SpeechOracle
from ernie_jax.sharding import distributed
from ernie_jax.sharding.mesh import MeshConfig, make_mesh
from ernie_jax.train import checkpoint, loop
from ernie_jax.train.audio_codec import CodecLossConfig, CodecTask, Start
from ernie_jax.train.codec_io import load_codec, read_codec_config
from ernie_jax.train.encoder_io import load_encoder
from ernie_jax.train.experiment import plain
from ernie_jax.train.model_io import write_config
from ernie_jax.train.run import writing
from ernie_jax.train.schedule import ScheduleConfig
from ernie_jax.train.stage_io import check_same_tokenizer
from ernie_jax.whole_file import written_whole

STAGE = "audio_codec"
REPORT, SHEET = "report.json", "report.png"  # the first is written last: where it is, all is done
SPLITS = ("validation", "unseen_speakers")  # that the report scores; the second only of worlds

_PER_CODE = 12  # latents for each code that k-means starts from


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
  """What the first level is aligned to.

  Attributes:
    kind: "labels": the phones that the world knows of each 8 ms; "whisper": features of an encoder that the
      user converted.
    path: the Whisper encoder's workdir.
    seconds: of sound that Whisper encodes, silence after what is shorter: 30 as it was trained, 0 for
      the training rows alone, which costs least.
  """

  kind: Literal["labels", "whisper"] = "labels"
  path: str = ""
  seconds: float = 30.0

  def __post_init__(self):
    if self.kind == "whisper" and not self.path:
      raise ValueError("path must be the workdir of a converted Whisper encoder")
    if self.seconds < 0:
      raise ValueError(f"seconds must not be negative, got {self.seconds}")


@dataclasses.dataclass(frozen=True)
class CodecExperiment:
  """Everything that a codec's run is: config.* of a config file.

  Attributes:
    name: for people.
    stage: what the training command dispatches on.
    seed: of parameters and of every draw; the data has its own.
    data, codec, loss, discriminator, teacher, train, mesh: see their classes.
    start: the workdir of a codec to start from; empty: none, and codes start by k-means.
    examples: held-out clips of each split that the report scores.
    metric_examples: those of the held-out error during training.
    oracle_dir: where the fitted oracle is kept.
  """

  name: str = "audio_codec"
  stage: Literal["audio_codec"] = STAGE
  seed: int = 0
  data: SoundConfig = SoundConfig()
  codec: CodecConfig = CodecConfig()
  loss: CodecLossConfig = CodecLossConfig()
  discriminator: DiscriminatorConfig = DiscriminatorConfig()
  teacher: TeacherConfig = TeacherConfig()
  train: loop.TrainConfig = loop.TrainConfig(steps=1000, schedule=ScheduleConfig())
  mesh: MeshConfig = MeshConfig()
  start: str = ""
  examples: int = 256
  metric_examples: int = 32
  oracle_dir: str = ".cache/oracles"

  def __post_init__(self):
    for name in ("examples", "metric_examples"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    if self.loss.semantic and self.teacher.kind == "labels" and not self.data.worlds:
      raise ValueError(
        "without data.worlds nothing says which phones are spoken: loss.semantic must be 0, or"
        " teacher.kind whisper"
      )


def default_config() -> ml_collections.ConfigDict:
  """A ConfigDict with every key of a codec's experiment at its default."""
  return ml_collections.ConfigDict(plain(CodecExperiment()))


def build_experiment(values: Any) -> CodecExperiment:
  """Checks a whole config.

  Raises:
    UserError: naming the key.
  """
  return config_lib.build(CodecExperiment, dict(values), path="config")


def run_experiment(experiment: CodecExperiment, workdir: pathlib.Path) -> None:
  """Runs what is left to do in `workdir`: training, scores.

  Raises:
    UserError: a bad config, data or mesh; a workdir that holds another experiment or cannot be written.
    Stopped: after SIGTERM.
  """
  with writing(workdir):
    finished = max(checkpoint.steps(workdir / "checkpoints"), default=0)
    mesh = make_mesh(experiment.mesh)
    if finished:
      check_same_tokenizer(workdir, read_codec_config(workdir), experiment, model="codec")
    part = distributed.host_slice(mesh)
    data = _batches(experiment, part.index, part.count)
    if jax.process_index() == 0:
      write_config(workdir, config_lib.to_dict(experiment))
      print(describe(experiment, mesh, finished), flush=True)
    if finished >= experiment.train.steps:
      print(f"{workdir} is finished: step {finished} of {experiment.train.steps}")
    else:
      (workdir / REPORT).unlink(missing_ok=True)
      _train(experiment, workdir, mesh, data, fresh=not finished)
    data.close()
    if jax.process_index() == 0 and not (workdir / REPORT).exists():
      report(experiment, workdir)


def make_task(experiment: CodecExperiment, start: Start | None = None) -> CodecTask:
  """The task, with its teacher and with what it starts from."""
  e = experiment
  teacher = get_teacher(e) if e.loss.semantic else None
  return CodecTask(e.codec, e.loss, teacher=teacher, discriminator=e.discriminator, start=start)


def get_teacher(experiment: CodecExperiment) -> Teacher:
  """The teacher of the first level.

  Raises:
    UserError: `config.teacher.path` holds no Whisper encoder, or one that hears less than a training row.
  """
  t, samples = experiment.teacher, experiment.data.code_frames * STRIDE
  if t.kind == "labels":
    return LabelTeacher(len(PHONES))
  saved = load_encoder(t.path, "whisper")
  features = lambda waveform: listen(saved.config, saved.params, waveform, t.seconds)
  row = jax.ShapeDtypeStruct((1, samples), np.float32)
  try:
    jax.eval_shape(features, row)
  except ValueError as error:
    raise UserError(
      f"config.teacher.path: the encoder of {t.path} cannot hear a row: {error}"
    ) from error
  return FeatureTeacher(features, width=saved.config.width)


def first_start(experiment: CodecExperiment) -> Start:
  """The parameters to start from, and codes: another run's, or k-means of what a fresh encoder says.

  Raises:
    UserError: `config.start` is of another shape.
  """
  e = experiment
  if e.start:
    saved = load_codec(e.start)
    if saved.config != e.codec:
      raise UserError(f"config.start: the codec of {e.start} is of another shape than config.codec")
    return Start(params=saved.params, codebooks=saved.codebooks)
  params = initial_params(e.codec, jax.random.key(e.seed))
  encode = jax.jit(lambda p, x: Codec(e.codec).apply({"params": p}, x, method=Codec.encode))
  wanted = _PER_CODE * e.codec.quantizer.codes
  data, latents = _batches(e, 0, 1), []
  while sum(map(len, latents)) < wanted:
    latent = encode(params, to_float(next(data).waveform))
    latents.append(np.asarray(latent).reshape(-1, latent.shape[-1]))
  data.close()
  points = jnp.asarray(np.concatenate(latents)[:wanted])
  cluster = jax.jit(lambda x, key: start_codebooks(x, e.codec.quantizer, key))
  return Start(params=params, codebooks=cluster(points, jax.random.key(e.seed)))


def report(experiment: CodecExperiment, workdir: pathlib.Path) -> dict[str, Any]:
  """Scores the newest checkpoint on held-out clips; writes report.png, then report.json."""
  saved = load_codec(workdir)
  oracle = SpeechOracle.load(experiment.oracle_dir) if experiment.data.worlds else None
  found: dict[str, Any] = {"step": saved.step}
  for split in SPLITS:
    examples = held_out(experiment, split, experiment.examples)
    if not examples:
      continue
    waveforms = [e.waveform for e in examples]
    done = evaluate.reconstruct(saved.config, saved.params, saved.vectors, waveforms)
    found[split] = evaluate.score(done, examples, saved.vectors, oracle=oracle)
    print(f"{split}: {evaluate.describe(found[split])}", flush=True)
    if split == SPLITS[0]:
      evaluate.write_sheet(workdir / SHEET, done)
  with written_whole(workdir / REPORT) as part:
    part.write_text(json.dumps(found, indent=2) + "\n")
  print(f"report: {workdir / REPORT} and {SHEET}", flush=True)
  return found


def held_out(experiment: CodecExperiment, split: str, count: int) -> list[SpeechExample]:
  """As many clips as asked, or all there are; each source gives an equal share."""
  data = experiment.data
  if split != SPLITS[0]:
    data = dataclasses.replace(data, folders=()) if data.worlds else None
  if data is None:
    return []
  sources = open_all(data.sources, split, data_dir=data.data_dir)
  each = -(-count // len(sources))
  chosen = [(s, i) for s in sources for i in range(min(each, len(s)))][:count]
  return [source[i] for source, i in chosen]


def _batches(experiment: CodecExperiment, host: int, hosts: int) -> SpeechBatches:
  data = experiment.data
  sources = open_all(data.sources, "train", data_dir=data.data_dir)
  return SpeechBatches(sources, experiment.data, tracker=read_pitch, host=host, hosts=hosts)


def _train(experiment: CodecExperiment, workdir: pathlib.Path, mesh, data, *, fresh: bool) -> None:
  e = experiment
  held = held_out(e, SPLITS[0], e.metric_examples)
  codes = e.codec.quantizer.levels * e.data.code_frames
  run = loop.Run(
    task=make_task(e, first_start(e) if fresh else None),
    data=data,
    workdir=workdir,
    seed=e.seed,
    tokens_per_microbatch=e.data.rows_per_batch * codes,
    flops_per_token=second_flops(e.codec) * e.data.code_frames * STRIDE / RATE / codes,
    mesh=mesh,
    mesh_config=e.mesh,
    evaluate=lambda state: held_out_error(e, state, held),
  )
  loop.train(e.train, run)


def held_out_error(experiment: CodecExperiment, state: Any, held: list) -> dict[str, float]:
  """Distance of spectra on held-out clips, while training."""
  waveforms = [labelled(e, read_pitch).waveform for e in held]
  vectors = state.variables.vectors
  done = evaluate.reconstruct(experiment.codec, state.params["codec"], vectors, waveforms)
  return {
    "held_out/mel": float(
      np.mean([evaluate.mel_distance(a, b) for a, b in zip(done.before, done.after)])
    )
  }


def second_flops(config: CodecConfig) -> float:
  """FLOPs of a second of sound through the codec, forward and backward (twice the forward again)."""
  params = jax.eval_shape(lambda: initial_params(config, jax.random.key(0)))
  frames = 25
  sound = jax.ShapeDtypeStruct((1, frames * STRIDE), np.float32)
  vectors = jax.eval_shape(lambda: fresh_codebooks(config.quantizer, jax.random.key(0)).vectors)
  run = jax.jit(lambda p, x, v: Codec(config).apply({"params": p}, x, v).waveform)
  return 3 * run.lower(params, sound, vectors).cost_analysis()["flops"] / (frames * STRIDE / RATE)


def describe(experiment: CodecExperiment, mesh: jax.sharding.Mesh, finished: int) -> str:
  """What is about to be done, for people."""
  e, q = experiment, experiment.codec.quantizer
  shapes = jax.eval_shape(lambda: initial_params(e.codec, jax.random.key(0)))
  count = sum(x.size for x in jax.tree.leaves(shapes))
  rate = RATE / STRIDE
  bits = q.levels * np.log2(q.codes) * rate
  lines = [
    f"experiment  {e.name}, seed {e.seed}",
    f"codec       {count / 1e6:.2f} M parameters, decoder {e.codec.decoder.kind}, {rate:g} frames a"
    f" second of {q.levels} x {q.codes} codes, {bits:.0f} bit/s",
    f"data        {e.data.rows_per_batch} rows of {e.data.code_frames * STRIDE / RATE:.2f} s",
    f"training    steps {finished} to {e.train.steps},"
    f" {second_flops(e.codec) / 1e6:.0f} MFLOP a second of sound",
    f"devices     {mesh.size} x {jax.devices()[0].device_kind}",
  ]
  return "\n".join(lines)
