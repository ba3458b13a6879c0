"""The tables of a report: one row per unit, and one row per layer."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from cmon.records import QUALITY, STATES, Study, Table
from cmon.statistics.trends import category_codes, indices, label_confidence

# Columns of layers_table that have an interval: the number plus or minus its `_error`.
WITH_ERROR = ("interpretable", "unique_concepts", "effective_concepts", "spread", "d_anchor", "changed")
MARKS = ',"\r\n'  # for which a field is quoted


def units_table(study: Study) -> Table:
    """Return one row per run, checkpoint, layer and unit; words and categories are "" for units that are not alive.

    `label_confidence` and `category_confidence` are the shares of resamples of the images that give the unit the same
    word, and a word of the same category; NaN without resamples.
    """
    units = study.units
    names, categories = _with_blank(study.concepts.names), _with_blank(study.concepts.categories)
    codes = category_codes(study.concepts.categories)
    table: Table = {
        "run": np.array(study.runs)[units.run],
        "checkpoint": np.array([c.name for c in study.checkpoints])[units.checkpoint],
        "step": np.array([c.step for c in study.checkpoints])[units.checkpoint],
        "layer": np.array(study.layers)[units.layer],
        "unit": units.unit,
        "concept": names[units.concept],
        "category": categories[units.concept],
        "score": units.score,
        "interpretable": units.interpretable,
        "state": np.array(STATES)[units.state],
        "p_value": units.p_value,
        "label_confidence": label_confidence(units.concept, units.resampled_concept),
        "category_confidence": label_confidence(codes[units.concept], codes[units.resampled_concept]),
    }
    table |= {f"quality_{name}": column for name, column in zip(QUALITY, units.quality.T, strict=True)}
    table |= {"x": units.xy[:, 0], "y": units.xy[:, 1]}
    for rank in range(1, min(5, units.top_concept.shape[1])):
        table[f"concept_{rank + 1}"] = names[units.top_concept[:, rank]]
        table[f"score_{rank + 1}"] = units.top_score[:, rank]
    return table


def layers_table(study: Study) -> Table:
    """Return one row per run, checkpoint and layer: its counts, its diversity, its distances, its changes.

    `sparsity` is the share of zeros among all weights of the checkpoint's network. An `_error` is half the width of a
    95 % interval over resamples of the images, NaN without them. The indices are those of
    `cmon.statistics.trends.indices`.
    """
    runs = {name.run for name in study.checkpoints}
    found = {(run, layer): indices(study, run, layer) for run in runs for layer in range(len(study.layers))}
    rows: list[dict[str, object]] = []
    units, seen = study.units, Counter[int]()
    order = np.lexsort((units.layer, units.checkpoint))
    place = units.checkpoint.astype(np.int64)[order] * len(study.layers) + units.layer[order]
    ends = np.searchsorted(place, np.arange(len(study.checkpoints) * len(study.layers) + 1))
    for k, checkpoint in enumerate(study.checkpoints):
        at = seen[checkpoint.run]
        seen[checkpoint.run] += 1
        for index, layer in enumerate(study.layers):
            start = k * len(study.layers) + index
            here = order[ends[start] : ends[start + 1]]
            if not len(here):
                continue
            score = units.score[here[units.alive[here]]]
            row: dict[str, object] = {
                "run": study.runs[checkpoint.run],
                "checkpoint": checkpoint.name,
                "step": checkpoint.step,
                "layer": layer,
                "units": len(here),
            }
            row |= {STATES[i]: int((units.state[here] == i).sum()) for i in range(1, len(STATES))}
            for name, (value, error) in found[checkpoint.run, index].items():
                row[name] = int(value[at]) if name in ("interpretable", "unique_concepts") else float(value[at])
                if name in WITH_ERROR:
                    row[f"{name}_error"] = float(error[at])
            row["median_score"] = float(np.median(score)) if len(score) else np.nan
            row["prior_perplexity"] = float(study.prior_perplexity[k, index])
            row["sparsity"] = checkpoint.sparsity
            rows.append(row)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def csv_bytes(table: Table) -> bytes:
    """Write columns of equal length as CSV, numbers at full precision, NaN as an empty field, truth as 0 and 1."""
    columns = [_quoted([name, *_fields(column)]) for name, column in table.items()]
    lines = [",".join(row) or '""' for row in zip(*columns, strict=True)]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


def _quoted(fields: list[str]) -> list[str]:
    """Quote fields where CSV asks for it; Python's csv would leave a carriage return bare, which ends a row."""
    whole = "".join(fields)
    if not any(mark in whole for mark in MARKS):
        return fields
    return ['"' + text.replace('"', '""') + '"' if any(mark in text for mark in MARKS) else text for text in fields]


def _with_blank(names: Iterable[str]) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    """Make -1, the concept of a unit that is not alive, mean ""."""
    return np.array([*names, ""])


def _fields(column: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> list[str]:
    if column.dtype.kind == "b":
        column = column.astype(np.int8)
    if column.dtype.kind == "f":
        # The shortest digits that give back the same number, in its own precision.
        return ["" if text == "nan" else text for text in map(str, column)]
    return list(map(str, column.tolist()))
