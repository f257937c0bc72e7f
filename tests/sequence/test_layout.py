"""Rows of every layout against tables written by hand from sections 3.2 and 4 of the report."""

import numpy as np
import pytest

from ernie_jax.sequence import (
  Audio,
  ContextMedia,
  Kind,
  LayoutOptions,
  SpecialToken,
  Text,
  VisionTarget,
  Voice,
  describe,
  lay_out,
  pack,
  pad,
  scale_coordinates,
)

BOS, EOS, SEP, BOI, EOI, BOV, EOV, NEXT_FRAME, BOA, EOA = list(SpecialToken)[1:11]
T, C, V, A = Kind.TEXT, Kind.VISION_CONTEXT, Kind.VISION_TARGET, Kind.AUDIO
UNIFORM = LayoutOptions(scale_weights="uniform")


def check(row, *, kind, token, group, element, target, media_weight, slot):
  """Every field but the positions; a target of 0 stands for no text loss, an element of None for none."""
  np.testing.assert_array_equal(row.kind, kind)
  np.testing.assert_array_equal(row.token, token)
  np.testing.assert_array_equal(row.group, group)
  np.testing.assert_array_equal(row.media_slot, [-1 if e is None else slot for e in element])
  np.testing.assert_array_equal(row.media_element, [e or 0 for e in element])
  np.testing.assert_array_equal(row.target, target)
  np.testing.assert_array_equal(row.text_weight, [float(t > 0) for t in target])
  np.testing.assert_array_equal(row.media_weight, media_weight)
  np.testing.assert_array_equal(row.example, np.ones(len(kind)))


def test_text_predicts_the_next_token():
  row = lay_out([Text((BOS, 70, 71)), Text((EOS,))])
  check(
    row,
    kind=[T, T, T, T],
    token=[BOS, 70, 71, EOS],
    group=[0, 1, 2, 3],
    element=[None] * 4,
    target=[70, 71, EOS, 0],
    media_weight=[0, 0, 0, 0],
    slot=0,
  )
  np.testing.assert_array_equal(row.position, [[i, i, i] for i in range(4)])


def test_a_prompt_is_not_learnt_but_its_last_token_learns_the_answer():
  row = lay_out([Text((BOS, 70), learn=False), Text((71, EOS)), Text((72,), learn=False)])
  np.testing.assert_array_equal(row.target, [0, 71, EOS, 0, 0])
  np.testing.assert_array_equal(row.text_weight, [0, 1, 1, 0, 0])


def test_understanding_has_text_loss_only():
  row = lay_out([Text((70,)), ContextMedia(slot=3, frames=1, grid=(1, 2)), Text((SEP, 71))])
  check(
    row,
    kind=[T, T, C, C, T, T, T],
    token=[70, BOI, 0, 0, EOI, SEP, 71],
    group=[0, 1, 2, 2, 3, 4, 5],
    element=[None, None, 0, 1, None, None, None],
    target=[0, 0, 0, 0, SEP, 71, 0],
    media_weight=[0] * 7,
    slot=3,
  )
  places = [[0] * 3, [1] * 3, [2, 2, 2], [2, 2, 3], [4] * 3, [5] * 3, [6] * 3]
  np.testing.assert_array_equal(row.position, places)


def test_a_video_to_understand_has_one_group_a_frame():
  row = lay_out([ContextMedia(slot=0, frames=2, grid=(2, 1))])
  np.testing.assert_array_equal(row.token, [BOV, 0, 0, 0, 0, EOV])
  np.testing.assert_array_equal(row.group, [0, 1, 1, 2, 2, 3])
  np.testing.assert_array_equal(row.media_element, [0, 0, 1, 2, 3, 0])
  np.testing.assert_array_equal(row.position[1:-1], [[1, 1, 1], [1, 2, 1], [2, 1, 1], [2, 2, 1]])


def test_an_image_is_predicted_scale_by_scale():
  image = VisionTarget(slot=1, frames=1, scales=((1, 1), (2, 2)))
  row = lay_out([Text((70,)), image, Text((71,))], options=UNIFORM)
  check(
    row,
    kind=[T, T, V, V, V, V, V, T, T],
    token=[70, BOI, 0, 0, 0, 0, 0, EOI, 71],
    group=[0, 1, 2, 2, 2, 2, 3, 4, 5],
    element=[None, 0, 1, 2, 3, 4, 5, None, None],
    target=[BOI, 0, 0, 0, 0, 0, EOI, 71, 0],
    media_weight=[0, 1, 1, 1, 1, 1, 0, 0, 0],
    slot=1,
  )
  block = [[2, 2, 2], [2, 2, 3], [2, 3, 2], [2, 3, 3]]
  places = [[0] * 3, [1] * 3, *block, [2, 2.5, 2.5], [4] * 3, [5] * 3]
  np.testing.assert_array_equal(row.position, places)


def test_a_video_is_predicted_frame_by_frame_and_its_sums_say_what_follows():
  video = VisionTarget(slot=0, frames=2, scales=((1, 1), (1, 2)))
  row = lay_out([video, Text((70,))], options=UNIFORM)
  check(
    row,
    kind=[T, V, V, V, V, V, V, T, T],
    token=[BOV, 0, 0, 0, 0, 0, 0, EOV, 70],
    group=[0, 1, 1, 2, 3, 3, 4, 5, 6],
    element=[0, 1, 2, 3, 4, 5, 6, None, None],
    target=[0, 0, 0, NEXT_FRAME, 0, 0, EOV, 70, 0],
    media_weight=[1, 1, 1, 1, 1, 1, 0, 0, 0],
    slot=0,
  )
  frame = lambda t: [[t, 1, 1], [t, 1, 2], [t, 1, 1.5]]
  np.testing.assert_array_equal(row.position, [[0] * 3, *frame(1), *frame(2), [3] * 3, [4] * 3])


def test_given_frames_are_not_learnt_but_predict_the_first_that_is():
  video = VisionTarget(slot=0, frames=3, scales=((1, 1), (1, 2)), given=1)
  row = lay_out([Text((70,)), video], options=UNIFORM)
  #                                         70 BOV F1 F1 SS F2 F2 SS F3 F3 SS EOV
  np.testing.assert_array_equal(row.media_weight, [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0])
  expected = [0, 0, 0, 0, NEXT_FRAME, 0, 0, NEXT_FRAME, 0, 0, EOV, 0]
  np.testing.assert_array_equal(row.target, expected)


def test_a_vision_part_given_whole_is_context():
  video = VisionTarget(slot=0, frames=2, scales=((1, 1), (2, 2)), given=2)
  row = lay_out([Text((70,)), video, Text((71,))])
  assert not row.media_weight.any()
  np.testing.assert_array_equal(np.flatnonzero(row.text_weight), [row.length - 2])


@pytest.mark.parametrize("learn", [True, False])
def test_audio_predicts_the_next_frame_and_its_end_on_the_audio_heads(learn):
  row = lay_out([Text((70,)), Audio(slot=2, frames=2, learn=learn), Text((71,))])
  check(
    row,
    kind=[T, T, A, A, T, T],
    token=[70, BOA, 0, 0, EOA, 71],
    group=[0, 1, 2, 3, 4, 5],
    element=[None, 0, 1, 2, None, None],
    target=[BOA if learn else 0, 0, 0, 0, 71, 0],
    media_weight=[0, learn, learn, learn, 0, 0],
    slot=2,
  )
  np.testing.assert_array_equal(row.position, [[i, i, i] for i in range(6)])


def test_a_voice_is_one_position_that_predicts_that_speech_begins():
  row = lay_out([Text((70,), learn=False), Voice(), Audio(slot=0, frames=1), Text((71,))])
  check(
    row,
    kind=[T, Kind.VOICE, T, A, T, T],
    token=[70, 0, BOA, 0, EOA, 71],
    group=[0, 1, 2, 3, 4, 5],
    element=[None, None, 0, 1, None, None],
    target=[0, BOA, 0, 0, 71, 0],
    media_weight=[0, 0, 1, 1, 0, 0],
    slot=0,
  )
  np.testing.assert_array_equal(row.position, [[i, i, i] for i in range(6)])


@pytest.mark.parametrize(
  ("options", "hidden"),
  [
    # Frames 0..3 of one scale: positions 1..4; the part ends at 5.
    ({}, [None, None, None, None]),
    ({"window": 1}, [(3, 5), (4, 5), None, None]),
    ({"window": 0}, [(2, 5), (3, 5), (4, 5), None]),
    ({"dropped": (1, 3)}, [None, (3, 5), None, None]),
    ({"window": 2, "dropped": (0,)}, [(2, 5), None, None, None]),
  ],
)
def test_window_and_dropped_frames_are_one_interval_a_key(options, hidden):
  row = lay_out([VisionTarget(slot=0, frames=4, scales=((1, 1),), **options), Text((70,))])
  found = [(int(a), int(b)) if a < b else None for a, b in zip(row.hidden_from, row.hidden_to)]
  assert found == [None, *hidden, None, None]


def test_scale_weights_fall_with_the_root_of_the_area():
  row = lay_out([VisionTarget(slot=0, frames=1, scales=((1, 1), (2, 2), (4, 4)))])
  learnt = row.media_weight[:21]
  np.testing.assert_allclose(learnt, [3.0] + [1.5] * 4 + [0.75] * 16)


@pytest.mark.parametrize(
  ("coordinates", "expected"),
  [("unit", [6.0, 7.0]), ("resized", [5.5, 7.5])],
)
def test_both_readings_of_centre_alignment(coordinates, expected):
  plane = scale_coordinates((2, 1), (4, 1), start=5, coordinates=coordinates)
  np.testing.assert_array_equal(plane[:, 0], expected)
  np.testing.assert_array_equal(plane[:, 1], [5, 5])


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: VisionTarget(slot=0, frames=1, scales=((2, 2),)), "first scale must be"),
    (lambda: VisionTarget(slot=0, frames=1, scales=()), "first scale must be"),
    (lambda: VisionTarget(slot=0, frames=1, scales=((1, 1), (2, 2), (1, 3))), "smaller"),
    (lambda: VisionTarget(slot=0, frames=0, scales=((1, 1),)), "frames must be"),
    (lambda: VisionTarget(slot=-1, frames=1, scales=((1, 1),)), "slot must not"),
    (lambda: VisionTarget(slot=0, frames=1, scales=((1, 1),), given=2), "given"),
    (lambda: VisionTarget(slot=0, frames=1, scales=((1, 1),), window=-1), "window"),
    (lambda: VisionTarget(slot=0, frames=2, scales=((1, 1),), dropped=(2,)), "dropped"),
    (lambda: ContextMedia(slot=0, frames=1, grid=(-1, 2)), "grid must be"),
    (lambda: ContextMedia(slot=0, frames=-1, grid=(1, 2)), "frames must be"),
    (lambda: Audio(slot=0, frames=-3), "frames must be"),
    (lambda: lay_out([Text((5, -2))]), "must not be negative, got -2"),
    (lambda: LayoutOptions(coordinates="centre"), "coordinates must be"),
    (lambda: LayoutOptions(scale_weights="area"), "scale_weights must be"),
    (lambda: pack([lay_out([Text((1, 2, 3))])] * 2, 5), "2 examples need 6 positions"),
    (lambda: pad(lay_out([Text((1, 2, 3))]), 2), "cannot be padded"),
    (lambda: pack([lay_out([Text((1,))])], 5, vision_slots=(0, 1)), "2 offsets for 1"),
  ],
)
def test_impossible_parts_and_rows_are_refused_in_words(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_packing_moves_the_slots_of_each_medium_by_its_own_offset():
  parts = [VisionTarget(slot=0, frames=1, scales=((1, 1),)), Audio(slot=1, frames=1)]
  row = pack([lay_out(parts)] * 2, 14, vision_slots=(0, 3), audio_slots=(0, 5))
  #                                       BOI SS EOI BOA A EOA
  alone = np.array([0, 0, -1, 1, 1, -1])
  moved = np.array([3, 3, -1, 6, 6, -1])
  np.testing.assert_array_equal(row.media_slot, [*alone, *moved, -1, -1])


def test_describe_shows_a_line_a_position():
  row = lay_out([Text((BOS, 70)), VisionTarget(slot=0, frames=2, scales=((1, 1),), window=0)])
  assert describe(pack([row], 9)).splitlines() == [
    "pos  ex  group  input          (t, h, w)  media  hidden  text loss       media loss",
    "0    1   0      BOS            (0, 0, 0)                 70 x 1",
    "1    1   1      70             (1, 1, 1)                 BOV x 1",
    "2    1   2      BOV            (2, 2, 2)  0:0                            1",
    "3    1   3      vision_target  (3, 3, 3)  0:1    [4, 5)  NEXT_FRAME x 1  1",
    "4    1   4      vision_target  (4, 3, 3)  0:2            EOV x 1",
    "5    1   5      EOV            (5, 5, 5)",
    "... 3 positions of padding",
  ]
