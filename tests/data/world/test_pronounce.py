"""The pronunciation of the world's English: no two words alike, and a question can be told from what is said of it."""

import itertools
import re

import numpy as np
import pytest

from ernie_jax.data.world.documents import story
from ernie_jax.data.world.pronounce import PRONUNCIATIONS, SILENT, pronounce
from ernie_jax.data.world.questions import questions
from ernie_jax.data.world.scene import COLOURS, SHAPES, SIZES
from ernie_jax.data.world.scene_sampling import SceneConfig, sample_scene
from ernie_jax.data.world.speech import CONSONANTS, VOCABULARY, VOWELS


def distance(a: str, b: str) -> int:
  return sum(x != y for x, y in zip(a, b, strict=True))


def test_words_are_syllables_that_differ_from_each_other_and_from_the_worlds_own():
  said = list(PRONUNCIATIONS.values())
  syllables = "|".join(c + v for c in CONSONANTS for v in VOWELS)
  assert all(re.fullmatch(f"({syllables}){{2}}", word) for word in said)
  assert min(distance(a, b) for a, b in itertools.combinations(said, 2)) >= 2
  halves = {part for word in VOCABULARY for part in (word[:4], word[-4:])}
  assert min(distance(a, b) for a in said for b in halves) >= 2
  for words in (SHAPES, COLOURS, SIZES, ("above", "below"), ("left", "right", "top", "bottom")):
    for a, b in itertools.combinations(words, 2):
      assert distance(PRONUNCIATIONS[a], PRONUNCIATIONS[b]) >= 3
  assert not SILENT & set(PRONUNCIATIONS)


def test_what_is_said_is_the_content_in_its_order():
  assert pronounce("How many red things are there?") == ("nobe", "koka", "sofi", "sifo")
  assert pronounce("What shape is the thing at the top left?") == ("boki", "sofi", "suko", "nuba")
  assert pronounce("are there crosses") == pronounce("There, a cross.") == ("sifo", "dosi")
  assert pronounce("the") == ()
  with pytest.raises(ValueError, match="'hexagon' has no pronunciation"):
    pronounce("a red hexagon")


@pytest.mark.parametrize("frames", [1, 9])
def test_every_question_is_said_and_no_two_questions_alike(frames):
  config = SceneConfig(frames=frames, sign_probability=0.3)
  asked = {}
  for seed in range(600):
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, config, split="held_out" if seed % 2 else "train")
    for one in questions(scene, rng):
      asked.setdefault(pronounce(one.question), set()).add(one.question)
  assert len(asked) > 300 and all(map(len, asked))
  assert [same for same in asked.values() if len(same) > 1] == []


def test_every_text_of_a_document_is_said():
  config = SceneConfig()
  for seed in range(200):
    rng = np.random.default_rng(seed)
    told = story(sample_scene(rng, config), config, rng)
    assert all(pronounce(text) for text in told.texts if text)
