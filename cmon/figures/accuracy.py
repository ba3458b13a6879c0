"""What trainings have recorded of themselves, such as accuracy, over the steps of one run or several."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmon.figures.categories import label_steps, positions
from cmon.figures.columns import chosen, filled
from cmon.figures.comparing import run_looks, run_marks, run_names, shown_runs
from cmon.figures.style import GREY, NORMAL, PAGE_WIDTH, SMALL, Page, fit, styled
from cmon.records import Table, View

COLUMNS: dict[str, type] = {
    **dict.fromkeys(("run", "checkpoint"), str),
    "step": np.int64,
    "metric": str,
    "value": np.float64,
}
STYLES = ("-", (0, (4, 1.5)), (0, (1, 1.3)), (0, (4, 1.3, 1, 1.3)))
WHOLE, LABELS = 3.97, 2.0  # inches: the panel of accuracies, and what is written beside it
MARGIN, GAP, LINE = 0.68, 0.5, 0.125
DOWN = 1.95  # inches from one row of small panels to the next
MANY = 15  # checkpoints, from which marks are small
MOST_APART = 20  # times as many steps in one run as in another on one axis


def table(view: View) -> Table:
    """List what is known of every shown run at every checkpoint, metric by metric."""
    study, rows = view.study, []
    for metric, values in view.metrics.items():
        for run in shown_runs(view):
            for k in view.of_run(run).checkpoints:
                if np.isfinite(values[k]):
                    name = study.checkpoints[k]
                    rows.append((study.runs[run], name.name, name.step, metric, values[k]))
    return filled(rows, COLUMNS)


def applies(view: View) -> str:
    """Say why there is nothing to draw; "" where there is."""
    mine = [k for run in shown_runs(view) for k in view.of_run(run).checkpoints]
    if any(np.isfinite(values[mine]).any() for values in view.metrics.values()):
        return ""
    return "no run has metrics" if len(shown_runs(view)) > 1 else "the run has no metrics"


def are_accuracies(table: Table) -> dict[str, bool]:
    """Tell of every metric that is known whether it is drawn as an accuracy: by its name, and within [0, 1]."""
    found = {}
    for metric in dict.fromkeys(table["metric"].tolist()):
        values = chosen(table, metric=metric)["value"]
        found[metric] = "acc" in metric.lower() and values.min() >= 0 and values.max() <= 1
    return found


@styled
def draw(view: View, table: Table) -> Figure:
    """Draw a wide panel of accuracies with their last values, then small ones of all else."""
    kinds = are_accuracies(table)
    accuracies = [metric for metric, is_one in kinds.items() if is_one]
    # What is 0 throughout, such as the sparsity of networks that were not pruned, has nothing to show.
    others = [metric for metric in kinds if metric not in accuracies and chosen(table, metric=metric)["value"].any()]
    page = Page(PAGE_WIDTH, f"{run_names(view)}: what the training recorded")
    if not kinds:
        page.text(0.1, page.y + 0.1, applies(view), size=SMALL, color=GREY, style="italic")
        page.y += 0.2
    if accuracies:
        _draw_accuracies(page, view, table, accuracies)
    width = (page.width - MARGIN - 0.15 - 2 * GAP) / 3
    for i, metric in enumerate(others):
        left, top = MARGIN + i % 3 * (width + GAP), page.y + i // 3 * DOWN
        page.text(left, top + 0.08, fit(_said(metric), width, NORMAL, "bold"), weight="bold")
        axes = page.panel(left, top + 0.18, width, 1.2)
        for run, look in run_looks(view).items():
            line = chosen(table, metric=metric, run=view.study.runs[run])
            if len(line["value"]):
                _line(axes, view, line, look | {"ls": "-"})
        axes.locator_params(axis="y", nbins=5)
        axes.margins(y=0.08)
        _finish(axes, view, width)
    page.y += -(-len(others) // 3) * DOWN - 0.1
    page.legend([(name, look | {"ls": "-"}) for name, look in run_marks(view)])
    if len(accuracies) > 1:
        page.legend(
            [(_said(metric), {"color": GREY, "lw": 1.1, "ls": _style(i)}) for i, metric in enumerate(accuracies)]
        )
    return page.finish(view.caption)


def _said(metric: str) -> str:
    """Write a column's name as words."""
    return metric.replace("_", " ")


def _style(metric: int) -> Any:
    return STYLES[metric % len(STYLES)]


def _draw_accuracies(page: Page, view: View, table: Table, metrics: list[str]) -> None:
    """Draw one panel of all accuracies, with each line's last value beside it."""
    ends: list[tuple[float, str, dict[str, Any]]] = []
    rows = {name: column[np.isin(table["metric"], metrics)] for name, column in table.items()}
    lines = [(i, metric, run, look) for i, metric in enumerate(metrics) for run, look in run_looks(view).items()]
    height, top = max(2.0, 1.15 * LINE * len(lines)), page.y + 0.2
    page.text(MARGIN, page.y + 0.08, fit(", ".join(map(_said, metrics)), WHOLE, NORMAL, "bold"), weight="bold")
    axes = page.panel(MARGIN, top, WHOLE, height)
    for i, metric, run, look in lines:
        line = chosen(rows, metric=metric, run=view.study.runs[run])
        if len(line["value"]):  # a line without any place would still count as being somewhere
            last = float(line["value"][-1])
            name = f"{_said(metric)}, {view.study.runs[run]}" if len(metrics) > 1 else view.study.runs[run]
            _line(axes, view, line, look | {"ls": _style(i)})
            ends.append((last, f"{100 * last:.1f} % {name}", look))
    low, high = rows["value"].min(), rows["value"].max()
    margin = 0.06 * (high - low) or 0.05
    low, high = max(low - margin, 0.0), min(high + margin, 1.0)
    axes.set_ylim(low, high)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.4g} %")
    axes.locator_params(axis="y", nbins=6)
    _finish(axes, view, WHOLE)
    left = MARGIN + WHOLE + 0.1
    wanted = [top + (high - last) / (high - low) * height for last, *_ in ends]
    for y, at, (_, said, look) in zip(apart(wanted, LINE, top, top + height), wanted, ends, strict=True):
        page.backdrop.plot([left - 0.06, left + 0.05], [at, y], color=look["color"], lw=0.5)
        page.mark(left + 0.11, y, look | {"ls": "none"})
        page.text(left + 0.19, y + 0.035, fit(said, LABELS, SMALL), size=SMALL)
    page.y = top + height + 0.5


def apart(wanted: list[float], gap: float, low: float, high: float) -> list[float]:
    """Move places as far from one another as a line of type is high, in their order, within low and high."""
    order = np.argsort(wanted, kind="stable")
    places = np.array(wanted, dtype=np.float64)[order]
    room = gap * np.arange(len(places))
    # Pushed down from above, then up again from below; there is room for all of them.
    places = np.maximum.accumulate(places - room) + room
    last = high - room[::-1]
    places = np.maximum(np.minimum(places, last), low + room)
    found = np.empty(len(places))
    found[order] = places
    return [float(place) for place in found]


def _line(axes: Axes, view: View, line: Table, look: dict[str, Any]) -> None:
    """Draw one metric of one run."""
    if _are_apart(view):
        first, last = line["step"][0], line["step"][-1]
        x = (line["step"] - first) / max(1, last - first)
    else:
        places = dict(zip(*_places(view), strict=True))
        x = np.array([places[step] for step in line["step"].tolist()])
    many = len(x) > MANY
    axes.plot(x, line["value"], clip_on=False, **look | ({"ms": 0.6 * look["ms"]} if many else {}))


def _are_apart(view: View) -> bool:
    """Tell whether runs count in steps so different, such as epochs and batches, that they share no axis."""
    last = [view.step(view.of_run(run).checkpoints[-1]) for run in shown_runs(view)]
    return min(last) > 0 and max(last) > MOST_APART * min(last)


def _places(view: View) -> tuple[list[int], list[float]]:
    """Return the steps of all shown runs, and where each of them is drawn."""
    steps = sorted({view.step(k) for run in shown_runs(view) for k in view.of_run(run).checkpoints})
    return steps, positions(np.array(steps))[0].tolist()


def _finish(axes: Axes, view: View, width: float) -> None:
    """Set the steps of all runs, so that all panels have the same; or each run's own, from its first to its last."""
    if _are_apart(view):
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.5, 1], ["first", "half", "last"])
        axes.set_xlabel("step, of each run's own", labelpad=2)
    else:
        steps, places = _places(view)
        label_steps(axes, np.array(places), np.array(steps), positions(np.array(steps))[1], width)
        margin = 0.02 * (places[-1] - places[0]) or 1.0
        axes.set_xlim(places[0] - margin, places[-1] + margin)
    axes.spines[["top", "right"]].set_visible(False)
