"""Numbers as people read them; an empty text where there is none."""

import math


def count(value: float | None) -> str:
  """A number of things."""
  return "" if value is None else f"{value:,.0f}"


def large(value: float | None) -> str:
  """A number of parameters or tokens: 76,000, then 0.78 M, then 2.10 G."""
  if value is None:
    return ""
  if value >= 1e9:
    return f"{value / 1e9:.2f} G"
  return f"{value / 1e6:.2f} M" if value >= 1e5 else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
  """Seconds, or minutes, or hours and minutes."""
  if seconds is None:
    return ""
  if seconds < 120:
    return f"{seconds:.1f} s"
  if seconds < 7200:
    return f"{seconds / 60:.1f} min"
  minutes = round(seconds / 60)
  return f"{minutes // 60} h {minutes % 60:02d} min"


def number(value: float | None, form: str) -> str:
  """A finite number in a `form`."""
  return format(value, form) if value is not None and math.isfinite(value) else ""


def score(value: float | None) -> str:
  """A score, a share or an error."""
  return number(value, ".3f")


def loss(value: float | None) -> str:
  """Nats or bits."""
  return number(value, ".4f")
