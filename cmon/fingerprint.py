"""Tell whether two results are of the same making: recipes, their fingerprints, and what changed between two."""

import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from cmon.whole import whole_file

Json: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any] | None
Recipe: TypeAlias = dict[str, Any]

# A file changed this recently could change again within one tick of its clock: its hash is not remembered.
RACY_S = 2.0


def canonical_json(value: Json) -> str:
    """Write a JSON value in its one canonical form: keys sorted, no blanks, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(recipe: Json) -> str:
    """Return the sha256 (64 hex digits) of a recipe's canonical JSON."""
    return hashlib.sha256(canonical_json(recipe).encode("utf-8", "surrogatepass")).hexdigest()


def bytes_sha256(data: bytes) -> str:
    """Return the sha256 (64 hex digits) of some bytes."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the sha256 (64 hex digits) of a file's bytes; an OSError where it is none, or cannot be read."""
    file_status(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def named_fingerprint(hashes: Iterable[tuple[str, str]]) -> str:
    """Return the sha256 over the sorted `name sha256` lines of a set of files."""
    lines = "".join(f"{name} {sha256}\n" for name, sha256 in sorted(hashes))
    return bytes_sha256(lines.encode("utf-8", "surrogateescape"))


def changes(old: Json, new: Json, path: str = "") -> list[str]:
    """Name the keys, dotted, at which two recipes differ, in the new one's order."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        # As JSON, in which 1, 1.0 and true differ, and a tuple and a list do not.
        return [] if canonical_json(old) == canonical_json(new) else [path or "everything"]
    found: list[str] = []
    for key in [*new, *(key for key in old if key not in new)]:
        where = f"{path}.{key}" if path else key
        if key not in old or key not in new:
            found.append(where)
        else:
            found += changes(old[key], new[key], where)
    return found


class HashMemory:
    """Remember the hashes of files, and rehash one only when its size, times or inode have changed.

    Args:
        path: the JSON file that keeps the memory; a missing or damaged one is an empty memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Any] | None = None  # read when first asked for
        self._changed = False

    def sha256(self, path: Path) -> str:
        """Return the sha256 of a file's bytes."""
        return self.recall(path, "sha256", file_sha256)

    def recall(self, path: Path, what: str, compute: Callable[[Path], str]) -> str:
        """Return compute(path), which may depend on the file's bytes and on `what` alone, from memory if current."""
        key, now = f"{what}:{os.path.realpath(path)}", _state(path)
        known = self._load().get(key)
        if isinstance(known, list) and known[:-1] == now:
            return str(known[-1])
        value = compute(path)
        if _state(path) == now and time.time() - max(now[1], now[2]) / 1e9 > RACY_S:
            self._load()[key] = [*now, value]
            self._changed = True
        return value

    def derive(self, key: str, compute: Callable[[], str]) -> str:
        """Return compute(), which `key` alone decides, with the sha256 of some bytes in it; from memory if known."""
        known = self._load().get(key)
        if isinstance(known, str):
            return known
        value = self._load()[key] = compute()
        self._changed = True
        return value

    def save(self) -> None:
        """Write the memory, with what others wrote since; a folder that cannot be written only costs hashing again."""
        if not self._changed:
            return
        known = {**self._read(), **self._load()}
        table = {"files": known, "fingerprint": fingerprint(known)}
        with suppress(OSError), whole_file(self.path) as file:
            file.write(json.dumps(table).encode())
        self._changed = False

    def _load(self) -> dict[str, Any]:
        if self._known is None:
            self._known = self._read()
        return self._known

    def _read(self) -> dict[str, Any]:
        try:
            table = json.loads(self.path.read_text(encoding="utf-8"))
            known: dict[str, Any] = table["files"]
            return known if fingerprint(known) == table["fingerprint"] else {}
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return {}


def _state(path: Path) -> list[int]:
    status = file_status(path)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def file_status(path: Path) -> os.stat_result:
    """Return a file's status; an OSError where it is a pipe or a device, which would be read for ever."""
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # to open a folder is an error of its own
        raise OSError(errno.EINVAL, "is no file, but a pipe or a device")
    return status
