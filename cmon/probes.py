"""Image sets: what a probe holds, in a stable order, and each image decoded on demand."""

import csv
import io
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from cmon.config import Preprocess
from cmon.config import Probe as ProbeTable
from cmon.errors import ProbeError, listing, one_line
from cmon.fingerprint import HashMemory, bytes_sha256, named_fingerprint
from cmon.records import Concepts, Pixels

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# An entry of an archive that unpacks to more than this is no image but a mistake or an attack.
LARGEST_FILE_BYTES = 512 * 2**20
# Broden marks its colours and scenes, as in "red-c" and "street-s"; a text encoder should read the bare word.
BRODEN_MARKS = {"color": "-c", "scene": "-s"}


class Files(Protocol):
    """A folder or a zip: names below it, and their bytes."""

    @property
    def path(self) -> Path:
        """Where it lies."""

    def names(self) -> list[str]:
        """List all files as POSIX paths below the root, sorted."""

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""

    def hashes(self, names: Iterable[str], memory: HashMemory) -> list[tuple[str, str]]:
        """Return (name, sha256) of some files."""


class Probe(Protocol):
    """A set of images."""

    @property
    def path(self) -> Path:
        """Where it lies."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Unique names of its images, sorted."""

    def image(self, index: int) -> Image.Image:
        """Decode one image to RGB; a ProbeError names an unreadable one."""

    def fingerprint(self, memory: HashMemory) -> str:
        """Return the sha256 over the sorted (name, sha256) lines of the images."""


@dataclass(frozen=True)
class Folder:
    """A folder of files at any depth; links are followed, hidden files are not seen."""

    path: Path

    def names(self) -> list[str]:
        """List all files as POSIX paths below the root, sorted."""
        found, seen = [], set()
        for folder, below, files in os.walk(self.path, followlinks=True):
            below[:] = sorted(name for name in below if not name.startswith((".", "__MACOSX")))
            status = Path(folder).stat()
            if (status.st_dev, status.st_ino) in seen:  # a link that leads back up
                below.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            found += [(Path(folder) / name).relative_to(self.path).as_posix() for name in files if name[0] != "."]
        return sorted(found)

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        return (self.path / name).read_bytes()

    def hashes(self, names: Iterable[str], memory: HashMemory) -> list[tuple[str, str]]:
        """Return (name, sha256) of some files."""
        return [(name, memory.sha256(self.path / name)) for name in names]


@dataclass(frozen=True)
class Archive:
    """A zip of files at any depth, read in place and never unpacked."""

    path: Path
    _open: list[zipfile.ZipFile] = field(default_factory=list, repr=False, compare=False)
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def names(self) -> list[str]:
        """List all files as they are named in the zip, sorted; a name that stands twice is a ProbeError."""
        names = sorted(i.filename for i in self._zip().infolist() if not i.is_dir() and _is_seen(i.filename))
        twice = {a for a, b in pairwise(names) if a == b}
        if twice:
            raise ProbeError(self.path, f"holds two files named {listing(sorted(twice))}", "pack it again")
        return names

    def read(self, name: str) -> bytes:
        """Return a file's bytes; what unpacks to more than 512 MiB, or is encrypted, is an OSError."""
        with self._lock:
            entry = self._zip().getinfo(name)
            if entry.file_size > LARGEST_FILE_BYTES:
                raise OSError(f"unpacks to {entry.file_size / 2**20:.0f} MiB")
            try:
                return self._zip().read(entry)
            except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, ValueError) as error:
                raise OSError(one_line(error)) from error

    def hashes(self, names: Iterable[str], memory: HashMemory) -> list[tuple[str, str]]:  # noqa: ARG002
        """Return (name, sha256) of some files."""
        return [(name, bytes_sha256(self.read(name))) for name in names]

    def _zip(self) -> zipfile.ZipFile:
        if not self._open:
            try:
                self._open.append(zipfile.ZipFile(self.path))
            except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
                raise ProbeError(self.path, f"is not a readable zip: {one_line(error)}", "download it again") from error
        return self._open[0]


@dataclass(frozen=True)
class ImageFiles:
    """Images that are files of a folder or zip: `names[i]` is the file of `ids[i]`."""

    files: Files
    ids: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Where the folder or zip lies."""
        return self.files.path

    def image(self, index: int) -> Image.Image:
        """Decode one image to RGB; a ProbeError names an unreadable one."""
        where = f"{self.path}: {one_line(self.ids[index])}"
        try:
            return decode(self.files.read(self.names[index]))
        except (OSError, ValueError, SyntaxError, EOFError, ArithmeticError, LookupError) as error:
            raise ProbeError(where, f"unreadable image: {_plainly(error)}", UNREADABLE_HINT) from error
        except Image.DecompressionBombError as error:
            raise ProbeError(where, "has more pixels than an image should", UNREADABLE_HINT) from error

    def fingerprint(self, memory: HashMemory) -> str:
        """Return the sha256 over the sorted (name, sha256) lines of the images."""

        def images_sha256(_: Path) -> str:
            try:
                lines = self.files.hashes(self.names, memory)
            except (OSError, KeyError) as error:
                raise ProbeError(self.path, f"cannot be read: {one_line(error)}", UNREADABLE_HINT) from error
            ids = dict(zip(self.names, self.ids, strict=True))
            return named_fingerprint((ids[name], sha256) for name, sha256 in lines)

        # A zip is one file, so that its images need hashing only where the zip has changed.
        what = f"images {bytes_sha256(repr((self.ids, self.names)).encode())}"
        return images_sha256(self.path) if self.path.is_dir() else memory.recall(self.path, what, images_sha256)


UNREADABLE_HINT = 'mend or remove it, or set on_error = "skip" under [probe]'


@dataclass(frozen=True)
class Cifar:
    """torchvision's CIFAR-10 or CIFAR-100 on disk: pickled batches of 32x32 images."""

    path: Path
    batches: tuple[Path, ...]
    ids: tuple[str, ...]
    pixels: Pixels

    def image(self, index: int) -> Image.Image:
        """Return one image."""
        return Image.fromarray(self.pixels[index])

    def fingerprint(self, memory: HashMemory) -> str:
        """Return the sha256 over the sorted (name, sha256) lines of the batches."""
        return named_fingerprint((path.name, memory.sha256(path)) for path in self.batches)


def open_probe(table: ProbeTable) -> Probe:
    """Open the image set of a config.

    Raises:
        ProbeError: where it is missing, empty or not of its kind.
    """
    if not table.path.exists():
        raise ProbeError(table.path, "does not exist", "set probe.path to a folder or zip of images")
    probe = PROBES[table.kind](table)
    if not probe.ids:
        raise ProbeError(table.path, "holds no images", f"endings looked for: {listing(IMAGE_ENDINGS, 20)}")
    return probe


def open_images(table: ProbeTable) -> Probe:
    """Open a folder or zip of images at any depth; ids are the paths below it."""
    files = _files(table.path)
    names = tuple(name for name in files.names() if name.lower().endswith(IMAGE_ENDINGS))
    return ImageFiles(files, names, names)


def open_broden(table: ProbeTable) -> Probe:
    """Open the images that a Broden index lists; ids are its `image` column."""
    files, root = broden_files(table.path)
    rows = _rows(files, f"{root}index.csv")
    if "image" not in (rows[0] if rows else {}):
        raise ProbeError(f"{table.path}: {root}index.csv", "has no column `image`", "is this Broden's index?")
    ids = tuple(sorted(row["image"] for row in rows))
    twice = sorted({a for a, b in pairwise(ids) if a == b})
    missing = sorted({f"{root}images/{name}" for name in ids} - set(files.names()))
    for names, what in ((twice, "lists twice"), (missing, "lists files that are not there")):
        if names:
            raise ProbeError(f"{table.path}: {root}index.csv", f"{what}: {listing(names)}", "mend the index")
    return ImageFiles(files, ids, tuple(f"{root}images/{name}" for name in ids))


def open_cifar(table: ProbeTable) -> Probe:
    """Open CIFAR-10 or CIFAR-100 as torchvision leaves it; ids are split/number."""
    ten = table.kind == "cifar10"
    folder_name = "cifar-10-batches-py" if ten else "cifar-100-python"
    folder = table.path / folder_name if (table.path / folder_name).is_dir() else table.path
    split_files = {"train": [f"data_batch_{i}" for i in range(1, 6)] if ten else ["train"]}
    split_files["test"] = ["test_batch"] if ten else ["test"]
    splits = ["test", "train"] if table.split == "all" else [table.split]
    paths, ids, pixels = [], [], []
    for split in splits:
        paths += [folder / name for name in split_files[split]]
        batches = [_cifar_batch(folder / name) for name in split_files[split]]
        pixels += batches
        ids += [f"{split}/{index:05d}" for index in range(sum(map(len, batches)))]
    return Cifar(table.path, tuple(paths), tuple(ids), np.concatenate(pixels))


PROBES: dict[str, Callable[[ProbeTable], Probe]] = {
    "images": open_images,
    "broden": open_broden,
    "cifar10": open_cifar,
    "cifar100": open_cifar,
}


def decode(data: bytes) -> Image.Image:
    """Decode an image file to RGB; transparency is dropped, the first frame taken, orientation tags ignored."""
    with Image.open(io.BytesIO(data)) as image:
        # A palette's transparency would warn where it is dropped, although dropping it is what is wanted.
        return (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")


def crop(image: Image.Image, preprocess: Preprocess) -> Pixels:
    """Return the (h, w, 3) uint8 pixels that a run's network sees, before they are normalised.

    The shorter side is resized to `resize`, then the centre is cropped, as torchvision's transforms do.
    """
    if preprocess.resize is not None:
        width, height = image.size
        short = min(width, height)
        # As torchvision rounds: the longer side is cut off, not rounded.
        size = (
            preprocess.resize if width == short else int(preprocess.resize * width / short),
            preprocess.resize if height == short else int(preprocess.resize * height / short),
        )
        method = Image.Resampling.BILINEAR if preprocess.interpolation == "bilinear" else Image.Resampling.BICUBIC
        image = image if size == image.size else image.resize(size, method)
    if preprocess.crop is not None:
        width, height = image.size
        side = preprocess.crop
        if min(width, height) < side:
            raise ValueError(f"is {width}x{height}, smaller than the crop of {side}")
        left, top = round((width - side) / 2), round((height - side) / 2)
        image = image.crop((left, top, left + side, top + side))
    return np.asarray(image, dtype=np.uint8)


def broden_files(path: Path) -> tuple[Files, str]:
    """Find Broden's root in a folder or zip: the files, and the prefix of those beside index.csv."""
    files = _files(path)
    found = [name for name in files.names() if PurePosixPath(name).name == "index.csv"]
    if not found:
        raise ProbeError(path, "holds no index.csv", "a Broden probe has index.csv, label.csv and images/")
    return files, min(found, key=lambda name: (name.count("/"), name)).removesuffix("index.csv")


def broden_concepts(path: Path) -> Concepts:
    """Read the bare, unique words of Broden's label.csv; a word of several categories goes to its commonest."""
    files, root = broden_files(path)
    where, best = f"{root}label.csv", dict[str, tuple[int, str]]()
    for number, row in enumerate(_rows(files, where), 2):
        try:
            for part in row["category"].split(";"):
                category, _, count = part.removesuffix(")").partition("(")
                word = row["name"].removesuffix(BRODEN_MARKS.get(category, " "))
                best[word] = max(best.get(word, (0, "")), (int(count or 0), category))
        except (KeyError, ValueError, AttributeError) as error:
            raise ProbeError(f"{path}: {where}", f"row {number} is not a label: {one_line(row)}", "mend it") from error
    return Concepts(tuple(best), tuple(category for _, category in best.values()))


def _files(path: Path) -> Files:
    if path.is_dir():
        return Folder(path)
    return Archive(path)


def _rows(files: Files, name: str) -> list[dict[str, str]]:
    try:
        return list(csv.DictReader(io.StringIO(files.read(name).decode("utf-8-sig"))))
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise ProbeError(f"{files.path}: {name}", f"cannot be read: {one_line(error)}", "is this Broden?") from error


def _is_seen(name: str) -> bool:
    return not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _plainly(error: BaseException) -> str:
    return "not an image" if isinstance(error, UnidentifiedImageError) else one_line(error)


class _ArraysOnly(pickle.Unpickler):
    """An unpickler of numpy arrays that can run nothing else."""

    ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer", "encode"})
    MODULES = ("numpy", "_codecs")

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] not in self.MODULES or name not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a CIFAR batch")
        # numpy 2 has moved the private module that pickles of numpy 1 name.
        return super().find_class(module.replace("numpy.core", "numpy._core") if _numpy_two() else module, name)


def _numpy_two() -> bool:
    return int(np.__version__.split(".")[0]) >= 2


def _cifar_batch(path: Path) -> Pixels:
    """Read one batch to (n, 32, 32, 3) uint8."""
    hint = "set probe.path to torchvision's data folder"
    try:
        with path.open("rb") as file:
            batch = _ArraysOnly(file, encoding="bytes").load()
        data = np.asarray(batch[b"data"] if b"data" in batch else batch["data"], dtype=np.uint8)
        return np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    except OSError as error:
        raise ProbeError(path, error.strerror or "cannot be read", hint) from error
    except (
        pickle.UnpicklingError,
        KeyError,
        ValueError,
        TypeError,
        EOFError,
        AttributeError,
        IndexError,
    ) as error:
        raise ProbeError(path, f"is not a CIFAR batch: {one_line(error)}", hint) from error
