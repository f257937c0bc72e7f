"""The one attention rule, for hosts: a fast form and a slow, obvious twin that tests it.

Kernels apply the same rule on the device from the same fields. Padding is in no example: it sees nothing
and nothing sees it.
"""

import numpy as np
from jaxtyping import Bool

from ernie_jax.sequence.row import Row


def visible(row: Row) -> Bool[np.ndarray, "*B L L"]:
  """Which key (last axis) each query (the axis before) may attend to; batches of rows too.

  Visible(query, key) = same example, group[key] <= group[query], and query not in
  [hidden_from[key], hidden_to[key]). The groups come from next-group prediction (ERNIE 5.0, section on
  the unified objective); one interval per key is the form of FlashMask (arXiv 2410.01359).
  """
  query, key = lambda field: field[..., :, None], lambda field: field[..., None, :]
  same = (query(row.example) == key(row.example)) & (query(row.example) > 0)
  earlier = key(row.group) <= query(row.group)
  index = np.arange(row.length)[:, None]
  hidden = (index >= key(row.hidden_from)) & (index < key(row.hidden_to))
  return same & earlier & ~hidden


def visible_reference(row: Row) -> Bool[np.ndarray, "L L"]:
  """`visible` for one row, pair by pair."""
  result = np.zeros((row.length, row.length), bool)
  for query in range(row.length):
    for key in range(row.length):
      if row.example[query] == 0 or row.example[query] != row.example[key]:
        continue
      if row.group[key] > row.group[query]:
        continue
      if row.hidden_from[key] <= query < row.hidden_to[key]:
        continue
      result[query, key] = True
  return result
