"""How often two detectors give one unit the same word, words near in meaning, or words of the same category."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmon.figures.categories import label_steps, positions
from cmon.figures.columns import chosen, layers_of
from cmon.figures.grid import layer_grid
from cmon.figures.style import (
    CYCLE,
    GREY,
    INK,
    SMALL,
    Mark,
    Rows,
    styled,
)
from cmon.records import BoolArray, Study, Table, View

COLUMNS: dict[str, type] = {
    **dict.fromkeys(("run", "checkpoint"), str),
    "step": np.int64,
    **dict.fromkeys(("layer", "first", "second"), str),
    **dict.fromkeys(("units", "dead", "first_interpretable", "second_interpretable", "both"), np.int64),
    **dict.fromkeys(("same_word", "near_meaning", "same_category"), np.float64),
    **dict.fromkeys(("chance_word", "chance_near", "chance_category", "mean_cosine", "near"), np.float64),
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
FEW_PAIRS, MOST_WORDS = 0.01, 1000
MANY = 15  # checkpoints, from which marks are small


class Words(NamedTuple):
    """The words that one detector gave N units.

    Args:
        names: (V,) the different ones.
        categories: (V,) "" where a word has none.
        features: (V, D) float64, unit norm.
        of_unit: (N,) index of each unit's word.
    """

    names: tuple[str, ...]
    categories: tuple[str, ...]
    features: npt.NDArray[np.float64]
    of_unit: Rows

    @classmethod
    def of(cls, study: Study, rows: Rows) -> "Words":
        """Collect the words of rows of the table of units, all alive."""
        concepts, of_unit = np.unique(study.units.concept[rows], return_inverse=True)
        names = tuple(study.concepts.names[concept] for concept in concepts)
        categories = tuple(study.concepts.categories[concept] for concept in concepts)
        return cls(names, categories, study.concept_features[concepts].astype(np.float64), of_unit)


def table(view: View) -> Table:
    """List, for every checkpoint of the run and every layer, how often the two words of a unit agree.

    `both` counts the units that are alive and interpretable under both detectors. Shares, in [0, 1], are of those; that
    of the category is of those whose two words both have one. A `chance_` is the same share over all pairs of the first
    detector's word of one unit with the second's of another or the same: what dealing the words at random gives. NaN
    where there is no unit.
    """
    study, other, near = view.study, _other(view), near_cosine(view)
    rows: list[tuple[Any, ...]] = []
    for checkpoint in view.checkpoints:
        for name in layers_of(view):
            here = view.rows(checkpoint, study.layers.index(name))
            alive = study.units.alive[here] & other.units.alive[here]
            first, second = (one.units.interpretable[here] & one.units.alive[here] for one in (study, other))
            place = (study.runs[view.run], study.checkpoints[checkpoint].name, view.step(checkpoint), name)
            counts = (len(here), (~alive).sum(), first.sum(), second.sum(), (first & second).sum())
            clear = here[first & second]
            shares = _compared(Words.of(study, clear), Words.of(other, clear), near)
            rows.append((*place, study.detector, other.detector, *counts, *shares, near))
    columns = zip(*rows, strict=True)
    return {n: np.array(column, dtype=COLUMNS[n]) for n, column in zip(COLUMNS, columns, strict=True)}


def near_cosine(view: View) -> float:
    """Return the cosine from which two words are near: the view's, or else what 1 % of pairs of concepts exceed.

    Encoders differ in how far apart they put words that have nothing in common, so that no fixed cosine means the same
    for all. Beyond 1,000 different words, as many are taken evenly from all.
    """
    if view.near is not None:
        return view.near
    rows = np.sort(np.unique(np.array(view.study.concepts.names), return_index=True)[1])
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_WORDS)).round().astype(int))]
    features = view.study.concept_features[rows].astype(np.float64)
    pairs = (features @ features.T)[np.triu_indices(len(rows), 1)]
    return min(float(np.quantile(pairs, 1 - FEW_PAIRS)), 1.0) if len(pairs) else 1.0


def _other(view: View) -> Study:
    """Return the second detector's study, row by row of the same units."""
    assert view.other is not None
    first, second = view.study, view.other
    assert (first.runs, first.checkpoints, first.layers) == (second.runs, second.checkpoints, second.layers)
    for column in ("run", "checkpoint", "layer", "unit"):
        assert np.array_equal(getattr(first.units, column), getattr(second.units, column)), column
    return second


def _compared(first: Words, second: Words, near: float) -> tuple[float, ...]:
    """Return the three shares, their three chances and the mean cosine; NaN without units."""
    cosines = first.features @ second.features.T
    same_word = _equal(first.names, second.names)
    # A word's cosine with itself may round to just below 1.
    near_meaning = same_word | (cosines >= near)
    has_one, has_two = (np.array([*map(bool, words.categories)], bool) for words in (first, second))
    known = has_one[first.of_unit] & has_two[second.of_unit]
    every = np.ones_like(known)
    shares, chances = zip(
        _share(same_word, first, second, every),
        _share(near_meaning, first, second, every),
        _share(_equal(first.categories, second.categories), first, second, known),
        strict=True,
    )
    mean_cosine = cosines[first.of_unit, second.of_unit].mean() if len(known) else np.nan
    return (*shares, *chances, mean_cosine)


def _equal(first: Sequence[str], second: Sequence[str]) -> BoolArray:
    """Compare all texts of one list with all of another, (V, W)."""
    _, codes = np.unique([*first, *second], return_inverse=True)
    return np.asarray(codes[: len(first), None] == codes[None, len(first) :])


def _share(agrees: BoolArray, first: Words, second: Words, of: BoolArray) -> tuple[float, float]:
    """Average over some units whether their two words agree, (V, W), then over all pairs of these units."""
    if not of.any():
        return np.nan, np.nan
    one, two = first.of_unit[of], second.of_unit[of]
    often_one, often_two = (np.bincount(words, minlength=n) for words, n in zip((one, two), agrees.shape, strict=True))
    return float(agrees[one, two].mean()), float(often_one @ agrees @ often_two / len(one) ** 2)


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
    fewest, most = rows["both"].min(), rows["both"].max()
    return f"both: {f'{fewest:,} to ' if fewest < most else ''}{most:,} of {rows['units'].max():,} units"


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
        for start in np.flatnonzero(_alone(chance)):
            axes.plot(x[start] + np.array([-0.4, 0.4]) * gap, chance[[start, start]], color=sense.look["color"], **dots)
        axes.plot(x, chance, color=sense.look["color"], clip_on=False, **dots)
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


def _alone(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Find the known values between unknown ones."""
    known = np.concatenate([[False], np.isfinite(values), [False]])
    return np.asarray(known[1:-1] & ~known[:-2] & ~known[2:])


def _marks(senses: Sequence[Sense], near: float) -> list[Mark]:
    """List a legend's marks, the narrowest sense first."""
    lines = [(sense.text.format(near=near), sense.look) for sense in reversed(senses)]
    return [*lines, ("dotted: if words were dealt at random", {"color": GREY, **CHANCE})]
