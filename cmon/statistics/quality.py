"""How well a unit's word fits it, on images that did not choose the word, by labels that no encoder made.

Of the measures of a label's quality only F1, IoU, AUPRC, correlation and cosine pass the sanity tests of NeuronEval
(ICML 2025). The four of QUALITY are taken.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cmon.records import ALIVE, QUALITY, BoolArray, FloatArray, IntArray, Presence, blocks
from cmon.statistics.units import unit_states


def word_quality(activations: FloatArray, words: IntArray, presence: Presence, half: BoolArray) -> FloatArray:
    """Judge each unit's word by one half of the images on the other half, and the reverse; take the mean of the two.

    F1 and IoU are those of "activates at least so much" against "shows the word", on the judging half, at the
    activation whose F1 is best on the naming half. AUPRC is the average precision on the judging half, and correlation
    Pearson's of the activation with 0 and 1. Images that the labels say nothing of are left out.

    Chance gives an AUPRC of about the word's share p of the images, a correlation of 0, an IoU of at most p and an F1
    of at most 2p / (1 + p), which one gets for activating on all images.

    Args:
        activations: (I, U) finite.
        words: (U, 2) int32, the concept by the images of `half` alone, and by the others; -1 for none.
        presence: what the I images show, of C concepts.
        half: (I,) bool.

    Returns:
        (U, 4) columns as in QUALITY. All four are NaN where either direction has no answer, since a mean of one would
        not be comparable: where the labels do not know either word, where a half has no image with the word or none
        without it, and where the unit is not alive in a half. A unit that is constant on all judged images of the
        half, but not on all images, has a correlation of 0.
    """
    quality = np.full((len(words), len(QUALITY)), np.nan, dtype=np.float32)
    columns = np.where(words >= 0, presence.column[words], -1)
    sides = [np.flatnonzero(half), np.flatnonzero(~half)]
    answerable = (columns >= 0).all(axis=1)
    for side in sides:
        answerable &= _alive(activations, side)
    units = np.flatnonzero(answerable)
    wanted, place = np.unique(columns[units], return_inverse=True)
    place = place.reshape(len(units), 2)
    # Rows of images that lie one after the other in memory, as every pass below wants them.
    shown, judged = (
        [np.ascontiguousarray(table[np.ix_(side, wanted)].T) for side in sides]
        for table in (presence.shown, presence.judged)
    )
    for block in blocks(len(units), 4 * len(activations)):
        values = [np.ascontiguousarray(activations[np.ix_(side, units[block])].T) for side in sides]
        for row, unit in enumerate(units[block]):
            ways = []
            for way, word in enumerate(place[block][row]):
                naming, judging = (_Judged.of(values[s][row], shown[s][word], judged[s][word]) for s in (way, 1 - way))
                ways.append(_one_way(naming, judging))
            quality[unit] = np.mean(ways, axis=0)
    return quality


def _alive(activations: FloatArray, rows: npt.NDArray[np.intp]) -> BoolArray:
    """Tell which units are alive on some images, (U,): none on no images."""
    if not len(rows):
        return np.zeros(activations.shape[1], dtype=np.bool_)
    return np.asarray(unit_states(activations[rows]) == ALIVE)


@dataclass(frozen=True)
class _Judged:
    """A unit's activations on the images of one half that the labels can judge.

    Args:
        values: (N,) activations.
        shown: (N,) bool, which images show the word.
        levels: (P,) the activations of those, ascending.
    """

    values: FloatArray
    shown: BoolArray
    levels: FloatArray

    @classmethod
    def of(cls, values: FloatArray, shown: BoolArray, judged: BoolArray) -> "_Judged":
        if not judged.all():
            values, shown = values[judged], shown[judged]
        return cls(values, shown, np.sort(values[shown]))

    @property
    def is_mixed(self) -> bool:
        """Tell whether some images show the word, and some do not."""
        return 0 < len(self.levels) < len(self.values)

    def at_levels(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Count the images that activate at least as much as each image with the word: with the word, and all, (P,)."""
        found = len(self.levels) - np.searchsorted(self.levels, self.levels)
        taken = len(self.values) - np.searchsorted(np.sort(self.values), self.levels)
        return found.astype(np.int64), taken.astype(np.int64)


def _one_way(naming: _Judged, judging: _Judged) -> list[float]:
    """Judge one word, which was chosen on `naming`, on `judging`."""
    if not (naming.is_mixed and judging.is_mixed):
        return [np.nan] * len(QUALITY)
    threshold = _best_threshold(naming)
    taken = judging.values >= threshold
    hits, named = int((taken & judging.shown).sum()), int(taken.sum()) + len(judging.levels)
    found, at_least = judging.at_levels()
    # Images with equal activations share a threshold, so that their order does not matter.
    precision = float(np.mean(found / at_least))
    by_name = {
        "f1": 2 * hits / named,
        "iou": hits / (named - hits),
        "auprc": precision,
        "correlation": _correlation(judging.values, judging.shown),
    }
    return [by_name[name] for name in QUALITY]


def _best_threshold(naming: _Judged) -> np.float32:
    """Return the activation from which on "shows the word" has the best F1; of equals the highest."""
    found, taken = naming.at_levels()  # the best one is at an image with the word: down to the next, only errors come
    f1 = 2 * found / (taken + len(naming.levels))
    best: np.float32 = naming.levels[len(f1) - 1 - np.argmax(f1[::-1])]
    return best


def _correlation(values: FloatArray, shown: BoolArray) -> float:
    """Compute Pearson's correlation; 0 for constant values."""
    if values.min() == values.max():
        return 0.0
    centred, presence = values - values.mean(dtype=np.float64), shown - shown.mean()
    return float(centred @ presence / np.sqrt((centred @ centred) * (presence @ presence)))
