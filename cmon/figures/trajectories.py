"""The paths of tracked units through the plane over all checkpoints of a run, among numbered anchors."""

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from cmon.figures.columns import chosen, joined, letter, living, story, unit_columns, word_columns
from cmon.figures.panel import ANCHOR, CONCEPT, Panel, Window
from cmon.figures.style import (
    CYCLE,
    GREY,
    LINE,
    MORE,
    NORMAL,
    PAGE_WIDTH,
    SMALL,
    Page,
    Points,
    Rows,
    fit,
    fit_layer,
    styled,
    text_width,
)
from cmon.records import Table, View

WIDTH, KEY = 4.7, 1.95  # inches: the plane, and the key beside it
SHORTEST_ARROW = 13.0  # points
ARROW = {"arrowstyle": "-|>", "lw": 0.0, "mutation_scale": 8.0, "shrinkA": 0, "shrinkB": 0}


def table(view: View) -> Table:
    """List the tracked units at all checkpoints, then concepts and anchors; anchors have a `number`."""
    rows = [rows_of(view, layer, unit) for layer, unit in view.track]
    units = unit_columns(view, np.concatenate([np.zeros(0, np.intp), *rows]))
    whole = joined(units, word_columns(view.study))
    anchors = whole["kind"] == "anchor"
    return whole | {"number": np.where(anchors, np.cumsum(anchors), -1)}


def rows_of(view: View, layer: int, unit: int) -> Rows:
    """Return the rows of one unit at the run's checkpoints, by step."""
    units = view.study.units
    same = [view.rows(checkpoint, layer) for checkpoint in view.checkpoints]
    rows = np.concatenate([np.zeros(0, np.intp), *same])
    found: Rows = rows[units.unit[rows] == unit]
    return found


@styled
def draw(view: View, table: Table) -> Figure:
    """Draw the plane with a path for every tracked unit, pale at its start, and the key beside it."""
    window = Window.of(view.study)
    page = Page(PAGE_WIDTH, f"{view.study.runs[view.run]}: paths of tracked units")
    top = page.y
    panel = Panel(page, window, 0.1, top, WIDTH)
    words = chosen(table, kind="concept")
    panel.axes.plot(words["x"], words["y"], ls="none", zorder=1, **CONCEPT)
    letters = [letter(position) for position in range(len(view.track))]
    paths = {name: chosen(table, kind="unit", tracked=name) for name in letters}
    for position, path in enumerate(paths.values()):
        _draw_path(panel, path, unit_colour(position))
    _write_names(panel, paths, chosen(table, kind="anchor"))
    _draw_key(page, view, table, top, top + WIDTH * window.ratio)
    return page.finish(view.caption)


def unit_colour(position: int) -> str:
    """Return the colour of the tracked unit at a position; never yellow, too light for a line on paper."""
    colours = [CYCLE[i] for i in (0, 4, 2, 5, 3, 1)] + list(MORE)
    return colours[position % len(colours)]


def _places(rows: Table) -> Points:
    return np.stack([rows["x"], rows["y"]], axis=1).astype(np.float64)


def _draw_path(panel: Panel, path: Table, colour: str) -> None:
    """Draw the line, darker with every checkpoint, with arrows where there is room; where it is not alive is a gap."""
    places, last = _places(path), max(1, len(path["x"]) - 1)
    shades = [to_rgba(colour, 0.3 + 0.7 * i / last) for i in range(last + 1)]
    for start, end, shade in zip(places[:-1], places[1:], shades[1:], strict=False):
        panel.axes.plot(*np.stack([start, end]).T, color=shade, lw=1.3, zorder=3.5, solid_capstyle="round")
        length = np.hypot(*panel.points(end) - panel.points(start))
        if length > SHORTEST_ARROW:
            arrow = ARROW | {"color": shade}
            near, far = start + (end - start) * 0.35, start + (end - start) * (0.5 + 4 / length)
            panel.axes.annotate("", xy=far, xytext=near, arrowprops=arrow, zorder=3.5)
    alive = np.flatnonzero(path["state"] == "alive")
    face = np.reshape(shades, (-1, 4))[alive]
    panel.axes.scatter(places[alive, 0], places[alive, 1], s=5, c=face, lw=0, zorder=3.6)
    for end, fill in ((alive[:1], "white"), (alive[-1:], colour)):
        panel.axes.plot(places[end, 0], places[end, 1], "o", ms=6.0, mfc=fill, mec=colour, mew=1.3, zorder=6)


def _write_names(panel: Panel, paths: dict[str, Table], anchors: Table) -> None:
    """Write each anchor's number at its mark, then each unit's letter where its path ends."""
    places = {name: living(path) for name, path in paths.items() if (path["state"] == "alive").any()}
    crowd = np.vstack([np.zeros((0, 2)), *places.values()])
    ends = np.vstack([np.zeros((0, 2)), *(xy[[0, -1]] for xy in places.values())])
    circles = np.hstack([panel.points(ends) - 4, panel.points(ends) + 4])
    panel.axes.plot(anchors["x"], anchors["y"], ls="none", zorder=3, **ANCHOR)
    numbers = [str(number) for number in anchors["number"].tolist()]
    taken = np.vstack([circles, panel.write(_places(anchors), numbers, 3.0, circles, crowd)])
    panel.write(ends[1::2], list(places), 4.0, taken, crowd, "bold")


def _draw_key(page: Page, view: View, table: Table, top: float, bottom: float) -> None:
    """Explain letters beside the plane, and numbers too if they fit there, else beneath it."""
    left = 0.1 + WIDTH + 0.2
    y = top + 0.02
    if not view.track:
        page.text(left, y + 0.1, "no unit is tracked", size=SMALL, color=GREY)
    for position, (layer, unit) in enumerate(view.track):
        how = {"marker": "o", "ms": 6.0, "color": unit_colour(position), "lw": 1.3}
        page.mark(left + 0.08, y + 0.06, how)
        before, after = f"{letter(position)}: ", f" unit {unit}"
        room = KEY - 0.24 - text_width(before + after, NORMAL, "bold")
        name = before + fit_layer(view.study.layers[layer], room, NORMAL, "bold") + after
        page.text(left + 0.24, y + 0.1, name, weight="bold")
        first, *last = story(table, position)
        for line in [first, *(f"→ {word}" for word in last)]:
            y += 0.13
            page.text(left + 0.24, y + 0.1, fit(line, KEY - 0.24, SMALL), size=SMALL)
        y += 0.19
    for mark, said in (("white", "first checkpoint"), (GREY, "last checkpoint")) if view.track else ():
        page.mark(left + 0.08, y + 0.06, {"marker": "o", "ms": 6.0, "mfc": mark, "mec": GREY, "color": GREY})
        page.text(left + 0.24, y + 0.095, said, size=SMALL, color=GREY)
        y += LINE
    anchors = chosen(table, kind="anchor")
    keys = [f"{n} {name}" for n, name in zip(anchors["number"], anchors["concept"], strict=True)]
    beside = y + 0.1 + len(keys) * 0.13 <= bottom
    for i, key in enumerate(keys if beside else []):
        page.text(left + 0.24, y + 0.2 + i * 0.13, fit(key, KEY - 0.24, SMALL), size=SMALL)
    page.y = max(y, bottom) + 0.08
    page.legend([] if beside else [(key, ANCHOR) for key in keys])
