"""One HDF5 file: created whole or not at all, opened after its header is checked, every byte of data checksummed."""

import errno
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import h5py
import numpy as np
import numpy.typing as npt

from cmon.errors import DamagedStoreError, StoreError, one_line
from cmon.fingerprint import Json, Recipe, canonical_json, fingerprint
from cmon.whole import whole_file

FORMAT_VERSION = 1
# The file format of HDF5 1.10, which every current reader knows and which checksums its own metadata.
LIBRARY_VERSIONS = ("v110", "v110")
CHUNK_BYTES = 64 * 2**20
# A string of fixed length is padded with NUL, so that its own are written as the two bytes that Java writes for them,
# which UTF-8 never has. Surrogates stand for the bytes of a file's name that is not UTF-8.
NUL = b"\xc0\x80"

Array: TypeAlias = npt.NDArray[Any]


class Header(NamedTuple):
    """What a file says of its making."""

    kind: str
    fingerprint: str
    recipe: Recipe


def write_file(path: Path, kind: str, recipe: Recipe, provenance: Json, fill: Callable[[h5py.File], None]) -> None:
    """Write a file whole or not at all.

    It is built in memory, since a disk that fills under an open HDF5 file kills the process, then written beside its
    place under a hidden name, synced, and renamed.

    Args:
        path: its place; folders are made.
        kind: what it holds, such as "activations".
        recipe: all that can change its numbers.
        provenance: of its making; never hashed.
        fill: writes the datasets into the open file.

    Raises:
        StoreError: if the folder cannot be written.
    """
    memory = io.BytesIO()
    with h5py.File(memory, "w", libver=LIBRARY_VERSIONS) as file:
        write_attribute(file, "format", "cmon")
        write_attribute(file, "kind", kind)
        file.attrs["format_version"] = FORMAT_VERSION
        write_attribute(file, "fingerprint", fingerprint(recipe))
        write_json(file, "recipe", recipe)
        write_json(file, "provenance", provenance)
        fill(file)
    write_whole(path, memory.getbuffer())


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Put bytes at `path` whole or not at all, through a hidden file in the same folder.

    Raises:
        StoreError: if the folder cannot be written.
    """
    try:
        with whole_file(path) as file:
            file.write(data)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> StoreError:
    """Say in one line why a file could not be written, and what to do."""
    hint = (
        "make room, or set another workspace" if error.errno == errno.ENOSPC else "set a workspace that you can write"
    )
    return StoreError(path, f"cannot be written: {error.strerror or one_line(error)}", hint)


@contextmanager
def open_file(path: Path, kind: str) -> Iterator[h5py.File]:
    """Open a file for reading; a checksum that fails inside becomes a StoreError.

    Raises:
        DamagedStoreError: where it is broken.
        StoreError: where it is not ours, of a newer format, or may not be read.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            _check(path, file, kind)
            yield file
    except FileNotFoundError:
        raise
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise StoreError(path, f"cannot be read: {os.strerror(error.errno or 0)}", "look at its rights") from error
    except (OSError, LookupError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        hint = "delete it and run the stage again"
        raise DamagedStoreError(path, f"is damaged: {one_line(error)}", hint) from error


def read_header(path: Path, kind: str) -> Header | None:
    """Return what a file says of its making; None where there is none, or one of an older format.

    Raises:
        StoreError: as open_file.
    """
    try:
        with open_file(path, kind) as file:
            if _format_version(file) < FORMAT_VERSION:
                return None
            recipe = read_json(file, "recipe")
            stated = read_attribute(file, "fingerprint")
            if not isinstance(recipe, dict) or fingerprint(recipe) != stated:
                raise ValueError("the recipe does not match its fingerprint")
            return Header(kind, stated, recipe)
    except FileNotFoundError:
        return None


def write_attribute(group: h5py.Group, name: str, text: str) -> None:
    """Write a string attribute of fixed length: one of variable length lies where no checksum guards it.

    A single flipped bit there sends HDF5 2.0 into an endless loop.
    """
    encoded = _encoded(text)
    group.attrs.create(name, np.array(encoded, dtype=h5py.string_dtype("utf-8", max(1, len(encoded)))))


def read_attribute(group: h5py.Group, name: str) -> str:
    """Read what write_attribute wrote; "" where it is missing or is no text."""
    value = group.attrs.get(name, b"")
    return _decoded(value) if isinstance(value, bytes) else ""


def write_array(group: h5py.Group, name: str, values: Array) -> None:
    """Write a checksummed dataset in one chunk, or a few where it is large."""
    array = np.ascontiguousarray(values)
    if array.size == 0:
        group.create_dataset(name, data=array)
        return
    rows = max(1, min(len(array), CHUNK_BYTES // max(1, array[:1].nbytes)))
    group.create_dataset(name, data=array, chunks=(rows, *array.shape[1:]), fletcher32=True)


def write_strings(group: h5py.Group, name: str, strings: tuple[str, ...]) -> None:
    """Write strings of one fixed length in UTF-8, since checksums do not reach those of variable length."""
    encoded = [_encoded(string) for string in strings]
    length = max([1, *map(len, encoded)])
    values = np.array(encoded, dtype=h5py.string_dtype("utf-8", length))
    write_array(group, name, values)


def read_strings(group: h5py.Group, name: str) -> tuple[str, ...]:
    """Read what write_strings wrote."""
    if group[name].size == 0:
        return ()
    return tuple(_decoded(value) for value in group[name][:].tolist())


def write_json(group: h5py.Group, name: str, value: Json) -> None:
    """Write a JSON value as a dataset of one string, since attributes end at 64 KiB."""
    write_strings(group, name, (canonical_json(value),))


def read_json(group: h5py.Group, name: str) -> Json:
    """Read what write_json wrote."""
    value: Json = json.loads(read_strings(group, name)[0])
    return value


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass").replace(b"\0", NUL)


def _decoded(data: bytes) -> str:
    return data.replace(NUL, b"\0").decode("utf-8", "surrogatepass")


def _check(path: Path, file: h5py.File, kind: str) -> None:
    """Raise where an open file is not ours, of another kind, or from a newer cmon."""
    if (read_attribute(file, "format"), read_attribute(file, "kind")) != ("cmon", kind):
        raise StoreError(path, f"is not a cmon file of kind {kind}", "move it away, and run the stage again")
    if _format_version(file) > FORMAT_VERSION:
        raise StoreError(path, f"has format {_format_version(file)}, newer than this cmon", "upgrade cmon")


def _format_version(file: h5py.File) -> int:
    version = file.attrs["format_version"]
    if not isinstance(version, np.integer):
        raise ValueError("its format version is no number")
    return int(version)
