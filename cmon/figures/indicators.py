"""All indices of a run's layers by step, each with its interval."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmon.figures.categories import label_steps, positions
from cmon.figures.columns import chosen, layers_alike, layers_of
from cmon.figures.grid import index_grid
from cmon.figures.intervals import draw_band
from cmon.figures.style import GREY, Mark, layer_colours, styled
from cmon.records import STATES, Table, View
from cmon.statistics.history import Measured, Numbers
from cmon.statistics.trends import indices

COLUMNS: dict[str, type] = {
    **dict.fromkeys(("run", "checkpoint"), str),
    "step": np.int64,
    **dict.fromkeys(("layer", "indicator"), str),
    **dict.fromkeys(("value", "low", "high"), np.float64),
}
UNTRAINED = "untrained_interpretable_share"
LINES: dict[str, Any] = {"lw": 1.1}
DASHED: dict[str, Any] = {"lw": 0.9, "ls": (0, (4, 2))}
DOTTED: dict[str, Any] = {"lw": 0.9, "ls": (0, (1, 1.6))}
MARKERS = "os^Dv<>ph"
MANY = 15  # checkpoints, from which marks are small


class Panel(NamedTuple):
    """One panel: its heading, the line beneath, its indicators with how each is drawn and explained, its axis."""

    heading: str
    below: str
    looks: dict[str, tuple[dict[str, Any], str]]
    in_per_cent: bool = False


SHARE = "share of the layer's units"
STATE_LOOKS = {
    "dead_share": (LINES, "units not alive: solid, dead"),
    "constant_share": (DASHED, "dashed, constant"),
    "saturated_share": (DOTTED, "dotted, saturated"),
}
WORD_LOOKS = {"drifted": (LINES, "words: solid, drifted"), "changed": (DOTTED, "dotted, changed at all")}
PANELS = (
    Panel("interpretable units", SHARE, {"interpretable_share": (LINES, "")}, True),
    Panel("units that are not alive", SHARE, STATE_LOOKS, True),
    Panel("unique words", "of interpretable units", {"unique_concepts": (LINES, "")}),
    Panel("effective number of words", "exp of their entropy", {"effective_concepts": (LINES, "")}),
    Panel("spread", "mean cosine distance of two units", {"spread": (LINES, "")}),
    Panel("d_anchor", "mean distance to the nearest anchor", {"d_anchor": (LINES, "")}),
    Panel("confidence", "same word in resamples, median", {"label_confidence": (LINES, "")}, True),
    Panel("words that changed", "since the checkpoint before", WORD_LOOKS, True),
)


def table(view: View) -> Table:
    """List every indicator of every layer at every checkpoint of the run, with the ends of its interval.

    The indicators are those of `cmon.statistics.trends.indices`, and the shares of a layer's units that are
    interpretable, dead, constant and saturated. Rows without a checkpoint, of step -1, say what share of the units of
    untrained networks is interpretable: the mean over seeds, and the least and the greatest.
    """
    study, rows = view.study, []
    for name in layers_of(view):
        layer = study.layers.index(name)
        for indicator, (value, low, high) in _followed(view, layer).items():
            for i, k in enumerate(view.checkpoints):
                if len(view.rows(k, layer)):
                    place = (study.runs[view.run], study.checkpoints[k].name, view.step(k), name, indicator)
                    rows.append((*place, value[i], low[i], high[i]))
        base = study.baseline
        mine = (base.run == view.run) & (base.layer == layer)
        if mine.any():
            share = base.interpretable[mine] / base.units[mine]
            rows.append((study.runs[view.run], "", -1, name, UNTRAINED, share.mean(), share.min(), share.max()))
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    return {n: np.array(column, dtype=COLUMNS[n]) for n, column in zip(COLUMNS, columns, strict=True)}


def _followed(view: View, layer: int) -> dict[str, tuple[Numbers, Numbers, Numbers]]:
    """Return indicator -> value, low, high, (K,) each, of one layer."""
    found = indices(view.study, view.run, layer)
    states = [view.study.units.state[view.rows(k, layer)] for k in view.checkpoints]
    sizes = np.array([max(len(state), 1) for state in states])
    count = found.pop("interpretable")
    shares = {"interpretable_share": Measured(count.value / sizes, count.error / sizes)}
    for i, state in enumerate(STATES[1:], start=1):
        share = np.array([(of_unit == i).sum() for of_unit in states]) / sizes
        shares[f"{state}_share"] = Measured(share, np.full(len(sizes), np.nan))
    bounded = {*shares, "label_confidence", "changed", "drifted"}
    followed = shares | found
    return {name: (one.value, *one.within(0, 1 if name in bounded else np.inf)) for name, one in followed.items()}


@styled
def draw(view: View, table: Table) -> Figure:
    """Draw a panel for every index that is known, with a line for every layer."""
    layers, alike = layers_of(view), layers_alike(view)
    colours = layer_colours(alike)
    drawn = _drawn(table)
    panels = [panel for panel in PANELS if drawn & panel.looks.keys()]
    title = f"{view.study.runs[view.run]}: indices by step"
    page, grid = index_grid(title, {panel.heading: panel.below for panel in panels})
    markers = {layer: MARKERS[i % len(MARKERS)] for i, layer in enumerate(alike)}
    for panel in panels:
        axes, looks = grid[panel.heading], {n: how for n, (how, _) in panel.looks.items() if n in drawn}
        for i, layer in enumerate(layers):
            aside = (i + 1) / (len(layers) + 1) - 0.5
            _lines(axes, chosen(table, layer=layer), looks, colours[layer], markers[layer], aside)
        steps = chosen(table, layer=layers[-1], indicator=next(iter(looks)))["step"]
        places, evenly = positions(steps)
        label_steps(axes, places, steps, evenly)
        _scale(axes, panel.in_per_cent)
    page.legend([(layer, {"color": colours[layer], "marker": markers[layer], "ms": 4, "lw": 1.1}) for layer in layers])
    page.legend(list(_explained(panels, drawn)))
    return page.finish(view.caption)


def _drawn(table: Table) -> set[str]:
    """Collect the indicators that are known somewhere; of states that do not occur, only the first."""
    known = set(table["indicator"][np.isfinite(table["value"])])
    return known - ({"constant_share", "saturated_share"} - set(table["indicator"][table["value"] > 0]))


def _lines(axes: Axes, rows: Table, looks: dict[str, dict[str, Any]], colour: str, marker: str, aside: float) -> None:
    """Draw one layer's indicators over its steps; at a single checkpoint layers stand side by side."""
    for i, (indicator, look) in enumerate(looks.items()):
        line = chosen(rows, indicator=indicator)
        places, _ = positions(line["step"])
        margin = 1.5 if len(places) == 1 else 0.03 * (places[-1] - places[0])
        axes.set_xlim(places[0] - margin, places[-1] + margin)
        places = places + (2 * aside if len(places) == 1 else 0)
        if i and not (line["value"] > 0).any():
            continue  # a state that other layers' units are in
        draw_band(axes, places, line["low"], line["high"], colour)
        look = look | {"color": colour, "clip_on": False, "zorder": 4}
        if i == 0:
            size = 2.0 if len(places) > MANY else 3.2
            axes.plot(places, line["value"], marker=marker, ms=size, mec="none", **look)
        elif len(places) == 1:  # which has no line to be dashed
            axes.plot(places + np.array([-0.25, 0.25]), line["value"][[0, 0]], **look)
        else:
            axes.plot(places, line["value"], **look)
        if indicator == "interpretable_share":
            _draw_untrained(axes, chosen(rows, indicator=UNTRAINED), colour)


def _draw_untrained(axes: Axes, rows: Table, colour: str) -> None:
    for value, low, high in zip(rows["value"], rows["low"], rows["high"], strict=True):
        axes.axhline(value, color=colour, zorder=3, **DASHED)
        axes.axhspan(low, high, color=colour, alpha=0.1, lw=0, zorder=1)


def _scale(axes: Axes, in_per_cent: bool) -> None:
    """Let the axis begin at 0, or at what is smallest where that is far from 0, and say shares in per cent."""
    low, high = axes.get_ylim()
    axes.set_ylim(0 if in_per_cent or low < 0.5 * high else low, high if axes.dataLim.y1 > 0 else 1)
    if in_per_cent:
        axes.set_ylim(0, 1 if high > 0.6 else max(high, 0.02))
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %" if share else "0")
    axes.locator_params(axis="y", nbins=4)
    axes.spines[["top", "right"]].set_visible(False)


def _explained(panels: list[Panel], drawn: set[str]) -> Iterator[Mark]:
    """Say what each kind of line is that is drawn."""
    if UNTRAINED in drawn:
        yield "dashed: untrained networks", {"color": GREY, **DASHED}
    for panel in panels:
        for indicator, (how, text) in panel.looks.items():
            if indicator in drawn and text:
                yield text, {"color": GREY, **how}
