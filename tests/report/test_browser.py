"""The report in a real browser: nothing fails to load, every picture is a picture, every sound can be played."""

import contextlib
import shutil

import numpy as np
import pytest

from ernie_jax.report.document import Document, Gallery, Sample, Section
from ernie_jax.report.html import render_html
from ernie_jax.report.media import heard, shown
from ernie_jax.report.page import write_report

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
  """A headless Chromium: Playwright's own, or one that is installed."""
  api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
  paths = [None, *filter(None, map(shutil.which, _NAMES))]
  with api.sync_playwright() as playwright:
    for path in paths:
      with contextlib.suppress(api.Error):
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()
        return
  pytest.skip(f"no Chromium can be started (looked for Playwright's and {', '.join(_NAMES)})")


@pytest.fixture
def opened(browser):
  """Opens a file and gives its page; what it complained of is checked at the end."""
  page, complaints = browser.new_page(), []
  page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
  page.on("pageerror", lambda error: complaints.append(str(error)))
  own = ("file:", "data:")
  outside = lambda asked: None if asked.url.startswith(own) else complaints.append(asked.url)
  page.on("request", outside)

  def go(path):
    page.goto(path.as_uri())
    return page

  yield go
  page.close()
  assert complaints == []


def test_a_report_of_a_pipeline(opened, pipeline):
  page = opened(write_report(pipeline))
  assert page.title() == "Report of joint"
  for folded in page.query_selector_all("details"):
    folded.evaluate("one => { one.open = true }")
  widths = page.eval_on_selector_all("img", "all => all.map(one => one.naturalWidth)")
  assert len(widths) == 5 and min(widths) > 0
  missing = "all => all.filter(one => !document.querySelector(one.getAttribute('href'))).length"
  assert page.eval_on_selector_all("nav a", missing) == 0
  page.set_viewport_size({"width": 400, "height": 800})  # wide tables scroll in their own boxes
  assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_films_and_sounds_play(opened, tmp_path):
  ramp = np.arange(3 * 48, dtype=np.uint8).reshape(3, 4, 4, 3)
  sound = heard(0.1 * np.sin(np.arange(8000, dtype=np.float32)), "a tone")
  made = (shown(ramp[:1], "a picture"), shown(ramp, "a film"), sound)
  gallery = Gallery(tuple(Sample(media, (("words", "of it"),), True) for media in made))
  path = tmp_path / "page.html"
  path.write_text(render_html(Document("media", (Section("Samples", (gallery,)),))))
  page = opened(path)
  page.wait_for_function("document.querySelector('audio').readyState > 0", timeout=10_000)
  assert page.eval_on_selector("audio", "one => one.duration") == pytest.approx(0.5)
  widths = page.eval_on_selector_all("img", "all => all.map(one => one.naturalWidth)")
  assert widths == [160, 160]
