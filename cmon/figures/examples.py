"""The commonest words of several runs, with the units that have them most clearly and these units' top images."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from cmon.figures.categories import Groups
from cmon.figures.columns import chosen, filled, layers_of, unit_columns
from cmon.figures.comparing import last_checkpoint, run_looks, run_names, shown_runs
from cmon.figures.evolution import image_columns, pictures, scored
from cmon.figures.intervals import plus_minus
from cmon.figures.style import (
    DEAD,
    GREY,
    INK,
    NORMAL,
    PAGE_WIDTH,
    SMALL,
    Page,
    Rows,
    fit,
    fit_layer,
    styled,
    text_width,
)
from cmon.records import Table, View
from cmon.statistics.comparison import interpretable_counts
from cmon.statistics.history import Sampled

UNITS = 2  # shown below a word
MOST_COLUMNS, GAP = 3, 0.22  # runs side by side, and inches between them
COLUMNS: dict[str, type] = {
    "word_rank": np.int64,
    "units": np.int64,
    **dict.fromkeys(("low", "high"), np.float64),
    "layer_units": np.int64,
    "reference": str,
    "reference_step": np.int64,
    "reference_units": np.int64,
    **dict.fromkeys(("reference_low", "reference_high", "difference", "difference_low", "difference_high"), np.float64),
    "unit_rank": np.int64,
}


class Held(NamedTuple):
    """One of a layer's commonest words.

    Args:
        units: (1,) how many interpretable units hold it.
        rows: of these, the clearest ones first, UNITS at most.
        concept: index.
    """

    units: Sampled
    rows: Rows
    concept: int


def commonest(view: View, checkpoint: int, layer: int) -> list[Held]:
    """Return the words that most interpretable units of a layer hold, `view.top` at most; of equals, the clearest."""
    units, rows = view.study.units, view.rows(checkpoint, layer)
    held = rows[units.interpretable[rows] & units.alive[rows]]
    held = held[np.argsort(-units.score[held], kind="stable")]
    words, first, counts = np.unique(units.concept[held], return_index=True, return_counts=True)
    words = words[np.lexsort((first, -counts))][: view.top]
    found = numbers(view, rows, words)
    return [
        Held(Sampled(found.value[[i]], found.resampled[[i]]), held[units.concept[held] == word][:UNITS], int(word))
        for i, word in enumerate(words)
    ]


def numbers(view: View, rows: Rows, words: np.typing.NDArray[np.int32]) -> Sampled:
    """Count the interpretable units among some rows that hold each word, (V,)."""
    group = np.full(len(view.study.concepts.names), -1, dtype=np.int32)
    group[words] = np.arange(len(words))
    found = interpretable_counts(view.study.units, rows, group, len(words))
    return Sampled(found.value[:-1], found.resampled[:-1])


def table(view: View) -> Table:
    """List the clearest units of the commonest words, for every run and layer at the run's last checkpoint.

    `units` of the `layer_units` hold the word, and `reference_units` do in the same layer of the run `reference`, the
    first one, at its last checkpoint; -1 where that one is this run, or has no such layer. `difference` is by how many
    more, its interval's ends are of the differences in every resample of the images.
    """
    study, runs = view.study, shown_runs(view)
    rows: list[int] = []
    said: list[tuple[Any, ...]] = []
    for run in runs:
        mine = view.of_run(run)
        for layer in (study.layers.index(name) for name in layers_of(mine)):
            size = len(mine.rows(mine.checkpoints[-1], layer))
            for rank, held in enumerate(commonest(mine, mine.checkpoints[-1], layer), start=1):
                low, high = held.units.measured().within(0, size)
                counts = (rank, held.units.value[0], low[0], high[0], size, *_reference(view, run, layer, held, size))
                rows += held.rows.tolist()
                said += [(*counts, place) for place in range(1, len(held.rows) + 1)]
    found = np.array(rows, dtype=np.intp)
    units = unit_columns(view, found)
    for name in ("kind", "tracked", "x", "y", "d_anchor", "d_anchor_error"):
        del units[name]
    return units | filled(said, COLUMNS) | image_columns(view, found)


def _reference(view: View, run: int, layer: int, held: Held, size: int) -> tuple[Any, ...]:
    """Count the first run's units that hold a word, with by how many more another run's are."""
    first = shown_runs(view)[0]
    last = last_checkpoint(view, first)
    rows = view.rows(last, layer)
    if run == first or not len(rows):
        return ("", -1, -1, *[np.nan] * 5)
    own = numbers(view, rows, np.array([held.concept], dtype=np.int32))
    difference = held.units.minus(own)
    ends = (*own.measured().within(0, len(rows)), difference.value, *difference.measured().within(-len(rows), size))
    return (view.study.runs[first], view.step(last), own.value[0], *(float(part[0]) for part in ends))


def applies(view: View) -> str:
    """Say why there is nothing to draw; "" where there is."""
    units = view.study.units
    rows = np.concatenate([view.rows(last_checkpoint(view, run)) for run in shown_runs(view)])
    return (
        "" if (units.alive[rows] & units.interpretable[rows]).any() else "no run has an interpretable unit at its end"
    )


@styled
def draw(view: View, table: Table) -> Figure:
    """Draw a column for every run, three in a row at most, of its last layer."""
    runs, groups = shown_runs(view), Groups.of(view.study)
    blocks = -(-len(runs) // MOST_COLUMNS)
    columns = -(-len(runs) // blocks)
    width = min(3.3, (PAGE_WIDTH - 0.2 - GAP * (columns - 1)) / columns)
    page = Page(max(3.5, 0.2 + columns * (width + GAP) - GAP), f"{run_names(view)}: the commonest words at the end")
    for start in range(0, len(runs), columns):
        top = bottom = page.y
        for column, run in enumerate(runs[start : start + columns]):
            left = 0.1 + column * (width + GAP)
            bottom = max(bottom, _draw_run(page, view, run, table, (left, top, width), groups))
        page.y = bottom + 0.14
    page.legend(groups.marks(()))
    return page.finish(view.caption)


def _draw_run(page: Page, view: View, run: int, table: Table, box: tuple[float, float, float], groups: Groups) -> float:
    """Draw one run's words below its name; return where the next thing may begin."""
    left, top, width = box
    mine = view.of_run(run)
    layer = layers_of(mine)[-1]
    step = f", step {mine.step(mine.checkpoints[-1]):,}"
    place = fit_layer(layer, width - text_width(step, SMALL), SMALL) + step
    page.mark(left + 0.08, top + 0.07, run_looks(view)[run])
    page.text(left + 0.22, top + 0.1, fit(view.study.runs[run], width - 0.22, NORMAL, "bold"), weight="bold")
    page.text(left, top + 0.24, place, size=SMALL, color=GREY)
    page.backdrop.plot([left, left + width], [top + 0.29] * 2, color=GREY, lw=0.4)
    rows, y = chosen(table, run=view.study.runs[run], layer=layer), top + 0.34
    if not len(rows["unit"]):
        page.text(left, y + 0.1, "no interpretable unit", size=SMALL, color=DEAD, style="italic")
        return y + 0.16
    for rank in np.unique(rows["word_rank"]).tolist():
        y = _draw_word(page, view, chosen(rows, word_rank=rank), (left, y, width), groups) + 0.08
    return y


def _draw_word(page: Page, view: View, rows: Table, box: tuple[float, float, float], groups: Groups) -> float:
    """Draw a word with its numbers, then its units with their images."""
    left, y, width = box
    held, beside = _said(rows)
    room = width - text_width(held, SMALL) - 0.23
    colour = _colour(view, groups, rows)
    page.mark(left + 0.045, y + 0.065, {"facecolor": colour})
    page.text(left + 0.13, y + 0.1, fit(rows["concept"][0], room, NORMAL, "bold"), weight="bold", color=INK)
    page.text(left + width, y + 0.1, held, size=SMALL, ha="right")
    y += 0.13
    if beside:
        page.text(left + width, y + 0.1, fit(beside, width, SMALL), size=SMALL, color=GREY, ha="right")
        y += 0.13
    per_line = view.images if width / view.images > 0.28 else -(-view.images // 2)
    side = min(0.5, (width + 0.03) / per_line - 0.03)
    for unit in rows["unit_rank"].tolist():
        row = chosen(rows, unit_rank=unit)
        page.text(left, y + 0.1, f"unit {row['unit'][0]}: {scored(row)}", size=SMALL, color=GREY)
        pictures(page, view, row, left, y + 0.14, side, per_line)
        y += 0.14 + -(-view.images // per_line) * (side + 0.03) + 0.03
    return y


def _colour(view: View, groups: Groups, row: Table) -> str:
    """Return the colour of the group that a row's concept is counted in."""
    concepts = view.study.concepts
    place = list(zip(concepts.names, concepts.categories, strict=True)).index((row["concept"][0], row["category"][0]))
    return groups.by_concept[place]


def _said(rows: Table) -> tuple[str, str]:
    """Say how many units hold a word, and how many do in the first run."""
    held, own = (
        plus_minus(rows[name][0], max(rows[f"{end}high"][0] - rows[name][0], rows[name][0] - rows[f"{end}low"][0]))
        for name, end in (("units", ""), ("reference_units", "reference_"))
    )
    name = fit(rows["reference"][0], 1.0, SMALL)
    return f"{held} of {rows['layer_units'][0]:,} units", f"in {name}: {own}" if name else ""
