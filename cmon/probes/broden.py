"""Broden, or a set laid out like it: index.csv names the images, label.csv the concepts."""

import csv
import io
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from cmon.config import Probe as ProbeTable
from cmon.errors import ProbeError, listing, one_line
from cmon.probes.files import Files, open_files
from cmon.probes.images import ImageFiles
from cmon.records import Concepts

# Broden marks its colours and scenes, as in "red-c" and "street-s"; a text encoder should read the bare word.
MARKS = {"color": "-c", "scene": "-s"}


def open_broden(table: ProbeTable) -> ImageFiles:
    """Open the images that a Broden index lists; ids are its `image` column."""
    files, root = find_root(table.path)
    where = f"{table.path}: {root}index.csv"
    rows = defaultdict(list)
    for number, row in read_rows(files, f"{root}index.csv"):
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
    files, root = find_root(path)
    best = dict[str, tuple[int, str]]()
    for label in read_labels(files, root):
        for category, count in label.categories:
            best[label.word] = max(best.get(label.word, (-1, "")), (count, category))
    return Concepts(tuple(best), tuple(category for _, category in best.values()))


@dataclass(frozen=True)
class Label:
    """A row of label.csv: a number, its bare word, and how many images carry it in each category."""

    row: int
    number: str
    word: str
    categories: tuple[tuple[str, int], ...]


def read_labels(files: Files, root: str) -> list[Label]:
    """Read label.csv; a label without a category is on no image."""
    where, found = f"{files.path}: {root}label.csv", list[Label]()
    for number, row in read_rows(files, f"{root}label.csv"):
        try:
            word, stated = row["name"], row["category"].strip()
            parts = [part.strip().removesuffix(")").partition("(") for part in stated.split(";")] if stated else []
            for mark in {MARKS[category] for category, _, _ in parts if category in MARKS}:
                word = word.removesuffix(mark)
            if not word:
                raise ValueError
            categories = tuple((category, int(count or 0)) for category, _, count in parts)
            found.append(Label(number, row.get("number") or "", word, categories))
        except (KeyError, ValueError, AttributeError) as error:
            raise ProbeError(where, f"row {number} is not a label: {one_line(row)}", "mend it") from error
    if not any(label.categories for label in found):
        raise ProbeError(where, "holds no labels", "is this Broden?")
    return found


def find_root(path: Path) -> tuple[Files, str]:
    """Find Broden's root in a folder or zip: the files, and the prefix of those beside index.csv."""
    files = open_files(path)
    found = [name for name in files.names() if name.rpartition("/")[2] == "index.csv"]
    if not found:
        raise ProbeError(path, "holds no index.csv", "a Broden probe has index.csv, label.csv and images/")
    return files, min(found, key=lambda name: (name.count("/"), name)).removesuffix("index.csv")


def read_rows(files: Files, name: str) -> list[tuple[int, dict[str, str]]]:
    """Read a table with a header; rows are numbered as an editor shows them, the header being row 1."""
    try:
        reader = csv.DictReader(io.StringIO(files.read(name).decode("utf-8-sig"), newline=""))
        twice = {column for column in reader.fieldnames or () if (reader.fieldnames or []).count(column) > 1}
        if twice:
            raise ProbeError(f"{files.path}: {name}", f"has two columns {listing(sorted(twice))}", "mend the table")
        return [(reader.line_num, row) for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise ProbeError(f"{files.path}: {name}", f"cannot be read: {one_line(error)}", "is this Broden?") from error
