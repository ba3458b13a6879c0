"""The most interpretable units of every layer at chosen checkpoints, with their words and top images."""

import numpy as np
from matplotlib.figure import Figure

from cmon.figures.categories import Groups
from cmon.figures.columns import chosen, layers_of, lifeless, unit_columns
from cmon.figures.evolution import colour_of, image_columns, pictures, scored, word
from cmon.figures.style import DEAD, GREY, NORMAL, PAGE_WIDTH, SMALL, Page, Rows, fit_layer, styled, text_width
from cmon.records import STATES, Table, View

GAP = 0.2  # inches between columns
MOST_COLUMNS = 4


def best(view: View, checkpoint: int, layer: int) -> Rows:
    """Return the rows of the layer's best interpretable units, best first, `view.top` at most."""
    units, rows = view.study.units, view.rows(checkpoint, layer)
    rows = rows[units.interpretable[rows] & units.alive[rows]]
    return rows[np.argsort(-units.score[rows], kind="stable")][: view.top]


def table(view: View) -> Table:
    """List the best units of each chosen checkpoint and layer, with `rank` from 1."""
    found = [best(view, k, layer) for k in view.steps for layer in range(len(view.study.layers))]
    rows = np.concatenate([np.zeros(0, np.intp), *found])
    ranks = np.concatenate([np.zeros(0, np.int64), *(np.arange(1, len(few) + 1) for few in found)])
    return unit_columns(view, rows) | {"rank": ranks} | image_columns(view, rows)


@styled
def draw(view: View, table: Table) -> Figure:
    """Draw a column for every chosen checkpoint, in blocks of at most four, its layers below it."""
    groups = Groups.of(view.study)
    blocks = max(1, -(-len(view.steps) // MOST_COLUMNS))
    columns = max(1, -(-len(view.steps) // blocks))
    width = min(2.4, (PAGE_WIDTH - 0.2 - GAP * (columns - 1)) / columns)
    title = f"{view.study.runs[view.run]}: the most interpretable units"
    page = Page(max(3.4, 0.2 + columns * (width + GAP) - GAP), title)
    for start in range(0, len(view.steps), columns):
        steps = view.steps[start : start + columns]
        for layer in layers_of(view):
            _draw_layer(page, view, steps, width, chosen(table, layer=layer), layer, groups)
        page.y += 0.12
    page.legend(groups.marks(()))
    return page.finish(view.caption)


def _draw_layer(
    page: Page, view: View, steps: tuple[int, ...], width: float, table: Table, layer: str, groups: Groups
) -> None:
    top = bottom = page.y + 0.2
    per_line = view.images if width / view.images > 0.28 else -(-view.images // 2)
    side = min(0.5, (width + 0.03) / per_line - 0.03)
    down = 0.28 + -(-view.images // per_line) * (side + 0.03) + 0.06
    for column, checkpoint in enumerate(steps):
        left = 0.1 + column * (width + GAP)
        step = f"step {view.step(checkpoint):,}"
        room = width - text_width(step, NORMAL) - 0.1
        page.text(left, top - 0.09, fit_layer(layer, room, NORMAL, "bold"), weight="bold")
        page.text(left + width, top - 0.09, step, ha="right")
        page.backdrop.plot([left, left + width], [top - 0.04] * 2, color=GREY, lw=0.4)
        rows = chosen(table, checkpoint=view.study.checkpoints[checkpoint].name)
        if not len(rows["unit"]):
            page.text(left, top + 0.11, _reason(view, checkpoint, layer), size=SMALL, color=DEAD, style="italic")
        for rank in rows["rank"].tolist():
            row, y = chosen(rows, rank=rank), top + (rank - 1) * down
            page.text(left, y + 0.11, f"unit {row['unit'][0]}", size=SMALL, color=GREY)
            page.text(left + width, y + 0.11, scored(row), ha="right", size=SMALL, color=GREY)
            word(page, colour_of(view, row, groups), row, left, y + 0.24, width)
            pictures(page, view, row, left, y + 0.29, side, per_line)
        bottom = max(bottom, top + max(0.2, len(rows["unit"]) * down))
    page.y = bottom + 0.08


def _reason(view: View, checkpoint: int, layer: str) -> str:
    """Say why a layer has no unit to show."""
    rows = view.rows(checkpoint, view.study.layers.index(layer))
    if not len(rows):
        return "not at this checkpoint"
    if view.study.units.alive[rows].any():
        return "no interpretable unit"
    states = [STATES[state] for state in view.study.units.state[rows]]
    return f"all {len(rows)} units {states[0]}" if len(set(states)) == 1 else lifeless(states)
