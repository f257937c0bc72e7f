"""The user's own speech: what the lines say is what is kept, and a bad line or file is named."""

import json
import stat

import numpy as np
import pytest

from ernie_jax.data import espeak
from ernie_jax.data.audio import to_int16, write_audio
from ernie_jax.data.speech_files import SPLITS, SpeechFolder, prepare, read_lines
from ernie_jax.data.speech_records import SpeechExamples
from ernie_jax.errors import UserError


def tone(i):
  return (0.3 * np.sin(0.05 * (i + 1) * np.arange(4000))).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
  root = tmp_path / "mine"
  for i in range(6):
    write_audio(root / f"{'deep/' if i % 2 else ''}{i}.{'wav' if i < 3 else 'flac'}", tone(i))
  return root


def names(folder):
  return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*") if p.is_file())


def write_lines(folder, lines):
  (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")


def kept(folder, tmp_path, **settings):
  build = prepare(SpeechFolder(path=str(folder), **settings), tmp_path / "data")
  return {split: list(SpeechExamples(build, split)) for split in SPLITS}


def test_lines_give_transcript_speaker_and_split(folder, tmp_path):
  sides = ["train"] * 4 + ["validation"] * 2
  write_lines(
    folder,
    [
      {"file_name": n, "transcript": f"word {n}", "speaker": f"v{i % 2}", "split": s}
      for i, (n, s) in enumerate(zip(names(folder), sides))
    ],
  )
  examples = kept(folder, tmp_path)
  assert [len(examples[s]) for s in SPLITS] == [4, 2]
  for example in examples["train"] + examples["validation"]:
    number = int(example.transcript.split("/")[-1].removeprefix("word ")[0])
    assert np.array_equal(example.waveform, to_int16(tone(number)))
    assert example.speaker in ("v0", "v1")
    assert not len(example.phones) and not len(example.f0) and not example.utterance


def test_without_lines_texts_beside_the_files_are_what_is_said(folder, tmp_path):
  (folder / "0.txt").write_text(" Guten\nTag \n", encoding="utf-8")
  examples = kept(folder, tmp_path, validation_percent=30.0)
  every = examples["train"] + examples["validation"]
  assert len(every) == 6 and examples["validation"]
  assert sorted(e.transcript for e in every) == [""] * 5 + ["Guten Tag"]


def test_a_changed_file_or_line_is_another_build_and_the_same_is_not(folder, tmp_path):
  source = SpeechFolder(path=str(folder))
  first = prepare(source, tmp_path / "data")
  assert prepare(source, tmp_path / "data") == first
  write_audio(folder / "0.wav", tone(9)[:3000])
  second = prepare(source, tmp_path / "data")
  write_lines(folder, [{"file_name": n, "transcript": "new"} for n in names(folder)])
  third = prepare(source, tmp_path / "data")
  assert len({first.key, second.key, third.key}) == 3


@pytest.mark.parametrize(
  "line, message",
  [
    ("{", "line 1: not JSON"),
    ("[1]", "must be an object"),
    ('{"transcript": "a"}', "lacks file_name"),
    ('{"file_name": "0.wav", "text": "a"}', "unknown key text"),
    ('{"file_name": "0.wav", "transcript": 3}', "transcript must be text"),
    ('{"file_name": "0.wav", "split": "test"}', "split must be one of"),
    ('{"file_name": "gone.wav"}\n{"file_name": "0.wav"}', "gone.wav"),
    ('{"file_name": "0.wav"}', "no file for the validation side"),
    (
      '{"file_name": "0.wav", "split": "train"}\n{"file_name": "./0.wav", "split": "validation"}',
      r"line 2: .*0\.wav is on both sides of the split \(train: .*line 1\)",
    ),
  ],
)
def test_a_bad_line_is_named(folder, tmp_path, line, message):
  (folder / "metadata.jsonl").write_text(line + "\n")
  with pytest.raises(UserError, match=message) as e:
    kept(folder, tmp_path)
  assert "\n" not in str(e.value)


def test_a_long_or_damaged_file_is_named_and_leaves_no_build(folder, tmp_path):
  with pytest.raises(UserError, match=r"longer than max_seconds=0\.2"):
    kept(folder, tmp_path, max_seconds=0.2)
  (folder / "0.wav").write_bytes(b"RIFF")
  with pytest.raises(UserError, match=r"0\.wav"):
    kept(folder, tmp_path)


def test_a_folder_that_is_absent_or_silent_is_named(tmp_path):
  with pytest.raises(UserError, match="no such folder"):
    read_lines(SpeechFolder(path=str(tmp_path / "gone")))
  with pytest.raises(UserError, match="no WAV or FLAC"):
    read_lines(SpeechFolder(path=str(tmp_path)))


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
  """A program in the place of espeak-ng, which writes half a second, or fails for the voice "none"."""
  write_audio(tmp_path / "ready.wav", tone(0))
  program = tmp_path / "bin" / espeak.PROGRAM
  program.parent.mkdir()
  program.write_text(
    f"""#!/bin/sh
    cat > {tmp_path}/heard
    echo "$@" > {tmp_path}/options
    [ "$2" = none ] && echo "no such voice" >&2 && exit 1
    cp {tmp_path}/ready.wav "$8"
    """
  )
  program.chmod(program.stat().st_mode | stat.S_IXUSR)
  monkeypatch.setenv("PATH", str(program.parent), prepend=":")
  return tmp_path


def test_espeak_gets_the_text_and_the_voice_and_its_sound_comes_back(stand_in):
  spoken = espeak.say("--help me; rm", espeak.EspeakVoice(name="de", pitch=30, speed=200))
  assert np.array_equal(to_int16(spoken), to_int16(tone(0)))
  assert (stand_in / "heard").read_text() == "--help me; rm"
  assert (stand_in / "options").read_text().startswith("-v de -p 30 -s 200 -w ")


def test_espeak_speaks_lines_by_voices_in_turn_into_a_folder_that_can_be_read(stand_in):
  voices = [espeak.EspeakVoice(name=name) for name in ("en", "de")]
  espeak.write_speech(["one", "two", "three"], voices, stand_in / "said")
  lines = read_lines(SpeechFolder(path=str(stand_in / "said")))
  assert [line.transcript for line in lines] == ["one", "two", "three"]
  assert [line.speaker for line in lines] == ["en 50", "de 50", "en 50"]
  with pytest.raises(UserError, match="there already"):
    espeak.write_speech(["one"], voices, stand_in / "said")


def test_a_voice_that_fails_leaves_no_folder_of_speech(stand_in):
  voices = [espeak.EspeakVoice(), espeak.EspeakVoice(name="none")]
  with pytest.raises(UserError, match="voice none"):
    espeak.write_speech(["one", "two"], voices, stand_in / "said")
  assert not (stand_in / "said").exists()


def test_espeak_that_fails_is_told_in_one_line(stand_in):
  with pytest.raises(UserError, match="voice none: no such voice"):
    espeak.say("a", espeak.EspeakVoice(name="none"))


def test_espeak_that_is_not_installed_is_told(monkeypatch, tmp_path):
  monkeypatch.setenv("PATH", str(tmp_path))
  with pytest.raises(UserError, match="not installed"):
    espeak.say("a")


@pytest.mark.parametrize("key, value", [("name", "-x"), ("pitch", 100), ("speed", 3)])
def test_impossible_voices_are_refused_by_name(key, value):
  with pytest.raises(ValueError, match=key):
    espeak.EspeakVoice(**{key: value})


@pytest.mark.parametrize("key", ["max_seconds", "weight", "validation_percent"])
def test_impossible_settings_are_refused_by_name(key):
  with pytest.raises(ValueError, match=key):
    SpeechFolder(path="x", **{key: 0})
