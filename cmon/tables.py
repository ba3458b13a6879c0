"""The tables of a report: one row per unit, and one row per layer."""

from collections.abc import Iterable

import numpy as np

from cmon.records import Study, Table


def units_table(study: Study) -> Table:
    """Return one row per run, checkpoint, layer and unit; words and categories are "" for dead units."""
    units = study.units
    names, categories = _with_blank(study.concepts.names), _with_blank(study.concepts.categories)
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
        "alive": units.alive,
        "x": units.xy[:, 0],
        "y": units.xy[:, 1],
    }
    for rank in range(1, min(5, units.top_concept.shape[1])):
        table[f"concept_{rank + 1}"] = names[units.top_concept[:, rank]]
        table[f"score_{rank + 1}"] = units.top_score[:, rank]
    return table


def layers_table(study: Study) -> Table:
    """Return one row per run, checkpoint and layer: its counts, its diversity, its distances."""
    rows: list[dict[str, object]] = []
    units = study.units
    for k, checkpoint in enumerate(study.checkpoints):
        for index, layer in enumerate(study.layers):
            here = (units.checkpoint == k) & (units.layer == index)
            if not here.any():
                continue
            clear, alive = here & units.interpretable, here & units.alive
            words = units.concept[clear]
            rows.append(
                {
                    "run": study.runs[checkpoint.run],
                    "checkpoint": checkpoint.name,
                    "step": checkpoint.step,
                    "layer": layer,
                    "units": int(here.sum()),
                    "dead": int(here.sum() - alive.sum()),
                    "interpretable": int(clear.sum()),
                    "unique_concepts": len(np.unique(words)),
                    "effective_concepts": effective_number(words),
                    "median_score": float(np.median(units.score[alive])) if alive.any() else np.nan,
                    "d_anchor": float(study.d_anchor[k, index]),
                    "prior_perplexity": float(study.prior_perplexity[k, index]),
                }
            )
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def effective_number(labels: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> float:
    """Return exp of the entropy of some labels: how many equally common ones would be as diverse; 0 for none."""
    if not len(labels):
        return 0.0
    share = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(np.exp(-(share * np.log(share)).sum()))


def csv_bytes(table: Table) -> bytes:
    """Write columns of equal length as CSV, numbers at full precision, NaN as an empty field, truth as 0 and 1."""
    rows = [list(table), *zip(*(_fields(column) for column in table.values()), strict=True)]
    lines = [",".join(_quoted(field) for field in row) or '""' for row in rows]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


def _quoted(field: str) -> str:
    """Quote a field where CSV asks for it; Python's csv would leave a carriage return bare, which ends a row."""
    return '"' + field.replace('"', '""') + '"' if any(mark in field for mark in ',"\r\n') else field


def _with_blank(names: Iterable[str]) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    """Make -1, the index of a dead unit's concept, mean ""."""
    return np.array([*names, ""])


def _fields(column: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> list[str]:
    if column.dtype.kind == "b":
        column = column.astype(np.int8)
    if column.dtype.kind == "f":
        # The shortest digits that give back the same number, in its own precision.
        return ["" if np.isnan(value) else str(value) for value in column]
    return [str(value) for value in column.tolist()]
