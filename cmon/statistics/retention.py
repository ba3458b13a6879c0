"""Retention: of the units that are clearest at one checkpoint, how many are as they were later (METHOD, section 5)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cmon.records import BoolArray, FloatArray, IntArray, LongArray
from cmon.statistics.history import History, Numbers, Sampled
from cmon.statistics.meaning import pair_cosines
from cmon.statistics.trends import label_confidence

# x of R(x), in per cent.
PERCENTS = (5, 10, 20, 30, 40, 50, 75, 100)

# What of a unit is kept: its word at every later checkpoint; its word, its word's category or its meaning at the last.
KINDS = ("strict", "final", "category", "meaning")


@dataclass(frozen=True)
class Lexicon:
    """How words are compared.

    Args:
        category: (C + 1,) int32, -1 where a concept has none, and last.
        features: (C, D) unit norm.
        near: the cosine from which two words mean the same.
    """

    category: IntArray
    features: FloatArray
    near: float


class Retention(NamedTuple):
    """R(x) of one layer.

    Args:
        units: (X,) int64, the number of units of which the share is taken; 0 where none is interpretable.
        share: (4, X) by KINDS; NaN where there is no such unit or no later checkpoint.
        flicker: (X,) the share of these units that a resample gives the same word at the reference checkpoint itself:
            what would be retained if nothing but the images had changed; NaN without resamples.
    """

    units: LongArray
    share: Sampled
    flicker: Numbers


def retention(
    history: History, reference: int, score: FloatArray, resampled_score: FloatArray, lexicon: Lexicon
) -> Retention:
    """Return R(x) for the x of PERCENTS: of the x % most interpretable units the share that kept what they were.

    The units are the interpretable ones of the reference checkpoint, highest scores first, equal ones by number; x % of
    them are rounded up. What is kept is the label: it need not be interpretable later. A unit that is not alive at a
    later checkpoint has not kept it. Of a category, the units count whose word has one. A resample of the images has
    words, interpretable units and an order of its own.

    Args:
        history: K checkpoints of U units.
        reference: index of the checkpoint to start from; later ones are those after it.
        score: (U,) at the reference checkpoint.
        resampled_score: (U, B) there, in every resample.
        lexicon: how words are compared.
    """
    units, taken = _clearest(history.interpretable[reference], score)
    share = _shares(kept(history.concept[reference:, units], lexicon), taken)
    resampled = np.full((*share.shape, history.resamples), np.nan)
    for b, one in enumerate(history.in_resamples()):
        again = _clearest(one.interpretable[reference], resampled_score[:, b])
        resampled[..., b] = _shares(kept(one.concept[reference:, again[0]], lexicon), again[1])
    confidence = label_confidence(history.concept[reference, units], history.resampled_concept[reference, units])
    return Retention(taken, Sampled(share, resampled), _shares(confidence[None], taken)[0])


def _clearest(interpretable: BoolArray, score: FloatArray) -> tuple[IntArray, LongArray]:
    """Return the interpretable units of (U,), clearest first, and how many of them each of PERCENTS takes, (X,)."""
    units = np.flatnonzero(interpretable).astype(np.int32)
    units = units[np.argsort(-score[units], kind="stable")]
    return units, np.array([-(-percent * len(units) // 100) for percent in PERCENTS], dtype=np.int64)


def kept(concept: IntArray, lexicon: Lexicon) -> Numbers:
    """Tell what N units kept, of each kind.

    Args:
        concept: (1 + J, N) int32, the words at a checkpoint and at J later ones by step; -1 where there is none.
        lexicon: how words are compared.

    Returns:
        (4, N) 1 where kept, 0 where not; NaN where J = 0, and of a category where the word has none.
    """
    then, later = concept[0], concept[1:]
    if not len(later):
        return np.full((len(KINDS), len(then)), np.nan)
    last = later[-1]
    strict, final = ((words == then).all(axis=0) & (then >= 0) for words in (later, later[-1:]))
    group = lexicon.category[then]
    category = np.where(group >= 0, group == lexicon.category[last], np.nan)
    both = (then >= 0) & (last >= 0) & ~final
    near = final.copy()
    near[both] = pair_cosines(lexicon.features, lexicon.features, then[both], last[both]) >= lexicon.near
    return np.stack([strict, final, category, near]).astype(np.float64)


def _shares(values: Numbers, taken: LongArray) -> Numbers:
    """Average the first units of (G, N) in a list, so many as taken (X,): (G, X); NaN of nothing."""
    known: BoolArray = np.isfinite(values)
    sums, counts = (np.cumsum(part, axis=1, dtype=np.float64) for part in (np.where(known, values, 0.0), known))
    if not values.shape[1]:
        return np.full((len(values), len(taken)), np.nan)
    sums, counts = sums[:, taken - 1], counts[:, taken - 1]
    found: Numbers = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return found
