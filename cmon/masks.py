"""The probe's masks as networks see them, one file for each geometry, so that none is decoded once per checkpoint.

A cache, not a result: `<key>.bin` holds of one image after the other what `PackedLabels` says, concepts (L,) int32,
areas (L,) int32 and bits (W, L) uint64; `<key>.json` where pixels lie, a CRC-32 for every image, and its own
fingerprint. The key is the fingerprint of labels, probe and geometry. Both may be deleted at any time.
"""

import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from io import BufferedWriter
from pathlib import Path

import numpy as np

from cmon import cache
from cmon.errors import StoreError, one_line
from cmon.fingerprint import Recipe
from cmon.pixels import BLOCK, DECODERS
from cmon.records.arrays import LongArray
from cmon.records.masks import ImageLabels, PackedLabels, words


@dataclass(frozen=True)
class Index:
    """What a cache holds of I images.

    Args:
        grids: rows and columns of `PackedLabels`, each pair once.
        grid: (I,) which of them an image's masks have.
        counts: (I,) masks, L.
        checksums: (I,) CRC-32.
    """

    grids: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]
    grid: tuple[int, ...]
    counts: tuple[int, ...]
    checksums: tuple[int, ...]

    @cached_property
    def starts(self) -> LongArray:
        """Return the (I + 1,) bytes where each image's part begins, and where the last one ends."""
        of_mask = np.array([8 + 8 * words(len(rows), len(columns)) for rows, columns in self.grids], dtype=np.int64)
        sizes = np.array(self.counts, dtype=np.int64) * of_mask[np.array(self.grid, dtype=np.int64)]
        return np.concatenate([[0], np.cumsum(sizes)])


@dataclass(frozen=True)
class MaskCache:
    """Packed masks on disk."""

    path: Path
    index: Index

    def take(self, images: Iterable[int]) -> Iterator[PackedLabels]:
        """Yield what images show, by their numbers; a flipped byte is a StoreError."""
        starts = self.index.starts
        try:
            with self.path.open("rb", buffering=0) as file:
                for image in images:
                    data = os.pread(file.fileno(), int(starts[image + 1] - starts[image]), int(starts[image]))
                    if zlib.crc32(data) != self.index.checksums[image]:
                        raise StoreError(self.path, "is damaged: a checksum does not match", "delete it and run again")
                    yield self._unpacked(image, data)
        except OSError as error:
            raise StoreError(self.path, f"cannot be read: {error.strerror or one_line(error)}", "run again") from error

    def _unpacked(self, image: int, data: bytes) -> PackedLabels:
        count, places = self.index.counts[image], self.index.grids[self.index.grid[image]]
        concepts, areas = np.frombuffer(data, "<i4", 2 * count).reshape(2, count)
        bits = np.frombuffer(data, "<u8", offset=8 * count).reshape(words(*map(len, places)), count)
        return PackedLabels(concepts, areas, bits, *places)


def find(folder: Path, recipe: Recipe) -> MaskCache | None:
    """Return the cache for a recipe, or None where there is none that is whole."""
    path = cache.place(folder, recipe)
    try:
        table = cache.read_table(path)
        grids = tuple((tuple(rows), tuple(columns)) for rows, columns in table.pop("grids"))
        index = Index(grids, **{key: tuple(values) for key, values in table.items()})
        whole = path.stat().st_size == index.starts[-1]
    except cache.DAMAGED:
        return None
    return MaskCache(path, index) if whole else None


def build(
    folder: Path,
    recipe: Recipe,
    ids: Sequence[str],
    read: Callable[[str], ImageLabels],
    advance: Callable[[int], None],
) -> MaskCache:
    """Read all masks into a new cache, written whole or not at all.

    Args:
        folder: of the caches.
        recipe: of labels, probe and geometry.
        ids: (I,) names of images.
        read: name of an image -> what it shows.
        advance: called with the number of images just done.

    Raises:
        StoreError: where the folder cannot be written or is full.
    """
    path = cache.place(folder, recipe)
    return MaskCache(path, cache.write(path, lambda file: _write(file, ids, read, advance)))


def _write(
    file: BufferedWriter, ids: Sequence[str], read: Callable[[str], ImageLabels], advance: Callable[[int], None]
) -> Index:
    """Write what all images show, a block at a time."""
    numbers: dict[tuple[tuple[float, ...], tuple[float, ...]], int] = {}
    grid, counts, checksums = [], [], []
    with ThreadPoolExecutor(DECODERS) as pool:
        for start in range(0, len(ids), BLOCK):
            names = ids[start : start + BLOCK]
            for shown in pool.map(lambda name: PackedLabels.of(read(name)), names):
                data = b"".join(part.tobytes() for part in (shown.concepts, shown.areas, shown.bits))
                grid.append(numbers.setdefault((shown.rows, shown.columns), len(numbers)))
                counts.append(len(shown.concepts))
                checksums.append(zlib.crc32(data))
                file.write(data)
            advance(len(names))
    return Index(tuple(numbers), tuple(grid), tuple(counts), tuple(checksums))
