"""The study of a workdir's model as files: `routing.json`, `routing.png`."""

import pathlib

from ernie_jax.analysis.routing import ROWS, measure_routing
from ernie_jax.analysis.routing_figure import write_routing_figure
from ernie_jax.analysis.routing_report import RoutingReport
from ernie_jax.evaluate.report import write_json
from ernie_jax.train.model_io import load_model


def study_routing(
  workdir: str | pathlib.Path,
  *,
  rows: int = ROWS,
  json_path: str | pathlib.Path | None = None,
  figure: str | pathlib.Path | None = None,
) -> RoutingReport:
  """Measures the routing of the newest checkpoint and writes its numbers and its picture.

  Args:
    workdir: of the model.
    rows: see `measure_routing`.
    json_path, figure: where to write; in the workdir if not given.

  Raises:
    UserError: there is no such model, or nothing to study in it.
  """
  workdir = pathlib.Path(workdir)
  report = measure_routing(load_model(workdir), rows=rows)
  write_json(json_path or workdir / "routing.json", report.to_json())
  write_routing_figure(report, figure or workdir / "routing.png")
  return report
