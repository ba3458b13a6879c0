"""Births and deaths of the concepts of a run's layers, with the lifetimes of those held most."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmon.figures.categories import Groups, label_steps
from cmon.figures.columns import chosen, layers_of
from cmon.figures.intervals import draw_whiskers, plus_minus
from cmon.figures.style import GREY, NORMAL, PAGE_WIDTH, SMALL, Page, Rows, fit, fit_layer, styled
from cmon.records import Study, Table, View
from cmon.statistics.history import History
from cmon.statistics.lifetimes import Lifetimes, lifetimes

COLUMNS: dict[str, type] = {
    **dict.fromkeys(("run", "layer", "kind", "concept", "category", "checkpoint"), str),
    "step": np.int64,
    **dict.fromkeys(("count", "low", "high"), np.float64),
    **dict.fromkeys(("born_step", "last_step", "checkpoints"), np.int64),
}
MOST = 12  # concepts drawn of a layer
BORN, DIED = "#808080", "#c8c8c8"  # apart from the categories' colours
ROW = 0.14  # inches from one lifetime to the next
LEFT, WIDTH, NAMES, BARS, RIGHT = 0.45, 2.1, 2.75, 4.2, 6.45  # inches: both panels, the names between, the peaks after
LINE: dict[str, Any] = {"color": "#b0b0b0", "lw": 0.5, "zorder": 1}
NOTE: dict[str, Any] = {"ha": "center", "va": "center", "size": SMALL, "color": GREY, "style": "italic"}


def table(view: View) -> Table:
    """List births and deaths at every checkpoint, the lifetime of every concept, and what is drawn of the longest.

    Four kinds of rows. `births`: how many concepts some interpretable unit of the layer holds for the first time;
    `deaths`: how many were last held at the checkpoint before; both are NaN at the first. `lifetime`, for every
    concept: held from `born_step` to `last_step`, at so many `checkpoints` of these, by most units at `checkpoint`.
    `units`, for the concepts that are drawn: how many units hold it. `low` and `high` are the ends of an interval; what
    a row does not say is "", -1 or NaN.
    """
    study, rows = view.study, []
    for layer in layers_of(view):
        found = lifetimes(History.of(study, view.run, study.layers.index(layer)))
        rows += [(study.runs[view.run], layer, *row) for row in _rows(view, found)]
    columns = list(zip(*rows, strict=True))
    return {n: np.array(column, dtype=COLUMNS[n]) for n, column in zip(COLUMNS, columns, strict=True)}


def _rows(view: View, found: Lifetimes) -> Iterator[tuple[Any, ...]]:
    """Yield one layer's rows, without its names."""
    study = view.study
    places = [(study.checkpoints[k].name, view.step(k)) for k in view.checkpoints]
    for kind, counts in (("births", found.births), ("deaths", found.deaths)):
        for place, *numbers in zip(places, counts.value, *counts.within(), strict=True):
            yield (kind, "", "", *place, *numbers, -1, -1, -1)
    value, (low, high) = found.holders.value, found.holders.within()
    texts = [(study.concepts.names[word], study.concepts.categories[word]) for word in found.words.tolist()]
    ends = zip(found.born.tolist(), found.last.tolist(), strict=True)
    for v, (born, last) in enumerate(ends):
        k = int(np.argmax(value[:, v]))
        life = places[born][1], places[last][1], int((value[:, v] > 0).sum())
        yield ("lifetime", *texts[v], *places[k], value[k, v], low[k, v], high[k, v], *life)
    for v in longest(found).tolist():
        for k, place in enumerate(places):
            yield ("units", *texts[v], *place, value[k, v], low[k, v], high[k, v], -1, -1, -1)


def longest(found: Lifetimes) -> Rows:
    """Choose the concepts that most units hold, summed over checkpoints, 12 at most, by when they are born and die."""
    held = found.holders.value.sum(axis=0)
    most = np.argsort(-held, kind="stable")[:MOST]
    return most[np.lexsort((-held[most], found.last[most], found.born[most]))]


@styled
def draw(view: View, table: Table) -> Figure:
    """Draw two panels for every layer: births and deaths, lifetimes."""
    groups = Groups.of(view.study)
    page = Page(PAGE_WIDTH, f"{view.study.runs[view.run]}: births, deaths and lifetimes of words")
    for layer in layers_of(view):
        _draw_layer(page, view, chosen(table, layer=layer), layer, groups)
    page.legend([("first held by an interpretable unit", {"facecolor": BORN}), ("held no more", {"facecolor": DIED})])
    page.legend(groups.marks(()))
    return page.finish(view.caption)


def _draw_layer(page: Page, view: View, rows: Table, layer: str, groups: Groups) -> None:
    top, lives = page.y, chosen(rows, kind="lifetime")
    page.text(0.1, top + 0.08, fit_layer(layer, NAMES - 0.3, NORMAL, "bold"), weight="bold")
    page.text(0.1, top + 0.21, fit(_sum(view, lives), NAMES - 0.2, SMALL), size=SMALL, color=GREY)
    drawn = chosen(rows, kind="units")
    steps = chosen(rows, kind="births")["step"]
    counts = drawn["count"].reshape(-1, len(steps))
    height = max(1.05, len(counts) * ROW)
    births, bars = page.panel(LEFT, top + 0.3, WIDTH, height), page.panel(BARS, top + 0.3, RIGHT - 0.07 - BARS, height)
    for axes in (births, bars):
        label_steps(axes, np.arange(len(steps), dtype=np.float64), steps, True)
        axes.set_xlim(-0.5, len(steps) - 0.5)
        axes.spines[["top", "right"]].set_visible(False)
    _draw_births(births, rows)
    bars.set(ylim=(max(len(counts), height / ROW) - 0.5, -0.5), yticks=[])
    if not len(counts):
        bars.text(0.5, 0.5, "no unit is interpretable", transform=bars.transAxes, **NOTE)
    else:
        many = f"the {len(counts)} words that most units hold" if len(counts) < len(lives["concept"]) else "all words"
        page.text(NAMES, top + 0.21, many, size=SMALL, color=GREY)
        page.text(page.width - 0.1, top + 0.21, "most units", ha="right", size=SMALL, color=GREY)
    for i, held in enumerate(counts):
        concept, category = (drawn[name][i * len(steps)] for name in ("concept", "category"))
        colour = groups.by_concept[_place(view.study, concept, category)]
        _draw_life(bars, i, held, counts.max(), colour)
        y = top + 0.3 + (i + 0.5) * ROW + 0.035
        page.text(NAMES, y, fit(concept, BARS - NAMES - 0.08, SMALL), size=SMALL)
        peak = chosen(lives, concept=concept, category=category)
        error = max(peak["high"][0] - peak["count"][0], peak["count"][0] - peak["low"][0])
        page.text(page.width - 0.1, y, plus_minus(peak["count"][0], error), ha="right", size=SMALL, color=GREY)
    page.y = top + 0.3 + height + 0.5


def _sum(view: View, lives: Table) -> str:
    """Say how many words a layer has at its first and its last checkpoint, and ever."""
    steps = [view.step(k) for k in view.checkpoints]
    first, last = (lives["born_step"] == steps[0]).sum(), (lives["last_step"] == steps[-1]).sum()
    return f"{first:,} words at the first step, {last:,} at the last, {len(lives['concept']):,} ever"


def _place(study: Study, concept: str, category: str) -> int:
    return list(zip(study.concepts.names, study.concepts.categories, strict=True)).index((concept, category))


def _draw_births(axes: Axes, rows: Table) -> None:
    """Draw births upwards and deaths downwards, with whiskers for their intervals."""
    most = 1.0
    for kind, way, colour in (("births", 1, BORN), ("deaths", -1, DIED)):
        events = chosen(rows, kind=kind)
        places = np.arange(len(events["step"]), dtype=np.float64)
        axes.bar(places, way * events["count"], 0.8, color=colour, lw=0)
        draw_whiskers(axes, places, way * events["low"], way * events["high"])
        most = max([most, *events["count"][1:], *events["high"][np.isfinite(events["high"])]])
        if len(places) == 1:
            axes.text(0.5, 0.25, "there is one checkpoint", transform=axes.transAxes, **NOTE)
    axes.set_ylim(-1.08 * most, 1.08 * most)
    axes.axhline(0, color=GREY, lw=0.5)
    axes.locator_params(axis="y", nbins=5, integer=True)
    axes.yaxis.set_major_formatter(lambda count, _: f"{abs(count):,.0f}")
    axes.set_ylabel("died     born", labelpad=1)


def _draw_life(axes: Axes, row: int, held: Any, most: float, colour: str) -> None:
    """Draw one concept's line from its first to its last checkpoint, as thick at each as units hold it there."""
    at = np.flatnonzero(held)
    axes.hlines(row, at[0] - 0.5, at[-1] + 0.5, **LINE)
    thick = np.maximum(0.92 * held[at] / most, 0.1)
    axes.bar(at, thick, 1.0, row - thick / 2, color=colour, lw=0, zorder=2)
