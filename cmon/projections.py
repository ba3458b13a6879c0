"""The plane: one projection of all units, concepts and anchors together, with a figure for how far to trust it."""

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cmon.errors import ConfigError
from cmon.records import FloatArray, IntArray, blocks
from cmon.threads import product

# Trustworthiness compares all pairs of points; a sample of this many bounds its memory to some hundred MiB.
TRUST_SAMPLE = 4000
TRUST_NEIGHBOURS = 15
# Up to so many points all distances are computed, which takes less time than umap's own search needs to be compiled.
# Beyond, umap searches: its time grows little faster than the number of points.
MOST_COMPARED = 50_000
# So many more neighbours than wanted are found in single precision, for the nearest to be told exactly among them.
SPARE_NEIGHBOURS = 5


@dataclass(frozen=True)
class Umap:
    """UMAP (McInnes and others, 2018); repeatable for one seed on one machine."""

    neighbours: int = 15
    min_dist: float = 0.1
    metric: Literal["euclidean", "cosine"] = "euclidean"
    seed: int = 0

    def __call__(self, points: FloatArray) -> FloatArray:
        """Place (n, D) points in the plane, (n, 2).

        Raises:
            ConfigError: for fewer points than UMAP can place.
        """
        if len(points) < 5:
            raise ConfigError("embed.projection", f"UMAP cannot place {len(points)} points", 'set projection = "pca"')
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numba's and umap's remarks on parallelism under a seed
            import umap

            count = min(self.neighbours, len(points) - 1)
            reducer = umap.UMAP(
                n_neighbors=count,
                min_dist=self.min_dist,
                metric=self.metric,
                random_state=self.seed,
                init="spectral" if len(points) > 10 else "random",
                n_jobs=1,
                precomputed_knn=self._neighbours(points, count) if len(points) <= MOST_COMPARED else (None, None, None),
            )
            placed: Any = reducer.fit_transform(points)
        return np.asarray(placed, dtype=np.float32)

    def _neighbours(self, points: FloatArray, count: int) -> tuple[IntArray, FloatArray]:
        if self.metric == "euclidean":
            return nearest_neighbours(points, count)
        directions = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-30)
        indices, distances = nearest_neighbours(directions, count)
        return indices, distances * distances / np.float32(2)


@dataclass(frozen=True)
class Pca:
    """The first two principal components; each component's largest loading is positive, so that signs are fixed."""

    def __call__(self, points: FloatArray) -> FloatArray:
        """Place (n, D) points in the plane, (n, 2)."""
        centred = points.astype(np.float64) - points.mean(axis=0, dtype=np.float64)
        axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :2]
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
        placed = np.zeros((len(points), 2), dtype=np.float32)
        placed[:, : axes.shape[1]] = centred @ axes
        return placed


def place(projection: Umap | Pca, points: FloatArray) -> tuple[FloatArray, float]:
    """Project points, each distinct one once: duplicates spoil UMAP's neighbourhoods and cost its time.

    Args:
        projection: of the distinct rows.
        points: (n, D) finite.

    Returns:
        (n, 2) places, and the trustworthiness of the distinct ones in [0, 1] (NaN where they are too few).
    """
    distinct, inverse = np.unique(points, axis=0, return_inverse=True)
    placed = projection(distinct)
    return placed[inverse.reshape(-1)], trustworthiness(distinct, placed)


def nearest_neighbours(points: FloatArray, count: int) -> tuple[IntArray, FloatArray]:
    """Find each point's nearest neighbours by the distances of all pairs.

    Args:
        points: (n, D) finite.
        count: k, at most n.

    Returns:
        (n, k) int32 indices, each point itself first and then by distance, equals by index; (n, k) Euclidean distances.
    """
    centred = points - points.mean(axis=0)  # products of small numbers have small errors
    squares = np.einsum("nd,nd->n", centred, centred)
    kept = min(count + SPARE_NEIGHBOURS, len(points))
    indices = np.empty((len(points), count), dtype=np.int32)
    distances = np.empty((len(points), count), dtype=np.float32)
    parts = blocks(len(points), 8 * len(points))
    room = np.empty((parts[0].stop, len(points)), dtype=np.float32)  # filled again: new memory is slow at first touch
    for rows in parts:
        apart = product(centred[rows], centred.T, room[: rows.stop - rows.start])
        apart *= -2
        apart += squares
        apart[np.arange(len(apart)), np.arange(rows.start, rows.stop)] = -np.inf
        near = np.sort(np.argpartition(apart, kept - 1, axis=1)[:, :kept], axis=1)
        exact = np.sqrt(np.square(points[near] - points[rows, None]).sum(axis=2))
        exact[near == np.arange(rows.start, rows.stop)[:, None]] = -1  # before what lies at the same place
        order = np.argsort(exact, axis=1, kind="stable")[:, :count]
        indices[rows] = np.take_along_axis(near, order, axis=1)
        distances[rows] = np.maximum(np.take_along_axis(exact, order, axis=1), 0)
    return indices, distances


def trustworthiness(points: FloatArray, placed: FloatArray) -> float:
    """Say how many of a point's neighbours in the plane are its neighbours in space (Venna and Kaski, 2001).

    Args:
        points: (n, D) in space.
        placed: (n, 2) in the plane.

    Returns:
        From 0 to 1, with 15 neighbours, on a fixed sample of 4,000 where there are more; NaN below 32 points.
    """
    from sklearn.manifold import trustworthiness as measure

    if len(points) < 2 * TRUST_NEIGHBOURS + 2:
        return float("nan")
    if len(points) > TRUST_SAMPLE:
        sample = np.sort(np.random.default_rng(0).choice(len(points), TRUST_SAMPLE, replace=False))
        points, placed = points[sample], placed[sample]
    return float(measure(points, placed, n_neighbors=TRUST_NEIGHBOURS))
