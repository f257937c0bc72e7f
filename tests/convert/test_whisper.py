"""Whisper's encoder: what transformers hears in a sound, and one line for a checkpoint that is none."""

import jax
import numpy as np
import pytest

from ernie_jax.audio.whisper import WhisperConfig, WhisperEncoder, listen, log_mel
from ernie_jax.convert import files
from ernie_jax.convert.__main__ import export_checkpoint, import_checkpoint
from ernie_jax.convert.whisper import from_hf, read_whisper, slots, tree_shapes
from ernie_jax.errors import UserError
from ernie_jax.train.encoder_io import load_encoder

ENCODER = WhisperConfig(bands=8, depth=2, width=12, heads=3, mlp_width=20, positions=50)
SIZES = dict(
  num_mel_bins=8, d_model=12, encoder_layers=2, encoder_attention_heads=3, encoder_ffn_dim=20,
  max_source_positions=50,
)  # fmt: skip
DECODER = dict(
  decoder_layers=1, decoder_attention_heads=1, decoder_ffn_dim=4, vocab_size=30, pad_token_id=1,
  bos_token_id=1, eos_token_id=1, decoder_start_token_id=1, max_target_positions=4,
)  # fmt: skip


def sound(seconds=1.0, seed=0):
  """A gliding tone in a little noise."""
  t = np.arange(int(16_000 * seconds)) / 16_000
  noise = np.random.default_rng(seed).normal(size=len(t))
  return (0.3 * np.sin(2 * np.pi * (200 + 300 * t) * t) + 0.01 * noise).astype(np.float32)


def disk_tensors(prefix="model.encoder."):
  """Random tensors as a checkpoint holds them."""
  rng, tree = np.random.default_rng(0), tree_shapes(ENCODER)
  found = {}
  for slot in slots(ENCODER, prefix):
    leaf = tree
    for key in slot.path:
      leaf = leaf[key]
    shape = slot.disk_shape(leaf.shape[len(slot.index) :])
    found[slot.name] = rng.normal(size=shape).astype(np.float32)
  return found


def write(directory, tensors, **changes):
  directory.mkdir()
  files.write_tensors(directory, tensors)
  files.write_json(directory / "config.json", {"model_type": "whisper"} | SIZES | changes)
  return directory


@pytest.mark.parametrize("bands", [80, 128])
def test_the_log_mel_is_that_of_transformers(bands):
  transformers = pytest.importorskip("transformers")
  extract = transformers.WhisperFeatureExtractor(feature_size=bands, chunk_length=2)
  wave = np.stack([sound(2.0), 0.01 * sound(2.0, seed=1)])
  theirs = extract(list(wave), sampling_rate=16_000, return_tensors="np")["input_features"]
  ours = log_mel(wave, bands)
  assert np.ptp(theirs) > 1
  np.testing.assert_allclose(ours, theirs.transpose(0, 2, 1), atol=2e-3)


@pytest.mark.parametrize("kind", ["WhisperForConditionalGeneration", "WhisperModel"])
def test_features_are_those_of_transformers(kind, tmp_path):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  import vit_twin as twin

  model = twin.scatter(getattr(transformers, kind)(transformers.WhisperConfig(**SIZES, **DECODER)))
  model.save_pretrained(tmp_path / "hf", max_shard_size="3KB")
  import_checkpoint(tmp_path / "hf", tmp_path / "work")
  saved = load_encoder(tmp_path / "work", "whisper")
  assert saved.config == ENCODER
  mel = np.random.default_rng(1).normal(size=(2, 100, 8)).astype(np.float32)
  with torch.no_grad():
    expected = model.get_encoder()(torch.from_numpy(mel.transpose(0, 2, 1).copy()))
  with jax.default_matmul_precision("highest"):
    ours = WhisperEncoder(saved.config).apply({"params": saved.params}, mel)
  theirs = expected.last_hidden_state.numpy()
  assert np.abs(theirs).max() > 0.5
  np.testing.assert_allclose(ours, theirs, atol=3e-5)


def test_a_short_sound_is_heard_alone_or_followed_by_silence():
  params = from_hf({"model_type": "whisper"} | SIZES, disk_tensors())
  wave = sound(0.48)[None]
  alone, padded = listen(ENCODER, params, wave, 0.0), listen(ENCODER, params, wave, 0.96)
  assert alone.shape == padded.shape == (1, 24, 12)
  assert np.abs(np.asarray(alone - padded)).max() > 1e-3
  longer = np.pad(wave, ((0, 0), (0, 24 * 320)))
  np.testing.assert_allclose(padded, listen(ENCODER, params, longer, 0.0)[:, :24], atol=1e-5)
  np.testing.assert_array_equal(listen(ENCODER, params, wave, 30.0).shape, alone.shape)


@pytest.mark.parametrize("samples", [319, 51 * 320])
def test_a_sound_that_does_not_fit_is_refused(samples):
  with pytest.raises(ValueError, match="320n <= 16000"):
    listen(ENCODER, {}, np.zeros((1, samples), np.float32), 0.0)


@pytest.mark.parametrize("prefix", ["model.encoder.", "encoder.", ""])
def test_every_element_but_the_keys_bias_has_exactly_one_tensor(prefix):
  tensors = disk_tensors(prefix)
  params = from_hf({"model_type": "whisper"} | SIZES, tensors)
  zero = {
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    if not np.all(leaf)
  }
  assert zero == {"blocks/attention/key/bias"}
  assert sum(t.size for t in tensors.values()) + 2 * 12 == sum(
    x.size for x in jax.tree.leaves(params)
  )


def test_the_decoder_is_passed_over_and_nothing_goes_out(tmp_path):
  other = {"model.decoder.layer_norm.weight": np.ones(12, np.float32)}
  import_checkpoint(write(tmp_path / "hf", disk_tensors() | other), tmp_path / "work")
  with pytest.raises(UserError, match=r"to-hf: .* holds a Whisper encoder"):
    export_checkpoint(tmp_path / "work", tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_published_defaults_stand_for_absent_keys():
  tiny = WhisperConfig()
  assert read_whisper({}, {slot.name for slot in slots(tiny, "encoder.")}) == tiny


@pytest.mark.parametrize(
  ("config", "named"),
  [
    ({"d_model": 0}, "d_model must be"),
    ({"encoder_attention_heads": 5}, "heads"),
    ({"activation_function": "swish"}, "activation_function is 'swish'"),
    ({"activation_function": ["gelu"]}, r"activation_function is \['gelu'\]"),
    ({"encoder_layers": 3}, r"no tensor model\.encoder\.layers\.2"),
    ({"encoder_layers": 1}, r"unexpected tensor model\.encoder\.layers\.1"),
    ({"num_mel_bins": 9}, r"conv1\.weight has shape"),
  ],
)
def test_a_bad_checkpoint_is_one_line_naming_what_is_wrong_and_leaves_nothing(
  config, named, tmp_path
):
  directory = write(tmp_path / "hf", disk_tensors(), **config)
  with pytest.raises(UserError, match=named) as error:
    import_checkpoint(directory, tmp_path / "work")
  assert "\n" not in str(error.value)
  assert [p.name for p in tmp_path.iterdir()] == ["hf"]
