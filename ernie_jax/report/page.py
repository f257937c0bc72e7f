"""The whole report of a run: put together, rendered twice, written.

write_report("runs/quickstart")
"""

import json
import pathlib
import shutil

from ernie_jax.errors import UserError
from ernie_jax.report import results, training
from ernie_jax.report.document import Code, Document, Section, Text, tidy
from ernie_jax.report.html import render_html
from ernie_jax.report.markdown import render_markdown
from ernie_jax.report.media import picture_of
from ernie_jax.report.routing import routing
from ernie_jax.report.runs import Run, StageRun, read_run
from ernie_jax.report.samples import SAMPLES, samples
from ernie_jax.train.model_io import load_model
from ernie_jax.whole_file import written_whole

HTML, MARKDOWN, FILES = "report.html", "report.md", "report_files"


def write_report(workdir: str | pathlib.Path, *, count: int = SAMPLES) -> pathlib.Path:
  """Writes WORKDIR/report.html, which needs no other file, and WORKDIR/report.md with WORKDIR/report_files/.

  Args:
    workdir: of a pipeline or of one stage.
    count: samples of each direction, made now by the newest checkpoint; 0: none.

  Returns:
    The path of the HTML file.

  Raises:
    UserError: there is no run, a file of it cannot be read, or nothing can be written there.
  """
  workdir = pathlib.Path(workdir)
  document = make_document(read_run(workdir), count=count)
  markdown = render_markdown(document, folder=FILES)
  with written_whole(workdir / MARKDOWN) as part:
    _write_files(workdir, markdown.files)
    part.write_text(markdown.text, encoding="utf-8")
  with written_whole(workdir / HTML) as part:
    part.write_text(render_html(document), encoding="utf-8")
  return workdir / HTML


def make_document(run: Run, *, count: int = SAMPLES) -> Document:
  """All that a run says of itself, and `count` samples of each direction."""
  parts = [
    training.trained(run),
    training.times(run),
    training.curves(run),
    results.directions(run),
    results.details(run),
    results.family(run),
    results.tokenizers(run),
    _samples(run, count),
    routing(run),
    _configs(run),
  ]
  return Document(f"Report of {run.name}", tuple(part for part in parts if part is not None))


def _samples(run: Run, count: int) -> Section | None:
  """Samples of every model that has a checkpoint; without them the sheets that its evaluation left."""
  parts = []
  for stage in run.models:
    made = samples(load_model(stage.workdir), count=count) if count and stage.step else []
    made = made or _sheets(stage)
    parts += made if len(run.models) == 1 else [tidy(stage.name, *made)]
  about = Text(
    "By the full model at its newest checkpoint, in batches as its evaluation makes them; the first prompts of each"
    " split, not chosen."
  )
  return tidy("Samples", about, *parts) if any(parts) else None


def _sheets(stage: StageRun) -> list[Section]:
  """The pictures that evaluations kept of what they judged."""
  made = []
  for name in stage.judged:
    picture = picture_of(stage.workdir / f"{name}.png", f"The evaluation's sheet: {name}")
    if part := tidy(f"the evaluation's sheet: {name}", picture, folded=True):
      made.append(part)
  return made


def _configs(run: Run) -> Section | None:
  parts = [
    Section(stage.name, (Code(json.dumps(stage.config, indent=2)),), folded=True)
    for stage in run.stages
    if stage.config
  ]
  return tidy("Config", *parts, folded=True)


def _write_files(workdir: pathlib.Path, files: dict[str, bytes]) -> None:
  """Replaces the folder of files by those of this report."""
  folder = workdir / FILES
  if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
    raise UserError(f"--workdir: {folder} is not a folder; the report's files go there")
  if folder.exists():
    shutil.rmtree(folder)
  for path, data in files.items():
    with written_whole(workdir / path) as part:
      part.write_bytes(data)
