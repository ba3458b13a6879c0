"""How often two detectors give one unit the same word, words near in meaning, or words of the same category."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmon.figures.categories import label_steps, positions
from cmon.figures.columns import chosen, layers_of
from cmon.figures.grid import layer_grid
from cmon.figures.intervals import alone, draw_band, plus_minus
from cmon.figures.meaning import near_cosine
from cmon.figures.style import (
    CYCLE,
    GREY,
    INK,
    SMALL,
    Mark,
    styled,
)
from cmon.figures.words import Words, compared, resampled
from cmon.records import ALIVE, STATES, Study, Table, View
from cmon.statistics import half_width
from cmon.statistics.history import Measured

WITH_INTERVAL = ("both", "same_word", "near_meaning", "same_category")
COLUMNS: dict[str, type] = {
    **dict.fromkeys(("run", "checkpoint"), str),
    "step": np.int64,
    **dict.fromkeys(("layer", "first", "second"), str),
    **dict.fromkeys(("units", *STATES[1:], "first_interpretable", "second_interpretable", "both"), np.int64),
    **dict.fromkeys(("same_word", "near_meaning", "same_category"), np.float64),
    **dict.fromkeys(("chance_word", "chance_near", "chance_category", "mean_cosine", "near"), np.float64),
    **{f"{name}_{end}": np.float64 for name in WITH_INTERVAL for end in ("low", "high")},
}


class Sense(NamedTuple):
    """One sense in which two words agree: a line of the figure, with the columns that it and its chance are in."""

    share: str
    chance: str
    text: str
    look: dict[str, Any]


# In this order, large marks beneath small ones, all stay visible where lines coincide.
SENSES = (
    Sense(
        "same_category",
        "chance_category",
        "same category",
        {"color": CYCLE[5], "marker": "s", "ms": 5.2, "mfc": "white", "mew": 1.0, "lw": 1.1},
    ),
    Sense(
        "near_meaning",
        "chance_near",
        "near in meaning: cosine of the words' features at least {near:.3g}",
        {"color": CYCLE[0], "marker": "^", "ms": 4.4, "mec": "none", "lw": 1.1},
    ),
    Sense(
        "same_word",
        "chance_word",
        "same word",
        {"color": INK, "marker": "o", "ms": 2.6, "mec": "none", "lw": 1.1},
    ),
)
CHANCE: dict[str, Any] = {"ls": (0, (1, 2.2)), "lw": 0.9}
BETWEEN: dict[str, Any] = {"ls": (1.6, (1, 2.2)), "lw": 0.9}  # its dots fall into CHANCE's gaps
MANY = 15  # checkpoints, from which marks are small


def table(view: View) -> Table:
    """List, for every checkpoint of the run and every layer, how often the two words of a unit agree.

    `both` counts the units that are alive and interpretable under both detectors. Shares, in [0, 1], are of those; that
    of the category is of those whose two words both have one. A `chance_` is the same share over all pairs of the first
    detector's word of one unit with the second's of another or the same: what dealing the words at random gives. NaN
    where there is no unit. A unit that is not alive under both detectors is counted as what the first, or else the
    second, says of it. A `_low` and a `_high` are the ends of an interval.
    """
    study, other, near = view.study, _other(view), near_cosine(view)
    rows: list[tuple[Any, ...]] = []
    for checkpoint in view.checkpoints:
        for name in layers_of(view):
            here = view.rows(checkpoint, study.layers.index(name))
            state = np.where(study.units.state[here] == ALIVE, other.units.state[here], study.units.state[here])
            first, second = (one.units.interpretable[here] & one.units.alive[here] for one in (study, other))
            place = (study.runs[view.run], study.checkpoints[checkpoint].name, view.step(checkpoint), name)
            lifeless = np.bincount(state, minlength=len(STATES))[1:]
            counts = (len(here), *lifeless, first.sum(), second.sum(), (first & second).sum())
            clear = here[first & second]
            shares = compared(Words.of(study, clear), Words.of(other, clear), near)
            errors = half_width(resampled(study, other, here, near))
            ends = Measured(np.array([counts[-1], *shares[:3]]), errors).within(0, np.array([len(here), 1, 1, 1]))
            rows.append((*place, study.detector, other.detector, *counts, *shares, near, *np.stack(ends, axis=1).flat))
    columns = zip(*rows, strict=True)
    return {n: np.array(column, dtype=COLUMNS[n]) for n, column in zip(COLUMNS, columns, strict=True)}


def _other(view: View) -> Study:
    """Return the second detector's study, row by row of the same units."""
    assert view.other is not None
    first, second = view.study, view.other
    assert (first.runs, first.checkpoints, first.layers) == (second.runs, second.checkpoints, second.layers)
    for column in ("run", "checkpoint", "layer", "unit"):
        assert np.array_equal(getattr(first.units, column), getattr(second.units, column)), column
    return second


@styled
def draw(view: View, table: Table) -> Figure:
    """Draw a panel of the three shares and their chances for every layer."""
    other = _other(view)
    rows = {layer: chosen(table, layer=layer) for layer in layers_of(view)}
    title = f"{view.study.runs[view.run]}: how often {view.study.detector} and {other.detector} agree"
    both = {layer: counted_both(of_layer) for layer, of_layer in rows.items()}
    page, panels = layer_grid(title, both, "share of units\nwith a word from both")
    senses = [sense for sense in SENSES if sense.share != "same_category" or _have_categories(view.study, other)]
    for layer, axes in panels.items():
        _lines(axes, rows[layer], senses)
    page.legend(_marks(senses, table["near"][0]))
    return page.finish(view.caption)


def counted_both(rows: Table) -> str:
    """Say how many units of a layer have a word from both detectors, at the least and at the most."""
    both = rows["both"]
    error = np.maximum(rows["both_high"] - both, both - rows["both_low"])
    ends = [plus_minus(both[at], error[at]) for at in (np.argmin(both), np.argmax(both))]
    return f"both: {' to '.join(ends if both.min() < both.max() else ends[:1])} of {rows['units'].max():,} units"


def _have_categories(first: Study, second: Study) -> bool:
    return any(first.concepts.categories) and any(second.concepts.categories)


def _lines(axes: Axes, rows: Table, senses: Sequence[Sense]) -> None:
    """Draw the shares and their chances over the steps; at a single checkpoint they stand side by side."""
    places, evenly = positions(rows["step"])
    label_steps(axes, places, rows["step"], evenly)
    single = len(places) == 1
    gap = 0.45 if single else float(np.median(np.diff(places)))
    small = 0.65 if len(places) > MANY else 1.0
    for i, sense in enumerate(senses):
        x = places + (gap * ((len(senses) - 1) / 2 - i) if single else 0)
        chance, dots = rows[sense.chance], BETWEEN if i % 2 else CHANCE
        # A line needs two neighbours: a chance that has none is drawn as one of its own.
        for start in np.flatnonzero(alone(chance)):
            axes.plot(x[start] + np.array([-0.4, 0.4]) * gap, chance[[start, start]], color=sense.look["color"], **dots)
        axes.plot(x, chance, color=sense.look["color"], clip_on=False, **dots)
        draw_band(axes, x, rows[f"{sense.share}_low"], rows[f"{sense.share}_high"], sense.look["color"])
        look = sense.look | {"ms": small * sense.look["ms"]}
        axes.plot(x, rows[sense.share], clip_on=False, zorder=3 + i, **look)
    if not rows["both"].any():
        how: dict[str, Any] = {"ha": "center", "va": "center", "size": SMALL, "color": GREY, "style": "italic"}
        axes.text(0.5, 0.5, "no unit has a word from both", transform=axes.transAxes, **how)
    axes.set(ylim=(0, 1), yticks=[0, 0.5, 1], yticklabels=["0", "50 %", "100 %"])
    axes.set_yticks([0.25, 0.75], minor=True)
    axes.tick_params(axis="y", which="minor", length=1.5, width=0.4)
    margin = 1.5 if single else 0.03 * (places[-1] - places[0])
    axes.set_xlim(places[0] - margin, places[-1] + margin)
    axes.spines[["top", "right"]].set_visible(False)


def _marks(senses: Sequence[Sense], near: float) -> list[Mark]:
    """List a legend's marks, the narrowest sense first."""
    lines = [(sense.text.format(near=near), sense.look) for sense in reversed(senses)]
    return [*lines, ("dotted: if words were dealt at random", {"color": GREY, **CHANCE})]
