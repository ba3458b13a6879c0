"""Which files are a run's checkpoints, in which order, under which names."""

import glob
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from cmon.checkpoints.reading import LOADERS
from cmon.config import Run
from cmon.errors import CheckpointError, ConfigError, NoCheckpointsError, listing, one_line

TEMPORARY = (".tmp", ".part")
LONGEST_NAME_BYTES = 200


@dataclass(frozen=True)
class CheckpointFile:
    """One checkpoint of a run: its file, and the file's name without the ending."""

    name: str
    path: Path


def discover(run: Run) -> tuple[CheckpointFile, ...]:
    """List a run's checkpoints in the natural order of their names.

    Raises:
        NoCheckpointsError: where nothing is found.
        CheckpointError: where two files share a name, or a name cannot be used for files of the workspace.
    """
    asked = run.checkpoints if isinstance(run.checkpoints, list) else [run.checkpoints]
    found: dict[str, Path] = {}
    for path in dict.fromkeys(path for place in asked for path in _files(place, f"run {run.name}: checkpoints")):
        name = path.stem
        _refuse_unusable(name, path)
        if name in found:
            what = f"has the same name, {name}, as {found[name]}"
            raise CheckpointError(path, what, "rename one, or list files or links with names of their own")
        found[name] = path
    if not found:
        raise ConfigError(f"run {run.name}: checkpoints", "is an empty list", "name a folder, a glob or files")
    return tuple(CheckpointFile(name, found[name]) for name in sorted(found, key=_natural))


def _files(place: Path, key: str) -> list[Path]:
    """Return the files that one entry of the config means: itself, a folder's, or those that match a glob."""
    try:
        base, rest = _literal_part(place)
        if not rest and not base.is_dir():
            return [base]
        patterns = [rest] if rest else [f"*{ending}" for ending in LOADERS]
        # Path's ** follows no links: two to their own folder would be followed for ever. It finds hidden files.
        found = [path for pattern in patterns for path in base.glob(_as_path_has_it(pattern))]
        seen = [path for path in found if not any(part.startswith(".") for part in path.relative_to(base).parts)]
        files = [path for path in seen if not path.is_dir()]
    except OSError as error:
        raise ConfigError(key, f"{one_line(place)}: {error.strerror}", "name a folder, a glob or files") from error
    files = [path for path in files if rest == path.name or path.suffix.lower() not in TEMPORARY]
    if not files:
        what = f"nothing matches {one_line(place)}" if glob.has_magic(rest) else f"there is no {one_line(place)}"
        what = what if rest else f"the folder {one_line(place)} holds no {listing(LOADERS)}"
        raise NoCheckpointsError(key, what, "name a folder, a glob or files")
    return files


def _as_path_has_it(pattern: str) -> str:
    """Write a glob as pathlib takes it: ** is a whole part, once in a row, and finds folders; elsewhere it is a *."""
    parts: list[str] = []
    for part in pattern.split("/"):
        if part != "**":
            parts.append(re.sub(r"\*+", "*", part))
        elif parts[-1:] != ["**"]:
            parts.append(part)
    return "/".join([*parts, "*"] if parts[-1] == "**" else parts)


def _literal_part(place: Path) -> tuple[Path, str]:
    """Split a path where it stops existing as written: names may hold brackets, only the rest is a glob.

    What is named *.pt is found by *.pt, and so are the others.
    """
    base, parts = Path(place.anchor), list(place.parts[1:] if place.anchor else place.parts)
    while parts and not {"*", "?"} & {*parts[0]} and os.path.lexists(base / parts[0]):
        base /= parts.pop(0)
    return base, "/".join(parts)


def _refuse_unusable(name: str, path: Path) -> None:
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError:
        size_bytes = 0  # bytes that are not UTF-8
    if not 0 < size_bytes <= LONGEST_NAME_BYTES or any(unicodedata.category(c) == "Cc" for c in name):
        what = f"its name cannot be used: not UTF-8, over {LONGEST_NAME_BYTES} bytes, or with control characters"
        raise CheckpointError(one_line(path), what, "rename it")


def _natural(name: str) -> tuple[list[str | int], str]:
    """Order epoch_2 before epoch_10; text and numbers alternate, so that like meets like."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)], name
