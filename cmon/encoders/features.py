"""Features that were computed elsewhere, matched by name."""

import tokenize
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cmon.config import Features
from cmon.encoders.weights import sha256_of
from cmon.errors import ConfigError, EncoderError, listing, nearest, one_line
from cmon.fingerprint import HashMemory, Recipe
from cmon.paths import read_text
from cmon.records import FloatArray

LARGEST_LIST_BYTES = 128 * 2**20  # the names of all images of the largest sets
# All that numpy lets through of a damaged file; what it reads a header with ends in errors of its own.
UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    MemoryError,
    ArithmeticError,
    TypeError,
    RecursionError,
    SyntaxError,
    tokenize.TokenError,
)


@dataclass(frozen=True)
class PrecomputedFeatures:
    """Unit vectors of named images and words, found by name."""

    table: Features
    image_rows: dict[str, int]
    images: FloatArray
    concept_rows: dict[str, int]
    concepts: FloatArray

    def image_features(self, ids: Sequence[str], images: Iterable[Image.Image]) -> FloatArray:  # noqa: ARG002
        """Return (I, D) unit vectors of the named images; one that has none is an EncoderError."""
        return _found(self.table.images, self.image_rows, self.images, ids, "images of the probe")

    def text_features(self, words: Sequence[str], prompt: str) -> FloatArray:
        """Return (N, D) unit vectors of the words; one that has none is an EncoderError."""
        if prompt != "{}":
            raise ConfigError("concepts.prompt", "has no effect on precomputed features", "leave it out")
        return _found(self.table.concepts, self.concept_rows, self.concepts, words, "words")


def features_recipe(table: Features, memory: HashMemory) -> Recipe:
    """Return the hashes of all four files."""
    files = ("image_features", "images", "concept_features", "concepts")
    return {"kind": table.kind, **{name: sha256_of(getattr(table, name), memory) for name in files}}


def feature_concepts(table: Features) -> tuple[str, ...]:
    """Return the words of precomputed concept features."""
    return _lines(table.concepts)


def read_features(table: Features) -> PrecomputedFeatures:
    """Read precomputed features, (rows, D) each, scaled to unit norm.

    Raises:
        EncoderError: where rows and names do not agree, or a row has no direction.
    """
    images = _unit_rows(table.image_features, table.images)
    concepts = _unit_rows(table.concept_features, table.concepts)
    if images[1].shape[1] != concepts[1].shape[1]:
        what = f"has {images[1].shape[1]} dimensions, {table.concept_features.name} has {concepts[1].shape[1]}"
        raise EncoderError(table.image_features, what, "both must come from one encoder")
    return PrecomputedFeatures(table, *images, *concepts)


def _unit_rows(array: Path, names: Path) -> tuple[dict[str, int], FloatArray]:
    """Read named rows: name -> row, and (rows, D) unit vectors."""
    lines = _lines(names)
    try:
        features = np.load(array, allow_pickle=False)
    except UNREADABLE as error:
        cause = one_line(error) or type(error).__name__
        raise EncoderError(array, f"is not a readable .npy: {cause}", "save it with numpy.save") from error
    if not isinstance(features, np.ndarray) or features.ndim != 2 or features.dtype.kind != "f":
        raise EncoderError(array, "does not hold (rows, dimensions) floats", "save it with numpy.save")
    if len(features) != len(lines):
        raise EncoderError(array, f"has {len(features)} rows, {names.name} names {len(lines)}", "name each row once")
    values = features.astype(np.float64)  # so that no norm of a float32 is too large or too small
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    bad = ~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0)
    if bad.any():
        what = f"{bad.sum()} rows are zero, NaN or infinite, first that of {one_line(lines[bad.argmax()])}"
        raise EncoderError(array, what, "compute them again")
    return {name: row for row, name in enumerate(lines)}, (values / norms).astype(np.float32)


def _lines(path: Path) -> tuple[str, ...]:
    """Read the names of the rows, a line each; only line ends part them, not all that Unicode calls so."""
    try:
        lines = tuple(line.strip() for line in read_text(path, LARGEST_LIST_BYTES).split("\n") if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise EncoderError(path, f"cannot be read: {one_line(error)}", "name a UTF-8 text file") from error
    if not lines:
        raise EncoderError(path, "names nothing", "write the name of each row on a line")
    twice = sorted({line for line, count in Counter(lines).items() if count > 1})
    if twice:
        raise EncoderError(path, f"names twice: {listing(twice)}", "a name must mean one row")
    return lines


def _found(where: Path, rows: dict[str, int], features: FloatArray, names: Sequence[str], what: str) -> FloatArray:
    missing = [name for name in names if name not in rows]
    if missing:
        close = nearest(missing[0], rows)
        hint = f"nearest to the first: {one_line(close[0])}" if close else "compute their features, or leave them out"
        raise EncoderError(where, f"lacks {len(missing)} {what}: {listing(missing)}", hint)
    return features[[rows[name] for name in names]]
