"""How many of a layer's clearest units are at the end of several runs what they were at these runs' beginnings."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmon.figures import retention
from cmon.figures.columns import chosen
from cmon.figures.comparing import NOTE, compared_layers, one_run, run_looks, run_marks, run_names, shown_runs
from cmon.figures.grid import layer_grid
from cmon.figures.intervals import draw_band
from cmon.figures.style import GREY, styled
from cmon.records import Table, View
from cmon.statistics.retention import KINDS, PERCENTS, Retention

COLUMNS: dict[str, type] = {
    **retention.COLUMNS,
    "reference": str,
    **dict.fromkeys(("difference", "difference_low", "difference_high"), np.float64),
}
FEW = 3  # runs of which two kinds of lines are drawn
FINAL: dict[str, Any] = {"ls": (0, (1, 1.5)), "lw": 1.1}


def table(view: View) -> Table:
    """List what `retention` does of every run, from its own first checkpoint to its last, and the first run's beside.

    `difference` is by how much the share is greater than the same of the run `reference`, the first one; NaN where that
    one has no such layer, for itself, and for `flicker`. The ends of its interval are of differences in every resample.
    """
    runs = shown_runs(view)
    found = {run: retention.retained(view.of_run(run)) for run in runs}
    parts = [_compared(view, run, found[run], {} if run == runs[0] else found[runs[0]]) for run in runs]
    return {name: np.concatenate([part[name] for part in parts]).astype(kind) for name, kind in COLUMNS.items()}


def _compared(view: View, run: int, layers: dict[str, Retention], first: dict[str, Retention]) -> Table:
    """List what one run retained, with how much more this is than what the first run did; {} for this one itself."""
    listed = retention.table_of(view.of_run(run), layers)
    size = len(listed["share"])
    difference = np.full((3, size), np.nan)
    for layer in layers.keys() & first.keys():
        more = layers[layer].share.minus(first[layer].share)
        low, high = more.measured().within(-1, 1)
        for i, kind in enumerate(KINDS):
            here = (listed["layer"] == layer) & (listed["kind"] == kind)
            difference[:, here] = more.value[i], low[i], high[i]
    reference = view.study.runs[view.run] if first else ""
    names = ("difference", "difference_low", "difference_high")
    return {**listed, "reference": np.full(size, reference), **dict(zip(names, difference, strict=True))}


def applies(view: View) -> str:
    """Say why there is nothing to compare; "" where there is."""
    later = any(len(view.of_run(run).checkpoints) > 1 for run in shown_runs(view))
    shared = "" if compared_layers(view) else "the runs share no layer"
    return one_run(view) or ("" if later else "no run has a later checkpoint") or shared


@styled
def draw(view: View, table: Table) -> Figure:
    """Draw a panel for every shared layer, a line for every run; of few runs, also what the last step alone keeps."""
    layers, runs = compared_layers(view), shown_runs(view)
    rows = {layer: chosen(table, layer=layer) for layer in layers}
    below = {layer: _counted(view, of_layer) for layer, of_layer in rows.items()}
    page, panels = layer_grid(
        f"{run_names(view)}: what units kept", below, "share with the same word\nat every later step"
    )
    final = len(runs) <= FEW and any(len(view.of_run(run).checkpoints) > 2 for run in runs)
    for layer, axes in panels.items():
        _lines(axes, view, rows[layer], final)
    marks = run_marks(view, [_steps(table, view.study.runs[run]) for run in runs])
    if final:
        marks.append(("dotted: the same word at the last step", {"color": GREY, **FINAL}))
    page.legend(marks)
    return page.finish(view.caption)


def _counted(view: View, rows: Table) -> str:
    """Count the units that are followed, run by run where these are few."""
    tables = [chosen(rows, run=view.study.runs[run]) for run in shown_runs(view)]
    counts = [int(mine["units"].max()) if len(mine["units"]) else -1 for mine in tables]
    said = ", ".join(f"{count:,}" if count >= 0 else "no such layer" for count in counts)
    if len(counts) > FEW:
        known = [count for count in counts if count >= 0]
        said = " to ".join(f"{count:,}" for count in sorted({min(known), max(known)}))
    return f"{said} interpretable at first"


def _steps(table: Table, run: str) -> str:
    """Say from which step to which a run is followed."""
    mine = chosen(table, run=run)
    start, end = mine["reference_step"][0], mine["last_step"][0]
    return f"steps {start:,} to {end:,}" if end > start else "there is no later checkpoint"


def _lines(axes: Axes, view: View, rows: Table, final: bool) -> None:
    """Draw one layer's shares, or say that there are none."""
    places = np.array(PERCENTS, dtype=np.float64)
    for i, (run, look) in enumerate(run_looks(view).items()):
        mine = chosen(rows, run=view.study.runs[run])
        if not len(mine["share"]):
            continue
        line = chosen(mine, kind="strict")
        draw_band(axes, places, line["low"], line["high"], look["color"], 0.13)
        axes.plot(places, line["share"], clip_on=False, zorder=4 + i, **look)
        if final:
            last = chosen(mine, kind="final")["share"]
            axes.plot(places, last, color=look["color"], clip_on=False, zorder=3, **FINAL)
    if not np.isfinite(chosen(rows, kind="strict")["share"]).any():
        missing = "no unit was interpretable" if not rows["units"].any() else "there is no later checkpoint"
        axes.text(0.5, 0.5, missing, transform=axes.transAxes, **NOTE)
    retention.finish_axes(axes)
