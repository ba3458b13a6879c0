"""What a report's figures are drawn from: views of one run, of several, and of two detectors."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
from PIL import Image

from cmon.config import Detector as DetectorTable
from cmon.errors import ConfigError, listing
from cmon.metrics import read_metrics
from cmon.recipes import Plan
from cmon.records import FloatArray, Match, Pixels, Study, View
from cmon.report.captions import caption

THUMBNAIL_PIXELS = 96


def view_of_run(plan: Plan, table: DetectorTable, study: Study, run: int) -> View:
    """Choose what one run's figures show.

    Raises:
        ConfigError: for a unit or step to show that the study does not have.
    """
    return replace(
        _view(plan, table, study, (run,)),
        track=_tracked(study, run, plan.study.report.track),
        steps=_shown_checkpoints(study, run, plan.study.report.steps),
        reference=_reference(study, run, plan.study.report.reference),
    )


def view_of_runs(
    plan: Plan,
    table: DetectorTable,
    study: Study,
    names: list[str],
    metrics: dict[str, FloatArray],
    matches: list[Match],
) -> View:
    """Choose what figures of several runs show; the first is what the others are compared with."""
    runs = tuple(study.runs.index(name) for name in names)
    mine = [match for match in matches if match.run == runs[0] and match.other in runs]
    ordered = tuple(sorted(mine, key=lambda match: runs.index(match.other)))
    return replace(_view(plan, table, study, runs), runs=runs, metrics=metrics, matches=ordered)


def view_of_detectors(
    plan: Plan, first: tuple[DetectorTable, Study], second: tuple[DetectorTable, Study], run: int
) -> View:
    """Choose what figures of two detectors show."""
    view = view_of_run(plan, *first, run)
    return replace(view, other=second[1], caption=f"{view.caption}. {caption(plan, *second, (run,))}")


def metrics_of(plan: Plan, study: Study) -> dict[str, FloatArray]:
    """Read what trainings have recorded: name -> (K,) for all of the study's checkpoints, NaN where unknown."""
    found: dict[str, FloatArray] = {}
    for index, run in enumerate(plan.study.run):
        mine = [k for k, name in enumerate(study.checkpoints) if name.run == index]
        if run.metrics is None:
            continue
        names, steps = zip(*((study.checkpoints[k].name, study.checkpoints[k].step) for k in mine), strict=True)
        for name, values in read_metrics(run.metrics, names, steps).items():
            found.setdefault(name, np.full(len(study.checkpoints), np.nan, np.float32))[mine] = values
    return found


def _view(plan: Plan, table: DetectorTable, study: Study, runs: tuple[int, ...]) -> View:
    settings = plan.study.report
    places = {name: index for index, name in enumerate(plan.probe.ids)}

    @lru_cache(maxsize=4096)
    def thumbnail(index: int) -> Pixels:
        image = plan.probe.image(places[study.image_ids[index]])
        image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.LANCZOS)
        return np.asarray(image, dtype=np.uint8)

    return View(
        study=study,
        run=runs[0],
        track=(),
        steps=(),
        top=settings.top,
        images=settings.images,
        caption=caption(plan, table, study, runs),
        thumbnail=thumbnail,
        near=None if settings.near == "auto" else float(settings.near),
    )


def _reference(study: Study, run: int, step: int | None) -> int | None:
    """Find the checkpoint that retention follows units from; None: the run's first."""
    if step is None:
        return None
    mine = {name.step: k for k, name in enumerate(study.checkpoints) if name.run == run}
    if step not in mine:
        raise ConfigError(
            "report.reference", f"run {study.runs[run]} has no step {step}", f"it has {listing(mine, 40)}"
        )
    return mine[step]


def _tracked(study: Study, run: int, names: list[str]) -> tuple[tuple[int, int], ...]:
    """Resolve run/layer/unit; without any of this run: its three clearest units at the end, of the last layer."""
    units = study.units
    known = {(int(a), int(b)) for a, b in zip(units.layer[units.run == run], units.unit[units.run == run], strict=True)}
    found = []
    for name in names:
        run_name, _, rest = name.partition("/")
        layer_name, _, number = rest.rpartition("/")
        if run_name not in study.runs or layer_name not in study.layers or not number.isdecimal():
            hint = f"write run/layer/unit; runs: {listing(study.runs)}; layers: {listing(study.layers)}"
            raise ConfigError("report.track", f"no unit {name}", hint)
        place = (study.layers.index(layer_name), int(number))
        if study.runs.index(run_name) != run:
            continue
        if place not in known:
            count = 1 + max((unit for layer, unit in known if layer == place[0]), default=-1)
            hint = f"{layer_name} has {count} units there, counted from 0"
            raise ConfigError("report.track", f"no unit {name}", hint)
        found.append(place)
    return tuple(found) or _clearest(study, run, 3)


def _clearest(study: Study, run: int, count: int) -> tuple[tuple[int, int], ...]:
    """Return the clearest interpretable units of the run's last checkpoint and layer, each with another word."""
    units = study.units
    last = max(k for k, name in enumerate(study.checkpoints) if name.run == run)
    rows = np.flatnonzero((units.checkpoint == last) & units.interpretable)
    if not len(rows):
        return ()
    rows = rows[units.layer[rows] == units.layer[rows].max()]
    chosen: dict[int, tuple[int, int]] = {}
    for row in rows[np.argsort(-units.score[rows], kind="stable")]:
        chosen.setdefault(int(units.concept[row]), (int(units.layer[row]), int(units.unit[row])))
    return tuple(chosen.values())[:count]


def _shown_checkpoints(study: Study, run: int, steps: list[int]) -> tuple[int, ...]:
    """Find the checkpoints of the given steps; without any: the first, the last and up to two between."""
    mine = [k for k, name in enumerate(study.checkpoints) if name.run == run]
    if not steps:
        return tuple(mine[i] for i in sorted({round(x) for x in np.linspace(0, len(mine) - 1, min(4, len(mine)))}))
    found = [k for k in mine if study.checkpoints[k].step in steps]
    if not found:
        there = listing([study.checkpoints[k].step for k in mine], 40)
        raise ConfigError("report.steps", f"run {study.runs[run]} has none of these steps", f"it has {there}")
    return tuple(found)
