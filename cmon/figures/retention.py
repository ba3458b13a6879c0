"""How many of a layer's clearest units are later what they were at a reference checkpoint."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmon.figures.columns import chosen, layers_of
from cmon.figures.grid import layer_grid
from cmon.figures.intervals import draw_band
from cmon.figures.meaning import near_cosine
from cmon.figures.style import CYCLE, GREY, INK, SMALL, Mark, styled
from cmon.records import FloatArray, Table, View
from cmon.statistics.history import History
from cmon.statistics.retention import KINDS, PERCENTS, Lexicon, Retention, retention
from cmon.statistics.trends import category_codes

COLUMNS: dict[str, type] = {
    **dict.fromkeys(("run", "layer"), str),
    **dict.fromkeys(("reference_step", "last_step", "percent", "units"), np.int64),
    "kind": str,
    **dict.fromkeys(("share", "low", "high", "near"), np.float64),
}


class Kind(NamedTuple):
    """One line of the figure."""

    text: str
    look: dict[str, Any]


# In this order, large marks beneath small ones, all stay visible where lines coincide.
LOOKS = {
    "category": Kind(
        "same category at the last step",
        {"color": CYCLE[5], "marker": "s", "ms": 5.2, "mfc": "white", "mew": 1.0},
    ),
    "meaning": Kind(
        "near in meaning at the last step (cosine at least {near:.3g})",
        {"color": CYCLE[0], "marker": "^", "ms": 4.6, "mec": "none"},
    ),
    "final": Kind("same word at the last step", {"color": CYCLE[2], "marker": "D", "ms": 3.0, "mec": "none"}),
    "strict": Kind("same word at every later step", {"color": INK, "marker": "o", "ms": 2.4, "mec": "none"}),
}
FLICKER: dict[str, Any] = {"color": GREY, "ls": (0, (1, 1.6)), "lw": 1.1}


def table(view: View) -> Table:
    """List, for every layer and each x, what share of its x % most interpretable units kept what they were.

    `units` is the number of units of which `share` is taken; `low` and `high` are the ends of its interval. The kinds
    are those of `cmon.statistics.retention`, and `flicker`, the share that resamples of the reference checkpoint's own
    images keep. NaN where there is no unit, no later checkpoint, no category or no resample.
    """
    return table_of(view, retained(view))


def retained(view: View) -> dict[str, Retention]:
    """Return R(x) of every layer of the view's run."""
    lexicon, layers = lexicon_of(view), view.study.layers
    return {name: retention(*followed(view, layers.index(name)), lexicon) for name in layers_of(view)}


def table_of(view: View, layers: Mapping[str, Retention]) -> Table:
    """List what every layer of the view's run retained, as `table` does."""
    study, near = view.study, near_cosine(view)
    ends = (view.step(reference_of(view)), view.step(view.checkpoints[-1]))
    rows: list[tuple[Any, ...]] = []
    for name, found in layers.items():
        low, high = found.share.measured().within(0, 1)
        for x, (percent, units) in enumerate(zip(PERCENTS, found.units, strict=True)):
            place = (study.runs[view.run], name, *ends, percent, units)
            for i, kind in enumerate(KINDS):
                rows.append((*place, kind, found.share.value[i, x], low[i, x], high[i, x], near))
            rows.append((*place, "flicker", found.flicker[x], np.nan, np.nan, near))
    columns = zip(*rows, strict=True)
    return {n: np.array(column, dtype=COLUMNS[n]) for n, column in zip(COLUMNS, columns, strict=True)}


def lexicon_of(view: View) -> Lexicon:
    """Return how words are compared."""
    concepts = view.study.concepts
    return Lexicon(category_codes(concepts.categories), view.study.concept_features, near_cosine(view))


def followed(view: View, layer: int) -> tuple[History, int, FloatArray, FloatArray]:
    """Return what `retention` takes of one layer: words, the reference's place among them, its scores (U,), (U, B)."""
    history, reference, own = History.of(view.study, view.run, layer), reference_of(view), view.study.units
    here = view.rows(reference, layer)
    score = np.full(history.concept.shape[1], np.nan, dtype=np.float32)
    again = np.full((len(score), history.resamples), np.nan, dtype=np.float32)
    score[own.unit[here]], again[own.unit[here]] = own.score[here], own.resampled_score[here]
    return history, view.checkpoints.index(reference), score, again


def reference_of(view: View) -> int:
    """Return the checkpoint, index into study.checkpoints, that units are followed from."""
    reference = view.checkpoints[0] if view.reference is None else view.reference
    assert reference in view.checkpoints, "the reference is a checkpoint of the run"
    return reference


@styled
def draw(view: View, table: Table) -> Figure:
    """Draw a panel of the four kinds over x for every layer."""
    rows = {layer: chosen(table, layer=layer) for layer in layers_of(view)}
    start, end = table["reference_step"][0], table["last_step"][0]
    later = f"to step {end:,}" if end > start else "on"
    title = f"{view.study.runs[view.run]}: what units kept from step {start:,} {later}"
    below = {layer: f"{of_layer['units'].max():,} interpretable at step {start:,}" for layer, of_layer in rows.items()}
    page, panels = layer_grid(title, below, "share of these units")
    kinds = [kind for kind in LOOKS if kind != "category" or any(view.study.concepts.categories)]
    for layer, axes in panels.items():
        _lines(axes, rows[layer], kinds)
    marks: list[Mark] = [
        (LOOKS[kind].text.format(near=table["near"][0]), LOOKS[kind].look | {"lw": 1.1}) for kind in reversed(kinds)
    ]
    if np.isfinite(table["share"][table["kind"] == "flicker"]).any():
        marks.append((f"dotted: same word at step {start:,} itself, in resamples of the images", FLICKER))
    page.legend(marks)
    return page.finish(view.caption)


def _lines(axes: Axes, rows: Table, kinds: list[str]) -> None:
    """Draw one layer's shares, or why there are none."""
    places = np.array(PERCENTS, dtype=np.float64)
    flicker = chosen(rows, kind="flicker")
    axes.plot(places, flicker["share"], clip_on=False, zorder=3, **FLICKER)
    for i, kind in enumerate(kinds):
        line, look = chosen(rows, kind=kind), LOOKS[kind].look
        draw_band(axes, places, line["low"], line["high"], str(look["color"]), 0.13)
        axes.plot(places, line["share"], lw=1.1, clip_on=False, zorder=4 + i, **look)
    missing = ""
    if rows["reference_step"][0] == rows["last_step"][0]:
        missing = "there is no later checkpoint"
    elif not rows["units"].max():
        missing = "no unit was interpretable"
    if missing:
        how: dict[str, Any] = {"ha": "center", "va": "center", "size": SMALL, "color": GREY, "style": "italic"}
        axes.text(0.5, 0.5, missing, transform=axes.transAxes, **how)
    finish_axes(axes)


def finish_axes(axes: Axes) -> None:
    """Set the scales of shares over the most interpretable x per cent."""
    axes.set(ylim=(0, 1), yticks=[0, 0.5, 1], yticklabels=["0", "50 %", "100 %"], xlim=(0, 103))
    axes.set_yticks([0.25, 0.75], minor=True)
    axes.set_xticks([5, 25, 50, 75, 100], ["5", "25", "50", "75", "100 %"])
    axes.set_xlabel("the most interpretable x %", labelpad=2)
    axes.tick_params(axis="both", which="minor", length=1.5, width=0.4)
    axes.spines[["top", "right"]].set_visible(False)
