"""The plane: one projection of all units, concepts and anchors together, with a figure for how far to trust it."""

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cmon.errors import ConfigError
from cmon.records import FloatArray

# Trustworthiness compares all pairs of points; a sample of this many bounds its memory to some hundred MiB.
TRUST_SAMPLE = 4000
TRUST_NEIGHBOURS = 15


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

            reducer = umap.UMAP(
                n_neighbors=min(self.neighbours, len(points) - 1),
                min_dist=self.min_dist,
                metric=self.metric,
                random_state=self.seed,
                init="spectral" if len(points) > 10 else "random",
                n_jobs=1,
            )
            placed: Any = reducer.fit_transform(points)
        return np.asarray(placed, dtype=np.float32)


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
