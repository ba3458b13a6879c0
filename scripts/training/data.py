"""Labelled images: found, split, drawn by the seed, and decoded to pixels."""

import argparse
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cmon.config import Preprocess, Probe
from cmon.errors import ConfigError, ProbeError, listing
from cmon.probes.cifar import open_cifar, read_classes
from cmon.probes.files import Folder, open_files
from cmon.probes.images import IMAGE_ENDINGS, ImageFiles, crop
from training.batches import Images
from training.randomness import derived_seed

SMALL = 64  # pixels: images of no longer side are kept in memory
LARGE_SIZE = 224  # pixels: what networks see of larger images, unless they are told
IMAGE_HINT = "mend or remove it"
FORMS_HINT = "give cifar10:FOLDER, cifar100:FOLDER, or a folder or zip of a folder per class"


@dataclass(frozen=True)
class Listed:
    """Images by name, before any is decoded.

    Args:
        classes: the C names, sorted.
        names: (n,) of the images.
        labels: (n,) int64, the index of each image's class.
        read: decodes the image of an index to RGB; a ProbeError names an unreadable one.
    """

    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: np.ndarray
    read: Callable[[int], Image.Image]

    def only(self, rows: np.ndarray) -> "Listed":
        """Keep some of the images."""
        names = tuple(self.names[row] for row in rows)
        return replace(self, names=names, labels=self.labels[rows], read=lambda index: self.read(int(rows[index])))


class Data(NamedTuple):
    """What a training needs of its images."""

    train: Images
    test: Images
    classes: tuple[str, ...]
    preprocess: str  # as a cmon config writes it
    identity: dict[str, Any]


def load_data(arguments: argparse.Namespace) -> Data:
    """Read what --data and --test-data name, split and drawn as the arguments say.

    Raises:
        ConfigError, ProbeError: where there is no such data, or it cannot be used.
    """
    try:
        train = list_images(arguments.data, "train")
        if arguments.test_data:
            test = _with_classes(list_images(arguments.test_data, "test"), train.classes, arguments.test_data)
        else:
            train, test = hold_out(train, arguments.held_out, arguments.seed)
        train = draw_per_class(train, arguments.images_per_class, arguments.seed, "training images")
        test = draw_per_class(test, arguments.test_images_per_class, arguments.seed, "test images")
        side = max(train.read(0).size)
        sets = _in_memory(arguments, train, test) if side <= SMALL else _on_demand(arguments, train, test)
    except ProbeError as error:
        raise error if error.hint == IMAGE_HINT else ProbeError(error.where, error.what, FORMS_HINT) from error
    identity = {"train": _identity(train, sets[0]), "test": _identity(test, sets[1])}
    return Data(*sets, train.classes, _preprocess_text(arguments, sets[1].preprocess), identity)


def list_images(place: str, split: str) -> Listed:
    """List the images that --data or --test-data names."""
    kind, _, folder = place.partition(":")
    if kind in ("cifar10", "cifar100"):
        table = Probe(kind=kind, path=Path(folder), split=split)
        images = open_cifar(table)
        named = read_classes(table)
        return _listed(place, images.ids, [named.get(name, "") for name in images.ids], images.image)
    path = Path(place)
    if not path.exists():
        raise ConfigError(path, "there is no such folder or zip", FORMS_HINT)
    files = open_files(path)
    names = tuple(name for name in files.names() if name.lower().endswith(IMAGE_ENDINGS))
    root, classes = _classes_of(path, names)
    if isinstance(files, Folder):
        folders = [place for place in (path / root).iterdir() if place.is_dir() and not place.name.startswith(".")]
        if empty := sorted({place.name for place in folders} - set(classes)):
            raise ConfigError(path / root, f"the class folder {listing(empty, 3)} holds no image", "fill or remove it")
    return _listed(place, names, classes, ImageFiles(files, names, names, False).image)


def _classes_of(path: Path, names: Sequence[str]) -> tuple[str, list[str]]:
    """Return the folder that holds the classes' folders, "" for the top, and the class of each image."""
    if not names:
        raise ConfigError(path, "holds no image", FORMS_HINT)
    parts = [name.split("/") for name in names]
    depth = 0
    while len({tuple(part[: depth + 1]) for part in parts}) == 1 and min(map(len, parts)) > depth + 2:
        depth += 1
    loose = [name for name, part in zip(names, parts, strict=True) if len(part) < depth + 2]
    if loose:
        raise ConfigError(path, f"{listing(loose, 3)} lies in no class's folder", FORMS_HINT)
    return "/".join(parts[0][:depth]), [part[depth] for part in parts]


def _listed(place: str, names: Sequence[str], classes: Sequence[str], read: Callable[[int], Image.Image]) -> Listed:
    known = tuple(sorted(set(classes)))
    if len(known) < 2:
        raise ConfigError(place, f"has images of one class only: {listing(known)}", FORMS_HINT)
    numbers = {name: number for number, name in enumerate(known)}

    def read_or_tell(index: int) -> Image.Image:
        try:
            return read(index)
        except ProbeError as error:
            raise ProbeError(error.where, error.what, IMAGE_HINT) from error

    return Listed(known, tuple(names), np.array([numbers[name] for name in classes]), read_or_tell)


def _with_classes(test: Listed, classes: tuple[str, ...], place: str) -> Listed:
    """Number the test images' classes as the training images' are."""
    if unknown := sorted(set(test.classes) - set(classes)):
        raise ConfigError(place, f"has classes that no training image has: {listing(unknown, 3)}", "give matching data")
    numbers = np.array([classes.index(name) for name in test.classes])
    return replace(test, classes=classes, labels=numbers[test.labels])


def hold_out(listed: Listed, share: float, seed: int) -> tuple[Listed, Listed]:
    """Split images into those to train on and a share of each class, at least one, to test on."""
    random = np.random.default_rng(derived_seed(seed, "held out"))
    held = np.zeros(len(listed.names), bool)
    for number, name in enumerate(listed.classes):
        rows = random.permutation(np.flatnonzero(listed.labels == number))
        if len(rows) < 2:
            raise ConfigError("--held-out", f"class {name} has one image, of which none can be held out", "add images")
        held[rows[: min(len(rows) - 1, max(1, round(share * len(rows))))]] = True
    return listed.only(np.flatnonzero(~held)), listed.only(np.flatnonzero(held))


def draw_per_class(listed: Listed, count: int | None, seed: int, purpose: str) -> Listed:
    """Draw `count` images of each class, all where it has fewer or `count` is None."""
    if count is None:
        return listed
    random = np.random.default_rng(derived_seed(seed, purpose))
    drawn = [random.permutation(np.flatnonzero(listed.labels == label))[:count] for label in range(len(listed.classes))]
    return listed.only(np.sort(np.concatenate(drawn)))


def _in_memory(arguments: argparse.Namespace, *sets: Listed) -> list[Images]:
    """Decode all images; each is resized and cropped at the centre where it is not of the size."""
    size = arguments.image_size or min(sets[0].read(0).size)
    preprocess = Preprocess(resize=size, crop=size)

    def decode_all(listed: Listed) -> Tensor:
        with ThreadPoolExecutor(arguments.workers) as pool:
            decoded = list(pool.map(lambda index: crop(listed.read(index), preprocess), range(len(listed.names))))
        return torch.from_numpy(np.stack(decoded)).to(arguments.device)

    return [
        Images(arguments, torch.from_numpy(listed.labels), preprocess, pixels=decode_all(listed)) for listed in sets
    ]


def _on_demand(arguments: argparse.Namespace, *sets: Listed) -> list[Images]:
    size = arguments.image_size or LARGE_SIZE
    preprocess = Preprocess(resize=size * 8 // 7, crop=size)
    return [
        Images(arguments, torch.from_numpy(listed.labels), preprocess, read=listed.read, size=size) for listed in sets
    ]


def _identity(listed: Listed, images: Images) -> str:
    """Return a sha256 of the images' names and classes, and of their pixels where these are in memory."""
    digest = hashlib.sha256(repr((listed.classes, listed.names, listed.labels.tolist())).encode())
    if images.pixels is not None:
        digest.update(images.pixels.cpu().numpy())
    return digest.hexdigest()


def _preprocess_text(arguments: argparse.Namespace, preprocess: Preprocess) -> str:
    sides = [f"{name} = {value}" for name in ("resize", "crop") if (value := getattr(preprocess, name)) is not None]
    return "{" + ", ".join([*sides, f"mean = {arguments.mean}", f"std = {arguments.std}"]) + "}"
