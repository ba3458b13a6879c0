"""Which units of two runs are compared, for all runs of a study that are shown together."""

from pathlib import Path

import h5py
import numpy as np

from cmon.fingerprint import Json, Recipe
from cmon.h5 import open_file, write_array, write_file
from cmon.records import Match

SAME_OF_ALL = ("run", "other", "layer", "checkpoint", "other_checkpoint", "same_start")
PAIRS = ("unit", "partner", "correlation", "chance")


def write_matches(path: Path, recipe: Recipe, provenance: Json, matches: list[Match]) -> None:
    """Write all pairs of units as one table."""

    def fill(file: h5py.File) -> None:
        for name in SAME_OF_ALL:
            rows = [np.full(len(match.unit), getattr(match, name)) for match in matches]
            kind = np.bool_ if name == "same_start" else np.int32
            write_array(file, f"pairs/{name}", np.concatenate([np.zeros(0), *rows]).astype(kind))
        for name in PAIRS:
            kind = np.int32 if name in ("unit", "partner") else np.float32
            values = [np.zeros(0, kind), *(getattr(match, name) for match in matches)]
            write_array(file, f"pairs/{name}", np.concatenate(values))

    write_file(path, "matches", recipe, provenance, fill)


def read_matches(path: Path) -> list[Match]:
    """Read the pairs of units, by runs and layer."""
    with open_file(path, "matches") as file:
        table = {name: file[f"pairs/{name}"][:] for name in (*SAME_OF_ALL, *PAIRS)}
    keys = np.stack([table[name] for name in ("run", "other", "layer")], axis=1)
    found = []
    for key in np.unique(keys, axis=0):
        rows = np.flatnonzero((keys == key).all(axis=1))
        same = {name: table[name][rows[0]].item() for name in SAME_OF_ALL}
        found.append(Match(**same, **{name: table[name][rows] for name in PAIRS}))
    return found
