"""Which experts groups of tokens choose: counted at the right places, and what is reported of it."""

import dataclasses
import itertools
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import small_speech
from absl import flags
from absl.testing import flagsaver
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import image
from matplotlib.figure import Figure
from small_family import MODELS, batch
from small_vision import CONFIG, MODEL, SLOTS, TOKENIZER, batch_of, media, row_of

from ernie_jax import config as config_lib
from ernie_jax.analysis import routing, routing_command
from ernie_jax.analysis.routing import GROUPS, HeldOutRows, count_choices, measure_routing
from ernie_jax.analysis.routing_figure import draw_overlaps, write_routing_figure
from ernie_jax.analysis.routing_report import (
  GroupRouting,
  RoutingReport,
  iou,
  iou_by_chance,
  normalised_entropy,
  top_count,
  top_experts,
)
from ernie_jax.backbone.config import ModelConfig
from ernie_jax.data.media_rows import MediaDataConfig
from ernie_jax.data.pipeline import DataConfig
from ernie_jax.data.text_files import TextSource
from ernie_jax.data.world.scene_sampling import SceneConfig
from ernie_jax.data.world.scenes import WorldSource
from ernie_jax.data.world.spoken import SpokenSource
from ernie_jax.elastic.family import ElasticConfig
from ernie_jax.errors import UserError
from ernie_jax.media import Vision
from ernie_jax.model import UnifiedModel
from ernie_jax.sequence import NO_SLOTS, Drawn, Kind, MediaRow, Seen, Text
from ernie_jax.train.model_io import SavedModel, save_model
from ernie_jax.train.pretrain import unboxed_params
from ernie_jax.vision.tokenizer import initial_params

PICTURE, VIDEO = media(0), media(1, 9)
DRAW = [Text((1, 70)), Drawn(PICTURE), Text((2,))]
FILM = [Text((1, 71)), Drawn(VIDEO), Text((2,))]
LOOK = [Text((1, 70)), Seen(PICTURE), Text((70, 2))]
WATCH = [Text((1,)), Seen(VIDEO), Text((71, 2))]
# Of the model made by hand, in each layer: experts of token 70, of token 71, and of all that is zero.
CHOSEN = (((0, 1), (2, 3), (1, 2)), ((2, 3), (0, 3), (0, 2)))


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly():
  """What runs a few times only."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


def model_of(model: ModelConfig, params, bias=None, **values) -> SavedModel:
  zeros = np.zeros((model.depth, model.experts), np.float32)
  bias = zeros if bias is None else bias
  known = {"config": {}, "tokenizer": None, "step": 3, **values}
  return SavedModel(
    model=model, elastic=ElasticConfig(), params=params, bias=bias, usage=zeros, **known
  )


def zeros_like(make):
  """Writable zeros in the shapes of what `make` would give, without running it."""
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(make))


def random_params(model: ModelConfig):
  """Parameters in which every part matters."""
  rng = np.random.default_rng(0)
  zeros = zeros_like(lambda: unboxed_params(model, jax.random.key(0)))
  return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), zeros)


@pytest.fixture(scope="module")
def by_hand() -> SavedModel:
  """All parameters 0 but for what makes tokens choose as in CHOSEN."""
  frozen = zeros_like(lambda: initial_params(TOKENIZER, jax.random.key(0)))
  vision = Vision(CONFIG, frozen)
  params = zeros_like(lambda: unboxed_params(MODEL, jax.random.key(0), vision))
  layers = params["stack"]["layers"]
  layers["mlp_norm"]["scale"][:] = 1
  bias = np.zeros((2, 4), np.float32)
  for layer, (of_70, of_71, of_zero) in enumerate(CHOSEN):
    for direction, experts in enumerate((of_70, of_71)):
      layers["moe"]["router"]["kernel"][layer, direction, experts] = 1
    bias[layer, of_zero] = 0.01
  params["embed"]["embedding"][[70, 71], [0, 1]] = 1
  return model_of(MODEL, params, bias, vision=vision)


def share(choices: list[tuple[int, ...]]) -> np.ndarray:
  """Share of tokens that activate each of four experts, from each token's choice."""
  return sum(np.isin(np.arange(4), choice) for choice in choices) / len(choices)


def test_a_router_made_by_hand_gives_exactly_its_shares(by_hand, monkeypatch):
  rows = batch_of(row_of(DRAW, LOOK), row_of(FILM), row_of(WATCH, DRAW))
  monkeypatch.setattr(routing, "held_out_rows", lambda *_, **__: (HeldOutRows(rows, 1.0),))
  report = measure_routing(by_hand)
  assert [group.name for group in report.groups] == list(GROUPS[:5])  # there is no sound
  tokens = rows.row.token[rows.row.kind == Kind.TEXT]
  which = [{70: 0, 71: 1}.get(int(token), 2) for token in tokens]
  assert which.count(0) == 4 and which.count(1) == 2
  for layer in range(2):
    wanted = share([CHOSEN[layer][kind] for kind in which])
    np.testing.assert_allclose(report.groups[0].activation[layer], wanted)
    for group in report.groups[1:]:
      np.testing.assert_allclose(group.activation[layer], share([CHOSEN[layer][2]]))
  assert report.groups[0].tokens == len(tokens)
  assert report.layers == (1, 2) and report.top_k == 2 and report.rows == 3 and report.step == 3


@pytest.mark.parametrize("kinds", [{}, {"drawn_images": 0}, {"drawn_images": 1, "seen_images": 0}])
def test_pictures_and_videos_are_told_apart_by_their_slots(kinds):
  slots = dataclasses.replace(SLOTS, **kinds)
  draws, looks = slots.drawn_images > 0, slots.seen_images > 0
  examples = [FILM, WATCH] + [DRAW] * draws + [LOOK] * looks
  rows = batch_of(row_of(*examples, slots=slots, length=240))
  groups = routing.token_groups(rows)[0]
  named = [GROUPS[g] for g, _ in itertools.groupby(groups[groups < len(GROUPS)])]
  wanted = ["text", "video generation", "text", "video understanding", "text"]
  wanted += ["image generation", "text"] * draws + ["image understanding", "text"] * looks
  assert named == wanted
  np.testing.assert_array_equal(groups == len(GROUPS) + 1, rows.row.kind[0] == Kind.PAD)
  targets = rows.row.kind[0] == Kind.VISION_TARGET
  of_video = (groups == GROUPS.index("video generation")).sum()
  assert of_video == 3 * (targets.sum() - of_video) or not draws  # three latent frames


def test_sound_is_a_group_and_voices_belong_to_none():
  rows = small_speech.batch_of(
    small_speech.row_of(small_speech.speak(0), small_speech.listen(1)),
    small_speech.row_of(small_speech.speak(2, frames=7)),
  )
  saved = model_of(small_speech.MODEL, random_params(small_speech.MODEL))
  counts = count_choices(saved, rows)
  kinds = [(rows.row.kind == kind).sum() for kind in (Kind.TEXT, Kind.AUDIO, Kind.VOICE)]
  assert counts.tokens.tolist() == [kinds[0], 0, 0, 0, 0, kinds[1], kinds[2]]
  assert counts.choices.shape == (7, 4, 4)
  wanted = np.repeat(2 * counts.tokens[:, None], 4, axis=1)  # every token chooses top-k experts
  np.testing.assert_array_equal(counts.choices.sum(-1), wanted)
  for part in (0, 5):
    assert (counts.choices[part] > 0).any(-1).all() and np.ptp(counts.choices[part]) > 0


def words(*tokens: int) -> MediaRow:
  """A row of text alone."""
  return row_of([Text(tokens)], slots=NO_SLOTS, length=16)


def test_rows_that_do_not_fill_the_last_batch_are_counted_once(by_hand, monkeypatch):
  monkeypatch.setattr(routing, "_BATCH", 2)
  rows = batch_of(words(70), words(70, 71), words(71, 71, 71), words(70), words(71))
  counts = count_choices(by_hand, rows)
  assert counts.tokens.tolist() == [8, 0, 0, 0, 0, 0, 0]
  assert counts.choices[0].tolist() == [[3, 3, 5, 5], [5, 0, 3, 8]]


def test_sources_count_as_they_weigh_in_training(by_hand, monkeypatch):
  sources = (
    HeldOutRows(batch_of(words(70, 70), words(70, 70)), 3.0),
    HeldOutRows(batch_of(words(71, 71)), 1.0),
  )
  monkeypatch.setattr(routing, "held_out_rows", lambda *_, **__: sources)
  report = measure_routing(by_hand)
  np.testing.assert_allclose(report.groups[0].activation[0], [0.75, 0.75, 0.25, 0.25])
  np.testing.assert_allclose(report.load[1], [0.125, 0, 0.375, 0.5])
  np.testing.assert_allclose(report.max_over_mean, [1.5, 2.0])
  assert report.dead == (0, 1) and report.groups[0].tokens == 6


@pytest.mark.parametrize("remat", ["none", "full"])
def test_keeping_the_choices_changes_no_output_and_agrees_with_the_load(remat):
  """Of a layer without experts, two that are scanned, and one above them."""
  model = dataclasses.replace(MODELS["dense below"], dense_layers=1, remat=remat)
  params, bias = random_params(model), np.zeros((4, 4), np.float32)
  kept = {"capture_intermediates": routing.is_router, "mutable": ["intermediates"]}
  run = lambda params, **kept: UnifiedModel(model).apply({"params": params}, batch(), bias, **kept)
  plain = jax.jit(run)(params)
  output, state = jax.jit(lambda params: run(params, **kept))(params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), output, plain)
  routes = routing.captured_routes(state["intermediates"], model)
  assert routes.experts.shape == (model.moe_layers, 3, 16, model.top_k)
  for layer in range(model.moe_layers):
    chosen = np.asarray(routes.experts[layer])[np.asarray(routes.live[layer])]
    load = np.bincount(chosen, minlength=model.experts)
    np.testing.assert_array_equal(load, plain.stats.load_all[model.dense_layers + layer])


USES = st.lists(st.integers(0, 50), min_size=2, max_size=24).filter(sum).map(np.array)


@settings(deadline=None, max_examples=60)
@given(USES, st.randoms(use_true_random=False))
def test_entropy_is_a_share_that_no_renumbering_or_scale_changes(use, random):
  value = normalised_entropy(use)
  assert 0 <= value <= 1 + 1e-12
  shuffled = use.tolist()
  random.shuffle(shuffled)
  assert normalised_entropy(np.array(shuffled) * 7.0) == pytest.approx(value)
  assert normalised_entropy(np.ones(len(use))) == pytest.approx(1)
  used = (use > 0).sum()
  assert normalised_entropy(use > 0) == pytest.approx(np.log(used) / np.log(len(use)))
  assert value <= normalised_entropy(use > 0) + 1e-12


@settings(deadline=None, max_examples=60)
@given(USES, st.integers(0, 1000))
def test_iou_of_the_top_experts(use, seed):
  other = np.random.default_rng(seed).permutation(use)
  a, b = top_experts(use), top_experts(other)
  assert a.sum() == b.sum() == top_count(len(use))
  assert use[a].min() >= use[~a].max()
  assert iou(a, a) == 1 and iou(a, b) == iou(b, a)
  union = set(np.flatnonzero(a)) | set(np.flatnonzero(b))
  shared = set(np.flatnonzero(a)) & set(np.flatnonzero(b))
  assert iou(a, b) == len(shared) / len(union)


def test_iou_by_chance_is_the_mean_over_all_pairs_of_sets():
  sets = [np.isin(np.arange(12), chosen) for chosen in itertools.combinations(range(12), 3)]
  wanted = np.mean([iou(sets[0], other) for other in sets])
  assert iou_by_chance(12) == pytest.approx(wanted)
  assert iou_by_chance(512) == pytest.approx(1 / 7, abs=1e-3)  # what the report's sizes give


def report_of(groups: int, layers: int = 5, experts: int = 16) -> RoutingReport:
  use = np.random.default_rng(0).dirichlet(np.ones(experts), (groups, layers)) * 4
  made = tuple(GroupRouting(name, 1000, a) for name, a in zip(GROUPS, use))
  load = use.mean(0) / 4
  load[1, 0] = 0
  return RoutingReport(made, load, tuple(range(2, layers + 2)), top_k=4, rows=9, step=7)


def test_tables_and_json_say_the_same():
  report = report_of(3)
  values = json.loads(json.dumps(report.to_json()))
  assert list(values["groups"]) == list(GROUPS[:3]) and values["load"]["dead"] == [0, 1, 0, 0, 0]
  assert [pair["groups"] for pair in values["iou"]] == [
    ["text", "image understanding"],
    ["text", "video understanding"],
    ["image understanding", "video understanding"],
  ]
  assert report.marked == {"first": 0, "middle": 2, "last": 4}
  lines = report.to_text().splitlines()
  text = next(line for line in lines if line.startswith("text "))
  shown = [f"{values['groups']['text']['entropy'][i]:.3f}" for i in (0, 2, 4)]
  assert text.split() == ["text", "1,000", *shown]
  pair = next(line for line in lines if line.startswith("text - video"))
  assert pair.split()[-3:] == [f"{values['iou'][1]['iou'][i]:.3f}" for i in (0, 2, 4)]
  assert "IoU" not in report_of(1).to_text()


@pytest.mark.parametrize(
  ("layers", "marked"), [(1, {"only": 0}), (2, {"first": 0, "last": 1}), (3, {"middle": 1})]
)
def test_shallow_models_show_each_layer_once(layers, marked):
  report = report_of(6, layers=max(layers, 2))
  if layers == 1:
    report = dataclasses.replace(report, layers=(2,), load=report.load[:1])
  assert marked.items() <= report.marked.items() and len(report.marked) == min(layers, 3)


def test_the_figure_has_a_row_a_group_and_no_pairs_of_one(tmp_path):
  write_routing_figure(report_of(6), tmp_path / "six.png")
  write_routing_figure(report_of(1, layers=2), tmp_path / "one.png")
  six, one = image.imread(tmp_path / "six.png"), image.imread(tmp_path / "one.png")
  assert six.shape[1] == one.shape[1] and six.shape[0] > one.shape[0] + 5 * 130
  assert one[..., :3].std() > 0.05
  with pytest.raises(UserError, match="cannot write"):
    (tmp_path / "file").write_text("")
    write_routing_figure(report_of(1), tmp_path / "file" / "a.png")


def test_labels_of_the_heat_maps_do_not_overlap():
  figure = Figure(figsize=(13, 4.6), layout="constrained")
  draw_overlaps(figure, report_of(6))
  figure.draw_without_rendering()
  for axes in figure.axes[:3]:
    labels = [t for t in (*axes.get_yticklabels(), axes.title) if t.get_text()]
    boxes = [label.get_window_extent() for label in labels]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
  names = [t.get_text() for t in figure.axes[0].get_yticklabels()]
  assert names == list(GROUPS[1:6])


@pytest.fixture(scope="module")
def workdir(corpus_dir, tokenizer, tmp_path_factory):
  """A model of text alone."""
  root = tmp_path_factory.mktemp("routing")
  data = DataConfig(
    row_length=64,
    sources=(TextSource(path=str(corpus_dir), validation_percent=20.0),),
    data_dir=str(root / "data"),
  )
  model = dataclasses.replace(MODELS["dense below"], vocab_size=tokenizer.vocab_size)
  known = {"config": {"data": config_lib.to_dict(data)}, "tokenizer": tokenizer}
  save_model(root / "run", model_of(model, random_params(model), **known))
  return root / "run"


def test_the_command_writes_tables_json_and_figure(workdir):
  command = [sys.executable, "-m", "ernie_jax.analysis.routing", f"--workdir={workdir}"]
  done = subprocess.run([*command, "--rows=5"], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  values = json.loads((workdir / "routing.json").read_text())
  assert values["rows"] == 5 and list(values["groups"]) == ["text"] and values["iou"] == []
  assert values["groups"]["text"]["tokens"] > 250
  assert values["layers"] == [3, 4]  # the two below have no experts
  np.testing.assert_allclose(np.sum(values["groups"]["text"]["activation"], -1), 2, atol=1e-4)
  assert image.imread(workdir / "routing.png").shape[1] > 1200
  assert "busiest / mean load" in done.stdout and "5 held-out rows" in done.stdout


def test_impossible_requests_are_one_line(workdir):
  flags.FLAGS.mark_as_parsed()
  with (
    flagsaver.flagsaver(workdir=str(workdir), rows=0),
    pytest.raises(UserError, match="--rows must be at least 1"),
  ):
    routing_command.main([])
  dense = ModelConfig(vocab_size=96, depth=2, dense_layers=2, dense_width=8)
  with pytest.raises(UserError, match="no layers with experts"):
    measure_routing(model_of(dense, {}))
  with pytest.raises(UserError, match="no data and no tokenizer"):
    measure_routing(model_of(MODEL, {}))


def test_rows_of_text_and_media_come_from_the_data_of_the_model(
  by_hand, corpus_dir, tokenizer, tmp_path
):
  sizes = {"train": 4, "validation": 16, "held_out": 4}
  worlds = tuple(
    WorldSource(scene=SceneConfig(max_objects=1, frames=frames), **sizes) for frames in (1, 9)
  )
  data = DataConfig(
    row_length=320,
    sources=(TextSource(path=str(corpus_dir), validation_percent=20.0, weight=2.0),),
    media=MediaDataConfig(worlds=worlds, slots=dataclasses.replace(SLOTS, side=32), weight=0.5),
    data_dir=str(tmp_path),
  )
  saved = dataclasses.replace(
    by_hand, config={"data": config_lib.to_dict(data)}, tokenizer=tokenizer
  )
  text, pictures = routing.held_out_rows(saved, rows=6)
  assert (text.weight, pictures.weight) == (2.0, 0.5)
  groups = lambda one: set(np.unique(routing.token_groups(one.rows)).tolist()) - {len(GROUPS) + 1}
  assert groups(text) == {0} and groups(pictures) == {0, 1, 2, 3, 4}
  with pytest.raises(UserError, match="no visual tokenizer"):
    routing.held_out_rows(dataclasses.replace(saved, vision=None), rows=6)
  heard = dataclasses.replace(data.media, spoken=(SpokenSource(scenes=worlds[0]),))
  values = config_lib.to_dict(dataclasses.replace(data, media=heard))
  with pytest.raises(UserError, match="no audio codec"):  # what is said about pictures needs it
    routing.held_out_rows(dataclasses.replace(saved, config={"data": values}), rows=6)
