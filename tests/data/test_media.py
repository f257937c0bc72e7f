"""Pictures and videos in files: all kinds read as RGB, bad files are named in a line, writing is whole or not at all."""

import io

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ernie_jax.data import media
from ernie_jax.data.media import read_media, write_media
from ernie_jax.errors import UserError

OTHERS = {"mkv": ("matroska", "libx264"), "webm": ("webm", "libvpx"), "avi": ("avi", "mpeg4")}
KINDS = ("png", "jpg", "webp", "gif", "mp4", *OTHERS)
RED, WHITE = (200, 30, 30), (255, 255, 255)


def moving_square(frames, height=32, width=32):
  """A red square on light blue that moves right, except from frame 3 to 5."""
  video = np.full((frames, height, width, 3), (200, 220, 240), np.uint8)
  for t in range(frames):
    at = 3 if 3 <= t <= 5 else t
    video[t, 4:16, 4 + at : 16 + at] = RED
  return video


def encoded(kind):
  """The bytes of a good file of `kind`."""
  video = moving_square(1 if kind in ("png", "jpg", "webp") else 9)
  file = io.BytesIO()
  if kind in ("jpg", "webp"):
    Image.fromarray(video[0]).save(file, format={"jpg": "JPEG", "webp": "WEBP"}[kind])
  elif kind in OTHERS:
    with av.open(file, "w", format=OTHERS[kind][0]) as container:
      stream = container.add_stream(OTHERS[kind][1], rate=8)
      stream.height, stream.width = video.shape[1:3]
      for frame in video:
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
      container.mux(stream.encode())
  else:
    writer = {"png": media._write_png, "gif": media._write_gif, "mp4": media._write_mp4}[kind]
    writer(file, video, 8)
  return file.getvalue()


@pytest.fixture(scope="module")
def good_files():
  return {kind: encoded(kind) for kind in KINDS}


@pytest.mark.parametrize(
  "name, frames, shape",
  [("a.png", 1, (32, 32)), ("a.gif", 9, (32, 32)), ("a.mp4", 9, (32, 32)), ("a.MP4", 5, (33, 47))],
)
def test_what_is_written_is_read_with_every_frame_in_place(tmp_path, name, frames, shape):
  video = moving_square(frames, *shape)
  write_media(tmp_path / name, video)
  read = read_media(tmp_path / name)
  assert read.shape == video.shape and read.dtype == np.uint8
  error = np.abs(read.astype(int) - video).mean(axis=(1, 2, 3))
  assert error.max() <= (5 if name.lower().endswith("mp4") else 0)
  assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "LA", "PA", "RGBA", "I;16", "tRNS"])
def test_every_mode_is_read_as_rgb(tmp_path, mode):
  grey, colour = Image.new("L", (8, 8), 128), Image.new("RGB", (8, 8), RED)
  expected = {"1": WHITE, "P": RED, "RGB": RED, "CMYK": RED}.get(mode, (128, 128, 128))
  name, options = "a.png", {}
  if mode == "I;16":
    image = Image.fromarray(np.full((8, 8), 128 * 257, np.uint16))
  elif mode in ("LA", "PA", "RGBA"):
    image = colour.convert("RGBA")
    image.putalpha(Image.new("L", (8, 8), 0))  # wholly transparent: nothing but the white below
    image, expected = image.convert("P" if mode == "PA" else mode), WHITE
  elif mode == "tRNS":
    image, expected, options = grey, WHITE, {"transparency": 128}
  elif mode == "CMYK":
    image, name, options = colour.convert("CMYK"), "a.jpg", {"quality": 95}
  elif mode == "P":
    image = colour.quantize(2)
  else:
    image = {"1": Image.new("1", (8, 8), 1), "RGB": colour}.get(mode, grey)
  image.save(tmp_path / name, **options)
  read = read_media(tmp_path / name)
  assert read.shape == (1, 8, 8, 3)
  assert np.abs(read[0].astype(int) - expected).max() <= 3


def test_half_transparent_is_laid_on_white(tmp_path):
  Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(tmp_path / "a.png")
  assert np.abs(read_media(tmp_path / "a.png").astype(int) - 127).max() <= 1


def test_16_bit_greys_are_scaled_not_clipped(tmp_path):
  levels = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
  Image.fromarray(levels).save(tmp_path / "a.png")
  assert (read_media(tmp_path / "a.png")[0, ..., 0].reshape(-1) == np.arange(256)).all()


def test_a_photograph_stands_as_its_camera_says(tmp_path):
  image = Image.fromarray(moving_square(1, 24, 32)[0])
  exif = Image.Exif()
  exif[0x0112] = 6
  image.save(tmp_path / "a.png", exif=exif)
  turned = ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))
  read = read_media(tmp_path / "a.png")
  assert read.shape == (1, 32, 24, 3) and (read[0] == np.asarray(turned)).all()


def test_a_video_stands_as_its_camera_says(tmp_path, good_files):
  upright = bytes([0, 1, 0, 0]).ljust(16, b"\0") + bytes([0, 1, 0, 0]).ljust(16, b"\0")
  upright += bytes([0x40, 0, 0, 0])
  quarter = b"\0" * 4 + bytes([0, 1, 0, 0]).ljust(8, b"\0") + bytes([255, 255, 0, 0])
  quarter = quarter.ljust(32, b"\0") + bytes([0x40, 0, 0, 0])
  data = good_files["mp4"]
  track = data.index(b"tkhd")
  at = data.index(upright, track)
  (tmp_path / "a.mp4").write_bytes(data[:at] + quarter + data[at + 36 :])
  (tmp_path / "b.mp4").write_bytes(data)
  turned, plain = read_media(tmp_path / "a.mp4"), read_media(tmp_path / "b.mp4")
  assert (turned == np.rot90(plain, -1, axes=(1, 2))).all()  # clockwise


def test_a_frame_shown_longer_is_repeated(tmp_path):
  first, second = (Image.fromarray(f) for f in moving_square(2))
  for name in ("a.gif", "a.webp"):
    first.save(
      tmp_path / name, save_all=True, append_images=[second], duration=[300, 100], lossless=True
    )
    read = read_media(tmp_path / name)
    assert len(read) == 4 and (read[:3] == read[0]).all() and (read[3] != read[0]).any()


def test_frames_stride_and_side_are_what_is_asked(tmp_path):
  video = moving_square(9, 20, 40)
  write_media(tmp_path / "a.gif", video)
  assert (read_media(tmp_path / "a.gif", frames=2, every=4) == video[[0, 4]]).all()
  assert (read_media(tmp_path / "a.gif", frames=1, side=20)[0] == video[0, :, 10:30]).all()
  assert read_media(tmp_path / "a.gif", side=8).shape == (9, 8, 8, 3)
  with pytest.raises(UserError, match=r"a\.gif: has 9 frames, 13 are needed"):
    read_media(tmp_path / "a.gif", frames=13)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_videos_are_read_whole(tmp_path, good_files, kind):
  path = tmp_path / f"a.{kind}"
  path.write_bytes(good_files[kind])
  read = read_media(path).astype(int)
  assert np.abs(read - moving_square(9)).mean() <= 12  # they are compressed


@pytest.mark.parametrize("sizes", [b"\0\0\0\0", b"\xff\xff\xff\xff"])
def test_a_streamed_video_of_unknown_size_is_read(tmp_path, good_files, sizes):
  path = tmp_path / "a.avi"
  path.write_bytes(good_files["avi"][:4] + sizes + good_files["avi"][8:])
  assert len(read_media(path)) == 9
  segment = good_files["mkv"].index(b"\x18S\x80g") + 4
  path = path.with_suffix(".mkv")
  unknown = b"\x01" + b"\xff" * 7
  path.write_bytes(good_files["mkv"][:segment] + unknown + good_files["mkv"][segment + 8 :])
  assert len(read_media(path)) == 9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.8])
def test_a_file_cut_short_is_a_user_error_that_names_it(tmp_path, good_files, kind, share):
  path = tmp_path / f"cut.{kind}"
  path.write_bytes(good_files[kind][: int(len(good_files[kind]) * share)])
  with pytest.raises(UserError, match=rf"cut\.{kind}: ") as told:
    read_media(path)
  assert "\n" not in str(told.value)


def test_videos_miss_not_even_their_last_byte(tmp_path, good_files):
  for kind in ("gif", "mp4", *OTHERS):
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(good_files[kind][:-1])
    with pytest.raises(UserError, match="cut short"):
      read_media(path)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_a_damaged_file_reads_or_is_told_in_one_line(tmp_path_factory, good_files, data, kind):
  broken = bytearray(good_files[kind])
  for _ in range(3):
    broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
  path = tmp_path_factory.mktemp("damaged") / f"a.{kind}"
  path.write_bytes(broken)
  try:
    assert read_media(path).shape[-1] == 3
  except UserError as told:
    assert str(path) in str(told) and "\n" not in str(told)


@pytest.mark.parametrize(
  "name, content, told",
  [
    ("notes.txt", b"text", "not a picture or video"),
    ("none", b"text", "not a picture or video"),
    ("text.png", b"text", "not a picture"),
    ("text.mp4", b"text", "not a video"),
    ("playlist.mp4", b"#EXTM3U\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n", "not a video"),
    ("gone.png", None, "No such file"),
    ("gone.mp4", None, "No such file"),
  ],
)
def test_what_is_no_picture_or_video_is_a_user_error(tmp_path, name, content, told):
  if content is not None:
    (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=f"{name}: .*{told}"):
    read_media(tmp_path / name)


def test_a_picture_under_a_videos_name_and_the_reverse_are_user_errors(tmp_path, good_files):
  (tmp_path / "a.mp4").write_bytes(good_files["png"])
  (tmp_path / "a.png").write_bytes(good_files["mp4"])
  for name, told in (("a.mp4", "not a video"), ("a.png", "not a picture")):
    with pytest.raises(UserError, match=told):
      read_media(tmp_path / name)


@pytest.mark.parametrize(
  "name, frames, told",
  [
    ("a.png", 9, "one picture"),
    ("a.jpg", 1, "known are"),
    ("file/a.gif", 9, "cannot write .*a.gif"),
  ],
)
def test_what_cannot_be_written_is_a_user_error(tmp_path, name, frames, told):
  (tmp_path / "file").write_text("in the way")
  with pytest.raises(UserError, match=told):
    write_media(tmp_path / name, moving_square(frames))
  assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_missing_folders_are_made(tmp_path):
  write_media(tmp_path / "new" / "er" / "a.png", moving_square(1))
  assert len(read_media(tmp_path / "new" / "er" / "a.png")) == 1


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.mp4"])
def test_writing_that_is_interrupted_leaves_what_was_there(tmp_path, name, monkeypatch):
  write_media(tmp_path / name, moving_square(1))
  before = (tmp_path / name).read_bytes()

  def interrupted(file, frames, fps):
    file.write(b"half")
    raise KeyboardInterrupt

  monkeypatch.setattr(media, f"_write_{name[2:]}", interrupted)
  with pytest.raises(KeyboardInterrupt):
    write_media(tmp_path / name, moving_square(1, 16, 16))
  assert (tmp_path / name).read_bytes() == before
  assert [p.name for p in tmp_path.iterdir()] == [name]


def test_without_pyav_only_videos_are_refused(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "av", None)
  write_media(tmp_path / "a.gif", moving_square(2))
  with pytest.raises(UserError, match=r"ernie_jax\[media\]"):
    write_media(tmp_path / "a.mp4", moving_square(2))
  assert [p.name for p in tmp_path.iterdir()] == ["a.gif"]
