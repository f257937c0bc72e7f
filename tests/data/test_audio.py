"""Sound files of every kind come out as 16 kHz mono floats, or are refused in one line that names them."""

import numpy as np
import pytest
import soundfile

from ernie_jax.data import audio
from ernie_jax.data.audio import read_audio, to_float, to_int16, write_audio
from ernie_jax.errors import UserError

RATE = 16_000


def tone(rate=RATE, seconds=0.5, hz=440.0):
  return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_what_is_written_is_read_back_to_the_last_bit(tmp_path, suffix):
  path = tmp_path / "new" / f"a{suffix}"
  write_audio(path, tone())
  back = read_audio(path)
  assert back.dtype == np.float32 and np.array_equal(to_int16(back), to_int16(tone()))
  assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_sixteen_bits_survive_floats():
  every = np.arange(-32768, 32768).astype(np.int16)
  assert np.array_equal(to_int16(to_float(every)), every)
  assert to_int16(np.array([2.0, -2.0])).tolist() == [32767, -32768]


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_other_rates_are_resampled(tmp_path, rate):
  soundfile.write(tmp_path / "a.wav", tone(rate), rate)
  got = read_audio(tmp_path / "a.wav")
  assert abs(len(got) - 8000) <= 2
  inside = slice(400, 7600)
  assert np.abs(got[: len(tone())] - tone()[: len(got)])[inside].max() < 0.01


def test_what_16_khz_cannot_hold_is_removed_and_not_folded(tmp_path):
  soundfile.write(tmp_path / "a.wav", tone(48_000, hz=11_000), 48_000)
  assert np.abs(read_audio(tmp_path / "a.wav")[400:-400]).max() < 0.005


@pytest.mark.parametrize(
  "subtype, within",
  [
    ("PCM_U8", 0.01),
    ("PCM_16", 1e-4),
    ("PCM_24", 1e-6),
    ("PCM_32", 1e-6),
    ("FLOAT", 1e-7),
    ("DOUBLE", 1e-7),
  ],
)
def test_every_width_is_scaled_to_one(tmp_path, subtype, within):
  soundfile.write(tmp_path / "a.wav", tone(), RATE, subtype=subtype)
  assert np.abs(read_audio(tmp_path / "a.wav") - tone()).max() < within


def test_channels_are_averaged(tmp_path):
  soundfile.write(tmp_path / "a.wav", np.stack([tone(), 0 * tone()], -1), RATE, subtype="FLOAT")
  assert np.abs(read_audio(tmp_path / "a.wav") - tone() / 2).max() < 1e-6


def damaged(tmp_path, kind):
  path = tmp_path / "bad.wav"
  soundfile.write(path, tone(), RATE)
  if kind == "empty":
    path.write_bytes(b"")
  elif kind == "cut short":
    path.write_bytes(path.read_bytes()[:2000])
  elif kind == "not a WAV":
    path.write_bytes(b"no sound at all" * 100)
  elif kind == "no samples":
    soundfile.write(path, tone()[:0], RATE)
  elif kind == "finite":
    soundfile.write(path, np.array([0.0, np.nan]), RATE, subtype="FLOAT")
  elif kind == "rate":
    soundfile.write(path, tone(), 1000)
  elif kind == "AIFF":
    soundfile.write(path, tone(), RATE, format="AIFF")
  elif kind == "longer":
    soundfile.write(path, np.zeros(4_000 * 3601, np.int8).astype(np.int16), 4_000)
  return path


@pytest.mark.parametrize(
  "kind", ["empty", "cut short", "not a WAV", "no samples", "finite", "rate", "AIFF", "longer"]
)
def test_a_bad_file_is_refused_in_one_line_that_names_it(tmp_path, kind):
  with pytest.raises(UserError, match=kind) as e:
    read_audio(damaged(tmp_path, kind))
  assert "bad.wav" in str(e.value) and "\n" not in str(e.value)


def test_a_cut_flac_is_refused(tmp_path):
  path = tmp_path / "a.flac"
  rng = np.random.default_rng(0)
  soundfile.write(path, rng.normal(0, 0.1, 20_000), RATE)
  path.write_bytes(path.read_bytes()[:20_000])
  with pytest.raises(UserError, match=r"a\.flac"):
    read_audio(path)


@pytest.mark.parametrize("name", ["absent.wav", "a.mp3", "folder.wav"])
def test_what_is_no_file_of_sound_is_refused(tmp_path, name):
  (tmp_path / "a.mp3").write_bytes(b"x")
  (tmp_path / "folder.wav").mkdir()
  with pytest.raises(UserError, match=name):
    read_audio(tmp_path / name)


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
  write_audio(tmp_path / "a.wav", tone())

  def missing(name):
    raise ImportError(name)

  monkeypatch.setattr(audio.importlib, "import_module", missing)
  with pytest.raises(UserError, match=r"soundfile.*ernie_jax\[media\]"):
    read_audio(tmp_path / "a.wav")


def test_what_cannot_be_written_is_refused_and_the_old_file_stays(tmp_path):
  with pytest.raises(UserError, match="mp3"):
    write_audio(tmp_path / "a.mp3", tone())
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot write"):
    write_audio(tmp_path / "file" / "a.wav", tone())
  with pytest.raises(ValueError, match="floats"):
    write_audio(tmp_path / "a.wav", np.zeros((2, 3)))
  assert not (tmp_path / "a.wav").exists()
