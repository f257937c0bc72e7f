"""Rules that hold for every row, over random multimodal examples.

The visibility rule is stated here once more from the parts alone: `places` writes down by plain loops
what stands where, and `may_see` decides a pair in the words of the report. Neither knows of groups or
intervals, which is what makes them worth comparing with.
"""

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_jax.sequence import (
  Audio,
  ContextMedia,
  Kind,
  LayoutOptions,
  Row,
  Text,
  VisionTarget,
  Voice,
  empty_row,
  lay_out,
  pack,
  visible,
  visible_reference,
)

check = settings(deadline=None, max_examples=40)


@dataclasses.dataclass(frozen=True)
class Place:
  """What stands at a position: the `what` of part number `part`, and where in it."""

  part: int
  what: str  # text, open, context, scale, sum, audio, close
  frame: int = 0
  scale: int = 0
  cell: int = 0


def places(parts) -> list[Place]:
  """The example written out, position by position."""
  result = []
  for p, part in enumerate(parts):
    if isinstance(part, Text):
      result += [Place(p, "text") for _ in part.tokens]
      continue
    if isinstance(part, Voice):
      result.append(Place(p, "voice"))
      continue
    result.append(Place(p, "open"))
    for frame in range(part.frames):
      if isinstance(part, Audio):
        result.append(Place(p, "audio", frame))
      elif isinstance(part, ContextMedia):
        cells = range(part.grid[0] * part.grid[1])
        result += [Place(p, "context", frame, cell=cell) for cell in cells]
      else:
        for scale, (h, w) in enumerate(part.scales[1:], start=1):
          result += [Place(p, "scale", frame, scale, cell) for cell in range(h * w)]
        result.append(Place(p, "sum", frame))
    result.append(Place(p, "close"))
  return result


def may_see(parts, written, query: int, key: int) -> bool:
  """Whether position `query` of an example may attend to `key`, decided from what they are."""
  q, k = written[query], written[key]
  part = parts[k.part]
  inside_target = q.part == k.part and q.what in ("scale", "sum") and k.what in ("scale", "sum")
  # A frame is hidden from frames beyond the window, and from all later ones when it was dropped.
  if inside_target and q.frame > k.frame:
    if part.window is not None and k.frame < q.frame - part.window:
      return False
    if k.frame in part.dropped:
      return False
  # All tokens of one scale of one frame are predicted together, and see each other.
  if q.what == k.what == "scale" and (q.part, q.frame, q.scale) == (k.part, k.frame, k.scale):
    return True
  # A frame to be understood is seen whole.
  if q.what == k.what == "context" and (q.part, q.frame) == (k.part, k.frame):
    return True
  # Everything else is causal.
  return key <= query


sides = st.integers(1, 3)


@st.composite
def vision_targets(draw) -> VisionTarget:
  frames = draw(st.integers(1, 4))
  scales = [(1, 1)]
  for _ in range(draw(st.integers(0, 2))):
    scales.append(tuple(side + draw(st.integers(0, 1)) for side in scales[-1]))
  return VisionTarget(
    slot=draw(st.integers(0, 3)),
    frames=frames,
    scales=tuple(scales),
    given=draw(st.integers(0, frames)),
    window=draw(st.none() | st.integers(0, 3)),
    dropped=tuple(draw(st.sets(st.integers(0, frames - 1)))),
  )


part_strategy = st.one_of(
  st.builds(Text, st.lists(st.integers(64, 99), max_size=4).map(tuple), st.booleans()),
  st.builds(ContextMedia, st.integers(0, 3), st.integers(1, 3), st.tuples(sides, sides)),
  st.builds(Audio, st.integers(0, 3), st.integers(1, 4), st.booleans()),
  st.builds(Voice),
  vision_targets(),
)
part_lists = st.lists(part_strategy, min_size=1, max_size=4)
option_strategy = st.builds(
  LayoutOptions,
  st.sampled_from(["unit", "resized"]),
  st.sampled_from(["inverse_sqrt_area", "uniform"]),
)


@check
@given(st.lists(part_lists, min_size=1, max_size=3), st.integers(0, 5))
def test_a_packed_row_shows_exactly_what_the_parts_allow(examples, spare):
  rows = [lay_out(parts) for parts in examples]
  length = sum(row.length for row in rows) + spare
  expected, start = np.zeros((length, length), bool), 0
  for parts in examples:
    written = places(parts)
    for q in range(len(written)):
      for k in range(len(written)):
        expected[start + q, start + k] = may_see(parts, written, q, k)
    start += len(written)
  packed = pack(rows, length)
  np.testing.assert_array_equal(visible(packed), expected)
  np.testing.assert_array_equal(visible_reference(packed), expected)


@check
@given(st.integers(0, 2**32 - 1))
def test_the_fast_rule_is_the_slow_rule_on_any_fields_and_in_batches(seed):
  rng = np.random.default_rng(seed)
  length = 12
  rows = [
    empty_row(length).replace(
      example=np.sort(rng.integers(0, 3, length)),
      group=np.sort(rng.integers(0, 6, length)),
      hidden_from=rng.integers(0, length, length),
      hidden_to=rng.integers(0, length + 1, length),
    )
    for _ in range(2)
  ]
  names = [field.name for field in dataclasses.fields(Row)]
  batch = Row(**{name: np.stack([getattr(row, name) for row in rows]) for name in names})
  expected = np.stack([visible_reference(row) for row in rows])
  np.testing.assert_array_equal(visible(batch), expected)


@check
@given(st.lists(part_lists, min_size=1, max_size=3), st.integers(0, 5))
def test_an_example_is_the_same_packed_as_alone(examples, spare):
  rows = [lay_out(parts) for parts in examples]
  length = sum(row.length for row in rows) + spare
  packed, start = pack(rows, length), 0
  seen = visible(packed)
  for number, row in enumerate(rows, start=1):
    here = slice(start, start + row.length)
    np.testing.assert_array_equal(seen[here, here], visible(row))
    assert seen[here].sum() == visible(row).sum(), "a query sees beyond its example"
    assert seen[:, here].sum() == visible(row).sum(), "a key is seen beyond its example"
    assert (packed.example[here] == number).all()
    for name in ("kind", "token", "position", "media_slot", "media_element"):
      np.testing.assert_array_equal(getattr(packed, name)[here], getattr(row, name))
    for name in ("target", "text_weight", "media_weight"):
      np.testing.assert_array_equal(getattr(packed, name)[here], getattr(row, name))
    assert packed.text_weight[here][-1:].sum() == 0, "the last position learns the next example"
    start += row.length
  assert (packed.kind[start:] == Kind.PAD).all() and not packed.example[start:].any()
  assert not packed.text_weight[start:].any() and not packed.media_weight[start:].any()
  assert (np.diff(packed.group) >= 0).all()
  empty = empty_row(length)
  for name in [field.name for field in dataclasses.fields(Row)]:
    assert getattr(packed, name).dtype == getattr(empty, name).dtype, name


@check
@given(part_lists)
def test_groups_are_what_is_predicted_at_once(parts):
  row, written = lay_out(parts), places(parts)
  assert row.length == len(written) == sum(part.length for part in parts)
  together = lambda a, b: (
    a.what in ("scale", "context")
    and dataclasses.replace(a, cell=0) == dataclasses.replace(b, cell=0)
  )
  expected = [0] * len(written)
  for i in range(1, len(written)):
    expected[i] = expected[i - 1] + (not together(written[i], written[i - 1]))
  np.testing.assert_array_equal(row.group, expected)


@check
@given(part_lists)
def test_every_element_is_predicted_exactly_once_and_at_its_own_place(parts):
  row, written = lay_out(parts), places(parts)
  for p, part in enumerate(parts):
    if not isinstance(part, VisionTarget | Audio):
      continue
    audio = isinstance(part, Audio)
    count = part.frames + 1 if audio else part.frames * part.elements_per_frame
    here = [i for i, place in enumerate(written) if place.part == p and place.what != "close"]
    assert (row.media_slot[here] == part.slot).all()
    elements = list(row.media_element[here])
    if not audio:
      assert elements.pop() == count, "the last sum names its input"
    assert sorted(elements) == list(range(count))
    if audio:
      continue
    for i in here:
      place = written[i]
      if place.what == "scale":
        before = sum(part.areas[: place.scale]) + place.frame * part.elements_per_frame
        assert row.media_element[i] == before + place.cell
      elif place.what == "sum":
        assert row.media_element[i] == (place.frame + 1) * part.elements_per_frame
    blocks = [
      (place.frame, place.scale) for place in written if place.what == "scale" and place.part == p
    ]
    for frame in range(part.frames):
      for scale in range(1, len(part.scales)):
        assert blocks.count((frame, scale)) == part.areas[scale], "inputs are as many as targets"


@check
@given(part_lists, option_strategy)
def test_the_weights_of_a_part_average_one_over_what_is_learnt(parts, options):
  row, written = lay_out(parts, options=options), places(parts)
  for p, part in enumerate(parts):
    weight = row.media_weight[[i for i, place in enumerate(written) if place.part == p]]
    if isinstance(part, VisionTarget):
      learnt = (part.frames - part.given) * part.elements_per_frame
      np.testing.assert_allclose(weight.sum(), learnt, rtol=1e-5)
      assert np.count_nonzero(weight) == learnt
    elif isinstance(part, Audio):
      assert weight.sum() == (part.frames + 1) * part.learn
    else:
      assert not weight.any()


@check
@given(part_lists)
def test_text_is_learnt_once_wherever_its_part_says_so(parts):
  row, written = lay_out(parts), places(parts)
  expected = {}
  for i, place in enumerate(written):
    part, before = parts[place.part], written[i - 1].what if i else None
    if place.what == "close" and isinstance(part, VisionTarget) and part.given < part.frames:
      expected[i - 1] = row.token[i]
    if place.what == "sum" and part.given <= place.frame + 1 < part.frames:
      expected[i] = 8  # the next frame
    if place.what == "text" and part.learn and before is not None:
      expected[i - 1] = row.token[i]
    if place.what == "open" and before is not None:
      generated = getattr(part, "learn", False) or getattr(part, "given", 1) == 0
      if generated:
        expected[i - 1] = row.token[i]
  found = {int(i): int(row.target[i]) for i in np.flatnonzero(row.text_weight)}
  assert found == {i: int(token) for i, token in expected.items()}
  assert not row.target[row.text_weight == 0].any()


@check
@given(part_lists, option_strategy)
def test_text_and_audio_go_on_after_the_largest_coordinate(parts, options):
  row, written = lay_out(parts, options=options), places(parts)
  largest = -1.0
  for i, place in enumerate(written):
    if place.what in ("text", "open", "close", "audio"):
      np.testing.assert_array_equal(row.position[i], [largest + 1] * 3)
    largest = max(largest, row.position[i].max())


@check
@given(part_lists, option_strategy)
def test_the_scales_of_a_frame_share_one_centre(parts, options):
  row, written = lay_out(parts, options=options), places(parts)
  for p, part in enumerate(parts):
    if not isinstance(part, VisionTarget):
      continue
    opening = written.index(Place(p, "open"))
    base = row.position[opening, 0] + 1
    centre = base + (np.array(part.scales[-1]) - 1) / 2
    for frame in range(part.frames):
      for scale in range(len(part.scales)):
        here = [
          i
          for i, place in enumerate(written)
          if place.part == p
          and place.frame == frame
          and place.what == ("scale" if scale else "sum")
          and place.scale == scale
        ]
        times, plane = row.position[here, 0], row.position[here, 1:]
        assert (times == base + frame).all()
        np.testing.assert_allclose(plane.mean(axis=0), centre, atol=1e-4)
        ratio = np.array(part.scales[-1]) / part.scales[scale]
        step = ratio if options.coordinates == "resized" else np.ones(2)
        extent = step * (np.array(part.scales[scale]) - 1)
        np.testing.assert_allclose(np.ptp(plane, axis=0), extent, atol=1e-4)
        if scale == len(part.scales) - 1:
          np.testing.assert_array_equal(plane.min(axis=0), [base, base])
