"""Stage 4: figures, tables and one page that shows them with their settings."""

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from cmon.config import Detector as DetectorTable
from cmon.errors import listing
from cmon.fingerprint import changes, fingerprint
from cmon.h5 import write_whole
from cmon.lint import concept_table, lint_lines
from cmon.page import Picture, Section, render
from cmon.profiling import Profile
from cmon.recipes import Plan
from cmon.records import FloatArray, Match, Study, View
from cmon.report.captions import low_prior, summary
from cmon.report.views import metrics_of, view_of_detectors, view_of_run, view_of_runs
from cmon.stores import read_evidence, read_matches, read_study
from cmon.tables import csv_bytes, layers_table, units_table
from cmon.threads import blas_in_one_thread
from cmon.work import Options, Outcome, Progress, Stopwatch, is_due, making, provenance
from cmon.workspace import State

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Sheet:
    """Figures that share a view, and stand together on the page.

    Args:
        detector: its name, or both.
        shown: the run's name, or the runs'.
        stem: where their files lie, below the report.
        view: what they are drawn from.
        names: of the figures.
        warning: as in Section.
        rows: as `layers` in Section.
        notes: as in Section.
        tables: as `folder` in Section.
    """

    detector: str
    shown: str
    stem: str
    view: View
    names: list[str]
    warning: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: str = ""


@blas_in_one_thread()
def report_study(plan: Plan, options: Options, progress: Progress) -> Outcome:
    """Draw every figure of every run and detector, where the report is not current.

    Raises:
        StaleInputError: where a joint file is missing or stale.
        ConfigError: for a unit or step to show that the study does not have, or metrics that cannot be read.
    """
    outcome = Outcome()
    state = report_state(plan)
    joint = [plan.embedding(table) for table in plan.study.detector]
    joint += [plan.matches] if plan.study.pairs_of_runs else []
    for target in joint if options.force or not state.current else []:
        target.require("embed", plan.workspace.root)
    if not is_due("report", state, options, progress, outcome):
        return outcome
    watch = Stopwatch()
    written: dict[str, int] = {}
    sheets = _sheets(plan, written, options.profile, outcome)
    progress.begin("report", sum(len(sheet.names) for sheet in sheets))
    sections = [_section(plan, sheet, written, options.profile, progress) for sheet in sheets]
    with options.profile.part("page"):
        page = render(sections, _settings(plan), provenance())
    _put(plan, "index.html", page.encode("utf-8", "replace"), written)
    old = _manifest(plan.workspace.report)
    manifest = {"fingerprint": fingerprint(plan.report), "recipe": plan.report, "files": written}
    write_whole(plan.workspace.report / MANIFEST, json.dumps(manifest).encode())
    for name in set(old.get("files", {})) - set(written):
        (plan.workspace.report / name).unlink(missing_ok=True)
    plan.workspace.note_making(plan.workspace.report, making(watch))
    progress.end()
    progress.kept()
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


def _sheets(plan: Plan, written: dict[str, int], profile: Profile, outcome: Outcome) -> list[Sheet]:
    """Lay out all figures: each detector's, run by run and then of runs together, then those of two detectors."""
    tables = plan.study.detector
    with profile.part("reading files"):
        studies = [read_study(plan.embedding(table).path) for table in tables]
        matches = read_matches(plan.matches.path) if plan.study.pairs_of_runs else []
    metrics = metrics_of(plan, studies[0]) if _asked(plan, "runs") else {}
    sheets: list[Sheet] = []
    outcome.warnings += _impossible(plan)
    for table, study in zip(tables, studies, strict=True):
        with profile.part("tables"):
            sheets += _of_runs(plan, table, study, written, outcome)
        sheets += _of_comparisons(plan, table, study, metrics, matches, outcome)
    for first, second in combinations(zip(tables, studies, strict=True), 2):
        title, folder = f"{first[0].name} and {second[0].name}", f"{first[0].name}~{second[0].name}"
        for run, name in enumerate(studies[0].runs if _asked(plan, "detectors") else ()):
            view = view_of_detectors(plan, first, second, run)
            names = _applying(plan, view, "detectors", name, outcome)
            sheets.append(Sheet(title, name, f"{folder}/{name}", view, names, tables=folder))
    return [sheet for sheet in sheets if sheet.names or sheet.rows]


def _of_runs(
    plan: Plan, table: DetectorTable, study: Study, written: dict[str, int], outcome: Outcome
) -> Iterator[Sheet]:
    """Write one detector's tables, and lay out the figures of each run."""
    folder = table.name
    layers = layers_table(study)
    _put(plan, f"{folder}/units.csv", csv_bytes(units_table(study)), written)
    _put(plan, f"{folder}/layers.csv", csv_bytes(layers), written)
    evidence = read_evidence(plan.evidence.path)
    concepts = concept_table(evidence, study.concepts, study.concept_features, study.concept_images)
    _put(plan, f"{folder}/concepts.csv", csv_bytes(concepts), written)
    notes = lint_lines(concepts)
    for run, name in enumerate(study.runs):
        view = view_of_run(plan, table, study, run)
        names = _applying(plan, view, "run", name, outcome)
        warning = low_prior(table, layers, study, name)
        rows = summary(layers, name)
        yield Sheet(folder, name, f"{folder}/{name}", view, names, warning, rows, notes, folder)


def _of_comparisons(
    plan: Plan,
    table: DetectorTable,
    study: Study,
    metrics: dict[str, FloatArray],
    matches: list[Match],
    outcome: Outcome,
) -> Iterator[Sheet]:
    """Lay out one detector's figures of runs together."""
    for name, runs in plan.study.comparisons.items() if _asked(plan, "runs") else ():
        view = view_of_runs(plan, table, study, runs, metrics, matches)
        names = _applying(plan, view, "runs", f"comparison {name}", outcome)
        yield Sheet(table.name, listing(runs, 20), f"{table.name}/compare~{name}", view, names, tables=table.name)


def _asked(plan: Plan, shows: str) -> list[str]:
    """Name the wanted figures of one run, of several, or of two detectors."""
    from cmon.figures import FIGURES

    return [name for name in plan.study.report.figures if FIGURES[name].shows == shows]


def _impossible(plan: Plan) -> list[str]:
    """Warn of figures that the config names and that take more runs or detectors than it has."""
    lacking = {"runs": not plan.study.comparisons, "detectors": len(plan.study.detector) < 2}
    named = "figures" in plan.study.report.model_fields_set
    return [
        f"{name} is not drawn: it takes two {shows}"
        for shows, lacks in lacking.items()
        if named and lacks
        for name in _asked(plan, shows)
    ]


def _applying(plan: Plan, view: View, shows: str, place: str, outcome: Outcome) -> list[str]:
    """Name the wanted figures that have something to show; of those that the config names, warn where they have not."""
    from cmon.figures import FIGURES

    reasons = {name: FIGURES[name].applies(view) for name in _asked(plan, shows)}
    if "figures" in plan.study.report.model_fields_set:
        warnings = [f"{name} of {place} is not drawn: {reason}" for name, reason in reasons.items() if reason]
        outcome.warnings += [warning for warning in warnings if warning not in outcome.warnings]
    return [name for name, reason in reasons.items() if not reason]


def _section(plan: Plan, sheet: Sheet, written: dict[str, int], profile: Profile, progress: Progress) -> Section:
    """Draw a sheet's figures."""
    pictures = []
    for name in sheet.names:
        with profile.part(f"figure {name}"):
            pictures.append(_picture(plan, sheet.view, name, f"{sheet.stem}/{name}", written, profile))
        progress.advance(1, f"{sheet.stem.partition('/')[2]}/{name}")
    about = (sheet.view.caption, sheet.warning, pictures, sheet.rows, sheet.notes, sheet.tables)
    return Section(sheet.detector, sheet.shown, *about)


def _picture(plan: Plan, view: View, name: str, stem: str, written: dict[str, int], profile: Profile) -> Picture:
    from cmon.figures import FIGURES
    from cmon.figures.style import save

    kind = FIGURES[name]
    table = kind.table(view)
    figure = kind.draw(view, table)
    images: dict[str, bytes] = {}
    for form in dict.fromkeys([*plan.study.report.formats, "png"]):
        buffer = io.BytesIO()
        with profile.part(f"drawing as {form}"):
            save(figure, buffer, form, plan.study.report.dpi)
        images[form] = buffer.getvalue()
    with profile.part("writing files") as part:
        for form in plan.study.report.formats:
            _put(plan, f"{stem}.{form}", images[form], written)
        _put(plan, f"{stem}.csv", csv_bytes(table), written)
        part.size_bytes += sum(map(len, images.values()))
    links = [f"{stem}.{form}" for form in (*plan.study.report.formats, "csv")]
    return Picture(kind.title, kind.explanation, base64.b64encode(images["png"]).decode(), links)


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
