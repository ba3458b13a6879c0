"""The unified embedding space (Concept-Monitor, section 3): units placed among the words that describe them."""

import numpy as np

from cmon.records import BLOCK_BYTES, FloatArray, IntArray


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
    scores = top_score.astype(np.float64)
    weights = np.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
    weights /= weights.sum(axis=1, keepdims=True)
    placed = np.full((len(top_concept), concept_features.shape[1]), np.nan, dtype=np.float32)
    alive = np.flatnonzero(top_concept[:, 0] >= 0)
    rows = max(1, BLOCK_BYTES // (8 * top_concept.shape[1] * concept_features.shape[1]))
    for start in range(0, len(alive), rows):
        chosen = alive[start : start + rows]
        placed[chosen] = np.einsum("rk,rkd->rd", weights[chosen], concept_features[top_concept[chosen]])
    return placed


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
