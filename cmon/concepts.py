"""The words that units may be given, read from a user's file."""

import csv
import io
from collections import defaultdict
from pathlib import Path

from cmon.errors import ConfigError, listing, one_line
from cmon.paths import read_text
from cmon.records import Concepts

LARGEST_BYTES = 8 * 2**20  # a million words


def read_concepts(path: Path) -> Concepts:
    """Read a .csv with the columns concept and, if wanted, category, or a text file with a word a line.

    Raises:
        ConfigError: for a file that cannot be read, has no words, or holds a word twice (two copies of a word would
            share its probability, and neither would be found).
    """
    try:
        text = read_text(path, LARGEST_BYTES)
        rows = _csv_rows(path, text) if path.suffix.lower() == ".csv" else _text_rows(text)
    except OSError as error:
        raise ConfigError(path, error.strerror or "cannot be read", "set concepts.file to an existing file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(path, f"is not text: {one_line(error)}", "save it as UTF-8") from error
    if not rows:
        raise ConfigError(path, "holds no concepts", "write a word a line")
    lines = defaultdict(list)
    for line, word, _ in rows:
        lines[word].append(line)
    twice = [f"{word} (lines {', '.join(map(str, at))})" for word, at in lines.items() if len(at) > 1]
    if twice:
        raise ConfigError(path, f"holds {len(twice)} words more than once: {listing(twice)}", "keep one line of each")
    return Concepts(tuple(word for _, word, _ in rows), tuple(category for _, _, category in rows))


def _text_rows(text: str) -> list[tuple[int, str, str]]:
    return [(number, line.strip(), "") for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _csv_rows(path: Path, text: str) -> list[tuple[int, str, str]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if "concept" not in (reader.fieldnames or ()):
        found = listing(reader.fieldnames or ["nothing"])
        raise ConfigError(path, f"has no column `concept`, but {found}", "name its columns concept,category")
    rows = []
    for row in reader:
        word = (row["concept"] or "").strip()
        if not word:
            raise ConfigError(path, f"line {reader.line_num} has no concept", "fill or delete the line")
        if None in row:
            raise ConfigError(path, f"line {reader.line_num} has too many columns", "quote a word that holds a comma")
        rows.append((reader.line_num, word, (row.get("category") or "").strip()))
    return rows
