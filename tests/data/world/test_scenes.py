"""The world as a data set: what is kept is what was drawn, splits are what they are called, builds are equal."""

import numpy as np
import pytest

from ernie_jax.data.media_records import MediaExamples
from ernie_jax.data.world import scenes
from ernie_jax.data.world.language import caption_exact
from ernie_jax.data.world.render import render
from ernie_jax.data.world.scene import scene_from_json
from ernie_jax.data.world.scene_sampling import SceneConfig
from ernie_jax.data.world.scenes import SPLITS, WorldSource, draw_example, prepare

PICTURES = WorldSource(
  scene=SceneConfig(sign_probability=0.3), train=40, validation=20, held_out=20, documents=0.5
)
VIDEOS = WorldSource(side=64, scene=SceneConfig(frames=9), train=6, validation=2, held_out=2)


def same(a, b):
  """Whether two examples are equal in all but their name."""
  documents = (a.document is None) == (b.document is None)
  if a.document and b.document:
    documents = a.document.texts == b.document.texts and a.document.scenes == b.document.scenes
    documents &= bool((a.document.pictures == b.document.pictures).all())
  words = (a.captions, a.questions, a.scene) == (b.captions, b.questions, b.scene)
  return words and documents and a.media.shape == b.media.shape and (a.media == b.media).all()


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp("data")
  return {source: prepare(source, data_dir) for source in (PICTURES, VIDEOS)}


@pytest.mark.parametrize("source", [PICTURES, VIDEOS])
@pytest.mark.parametrize("split", SPLITS)
def test_what_is_kept_is_what_was_drawn(builds, source, split):
  examples = MediaExamples(builds[source], split)
  assert len(examples) == getattr(source, split)
  for i, example in enumerate(examples):
    assert same(example, draw_example(source, split, i))


@pytest.mark.parametrize("source", [PICTURES, VIDEOS])
def test_media_captions_and_scene_belong_together(builds, source):
  for example in MediaExamples(builds[source], "train"):
    scene = scene_from_json(example.scene)
    assert (render(scene, source.side) == example.media).all()
    assert example.frames == source.scene.frames
    assert len(example.captions) == source.captions
    assert all(caption_exact(text, scene) for text in example.captions)
    if example.document is not None:
      pictures = [render(scene_from_json(s), source.side) for s in example.document.scenes]
      assert (np.concatenate(pictures) == example.document.pictures).all()


def test_only_the_held_out_split_has_held_out_combinations(builds):
  for split in SPLITS:
    for example in MediaExamples(builds[PICTURES], split):
      states = [example.scene, *(example.document.scenes if example.document else ())]
      seen = [scene_from_json(state).held_out for state in states]
      assert seen[0] if split == "held_out" else not any(seen)


def test_splits_and_seeds_share_no_scene(builds):
  drawn = [e.scene for split in SPLITS for e in MediaExamples(builds[PICTURES], split)]
  assert len(set(drawn)) == len(drawn)
  assert draw_example(WorldSource(seed=1), "train", 0).scene not in drawn


@pytest.mark.parametrize("frames", [1, 9])
def test_no_picture_of_training_is_one_of_validation_where_there_are_few(frames):
  """Without jitter there are 450 pictures of one thing: both splits draw most of theirs."""
  still = SceneConfig(
    frames=frames, max_objects=1, shades=("dark",), texture_probability=0.0, colour_jitter=0,
    position_jitter=0.0, moving_probability=0.5,
  )  # fmt: skip
  source = WorldSource(scene=still, documents=0.5 if frames == 1 else 0.0)
  first, shown = {}, {}
  for split in ("train", "validation"):
    drawn = [draw_example(source, split, i) for i in range(600)]
    pictures = [e.media[:1] for e in drawn]
    pictures += [e.document.pictures for e in drawn if e.document is not None]
    first[split] = {e.media[0].tobytes() for e in drawn}
    shown[split] = {picture.tobytes() for picture in np.concatenate(pictures)}
  assert not shown["train"] & shown["validation"]
  assert len(first["train"]) > 250 and 60 < len(first["validation"]) < 90


def test_the_share_of_documents_is_the_one_asked_and_videos_have_none(builds):
  count = sum(e.document is not None for e in MediaExamples(builds[PICTURES], "train"))
  assert 10 <= count <= 30
  assert all(e.document is None for e in MediaExamples(builds[VIDEOS], "train"))


def test_equal_sources_are_one_build_with_one_fingerprint_and_others_are_not(builds, tmp_path):
  again = prepare(PICTURES, tmp_path)
  first, second = (MediaExamples(b, "train") for b in (builds[PICTURES], again))
  assert again.key == builds[PICTURES].key and first.fingerprint == second.fingerprint
  assert first.fingerprint != MediaExamples(again, "validation").fingerprint
  assert first.fingerprint != MediaExamples(builds[VIDEOS], "train").fingerprint
  assert len({first.key, MediaExamples(again, "validation").key}) == 2


def test_a_weight_is_no_part_of_a_build(builds, monkeypatch):
  monkeypatch.setattr(scenes, "draw_example", None)  # nothing is drawn again
  heavier = WorldSource(**{**vars(PICTURES), "weight": 3.0, "judged": False})
  assert prepare(heavier, builds[PICTURES].directory.parents[2]) == builds[PICTURES]


@pytest.mark.parametrize(
  "key, value",
  [("train", 0), ("side", 48), ("documents", 1.5), ("seed", -1), ("weight", 0.0), ("captions", -1)],
)
def test_impossible_settings_are_refused_by_name(key, value):
  with pytest.raises(ValueError, match=key):
    WorldSource(**{key: value})


def test_what_would_name_a_colour_that_has_no_name_is_refused():
  nameless = SceneConfig(nameless=True)
  for told in ({"captions": 1}, {"documents": 0.5, "captions": 0}):
    with pytest.raises(ValueError, match="captions and documents"):
      WorldSource(scene=nameless, **{"documents": 0.0, **told})
  example = scenes.draw_example(WorldSource(scene=nameless, captions=0, documents=0.0), "train", 0)
  assert not example.captions and example.document is None and len(example.questions) >= 2
