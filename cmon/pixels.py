"""The probe's decoded images, one file for each geometry, so that no image is decoded once per checkpoint.

A cache, not a result: `<key>.bin` holds (I, h, w, 3) uint8, `<key>.json` the shape, the images' names, a CRC-32 for
every BLOCK of them, and its own fingerprint. The key is the fingerprint of probe and geometry. Both may be deleted at
any time.
"""

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path

import numpy as np

from cmon import cache
from cmon.errors import ProbeError, StoreError, one_line
from cmon.fingerprint import Recipe
from cmon.records import IntArray, Pixels
from cmon.threads import map_ahead

BLOCK = 256
DECODERS = min(8, os.cpu_count() or 1)
# Blocks that are read before they are asked for: a GPU takes one faster than a single thread reads the next.
AHEAD = min(4, DECODERS)


@dataclass(frozen=True)
class Index:
    """What a cache holds.

    Args:
        shape: (I, h, w, 3).
        ids: (I,) names of the images that could be read, sorted.
        skipped: names of those that could not.
        checksums: CRC-32 of every block of BLOCK images.
    """

    shape: tuple[int, ...]
    ids: tuple[str, ...]
    skipped: tuple[str, ...]
    checksums: tuple[int, ...]


@dataclass(frozen=True)
class PixelCache:
    """Decoded images on disk."""

    path: Path
    index: Index

    def blocks(self) -> Iterator[Pixels]:
        """Yield (n, h, w, 3) blocks in order; a flipped byte is a StoreError."""
        return self._read(range(len(self.index.checksums)))

    def take(self, images: IntArray) -> Pixels:
        """Return (n, h, w, 3) images by their numbers, in the order asked; a flipped byte is a StoreError.

        Blocks are read whole, since checksums are of blocks: no more is held than a few, and what is asked for.
        """
        taken = np.empty((len(images), *self.index.shape[1:]), dtype=np.uint8)
        block_of, places = np.divmod(images, BLOCK)
        numbers = np.unique(block_of).tolist()
        for number, block in zip(numbers, self._read(numbers), strict=True):
            asked = block_of == number
            taken[asked] = block[places[asked]]
        return taken

    def _read(self, numbers: Sequence[int]) -> Iterator[Pixels]:
        return map_ahead(self._block, numbers, AHEAD)

    def _block(self, number: int) -> Pixels:
        # Read and not mapped: a mapped file that another process cuts short would kill this one.
        images, *image_shape = self.index.shape
        image_bytes, count = int(np.prod(image_shape)), min(BLOCK, images - number * BLOCK)
        data = bytearray(count * image_bytes)
        try:
            with self.path.open("rb") as file:
                file.seek(number * BLOCK * image_bytes)
                whole = file.readinto(data) == len(data)
        except OSError as error:
            raise StoreError(self.path, f"cannot be read: {error.strerror or one_line(error)}", "run again") from error
        if not whole or zlib.crc32(data) != self.index.checksums[number]:
            raise StoreError(self.path, "is damaged: a checksum does not match", "delete it and run again")
        return np.frombuffer(data, dtype=np.uint8).reshape(count, *image_shape)


def find(folder: Path, recipe: Recipe) -> PixelCache | None:
    """Return the cache for a recipe, or None where there is none that is whole."""
    path = cache.place(folder, recipe)
    try:
        index = Index(**{key: tuple(values) for key, values in cache.read_table(path).items()})
        whole = path.stat().st_size == int(np.prod(index.shape))
    except cache.DAMAGED:
        return None
    return PixelCache(path, index) if whole else None


def build(
    folder: Path,
    recipe: Recipe,
    ids: tuple[str, ...],
    decode: Callable[[int], Pixels | None],
    advance: Callable[[int], None],
) -> PixelCache:
    """Decode all images into a new cache, written whole or not at all.

    Args:
        folder: of the caches.
        recipe: of probe and geometry.
        ids: (I,) all the probe's images.
        decode: image index -> (h, w, 3) uint8; None for one to skip.
        advance: called with the number of images just done.

    Raises:
        ProbeError: where images are of several sizes, or none can be read.
        StoreError: where the folder cannot be written or is full.
    """
    path = cache.place(folder, recipe)
    return PixelCache(path, cache.write(path, lambda file: _write(file, ids, decode, advance)))


def _write(
    file: BufferedWriter,
    ids: tuple[str, ...],
    decode: Callable[[int], Pixels | None],
    advance: Callable[[int], None],
) -> Index:
    """Write all images that can be read, a block at a time."""
    kept: list[int] = []
    checksums: list[int] = []
    pending: list[Pixels] = []
    shape: tuple[int, ...] = ()
    with ThreadPoolExecutor(DECODERS) as pool:
        for start in range(0, len(ids), BLOCK):
            indices = range(start, min(start + BLOCK, len(ids)))
            for index, image in zip(indices, pool.map(decode, indices), strict=True):
                if image is None:
                    continue
                if not shape:
                    shape = image.shape
                    # Room for all is taken at once, so that a full disk shows at the start and not at the end.
                    if hasattr(os, "posix_fallocate"):  # macOS has none
                        os.posix_fallocate(file.fileno(), 0, len(ids) * image.nbytes)
                if image.shape != shape:
                    what = f"{one_line(ids[index])} is {_size(image.shape)}, {one_line(ids[kept[0]])} is {_size(shape)}"
                    raise ProbeError("probe", what, "set the run's preprocess.resize and crop, so that all are alike")
                kept.append(index)
                pending.append(image)
            while len(pending) >= BLOCK or (pending and indices.stop == len(ids)):
                block = np.stack(pending[:BLOCK])
                checksums.append(zlib.crc32(block.data))
                file.write(block.data)
                pending = pending[BLOCK:]
            advance(len(indices))
    if not kept:
        raise ProbeError("probe", f"none of its {len(ids)} images can be read", "look at probe.path")
    file.flush()
    file.truncate(len(kept) * int(np.prod(shape)))
    names = {ids[i] for i in kept}
    skipped = tuple(name for name in ids if name not in names)
    return Index((len(kept), *shape), tuple(ids[i] for i in kept), skipped, tuple(checksums))


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
