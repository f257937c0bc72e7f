"""A run written by hand: configs, metrics and evaluations of known numbers; and a reader of pages."""

import html.parser
import json
import pathlib

from ernie_jax import config as config_lib
from ernie_jax.backbone.config import ModelConfig
from ernie_jax.elastic.family import ElasticConfig

_VOID = {"meta", "link", "br", "img"}
FULL, SMALL = "2x4x2", "1x2x1"
MODEL = ModelConfig(
  vocab_size=640, depth=2, width=16, heads=2, kv_heads=1, head_dim=8, experts=4, top_k=2,
  expert_width=8, shared_width=8,
)  # fmt: skip
CONFIG = {
  "name": "by <hand>",
  "model": config_lib.to_dict(MODEL),
  "elastic": config_lib.to_dict(ElasticConfig(members=(SMALL,))),
  "data": {
    "row_length": 64,
    "rows_per_batch": 2,
    "sources": [{"path": "books & letters"}],
    "media": {"worlds": [{"scene": {"frames": 9}, "train": 1234}]},
  },
  "train": {"steps": 5},
}
FAMILY = {
  "members": [
    {"name": FULL, "loss": 2.1357, "bits_per_byte": 1.0246, "decode_tokens_per_s": 500.0},
    {"name": SMALL, "loss": 2.9753, "bits_per_byte": 1.4683, "decode_tokens_per_s": 800.0},
  ],
  "baselines": {"xz_bits_per_byte": 1.3502, "bigram_bits_per_byte": 1.7284},
  "media": [{"name": FULL, "params_active": 7, "text": 0.1699, "bits": 0.0899}],
}
VISION = {
  "scores": {
    "validation": {
      "text -> picture": {
        "all_correct": {
          FULL: 0.4023,
          SMALL: 0.2011,
          "floor": 0.0312,
          "rebuilt": 0.9726,
          "truth": 1.0,
        },
        "shape": {FULL: 0.5507, "floor": 0.2070},
      },
      "text -> video": {"objects_and_direction": {FULL: 0.3125, "floor": 0.0, "static": 0.2792}},
    },
    "held_out": {"text -> picture": {"all_correct": {FULL: 0.2812, "floor": 0.0156}}},
  },
  "columns": [FULL, SMALL, "floor", "static", "rebuilt", "truth"],
  "per_second": {FULL: {"text -> picture": 87.65}},
  "prompts": 256,
  "step": 5,
}
SPEECH = {
  "scores": {
    "unseen_speakers": {"text -> speech": {"word_error": {FULL: 0.0519, "floor": 1.1246}}},
    "odd_<split>": {"picture + spoken question -> answer": {"right": {FULL: 0.6789}}},
  },
  "columns": [FULL, "floor"],
  "per_second": {},
  "streaming": {FULL: {"first_ms": 41.2, "stall_ms": 3.0, "real_time_factor": 0.35}},
  "prompts": 128,
}
CODEC = {
  "step": 20,
  "validation": {"mel": 3.4902, "oracle": {"word_error": 0.0123}, "floor": {"word_error": 1.05}},
}
METRICS = [
  {
    "step": step,
    "loss": 7.0 - step,
    "loss/text": 6.5 - step,
    "loss/bits": 0.5 / step,
    "rescaled/text": 1.0,
    "rescaled/bits": 0.9123,
    "held_out/loss": 6.6 - step,
    "learning_rate": 1e-3,
    "microbatches": 2,
    "tokens_per_second": 1000.0,
  }
  for step in range(1, 6)
]


def write_stage(folder: pathlib.Path, config, metrics=(), **results) -> pathlib.Path:
  """A stage's folder with a config, metrics and JSON files by name."""
  folder.mkdir(parents=True)
  (folder / "config.json").write_text(json.dumps(config))
  for name, values in results.items():
    (folder / f"{name}.json").write_text(json.dumps(values))
  if metrics:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
  return folder


class Checker(html.parser.HTMLParser):
  """Follows tags and keeps what they refer to; anything that is not closed in order fails."""

  def __init__(self):
    super().__init__()
    self.open, self.names, self.links, self.text, self.tags = [], set(), [], [], []

  def handle_starttag(self, tag, attributes):
    values = dict(attributes)
    assert len(values) == len(attributes)
    self.tags.append((tag, values))
    self.links += [values[key] for key in ("src", "href") if key in values]
    if "id" in values:
      assert values["id"] not in self.names
      self.names.add(values["id"])
    if tag not in _VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text.append(data)


def parsed(page: str) -> Checker:
  """A page that is well-formed, and refers to nothing but itself."""
  checker = Checker()
  checker.feed(page)
  checker.close()
  assert not checker.open
  for link in checker.links:
    assert link.startswith("data:") or (link[0] == "#" and link[1:] in checker.names), link[:80]
  for tag, values in checker.tags:
    assert tag != "img" or values["alt"]
    assert tag not in ("script", "iframe", "object")
  return checker
