"""How many units of every layer are interpretable as more and more of a network's weights are pruned."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmon.figures.columns import chosen, filled, layers_of
from cmon.figures.comparing import NOTE, layers_of_runs, run_looks, run_marks, run_names, shown_runs
from cmon.figures.grid import index_grid
from cmon.figures.intervals import draw_band
from cmon.figures.style import GREY, Mark, Points, styled
from cmon.records import CONSTANT, DEAD, Table, View
from cmon.statistics.comparison import interpretable_counts

COLUMNS: dict[str, type] = {
    **dict.fromkeys(("run", "checkpoint"), str),
    "step": np.int64,
    "sparsity": np.float64,
    "layer": str,
    "units": np.int64,
    **dict.fromkeys(("low", "high"), np.float64),
    **dict.fromkeys(("dead", "constant", "layer_units"), np.int64),
}
SPARSE = 0.8  # a share of weights pruned, beyond which the axis is logarithmic in those that are left
LIFELESS: dict[str, Any] = {"ls": (0, (1, 1.5)), "lw": 1.0}


def table(view: View) -> Table:
    """List the interpretable units of every layer at every checkpoint whose share of weights that are 0 is known.

    `sparsity` is this share, in [0, 1]; `low` and `high` are the ends of the interval of `units`.
    """
    study, units, rows = view.study, view.study.units, []
    for run in shown_runs(view):
        mine = view.of_run(run)
        for k in mine.checkpoints:
            name = study.checkpoints[k]
            for layer in layers_of(mine) if np.isfinite(name.sparsity) else ():
                here = mine.rows(k, study.layers.index(layer))
                if len(here):
                    found = interpretable_counts(units, here, np.zeros(len(study.concepts.names), np.int32), 1)
                    low, high = found.measured().within(0, int(units.alive[here].sum()))
                    lifeless = [int((units.state[here] == state).sum()) for state in (DEAD, CONSTANT)]
                    place = (study.runs[run], name.name, name.step, name.sparsity, layer)
                    rows.append((*place, found.value[-1], low[-1], high[-1], *lifeless, len(here)))
    return filled(rows, COLUMNS)


def applies(view: View) -> str:
    """Say why there is nothing to draw; "" where there is."""
    mine = [view.study.checkpoints[k].sparsity for run in shown_runs(view) for k in view.of_run(run).checkpoints]
    return "" if any(sparsity > 0 for sparsity in mine) else "no checkpoint has pruned weights"


@styled
def draw(view: View, table: Table) -> Figure:
    """Draw a panel for every layer, with a line for every run."""
    layers = layers_of_runs(view)
    below = {layer: _size(chosen(table, layer=layer)) for layer in layers}
    page, panels = index_grid(f"{run_names(view)}: interpretable units by pruned weights", below)
    for layer, axes in panels.items():
        _lines(axes, view, chosen(table, layer=layer), table["sparsity"])
    marks: list[Mark] = [(name, look) for name, look in run_marks(view) if (table["run"] == name).any()]
    if (table["dead"] + table["constant"]).any():
        marks.append(("dotted: dead or constant units", {"color": GREY, **LIFELESS}))
    page.legend(marks)
    return page.finish(view.caption)


def _size(rows: Table) -> str:
    sizes = np.unique(rows["layer_units"]).tolist()
    return f"of {' or '.join(f'{size:,}' for size in sizes)} units" if sizes else ""


def places(sparsity: Points, most: float) -> Points:
    """Place shares of pruned weights on an axis: in per cent, or, beyond 80 % of them, by the logarithm of the rest."""
    if most <= SPARSE:
        return 100 * sparsity
    # A network without any weights is put where a ten-thousandth is left.
    return np.asarray(-np.log10(np.maximum(1 - sparsity, 1e-4)))


def _lines(axes: Axes, view: View, rows: Table, every: Points) -> None:
    """Draw one layer's counts over the share of pruned weights."""
    most = float(every.max(initial=0.0))
    top = 1.0
    for i, (run, look) in enumerate(run_looks(view).items()):
        line = chosen(rows, run=view.study.runs[run])
        if not len(line["units"]):  # a line without any place would still count as being somewhere
            continue
        order = np.argsort(line["sparsity"], kind="stable")
        line = {name: column[order] for name, column in line.items()}
        x, lifeless = places(line["sparsity"], most), line["dead"] + line["constant"]
        draw_band(axes, x, line["low"], line["high"], look["color"], 0.13)
        axes.plot(x, line["units"], clip_on=False, zorder=4 + i, **look)
        if lifeless.any():
            axes.plot(x, lifeless, color=look["color"], clip_on=False, zorder=3, **LIFELESS)
        top = max([top, *line["units"], *lifeless, *line["high"][np.isfinite(line["high"])]])
    if not len(rows["units"]):
        axes.text(0.5, 0.5, "no sparsity is known", transform=axes.transAxes, **NOTE)
    axes.set_ylim(0, 1.05 * top)
    axes.locator_params(axis="y", nbins=5, integer=True)
    _ticks(axes, np.unique(every), most)
    axes.spines[["top", "right"]].set_visible(False)


def _ticks(axes: Axes, sparsity: Points, most: float) -> None:
    """Tick the checkpoints' shares, and name as many as there is room for."""
    x = places(sparsity, most)
    low, high = float(x.min(initial=0.0)), float(x.max(initial=0.0))
    margin = 0.03 * (high - low) or 1.0
    axes.set_xlim(low - margin, high + margin)
    named: list[int] = []
    for i in range(len(x)):
        if not named or x[i] - x[named[-1]] > 0.17 * (high - low):
            named.append(i)
    axes.set_xticks(x[named], [f"{100 * share:.3g}" for share in sparsity[named]])
    axes.set_xticks(x, minor=True)
    axes.tick_params(axis="x", which="minor", length=1.5, width=0.4)
    scale = " (log of the rest)" if most > SPARSE else ""
    axes.set_xlabel(f"weights pruned, %{scale}", labelpad=2)
