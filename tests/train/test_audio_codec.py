"""The codec's task and stage: what a step moves, data that resume, and the command up to its report."""

import dataclasses
import functools
import json
import pathlib
import runpy

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

import ernie_jax
from ernie_jax import config as config_lib
from ernie_jax.audio.codec import CodecConfig, EncoderConfig, initial_params
from ernie_jax.audio.decoders import DecoderConfig
from ernie_jax.audio.discriminator import DiscriminatorConfig
from ernie_jax.audio.losses import SpectraConfig
from ernie_jax.audio.quantizer import RvqConfig
from ernie_jax.audio.teacher import LabelTeacher
from ernie_jax.audio.whisper import WhisperConfig, listen
from ernie_jax.convert.whisper import tree_shapes
from ernie_jax.data.audio import read_audio, to_int16, write_audio
from ernie_jax.data.speech_batches import UNKNOWN, SoundConfig, SpeechBatch, SpeechBatches
from ernie_jax.data.speech_example import SpeechExample
from ernie_jax.data.speech_files import SpeechFolder
from ernie_jax.errors import UserError
from ernie_jax.evaluate import codec as evaluate
from ernie_jax.evaluate import sound
from ernie_jax.train import audio_codec_run, codec_io, stages
from ernie_jax.train.audio_codec import CodecLossConfig, CodecTask
from ernie_jax.train.audio_codec_run import TeacherConfig
from ernie_jax.train.encoder_io import SavedEncoder, save_encoder
from ernie_jax.train.model_io import write_config
from ernie_jax.train.optimizer import OptimizerConfig, make_optimizer
from ernie_jax.train.schedule import ScheduleConfig, make_schedule
from ernie_jax.train.stage_io import check_same_tokenizer
from ernie_jax.train.state import create
from ernie_jax.train.step import make_step

SMALL = {"width": 8, "blocks": 1, "frame_width": 4, "frame_blocks": 1}
CODE = RvqConfig(levels=2, codes=4, width=6, semantic_width=4, revive_every=1)
CODEC = CodecConfig(CODE, EncoderConfig(**SMALL), DecoderConfig(kind="istft", **SMALL))
SPECTRA = SpectraConfig(windows=(256,), bands=(16,))
EVERYTHING = CodecLossConfig(spectra=SPECTRA, level_drop=0.5, adversarial=0.1, feature=0.1)


def check_codec(experiment, workdir):
  """Whether a run may go on in a workdir."""
  check_same_tokenizer(
    workdir, audio_codec_run.read_codec_config(workdir), experiment, model="codec"
  )


def batch(rows=2, frames=3):
  rng = np.random.default_rng(0)
  return SpeechBatch(
    waveform=rng.integers(-3000, 3000, (rows, 1280 * frames)).astype(np.int16),
    phones=rng.integers(0, 14, (rows, 10 * frames)).astype(np.uint8),
    f0=np.full((rows, 10 * frames), 180, np.float32),
  )


@functools.cache
def stepped():
  """The states before and after a step of two micro-batches with every term, and its report."""
  task = CodecTask(
    CODEC,
    EVERYTHING,
    teacher=LabelTeacher(14),
    discriminator=DiscriminatorConfig(windows=(256,), widths=(4,)),
  )
  shapes = jax.eval_shape(lambda: nn.unbox(task.init(jax.random.key(0))[0]))
  schedule = make_schedule(ScheduleConfig(warmup_steps=0), 10)
  optimizer = make_optimizer(OptimizerConfig(), schedule, shapes)
  before = create(task, optimizer, 0)
  stacked = jax.tree.map(lambda x: np.stack([x, x]), batch())
  step = jax.jit(make_step(task, optimizer, schedule))
  after, report = step(before, stacked, jnp.asarray(2))
  return before, after, report


def test_a_step_with_every_term_moves_every_network_and_the_codes():
  before, after, report = stepped()
  assert report.finite
  names = ["mel", "stft", "pitch", "commitment", "semantic", "generator", "feature"]
  assert {f"loss/{n}" for n in (*names, "discriminator")} <= set(report.metrics)
  total = sum(v for n, v in report.metrics.items() if n.startswith("loss/"))
  np.testing.assert_allclose(report.loss, total, rtol=1e-4)
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), before.params, after.params)
  assert set(moved) == {"codec", "discriminator", "semantic"}
  names = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
  unmoved = {names(p) for p, m in jax.tree_util.tree_leaves_with_path(moved) if not m}
  # Both sides of the hinge draw at a shared bias equally hard while no logit is beyond its margin.
  assert unmoved <= {"discriminator/logits_256/bias"}
  assert (before.variables.vectors != after.variables.vectors).any()


def test_the_counts_of_a_step_are_those_of_all_its_micro_batches():
  _, after, _ = stepped()
  vectors = 2 * 2 * 3  # micro-batches, rows, codec frames; all rows use the first level
  want = CODE.decay * CODE.codes + (1 - CODE.decay) * vectors
  np.testing.assert_allclose(after.variables.count[0].sum(), want, rtol=1e-4)


def test_a_loss_that_needs_a_teacher_is_refused_without():
  with pytest.raises(ValueError, match="teacher"):
    CodecTask(CODEC, EVERYTHING)


class Clips(list):
  """Clips of given lengths in frames, that say where each sample is from."""

  fingerprint = "clips"

  def __init__(self, *lengths, labels=True):
    for n in lengths:
      wave = (np.arange(n * 128) // 128 + 1).astype(np.int16)
      given = {"phones": np.arange(n).astype(np.uint8), "f0": np.arange(n, dtype=np.float32)}
      self.append(SpeechExample(waveform=wave, **(given if labels else {})))


def batches(clips, **options):
  config = SoundConfig(code_frames=2, rows_per_batch=4)
  return SpeechBatches([clips], config, tracker=lambda w: np.full(len(w) // 128, 99.0), **options)


def test_labels_stay_with_their_samples_and_short_clips_are_filled_up():
  data = batches(Clips(50, 12))
  starts = set()
  for _ in range(20):
    found = next(data)
    assert found.waveform.shape == (4, 2560) and found.phones.shape == found.f0.shape == (4, 20)
    frames = found.waveform[:, ::128].astype(int)
    inside = frames > 0
    np.testing.assert_array_equal(found.phones[inside], frames[inside] - 1)
    np.testing.assert_array_equal(found.f0[inside], frames[inside] - 1)
    assert (found.phones[~inside] == UNKNOWN).all() and not found.f0[~inside].any()
    starts |= set(frames[inside.all(1), 0].tolist())
  assert 1 in starts and len(starts) > 5
  data.close()


def test_unlabelled_clips_get_a_tracked_pitch_and_no_phones():
  found = next(batches(Clips(50, labels=False)))
  assert (found.f0 == 99).all() and (found.phones == UNKNOWN).all()


def test_batches_resume_where_they_stopped_and_hosts_share_them():
  whole = batches(Clips(50, 60, 70))
  first, second = next(whole), next(whole)
  resumed = batches(Clips(50, 60, 70))
  resumed.set_state({"next_row": 4, "sources": ["clips"]})
  np.testing.assert_array_equal(next(resumed).waveform, second.waveform)
  assert resumed.get_state() == whole.get_state()
  parts = [next(batches(Clips(50, 60, 70), host=h, hosts=2)).waveform for h in range(2)]
  np.testing.assert_array_equal(np.concatenate(parts), first.waveform)
  with pytest.raises(UserError, match="changed after the checkpoint"):
    resumed.set_state({"next_row": 0, "sources": ["other"]})


FILE = pathlib.Path(ernie_jax.__file__).parents[1] / "experiments" / "audio_codec.py"


def from_file(arg):
  config = runpy.run_path(FILE)["get_config"](arg)
  return stages.stage_of(config).build(config)


@pytest.mark.parametrize(
  ("arg", "kind"),
  [("", "source_filter"), ("general", "istft"), ("general,adversary", "istft"), ("tiny", None)],
)
def test_the_experiment_builds_with_its_arguments(arg, kind):
  e = from_file(arg)
  levels = e.codec.quantizer.levels
  assert kind in (None, e.codec.decoder.kind)
  shapes = jax.eval_shape(lambda: nn.unbox(audio_codec_run.make_task(e).init(jax.random.key(0))))
  assert shapes[1].vectors.shape == (levels, e.codec.quantizer.codes, e.codec.quantizer.width)
  assert ("discriminator" in shapes[0]) == ("adversary" in arg)


def test_unknown_arguments_are_refused():
  with pytest.raises(ValueError, match="unknown argument 'tinny'"):
    from_file("tinny")


@functools.cache
def tiny_experiment(folder: str):
  config = audio_codec_run.default_config()
  world = {"train": 12, "validation": 2, "unseen_speakers": 2, "unseen_pairs": 1}
  config.data.update(worlds=(world,), data_dir=f"{folder}/data", rows_per_batch=2, code_frames=4)
  config.codec.quantizer.update(levels=2, codes=4, width=6, semantic_width=4)
  config.codec.encoder.update(**SMALL)
  config.codec.decoder.update(**SMALL)
  config.loss.spectra.update(windows=(256,), bands=(16,))
  config.mesh.data = 1
  config.train.update(steps=2, log_every=1, evaluate_every=2, checkpoint_every=2)
  config.update(examples=2, metric_examples=2, oracle_dir=f"{folder}/oracles")
  return audio_codec_run.build_experiment(config)


def test_a_codec_that_goes_on_has_a_start_where_it_had_one(tmp_path):
  e = tiny_experiment(str(tmp_path))
  started = dataclasses.replace(e, start="runs/codec")
  values = config_lib.to_dict(started)
  del values["loss"]["semantic"], values["teacher"]["seconds"]  # written before these keys were
  write_config(tmp_path, values)
  same = dataclasses.replace(started.loss, semantic=CodecLossConfig().semantic)
  moved = dataclasses.replace(started, start="moved/codec", loss=same)
  check_codec(moved, tmp_path)
  with pytest.raises(UserError, match=r"config\.start was 'runs/codec', is ''"):
    check_codec(dataclasses.replace(moved, start=""), tmp_path)


def test_an_experiment_runs_resumes_and_is_read_back(tmp_path, capsys):
  e = tiny_experiment(str(tmp_path))
  audio_codec_run.run_experiment(e, tmp_path / "run")
  found = json.loads((tmp_path / "run" / "report.json").read_text())
  assert found["step"] == 2
  for split in ("validation", "unseen_speakers"):
    scores = found[split]
    assert len(scores["perplexity"]) == len(scores["used"]) == len(scores["probes"]["phone"]) == 2
    assert scores["ceiling"]["word_error"] == 0 and scores["ceiling"]["track_median"] < 0.5
    assert scores["floor"]["word_error"] > 0.5
    assert scores["oracle"]["phone_error"] >= 0
  assert (tmp_path / "run" / "report.png").stat().st_size > 0
  saved = codec_io.load_codec(tmp_path / "run")
  assert saved.config == e.codec and saved.step == 2 and saved.vectors.shape == (2, 4, 6)
  jax.tree.map(lambda a, b: None, saved.params, initial_params(e.codec, jax.random.key(0)))

  capsys.readouterr()
  longer = dataclasses.replace(e, train=dataclasses.replace(e.train, steps=3, checkpoint_every=3))
  audio_codec_run.run_experiment(longer, tmp_path / "run")
  assert "steps 2 to 3" in capsys.readouterr().out
  assert codec_io.load_codec(tmp_path / "run").step == 3
  audio_codec_run.run_experiment(longer, tmp_path / "run")
  assert "is finished: step 3 of 3" in capsys.readouterr().out

  other = dataclasses.replace(e, loss=dataclasses.replace(e.loss, mel=2.0))
  with pytest.raises(UserError, match=r"config\.loss\.mel was 1\.0, is 2\.0"):
    audio_codec_run.run_experiment(other, tmp_path / "run")

  for number, hz in enumerate((110, 220)):
    tone = 0.3 * np.sign(np.sin(2 * np.pi * hz * np.arange(8000) / 16_000))
    write_audio(tmp_path / "tones" / f"{number}.wav", tone)
  capsys.readouterr()
  flags.FLAGS.mark_as_parsed()
  said = dict(workdir=str(tmp_path / "run"), sound=str(tmp_path / "tones"))
  with flagsaver.flagsaver(**said, json=str(tmp_path / "tones.json"), rebuilt=str(tmp_path / "r")):
    sound.main([])
  heard = json.loads((tmp_path / "tones.json").read_text())
  assert heard["examples"] == 2 and heard["mel"] > 0 and "oracle" not in heard
  assert "2 clips" in capsys.readouterr().out
  assert len(read_audio(tmp_path / "r" / "000001.wav")) == 8000

  on = dataclasses.replace(e, start=str(tmp_path / "run"))
  start = audio_codec_run.first_start(on)
  np.testing.assert_array_equal(start.codebooks.vectors, codec_io.load_codec(on.start).vectors)
  task = audio_codec_run.make_task(on, start)
  params, books = jax.jit(task.init)(jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, nn.unbox(params)["codec"], start.params)
  np.testing.assert_array_equal(books.count, start.codebooks.count)


def write_whisper(workdir, **sizes):
  """A random Whisper encoder as `convert` leaves it."""
  config = WhisperConfig(**dict(bands=8, depth=1, width=12, heads=2, mlp_width=8) | sizes)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 3, tree_shapes(config)
  )
  save_encoder(workdir, SavedEncoder(values={"name": "w"}, config=config, params=params, step=0))
  return config, params


def test_clips_without_labels_are_aligned_to_a_whisper_encoder(tmp_path):
  """The first level's head learns its pooled features; training, resuming and refusals included."""
  encoder, params = write_whisper(tmp_path / "whisper")
  for number, hz in enumerate((110, 220, 330)):
    tone = 0.3 * np.sign(np.sin(2 * np.pi * hz * np.arange(8000) / 16_000))
    write_audio(tmp_path / "tones" / f"{number}.wav", tone)
  e = tiny_experiment(str(tmp_path))
  folder = SpeechFolder(path=str(tmp_path / "tones"))
  e = dataclasses.replace(
    e,
    data=dataclasses.replace(e.data, worlds=(), folders=(folder,)),
    teacher=TeacherConfig(kind="whisper", path=str(tmp_path / "whisper"), seconds=1.0),
  )
  audio_codec_run.run_experiment(e, tmp_path / "run")
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  assert all(json.loads(line)["loss/semantic"] > 0 for line in lines if "loss" in json.loads(line))
  other = dataclasses.replace(e, teacher=dataclasses.replace(e.teacher, seconds=0.0))
  with pytest.raises(UserError, match=r"config\.teacher\.seconds was 1\.0, is 0\.0"):
    audio_codec_run.run_experiment(other, tmp_path / "run")

  teacher, wave = audio_codec_run.get_teacher(e), np.random.default_rng(0).normal(size=(2, 5120))
  pooled = listen(encoder, params, wave.astype(np.float32), 1.0).reshape(2, 4, 4, 12).mean(2)
  assert teacher.width == 12
  np.testing.assert_allclose(teacher.loss(3 * pooled, wave, None), 0, atol=1e-5)
  np.testing.assert_allclose(teacher.loss(-pooled, wave, None), 2, atol=1e-5)

  write_whisper(tmp_path / "short", positions=8)
  short = dataclasses.replace(e.teacher, path=str(tmp_path / "short"))
  with pytest.raises(UserError, match="cannot hear a row"):
    audio_codec_run.get_teacher(dataclasses.replace(e, teacher=short))
  none = dataclasses.replace(e.teacher, path=str(tmp_path / "tones"))
  with pytest.raises(UserError, match="no Whisper encoder"):
    audio_codec_run.get_teacher(dataclasses.replace(e, teacher=none))


def test_a_workdir_without_a_codec_is_told_in_one_line(tmp_path):
  with pytest.raises(UserError, match="no audio codec"):
    codec_io.load_codec(tmp_path)
  (tmp_path / "config.json").write_text('{"model": {}}')
  with pytest.raises(UserError, match="holds no audio codec"):
    codec_io.load_codec(tmp_path)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"loss": {"mel": -1.0}}, "mel must not be negative"),
    ({"codec": {"quantizer": {"semantic_width": 99}}}, "semantic_width"),
    ({"codec": {"decoder": {"kind": "wave"}}}, "codec.decoder.kind"),
    ({"data": {"worlds": (), "folders": ({"path": "x"},)}}, "loss.semantic must be 0"),
    ({"teacher": {"kind": "whisper"}}, "path must be the workdir"),
    ({"teacher": {"seconds": -1.0}}, "seconds must not be negative"),
  ],
)
def test_impossible_values_are_told_in_one_line(change, message):
  config = audio_codec_run.default_config()
  for section, values in change.items():
    config[section].update(values)
  with pytest.raises(UserError, match=message):
    audio_codec_run.build_experiment(config)


def test_pitch_that_comes_back_is_measured_where_both_are_voiced():
  time = np.arange(16_000) / 16_000
  tone = lambda hz: 0.3 * np.sign(np.sin(2 * np.pi * hz * time)).astype(np.float32)
  examples = [SpeechExample(waveform=to_int16(tone(120)))] * 2
  vectors = np.zeros((1, 4, 2), np.float32)

  def heard(*after):
    codes = [np.zeros((3, 1), int)] * 2
    done = evaluate.Reconstructed([tone(120)] * 2, list(after), codes)
    return evaluate.score(done, examples, vectors)

  found = heard(tone(120), tone(180))  # a fifth above: seven semitones
  assert found["heard_off"] == pytest.approx(0.5, abs=0.05)
  assert heard(tone(180), tone(180))["heard_median"] == pytest.approx(7.02, abs=0.1)
  assert "heard_median" not in heard(0 * time, 0 * time)


def test_distortion_ignores_scale_and_counts_noise():
  rng = np.random.default_rng(0)
  x = rng.normal(size=4000)
  assert evaluate.si_sdr(x, 0.3 * x) > 60
  np.testing.assert_allclose(evaluate.si_sdr(x, x + 0.1 * rng.normal(size=4000)), 20, atol=0.5)


def test_use_of_codes_is_counted_level_by_level():
  codes = np.stack([np.arange(40) % 4, np.zeros(40, int)], -1)
  found = evaluate.usage(codes, 8)
  np.testing.assert_allclose(found["perplexity"], [4, 1])
  assert found["used"] == [4, 1]


def test_a_probe_finds_what_a_level_says_and_nothing_else():
  rng = np.random.default_rng(0)
  vectors = rng.normal(size=(2, 14, 16)).astype(np.float32)
  examples, codes = [], []
  for i in range(24):
    phones = np.repeat(rng.integers(0, 14, 30), 10).astype(np.uint8)
    wave = np.zeros(len(phones) * 128, np.int16)
    examples.append(SpeechExample(waveform=wave, phones=phones, speaker=f"{i % 2}"))
    codes.append(np.stack([phones[::10], rng.integers(0, 14, 30)], -1))
  found = evaluate.probes(codes, examples, vectors)
  assert found["phone"][0] > 0.95 and found["phone"][1] < 0.3
  assert max(found["speaker"]) < 0.7
