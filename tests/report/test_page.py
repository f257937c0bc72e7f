"""A run's report: every number of its files in both renderings, and nothing of what it lacks."""

import json

import pytest
from absl import flags
from absl.testing import flagsaver
from hand_made import CONFIG, FULL, METRICS, SMALL, parsed, write_stage

from ernie_jax.errors import UserError
from ernie_jax.report import __main__ as command
from ernie_jax.report import numbers
from ernie_jax.report.page import write_report
from ernie_jax.report.runs import read_run


def rendered(workdir, **options):
  """The text of the HTML page without its tags, and the Markdown as it is read."""
  path = write_report(workdir, **options)
  text = "\n".join(parsed(path.read_text()).text)
  markdown = path.with_suffix(".md").read_text()
  for name, plain in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"), ("\\", "")):
    markdown = markdown.replace(name, plain)
  return text, markdown


def test_every_number_is_in_both(pipeline):
  told = [
    FULL + " (full)",
    SMALL,
    "1,234 videos of 9 frames of the embedded world",
    "books & letters",
  ]
  told += ["21.9 s", "21.8 min", "23.7 min", "2 CPU cores", "1,280", "1,000"]  # times
  told += ["5.5000", "1.5000", "1.6000", "3.3227", "0.9123", "rescaled, last logged"]  # curves
  told += ["1.025", "1.468", "1.728 (token bigram)", "xz -9e 1.350"]  # text
  told += ["0.402", "0.201", "0.031", "0.973", "1.000", "static 0.279", "0.281", "0.016", "256"]
  told += ["0.052", "1.125", "0.679", "128", "word error ↓", "unseen voices", "odd <split>"]
  told += ["seen combinations", "never-trained combinations", "picture + spoken question → answer"]
  told += ["2.1357", "2.9753", "1.0246", "0.1699", "0.0899", "2.000", "1.250", "87.7", "41", "0.35"]
  told += ["0.551", "0.207"]  # all scores
  told += ["3.490", "0.012", "1.050"]  # the codec
  told += ["pictures (colours without names)", "patches named right", "0.988"]  # the encoder
  told += ["specialisation / text", "0.4321", "0.25, 0.75"]  # routing
  for page in rendered(pipeline):
    assert [words for words in told if words not in page] == []


def test_pictures_of_evaluations_stand_in_for_samples_without_a_checkpoint(pipeline):
  rendered(pipeline)
  names = sorted(path.name.partition("-")[2] for path in (pipeline / "report_files").iterdir())
  assert names == [
    "codec-audio-codec.png",
    "model-the-unified-model.png",
    "routing.png",
    "the-evaluation-s-sheet-speech.png",
    "the-evaluation-s-sheet-vision.png",
  ]


def test_of_a_model_that_another_goes_on_from_only_the_training_is_told(pipeline):
  record = json.loads((pipeline / "pipeline.json").read_text())
  write_stage(pipeline / "look", CONFIG | {"name": "first steps"}, METRICS)
  then = CONFIG | {"start": str(pipeline / "look")}
  (pipeline / "model" / "config.json").write_text(json.dumps(then))
  record = {"look": record["model"] | {"seconds": 61.0}} | record
  (pipeline / "pipeline.json").write_text(json.dumps(record))
  run = read_run(pipeline)
  assert [stage.name for stage in run.stages] == ["look", "encoder", "codec", "model"]
  assert [stage.name for stage in run.models] == ["model"]
  for page in rendered(pipeline):
    assert "61.0 s" in page and "look: " in page
    assert f"--workdir={pipeline / 'look'}" not in page  # nothing of it is missed


def test_what_a_run_lacks_is_left_out_and_the_command_is_named(tmp_path):
  workdir = write_stage(tmp_path / "bare", CONFIG)
  for page in rendered(workdir):
    assert "by <hand>" in page
    assert f"python -m ernie_jax.evaluate --workdir={workdir}" in page
    assert f"python -m ernie_jax.analysis.routing --workdir={workdir}" in page
    for title in ("Time", "Curves", "All scores", "Tokenizers and encoders", "Samples", "Routing"):
      assert f"\n{title}\n" not in page and f"# {title}\n" not in page
    assert "nan" not in page and "None" not in page
  assert not (workdir / "report_files").exists()


def test_time_without_a_pipeline_is_that_of_the_tokens(tmp_path):
  workdir = write_stage(tmp_path / "run", CONFIG, METRICS)
  for page in rendered(workdir):
    assert "about 1.3 s" in page  # 5 steps of 2 x 2 rows of 64


def test_a_step_without_speech_has_no_loss_of_speech(tmp_path):
  lines = [
    {"step": i, "loss": 1.0, "loss/codes": codes} for i, codes in enumerate((0.0, 2.75, 0.0), 1)
  ]
  workdir = write_stage(tmp_path / "run", CONFIG, lines)
  for page in rendered(workdir):
    assert page.count("2.7500") == 2 and "0.0000" not in page


def test_numbers_for_people():
  assert [numbers.large(n) for n in (None, 76_000, 3_340_000, 2.1e9)] == [
    "",
    "76,000",
    "3.34 M",
    "2.10 G",
  ]
  times = [numbers.duration(s) for s in (None, 119, 600, 7230)]
  assert times == ["", "119.0 s", "10.0 min", "2 h 00 min"]
  assert numbers.score(float("nan")) == numbers.score(None) == ""


@pytest.mark.parametrize("name", ["config.json", "family.json"])
def test_a_damaged_file_is_told_in_one_line(tmp_path, name):
  workdir = write_stage(tmp_path / "run", CONFIG)
  (workdir / name).write_text("{")
  with pytest.raises(UserError, match=f"cannot read .*{name}"):
    write_report(workdir)


def test_the_command_names_what_is_wrong(tmp_path):
  flags.FLAGS.mark_as_parsed()
  with (
    flagsaver.flagsaver(workdir=str(tmp_path)),
    pytest.raises(
      UserError, match=r"--workdir: no run in .* no pipeline\.json and no config\.json"
    ),
  ):
    command.main([])
  with (
    flagsaver.flagsaver(workdir=str(tmp_path), samples=-1),
    pytest.raises(UserError, match="--samples must not be negative"),
  ):
    command.main([])
