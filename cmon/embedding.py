"""The unified embedding space (Concept-Monitor, section 3): units placed among the words that describe them."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cmon.records import BLOCK_BYTES, FloatArray, IntArray

Numbers = npt.NDArray[np.float64]


def unified_embedding(
    top_concept: IntArray, top_score: FloatArray, concept_features: FloatArray, temperature: float
) -> FloatArray:
    """Place units at the softmax-weighted mean of their best concepts (equation 1).

    lambda_i = exp(s_i / T) / sum_j exp(s_j / T), u = sum_i lambda_i f(c_i); u is not normalised again.

    Args:
        top_concept: (R, k) int32, best first; -1 for dead units.
        top_score: (R, k) their scores; NaN for dead units.
        concept_features: (C, D) unit norm.
        temperature: T.

    Returns:
        (R, D); NaN in the rows of dead units.
    """
    weights = _weights(top_score, temperature)
    placed = np.full((len(top_concept), concept_features.shape[1]), np.nan, dtype=np.float32)
    alive = np.flatnonzero(top_concept[:, 0] >= 0)
    rows = max(1, BLOCK_BYTES // (8 * top_concept.shape[1] * concept_features.shape[1]))
    for start in range(0, len(alive), rows):
        chosen = alive[start : start + rows]
        placed[chosen] = np.einsum("rk,rkd->rd", weights[chosen], concept_features[top_concept[chosen]])
    return placed


def _weights(top_score: FloatArray, temperature: float) -> Numbers:
    """Return lambda (..., k) of scores (..., k)."""
    scores = top_score.astype(np.float64)
    weights: Numbers = np.exp((scores - scores.max(axis=-1, keepdims=True)) / temperature)
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def distance_to_anchors(embedding: FloatArray, anchors: FloatArray) -> float:
    """Return d_anchor: the mean over units of the Euclidean distance to the nearest anchor, in the space itself.

    Args:
        embedding: (U, D); rows with NaN (dead units) are left out.
        anchors: (N, D).

    Returns:
        The distance; NaN where there is no unit or no anchor.
    """
    units = embedding[np.isfinite(embedding).all(axis=1)].astype(np.float64)
    if not len(units) or not len(anchors):
        return float("nan")
    points = anchors.astype(np.float64)
    squares = np.square(units).sum(1)[:, None] + np.square(points).sum(1) - 2 * units @ points.T
    return float(np.sqrt(np.maximum(squares, 0)).min(axis=1).mean())


def spread(embedding: FloatArray) -> float:
    """Return the mean cosine distance over all pairs of units.

    Args:
        embedding: (U, D); rows with NaN (units that are not alive) are left out.

    Returns:
        1 - mean cosine, in [0, 2]; NaN where there are fewer than two units.
    """
    units = embedding[np.isfinite(embedding).all(axis=1)].astype(np.float64)
    count = len(units)
    if count < 2:
        return float("nan")
    # The sum over pairs is what the square of the summed directions is more than the units themselves.
    directions = units / np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-300)
    own = np.square(directions).sum()
    return float(1 - (np.square(directions.sum(axis=0)).sum() - own) / (count * (count - 1)))


def resampled_indices(
    concept: IntArray, score: FloatArray, concept_features: FloatArray, anchors: FloatArray, temperature: float
) -> tuple[Numbers, Numbers]:
    """Return what `distance_to_anchors` and `spread` are of one layer's units in every resample of the images.

    No unit is placed for it. With the words' cosines G and what they have in common with the anchors,
    |u|^2 = lambda G lambda, and |u - a|^2 = |u|^2 + |a|^2 - 2 sum_i lambda_i f(c_i) a; and the sum of the units'
    directions is that of the words', weighted.

    Args:
        concept: (U, B, k) int32, best first; -1 for units that are not alive.
        score: (U, B, k) their scores; NaN for units that are not alive.
        concept_features: (C, D) unit norm.
        anchors: (N, D).
        temperature: T.

    Returns:
        (B,) mean distances to the nearest anchor, NaN without a unit or an anchor; (B,) mean cosine distances of all
        pairs of units, NaN where there are fewer than two.
    """
    alive = (concept >= 0).all(axis=(1, 2))
    count = int(alive.sum())
    sums = _sums(concept[alive], _weights(score[alive], temperature), concept_features, anchors.astype(np.float64))
    far = sums.distances / count if count and len(anchors) else np.full(len(sums.distances), np.nan)
    if count < 2:
        return far, np.full(len(far), np.nan)
    return far, 1 - (np.square(sums.directions).sum(axis=1) - sums.directed) / (count * (count - 1))


class _Sums(NamedTuple):
    """Sums over units in every resample: to the nearest anchor (B,), of directions (B, D), of units that have one."""

    distances: Numbers
    directions: Numbers
    directed: Numbers


def _sums(concept: IntArray, weights: Numbers, concept_features: FloatArray, anchors: Numbers) -> _Sums:
    units, resamples, best = concept.shape
    held = np.bincount(concept.reshape(-1), minlength=len(concept_features)) > 0
    words = concept_features[held].astype(np.float64)
    if units > 1 and 8 * max(len(words) ** 2, units * resamples * len(anchors)) > 2 * BLOCK_BYTES:
        half = units // 2
        parts = [
            _sums(concept[part], weights[part], concept_features, anchors) for part in (slice(half), slice(half, None))
        ]
        return _Sums(*(first + second for first, second in zip(*parts, strict=True)))
    place = (np.cumsum(held) - 1)[concept]
    cosines = words @ words.T
    squares = np.zeros((units, resamples))
    for i in range(best):
        for j in range(i, best):
            twice = 1 if i == j else 2
            squares += twice * weights[..., i] * weights[..., j] * cosines[place[..., i], place[..., j]]
    lengths = np.sqrt(np.maximum(squares, 0))
    distances = np.zeros(resamples)
    if len(anchors):
        common = words @ anchors.T
        away = np.square(anchors).sum(axis=1) - 2 * sum(
            weights[..., i, None] * common[place[..., i]] for i in range(best)
        )
        distances = np.sqrt(np.maximum(squares + away.min(axis=2), 0)).sum(axis=0)
    # How often each word is part of a direction, in each resample.
    shares = np.divide(weights, lengths[..., None], out=np.zeros_like(weights), where=lengths[..., None] > 0)
    cells = place + len(words) * np.arange(resamples)[:, None]
    often = np.bincount(cells.reshape(-1), weights=shares.reshape(-1), minlength=resamples * len(words))
    return _Sums(distances, often.reshape(resamples, len(words)) @ words, (lengths > 0).sum(axis=0).astype(np.float64))
