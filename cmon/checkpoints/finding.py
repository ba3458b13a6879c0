"""Which files are a run's checkpoints, in which order, under which names."""

import glob
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cmon.checkpoints.folders import BESIDE, ENDINGS, MAIN, is_one, name_of, weights_of
from cmon.config import Run
from cmon.errors import CheckpointError, ConfigError, NoCheckpointsError, listing, one_line

TEMPORARY = (".tmp", ".part")
LONGEST_NAME_BYTES = 200
MOST_LOOKED_AT = 1000


@dataclass(frozen=True)
class CheckpointFile:
    """One checkpoint of a run: its file or folder, and their name without the ending."""

    name: str
    path: Path


def discover(run: Run) -> tuple[CheckpointFile, ...]:
    """List a run's checkpoints, see `find_checkpoints`."""
    asked = run.checkpoints if isinstance(run.checkpoints, list) else [run.checkpoints]
    return find_checkpoints(asked, f"run {run.name}: checkpoints")


def find_checkpoints(places: Sequence[Path], key: str) -> tuple[CheckpointFile, ...]:
    """List checkpoints in the natural order of their names.

    Args:
        places: files, folders that are a checkpoint or hold some, and globs.
        key: of the config, for errors.

    Raises:
        NoCheckpointsError: where nothing is found.
        CheckpointError: where two files share a name, or a name cannot be used for files of the workspace.
    """
    found: dict[str, Path] = {}
    for path in dict.fromkeys(path for place in places for path in _paths(place, key)):
        name = name_of(path)
        _refuse_unusable(name, path)
        if name in found:
            what = f"has the same name, {name}, as {found[name]}"
            raise CheckpointError(path, what, "rename one, or list files or links with names of their own")
        found[name] = path
    if not found:
        raise ConfigError(key, "is an empty list", "name a folder, a glob or files")
    return tuple(CheckpointFile(name, found[name]) for name in sorted(found, key=_natural))


def _paths(place: Path, key: str) -> list[Path]:
    """Return the checkpoints that one entry of the config means: itself, a folder's, or those that match a glob."""
    try:
        base, rest = _literal_part(place)
        if not rest:
            found = _within(base) if base.is_dir() else [base]
        else:
            # Path's ** follows no links: two to their own folder would be followed for ever. It finds hidden files.
            matching = [path for path in base.glob(_as_path_has_it(rest)) if not _is_hidden(path, base)]
            found = [_whole(path) for path in matching if _counts(path) or (rest == path.name and path.is_file())]
        nearby = [] if found else _folders_with_some(base)
    except OSError as error:
        raise ConfigError(key, f"{one_line(place)}: {error.strerror}", "name a folder, a glob or files") from error
    if not found:
        what = f"nothing matches {one_line(place)}" if glob.has_magic(rest) else f"there is no {one_line(place)}"
        what = (
            what if rest else f"the folder {one_line(place)} holds no {listing(ENDINGS)}, nor folders of a checkpoint"
        )
        hint = f"there are some in {listing(nearby, 3)}" if nearby else "name a folder, a glob or files"
        raise NoCheckpointsError(key, what, hint)
    return found


def _within(folder: Path) -> list[Path]:
    """List a folder's checkpoints: itself or its own, else those of the one folder below that has some."""
    found = _directly_in(folder)
    deeper = [] if found else _folders_with_some(folder)
    return found or (_directly_in(deeper[0]) if len(deeper) == 1 else [])


def _directly_in(folder: Path) -> list[Path]:
    if weights_of(folder) is not None:
        return [folder]
    return [path for path in folder.iterdir() if not path.name.startswith(".") and is_one(path)]


def _counts(path: Path) -> bool:
    """Tell whether what a glob matches may be a checkpoint: a folder that is one, and no file that goes with others."""
    if path.is_dir():
        return weights_of(path) is not None
    if path.suffix == ".json":
        return path.name in MAIN
    return path.suffix.lower() not in TEMPORARY and not BESIDE.fullmatch(path.name)


def _whole(path: Path) -> Path:
    """Return the folder in the place of the file that has its weights: model.safetensors is the name of all of them."""
    return path.parent if path.name in MAIN and weights_of(path.parent) == path else path


def _folders_with_some(base: Path) -> list[Path]:
    """Name the folders within a folder, down to the third level, that checkpoints lie in."""
    if not base.is_dir():
        return []
    folders = [path for depth in ("*", "*/*", "*/*/*") for path in islice(base.glob(f"{depth}/"), MOST_LOOKED_AT)]
    folders = [path for path in sorted(folders) if path.is_dir() and not _is_hidden(path, base)]
    return [path for path in folders if weights_of(path) is None and _directly_in(path)]


def _is_hidden(path: Path, base: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(base).parts)


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
