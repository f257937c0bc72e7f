"""Labels beside the points of a scatter plot, none on top of another."""

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

_GAP = 7  # points (1/72 inch) from a point to a label that is next to it
_NEAR = 4  # places that need no line to the point
_LINE = 14  # points between one candidate height and the next


def place_labels(
  axes: Axes,
  x: np.ndarray,
  y: np.ndarray,
  names: Sequence[str],
  *,
  size: float,
  avoid: Sequence[Artist] = (),
) -> None:
  """Writes `names` at the points (x, y), whose axes must have their limits already.

  The lowest point chooses first. Each label takes the nearest of a ring of places that touches no other
  label, no point, nothing in `avoid` and no edge of the axes; one that is not next to its point is joined
  to it by a line.
  """
  figure = axes.get_figure()
  figure.draw_without_rendering()  # the layout decides how many pixels the axes have
  pixels = axes.transData.transform(np.column_stack([x, y]))
  inside, unit = axes.get_window_extent(), figure.dpi / 72
  taken = [Bbox.from_bounds(px - 3 * unit, py - 3 * unit, 6 * unit, 6 * unit) for px, py in pixels]
  taken += [artist.get_window_extent() for artist in avoid]
  for i in np.argsort(y, kind="stable"):
    width, height = 0.62 * size * len(names[i]), 1.1 * size
    places = [_box(pixels[i], place, width, height, unit) for place in _places(width)]
    free = [
      k
      for k, box in enumerate(places)
      if _within(box, inside) and not any(box.overlaps(other) for other in taken)
    ]
    k = free[0] if free else 0
    taken.append(places[k])
    dx, dy = _places(width)[k]
    far = k >= _NEAR
    axes.annotate(
      names[i],
      (x[i], y[i]),
      (dx, dy),
      textcoords="offset points",
      fontsize=size,
      ha="left",
      va="center",
      arrowprops={"arrowstyle": "-", "color": "gray", "lw": 0.6} if far else None,
    )


def _places(width: float) -> list[tuple[float, float]]:
  """Offsets of a label's left end and middle height from its point, in points, the best first."""
  right, left, above = _GAP, -_GAP - width, -width / 2
  near = [(right, 0), (left, 0), (above, _LINE * 0.8), (above, -_LINE * 0.8)]
  rings = [
    (side, up * step * _LINE)
    for step in range(1, 12)
    for up in (1, -1)
    for side in (right, left, 3 * right, 3 * left)
  ]
  return near + rings


def _box(pixel, place: tuple[float, float], width: float, height: float, unit: float) -> Bbox:
  left, middle = pixel[0] + place[0] * unit, pixel[1] + place[1] * unit
  return Bbox.from_bounds(left, middle - height * unit / 2, width * unit, height * unit)


def _within(box: Bbox, outer: Bbox) -> bool:
  return outer.x0 <= box.x0 and box.x1 <= outer.x1 and outer.y0 <= box.y0 and box.y1 <= outer.y1
