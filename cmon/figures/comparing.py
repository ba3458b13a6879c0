"""What figures that compare runs share: how a run looks, which layers there are, changes of categories beside 0."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from cmon.figures.categories import WHOLE, Groups, tally
from cmon.figures.columns import layers_of
from cmon.figures.style import FAINT, GREY, INK, SMALL, Mark, Page, fit
from cmon.records import Table, View
from cmon.statistics.history import Sampled

# Tol's contrasting colours, unlike those of categories and telling runs apart in grey too; as many markers as share no
# divisor with them, so that many runs look unlike one another.
COLOURS = (INK, "#bb5566", "#6699cc", "#ddaa33", "#004488", "#997700", "#ee99aa")
MARKERS = (("o", 3.6), ("s", 3.4), ("^", 4.4), ("D", 3.2), ("v", 4.4), ("P", 4.6), ("X", 4.4), ("p", 4.4))
STYLES = ("-", (0, (5, 1.4)), (0, (5, 1.2, 1, 1.2)), (0, (2.2, 1.1)), (0, (7, 1.2, 1, 1.2, 1, 1.2)))
ALL_LAYERS, ALL = "all layers", "all interpretable"
NOTE: dict[str, Any] = {"ha": "center", "va": "center", "size": SMALL, "color": GREY, "style": "italic"}
NAMES = 1.12  # inches that the names of a forest's entries take
HOLDS_ZERO: Mark = (
    "hollow: the interval holds 0",
    {"marker": "o", "ms": 3.6, "mfc": "white", "mec": GREY, "mew": 0.8, "color": GREY},
)


class Point(NamedTuple):
    """A difference with its interval's ends, NaN where they are not known, and its look."""

    value: float
    low: float
    high: float
    look: dict[str, Any]


class Entry(NamedTuple):
    """One line of a forest: what differs, after its colour if it has one, by how much, and a number beside it."""

    name: str
    colour: str
    points: list[Point]
    said: str = ""


def shown_runs(view: View) -> tuple[int, ...]:
    """Return the runs that a figure shows together; that of the view where it shows one."""
    return view.runs or (view.run,)


def run_looks(view: View) -> dict[int, dict[str, Any]]:
    """Give every shown run a colour, a marker and a style of line."""
    looks = {}
    for i, run in enumerate(shown_runs(view)):
        marker, size = MARKERS[i % len(MARKERS)]
        look = {"color": COLOURS[i % len(COLOURS)], "ls": STYLES[i % len(STYLES)], "lw": 1.1}
        looks[run] = look | {"marker": marker, "ms": size, "mec": "none"}
    return looks


def run_marks(view: View, said: Iterable[str] = ()) -> list[Mark]:
    """List a legend's marks of all runs, with what is said of each."""
    looks, texts = run_looks(view), list(said)
    names = [view.study.runs[run] for run in looks]
    return [
        (f"{name}: {texts[i]}" if texts else name, look)
        for i, (name, look) in enumerate(zip(names, looks.values(), strict=True))
    ]


def run_names(view: View) -> str:
    """Name the shown runs in a title, the first four of many."""
    names = [fit(view.study.runs[run], 1.6) for run in shown_runs(view)]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def last_checkpoint(view: View, run: int) -> int:
    """Return a run's last checkpoint, index into study.checkpoints."""
    return view.of_run(run).checkpoints[-1]


def layers_of_runs(view: View) -> list[str]:
    """List the layers that some shown run has, in forward order."""
    theirs = {layer for run in shown_runs(view) for layer in layers_of(view.of_run(run))}
    return [layer for layer in view.study.layers if layer in theirs]


def compared_layers(view: View) -> list[str]:
    """List the layers that two of the shown runs have, or all where one run is shown, in forward order."""
    theirs = Counter(layer for run in shown_runs(view) for layer in layers_of(view.of_run(run)))
    least = min(2, len(shown_runs(view)))
    return [layer for layer in view.study.layers if theirs[layer] >= least]


def one_run(view: View) -> str:
    """Say that there is nothing to compare, where that is so."""
    return "" if len(shown_runs(view)) > 1 else "there is one run only"


class Cell(NamedTuple):
    """One layer, or all, at one checkpoint.

    Args:
        checkpoint: index into study.checkpoints.
        layer: its name, or ALL_LAYERS.
        size: the number of units, alive or not.
        counts: (G + 5,) units, as `kinds` names them.
    """

    checkpoint: int
    layer: str
    size: int
    counts: Sampled


def kinds(groups: Groups) -> list[tuple[str, str]]:
    """List the states and groups that units are counted by: groups, what is not interpretable, all interpretable."""
    return [*(("interpretable", name) for name in groups.names), *((state, "") for state in WHOLE), (ALL, "")]


def cells(view: View, groups: Groups) -> Iterator[Cell]:
    """Count the view's run at every checkpoint: in every layer that it has there, then in all of them together."""
    study, names = view.study, layers_of(view)
    for checkpoint in view.checkpoints:
        for name in (*names, ALL_LAYERS):
            rows = view.rows(checkpoint, None if name == ALL_LAYERS else study.layers.index(name))
            if len(rows):
                found = tally(view, groups, rows)
                size = len(groups.names)
                value = np.append(found.value, found.value[:size].sum())
                resampled = np.vstack([found.resampled, found.resampled[:size].sum(axis=0)])
                yield Cell(checkpoint, name, len(rows), Sampled(value, resampled))


def drawn_layers(view: View) -> list[str]:
    """List the layers that `compared_layers` does, then all that the shown runs have together where there are two."""
    return [*compared_layers(view), *([ALL_LAYERS] if len(layers_of_runs(view)) > 1 else [])]


def spread_of(rows: Table, name: str, scale: float = 1.0) -> tuple[float, float, float]:
    """Return the number of a table's one row with its interval's ends."""
    low, high = (float(scale * rows[f"{name}_{end}"][0]) for end in ("low", "high"))
    return float(scale * rows[name][0]), low, high


def draw_forest(
    page: Page,
    box: tuple[float, float, float],
    entries: Sequence[Entry],
    label: str,
    room: float = 0.0,
    missing: str = "no unit is interpretable",
) -> float:
    """Draw differences beside 0, a line for every entry below its name; return the height that this takes.

    Args:
        page: to draw on.
        box: where the names begin, the panel's top, and the width of names, panel and what is said beside it.
        entries: from above.
        label: of the axis.
        room: inches that are kept for what is said on the right.
        missing: why there is no entry.
    """
    left, top, width = box
    pitch = [max(0.165, 0.078 * len(entry.points) + 0.06) for entry in entries] or [0.3]
    height, panel = sum(pitch) + 0.08, width - NAMES - room
    axes = page.panel(left + NAMES, top, panel, height)
    axes.set(ylim=(height, 0), yticks=[])
    if not entries:
        axes.text(0.5, 0.5, missing, transform=axes.transAxes, **NOTE)
        axes.set_axis_off()
        return height
    axes.axvline(0, color=GREY, lw=0.6, zorder=1)
    at = 0.04
    for entry, tall in zip(entries, pitch, strict=True):
        middle = at + tall / 2
        if len(entry.points) > 1 and entry is not entries[0]:  # or else many runs' marks run together
            axes.axhline(at, color=FAINT, lw=0.4, zorder=0)
        if entry.colour:
            page.mark(left + 0.045, top + middle, {"facecolor": entry.colour})
        indent = 0.13 if entry.colour else 0.0
        page.text(left + indent, top + middle + 0.035, fit(entry.name, NAMES - indent - 0.08, SMALL), size=SMALL)
        page.text(left + width, top + middle + 0.035, entry.said, size=SMALL, color=GREY, ha="right")
        for i, point in enumerate(entry.points):
            y = middle + (i - (len(entry.points) - 1) / 2) * 0.078
            axes.hlines(y, point.low, point.high, color=point.look["color"], lw=0.9, zorder=2)
            axes.plot(point.value, y, zorder=3, **_marked(point))
        at += tall
    every = [n for entry in entries for point in entry.points for n in point[:3] if np.isfinite(n)]
    low, high = min([0.0, *every]), max([0.0, *every])
    margin = 0.07 * (high - low) or 1.0
    axes.set_xlim(low - margin, high + margin)
    axes.locator_params(axis="x", nbins=5 if panel > 1.2 else 4, integer=True)
    axes.xaxis.set_major_formatter(lambda number, _: f"{number:+,.0f}".replace("-", "−") if number else "0")
    axes.set_xlabel(label, labelpad=2)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return height


def _marked(point: Point) -> dict[str, Any]:
    """Return a point's look, hollow where its interval holds 0."""
    look = {name: how for name, how in point.look.items() if name not in ("ls", "lw")}
    if point.low <= 0 <= point.high:
        look |= {"mfc": "white", "mec": look["color"], "mew": 0.8}
    return look | {"ls": "none", "clip_on": False}


def known_intervals(table: Table, name: str) -> bool:
    """Tell whether any interval of a column is known."""
    return bool(np.isfinite(table[f"{name}_low"]).any())
