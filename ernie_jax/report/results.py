"""What models reached: every direction with its floor and ceilings, the family, the tokenizers, the routing.

All numbers are those of the JSON files that evaluations wrote.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ernie_jax.evaluate.judged import FLOOR
from ernie_jax.evaluate.speech_prompts import SPLITS as SPEECH_SPLITS
from ernie_jax.evaluate.vision_prompts import SPLITS as VISION_SPLITS
from ernie_jax.report import numbers
from ernie_jax.report.document import Section, Table, Text, tidy
from ernie_jax.report.media import picture_of
from ernie_jax.report.runs import Run, StageRun

CEILINGS = ("rebuilt", "truth")
_MEMBER = re.compile(r"\d+x\d+x\d+")
_LOWER = ("error", "off", "median")  # last words of attributes that are errors
_SPLITS = {"vision": VISION_SPLITS, "speech": SPEECH_SPLITS}
_ABOUT = (
  "Floor: outputs judged by other prompts, questions by the most frequent answer, text by a token bigram. Beside it"
  " stand controls and baselines. Ceilings: the truth through the tokenizer (rebuilt) and the truth itself, as the same program"
  " judges them. ↓: lower is better. Samples: of each direction and split."
)


def directions(run: Run) -> Section | None:
  """One line for each direction and split, by its headline; and how to make what is missing."""
  return tidy("What it does", *missing(run), *_per_model(run, _directions))


def details(run: Run) -> Section | None:
  """Every attribute of every direction."""
  return tidy("All scores", *_per_model(run, _details), folded=True)


def family(run: Run) -> Section | None:
  """The members: sizes, losses, scores and speed."""
  return tidy("The family", *_per_model(run, _family))


def tokenizers(run: Run) -> Section | None:
  """How well the tokenizers rebuild what is held out, with the sheets that they left, and what the encoder names."""
  parts = []
  for stage in run.stages:
    found = stage.results.get("report", {})
    splits = {k: v for k, v in found.items() if isinstance(v, dict) and "oracle" in v}
    splits = {stage.name: found} if "oracle" in found else splits
    for split, values in splits.items():
      title = stage.name if split == stage.name else f"{stage.name}, {split.replace('_', ' ')}"
      parts.append(tidy(title, _rebuilt(values)))
    if splits:
      parts.append(
        picture_of(stage.workdir / "report.png", f"Held-out examples rebuilt by {stage.name}")
      )
    named = {k: v for k, v in found.items() if isinstance(v, dict) and "nothing" in v}
    if named:
      parts.append(tidy(stage.name, _named(named)))
  return tidy("Tokenizers and encoders", *parts, folded=True)


def missing(run: Run) -> list[Text]:
  """For each model that lacks evaluations or the study of its routing, a line with the command that makes them."""
  lines = []
  for stage in run.models:
    data = stage.config.get("data")
    if data is None:  # imported: there is nothing of ours to score it on
      continue
    worlds = {part: data.get(part, {}).get("worlds") for part in ("media", "speech")}
    wanted = {"family": True, "vision": worlds["media"], "speech": worlds["speech"]}
    lacking = [f"{name}.json" for name, has in wanted.items() if has and name not in stage.results]
    if lacking:
      command = f"python -m ernie_jax.evaluate --workdir={stage.workdir}"
      lines.append(
        Text(f"{stage.name} has no {' and no '.join(lacking)} yet; to make them:", command)
      )
    model = stage.config.get("model", {})
    routed = model.get("depth", 0) > model.get("dense_layers", 0)
    if routed and any(worlds.values()) and "routing" not in stage.results:
      command = f"python -m ernie_jax.analysis.routing --workdir={stage.workdir}"
      lines.append(Text(f"{stage.name} has no routing.json yet; to make it:", command))
  return lines


def label(attribute: str) -> str:
  """An attribute for people, with an arrow where less is better."""
  words = re.split(r"[ _]", attribute)
  return " ".join(words) + (" ↓" if words[-1] in _LOWER else "")


def arrowed(task: str) -> str:
  """A direction with an arrow that stays whole at the end of a line."""
  return task.replace("->", "→")


def _per_model(run: Run, make) -> Iterator[Any]:
  """The parts of every model; under its name where there are several."""
  for stage in run.models:
    parts = list(make(stage))
    yield from parts if len(run.models) == 1 else [tidy(stage.name, *parts)]


def _members(stage: StageRun) -> list[str]:
  """All evaluated members, the full one first."""
  names = [m["name"] for part in _losses(stage).values() for m in part]
  names += [c for found in stage.judged.values() for c in found["columns"] if _MEMBER.fullmatch(c)]
  return list(dict.fromkeys(names))


def _losses(stage: StageRun) -> dict[str, list[Mapping[str, Any]]]:
  """The members of family.json by what was held out."""
  found = stage.results.get("family", {})
  parts = {kind: found.get(key) for kind, key in _KINDS.items()}
  return {kind: members for kind, members in parts.items() if members}


_KINDS = {"text": "members", "media": "media", "speech": "speech"}


def _directions(stage: StageRun) -> Iterator[Table]:
  members = _members(stage)
  rows = [*_text_row(stage, members)]
  for name, found in stage.judged.items():
    for task in dict.fromkeys(t for tasks in found["scores"].values() for t in tasks):
      for split, tasks in found["scores"].items():
        if attributes := tasks.get(task):
          attribute, values = next(iter(attributes.items()))
          words = (arrowed(task), label(attribute), _split(name, split))
          own = [numbers.score(values.get(m)) for m in members]
          floor, ceilings = values.get(FLOOR), [numbers.score(values.get(c)) for c in CEILINGS]
          beside = (numbers.score(floor), _controls(values), *ceilings)
          rows.append((*words, *own, *beside, numbers.count(found.get("prompts"))))
  if rows:
    head = ("direction", "measure", "split", *_full_first(members), FLOOR, "beside it")
    yield Table((*head, *CEILINGS, "samples"), tuple(rows), left=3, note=_ABOUT).compact()


def _text_row(stage: StageRun, members: list[str]) -> Iterator[tuple[str, ...]]:
  """Bits per byte of held-out text, beside what they must beat."""
  found = {m["name"]: m.get("bits_per_byte") for m in _losses(stage).get("text", ())}
  if not found:
    return
  known = stage.results["family"].get("baselines", {})
  bigram, xz = (known.get(f"{name}_bits_per_byte") for name in ("bigram", "xz"))
  scores = (numbers.score(found.get(m)) for m in members)
  yield (
    arrowed("text -> text"),
    "bits per byte ↓",
    "held-out text",
    *scores,
    "" if bigram is None else f"{bigram:.3f} (token bigram)",
    "" if xz is None else f"xz -9e {xz:.3f}",
    "",
    "",
    "",
  )


def _controls(values: Mapping[str, float]) -> str:
  """Columns that are neither members, floor nor ceilings."""
  known = (FLOOR, *CEILINGS)
  names = [c for c in values if c not in known and not _MEMBER.fullmatch(c)]
  return "\n".join(f"{c} {numbers.score(values[c])}" for c in names)


def _details(stage: StageRun) -> Iterator[Section | None]:
  for name, found in stage.judged.items():
    columns = tuple(found["columns"])
    for split, tasks in found["scores"].items():
      rows = [
        (arrowed(task), label(attribute), *(numbers.score(values.get(c)) for c in columns))
        for task, attributes in tasks.items()
        for attribute, values in attributes.items()
      ]
      table = Table(("direction", "measure", *columns), tuple(rows), left=2)
      yield tidy(_split(name, split), table.compact() if rows else None)


def _split(name: str, split: str) -> str:
  return _SPLITS.get(name, {}).get(split, split.replace("_", " "))


def _full_first(members: list[str]) -> list[str]:
  return [f"{m} (full)" if i == 0 else m for i, m in enumerate(members)]


def _family(stage: StageRun) -> Iterator[Section | None]:
  members = _members(stage)
  names = _full_first(members)
  yield tidy("Sizes and held-out losses", _columns(names, _sizes(stage, members)))
  if scores := _headlines(stage, members):
    yield tidy("Headline scores, first split of each direction", _lines("direction", names, scores))
  speeds = _lines("output", names, _speeds(stage, members), note=_SPEED)
  yield tidy("Latency and speed", speeds)


_SPEED = (
  "Text: greedy decoding of one row by the sliced member. In batches: as the evaluation makes them,"
  " compilation left out. Speech, alone: one clip at a time."
)


def _sizes(stage: StageRun, members: list[str]) -> dict[str, list[str]]:
  costs = [stage.cost(m) for m in members]
  stored = {m["name"]: m for part in _losses(stage).values() for m in part}
  active = [
    c.params_active if c else stored.get(m, {}).get("params_active") for m, c in zip(members, costs)
  ]
  columns = {
    "parameters": [numbers.large(c.params_total if c else None) for c in costs],
    "active": [numbers.large(a) for a in active],
  }
  measures = {
    ("text", "loss"): "text, nats per token",
    ("text", "bits_per_byte"): "text, bits per byte",
    ("media", "text"): "text about media, nats per token",
    ("media", "bits"): "pictures and videos, nats per bit",
    ("speech", "text"): "text of speech, nats per token",
    ("speech", "codes"): "speech, nats per code",
  }
  for (kind, key), title in measures.items():
    found = {m["name"]: m.get(key) for m in _losses(stage).get(kind, ())}
    columns[title] = [numbers.loss(found.get(m)) for m in members]
  return columns


def _headlines(stage: StageRun, members: list[str]) -> dict[str, list[str]]:
  """The score of each member in each direction, where more than the full one was scored."""
  found: dict[str, list[str]] = {}
  for judged in stage.judged.values():
    for tasks in judged["scores"].values():
      for task, attributes in tasks.items():
        attribute, values = next(iter(attributes.items()), ("", {}))
        title = f"{arrowed(task)}: {label(attribute)}"
        found.setdefault(title, [numbers.score(values.get(m)) for m in members])
  return {title: cells for title, cells in found.items() if any(cells[1:])}


def _speeds(stage: StageRun, members: list[str]) -> dict[str, list[str]]:
  decoded = {m["name"]: m.get("decode_tokens_per_s") for m in _losses(stage).get("text", ())}
  columns = {
    "text, ms a token": [
      numbers.number(1000 / s if (s := decoded.get(m)) else None, ".3f") for m in members
    ]
  }
  for found in stage.judged.values():
    rates = found.get("per_second") or {}
    for task in dict.fromkeys(t for m in members for t in rates.get(m, {})):
      values = [rates.get(m, {}).get(task) for m in members]
      columns[f"{arrowed(task)}: outputs a second, in batches"] = [
        numbers.number(v, ",.1f") for v in values
      ]
    if not (streaming := found.get("streaming")):
      continue
    for key, (title, form) in _STREAMING.items():
      values = [streaming.get(m, {}).get(key) for m in members]
      columns[title] = [numbers.number(v, form) for v in values]
  return columns


_STREAMING = {
  "first_ms": ("speech alone: first sound, ms", ".0f"),
  "stall_ms": ("speech alone: longest stall, ms", ".0f"),
  "real_time_factor": ("speech alone: seconds a second of sound", ".3f"),
}


def _columns(names: list[str], columns: Mapping[str, list[str]], note: str = "") -> Table | None:
  """A table with a line for each member, of the columns that have something."""
  kept = {title: cells for title, cells in columns.items() if any(cells)}
  if not kept or not names:
    return None
  return Table(("member", *kept), tuple(zip(names, *kept.values())), note=note)


def _lines(
  what: str, names: list[str], lines: Mapping[str, list[str]], note: str = ""
) -> Table | None:
  """A table with a column for each member, as far as it has something."""
  kept = [(title, *cells) for title, cells in lines.items() if any(cells)]
  return Table((what, *names), tuple(kept), note=note).compact() if kept else None


def _named(splits: Mapping[str, Mapping[str, float]]) -> Table:
  """The share of patches that an encoder names right, by what is asked."""
  rows = [
    (label(name), *(numbers.score(values.get(name)) for values in splits.values()))
    for name in next(iter(splits.values()))
  ]
  return Table(("patches named right", *(s.replace("_", " ") for s in splits)), tuple(rows))


def _rebuilt(values: Mapping[str, Any]) -> Table | None:
  """What the judge reads in reconstructions, beside the truth, and the plain measures."""
  kinds = [name for name in ("oracle", "ceiling", "floor") if isinstance(values.get(name), dict)]
  plain = {k: v for k, v in values.items() if isinstance(v, (int, float)) and k != "step"}
  rows = [
    (label(k), f"{v:,.3f}".removesuffix(".000"), *[""] * (len(kinds) - 1)) for k, v in plain.items()
  ]
  rows += [
    (label(name), *(numbers.score(values[kind].get(name)) for kind in kinds))
    for name in values["oracle"]
  ]
  titles = {"oracle": "rebuilt", "ceiling": "truth", "floor": FLOOR}
  return Table(("measure", *(titles[kind] for kind in kinds)), tuple(rows)) if rows else None
