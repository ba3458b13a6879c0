"""The indices of a layer that are followed over training (METHOD, section 5), each with its error."""

from collections.abc import Iterable

import numpy as np

from cmon.records import BoolArray, IntArray, Study
from cmon.statistics.history import History, Measured, Numbers, measured
from cmon.statistics.intervals import half_width

# A drift: in what share of the resamples the words differ at least, and how much these may overlap at most.
SURE, OVERLAP = 0.95, 0.1


def indices(study: Study, run: int, layer: int) -> dict[str, Measured]:
    """Follow one layer over the K checkpoints of a run.

    Returns:
        (K,) each: `interpretable`, the number of units; `unique_concepts` and `effective_concepts`, the words of these
        units and exp of their entropy; `spread` and `d_anchor` as in Study; `label_confidence`, the median over these
        units; `changed` and `drifted`, shares of the units alive there and at the checkpoint before, see `changes`. The
        errors of the last and of `label_confidence` are NaN: they are themselves counted over the resamples.
    """
    history = History.of(study, run, layer)
    mine = [k for k, name in enumerate(study.checkpoints) if name.run == run]
    words = history.words()
    counts = measured(lambda one: _diversity(one, words), history)
    found = {
        name: Measured(counts.value[i], counts.error[i])
        for i, name in enumerate(("interpretable", "unique_concepts", "effective_concepts"))
    }
    for name in ("spread", "d_anchor"):
        resampled = getattr(study, f"{name}_resampled")[mine, layer]
        found[name] = Measured(getattr(study, name)[mine, layer].astype(np.float64), half_width(resampled))
    unknown = np.full(len(mine), np.nan)
    confidence = label_confidence(history.concept, history.resampled_concept)
    median = [_median(row[clear]) for row, clear in zip(confidence, history.interpretable, strict=True)]
    found["label_confidence"] = Measured(np.array(median), unknown)
    found["changed"] = measured(lambda one: _share(*changes(one)), history)
    found["drifted"] = Measured(_share(drifts(history), changes(history)[1]), unknown)
    return found


def effective_number(counts: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Numbers:
    """Return exp of the entropy of labels: how many equally common ones would be as diverse.

    Args:
        counts: (..., V) how often each label occurs.

    Returns:
        (...) from 1 to V; 0 where there is no label.
    """
    total = counts.sum(axis=-1)
    share = counts / np.maximum(total, 1)[..., None]
    entropy = -(share * np.log(np.where(counts > 0, share, 1))).sum(axis=-1)
    number: Numbers = np.where(total > 0, np.exp(entropy), 0.0)
    return number


def category_codes(categories: Iterable[str]) -> IntArray:
    """Number the categories of concepts, (C + 1,) int32: -1 where a concept has none, and for concept -1, the last."""
    names, codes = np.unique([*categories, ""], return_inverse=True)
    return np.asarray(np.where(names[codes] == "", -1, codes), dtype=np.int32)


def label_confidence(concept: IntArray, resampled_concept: IntArray) -> Numbers:
    """Return the share of resamples that give a unit the same label.

    Args:
        concept: (...) or the category of each; -1 where there is none.
        resampled_concept: (..., B)

    Returns:
        (...) in [0, 1]; NaN where there is no label, or B = 0.
    """
    resamples = resampled_concept.shape[-1]
    same = (resampled_concept == concept[..., None]).sum(axis=-1) / max(resamples, 1)
    return np.asarray(np.where((concept >= 0) & (resamples > 0), same, np.nan), dtype=np.float64)


def changes(history: History) -> tuple[BoolArray, BoolArray]:
    """Tell at each checkpoint which units' words are not those of the checkpoint before.

    Returns:
        (K, U) bool changed, and (K, U) bool of which units that can be said: those alive at both; none at the first.
    """
    changed, both = (np.zeros(history.concept.shape, dtype=np.bool_) for _ in range(2))
    both[1:] = (history.concept[1:] >= 0) & (history.concept[:-1] >= 0)
    changed[1:] = history.concept[1:] != history.concept[:-1]
    return changed & both, both


def drifts(history: History) -> Numbers:
    """Tell at each checkpoint which units' words changed beyond what resampling the images does to them anyway.

    Three things hold of a drift. The word changed. The words of the two checkpoints differ in at least 95 % of the
    resamples, each taken at both. And words from resamples of different checkpoints coincide at most a tenth as often
    as words from resamples of the same one: a unit that has another word in nearly every resample has another one at
    the next checkpoint too, without having moved.

    Returns:
        (K, U) 1 where it drifted, 0 where it did not; NaN where that cannot be said: at the first checkpoint, where it
        is not alive at both, and everywhere where B < 2.
    """
    changed, both = changes(history)
    drifted = np.where(both & (history.resamples > 1), 0.0, np.nan)
    for k in range(1, len(drifted)) if history.resamples > 1 else ():
        old, new = history.resampled_concept[k - 1], history.resampled_concept[k]
        units = np.flatnonzero(changed[k] & ((old != new).mean(axis=1) >= SURE))
        drifted[k, units] = overlap(old[units], new[units]) <= OVERLAP
    return drifted


def overlap(one: IntArray, other: IntArray) -> Numbers:
    """Compare how often labels of two lists coincide with how often those of one list do (Morisita's index).

    Args:
        one: (N, B) of N units, B at least 2.
        other: (N, B)

    Returns:
        (N,) 0 where the lists share no label, about 1 where they are draws from the same; NaN where labels of one list
        never coincide.
    """
    resamples = one.shape[1]
    first, second, joint = _coinciding(one), _coinciding(other), _coinciding(np.concatenate([one, other], axis=1))
    between = (joint - first - second) / (2 * resamples**2)
    within = (first + second - 2 * resamples) / (2 * resamples * (resamples - 1))
    found: Numbers = np.divide(between, within, out=np.full(len(one), np.nan), where=within > 0)
    return found


def _coinciding(labels: IntArray) -> Numbers:
    """Count in each row (N, M) the ordered pairs of equal labels, each with itself among them, (N,)."""
    ordered = np.sort(labels, axis=1)
    starts = np.ones(ordered.shape, dtype=np.bool_)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.flatnonzero(starts)
    lengths = np.diff(np.append(first, ordered.size)).astype(np.float64)
    rows = first // max(labels.shape[1], 1)
    return np.asarray(np.bincount(rows, weights=np.square(lengths), minlength=len(labels)), dtype=np.float64)


def _diversity(history: History, words: IntArray) -> Numbers:
    """Return (3, K): interpretable units, their different words, the words' effective number."""
    counts = history.holders(words)
    return np.stack([counts.sum(axis=1), (counts > 0).sum(axis=1), effective_number(counts)])


def _share(which: Numbers | BoolArray, of: BoolArray) -> Numbers:
    """Return the share (K,) of some units (K, U); NaN where there are none, or where it is not known of them."""
    total = of.sum(axis=1)
    chosen = np.where(of, which, 0.0).sum(axis=1)
    found: Numbers = np.divide(chosen, total, out=np.full(len(total), np.nan), where=total > 0)
    return found


def _median(values: Numbers) -> float:
    return float(np.median(values)) if len(values) else np.nan
