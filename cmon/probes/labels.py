"""Broden's labels: what each image shows, and where, from its tables and masks."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from cmon.config import Preprocess
from cmon.errors import ProbeError, listing, one_line
from cmon.fingerprint import HashMemory, named_fingerprint
from cmon.probes.broden import find_root, read_labels, read_rows
from cmon.probes.files import Files
from cmon.probes.images import FORMATS, Size, frame
from cmon.records import BoolArray, Concepts, ImageLabels

# The columns of index.csv that are no categories.
OF_THE_IMAGE = ("image", "split", "ih", "iw", "sh", "sw")
# What is larger is a slip, and would fill the memory.
LARGEST_SIDE = 2**14
LARGEST_MASK_PIXELS = 2**25
LARGEST_MASKS_BYTES = 2**29  # of all labels of an image together
# All that Pillow raises of a damaged or monstrous file.
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    EOFError,
    LookupError,
    ArithmeticError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
MEND = "mend the table, or take Broden as its authors give it"


@dataclass(frozen=True)
class Row:
    """One image's row of index.csv.

    Args:
        number: as an editor shows it.
        image: width and height in pixels.
        mask: width and height in pixels.
        whole: category and label number of what the whole image shows.
        masks: category and file of what parts of it show.
    """

    number: int
    image: Size
    mask: Size
    whole: tuple[tuple[str, int], ...]
    masks: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Labels:
    """The labels of a Broden probe; a mask is a PNG whose labels are R + 256 G, 0 being none.

    Args:
        files: of the probe.
        root: the prefix of those beside index.csv.
        concepts: C pairs of word and category.
        categories: the G categories that have concepts.
        rows: by image.
        numbers: category -> label number -> concept.
    """

    files: Files
    root: str
    concepts: Concepts
    categories: tuple[str, ...]
    rows: dict[str, Row]
    numbers: dict[str, dict[int, int]]

    @property
    def unlabelled(self) -> int:
        """How many images carry no label at all."""
        return sum(not row.whole and not row.masks for row in self.rows.values())

    def fingerprint(self, memory: HashMemory) -> str:
        """Return the sha256 over the (name, sha256) lines of both tables and all masks."""
        names = [f"{self.root}index.csv", f"{self.root}label.csv"]
        names += sorted({f"{self.root}images/{file}" for row in self.rows.values() for _, file in row.masks})

        def tables_and_masks(_: Path) -> str:
            return named_fingerprint((name, self._sha256(name, memory)) for name in names)

        # A zip is one file, so that what is in it needs hashing only where the zip has changed.
        path = self.files.path
        return tables_and_masks(path) if path.is_dir() else memory.recall(path, "labels", tables_and_masks)

    def of(self, image: str, preprocess: Preprocess) -> ImageLabels:
        """Read what one image shows, in the part of it that a run's network sees.

        Raises:
            ProbeError: naming the file and its row, for a mask that cannot be read, is of another size than the index
                says, or holds a label that is not in label.csv under the mask's category.
        """
        row = self.rows[image]
        if preprocess.crop is not None:
            self._check_size(image, row)
        try:
            (width, height), (left, top, right, bottom) = frame(row.image, preprocess)
        except ValueError as error:
            raise ProbeError(self._where(image, row), str(error), "set the run's preprocess.resize") from error
        columns, rows = _centres(row.mask[0], width, left, right), _centres(row.mask[1], height, top, bottom)
        seen = (slice(rows[0], rows[0] + len(rows[1])), slice(columns[0], columns[0] + len(columns[1])))
        found: dict[int, BoolArray] = {}
        # A crop within one pixel of a mask may hold no centre of any, and then shows nothing.
        for category, number in row.whole if rows[1] and columns[1] else ():
            found[self.numbers[category][number]] = np.ones((len(rows[1]), len(columns[1])), dtype=np.bool_)
        for category, file in row.masks:
            for concept, mask in self._read(row, category, file):
                part = mask[seen]
                if part.any():
                    found[concept] = found[concept] | part if concept in found else part.copy()
                if len(found) * part.size > LARGEST_MASKS_BYTES:
                    raise ProbeError(self._where(image, row), f"shows {len(found)} labels, more than fit", MEND)
        concepts = sorted(found)
        masks = np.array([found[concept] for concept in concepts], dtype=np.bool_)
        masks = masks.reshape(len(concepts), len(rows[1]), len(columns[1]))
        return ImageLabels(np.array(concepts, dtype=np.int32), masks, rows[1], columns[1])

    def _read(self, row: Row, category: str, file: str) -> Iterator[tuple[int, BoolArray]]:
        """Yield the concepts of one mask, each with its pixels."""
        where = self._where(file, row)
        labels = _decoded(where, self.files, f"{self.root}images/{file}", row)
        for number in np.unique(labels[labels > 0]).tolist():
            if number not in self.numbers.get(category, {}):
                what = f"holds label {number}, which label.csv does not name under {category}"
                raise ProbeError(where, what, "take the masks and the tables of one and the same Broden")
            yield self.numbers[category][number], labels == number

    def _where(self, name: str, row: Row) -> str:
        return f"{self.files.path}: {self.root}images/{one_line(name)} (index.csv row {row.number})"

    def _sha256(self, name: str, memory: HashMemory) -> str:
        try:
            return self.files.sha256(name, memory)
        except OSError as error:
            what = f"cannot be read: {error.strerror or one_line(error)}"
            raise ProbeError(f"{self.files.path}: {one_line(name)}", what, "unpack or download it again") from error

    def _check_size(self, image: str, row: Row) -> None:
        """Raise where an image is not of the size in the index, by which its masks are cropped with it."""
        where = self._where(image, row)
        try:
            with Image.open(io.BytesIO(self.files.read(f"{self.root}images/{image}")), formats=FORMATS) as opened:
                size = opened.size
        except UNREADABLE as error:
            raise ProbeError(
                where, f"unreadable image: {_cause(error, 'an image')}", "download or unpack it again"
            ) from error
        if size != row.image:
            raise ProbeError(where, f"is {_said(size)}, but iw and ih say {_said(row.image)}", MEND)


def open_labels(path: Path) -> Labels:
    """Read and check Broden's tables; masks are looked for, and read when they are asked for.

    Raises:
        ProbeError: naming file and row, for tables that contradict themselves or one another, and missing masks.
    """
    files, root = find_root(path)
    concepts, numbers = _concepts(files, root)
    where = f"{path}: {root}index.csv"
    table = read_rows(files, f"{root}index.csv")
    columns = [name for name in (table[0][1] if table else ()) if name and name not in OF_THE_IMAGE]
    if lost := sorted(set(numbers) - set(columns)):
        raise ProbeError(where, f"has no column for label.csv's category {listing(lost)}", MEND)
    there = set(files.names())
    rows: dict[str, Row] = {}
    for number, row in table:
        name = row.get("image")
        if not name or name in rows:
            what = f"names {one_line(name)} a second time" if name else "names no image"
            raise ProbeError(where, f"row {number} {what}", MEND)
        rows[name] = _row(where, number, row, columns)
    for image in rows.values():
        for category, label in image.whole:
            if label not in numbers.get(category, {}):
                what = f"row {image.number}: label {label} is not in label.csv under {category}"
                raise ProbeError(where, what, MEND)
        for _, file in image.masks:
            if f"{root}images/{file}" not in there:
                raise ProbeError(where, f"row {image.number}: {root}images/{one_line(file)} is not there", MEND)
    labels = Labels(files, root, concepts, tuple(c for c in columns if c in numbers), rows, numbers)
    if labels.unlabelled == len(rows):
        raise ProbeError(where, "names no label for any image", "network_dissection needs Broden's masks")
    _check_categories(labels, there)
    return labels


def _concepts(files: Files, root: str) -> tuple[Concepts, dict[str, dict[int, int]]]:
    """List the pairs of word and category in label.csv's order, and say which label numbers mean them."""
    where = f"{files.path}: {root}label.csv"
    place: dict[tuple[str, str], int] = {}
    numbers: dict[str, dict[int, int]] = {}
    rows: dict[int, int] = {}
    for label in read_labels(files, root):
        number = _whole(label.number)
        if not number:
            raise ProbeError(where, f"row {label.row} has no number above 0: {one_line(label.number)}", MEND)
        if number in rows:
            raise ProbeError(where, f"number {number} stands twice (rows {rows[number]}, {label.row})", MEND)
        rows[number] = label.row
        for category, _ in label.categories:
            concept = place.setdefault((label.word, category), len(place))
            numbers.setdefault(category, {})[number] = concept
    words, categories = zip(*place, strict=True)
    return Concepts(words, categories), numbers


def _row(where: str, number: int, row: dict[str, str], columns: list[str]) -> Row:
    """Read one row: each category's cell holds label numbers and mask files, between semicolons."""
    iw, ih, sw, sh = sizes = [_whole(row.get(name)) or 0 for name in ("iw", "ih", "sw", "sh")]
    if not 0 < min(sizes) <= max(sizes) <= LARGEST_SIDE:
        stated = one_line(", ".join(str(row.get(name)) for name in ("iw", "ih", "sw", "sh")))
        raise ProbeError(where, f"row {number}: iw, ih, sw and sh are not 1 to {LARGEST_SIDE}: {stated}", MEND)
    whole, masks = dict[tuple[str, int], None](), dict[tuple[str, str], None]()
    for category in columns:
        for part in filter(None, map(str.strip, (row[category] or "").split(";"))):
            label = _whole(part)
            if label is None:
                masks[category, part] = None
            elif label:  # Broden has 0 where a scene was too rare to be given a number.
                whole[category, label] = None
    if sw * sh > LARGEST_MASK_PIXELS:
        raise ProbeError(where, f"row {number}: a mask of {_said((sw, sh))} pixels is too large", MEND)
    return Row(number, (iw, ih), (sw, sh), tuple(whole), tuple(masks))


def _whole(text: str | None) -> int | None:
    """Read a whole number of at most nine digits; None where it is none."""
    return int(text) if text and text.isdecimal() and len(text) < 10 else None


def _check_categories(labels: Labels, there: set[str]) -> None:
    """Hold category.csv and the c_*.csv, where they are there, against label.csv."""
    path, root = labels.files.path, labels.root
    name = f"{root}category.csv"
    for number, row in read_rows(labels.files, name) if name in there else ():
        if row.get("name") not in labels.numbers:
            raise ProbeError(f"{path}: {name}", f"row {number}: label.csv has no category {one_line(row)}", MEND)
    for category, known in labels.numbers.items():
        name = f"{root}c_{category}.csv"
        for number, row in read_rows(labels.files, name) if name in there else ():
            if _whole(row.get("number")) not in known:
                what = f"row {number}: label.csv has no such label under {category}: {one_line(row)}"
                raise ProbeError(f"{path}: {name}", what, MEND)


def _decoded(where: str, files: Files, name: str, row: Row) -> npt.NDArray[np.uint16]:
    """Decode a mask to label numbers, (h, w)."""
    try:
        data = files.read(name)
        Image.open(io.BytesIO(data), formats=("PNG",)).verify()  # checksums, which are not looked at in decoding
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.size != row.mask:
                raise ProbeError(where, f"is {_said(image.size)}, but sw and sh say {_said(row.mask)}", MEND)
            bits = data[24]  # of a channel; of 16, Pillow would keep 8
            if image.mode not in ("RGB", "RGBA") or bits != 8:
                raise ProbeError(where, f"is no mask: it is {bits}-bit {image.mode}, not 8-bit RGB", MEND)
            pixels = np.asarray(image)
    except UNREADABLE as error:
        raise ProbeError(where, f"unreadable mask: {_cause(error, 'a PNG')}", "download or unpack it again") from error
    if pixels[..., 2].any():
        raise ProbeError(where, "is no mask: its blue channel is not 0", MEND)
    return np.asarray(pixels[..., 0] + 256 * pixels[..., 1].astype(np.uint16))


def _centres(pixels: int, side: int, start: int, end: int) -> tuple[int, tuple[float, ...]]:
    """Find the mask's pixels whose centres lie in a box, along one side.

    Args:
        pixels: of the mask, over the whole side.
        side: of the resized image.
        start: of the box, in pixels of the resized image.
        end: of the box.

    Returns:
        The first such pixel, and the place of each one's centre as a share of the box.
    """
    # In whole numbers, so that a centre on the border is left out at both ends.
    places, whole = (2 * np.arange(pixels) + 1) * side - 2 * pixels * start, 2 * pixels * (end - start)
    inside = np.flatnonzero((places > 0) & (places < whole))
    return int(inside[0]) if len(inside) else 0, tuple((places[inside] / whole).tolist())


def _said(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _cause(error: BaseException, wanted: str) -> str:
    return f"not {wanted}" if isinstance(error, UnidentifiedImageError) else one_line(error)
