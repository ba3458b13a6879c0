"""The shared plane: where the units of one run lie among concepts and anchors at chosen checkpoints."""

import numpy as np
from matplotlib.figure import Figure

from cmon.figures import style
from cmon.figures.columns import (
    chosen,
    joined,
    layers_alike,
    layers_of,
    letter,
    lifeless,
    living,
    story,
    unit_columns,
    word_columns,
)
from cmon.figures.intervals import plus_minus
from cmon.figures.panel import ANCHOR, CONCEPT, RING, Panel, Window, layer_marks
from cmon.figures.style import Page, styled
from cmon.records import ALIVE, STATES, Table, View
from cmon.statistics import half_width


def table(view: View) -> Table:
    """List the units at the chosen checkpoints, then concepts and anchors."""
    rows = [view.rows(checkpoint) for checkpoint in view.steps]
    return joined(unit_columns(view, np.concatenate([np.zeros(0, np.intp), *rows])), word_columns(view.study))


@styled
def draw(view: View, table: Table) -> Figure:
    """Draw a panel for every chosen checkpoint, two in a row."""
    columns = min(2, max(1, len(view.steps)))
    title = f"{view.study.runs[view.run]}: units in the shared plane"
    page = Page(style.PAGE_WIDTH if columns == 2 else 5.0, title)
    draw_panels(page, view, table, columns)
    page.legend(plane_marks(view, table))
    page.legend(_tracked_marks(view, table))
    return page.finish(view.caption)


def draw_panels(page: Page, view: View, table: Table, columns: int) -> None:
    """Draw a panel for every chosen checkpoint, so many in a row."""
    width = (page.width - 0.2 - 0.2 * (columns - 1)) / columns
    window, colours = Window.of(view.study), style.layer_colours(layers_alike(view))
    words, anchors = chosen(table, run=""), chosen(table, kind="anchor")
    places = np.stack([anchors["x"], anchors["y"]], axis=1).astype(np.float64)
    # By the units of all steps: an anchor's word then stands at the same spot in every panel.
    crowd = living(chosen(table, kind="unit"))
    for i, checkpoint in enumerate(view.steps):
        left, top = 0.1 + (i % columns) * (width + 0.2), page.y
        units = chosen(table, kind="unit", checkpoint=view.study.checkpoints[checkpoint].name)
        page.heading(left, f"step {view.step(checkpoint):,}", subtitle(view, checkpoint), width)
        page.text(left + width, page.y + 0.1, distance(view, checkpoint), ha="right", size=style.SMALL)
        panel = Panel(page, window, left, top + 0.3, width)
        panel.draw(words, units, colours, 9.0 if len(units["x"]) < 400 else 5.0)
        panel.ring(units, panel.write(places, anchors["concept"].tolist(), 3.0, np.zeros((0, 4)), crowd))
        if i % columns == columns - 1 or i == len(view.steps) - 1:
            page.y = top + 0.3 + width * window.ratio + 0.15


def plane_marks(view: View, table: Table) -> list[style.Mark]:
    """List a legend's marks for what is drawn in the plane."""
    marks = layer_marks(layers_of(view), style.layer_colours(layers_alike(view)))
    if not chosen(table, kind="unit", state="alive")["interpretable"].all():
        marks.append(("pale: not interpretable", {"marker": "o", "ms": 5.0, "color": "#c8c8c8", "mec": "none"}))
    anchors = len(chosen(table, kind="anchor")["x"]) > 0
    return [*marks, ("a concept", CONCEPT), *([("an anchor", ANCHOR)] if anchors else [])]


def subtitle(view: View, checkpoint: int) -> str:
    """Count a checkpoint's units in one line."""
    states = view.study.units.state[view.rows(checkpoint)]
    return f"{int((states == ALIVE).sum()):,} units drawn, {lifeless(STATES[state] for state in states)}"


def distance(view: View, checkpoint: int) -> str:
    """Say d_anchor over all units of a checkpoint that are alive; "" where it is not known."""
    study, rows = view.study, view.rows(checkpoint)
    alive = rows[study.units.alive[rows]]
    weights = np.bincount(study.units.layer[alive], minlength=len(study.layers)) * 1.0
    known = np.isfinite(study.d_anchor[checkpoint]) & (weights > 0)
    if not known.any():
        return ""
    weights = weights[known] / weights[known].sum()
    error = float(half_width(weights @ study.d_anchor_resampled[checkpoint, known]))
    return f"d_anchor {plus_minus(float(weights @ study.d_anchor[checkpoint, known]), error, 3)}"


def _tracked_marks(view: View, table: Table) -> list[style.Mark]:
    tracked = enumerate(view.track)
    names = [f"{letter(i)}: {view.study.layers[layer]} unit {unit}, " for i, (layer, unit) in tracked]
    return [(name + " → ".join(story(table, i)), RING) for i, name in enumerate(names)]
