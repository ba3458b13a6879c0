"""What kinds of concepts a run's layers hold: interpretable units by category at every checkpoint."""

from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import TICKDOWN

from cmon.figures.columns import chosen, layers_of
from cmon.figures.grid import layer_grid
from cmon.figures.intervals import draw_whiskers
from cmon.figures.style import (
    CATEGORIES,
    CYCLE,
    DEAD,
    MORE,
    NOT_INTERPRETABLE,
    OTHER,
    Counts,
    Mark,
    Points,
    Rows,
    category_colours,
    styled,
)
from cmon.records import STATES, Study, Table, View
from cmon.statistics.comparison import interpretable_counts
from cmon.statistics.history import Measured, Sampled

MOST_GROUPS = 9
WIDE = 1.7  # inches, of a panel with room for four steps
TICK: dict[str, Any] = {"marker": TICKDOWN, "ms": 1.5, "mew": 0.4}
WHOLE: dict[str, dict[str, Any]] = {
    "not interpretable": {"facecolor": NOT_INTERPRETABLE},
    "dead": {"facecolor": "white", "edgecolor": DEAD, "hatch": "////////", "lw": 0.4},
    "constant": {"facecolor": "white", "edgecolor": DEAD, "hatch": "........", "lw": 0.4},
    "saturated": {"facecolor": "white", "edgecolor": DEAD, "hatch": "++++++++", "lw": 0.4},
}


@dataclass(frozen=True)
class Groups:
    """How concepts are counted together: by category, or by word where no concept has a category.

    Args:
        column: "category" or "concept".
        names: (G,) in the order drawn.
        colours: (G,)
        of_concept: (C,) the group's index for each concept.
    """

    column: str
    names: tuple[str, ...]
    colours: tuple[str, ...]
    of_concept: tuple[int, ...]

    @classmethod
    def of(cls, study: Study) -> "Groups":
        """Choose groups over all runs, so that runs can be compared; beyond nine, the rarest become one."""
        concepts, units = study.concepts, study.units
        by_word = not any(concepts.categories)
        labels = concepts.names if by_word else concepts.categories
        known = [*CATEGORIES, *sorted(set(labels) - set(CATEGORIES) - {""}), ""]
        names = [name for name in known if name in set(labels)]
        counts = Counter(labels[c] for c in units.concept[units.interpretable & units.alive].tolist())
        if len(names) > MOST_GROUPS or by_word:
            often = sorted(names, key=lambda name: (-counts[name], name))[: MOST_GROUPS - 1]
            names = [name for name in (often if by_word else names) if name in often]
        colours = [*CYCLE, *MORE][: len(names)] if by_word else [category_colours(labels)[name] for name in names]
        place = {name: i for i, name in enumerate(names)}
        of_concept = tuple(place.get(label, len(names)) for label in labels)
        names = [name or "no category" for name in names]
        if len(names) in of_concept:
            names, colours = [*names, "other words" if by_word else "other categories"], [*colours, OTHER]
        return cls("concept" if by_word else "category", tuple(names), tuple(colours), of_concept)

    @cached_property
    def by_concept(self) -> tuple[str, ...]:
        """The group's colour for each concept, (C,)."""
        return tuple(self.colours[group] for group in self.of_concept)

    @property
    def heading(self) -> str:
        """What is counted, in words."""
        kind = "category" if self.column == "category" else "word (concepts have no categories)"
        return f"interpretable units by {kind}"

    def marks(self, states: Container[str]) -> list[Mark]:
        """List a legend's marks: of all groups, and of those of WHOLE that are among some states."""
        boxes = [(name, {"facecolor": colour}) for name, colour in zip(self.names, self.colours, strict=True)]
        return [*boxes, *((state, how) for state, how in WHOLE.items() if state in states)]

    def styles(self) -> list[dict[str, Any]]:
        """Say how a bar or an area is filled, for each of the G groups, then those of WHOLE."""
        filled = [{"facecolor": colour, "edgecolor": "white", "lw": 0.3} for colour in self.colours]
        return [*filled, *WHOLE.values()]


def occurring(view: View, checkpoints: Iterable[int]) -> set[str]:
    """Collect the states that units of the run have at some checkpoints, `not interpretable` among them."""
    units, rows = view.study.units, np.concatenate([np.zeros(0, np.intp), *(view.rows(k) for k in checkpoints)])
    unclear = {"not interpretable"} if (units.alive[rows] & ~units.interpretable[rows]).any() else set()
    return unclear | {STATES[state] for state in np.unique(units.state[rows])}


def tally(view: View, groups: Groups, rows: Rows) -> Sampled:
    """Count units by group, then those not interpretable, dead, constant and saturated: (G + 4,).

    What is not alive is so in every resample of the images: it has no error.
    """
    units = view.study.units
    found = interpretable_counts(units, rows, np.array(groups.of_concept, dtype=np.int32), len(groups.names))
    alive, lifeless = int(units.alive[rows].sum()), np.bincount(units.state[rows], minlength=len(STATES))[1:]
    unknown = np.full((len(lifeless), found.resampled.shape[1]), np.nan)
    value = np.concatenate([found.value[:-1], alive - found.value[-1:], lifeless]).astype(np.float64)
    return Sampled(value, np.vstack([found.resampled[:-1], alive - found.resampled[-1:], unknown]))


def counted(view: View, groups: Groups, checkpoint: int, layer: int) -> Measured:
    """Count one layer's units as `tally` does."""
    return tally(view, groups, view.rows(checkpoint, layer)).measured()


def table(view: View) -> Table:
    """List, for every checkpoint of the run, its layers' units by group; each layer's rows sum to its size.

    `state` is interpretable, not interpretable, dead, constant or saturated; only the first has a category (or
    concept). `low` and `high` are the ends of the interval of `units`.
    """
    study, groups = view.study, Groups.of(view.study)
    states = ["interpretable"] * len(groups.names) + list(WHOLE)
    rows: list[tuple[Any, ...]] = []
    for checkpoint in view.checkpoints:
        for layer, layer_name in enumerate(study.layers):
            counts = counted(view, groups, checkpoint, layer)
            size, name = int(counts.value.sum()), study.checkpoints[checkpoint].name
            ends = counts.within(0, size - counts.value[-len(WHOLE) + 1 :].sum())
            columns = (states, (*groups.names, *("" for _ in WHOLE)), counts.value, *ends)
            for state, group, count, low, high in zip(*columns, strict=True):
                if size:
                    row = (study.runs[view.run], name, view.step(checkpoint), layer_name)
                    rows.append((*row, state, group, count, low, high, size, count / size))
    place = ("run", "checkpoint", "step", "layer", "state", groups.column)
    names = (*place, "units", "low", "high", "layer_units", "share")
    kinds = (str, str, np.int64, str, str, str, np.int64, np.float64, np.float64, np.int64, np.float64)
    filled = list(zip(*rows, strict=True)) or [()] * len(names)
    return {n: np.array(column, dtype=kind) for n, column, kind in zip(names, filled, kinds, strict=True)}


@styled
def draw(view: View, table: Table) -> Figure:
    """Draw a panel of stacked areas for every layer."""
    groups = Groups.of(view.study)
    rows = {layer: chosen(table, layer=layer) for layer in layers_of(view)}
    sizes = {layer: f"{of_layer['layer_units'][0]:,} units" for layer, of_layer in rows.items()}
    title = f"{view.study.runs[view.run]}: {groups.heading}"
    page, panels = layer_grid(title, sizes, "share of the layer's units")
    for layer, axes in panels.items():
        draw_areas(axes, rows[layer], groups)
    page.legend(groups.marks(occurring(view, view.checkpoints)))
    return page.finish(view.caption)


def draw_areas(axes: Axes, rows: Table, groups: Groups, width: float = WIDE) -> None:
    """Stack the groups' shares over the steps, in so many inches; a single checkpoint is one bar."""
    shares = rows["share"].reshape(-1, len(groups.names) + len(WHOLE)).T
    steps = rows["step"].reshape(shares.shape[1], -1)[:, 0]
    places, evenly = positions(steps)
    label_steps(axes, places, steps, evenly, width)
    _draw_total(axes, places, chosen(rows, state="not interpretable"), shares[: len(groups.names)].sum(axis=0))
    if len(steps) == 1:
        places, shares = np.array([-0.3, 0.3]), np.repeat(shares, 2, axis=1)
    upper = np.cumsum(shares, axis=0)
    for low, high, how in zip(np.vstack([0 * upper[:1], upper[:-1]]), upper, groups.styles(), strict=True):
        if (high > low).any():
            axes.fill_between(places, low, high, **how)
    axes.set(ylim=(0, 1), yticks=[0, 0.5, 1], yticklabels=["0", "50 %", "100 %"])
    axes.set_xlim((places[0], places[-1]) if len(steps) > 1 else (-1.5, 1.5))
    axes.spines[["top", "right"]].set_visible(False)


def _draw_total(axes: Axes, places: Points, others: Table, total: Points) -> None:
    """Draw the interval of the share of interpretable units, which is as wide as that of the others alive."""
    up, down = ((others["units"] - others[end]) / others["layer_units"] for end in ("low", "high"))
    draw_whiskers(axes, places, total + down, total + up)


def positions(steps: Counts) -> tuple[Points, bool]:
    """Place checkpoints (K,) at their steps, or evenly (True) where most would lie too close."""
    gaps = np.diff(steps)
    evenly = len(steps) == 1 or bool(np.median(gaps) < 0.4 * gaps.mean()) or bool((gaps == 0).any())
    return (np.arange(len(steps)) if evenly else steps).astype(np.float64), evenly


def label_steps(axes: Axes, places: Points, steps: Counts, evenly: bool, width: float = WIDE) -> None:
    """Name some checkpoints, the first and the last among them, as many as there is room for, and tick all."""
    most = 4 if steps[-1] < 10_000 else 3
    if width < WIDE:
        most = 3 if steps[-1] < 1_000 else 2
    wanted = np.linspace(places[0], places[-1], most)
    named = np.unique(np.abs(places[None] - wanted[:, None]).argmin(axis=1))
    if len(steps) <= 6 and steps[-1] < 100 and (places[-1] - places[0]) <= 5.5 * np.diff(places).min(initial=np.inf):
        named = np.arange(len(steps))
    axes.set_xticks(places[named], [f"{step:,}" for step in steps[named].tolist()])
    # One line of marks, not one of the panel's, since an axis takes a millisecond for each tick of its own.
    marks = Line2D(places, np.zeros(len(places)), ls="none", color="black", **TICK)
    axes.figure.add_artist(marks).set_transform(axes.get_xaxis_transform())
    uneven = "step (evenly spaced)" if width < WIDE else "step (checkpoints evenly spaced)"
    axes.set_xlabel(uneven if evenly and len(steps) > 1 else "step", labelpad=2)
    if len(named) > 1:
        # The outermost numbers would otherwise run into the neighbouring panel's.
        axes.get_xticklabels()[0].set_horizontalalignment("left")
        axes.get_xticklabels()[-1].set_horizontalalignment("right")
