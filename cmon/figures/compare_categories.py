"""What kinds of concepts the layers of several runs hold: interpretable units by category, side by side."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cmon.figures.categories import Groups, draw_areas, occurring
from cmon.figures.columns import chosen, filled
from cmon.figures.comparing import (
    ALL,
    HOLDS_ZERO,
    NOTE,
    Cell,
    Entry,
    Point,
    cells,
    draw_forest,
    drawn_layers,
    kinds,
    known_intervals,
    one_run,
    run_looks,
    run_marks,
    run_names,
    shown_runs,
    spread_of,
)
from cmon.figures.style import GREY, NORMAL, PAGE_WIDTH, SMALL, Page, fit, fit_layer, styled, text_width
from cmon.records import Table, View
from cmon.statistics.history import Sampled

SAME_STEP, LAST = "same step", "last checkpoints"
MARGIN, GAP = 0.55, 0.16  # inches left of the areas, and between them
HEIGHT, DOWN = 1.0, 0.58  # inches of the areas, and from one line of them to the next


def columns(groups: Groups) -> dict[str, type]:
    """Name the columns of the table, with their kinds."""
    numbers: dict[str, type] = {"units": np.int64, "low": np.float64, "high": np.float64, "layer_units": np.int64}
    differences = [f"{name}{end}" for name in ("difference", "share_difference") for end in ("", "_low", "_high")]
    return {
        **dict.fromkeys(("run", "checkpoint"), str),
        "step": np.int64,
        **dict.fromkeys(("layer", "state", groups.column), str),
        **numbers,
        "share": np.float64,
        **dict.fromkeys(("compared", "reference", "reference_checkpoint"), str),
        **dict.fromkeys(("reference_step", "reference_units", "reference_layer_units"), np.int64),
        **dict.fromkeys(differences, np.float64),
    }


def table(view: View) -> Table:
    """List every run's units by group at every checkpoint, and how many more they are than the first run's.

    `layer` may be all the layers that the run has, together; `state` is as in `categories`, or all that are
    interpretable. Where the first run has a checkpoint at the same step, with that layer, `compared` says so and
    `difference`, of units, and `share_difference`, of shares of the layer, are taken from it; else they are NaN. One
    more row of each kind compares the last checkpoints of both: leave these out to count every unit once. The ends of
    intervals of differences are of differences in every resample of the images.
    """
    groups, runs = Groups.of(view.study), shown_runs(view)
    found = {run: {(cell.layer, cell.checkpoint): cell for cell in cells(view.of_run(run), groups)} for run in runs}
    rows: list[tuple[Any, ...]] = []
    for run in runs:
        for cell in found[run].values():
            for compared, other in _references(view, run, cell, found[runs[0]]):
                rows += _rows(view, groups, cell, compared, other)
    return filled(rows, columns(groups))


def _references(
    view: View, run: int, cell: Cell, first: Mapping[tuple[str, int], Cell]
) -> Iterator[tuple[str, Cell | None]]:
    """Yield what a cell is compared with: at the same step or not at all, then at the ends of both runs."""
    reference = view.of_run(shown_runs(view)[0])
    if run == reference.run:
        yield "", None
        return
    steps = {view.step(k): k for k in reference.checkpoints}
    same = first.get((cell.layer, steps.get(view.step(cell.checkpoint), -1)))
    yield SAME_STEP if same else "", same
    last = first.get((cell.layer, reference.checkpoints[-1]))
    if last and cell.checkpoint == view.of_run(run).checkpoints[-1]:
        yield LAST, last


def _rows(view: View, groups: Groups, cell: Cell, compared: str, other: Cell | None) -> Iterator[tuple[Any, ...]]:
    """Yield a cell's rows, compared with another's."""
    study, name = view.study, view.study.checkpoints[cell.checkpoint]
    place = (study.runs[name.run], name.name, name.step, cell.layer)
    said: tuple[Any, ...] = (compared, "", "", -1)
    parts = [cell.counts.value, *cell.counts.measured().within(0, cell.size)]
    theirs = np.full((7, len(parts[0])), np.nan)
    theirs[0] = -1
    if other:
        at = study.checkpoints[other.checkpoint]
        said = (compared, study.runs[at.run], at.name, at.step)
        units = cell.counts.minus(other.counts)
        shares = cell.counts.per(cell.size).minus(other.counts.per(other.size))
        theirs = np.stack([other.counts.value, *_ends(units, cell.size, other.size), *_ends(shares, 1, 1)])
    size = other.size if other else -1
    for i, kind in enumerate(kinds(groups)):
        counts = (*(part[i] for part in parts), cell.size, parts[0][i] / cell.size)
        yield (*place, *kind, *counts, *said, theirs[0, i], size, *theirs[1:, i])


def _ends(difference: Sampled, most: float, least: float) -> tuple[Any, ...]:
    """Return a difference with its interval's ends."""
    return difference.value, *difference.measured().within(-least, most)


def applies(view: View) -> str:
    """Say why there is nothing to compare; "" where there is."""
    return one_run(view)


@styled
def draw(view: View, table: Table) -> Figure:
    """Draw for every shared layer, and for all, the runs' areas side by side and how their ends differ."""
    groups, layers = Groups.of(view.study), drawn_layers(view)
    page = Page(PAGE_WIDTH, f"{run_names(view)}: {groups.heading}")
    for layer in layers:
        _draw_layer(page, view, chosen(table, layer=layer), layer, groups)
    states = {state for run in shown_runs(view) for state in _states(view, run)}
    page.legend(groups.marks(states))
    if len(shown_runs(view)) > 1:
        known = known_intervals(table, "difference")
        page.legend([*run_marks(view), *([HOLDS_ZERO] if known else [])])
    return page.finish(view.caption)


def _states(view: View, run: int) -> set[str]:
    return occurring(view.of_run(run), view.of_run(run).checkpoints)


def _draw_layer(page: Page, view: View, rows: Table, layer: str, groups: Groups) -> None:
    """Draw one layer's row: areas, at most three in a line, then the differences."""
    runs = shown_runs(view)
    per_line = len(runs) if len(runs) < 4 else 2 if len(runs) == 4 else 3
    room = 0.62 if len(runs) == 2 else 0.0
    forest = 3.0 if len(runs) < 3 else 2.5
    width = (page.width - MARGIN - forest - 0.3 - GAP * (per_line - 1)) / per_line
    sizes = np.unique(rows["layer_units"]).tolist()
    title = fit_layer(layer, page.width - 1.5, NORMAL, "bold")
    page.text(0.1, page.y + 0.1, title, weight="bold")
    units = f"{' or '.join(f'{size:,}' for size in sizes[:2])}{' or more' * (len(sizes) > 2)} units"
    page.text(0.18 + text_width(title, NORMAL, "bold"), page.y + 0.1, units, size=SMALL, color=GREY)
    top = page.y + 0.17
    drawn = {run: chosen(rows, run=view.study.runs[run]) for run in runs}
    for i, run in enumerate(runs):
        left, y = MARGIN + i % per_line * (width + GAP), top + i // per_line * (HEIGHT + DOWN)
        mine = {name: column[drawn[run]["compared"] != LAST] for name, column in drawn[run].items()}
        _draw_run(page, view, run, mine, (left, y, width), groups, i % per_line == 0)
    height = -(-len(runs) // per_line) * (HEIGHT + DOWN) - DOWN
    if len(runs) > 1:
        compared = (rows["compared"] == LAST).any()
        missing = "no unit is interpretable" if compared else "nothing to compare"
        entries = _entries(view, groups, rows, bool(room))
        box = (page.width - 0.1 - forest, top + 0.15, forest)
        names = [fit(view.study.runs[run], 1.1, SMALL) for run in runs]
        said = f"at the end: {' | '.join(names)}" if room else "at the last checkpoint of each"
        page.text(page.width - 0.1, top + 0.09, fit(said, forest, SMALL), size=SMALL, color=GREY, ha="right")
        than = f"than in {fit(names[0], 0.62, SMALL)}" if room else "than the first run"
        label = f"more {'%' if _by_share(rows) else 'units'} {than}"
        height = max(height, draw_forest(page, box, entries, label, room, missing) - 0.02)
    page.y = top + 0.15 + height + 0.46


def _draw_run(
    page: Page, view: View, run: int, rows: Table, box: tuple[float, float, float], groups: Groups, first: bool
) -> None:
    """Draw one run's areas in one layer, below its name."""
    left, top, width = box
    axes = page.panel(left, top + 0.15, width, HEIGHT)
    page.mark(left + 0.08, top + 0.06, run_looks(view)[run])
    page.text(left + 0.2, top + 0.09, fit(view.study.runs[run], width - 0.2, SMALL), size=SMALL)
    if not len(rows["units"]):
        axes.set_axis_off()
        axes.text(0.5, 0.5, "has no such layer", transform=axes.transAxes, **NOTE)
        return
    draw_areas(axes, {n: column[rows["state"] != ALL] for n, column in rows.items()}, groups, width)
    if not first:
        axes.tick_params(axis="y", labelleft=False)


def _points(view: View, groups: Groups, rows: Table, state: str, group: str) -> Iterator[Point]:
    """Yield how much more units of a state and group every other run has at its end than the first."""
    looks = run_looks(view)
    for run in shown_runs(view)[1:]:
        row = chosen(rows, compared=LAST, run=view.study.runs[run], state=state, **{groups.column: group})
        if not len(row["units"]):
            yield Point(np.nan, np.nan, np.nan, looks[run])
        elif _by_share(rows):
            yield Point(*spread_of(row, "share_difference", 100), looks[run])
        else:
            yield Point(*spread_of(row, "difference"), looks[run])


def _by_share(rows: Table) -> bool:
    """Tell whether runs have a layer in different sizes, so that its shares are compared and not its units."""
    last = chosen(rows, compared=LAST)
    return bool((last["layer_units"] != last["reference_layer_units"]).any())


def _entries(view: View, groups: Groups, rows: Table, two: bool) -> list[Entry]:
    """List a forest's lines: all that is interpretable, then every group that some run has at its end."""
    last, entries = chosen(rows, compared=LAST), []
    colours = dict(zip(groups.names, groups.colours, strict=True))
    for state, group in [(ALL, ""), *(("interpretable", name) for name in groups.names)]:
        row = chosen(last, state=state, **{groups.column: group})
        if row["units"].any() or row["reference_units"].any():
            said = f"{row['reference_units'][0]:,} | {row['units'][0]:,}" if two else ""
            entries.append(
                Entry(group or ALL, colours.get(group, ""), [*_points(view, groups, rows, state, group)], said)
            )
    return entries
