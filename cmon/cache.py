"""Caches of what is decoded once: a file of bytes, and beside it a JSON table that says what they are.

The table has its own fingerprint, and both are named by that of a recipe. Both may be deleted at any time.
"""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from io import BufferedWriter
from pathlib import Path
from typing import Any, TypeVar

from cmon.fingerprint import Recipe, fingerprint
from cmon.h5 import unwritable, write_whole
from cmon.whole import whole_file

Index = TypeVar("Index", bound=Any)
# All that reading a table and making sense of it raise where it is damaged.
DAMAGED = (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError)


def place(folder: Path, recipe: Recipe) -> Path:
    """Return where the bytes of a recipe lie."""
    return folder / f"{fingerprint(recipe)[:24]}.bin"


def read_table(path: Path) -> dict[str, Any]:
    """Read the table beside some bytes.

    Raises:
        DAMAGED: where there is none that is whole.
    """
    table: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    stated = table.pop("fingerprint")
    if fingerprint(table) != stated:
        raise ValueError("the table is not what its fingerprint says")
    return table


def write(path: Path, fill: Callable[[BufferedWriter], Index]) -> Index:
    """Write bytes and their table, each whole or not at all.

    Args:
        path: of the bytes; its folder is made.
        fill: writes them into the open file, and returns the table, a dataclass.

    Raises:
        StoreError: where the folder cannot be written or is full.
    """
    try:
        with whole_file(path) as file:
            index = fill(file)
        table = asdict(index)
    except OSError as error:
        raise unwritable(path, error) from error
    write_whole(path.with_suffix(".json"), json.dumps({**table, "fingerprint": fingerprint(table)}).encode())
    return index


def prune(folder: Path, keep: Iterable[Recipe]) -> None:
    """Delete what no recipe of `keep` has: the caches of earlier probes and geometries, large and of no use."""
    kept = {place(folder, recipe).stem for recipe in keep}
    for path in (*folder.glob("*.bin"), *folder.glob("*.json")):
        if path.stem not in kept:
            with suppress(OSError):
                path.unlink()
