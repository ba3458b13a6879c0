"""What may be wrong with a list of concepts: copies, near-copies, words that no image shows, lopsided categories."""

from collections import Counter, defaultdict
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from cmon.errors import listing
from cmon.records import BoolArray, Concepts, Evidence, FloatArray, LongArray, Table, blocks, plain_word

# Cosine of two words' text features from which on they are one and the same to an encoder.
SAME_COSINE = 0.9999
# Standard deviation over images up to which a word's cosines are equal but for rounding.
LEAST_SPREAD = 1e-6
# Correlation over images from which on two words' cosines hardly differ.
HARDLY_APART = 0.95
# Among how many of the nearest words an image is looked for; one, where the list itself is short.
NEAREST_WORDS, SHORT_LIST = 5, 10
# Fewer images than these show a concept too seldom for a unit to be held against it.
FEW_IMAGES = 10
# What a note may say; words that it names follow.
COPY, SAME, ALSO, APART = "duplicate of ", "same text features as ", "also under category ", "hardly told apart from "
NOT_SHOWN, NOT_NEAR = "no image shows it", "near no image"

Indices = npt.NDArray[np.intp]


def concept_table(
    evidence: Evidence | None, concepts: Concepts, concept_features: FloatArray, shown: LongArray | None
) -> Table:
    """Return one row per concept, with what is notable about it.

    Args:
        evidence: of the images; None, or one without images: nothing is said of images.
        concepts: C words.
        concept_features: (C, D) unit norm.
        shown: (C,) int64, how many images show each by the probe's own labels, -1 unknown; None: all unknown.

    Returns:
        concept, category.
        nearest, nearest_cosine: the word with the highest cosine of text features, not counting the same word under
            another category; the first other one where several have the concept's own features; "" and NaN for none.
        image_correlation: Pearson over images of the two words' cosines with the image; NaN without images, and where
            all are alike.
        images_near: int64, for how many images it is among the 5 nearest words (the nearest, where C < 10), those with
            the same features counting as one; -1 without images.
        images_shown: int64, as given.
        note: "" or what is notable, between semicolons. "near no image" is said only where there are as many images
            as concepts, since of few images many words must be left out.
    """
    plain = [
        (plain_word(word), plain_word(category))
        for word, category in zip(concepts.names, concepts.categories, strict=True)
    ]
    copies, elsewhere = _copies(plain)
    nearest, cosine, first = _nearest_words(concept_features, copies, elsewhere)
    images = evidence.image_features if evidence is not None else np.empty((0, 1), np.float32)
    near = _images_near(images, concept_features, first)
    correlation = _image_correlation(images, concept_features, nearest)
    names = np.array([*concepts.names, ""])
    table: Table = {
        "concept": names[:-1],
        "category": np.array(concepts.categories, dtype=np.str_),
        "nearest": names[nearest],
        "nearest_cosine": cosine,
        "image_correlation": correlation,
        "images_near": near,
        "images_shown": np.full(len(near), -1, dtype=np.int64) if shown is None else shown,
    }
    table["note"] = np.array(_notes(table, copies, elsewhere, len(images)), dtype=np.str_)
    return table


def _copies(plain: list[tuple[str, str]]) -> tuple[Indices, dict[int, list[int]]]:
    """Find words that are written twice: the first other copy of each, (C,), -1 for none; those elsewhere, by concept.

    The same word under two categories that are both named is no copy, but another concept of that name.
    """
    same = defaultdict(list)
    for place, (word, _) in enumerate(plain):
        same[word].append(place)
    copies, elsewhere = np.full(len(plain), -1, dtype=np.intp), dict[int, list[int]]()
    for places in same.values():
        for place in places if len(places) > 1 else ():
            others = [other for other in places if other != place]
            own = plain[place][1]
            apart = [other for other in others if "" not in (own, plain[other][1]) and own != plain[other][1]]
            if apart:
                elsewhere[place] = apart
            if len(apart) < len(others):
                copies[place] = next(other for other in others if other not in apart)
    return copies, elsewhere


def _nearest_words(
    features: FloatArray, copies: Indices, elsewhere: dict[int, list[int]]
) -> tuple[Indices, FloatArray, Indices]:
    """Find each concept's nearest word, (C,), -1 for none; its cosine, (C,); the first with the same features, (C,)."""
    count = len(features)
    nearest, first = np.full(count, -1, dtype=np.intp), np.arange(count)
    cosine = np.full(count, np.nan, dtype=np.float32)
    for rows in blocks(count, 8 * count):
        block = features[rows] @ features.T
        first[rows] = (block > SAME_COSINE).argmax(axis=1)
        for row, place in enumerate(range(rows.start, rows.stop)):
            block[row, [place, *elsewhere.get(place, ())]] = -np.inf
        same = block > SAME_COSINE
        best = np.where(same.any(axis=1), same.argmax(axis=1), block.argmax(axis=1))
        best = np.where(copies[rows] >= 0, copies[rows], best)
        found = np.take_along_axis(block, best[:, None], axis=1)[:, 0]
        there = np.isfinite(found)
        nearest[rows] = np.where(there, best, -1)
        cosine[rows] = np.where(there, np.clip(found, -1, 1), np.nan)
    return nearest, cosine, first[first]


def _images_near(images: FloatArray, features: FloatArray, first: Indices) -> LongArray:
    """Count the images that have each concept among their nearest words, (C,) int64; -1 without images."""
    if not len(images):
        return np.full(len(features), -1, dtype=np.int64)
    kept, place = np.unique(first, return_inverse=True)
    words = features[kept]
    most = min(NEAREST_WORDS if len(features) >= SHORT_LIST else 1, len(words))
    counts = np.zeros(len(words), dtype=np.int64)
    for rows in blocks(len(images), 16 * len(words)):
        near = np.argpartition(images[rows] @ words.T, len(words) - most, axis=1)[:, len(words) - most :]
        counts += np.bincount(near.ravel(), minlength=len(words))
    return np.asarray(counts[place])


def _image_correlation(images: FloatArray, features: FloatArray, nearest: Indices) -> FloatArray:
    """Correlate each concept's cosines with the images with those of its nearest word, (C,); NaN where it has none."""
    if not len(images):
        return np.full(len(features), np.nan, dtype=np.float32)
    # Cosines are linear in the features, so that the features' covariance is enough.
    mean = images.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((images.shape[1], images.shape[1]))
    for rows in blocks(len(images), 16 * images.shape[1]):
        centred = images[rows] - mean
        covariance += centred.T @ centred
    variance, product = np.empty(len(features)), np.empty(len(features))
    for rows in blocks(len(features), 32 * images.shape[1]):
        seen = features[rows] @ covariance
        variance[rows] = (seen * features[rows]).sum(axis=1)
        product[rows] = (seen * features[nearest[rows]]).sum(axis=1)
    known = (nearest >= 0) & (np.minimum(variance, variance[nearest]) > LEAST_SPREAD**2 * len(images))
    scale = np.sqrt(np.where(known, variance * variance[nearest], 1))
    return np.where(known, np.clip(product / scale, -1, 1), np.nan).astype(np.float32)


def _notes(table: Table, copies: Indices, elsewhere: dict[int, list[int]], images: int) -> list[str]:
    """Say what is notable about each concept."""
    words, categories, notes = table["concept"].tolist(), table["category"].tolist(), []
    can_be_near = images >= len(words)
    for place, nearest in enumerate(table["nearest"].tolist()):
        parts = []
        if copies[place] >= 0:
            parts.append(COPY + words[copies[place]])
        elif table["nearest_cosine"][place] > SAME_COSINE:
            parts.append(SAME + nearest)
        elif table["image_correlation"][place] >= HARDLY_APART:
            parts.append(APART + nearest)
        if place in elsewhere:
            parts.append(ALSO + ", ".join(dict.fromkeys(categories[other] for other in elsewhere[place])))
        parts += [NOT_SHOWN] * bool(table["images_shown"][place] == 0)
        parts += [NOT_NEAR] * bool(can_be_near and table["images_near"][place] == 0)
        notes.append("; ".join(parts))
    return notes


def lint_lines(table: Table) -> list[str]:
    """Sum a concept table up in a few sentences, each with a count and the first names; none where all is well."""
    words, shown, count = table["concept"], table["images_shown"], len(table["concept"])
    of_all = f" of {count:,} concepts"
    seldom = np.flatnonzero((shown > 0) & (shown < FEW_IMAGES))
    seldom = seldom[np.argsort(shown[seldom], kind="stable")]
    near = f"Not among the {NEAREST_WORDS} words" if count >= SHORT_LIST else "Not the word"
    same, same_pairs = int(_noted(table, SAME).sum()), _pairs(table, SAME)
    # All of a group are paired with its first, and that one with the second.
    groups = f"{same:,}{of_all}, in {_counted(same - len(same_pairs), 'group')}"
    copies, apart = _pairs(table, COPY), _pairs(table, APART)
    twice = list(dict.fromkeys(words[_noted(table, ALSO)].tolist()))
    return [
        *_line("On no image, by the probe's own labels", words[_noted(table, NOT_SHOWN)], of_all),
        *_line(f"On fewer than {FEW_IMAGES} images, by the probe's own labels", words[seldom], of_all),
        *_line(f"{near} nearest to any image, by the encoder", words[_noted(table, NOT_NEAR)], of_all),
        *_line("One word written twice, which splits its probability", copies, _counted(len(copies), "pair")),
        *_line("The same text features, so that nothing tells them apart", same_pairs, groups),
        *_line("Hardly told apart by these images", apart, _counted(len(apart), "pair")),
        *_line("Under more than one category", twice, _counted(len(twice), "word")),
        *_balance(Counter(table["category"].tolist())),
    ]


def _line(what: str, names: Collection[str], counted: str) -> list[str]:
    """Write a sentence on some names, none where there are none; before " of" stands how many there are."""
    number = f"{len(names):,}" if counted.startswith(" of") else ""
    return [f"{what}: {number}{counted} ({listing(names, 6)})."] if len(names) else []


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _noted(table: Table, note: str) -> BoolArray:
    """Tell which concepts have a note that starts so, (C,)."""
    return np.array([any(p.startswith(note) for p in n.split("; ")) for n in table["note"].tolist()], dtype=np.bool_)


def _pairs(table: Table, note: str) -> list[str]:
    """List each pair of a concept and its nearest word that have such a note, once."""
    chosen, found = _noted(table, note), dict[frozenset[str], str]()
    for word, nearest in zip(table["concept"][chosen].tolist(), table["nearest"][chosen].tolist(), strict=True):
        found.setdefault(frozenset((word, nearest)), f"{word} and {nearest}")
    return list(found.values())


def _balance(counts: Counter[str]) -> list[str]:
    """Say how many concepts each category has, where there are several."""
    if len(counts) < 2:
        return []
    total, ordered = counts.total(), counts.most_common()
    shares = [f"{category or 'none'} {n:,} ({100 * n / total:.0f} %)" for category, n in ordered]
    ratio = ordered[0][1] / ordered[-1][1]
    return [f"Category balance: {listing(shares, 10)}; the largest is {ratio:.3g} times the smallest."]
