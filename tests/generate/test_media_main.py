"""The command with pictures and videos: files in and out, text about them, and mistakes told in one line."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image
from small_vision import CONFIG, MODEL, SLOTS, clear_params, frozen_tokenizer, media

from ernie_jax import config as config_lib
from ernie_jax.data.media import write_media
from ernie_jax.data.media_rows import MediaDataConfig
from ernie_jax.data.media_tasks import document
from ernie_jax.elastic.family import ElasticConfig
from ernie_jax.errors import UserError
from ernie_jax.generate import __main__ as command
from ernie_jax.generate import media_command
from ernie_jax.generate.prompts import prompt_batch
from ernie_jax.media import Vision
from ernie_jax.text.tokenizer import train_tokenizer
from ernie_jax.train.model_io import SavedModel, load_model, save_model


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
  """Saved models, of which "text" has no vision, and "looks" drew nothing in training."""
  words = ["a red circle", "a blue square moving up", "what shape is red?"] * 40
  tokenizer = train_tokenizer(words, vocab_size=330)
  model = dataclasses.replace(MODEL, vocab_size=336)
  frozen = frozen_tokenizer()
  params = jax.tree.map(np.asarray, clear_params(frozen, model))
  config = {
    "data": {"row_length": 80, "media": config_lib.to_dict(MediaDataConfig(slots=SLOTS))},
    "vision": {"understand": config_lib.to_dict(CONFIG.understand)},
    "evaluation": {"temperature": 0.25, "guidance": 1.0},
  }
  saved = SavedModel(
    config=config,
    model=model,
    elastic=ElasticConfig(min_depth=1),
    params=params,
    bias=np.zeros((2, 4), np.float32),
    usage=np.arange(8, dtype=np.float32).reshape(2, 4),
    tokenizer=tokenizer,
    step=7,
    vision=Vision(CONFIG, jax.tree.map(np.asarray, frozen)),
  )
  folders = {name: tmp_path_factory.mktemp("run") / name for name in ("vision", "text", "looks")}
  save_model(folders["vision"], saved)
  looks = dataclasses.replace(SLOTS, drawn_images=0, drawn_videos=0)
  data = {**config["data"], "media": config_lib.to_dict(MediaDataConfig(slots=looks))}
  save_model(folders["looks"], dataclasses.replace(saved, config={**config, "data": data}))
  plain = {k: v for k, v in params.items() if k not in ("vision", "understand")}
  text = dataclasses.replace(model, vision=None)
  save_model(folders["text"], dataclasses.replace(saved, model=text, params=plain, vision=None))
  return folders


@pytest.fixture
def run(workdirs, capsys):
  """Runs the command on a workdir with these flags; gives what it printed."""
  flags.FLAGS.mark_as_parsed()

  def with_flags(workdir, **values):
    with flagsaver.flagsaver(workdir=str(workdirs.get(workdir, workdir)), **values):
      command.main([])
    return capsys.readouterr()

  return with_flags


@pytest.fixture
def picture(tmp_path):
  path = tmp_path / "picture.png"
  Image.fromarray(media(4)[0]).save(path)
  return str(path)


def test_a_saved_model_keeps_its_visual_tokenizer(workdirs):
  saved = load_model(workdirs["vision"])
  assert saved.vision.config == CONFIG
  jax.tree.map(np.testing.assert_array_equal, saved.vision.tokenizer, frozen_tokenizer())
  assert load_model(workdirs["text"]).vision is None


def test_pictures_are_drawn_each_to_its_own_file_and_by_a_member_too(run, tmp_path):
  printed = run("vision", prompt="a red circle", image=str(tmp_path / "out.png"), count=2)
  found = [np.asarray(Image.open(tmp_path / f"out_{i}.png")) for i in (1, 2)]
  assert found[0].shape == (16, 16, 3) and (found[0] != found[1]).any()
  assert "frame 1 of 1" in printed.err and "out_2.png" in printed.err
  assert "temperature=0.25, guidance=1.0" in printed.err  # as it was evaluated
  assert sorted(p.name for p in tmp_path.iterdir()) == ["out_1.png", "out_2.png"]
  run("vision", image=str(tmp_path / "small.png"), member="1x2x1", guidance=1.0)
  assert Image.open(tmp_path / "small.png").size == (16, 16)


def test_a_picture_becomes_the_beginning_of_a_video(run, tmp_path, picture):
  printed = run("vision", prompt="a blue", input=[picture], video=str(tmp_path / "out.gif"))
  assert Image.open(tmp_path / "out.gif").n_frames == 9
  assert "frame 2 of 2" in printed.err


def test_a_question_about_a_picture_is_answered_in_text(run, picture):
  arguments = dict(input=[picture], temperature=0.0, max_new_tokens=5)
  asked = run("vision", prompt="what shape is red?", **arguments).out
  told = run("vision", **arguments).out
  assert asked.endswith("\n") and asked != told


def test_of_a_longer_video_the_frames_that_are_looked_at_are_told(run, tmp_path):
  write_media(tmp_path / "long.gif", media(3, frames=12), fps=8.0)
  arguments = dict(input=[str(tmp_path / "long.gif")], max_new_tokens=3)
  first = run("vision", **arguments)
  assert "its first 9 frames as in training" in first.err
  assert "temperature=0.0" in first.err  # the likeliest, if not asked otherwise
  assert first.out == run("vision", **arguments, temperature=0.0).out
  with pytest.raises(UserError, match="has 6 frames at one in 2, but"):
    run("vision", **arguments, every=2)


def test_pictures_stand_in_their_places_in_a_prompt(run, workdirs, picture, tmp_path):
  prompt = "a red <picture> moving <picture>"
  saved, inputs = load_model(workdirs["vision"]), [picture, picture]
  words = lambda text: saved.tokenizer.encode(text).tolist()
  request = media_command.MediaRequest(inputs=tuple(inputs))
  made = media_command.text_prompt(saved, request, prompt)
  pictures = np.stack([media(4)[0]] * 2)
  # As in training, up to what the model tells.
  wanted = document([words("a red"), words("moving"), (5,)], pictures)[:-2]
  rows = [prompt_batch([items], CONFIG.shapes(), None) for items in (made, wanted)]
  jax.tree.map(np.testing.assert_array_equal, *rows)
  arguments = dict(prompt=prompt, input=inputs, temperature=0.0)
  told = run("vision", max_new_tokens=4, **arguments).out
  assert told != run("vision", max_new_tokens=4, **arguments | dict(prompt=f"blue{prompt}")).out
  one = arguments | dict(prompt="a red <picture> moving", input=[picture])
  run("vision", image=str(tmp_path / "second.png"), **one)
  assert Image.open(tmp_path / "second.png").size == (16, 16)


def test_a_story_has_no_more_pictures_than_asked_and_text_between(run, tmp_path, picture):
  arguments = dict(prompt="a red", story=1, max_new_tokens=4, input=[picture], seed=2)
  printed = run("vision", image=str(tmp_path / "out.png"), **arguments).out
  assert printed.startswith("a red\n")
  drawn = sorted(p.name for p in tmp_path.glob("out*"))
  assert drawn in ([], ["out_1.png"]) and printed.count("[") == len(drawn)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (dict(input=["x.png", "q.wav"]), "--input: the model in .* has no audio"),
    (dict(input=["x.png", "q.wav"], image="out.png"), "--image or --video, or sound to read"),
    (dict(workdir="text", image="out.png"), "no vision; it was trained on text alone"),
    (dict(workdir="text", input=["x.png"]), "--input: the model"),
    (dict(image="out.png", video="out.gif"), "either --image or --video"),
    (dict(image="out.jpg"), "--image: write a .png file"),
    (dict(video="out.png"), "--video: write a .gif or .mp4 file"),
    (dict(image="missing/out.png"), "there is no directory missing"),
    (dict(video="out.gif", frames=8), "frames must be 1"),
    (dict(video="out.gif", frames=1), "make no video"),
    (dict(video="out.gif", frames=21), "too many for the 80 of a row"),
    (dict(image="out.png", prompt="a red circle " * 20), "too many for the 80 of a row"),
    (dict(image="out.png", story=9), "--story: .* too many for the 80 of a row"),
    (dict(input=["x.png"], prompt="<picture> <picture>"), "it has 2 <picture>, but --input 1"),
    (dict(input=["x.png", "y.png"], prompt="a"), "several have a <picture> each in --prompt"),
    (dict(input=["x.png", "y.wav"], prompt="<picture>"), "sound has none|has no audio"),
    (dict(input=["x.png"], prompt="<picture>", video="out.gif"), "leave <picture> out"),
    (dict(workdir="looks", image="out.png"), "--image: this model was not trained to draw"),
    (dict(workdir="looks", image="out.png", story=1), "--image: this model was not trained to draw"),
    (dict(workdir="looks", video="out.gif"), "--video: this model was not trained to draw videos"),
    (dict(input=["absent.png"]), "absent.png"),
    (dict(video="out.gif", story=1), "--story needs --image"),
    (dict(prompt="a red", story=1), "--story needs --image"),
    (dict(image="out.png", story=-1), "--story needs --image"),
    (dict(image="out.png", count=0), "--count must be at least 1"),
    (dict(input=["x.gif"], every=0), "--every must be at least 1"),
    (dict(video="out.gif", frames=0), "--frames must be at least 1"),
    (dict(video="out.gif", fps=0.0), "--fps must be a positive number, got 0"),
    (dict(video="out.gif", fps=-2.0), "--fps must be a positive number, got -2"),
    (dict(video="out.mp4", fps=float("nan")), "--fps must be a positive number, got nan"),
    (dict(input=["x.png"], max_new_tokens=0), "--max_new_tokens must be at least 1, got 0"),
    (dict(input=["x.png"], **{"prompt-ids": ["5"]}), "--prompt-ids is for text alone"),
    (dict(image="out.png", **{"prompt-ids": ["5"]}), "--prompt-ids is for text alone"),
    (dict(image="out.png", guidance=-1.0), "--guidance"),
  ],
)  # fmt: skip
def test_mistakes_are_one_line_and_write_nothing(run, tmp_path, monkeypatch, arguments, message):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=message) as raised:
    run(arguments.pop("workdir", "vision"), **arguments)
  assert "\n" not in str(raised.value) and not list(tmp_path.iterdir())


def test_a_damaged_picture_is_named(run, tmp_path, picture):
  broken = tmp_path / "broken.png"
  broken.write_bytes(pathlib.Path(picture).read_bytes()[:60])
  with pytest.raises(UserError, match=r"broken\.png"):
    run("vision", input=[str(broken)], image=str(tmp_path / "out.png"))
  assert not (tmp_path / "out.png").exists()
