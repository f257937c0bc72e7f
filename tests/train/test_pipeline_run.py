"""Stages one after another: what runs, what is finished, what is stale, and what is told of mistakes."""

import dataclasses
import json
import pathlib
import shutil
import time

import pytest

from ernie_jax import config as config_lib
from ernie_jax.data.world.scenes import WorldSource
from ernie_jax.errors import UserError
from ernie_jax.sharding.mesh import MeshConfig
from ernie_jax.train import hardware, pipeline_record, pipeline_run, stages, text_tokenizer_run
from ernie_jax.train.experiment import default_config, plain
from ernie_jax.train.model_io import load_model, model_workdir, read_config


@dataclasses.dataclass(frozen=True)
class Lines:
  """How long a note is."""

  steps: int = 1
  warmup_steps: int = 0


@dataclasses.dataclass(frozen=True)
class Note:
  """A stage that writes down what it reads."""

  stage: str = "note"
  text: str = ""
  reads: str = ""
  log_every: int = 1
  examples: int = 1
  train: Lines = Lines()
  mesh: MeshConfig = MeshConfig()


# Of `pipeline()`, as the first version of this module wrote them.
IDENTITIES = {
  "a": "ff56742a9debb0d9",
  "alone": "3d8da460df35ee5a",
  "c": "001433b72cb1f3dc",
  "b": "2ed0821ca08478dc",
}


@pytest.fixture
def ran(monkeypatch):
  """Names of the folders that notes were written in; a text of "fails" fails once, one of "slow" is slow."""
  done = []

  def run(note: Note, workdir: pathlib.Path) -> None:
    done.append(workdir.name)
    workdir.mkdir(parents=True, exist_ok=True)
    if note.text == "fails" and not (workdir / "tried").exists():
      (workdir / "tried").write_text("")
      raise UserError("no luck")
    if note.text == "slow":
      time.sleep(0.5)
      shutil.copy(workdir.parent / "pipeline.json", workdir / "meanwhile.json")
    before = (pathlib.Path(note.reads) / "note").read_text() if note.reads else ""
    (workdir / "note").write_text(before + note.text)

  build = lambda values: config_lib.build(Note, dict(values), path="config")
  known = stages.stage_of
  note = lambda values: values.get("stage") == "note"
  of = lambda values: stages.Stage(build, run) if note(values) else known(values)
  monkeypatch.setattr(stages, "stage_of", of)
  return done


def pipeline(**changes):
  """`c` is made from `b`, that from `a`; `alone` from nothing."""
  made = {
    "a": {"stage": "note", "text": "A"},
    "alone": {"stage": "note"},
    "c": {"stage": "note", "reads": "@b", "text": "C"},
    "b": {"stage": "note", "reads": "@a", "text": "B"},
  }
  for name, values in changes.items():
    made[name] = made[name] | values
  return pipeline_run.build_experiment({"stage": "pipeline", "name": "p", "stages": made})


def test_stages_run_after_what_they_are_made_from_and_once(tmp_path, ran, capsys):
  pipeline_run.run_experiment(pipeline(), tmp_path)
  assert sorted(ran) == ["a", "alone", "b", "c"] and ran.index("a") < ran.index("b")
  assert (tmp_path / "c" / "note").read_text() == "ABC"
  ran.clear()
  pipeline_run.run_experiment(pipeline(a={"log_every": 7}), tmp_path)  # how often it tells
  assert not ran
  assert "stage c is finished" in capsys.readouterr().out
  record = pipeline_record.read_record(tmp_path)
  assert all(one["finished"] and one["seconds"] >= 0 for one in record.values())


def test_the_report_of_all_stages_is_written_once_they_are_finished(tmp_path, ran, capsys):
  report = tmp_path / pipeline_run.REPORT
  pipeline_run.run_experiment(pipeline(), tmp_path, only=["a", "b", "alone"])
  assert not report.exists()
  pipeline_run.run_experiment(pipeline(), tmp_path)
  assert f"report: {report}" in capsys.readouterr().out
  page = report.read_text()
  assert all(f"<td>{name}</td>" in page for name in ("a", "b", "c", "alone"))
  assert f"Machine: {hardware.machine()}." in page and "CPU cores" in page
  pipeline_run.run_experiment(pipeline(), tmp_path)
  assert "report" not in capsys.readouterr().out
  pipeline_run.run_experiment(pipeline(), tmp_path, only=["a"], force=["a"])
  assert not report.exists()  # b is stale


def test_a_changed_stage_and_what_is_made_from_it_run_again_and_the_old_is_kept(
  tmp_path, ran, capsys
):
  pipeline_run.run_experiment(pipeline(), tmp_path)
  ran.clear()
  pipeline_run.run_experiment(pipeline(b={"text": "X"}), tmp_path)
  assert ran == ["b", "c"]
  assert (tmp_path / "c" / "note").read_text() == "AXC"
  assert (tmp_path / "stale" / "c-1" / "note").read_text() == "ABC"
  said = capsys.readouterr().out
  assert "stage b is stale: config.stages.b.text was 'B', is 'X'" in said
  assert "stage c is stale: it is made from b, which changed" in said


def test_how_a_finished_stage_is_scored_may_change(tmp_path, ran, capsys):
  pipeline_run.run_experiment(pipeline(), tmp_path)
  before = (tmp_path / "pipeline.json").read_text()
  ran.clear()
  pipeline_run.run_experiment(pipeline(b={"examples": 7}), tmp_path)
  assert not ran and (tmp_path / "pipeline.json").read_text() == before
  said = capsys.readouterr().out
  assert "config.stages.b.examples was 1, is 7, of which its scores know nothing" in said


def test_a_key_that_a_stage_ran_without_is_at_its_default(tmp_path, ran):
  path = tmp_path / "pipeline.json"
  everything = {"reads": "", "text": "", "train": {"steps": 1}}
  pipeline_run.run_experiment(pipeline(alone=everything), tmp_path)
  ran.clear()
  pipeline_run.run_experiment(pipeline(), tmp_path)  # a key less
  pipeline_run.run_experiment(pipeline(alone=everything | {"train": {}}, a={"train": {}}), tmp_path)
  assert not ran
  pipeline_run.run_experiment(pipeline(alone={"train": {"warmup_steps": 1}}), tmp_path)
  assert ran == ["alone"]
  record = json.loads(path.read_text())
  record["alone"]["config"]["gone"] = 1  # a key of another version
  record["alone"]["identity"] = pipeline_record.identity(record, "alone")
  path.write_text(json.dumps(record))
  pipeline_run.run_experiment(pipeline(alone={"train": {"warmup_steps": 1}}), tmp_path)
  assert ran == ["alone"]


def test_the_identities_of_records_are_what_they_have_always_been(tmp_path, ran):
  pipeline_run.run_experiment(pipeline(), tmp_path)
  record = pipeline_record.read_record(tmp_path)
  identities = {name: one["identity"] for name, one in record.items()}
  assert identities == IDENTITIES
  record["b"]["run"] = 2
  assert pipeline_record.identity(record, "b") == IDENTITIES["b"]
  assert pipeline_record.identity(record, "c") != IDENTITIES["c"]


def test_a_stage_that_nothing_is_made_from_goes_on_to_more_steps(tmp_path, ran, capsys):
  of = lambda name, **train: pipeline(**{name: {"train": train}})
  pipeline_run.run_experiment(of("c", steps=5), tmp_path)
  ran.clear()
  pipeline_run.run_experiment(of("c", steps=6), tmp_path)
  assert ran == ["c"] and "stage c goes on" in capsys.readouterr().out
  assert not (tmp_path / "stale").exists()
  assert pipeline_record.read_record(tmp_path)["c"]["run"] == 1
  pipeline_run.run_experiment(of("c", steps=6), tmp_path)
  assert ran == ["c"]
  pipeline_run.run_experiment(of("c", steps=4), tmp_path)
  assert "stage c is stale: config.stages.c.train.steps was 6, is 4" in capsys.readouterr().out
  pipeline_run.run_experiment(of("c", steps=8, warmup_steps=1), tmp_path)
  assert "stage c is stale" in capsys.readouterr().out
  changed = pipeline(b={"train": {"steps": 9}}, c={"train": {"steps": 8, "warmup_steps": 1}})
  pipeline_run.run_experiment(changed, tmp_path)  # c is made from b
  assert sorted(p.name for p in (tmp_path / "stale").iterdir()) == ["b-1", "c-1", "c-2", "c-3"]


def test_the_time_of_a_stage_is_noted_while_it_runs(tmp_path, ran, monkeypatch):
  monkeypatch.setattr(pipeline_run, "_TOLD_EVERY", 0.02)
  pipeline_run.run_experiment(pipeline(a={"text": "slow"}), tmp_path, only=["a"])
  meanwhile = json.loads((tmp_path / "a" / "meanwhile.json").read_text())["a"]
  assert not meanwhile["finished"] and meanwhile["seconds"] > 0.1
  ended = pipeline_record.read_record(tmp_path)["a"]
  assert ended["finished"] and ended["seconds"] >= meanwhile["seconds"]


def test_a_text_tokenizer_is_another_only_by_its_text():
  text = text_tokenizer_run.default_config()
  text.data.media.worlds = (plain(WorldSource()),)
  old = config_lib.to_dict(text)
  rows = config_lib.to_dict(text)
  rows["data"] |= {"rows_per_batch": 3, "row_length": 64, "bpe_dropout": 0.5}
  rows["data"]["sources"][0]["weight"] = rows["data"]["media"]["worlds"][0]["weight"] = 9.0
  rows["data"]["media"]["tasks"]["draw"] = 0.0
  assert not pipeline_record.difference("text", old, rows, ())
  rows["data"]["media"]["worlds"][0]["seed"] = 1
  assert pipeline_record.difference("text", old, rows, ()).endswith("[0].seed was 0, is 1")


def test_a_forced_stage_makes_what_is_made_from_it_stale(tmp_path, ran):
  pipeline_run.run_experiment(pipeline(), tmp_path)
  ran.clear()
  pipeline_run.run_experiment(pipeline(), tmp_path, force=["b"])
  assert ran == ["b", "c"]
  pipeline_run.run_experiment(pipeline(), tmp_path, force=["b"])
  assert sorted(p.name for p in (tmp_path / "stale").iterdir()) == ["b-1", "b-2", "c-1", "c-2"]


def test_a_stage_whose_folder_is_gone_begins_again(tmp_path, ran, capsys):
  pipeline_run.run_experiment(pipeline(), tmp_path)
  shutil.rmtree(tmp_path / "b")
  ran.clear()
  with pytest.raises(UserError, match="c is made from b, which is not finished"):
    pipeline_run.run_experiment(pipeline(), tmp_path, only=["c"])
  pipeline_run.run_experiment(pipeline(), tmp_path)
  assert ran == ["b", "c"] and f"{tmp_path / 'b'} is gone" in capsys.readouterr().out
  assert (tmp_path / "c" / "note").read_text() == "ABC"


def test_a_stage_runs_alone_if_what_it_is_made_from_is_finished(tmp_path, ran):
  with pytest.raises(UserError, match="--only: b is made from a, which is not finished"):
    pipeline_run.run_experiment(pipeline(), tmp_path, only=["b"])
  pipeline_run.run_experiment(pipeline(), tmp_path, only=["a"])
  pipeline_run.run_experiment(pipeline(), tmp_path, only=["b"])
  assert ran == ["a", "b"]
  with pytest.raises(UserError, match="which is not finished"):
    pipeline_run.run_experiment(pipeline(a={"text": "Y"}), tmp_path, only=["b"])


def test_a_stage_that_failed_goes_on(tmp_path, ran, capsys):
  made = pipeline(b={"text": "fails"})
  with pytest.raises(UserError, match="no luck"):
    pipeline_run.run_experiment(made, tmp_path)
  assert not pipeline_record.read_record(tmp_path)["b"]["finished"]
  pipeline_run.run_experiment(made, tmp_path)
  assert "stage b goes on" in capsys.readouterr().out
  assert (tmp_path / "c" / "note").read_text() == "AfailsC"
  assert not (tmp_path / "stale").exists()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(a={"reads": "@nobody"}), "config.stages.a refers to @nobody"),
    (dict(a={"reads": "@c"}), "made from each other"),
    (dict(a={"txet": ""}), r"config\.stages\.a\.txet; did you mean config\.stages\.a\.text"),
    (dict(a={"stage": "nothing"}), r"config\.stages\.a\.stage must be one of"),
  ],
)
def test_mistakes_of_a_config_name_the_key(ran, change, message):
  with pytest.raises(UserError, match=message) as e:
    pipeline(**change)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize("flag", ["only", "force"])
def test_an_unknown_stage_names_the_flag(tmp_path, ran, flag):
  with pytest.raises(UserError, match=f"--{flag}: there is no stage d; there are a, "):
    pipeline_run.run_experiment(pipeline(), tmp_path, **{flag: ["d"]})


def test_what_is_forced_must_be_among_what_is_chosen(tmp_path, ran):
  with pytest.raises(UserError, match="--force: b is none of the stages of --only"):
    pipeline_run.run_experiment(pipeline(), tmp_path, only=["a"], force=["b"])
  assert not ran


def test_a_damaged_record_is_told_in_one_line(tmp_path, ran):
  (tmp_path / "pipeline.json").write_text("{")
  with pytest.raises(UserError, match=r"cannot read .*pipeline\.json"):
    pipeline_run.run_experiment(pipeline(), tmp_path)


def test_a_text_tokenizer_and_the_model_that_reads_with_it(tmp_path, corpus_dir, capsys):
  model = default_config()
  model.model.update(vocab_size=384, depth=1, width=16, heads=2, kv_heads=1, head_dim=8)
  model.model.update(experts=2, top_k=1, expert_width=8, shared_width=8)
  model.elastic.update(depth_full=1.0, width_full=1.0, sparsity_full=1.0)
  data = {"sources": ({"path": str(corpus_dir), "validation_percent": 20.0},)}
  data |= {"data_dir": str(tmp_path / "data"), "row_length": 32, "rows_per_batch": 2}
  model.data.update(data)
  model.train.update(steps=2, log_every=1, checkpoint_every=2)
  model.evaluation.update(rows=1, prompt="")
  model.mesh.data = 1
  model.text.tokenizer = "@text/tokenizer.model"
  text = {"stage": "text_tokenizer", "vocab_size": 384, "training_chars": 20_000, "data": data}
  made = {"stage": "pipeline", "name": "p", "stages": {"model": model, "text": text}}
  model.mesh.data = 3
  with pytest.raises(UserError, match=r"config\.stages\.model\.mesh\.data"):
    pipeline_run.run_experiment(pipeline_run.build_experiment(made), tmp_path / "run")
  model.mesh.data = 1
  pipeline_run.run_experiment(pipeline_run.build_experiment(made), tmp_path / "run")
  saved = load_model(tmp_path / "run")  # the pipeline's folder stands for that of its model
  assert saved.config == load_model(tmp_path / "run" / "model").config
  assert saved.step == 2 and saved.tokenizer.vocab_size == 384
  damaged = tmp_path / "run" / "text" / "config.json"
  kept = damaged.read_text()
  damaged.write_text("{")
  with pytest.raises(UserError, match=r"text/config\.json is not valid JSON"):
    load_model(tmp_path / "run")
  damaged.write_text(kept)
  page = (tmp_path / "run" / "report.html").read_text()
  assert "bits per byte ↓" in page and "How the experts of model are used" in page
  assert json.loads((tmp_path / "run" / "text" / "config.json").read_text())["vocab_size"] == 384
  pipeline_run.run_experiment(pipeline_run.build_experiment(made), tmp_path / "run")
  capsys.readouterr()
  model.evaluation.table_rows = 3
  pipeline_run.run_experiment(pipeline_run.build_experiment(made), tmp_path / "run")
  again = f"python -m ernie_jax.evaluate --workdir={tmp_path / 'run' / 'model'}"
  assert f"is 3: {again} scores every member anew" in capsys.readouterr().out
  assert read_config(tmp_path / "run")["evaluation"]["table_rows"] == 3
  pipeline_run.run_experiment(pipeline_run.build_experiment(made), tmp_path / "run")
  said = capsys.readouterr().out  # once is enough
  assert "stage model is finished" in said and "anew" not in said
  model.train.steps = 3
  pipeline_run.run_experiment(pipeline_run.build_experiment(made), tmp_path / "run")
  assert "stage model goes on" in capsys.readouterr().out
  assert load_model(tmp_path / "run").step == 3 and not (tmp_path / "run" / "stale").exists()
  other = made | {"stages": {"text": text | {"vocab_size": 380}, "model": model}}
  pipeline_run.run_experiment(pipeline_run.build_experiment(other), tmp_path / "run", only=["text"])
  assert (tmp_path / "run" / "stale" / "text-1" / "tokenizer.model").exists()


def test_a_model_that_goes_on_from_another_is_the_pipelines(tmp_path):
  record = {"text": {}, "pretrain": {}, "model": {}, "other": {}}
  (tmp_path / "pipeline.json").write_text(json.dumps(record))
  configs = {"text": {"vocab_size": 384}, "pretrain": {"model": {}, "elastic": {}}}
  configs["model"] = configs["pretrain"] | {"start": "pretrain"}
  for name in ("text", "pretrain"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text(json.dumps(configs[name]))
  assert model_workdir(tmp_path) == tmp_path / "pretrain"  # the other half has not begun
  (tmp_path / "model").mkdir()
  (tmp_path / "model" / "config.json").write_text(json.dumps(configs["model"]))
  assert model_workdir(tmp_path) == tmp_path / "model"
