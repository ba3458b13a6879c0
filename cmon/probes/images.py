"""Images that are files of a folder or zip, decoded to RGB and cropped as a network sees them."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from cmon.config import Preprocess
from cmon.config import Probe as ProbeTable
from cmon.errors import ProbeError, one_line
from cmon.fingerprint import HashMemory, bytes_sha256, named_fingerprint
from cmon.probes.files import Files, open_files
from cmon.records import Pixels

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# Pillow knows more, among them formats that start other programs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
# A file of a few kilobytes can unpack to any number of pixels.
LARGEST_PIXELS = 2**26
# The shorter side is what is resized: of a line, an ordinary `resize` makes billions of pixels.
LONGEST_TO_SHORTEST = 1000
Size: TypeAlias = tuple[int, int]
UNREADABLE_HINT = 'mend or remove it, or set on_error = "skip" under [probe]'


@dataclass(frozen=True)
class ImageFiles:
    """Images that are files of a folder or zip: `names[i]` is the file of `ids[i]`."""

    files: Files
    ids: tuple[str, ...]
    names: tuple[str, ...]
    skips: bool  # is an unreadable file no mistake

    @property
    def path(self) -> Path:
        """Where the folder or zip lies."""
        return self.files.path

    def image(self, index: int) -> Image.Image:
        """Decode one image to RGB; a ProbeError names an unreadable one."""
        try:
            return decode(self.files.read(self.names[index]))
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise self._unreadable(index, "has more pixels than an image should") from error
        except (OSError, ValueError, TypeError, SyntaxError, EOFError, ArithmeticError, LookupError) as error:
            what = "not an image" if isinstance(error, UnidentifiedImageError) else one_line(error)
            raise self._unreadable(index, f"unreadable image: {what}") from error

    def fingerprint(self, memory: HashMemory) -> str:
        """Return the sha256 over the sorted (name, sha256) lines of the images."""

        def images_sha256(_: Path) -> str:
            return named_fingerprint((name, self._sha256(index, memory)) for index, name in enumerate(self.ids))

        # A zip is one file, so that its images need hashing only where the zip has changed.
        what = f"images {bytes_sha256(repr((self.ids, self.names)).encode())}"
        return images_sha256(self.path) if self.path.is_dir() else memory.recall(self.path, what, images_sha256)

    def _sha256(self, index: int, memory: HashMemory) -> str:
        try:
            return self.files.sha256(self.names[index], memory)
        except OSError as error:
            if self.skips:
                return "unreadable"
            raise self._unreadable(index, f"cannot be read: {error.strerror or one_line(error)}") from error

    def _unreadable(self, index: int, what: str) -> ProbeError:
        return ProbeError(f"{self.path}: {one_line(self.names[index])}", what, UNREADABLE_HINT)


def open_images(table: ProbeTable) -> ImageFiles:
    """Open a folder or zip of images at any depth; ids are the paths below it."""
    files = open_files(table.path)
    names = tuple(name for name in files.names() if name.lower().endswith(IMAGE_ENDINGS))
    return ImageFiles(files, names, names, table.on_error == "skip")


def decode(data: bytes) -> Image.Image:
    """Decode an image file to RGB; transparency is dropped, the first frame taken, orientation tags ignored.

    Of 16 bits the upper 8 are kept. Values of 32 bits have no known white, and are a ValueError.
    """
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        check_pixels(image.size)
        if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
            # Pillow would cut at 255, and leave a nearly white image.
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        if image.mode in ("I", "F"):
            raise ValueError("its 32-bit values have no known range")
        # A palette's transparency would warn where it is dropped, although dropping it is what is wanted.
        return (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")


def check_pixels(size: Size) -> None:
    """Raise where an image has more pixels than a photograph, or is next to a line."""
    width, height = size
    if width * height > LARGEST_PIXELS:
        raise Image.DecompressionBombError(f"{width}x{height} are more pixels than an image should have")
    if max(size) > LONGEST_TO_SHORTEST * min(size):
        raise ValueError(f"{width}x{height} is hardly more than a line")


def crop(image: Image.Image, preprocess: Preprocess) -> Pixels:
    """Return the (h, w, 3) uint8 pixels that a run's network sees, before they are normalised.

    The shorter side is resized to `resize`, then the centre is cropped, as torchvision's transforms do.

    Raises:
        ValueError: as `frame`.
    """
    size, box = frame(image.size, preprocess)
    if size != image.size:
        method = Image.Resampling.BILINEAR if preprocess.interpolation == "bilinear" else Image.Resampling.BICUBIC
        image = image.resize(size, method)
    return np.asarray(image if box == (0, 0, *size) else image.crop(box), dtype=np.uint8)


def frame(size: Size, preprocess: Preprocess) -> tuple[Size, tuple[int, int, int, int]]:
    """Say what a run's network sees of an image: its size after resizing, and the box that is cut from that.

    Args:
        size: of the image, width and height in pixels.
        preprocess: of the run.

    Returns:
        Width and height; left, top, right and bottom.

    Raises:
        ValueError: where the image is smaller than the crop, or would be resized to more pixels than it should have.
    """
    if preprocess.resize is not None:
        width, height = size
        short = min(width, height)
        # As torchvision rounds: the longer side is cut off, not rounded.
        size = (
            preprocess.resize if width == short else int(preprocess.resize * width / short),
            preprocess.resize if height == short else int(preprocess.resize * height / short),
        )
        if size[0] * size[1] > LARGEST_PIXELS:
            raise ValueError(f"is {width}x{height}, and would be resized to {size[0]}x{size[1]}")
    if preprocess.crop is None:
        return size, (0, 0, *size)
    (width, height), side = size, preprocess.crop
    if min(width, height) < side:
        raise ValueError(f"is {width}x{height}, smaller than the crop of {side}")
    left, top = round((width - side) / 2), round((height - side) / 2)
    return size, (left, top, left + side, top + side)
