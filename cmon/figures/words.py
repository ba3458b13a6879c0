"""How often the words agree that two detectors gave the same units, or one detector units of two runs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cmon.figures.style import Rows
from cmon.records import BoolArray, Study
from cmon.statistics.history import Numbers
from cmon.statistics.meaning import pair_cosines


class Words(NamedTuple):
    """The words that one detector gave N units.

    Args:
        names: (V,) the different ones.
        categories: (V,) "" where a word has none.
        features: (V, D) float64, unit norm.
        of_unit: (N,) index of each unit's word.
    """

    names: tuple[str, ...]
    categories: tuple[str, ...]
    features: npt.NDArray[np.float64]
    of_unit: Rows

    @classmethod
    def of(cls, study: Study, rows: Rows) -> "Words":
        """Collect the words of rows of the table of units, all alive."""
        concepts, of_unit = np.unique(study.units.concept[rows], return_inverse=True)
        names = tuple(study.concepts.names[concept] for concept in concepts)
        categories = tuple(study.concepts.categories[concept] for concept in concepts)
        return cls(names, categories, study.concept_features[concepts].astype(np.float64), of_unit)


def compared(first: Words, second: Words, near: float) -> tuple[float, ...]:
    """Return the three shares, their three chances and the mean cosine; NaN without units."""
    cosines = first.features @ second.features.T
    same_word = _equal(first.names, second.names)
    # A word's cosine with itself may round to just below 1.
    near_meaning = same_word | (cosines >= near)
    has_one, has_two = (np.array([*map(bool, words.categories)], bool) for words in (first, second))
    known = has_one[first.of_unit] & has_two[second.of_unit]
    every = np.ones_like(known)
    shares, chances = zip(
        _share(same_word, first, second, every),
        _share(near_meaning, first, second, every),
        _share(_equal(first.categories, second.categories), first, second, known),
        strict=True,
    )
    mean_cosine = cosines[first.of_unit, second.of_unit].mean() if len(known) else np.nan
    return (*shares, *chances, mean_cosine)


def _equal(first: Sequence[str], second: Sequence[str]) -> BoolArray:
    """Compare all texts of one list with all of another, (V, W)."""
    _, codes = np.unique([*first, *second], return_inverse=True)
    return np.asarray(codes[: len(first), None] == codes[None, len(first) :])


def _share(agrees: BoolArray, first: Words, second: Words, of: BoolArray) -> tuple[float, float]:
    """Average over some units whether their two words agree, (V, W), then over all pairs of these units."""
    if not of.any():
        return np.nan, np.nan
    one, two = first.of_unit[of], second.of_unit[of]
    often_one, often_two = (np.bincount(words, minlength=n) for words, n in zip((one, two), agrees.shape, strict=True))
    return float(agrees[one, two].mean()), float(often_one @ agrees @ often_two / len(one) ** 2)


def resampled(first: Study, second: Study, rows: Rows, near: float, partners: Rows | None = None) -> Numbers:
    """Count the units with a word from both, and take the three shares of `compared`, in every resample of the images.

    Resamples are the same for both detectors; where one has more, the others are left out.

    Args:
        first: one detector's study.
        second: the other's, of the same units.
        rows: (N,) of the table of units.
        near: the cosine from which two words are near.
        partners: (N,) rows of the second study that these are compared with; None: the same.

    Returns:
        (4, B); shares are NaN where no unit has a word from both.
    """
    others = rows if partners is None else partners
    both = first.units.alive[rows] & second.units.alive[others]
    resamples = min(one.units.resampled_concept.shape[1] for one in (first, second))
    pair = ((first.units, rows), (second.units, others))
    clear, second_clear = (units.resampled_interpretable[here, :resamples] for units, here in pair)
    clear = clear & second_clear & both[:, None]
    words, other_words = (units.resampled_concept[here, :resamples][clear] for units, here in pair)
    size = len(second.concepts.names)
    pairs, place = np.unique(words.astype(np.int64) * size + other_words, return_inverse=True)
    one, two = pairs // size, pairs % size
    same_word = np.array(first.concepts.names)[one] == np.array(second.concepts.names)[two]
    cosines = pair_cosines(first.concept_features, second.concept_features, one, two)
    near_meaning = same_word | (cosines >= near)
    categories = np.array(first.concepts.categories)[one], np.array(second.concepts.categories)[two]
    known, alike = (categories[0] != "") & (categories[1] != ""), categories[0] == categories[1]
    of = np.nonzero(clear)[1]

    def total(which: BoolArray) -> Numbers:
        return np.bincount(of, weights=which[place], minlength=resamples).astype(np.float64)

    units = total(np.ones_like(known))
    shares = [(same_word, units), (near_meaning, units), (known & alike, total(known))]
    return np.stack([units, *(total(which) / np.where(whole > 0, whole, np.nan) for which, whole in shares)])
