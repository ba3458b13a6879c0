"""What a training has recorded of its checkpoints, such as accuracy, read from a table of the user's."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from cmon.config import Run
from cmon.errors import ConfigError, listing, one_line
from cmon.fingerprint import HashMemory
from cmon.paths import read_text
from cmon.records import FloatArray

LARGEST_BYTES = 8 * 2**20
KEYS = ("checkpoint", "step")
NOT_METRICS = ("epoch", "stage")


def metrics_fingerprints(runs: Iterable[Run], memory: HashMemory) -> dict[str, str]:
    """Return the sha256 of the table of metrics of each run that has one.

    Raises:
        ConfigError: for one that cannot be read.
    """
    found = {}
    for run in runs:
        if run.metrics is None:
            continue
        try:
            found[run.name] = memory.sha256(run.metrics)
        except OSError as error:
            where, hint = f"run {run.name}: metrics: {run.metrics}", "set it to the training's .csv, or leave it out"
            raise ConfigError(where, error.strerror or "cannot be read", hint) from error
    return found


def read_metrics(path: Path, names: Sequence[str], steps: Sequence[int]) -> dict[str, FloatArray]:
    """Read a .csv with a row for each checkpoint, told by the column `checkpoint` or else by `step`.

    Args:
        path: of the table; lines of other checkpoints and columns without a number are left out.
        names: (K,) of the checkpoints.
        steps: (K,) theirs.

    Returns:
        name -> (K,), NaN where a field is empty or a checkpoint has no line.

    Raises:
        ConfigError: for a table that cannot be read, tells of no checkpoint, or of one twice, or holds a text where
            other lines have a number.
    """
    rows = _rows(path)
    key = next((key for key in KEYS if key in rows[0]), None)
    if key is None:
        raise ConfigError(path, f"has no column checkpoint or step, but {listing(rows[0])}", "name one of its columns")
    places = {str(name): k for k, name in enumerate(names if key == "checkpoint" else steps)}
    columns = [name for name in rows[0] if name not in (*KEYS, *NOT_METRICS)]
    found = {name: np.full(len(names), np.nan, np.float32) for name in columns}
    seen: dict[int, int] = {}
    for line, row in enumerate(rows, 2):
        place = places.get((row[key] or "").strip())
        if place is None:
            continue
        if place in seen:
            what = f"line {line} tells of {key} {one_line(row[key])}, and so does line {seen[place]}"
            raise ConfigError(path, what, "keep one of them")
        seen[place] = line
        for name in columns:
            found[name][place] = _number(path, line, name, row[name])
    if not seen:
        what = f"tells of none of the run's checkpoints: its column {key} has {listing([row[key] for row in rows])}"
        raise ConfigError(path, what, f"the run has {listing(places)}")
    return {name: values for name, values in found.items() if np.isfinite(values).any()}


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        reader = csv.DictReader(io.StringIO(read_text(path, LARGEST_BYTES), newline=""))
        rows = list(reader)
    except OSError as error:
        raise ConfigError(path, error.strerror or "cannot be read", "set the run's metrics to a .csv") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(path, f"is no table: {one_line(error)}", "save it as UTF-8") from error
    if not rows:
        raise ConfigError(path, "holds no lines", "write a line for each checkpoint, under a line of column names")
    for line, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise ConfigError(path, f"line {line} has another number of fields than the first", "mend the line")
    return rows


def _number(path: Path, line: int, name: str, text: str) -> float:
    """Read a field; an empty one and NaN are not measured."""
    if not text.strip():
        return math.nan
    try:
        value = float(text)
    except ValueError as error:
        what = f"line {line}: {name} is {one_line(text, 40)!r}, and no number"
        raise ConfigError(path, what, "write a number, or leave the field empty") from error
    return value if math.isfinite(value) else math.nan
