"""How the kinds of concepts that a run's layers hold change from its first checkpoint on, as while fine-tuning."""

from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmon.figures import plane
from cmon.figures.categories import Groups, label_steps, positions
from cmon.figures.columns import chosen, filled
from cmon.figures.comparing import (
    ALL,
    HOLDS_ZERO,
    MARKERS,
    NOTE,
    Cell,
    Entry,
    Point,
    cells,
    draw_forest,
    drawn_layers,
    kinds,
    known_intervals,
    spread_of,
)
from cmon.figures.intervals import draw_band
from cmon.figures.style import GREY, INK, NORMAL, PAGE_WIDTH, SMALL, Page, edged, fit, fit_layer, styled
from cmon.records import Table, View

LEFT, WIDTH, FOREST = 0.55, 2.75, 3.45  # inches: the lines, and where the changes begin
MANY = 15  # checkpoints, from which marks are small


def columns(groups: Groups) -> dict[str, type]:
    """Name the columns of the table, with their kinds."""
    return {
        **dict.fromkeys(("run", "layer", "state", groups.column, "checkpoint"), str),
        **dict.fromkeys(("step", "units"), np.int64),
        **dict.fromkeys(("low", "high"), np.float64),
        **dict.fromkeys(("first_step", "first_units"), np.int64),
        **dict.fromkeys(("change", "change_low", "change_high"), np.float64),
        "layer_units": np.int64,
        "share": np.float64,
    }


def table(view: View) -> Table:
    """List the units of every layer, and of all together, by group at every checkpoint.

    `state` is as in `categories`, or all that are interpretable; `change` is by how many units more than at the first
    checkpoint that has the layer. The ends of its interval are of the change in every resample of the images.
    """
    study, groups = view.study, Groups.of(view.study)
    first: dict[str, Cell] = {}
    rows: list[tuple[Any, ...]] = []
    for cell in cells(view, groups):
        start = first.setdefault(cell.layer, cell)
        change = cell.counts.minus(start.counts)
        ends = (*cell.counts.measured().within(0, cell.size), *change.measured().within(-start.size, cell.size))
        name, begin = study.checkpoints[cell.checkpoint], view.step(start.checkpoint)
        for i, (state, group) in enumerate(kinds(groups)):
            units, changed = cell.counts.value[i], change.value[i]
            low, high, change_low, change_high = (end[i] for end in ends)
            place = (study.runs[view.run], cell.layer, state, group, name.name, name.step)
            since = (begin, start.counts.value[i], changed, change_low, change_high)
            rows.append((*place, units, low, high, *since, cell.size, units / cell.size))
    return filled(rows, columns(groups))


def applies(view: View) -> str:
    """Say why there is no change to show; "" where there is."""
    return "" if len(view.checkpoints) > 1 else "there is one checkpoint only"


@styled
def draw(view: View, table: Table) -> Figure:
    """Draw for every layer lines over the steps and the changes beside 0; below them the first plane and the last."""
    groups = Groups.of(view.study)
    page = Page(PAGE_WIDTH, f"{view.study.runs[view.run]}: how {groups.heading} change")
    for layer in drawn_layers(replace(view, runs=())):
        _draw_layer(page, chosen(table, layer=layer), layer, groups)
    marks = [
        (name, look) for name, look in _looks(groups).items() if chosen(table, **{groups.column: name})["units"].any()
    ]
    page.legend([*marks, *([HOLDS_ZERO] if known_intervals(table, "change") else [])])
    page.y += 0.12
    ends = replace(view, steps=tuple(dict.fromkeys((view.checkpoints[0], view.checkpoints[-1]))), track=())
    places = plane.table(ends)
    plane.draw_panels(page, ends, places, 2)
    page.legend(plane.plane_marks(ends, places))
    return page.finish(view.caption)


def _looks(groups: Groups) -> dict[str, dict[str, Any]]:
    """Give every group a line in its colour, with a marker of its own."""
    looks = {}
    for i, (name, colour) in enumerate(zip(groups.names, groups.colours, strict=True)):
        marker, size = MARKERS[i % len(MARKERS)]
        looks[name] = {"color": colour, "lw": 1.1, "marker": marker, "ms": 0.9 * size, "mec": "none", **edged(colour)}
    return looks


def _draw_layer(page: Page, rows: Table, layer: str, groups: Groups) -> None:
    """Draw one layer's lines and changes."""
    top, size = page.y + 0.3, rows["layer_units"].max()
    page.text(0.1, page.y + 0.1, fit_layer(layer, page.width - 1.2, NORMAL, "bold"), weight="bold")
    page.text(0.1, page.y + 0.23, f"{size:,} units", size=SMALL, color=GREY)
    steps = chosen(rows, state=ALL)["step"]
    ends = "there is one checkpoint"
    if len(steps) > 1:
        ends = f"change from step {steps[0]:,} to {steps[-1]:,}"
    page.text(FOREST, page.y + 0.23, fit(ends, page.width - FOREST - 0.1, SMALL), size=SMALL, color=GREY)
    entries = _entries(rows, groups)
    height = draw_forest(page, (FOREST, top, page.width - FOREST - 0.1), entries, "units", 0.75)
    height = max(height, 1.15)
    _lines(page.panel(LEFT, top, WIDTH, height), rows, groups)
    page.y = top + height + 0.48


def _entries(rows: Table, groups: Groups) -> list[Entry]:
    """List a forest's lines: all that is interpretable, then every group held at the first or last step."""
    entries, looks = [], _looks(groups)
    for state, group in [(ALL, ""), *(("interpretable", name) for name in groups.names)]:
        line = chosen(rows, state=state, **{groups.column: group})
        last = {name: column[-1:] for name, column in line.items()}
        if line["units"][[0, -1]].any():
            look = looks.get(group, {"color": INK, "marker": "o", "ms": 3.6, "mec": "none"})
            said = f"{line['units'][0]:,} → {line['units'][-1]:,}"
            colour = str(look["color"]) if group else ""
            entries.append(Entry(group or ALL, colour, [Point(*spread_of(last, "change"), look)], said))
    return entries


def _lines(axes: Axes, rows: Table, groups: Groups) -> None:
    """Draw the units of every group that the layer ever has over the steps."""
    steps = chosen(rows, state=ALL)["step"]
    places, evenly = positions(steps)
    label_steps(axes, places, steps, evenly)
    most = 1.0
    for name, look in _looks(groups).items():
        line = chosen(rows, state="interpretable", **{groups.column: name})
        if not line["units"].any():
            continue
        size = 0.65 if len(steps) > MANY else 1.0
        draw_band(axes, places, line["low"], line["high"], look["color"])
        axes.plot(places, line["units"], clip_on=False, zorder=4, **look | {"ms": size * look["ms"]})
        most = max([most, *line["units"], *line["high"][np.isfinite(line["high"])]])
    if not chosen(rows, state=ALL)["units"].any():
        axes.text(0.5, 0.5, "no unit is interpretable", transform=axes.transAxes, **NOTE)
    axes.set_ylim(0, 1.05 * most)
    axes.locator_params(axis="y", nbins=5, integer=True)
    axes.set_ylabel("units", labelpad=2)
    margin = 1.0 if len(places) == 1 else 0.02 * (places[-1] - places[0])
    axes.set_xlim(places[0] - margin, places[-1] + margin)
    axes.spines[["top", "right"]].set_visible(False)
