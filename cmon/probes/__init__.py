"""Image sets: what a probe holds, in a stable order, and each image decoded on demand."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from PIL import Image

from cmon.config import Probe as ProbeTable
from cmon.errors import ProbeError, listing, one_line
from cmon.fingerprint import HashMemory
from cmon.probes.broden import broden_concepts, open_broden
from cmon.probes.cifar import open_cifar
from cmon.probes.images import IMAGE_ENDINGS, crop, decode, open_images
from cmon.probes.labels import Labels, open_labels
from cmon.probes.presence import read_presence

__all__ = [
    "PROBES",
    "Labels",
    "Probe",
    "broden_concepts",
    "crop",
    "decode",
    "open_labels",
    "open_probe",
    "read_presence",
]


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


PROBES: dict[str, Callable[[ProbeTable], Probe]] = {
    "images": open_images,
    "broden": open_broden,
    "cifar10": open_cifar,
    "cifar100": open_cifar,
}


def open_probe(table: ProbeTable) -> Probe:
    """Open the image set of a config.

    Raises:
        ProbeError: where it is missing, empty or not of its kind.
    """
    hint = "set probe.path to a folder or zip of images"
    try:
        there = table.path.exists()
    except OSError as error:
        raise ProbeError(one_line(table.path), f"cannot be found: {error.strerror}", hint) from error
    if not there:
        raise ProbeError(table.path, "does not exist", hint)
    probe = PROBES[table.kind](table)
    if not probe.ids:
        raise ProbeError(table.path, "holds no images", f"endings looked for: {listing(IMAGE_ENDINGS, 20)}")
    return probe
