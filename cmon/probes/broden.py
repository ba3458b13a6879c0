"""Broden, or a set laid out like it: index.csv names the images, label.csv the concepts."""

import csv
import io
from collections import defaultdict
from pathlib import Path, PurePosixPath

from cmon.config import Probe as ProbeTable
from cmon.errors import ProbeError, listing, one_line
from cmon.probes.files import Files, open_files
from cmon.probes.images import ImageFiles
from cmon.records import Concepts

# Broden marks its colours and scenes, as in "red-c" and "street-s"; a text encoder should read the bare word.
MARKS = {"color": "-c", "scene": "-s"}


def open_broden(table: ProbeTable) -> ImageFiles:
    """Open the images that a Broden index lists; ids are its `image` column."""
    files, root = _root(table.path)
    where = f"{table.path}: {root}index.csv"
    rows = defaultdict(list)
    for number, row in _rows(files, f"{root}index.csv"):
        if "image" not in row:
            raise ProbeError(where, "has no column `image`", "is this Broden's index?")
        if not row["image"]:
            raise ProbeError(where, f"row {number} names no image", "mend the index")
        rows[row["image"]].append(number)
    twice = [f"{name} (rows {', '.join(map(str, at))})" for name, at in rows.items() if len(at) > 1]
    there = set(files.names())
    absent = [f"{root}images/{name} (row {at[0]})" for name, at in rows.items() if f"{root}images/{name}" not in there]
    for names, what in ((twice, "lists twice"), (absent, "lists files that are not there")):
        if names:
            raise ProbeError(where, f"{what}: {listing(names)}", "mend the index")
    ids = tuple(sorted(rows))
    return ImageFiles(files, ids, tuple(f"{root}images/{name}" for name in ids), table.on_error == "skip")


def broden_concepts(path: Path) -> Concepts:
    """Read the bare, unique words of Broden's label.csv; a word of several categories goes to its commonest.

    A label without a category is on no image, and so is no concept of this probe.
    """
    files, root = _root(path)
    where, best = f"{root}label.csv", dict[str, tuple[int, str]]()
    for number, row in _rows(files, where):
        try:
            parts = [part.strip().removesuffix(")").partition("(") for part in row["category"].split(";")]
            word = row["name"]
            for mark in {MARKS[category] for category, _, _ in parts if category in MARKS}:
                word = word.removesuffix(mark)
            if not word:
                raise ValueError
            for category, _, count in parts if row["category"].strip() else ():
                best[word] = max(best.get(word, (-1, "")), (int(count or 0), category))
        except (KeyError, ValueError, AttributeError) as error:
            raise ProbeError(f"{path}: {where}", f"row {number} is not a label: {one_line(row)}", "mend it") from error
    if not best:
        raise ProbeError(f"{path}: {where}", "holds no labels", "is this Broden?")
    return Concepts(tuple(best), tuple(category for _, category in best.values()))


def _root(path: Path) -> tuple[Files, str]:
    """Find Broden's root in a folder or zip: the files, and the prefix of those beside index.csv."""
    files = open_files(path)
    found = [name for name in files.names() if PurePosixPath(name).name == "index.csv"]
    if not found:
        raise ProbeError(path, "holds no index.csv", "a Broden probe has index.csv, label.csv and images/")
    return files, min(found, key=lambda name: (name.count("/"), name)).removesuffix("index.csv")


def _rows(files: Files, name: str) -> list[tuple[int, dict[str, str]]]:
    """Read a table with a header; rows are numbered as an editor shows them, the header being row 1."""
    try:
        return list(enumerate(csv.DictReader(io.StringIO(files.read(name).decode("utf-8-sig"))), 2))
    except (OSError, ValueError, csv.Error) as error:
        raise ProbeError(f"{files.path}: {name}", f"cannot be read: {one_line(error)}", "is this Broden?") from error
