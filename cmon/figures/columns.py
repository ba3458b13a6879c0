"""The columns of a figure's table: units, concepts and anchors in a reader's words."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from cmon.figures.style import Points, Rows
from cmon.records import STATES, IntArray, Study, Table, View
from cmon.statistics import half_width
from cmon.statistics.trends import label_confidence


def letter(position: int) -> str:
    """Name a tracked unit in figures: A, B … Z, AA, AB …; anchors have the numbers."""
    return (letter(position // 26 - 1) if position >= 26 else "") + chr(ord("A") + position % 26)


def unit_columns(view: View, rows: Rows) -> Table:
    """Say rows of the table of units in people's words, as columns of equal length.

    Concept and category are "" where a unit is not alive, score, x and y NaN; `tracked` is a letter, or "";
    `label_confidence` is the share of resamples of the images that give it the same word.
    """
    study, units = view.study, view.study.units
    letters = {key: letter(i) for i, key in enumerate(view.track)}
    keys = zip(units.layer[rows].tolist(), units.unit[rows].tolist(), strict=True)
    words = _words(study.concepts.names, units.concept[rows])
    return {
        "kind": _texts("unit" for _ in rows),
        "run": _words(study.runs, units.run[rows]),
        "checkpoint": _words([c.name for c in study.checkpoints], units.checkpoint[rows]),
        "step": _words([c.step for c in study.checkpoints], units.checkpoint[rows], np.int64),
        "layer": _words(study.layers, units.layer[rows]),
        "unit": units.unit[rows],
        "concept": words,
        "category": _words(study.concepts.categories, units.concept[rows]),
        "score": units.score[rows],
        "state": np.array(STATES)[units.state[rows]],
        "interpretable": units.interpretable[rows],
        "label_confidence": label_confidence(units.concept[rows], units.resampled_concept[rows]),
        "tracked": _texts(letters.get(key, "") for key in keys),
        "x": units.xy[rows, 0],
        "y": units.xy[rows, 1],
        "d_anchor": study.d_anchor[units.checkpoint[rows], units.layer[rows]],
        "d_anchor_error": half_width(study.d_anchor_resampled)[units.checkpoint[rows], units.layer[rows]],
    }


def word_columns(study: Study) -> Table:
    """Say where concepts and anchors lie, as further rows for `unit_columns`; unknown is "", -1 or NaN."""
    names = (*study.concepts.names, *study.anchors.names)
    kinds = ["concept"] * len(study.concepts.names) + ["anchor"] * len(study.anchors.names)
    xy = np.vstack([study.concept_xy.reshape(-1, 2), study.anchors.xy.reshape(-1, 2)])
    nothing, unknown = _texts("" for _ in names), np.full(len(names), np.nan, np.float32)
    table: Table = dict.fromkeys(("run", "checkpoint", "layer", "state", "tracked"), nothing)
    table |= {name: np.full(len(names), -1) for name in ("step", "unit")}
    table |= {
        "interpretable": np.zeros(len(names), bool),
        "kind": _texts(kinds),
        "concept": _texts(names),
        "x": xy[:, 0],
        "y": xy[:, 1],
    }
    table["category"] = _texts([*study.concepts.categories, *("" for _ in study.anchors.names)])
    return table | dict.fromkeys(("score", "label_confidence", "d_anchor", "d_anchor_error"), unknown)


def joined(first: Table, second: Table) -> Table:
    """Put the rows of two tables with the same columns below one another."""
    return {name: np.concatenate([first[name], second[name]]) for name in first}


def chosen(table: Table, **values: object) -> Table:
    """Keep the rows in which the named columns have these values."""
    keep = np.ones(len(next(iter(table.values()))), bool)
    for name, value in values.items():
        keep &= table[name] == value
    return {name: column[keep] for name, column in table.items()}


def filled(rows: Sequence[Sequence[object]], kinds: Mapping[str, type]) -> Table:
    """Turn rows into the columns of a table, each of its kind, also where there is no row."""
    columns = list(zip(*rows, strict=True)) or [()] * len(kinds)
    return {name: np.array(column, dtype=kinds[name]) for name, column in zip(kinds, columns, strict=True)}


def layers_of(view: View) -> list[str]:
    """List the layers that the view's run has, in forward order."""
    units = view.study.units
    return [view.study.layers[i] for i in np.unique(units.layer[units.run == view.run])]


def layers_alike(view: View) -> list[str]:
    """List the layers, in forward order, of the view's run and of all runs that share one with it.

    They have one scale of colours: a layer looks the same in all of these runs, and networks that have nothing in
    common do not halve each other's scale.
    """
    runs = [set(layers_of(view.of_run(run))) for run in range(len(view.study.runs))]
    alike = set().union(*(layers for layers in runs if layers & runs[view.run]))
    return [layer for layer in view.study.layers if layer in alike]


def living(units: Table) -> Points:
    """Return the places (N, 2) of the units that are alive."""
    alive = units["state"] == "alive"
    return np.stack([units["x"][alive], units["y"][alive]], axis=1).astype(np.float64)


def story(table: Table, position: int) -> list[str]:
    """Return a tracked unit's first and last word among a table's rows, or the one there is; its state without one."""
    unit = chosen(table, kind="unit", tracked=letter(position))
    words = [word or state for word, state in zip(unit["concept"].tolist(), unit["state"].tolist(), strict=True)]
    return words[:1] + words[1:][-1:] or ["not in this run"]


def lifeless(states: Iterable[str]) -> str:
    """Count the units that are not alive by what they are, in words."""
    counts = Counter(states)
    return ", ".join(f"{counts[state]:,} {state}" for state in STATES[1:] if counts[state]) or "0 dead"


def _words(names: Sequence[object], indices: IntArray, kind: type = str) -> np.typing.NDArray[np.generic]:
    """Look names up, "" where the index is -1; an array of text even when it is empty."""
    return np.array([names[i] if i >= 0 else "" for i in indices.tolist()], dtype=kind)


def _texts(texts: Iterable[str]) -> np.typing.NDArray[np.str_]:
    return np.array(list(texts), dtype=str)
