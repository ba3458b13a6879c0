"""Where words are put beside points so that they keep apart."""

import numpy as np

from cmon.figures.style import Extent, Points


def place_labels(points: Points, sizes: Points, radius: float, extent: Extent, taken: Points, crowd: Points) -> Points:
    """Find a place near its point for every label so that labels keep apart, the same in every call.

    Greedy, the most crowded first; then each is moved again while that helps.

    Args:
        points: (N, 2), in points of type, within the panel.
        sizes: (N, 2) the labels' widths and heights.
        radius: of the marks at the points.
        extent: the panel's width and height.
        taken: (M, 4) left, bottom, right, top of what labels must not cover.
        crowd: (P, 2) dots that are better left visible.

    Returns:
        (N, 2) centres of the labels.
    """
    markers = np.hstack([points - radius, points + radius])
    nearness = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    order = np.argsort(-(nearness < 40).sum(axis=1), kind="stable")
    # What a place costs whatever the other labels do.
    candidates = []
    for point, size in zip(points, sizes, strict=True):
        choices, distance = _candidates(point, size / 2, radius, extent)
        fixed = 50 * _overlap(choices, taken) + 3 * _overlap(choices, markers) + 0.4 * _inside(choices, crowd)
        candidates.append((choices, distance + fixed))
    boxes = np.full((len(points), 4), -1e9)
    for _ in range(4):
        before = boxes.copy()
        for i in order:
            choices, fixed = candidates[i]
            boxes[i] = choices[np.argmin(fixed + 50 * _overlap(choices, np.delete(boxes, i, axis=0)))]
        if np.array_equal(before, boxes):
            break
    centres: Points = (boxes[:, :2] + boxes[:, 2:]) / 2
    return centres


def _candidates(point: Points, half: Points, radius: float, extent: Extent) -> tuple[Points, Points]:
    """List boxes (K, 4) around a point, pushed into the panel, with how far each was set away."""
    angles = np.arange(16) * np.pi / 8
    ways = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    ways /= np.abs(ways).max(axis=1, keepdims=True)  # onto a square, so that a label clears its own mark
    away = np.repeat(np.arange(14) * 5.0, len(ways))
    slant = 1.5 * np.abs(np.sin(2 * angles))  # beside a mark reads better than at its corner
    centres = point + np.tile(ways, (14, 1)) * (half + radius + away[:, None])
    centres = np.clip(centres, half + 1, np.maximum(np.array(extent) - half - 1, half + 1))
    return np.hstack([centres - half, centres + half]), away + np.tile(slant, 14)


def _overlap(boxes: Points, others: Points) -> Points:
    """Sum over others the area (in square points) that each box shares with them."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared: Points = np.clip(high - low, 0, None).prod(axis=2).sum(axis=1)
    return shared


def _inside(boxes: Points, dots: Points) -> Points:
    """Count the dots within each box, (K,)."""
    within = np.ones((len(boxes), len(dots)), dtype=np.bool_)
    for axis in (0, 1):  # a dot's coordinates apart: four times as fast as both at once
        within &= (dots[:, axis] > boxes[:, axis, None]) & (dots[:, axis] < boxes[:, axis + 2, None])
    counts: Points = within.sum(axis=1).astype(np.float64)
    return counts
