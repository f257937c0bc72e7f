"""What differs between two configs is told by the key, however deep it lies."""

import pytest

from ernie_jax.train.stage_io import first_difference

OLD = {"steps": 5, "worlds": [{"side": 32}, {"side": 32, "weight": 1.0}], "members": ["2x2x2"]}


@pytest.mark.parametrize(
  ("new", "told"),
  [
    (OLD, ""),
    (OLD | {"steps": 6}, "config.steps was 5, is 6"),
    (
      OLD | {"worlds": [{"side": 32}, {"side": 32, "weight": 0.5}]},
      "config.worlds[1].weight was 1.0, is 0.5",
    ),
    (
      OLD | {"worlds": [{"side": 32}, {"side": 32}]},  # a key less
      f"config.worlds was {OLD['worlds']}, is [{{'side': 32}}, {{'side': 32}}]",
    ),
    (OLD | {"worlds": [{"side": 32}]}, "config.worlds had 2 entries, has 1"),
    (OLD | {"members": []}, "config.members was ['2x2x2'], is []"),
    (OLD | {"members": "2x2x2"}, "config.members was ['2x2x2'], is '2x2x2'"),
    (OLD | {"worlds": {}}, "config.worlds was [{'side': 32}, {'side': 32, 'weight': 1.0}], is {}"),
  ],
)
def test_the_first_key_that_differs_is_named(new, told):
  assert first_difference(OLD, new, "config") == told


def test_a_free_key_may_differ():
  assert not first_difference(OLD, OLD | {"steps": 7}, "config", ("steps",))
