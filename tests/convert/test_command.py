"""from-hf and to-hf on directories: whole round trips, and one clear line for every mistake."""

import subprocess
import sys

import golden
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from ernie_jax.convert import files
from ernie_jax.convert.__main__ import export_checkpoint, import_checkpoint
from ernie_jax.convert.names import is_router
from ernie_jax.errors import UserError
from ernie_jax.train.model_io import load_model


@pytest.fixture
def checkpoint():
  return golden.load()


def cast(checkpoint, dtype, *, routers: bool):
  """The checkpoint stored in another type, with or without its routers."""
  checkpoint.tensors = {
    name: x.astype(dtype) if routers or not is_router(name) else x
    for name, x in checkpoint.tensors.items()
  }
  checkpoint.config["dtype"] = np.dtype(dtype).name
  return checkpoint


@pytest.mark.parametrize(
  ("dtype", "routers"),
  [(np.float32, True), (ml_dtypes.bfloat16, False), (ml_dtypes.bfloat16, True), (np.float16, True)],
)
def test_a_checkpoint_comes_back_with_every_bit_type_and_small_file(
  checkpoint, tmp_path, dtype, routers
):
  directory = cast(checkpoint, dtype, routers=routers).write(tmp_path / "hf")
  import_checkpoint(directory, tmp_path / "work")
  export_checkpoint(tmp_path / "work", tmp_path / "again", shard_bytes=10_000)
  again = files.TensorFiles(tmp_path / "again")
  assert len(again.files) > 1
  assert set(again) == set(checkpoint.tensors)
  for name, tensor in checkpoint.tensors.items():
    assert again[name].dtype == tensor.dtype, name
    assert again[name].tobytes() == tensor.tobytes(), name
  assert files.read_json(tmp_path / "again" / "config.json") == checkpoint.config
  same = (tmp_path / "again" / "tokenizer_config.json").read_text()
  assert same == (directory / "tokenizer_config.json").read_text()
  assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "hf", "work"]


def test_dtype_casts_all_but_the_routers(checkpoint, tmp_path):
  import_checkpoint(checkpoint.write(tmp_path / "hf"), tmp_path / "work")
  export_checkpoint(tmp_path / "work", tmp_path / "half", dtype="bfloat16")
  half = files.TensorFiles(tmp_path / "half")
  assert half.files == ["model.safetensors"]
  for name in half:
    assert half[name].dtype == (np.float32 if is_router(name) else ml_dtypes.bfloat16), name
  assert files.read_json(tmp_path / "half" / "config.json")["dtype"] == "bfloat16"


def test_a_tied_head_that_is_written_anyway_must_equal_the_embedding(checkpoint, tmp_path):
  checkpoint.config["tie_word_embeddings"] = True
  head, embedding = "lm_head.weight", "model.embed_tokens.weight"
  with pytest.raises(UserError, match="tie_word_embeddings"):
    import_checkpoint(checkpoint.write(tmp_path / "differs"), tmp_path / "work")
  checkpoint.tensors[head] = checkpoint.tensors[embedding]
  import_checkpoint(checkpoint.write(tmp_path / "equal"), tmp_path / "work")
  assert "head" not in load_model(tmp_path / "work").params


def drop(checkpoint, directory):
  del checkpoint.tensors["model.layers.1.mlp.gate.weight"]
  return checkpoint.write(directory)


def add(checkpoint, directory):
  checkpoint.tensors["model.layers.9.mlp.gate.weight"] = np.zeros((2, 2), np.float32)
  return checkpoint.write(directory)


def reshape(checkpoint, directory):
  name = "model.layers.2.self_attn.o_proj.weight"
  checkpoint.tensors[name] = checkpoint.tensors[name][:-1]
  return checkpoint.write(directory)


def quantise(checkpoint, directory):
  name = "model.layers.0.mlp.up_proj.weight"
  checkpoint.tensors[name] = checkpoint.tensors[name].astype(np.int8)
  return checkpoint.write(directory)


def cut_short(checkpoint, directory):
  file = checkpoint.write(directory) / "model-00002-of-00003.safetensors"
  file.write_bytes(file.read_bytes()[:-5])
  return directory


def lose_shard(checkpoint, directory):
  (checkpoint.write(directory) / "model-00003-of-00003.safetensors").unlink()
  return directory


def swap_shard(checkpoint, directory):
  file = checkpoint.write(directory) / "model-00001-of-00003.safetensors"
  save_file({"other": np.zeros(1, np.float32)}, file)
  return directory


def list_shards(checkpoint, directory):
  (checkpoint.write(directory) / files.INDEX).write_text('{"weight_map": [1]}')
  return directory


def number_shards(checkpoint, directory):
  (checkpoint.write(directory) / files.INDEX).write_text('{"weight_map": {"x": 1}}')
  return directory


def break_config(checkpoint, directory):
  (checkpoint.write(directory) / "config.json").write_text("{")
  return directory


def lose_config(checkpoint, directory):
  (checkpoint.write(directory) / "config.json").unlink()
  return directory


def lose_weights(checkpoint, directory):
  for file in checkpoint.write(directory).glob("model*"):
    file.unlink()
  return directory


def change_architecture(checkpoint, directory):
  checkpoint.config["model_type"] = "mixtral"
  return checkpoint.write(directory)


def no_directory(checkpoint, directory):
  return directory


@pytest.mark.parametrize(
  ("mistake", "named"),
  [
    (drop, "no tensor model.layers.1.mlp.gate.weight"),
    (add, "unexpected tensor model.layers.9.mlp.gate.weight"),
    (reshape, "model.layers.2.self_attn.o_proj.weight has shape"),
    (quantise, "model.layers.0.mlp.up_proj.weight is int8"),
    (cut_short, "model-00002-of-00003.safetensors is not a whole"),
    (lose_shard, "model-00003-of-00003.safetensors"),
    (swap_shard, "model-00001-of-00003.safetensors has no tensor"),
    (list_shards, "index.json: weight_map must be an object"),
    (number_shards, "index.json: weight_map must give the name of a file"),
    (break_config, "config.json is not valid JSON"),
    (lose_config, "config.json"),
    (lose_weights, "model.safetensors.index.json"),
    (change_architecture, "mixtral"),
    (no_directory, "is not a directory"),
  ],
)
def test_a_bad_checkpoint_is_one_line_naming_what_is_wrong_and_leaves_nothing(
  checkpoint, tmp_path, mistake, named
):
  directory = mistake(checkpoint, tmp_path / "hf")
  with pytest.raises(UserError, match=named) as error:
    import_checkpoint(directory, tmp_path / "work")
  assert "\n" not in str(error.value)
  assert [p.name for p in tmp_path.iterdir()] in (["hf"], [])


def test_neither_direction_overwrites(checkpoint, tmp_path):
  directory = checkpoint.write(tmp_path / "hf")
  (tmp_path / "work").mkdir()
  (tmp_path / "work" / "mine").write_text("precious")
  with pytest.raises(UserError, match=r"--workdir: .*work exists already"):
    import_checkpoint(directory, tmp_path / "work")
  import_checkpoint(directory, tmp_path / "other")
  with pytest.raises(UserError, match=r"to-hf: .*hf exists already"):
    export_checkpoint(tmp_path / "other", directory)
  assert (tmp_path / "work" / "mine").read_text() == "precious"


def test_a_failure_while_writing_leaves_nothing_behind(checkpoint, tmp_path, monkeypatch):
  import_checkpoint(checkpoint.write(tmp_path / "hf"), tmp_path / "work")

  def full(*_, **__):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(files, "save_file", full)
  with pytest.raises(UserError, match="No space left on device"):
    export_checkpoint(tmp_path / "work", tmp_path / "again")
  assert sorted(p.name for p in tmp_path.iterdir()) == ["hf", "work"]


def test_the_commands_import_continue_greedily_and_tell_mistakes_in_one_line(checkpoint, tmp_path):
  def run(command, *arguments):
    line = [sys.executable, "-m", f"ernie_jax.{command}", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True)

  directory, work = checkpoint.write(tmp_path / "hf"), f"--workdir={tmp_path / 'work'}"
  imported = run("convert", "from-hf", directory, work)
  assert imported.returncode == 0, imported.stderr
  assert "3 layers x 16, 4 experts, top 2, 1 MTP, 10.6 k parameters" in imported.stdout

  listed = lambda ids: ",".join(map(str, ids))
  prompt, expected = checkpoint.ids[0], checkpoint.greedy[0]
  count = len(expected)
  said = run(
    "generate", work, f"--prompt-ids={listed(prompt)}", "--print-ids", "--temperature=0",
    f"--max_new_tokens={count}",
  )  # fmt: skip
  assert said.returncode == 0, said.stderr
  assert said.stdout.strip() == listed([*prompt, *expected])

  bad = run("convert", "from-hf", directory)
  assert bad.returncode == 2
  assert bad.stderr.strip().splitlines() == [
    "error: missing flag --workdir; add --workdir=runs/ernie45"
  ]
