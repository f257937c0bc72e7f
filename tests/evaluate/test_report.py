"""The table, its JSON and its figure: what the command prints and writes."""

import errno
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from matplotlib import image
from matplotlib.figure import Figure
from matplotlib.text import Text

from ernie_jax.backbone.parameters import model_cost
from ernie_jax.data.pipeline import held_out_sets
from ernie_jax.elastic.family import parse_member
from ernie_jax.elastic.slicing import member_config
from ernie_jax.errors import UserError
from ernie_jax.evaluate import family_table
from ernie_jax.evaluate.family_table import (
  Baselines,
  FamilyReport,
  MemberScore,
  evaluate_family,
)
from ernie_jax.evaluate.figures import (
  draw_family,
  draw_load,
  draw_losses,
  read_metrics,
  smoothed,
  write_figure,
)
from ernie_jax.evaluate.held_out import score
from ernie_jax.evaluate.report import report

MEMBER_KEYS = [
  "name",
  "params_total",
  "params_active",
  "loss",
  "bits_per_byte",
  "decode_tokens_per_s",
]


def family(losses=(2.0, 2.5, 2.2)) -> FamilyReport:
  names = [f"{4 - i}x16x4" for i in range(len(losses))]
  members = tuple(
    MemberScore(name, 2_000_000 - i, 1_000_000 - 1000 * i, loss, loss / 2, 321.0)
    for i, (name, loss) in enumerate(zip(names, losses))
  )
  return FamilyReport(members, Baselines(1.5, 1.75), step=7, tokens=1000, utf8_bytes=2885)


def test_report_writes_the_json_and_the_picture_and_prints_the_table(
  workdir, data, saved, held_out, capsys, monkeypatch
):
  speed = lambda member, prompt: 1000.0 * member.model.depth + len(prompt)  # timed below, once
  monkeypatch.setattr(family_table, "decode_tokens_per_s", speed)
  found = report(workdir)
  values = json.loads((workdir / "family.json").read_text())
  assert values == found.to_json()
  assert list(values) == ["members", "baselines"]
  assert list(values["baselines"]) == ["xz_bits_per_byte", "bigram_bits_per_byte"]
  assert [list(m) for m in values["members"]] == [MEMBER_KEYS] * 3
  assert [m["name"] for m in values["members"]] == ["2x4x2", "1x4x2", "2x2x1"]
  for m in values["members"]:
    shape = member_config(
      parse_member(m["name"], saved.model), elastic=saved.elastic, model=saved.model
    )
    cost = model_cost(shape, 64)
    assert (m["params_total"], m["params_active"]) == (cost.params_total, cost.params_active)
    timed = m["name"] != "2x2x1"  # neither the full model nor the smallest
    assert m["decode_tokens_per_s"] == (1000 * shape.depth + 16 if timed else None)
  rows = saved.config["evaluation"]["table_rows"]
  assert rows < held_out[0].rows.kind.shape[0]
  some = held_out_sets(data, saved.tokenizer, max_rows=rows)
  full = score(saved.params, saved.bias, some, model=saved.model)
  assert found.text.members[0].loss == pytest.approx(full.loss, rel=1e-5)
  assert found.text.members[0].bits_per_byte == pytest.approx(full.bits_per_byte, rel=1e-5)
  assert found.text.utf8_bytes == full.utf8_bytes
  table, sample = capsys.readouterr().out.split("a sample of the full model, after 'def '")
  assert found.to_text() in table
  assert "  | " in sample
  height, width, _ = image.imread(workdir / "report.png").shape
  assert width > 1200 and height > 900


def test_a_pipelines_model_is_scored_in_its_own_folder(workdir, monkeypatch):
  monkeypatch.setattr(family_table, "decode_tokens_per_s", lambda member, prompt: 1.0)
  pipeline = workdir.parent
  (pipeline / "pipeline.json").write_text(json.dumps({workdir.name: {}}))
  report(pipeline)
  assert (workdir / "family.json").exists() and (workdir / "report.png").exists()
  assert not list(pipeline.glob("family.json")) + list(pipeline.glob("report.png"))
  curves = image.imread(workdir / "report.png")
  report(workdir)
  np.testing.assert_array_equal(curves, image.imread(workdir / "report.png"))  # its metrics too


def test_the_command_scores_the_named_members_and_writes_json_where_told(workdir, tmp_path):
  out = tmp_path / "scores.json"
  command = [sys.executable, "-m", "ernie_jax.evaluate", f"--workdir={workdir}"]
  done = subprocess.run(
    [*command, f"--json={out}", "--members=2x4x2", "--max_rows=4"], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  (member,) = json.loads(out.read_text())["members"]  # not those that the config names
  assert member["name"] == "2x4x2"
  assert 0 < member["decode_tokens_per_s"] < 1e6
  assert "2x4x2" in done.stdout and "xz -9e" in done.stdout
  assert not list(workdir.glob("family.json")) + list(workdir.glob("report.png")), "of a part only"


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"members": ["9x4x2"]}, "--members: 9x4x2"),
    ({"members": ["small"]}, "--members: 'small'"),
    ({"step": 3}, "--step"),
  ],
)
def test_impossible_requests_name_their_flag(workdir, arguments, message):
  with pytest.raises(UserError, match=message):
    report(workdir, **arguments)


def test_a_model_without_text_of_its_own_is_refused_in_one_line(foreign):
  with pytest.raises(UserError, match="no data and no tokenizer") as e:
    evaluate_family(foreign)
  assert "\n" not in str(e.value)


def test_the_table_is_aligned_and_compares_with_the_full_model():
  lines = family().to_text().splitlines()
  head, rule, full, second, third, bigram, xz, about = lines
  assert full.split() == ["4x16x4", "2,000,000", "1,000,000", "2.0000", "1.0000", "321"]
  assert "+25.0 %" in second and "+10.0 %" in third
  end = head.index("bits/byte") + len("bits/byte")
  for line, bits in ((full, "1.0000"), (second, "1.2500"), (bigram, "1.7500"), (xz, "1.5000")):
    assert line[:end].endswith(bits)
  assert len(rule) == len(head)
  assert "2,885 bytes, 1,000 tokens" in about


def test_figure_without_metrics_has_the_family_alone(tmp_path):
  metrics = {"loss": (np.arange(5), np.linspace(3, 2, 5))}
  write_figure(tmp_path / "one.png", family(), {})
  write_figure(tmp_path / "two.png", family(), metrics)
  one, two = image.imread(tmp_path / "one.png"), image.imread(tmp_path / "two.png")
  assert two.shape[1] == 2 * one.shape[1]
  assert one[..., :3].std() > 0.05  # something is drawn


def test_no_figure_is_written_where_there_is_nothing_to_draw(tmp_path):
  assert not write_figure(tmp_path / "none.png", None, {})
  assert not list(tmp_path.iterdir())


def test_a_step_without_a_row_of_the_full_model_leaves_no_gap(tmp_path):
  lines = [
    {"step": 1, "router/max_over_mean": [1.5, 1.2], "router/dead": [0, 2]},
    {"step": 2, "router/max_over_mean": ["nan", "nan"], "router/dead": ["nan", "nan"]},
    {"step": 3, "router/max_over_mean": [1.4, "nan"], "router/dead": [1, "nan"]},
  ]
  path = tmp_path / "metrics.jsonl"
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  metrics = read_metrics(path)
  axes = Figure().add_subplot()
  draw_load(axes, metrics)
  assert "(1 idle experts when last measured)" in axes.get_title()
  drawn = [line.get_xydata().tolist() for line in axes.get_lines()[:2]]
  assert drawn == [[[1, 1.5], [3, 1.4]], [[1, 1.2]]]
  draw_load(axes, {name: (steps[1:2], values[1:2]) for name, (steps, values) in metrics.items()})
  assert "idle" not in axes.get_title()


@pytest.mark.parametrize("what", ["bits", "codes"])
def test_figure_has_a_panel_for_every_kind_of_output(tmp_path, what):
  curve = (np.arange(5), np.linspace(3, 2, 5))
  write_figure(tmp_path / "text.png", None, {"loss": curve})
  write_figure(tmp_path / "both.png", None, {"loss": curve, f"loss/{what}": curve})
  text, both = image.imread(tmp_path / "text.png"), image.imread(tmp_path / "both.png")
  assert both.shape[1] == 2 * text.shape[1]


def test_curves_name_what_was_held_out():
  curve = (np.arange(5), np.linspace(3, 2, 5))

  def labels(*keys: str) -> list[str]:
    axes = Figure().add_subplot()
    draw_losses(axes, dict.fromkeys(keys, curve))
    return [text.get_text() for text in axes.get_legend().get_texts()][1:]

  assert labels("loss/text", "held_out/speech_text") == ["held out"]
  both = labels("loss", "held_out/loss", "held_out/media_text")
  assert both == ["held-out text", "held-out text about media"]


def test_unwritable_figure_is_one_line(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot write"):
    write_figure(tmp_path / "file" / "a.png", family(), {})


def test_a_figure_that_cannot_be_finished_leaves_the_one_before(tmp_path, monkeypatch):
  path = tmp_path / "report.png"
  write_figure(path, family(), {})
  before = path.read_bytes()

  def fill_the_disk(self, to, **_):
    pathlib.Path(to).write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(Figure, "savefig", fill_the_disk)
  with pytest.raises(UserError, match="No space left"):
    write_figure(path, family(), {})
  assert path.read_bytes() == before


@pytest.mark.parametrize("losses", [(2.0,), (2.0, 2.5), (2.0,) * 8, tuple(np.linspace(2, 2.05, 8))])
def test_labels_of_the_family_do_not_overlap(losses):
  figure = Figure(figsize=(6.5, 4.6), layout="constrained")
  axes = figure.add_subplot()
  draw_family(axes, family(losses))
  figure.draw_without_rendering()
  texts = [t for t in axes.texts if t.get_text()]
  assert len(texts) == len(losses) + 2
  boxes = [Text.get_window_extent(t) for t in texts]  # an annotation adds the line to its point
  for i, box in enumerate(boxes):
    assert not any(box.overlaps(other) for other in boxes[:i])


def test_the_right_axis_is_bits_per_byte():
  figure = Figure()
  axes = figure.add_subplot()
  draw_family(axes, family())
  figure.draw_without_rendering()
  (bits,) = axes.child_axes
  ratio = 1000 / np.log(2) / 2885
  np.testing.assert_allclose(bits.get_ylim(), np.array(axes.get_ylim()) * ratio)


def test_metrics_are_read_by_key_past_gaps_and_a_torn_last_line(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text(
    '{"step": 1, "loss": 3.0, "note": "x", "router/entropy": [0.5, 0.6]}\n'
    '{"step": 2, "held_out/loss": 2.5}\n'
    '{"step": 3, "loss": null, "router/entropy": [0.7, 0.8]}\n'
    '{"step": 4, "lo'
  )
  got = read_metrics(path)
  assert set(got) == {"loss", "held_out/loss", "router/entropy"}
  np.testing.assert_array_equal(got["loss"][0], [1, 3])
  np.testing.assert_array_equal(got["loss"][1], [3.0, np.nan])
  np.testing.assert_array_equal(got["router/entropy"][1], [[0.5, 0.6], [0.7, 0.8]])
  assert read_metrics(tmp_path / "none.jsonl") == {}


def test_smoothing_keeps_a_straight_line_and_passes_over_gaps():
  line = np.linspace(5, 1, 200)
  np.testing.assert_allclose(smoothed(line)[:-4], line[:-4])
  line[50] = np.nan
  assert np.isfinite(smoothed(line)).all()
