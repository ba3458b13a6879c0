"""How tracked units change: their place, top images and word at chosen checkpoints."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cmon.figures.categories import Groups, counted, occurring
from cmon.figures.columns import chosen, layers_alike, layers_of, letter, lifeless, unit_columns, word_columns
from cmon.figures.intervals import plus_minus
from cmon.figures.panel import ANCHOR, RING, Panel, Window, layer_marks
from cmon.figures.style import (
    DEAD,
    GREY,
    INK,
    LINE,
    NORMAL,
    PAGE_WIDTH,
    SMALL,
    Page,
    Rows,
    fit,
    fit_layer,
    layer_colours,
    printable,
    styled,
    text_width,
    wrapped,
)
from cmon.records import Table, View
from cmon.statistics.history import Measured, Numbers

GAP = 0.16  # inches between columns
MOST_COLUMNS = 5
NARROW = 1.3  # inches, of a column


@dataclass(frozen=True)
class Grid:
    """Columns of equal width beside a margin that holds the layers' names, in inches."""

    margin: float
    width: float

    @classmethod
    def of(cls, view: View, columns: int) -> "Grid":
        """Fit so many columns into a page, none wider than 2.4 inches."""
        names = [text_width(printable(name), SMALL) for name in layers_of(view)]
        margin = 0.4 + min(1.1, max([0.5, *names]))
        return cls(margin, min(2.4, (PAGE_WIDTH - margin - 0.1 - GAP * (columns - 1)) / columns))

    def left(self, column: int) -> float:
        """Where a column begins."""
        return self.margin + column * (self.width + GAP)


def image_columns(view: View, rows: Rows) -> Table:
    """Name the top images of rows of the table of units: image_1 … image_n; "" where there is none."""
    ids = view.study.image_ids
    columns: Table = {}
    for place in range(view.images):
        top = view.study.units.top_images
        indices = top[rows, place].tolist() if place < top.shape[1] else [-1] * len(rows)
        columns[f"image_{place + 1}"] = np.array([ids[i] if i >= 0 else "" for i in indices], dtype=str)
    return columns


def table(view: View) -> Table:
    """List tracked units at chosen checkpoints; the other dots are in `plane`, the shares in `categories`."""
    units, rows = view.study.units, []
    for layer, unit in view.track:
        for checkpoint in view.steps:
            same = view.rows(checkpoint, layer)
            rows.extend(same[units.unit[same] == unit].tolist())
    found = np.array(rows, dtype=np.intp)
    return unit_columns(view, found) | image_columns(view, found)


@styled
def draw(view: View, table: Table) -> Figure:
    """Draw a column for every chosen checkpoint, in blocks of at most five."""
    blocks = max(1, -(-len(view.steps) // MOST_COLUMNS))
    columns = max(1, -(-len(view.steps) // blocks))
    grid = Grid.of(view, columns)
    page = Page(max(3.4, grid.left(columns) - GAP + 0.1), f"{view.study.runs[view.run]}: tracked units")
    groups = Groups.of(view.study)
    for start in range(0, len(view.steps), columns):
        steps = view.steps[start : start + columns]
        _draw_planes(page, view, steps, grid)
        for position in range(len(view.track)):
            _draw_unit(page, view, steps, grid, table, position, groups)
        _draw_shares(page, view, steps, grid, groups)
    colours = layer_colours(layers_alike(view))
    marks = layer_marks(layers_of(view), colours)
    if view.track:
        marks.append(("a tracked unit", RING))
    marks += [("an anchor", ANCHOR)] if view.study.anchors.names else []
    page.legend(marks)
    page.legend(groups.marks(occurring(view, view.steps)))
    return page.finish(view.caption)


def _draw_planes(page: Page, view: View, steps: tuple[int, ...], grid: Grid) -> None:
    window, words, colours = Window.of(view.study), word_columns(view.study), layer_colours(layers_alike(view))
    units = [unit_columns(view, view.rows(checkpoint)) for checkpoint in steps]
    below = [wrapped(lifeless(of_step["state"].tolist()), grid.width, SMALL) for of_step in units]
    top = page.y + 0.18 + 0.12 * max(map(len, below))
    page.text(0.1, top + 0.12, "plane", size=SMALL, color=GREY)
    for column, (checkpoint, of_step) in enumerate(zip(steps, units, strict=True)):
        left = grid.left(column)
        page.text(left, page.y + 0.1, f"step {view.step(checkpoint):,}", weight="bold")
        for i, line in enumerate(below[column]):
            page.text(left, page.y + 0.23 + 0.12 * i, line, size=SMALL, color=GREY)
        panel = Panel(page, window, left, top, grid.width)
        panel.draw(words, of_step, colours, 3.0)
        panel.ring(of_step, np.zeros((0, 4)))
    page.y = top + grid.width * window.ratio + 0.14


def _draw_unit(
    page: Page, view: View, steps: tuple[int, ...], grid: Grid, table: Table, position: int, groups: Groups
) -> None:
    """Draw one tracked unit's row: its images with its word and score at each step."""
    layer, unit = view.track[position]
    per_line = min(view.images, max(1, int(grid.width / 0.33)))
    lines = -(-view.images // per_line)
    per_line = -(-view.images // lines)
    side = min(0.5, (grid.width + 0.03) / per_line - 0.03)
    top = page.y
    page.text(0.1, top + 0.1, letter(position), weight="bold")
    page.text(0.28, top + 0.1, fit_layer(view.study.layers[layer], grid.margin - 0.34, SMALL), size=SMALL)
    page.text(0.28, top + 0.23, f"unit {unit}", size=SMALL)
    for column, checkpoint in enumerate(steps):
        name = view.study.checkpoints[checkpoint].name
        row = chosen(table, tracked=letter(position), checkpoint=name)
        pictures(page, view, row, grid.left(column), top, side, per_line)
        left, y = grid.left(column), top + lines * (side + 0.03) + 0.11
        word(page, colour_of(view, row, groups), row, left, y, grid.width)
        page.text(left, y + 0.13, scored(row), size=SMALL, color=GREY)
    page.y = top + lines * (side + 0.03) + 0.11 + 0.13 + 0.14


def pictures(page: Page, view: View, row: Table, left: float, top: float, side: float, per_line: int) -> None:
    """Draw the top images of a table's one row, so many in a line; none where the row is missing."""
    indices, thumbnail = _indices(view.study.image_ids), cache(view.thumbnail)
    for place in range(view.images if len(row["unit"]) else 0):
        if name := str(row[f"image_{place + 1}"][0]):
            x, y = place % per_line * (side + 0.03), place // per_line * (side + 0.03)
            page.picture(thumbnail(indices[name]), left + x, top + y, side)


@cache
def _indices(image_ids: tuple[str, ...]) -> dict[str, int]:
    return {name: i for i, name in enumerate(image_ids)}


def colour_of(view: View, row: Table, groups: Groups) -> str:
    """Return the colour that a row's concept is counted under; "" where there is none."""
    concept = str(row["concept"][0]) if len(row["unit"]) else ""
    return groups.by_concept[view.study.concepts.names.index(concept)] if concept else ""


def word(page: Page, colour: str, row: Table, left: float, y: float, width: float) -> None:
    """Write a row's word after its category's colour; grey if not interpretable."""
    if not len(row["unit"]) or row["state"][0] != "alive":
        page.text(left, y, row["state"][0] if len(row["unit"]) else "not in this run", color=DEAD, style="italic")
        return
    if colour:
        page.mark(left + 0.045, y - 0.035, {"facecolor": colour})
        left, width = left + 0.13, width - 0.13
    page.text(left, y, fit(row["concept"][0], width, NORMAL), color=INK if row["interpretable"][0] else GREY)


def scored(row: Table) -> str:
    """Say a row's score, then the share of resamples that give it the same word; "" where there is no word."""
    if not len(row["unit"]) or row["state"][0] != "alive":
        return ""
    score, confidence = row["score"][0], row["label_confidence"][0]
    return f"{score:.2f}" + (f" · {100 * confidence:.0f} %" if np.isfinite(confidence) else "")


def _draw_shares(page: Page, view: View, steps: tuple[int, ...], grid: Grid, groups: Groups) -> None:
    """Draw the last row: a bar as long as all its units for each layer, with the number interpretable."""
    top, layers = page.y, layers_of(view)
    page.text(0.1, top + 0.09, groups.heading, size=SMALL, color=GREY)
    cells = {
        (i, column): counted(view, groups, checkpoint, view.study.layers.index(layer))
        for i, layer in enumerate(layers)
        for column, checkpoint in enumerate(steps)
    }
    said = {cell: _interpretable(counts, len(groups.names)) for cell, counts in cells.items()}
    if grid.width < NARROW:
        said = {cell: text.replace(" of ", "/").replace(" ", "") for cell, text in said.items()}
    length = grid.width - max(text_width(text, SMALL) for text in said.values()) - 0.06
    for i, layer in enumerate(layers):
        page.text(0.28, top + 0.26 + i * LINE, fit_layer(layer, grid.margin - 0.34, SMALL), size=SMALL)
    for (i, column), counts in cells.items():
        left, y = grid.left(column), top + 0.17 + i * LINE
        _draw_bar(page, groups, counts.value, left, y, length)
        page.text(left + length + 0.06, y + 0.09, said[i, column], size=SMALL, color=GREY)
    page.y = top + 0.17 + len(layers) * LINE + 0.16


def _interpretable(counts: Measured, groups: int) -> str:
    """Say how many of a layer's units are interpretable; as many may be off as of those that are not."""
    total, error = counts.value[:groups].sum(), counts.error[groups]
    return f"{plus_minus(total, error)} of {counts.value.sum():,.0f}"


def _draw_bar(page: Page, groups: Groups, counts: Numbers, left: float, y: float, length: float) -> None:
    for count, how in zip(counts.tolist(), groups.styles(), strict=True):
        step = count / max(1, counts.sum()) * length
        if step:
            page.backdrop.add_patch(Rectangle((left, y), step, 0.11, **how))
        left += step
