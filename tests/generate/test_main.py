"""The command: text with a tokenizer, ids without one, members, and mistakes told in one line."""

import dataclasses
import os
import pathlib

import flax.linen as nn
import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from ernie_jax.elastic.family import ElasticConfig
from ernie_jax.errors import UserError
from ernie_jax.generate import __main__ as command
from ernie_jax.model import UnifiedModel, initial_bias
from ernie_jax.sequence import empty_row
from ernie_jax.text.tokenizer import train_tokenizer
from ernie_jax.train.model_io import SavedModel, save_model


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory, config):
  """Two saved models: "text" has a tokenizer, "ids" has none."""
  source = pathlib.Path(os.__file__).read_text()
  tokenizer = train_tokenizer([source, "漢字 " * 50], vocab_size=330)
  model = dataclasses.replace(config, vocab_size=336)
  row = jax.tree.map(lambda a: a[None], empty_row(4))
  init = jax.jit(lambda key: UnifiedModel(model).init(key, row, initial_bias(model)))
  params = jax.tree.map(np.asarray, nn.unbox(init(jax.random.key(0)))["params"])
  folders = {}
  for name, own in (("text", tokenizer), ("ids", None)):
    folders[name] = tmp_path_factory.mktemp("run") / name
    saved = SavedModel(
      config={},
      model=model,
      elastic=ElasticConfig(),
      params=params,
      bias=np.zeros((3, 4), np.float32),
      usage=np.arange(12, dtype=np.float32).reshape(3, 4),
      tokenizer=own,
      step=7,
    )
    save_model(folders[name], saved)
  return folders


@pytest.fixture
def run(workdirs, capsys):
  """Runs the command on a workdir with these flags; gives what it printed."""
  flags.FLAGS.mark_as_parsed()

  def with_flags(workdir, **values):
    values = {name.replace("_", "-") if "ids" in name else name: v for name, v in values.items()}
    with flagsaver.flagsaver(workdir=str(workdirs.get(workdir, workdir)), **values):
      command.main([])
    return capsys.readouterr()

  return with_flags


def test_text_is_continued_and_speed_is_told_apart(run):
  printed = run("text", prompt="import os", max_new_tokens=12)
  assert printed.out.startswith("import os") and len(printed.out) > len("import os\n")
  assert "at step 7, 3x4x2" in printed.err and "12 tokens in" in printed.err


def test_ids_are_printed_with_the_prompt_and_a_member_is_cut_out(run):
  arguments = dict(prompt_ids=["5", "70", "100"], max_new_tokens=6, temperature=0.0)
  full = run("ids", **arguments).out
  ids = [int(word) for word in full.split(",")]
  assert ids[:3] == [5, 70, 100] and len(ids) == 9
  member = run("ids", member="2x3x1", **arguments)
  assert "2x3x1" in member.err and len(member.out.split(",")) == 9
  assert run("text", print_ids=True, prompt_ids=["5"], max_new_tokens=4).out.startswith("5,")


def test_the_text_ends_at_a_stop_id(run):
  every = [str(i) for i in range(336)]
  out = run("ids", prompt_ids=["5"], stop_ids=every, max_new_tokens=6).out
  assert len(out.split(",")) == 2


@pytest.mark.parametrize(
  "workdir, values, message",
  [
    ("ids", {"prompt": "x"}, "--prompt: this model has no tokenizer; give --prompt-ids"),
    ("ids", {"prompt_ids": ["5", "a"]}, "--prompt-ids: token ids are whole numbers"),
    ("ids", {"prompt_ids": ["5"], "prompt": "x"}, "either --prompt=TEXT or --prompt-ids"),
    ("ids", {}, "either --prompt=TEXT or --prompt-ids"),
    ("ids", {"prompt_ids": ["5"], "stop_ids": ["336"]}, "--stop-ids: ids must be between 0 and 335"),
    ("ids", {"prompt_ids": ["336"]}, "the prompt has the id 336"),
    ("ids", {"prompt_ids": ["5"] * 9, "cache_length": 9}, "no room in a cache of 9"),
    ("ids", {"prompt_ids": ["5"], "cache_length": 1}, "--cache_length must be at least 2"),
    ("ids", {"prompt_ids": ["5"], "member": "3x9x2"}, "--member: 3x9x2 has 9 experts"),
    ("ids", {"prompt_ids": ["5"], "step": 3}, "--step: no checkpoint of step 3"),
    ("ids", {"prompt_ids": ["5"], "top_p": 2.0}, "--top_p must be above 0"),
    ("ids", {"prompt_ids": ["5"], "max_new_tokens": -1}, "--max_new_tokens must be at least 1, got -1"),
    ("nowhere", {"prompt_ids": ["5"]}, "--workdir: no trained model in nowhere"),
  ],
)  # fmt: skip
def test_mistakes_name_the_flag(run, workdir, values, message):
  with pytest.raises(UserError, match=message):
    run(workdir, **values)
