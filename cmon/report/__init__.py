"""Stage 4: figures, tables and one page that shows them with their settings."""

import base64
import io
import json
from dataclasses import replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cmon.config import Detector as DetectorTable
from cmon.errors import ConfigError, listing
from cmon.fingerprint import changes, fingerprint
from cmon.h5 import write_whole
from cmon.lint import concept_table, lint_lines
from cmon.page import Picture, Section, render
from cmon.recipes import Plan
from cmon.records import Pixels, Study, View
from cmon.report.captions import caption, low_prior, summary
from cmon.stores import read_evidence, read_study
from cmon.tables import csv_bytes, layers_table, units_table
from cmon.work import Options, Outcome, Progress, Stopwatch, provenance
from cmon.workspace import State

THUMBNAIL_PIXELS = 96
MANIFEST = "manifest.json"


def report_study(plan: Plan, options: Options, progress: Progress) -> Outcome:
    """Draw every figure of every run and detector, where the report is not current.

    Raises:
        StaleInputError: where a detector's joint file is missing or stale.
        ConfigError: for a unit or step to show that the study does not have.
    """
    outcome = Outcome()
    state = report_state(plan)
    if state.current and not options.force:
        outcome.current += 1
        return outcome
    for table in plan.study.detector:
        plan.embedding(table).require("embed", plan.workspace.root)
    if state.status not in ("missing", "current"):
        progress.line(f"report: {state}")
    outcome.made.append("report")
    if options.dry_run:
        return outcome
    watch = Stopwatch()
    written: dict[str, int] = {}
    progress.begin("report", _figure_count(plan))
    studies = [read_study(plan.embedding(table).path) for table in plan.study.detector]
    drawn = zip(plan.study.detector, studies, strict=True)
    sections = [section for one in drawn for section in _detector(plan, *one, written, progress)]
    for first, second in combinations(zip(plan.study.detector, studies, strict=True), 2):
        sections += _agreement(plan, first, second, written, progress)
    page = render(sections, _settings(plan), provenance(watch))
    _put(plan, "index.html", page.encode("utf-8", "replace"), written)
    old = _manifest(plan.workspace.report)
    manifest = {"fingerprint": fingerprint(plan.report), "recipe": plan.report, "files": written}
    write_whole(plan.workspace.report / MANIFEST, json.dumps(manifest).encode())
    for name in set(old.get("files", {})) - set(written):
        (plan.workspace.report / name).unlink(missing_ok=True)
    progress.end()
    return outcome


def report_state(plan: Plan) -> State:
    """Tell whether the report is current: made by this recipe, with every file there at its size."""
    folder = plan.workspace.report
    manifest = _manifest(folder)
    if not manifest:
        return State("damaged", f"{MANIFEST} is damaged") if (folder / MANIFEST).exists() else State("missing")
    if manifest["fingerprint"] != fingerprint(plan.report):
        return State("stale", f"changed: {listing(changes(manifest['recipe'], plan.report), 4)}")
    lost = [name for name, size in manifest["files"].items() if _size(folder / name) != size]
    return State("stale", f"lost: {listing(lost)}") if lost else State("current")


def _figure_count(plan: Plan) -> int:
    """Count the pictures to draw, over all runs."""
    single, comparing, tables = len(_names(plan, False)), len(_names(plan, True)), len(plan.study.detector)
    return len(plan.study.run) * (tables * single + tables * (tables - 1) // 2 * comparing)


def _names(plan: Plan, compares: bool) -> list[str]:
    """Name the wanted figures of one detector, or of two."""
    from cmon.figures import FIGURES

    return [name for name in plan.study.report.figures if FIGURES[name].compares is compares]


def _detector(
    plan: Plan, table: DetectorTable, study: Study, written: dict[str, int], progress: Progress
) -> list[Section]:
    """Write one detector's tables and figures."""
    folder = table.name
    layers = layers_table(study)
    _put(plan, f"{folder}/units.csv", csv_bytes(units_table(study)), written)
    _put(plan, f"{folder}/layers.csv", csv_bytes(layers), written)
    evidence = read_evidence(plan.evidence.path)
    concepts = concept_table(evidence, study.concepts, study.concept_features, study.concept_images)
    _put(plan, f"{folder}/concepts.csv", csv_bytes(concepts), written)
    notes = lint_lines(concepts)
    sections = []
    for run in range(len(study.runs)):
        view = _view(plan, table, study, run)
        pictures = []
        for name in _names(plan, False):
            pictures.append(_picture(plan, view, name, f"{folder}/{study.runs[run]}/{name}", written))
            progress.advance(1, f"{study.runs[run]}/{name}")
        rows = summary(layers, study.runs[run])
        warning = low_prior(table, layers, study, study.runs[run])
        sections.append(Section(table.name, study.runs[run], view.caption, warning, pictures, rows, notes, folder))
    return sections


def _agreement(
    plan: Plan,
    first: tuple[DetectorTable, Study],
    second: tuple[DetectorTable, Study],
    written: dict[str, int],
    progress: Progress,
) -> list[Section]:
    """Write the figures that compare two detectors."""
    sections = []
    title, folder = f"{first[0].name} and {second[0].name}", f"{first[0].name}~{second[0].name}"
    for run, run_name in enumerate(first[1].runs if _names(plan, True) else ()):
        view = _view(plan, *first, run)
        both = f"{view.caption}. {caption(plan, *second, run)}"
        view = replace(view, other=second[1], caption=both)
        pictures = []
        for name in _names(plan, True):
            pictures.append(_picture(plan, view, name, f"{folder}/{run_name}/{name}", written))
            progress.advance(1, f"{run_name}/{name}")
        sections.append(Section(title, run_name, both, "", pictures, [], [], folder))
    return sections


def _near(plan: Plan) -> float | None:
    return None if plan.study.report.near == "auto" else float(plan.study.report.near)


def _picture(plan: Plan, view: View, name: str, stem: str, written: dict[str, int]) -> Picture:
    from cmon.figures import FIGURES
    from cmon.figures.style import save

    kind = FIGURES[name]
    table = kind.table(view)
    figure = kind.draw(view, table)
    images: dict[str, bytes] = {}
    for form in dict.fromkeys([*plan.study.report.formats, "png"]):
        buffer = io.BytesIO()
        save(figure, buffer, form, plan.study.report.dpi)
        images[form] = buffer.getvalue()
    for form in plan.study.report.formats:
        _put(plan, f"{stem}.{form}", images[form], written)
    _put(plan, f"{stem}.csv", csv_bytes(table), written)
    links = [f"{stem}.{form}" for form in (*plan.study.report.formats, "csv")]
    return Picture(kind.title, kind.explanation, base64.b64encode(images["png"]).decode(), links)


def _view(plan: Plan, table: DetectorTable, study: Study, run: int) -> View:
    """Choose what one run's figures show."""
    settings = plan.study.report
    places = {name: index for index, name in enumerate(plan.probe.ids)}

    @lru_cache(maxsize=4096)
    def thumbnail(index: int) -> Pixels:
        image = plan.probe.image(places[study.image_ids[index]])
        image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.LANCZOS)
        return np.asarray(image, dtype=np.uint8)

    return View(
        study=study,
        run=run,
        track=_tracked(study, run, settings.track),
        steps=_shown_checkpoints(study, run, settings.steps),
        top=settings.top,
        images=settings.images,
        caption=caption(plan, table, study, run),
        thumbnail=thumbnail,
        near=_near(plan),
        reference=_reference(study, run, settings.reference),
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


def _settings(plan: Plan) -> dict[str, Any]:
    """Return the whole config as it was read, for the page."""
    return plan.study.model_dump(mode="json", exclude_none=True)


def _put(plan: Plan, name: str, data: bytes, written: dict[str, int]) -> None:
    write_whole(plan.workspace.report / name, data)
    written[name] = len(data)


def _manifest(folder: Path) -> dict[str, Any]:
    """Read what the report was made by, and its files; {} where there is no manifest, or a damaged one."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    kinds = {"fingerprint": str, "recipe": dict, "files": dict}
    whole = isinstance(manifest, dict) and all(isinstance(manifest.get(key), kind) for key, kind in kinds.items())
    return manifest if whole else {}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
