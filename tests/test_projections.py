from dataclasses import dataclass, field

import numpy as np
import pytest
from sklearn.manifold import trustworthiness as sklearn_trustworthiness

from cmon import projections
from cmon.errors import ConfigError
from cmon.projections import Pca, Umap, nearest_neighbours, place, trustworthiness
from cmon.records import arrays


def cloud(count, dimensions, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)


def planar(count, dimensions=20):
    """Points of a plane that is turned into a higher space."""
    axes = np.linalg.qr(np.random.default_rng(1).normal(size=(dimensions, 2)))[0]
    return np.float32(cloud(count, 2) * [3, 1] @ axes.T + 5)


def distances(points):
    return np.linalg.norm(points[:, None].astype(np.float64) - points, axis=2)


@dataclass
class Seen:
    """A projection that takes the first two coordinates and remembers what it was given."""

    points: list = field(default_factory=list)

    def __call__(self, points):
        self.points.append(points)
        return points[:, :2].copy()


# PCA


def test_pca_keeps_the_distances_of_a_plane():
    points = planar(60)
    placed = Pca()(points)
    assert placed.dtype == np.float32
    np.testing.assert_allclose(distances(placed), distances(points), atol=1e-4)
    np.testing.assert_allclose(placed.mean(axis=0), 0, atol=1e-5)
    assert placed[:, 0].var() > placed[:, 1].var()


def test_pca_agrees_with_a_singular_value_decomposition_up_to_sign():
    points = cloud(50, 8) * np.float32([5, 4, 3, 1, 1, 1, 1, 1])
    left, values, _ = np.linalg.svd(points.astype(np.float64) - points.mean(axis=0, dtype=np.float64))
    np.testing.assert_allclose(np.abs(Pca()(points)), np.abs(left[:, :2] * values[:2]), atol=1e-4)


def test_the_signs_of_pca_are_those_of_its_largest_loadings():
    points = np.float32([[-3, 1, 0], [3, -1, 0], [1, 3, 0], [-1, -3, 0], [-9, 3, 0], [9, -3, 0]])
    placed = Pca()(points)
    assert (np.sign(placed[:, 0]) == np.sign(points[:, 0])).all()  # (3, -1) / sqrt(10), never its opposite
    np.testing.assert_allclose(placed[2], [0, np.sqrt(10)], atol=1e-5)
    order = np.random.default_rng(0).permutation(6)
    np.testing.assert_allclose(Pca()(points[order]), placed[order], atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 4), (2, 4), (3, 1), (7, 2)])
def test_pca_places_few_points_and_dimensions(shape):
    placed = Pca()(cloud(*shape))
    assert placed.shape == (shape[0], 2)
    assert np.isfinite(placed).all()
    np.testing.assert_allclose(distances(placed), distances(cloud(*shape)), atol=1e-5)


# Placing


def test_duplicates_are_projected_once_and_placed_together():
    points = np.float32([[2, 1, 0], [0, 0, 7], [2, 1, 0], [1, 1, 1], [0, 0, 7], [2, 1, 0]])
    projection = Seen()
    placed, _ = place(projection, points)
    np.testing.assert_array_equal(placed, points[:, :2])
    (given,) = projection.points
    assert sorted(given.tolist()) == [[0, 0, 7], [1, 1, 1], [2, 1, 0]]


def test_duplicates_do_not_change_places_or_trustworthiness():
    points = planar(60)
    placed, trust = place(Pca(), points)
    again, trust_again = place(Pca(), np.concatenate([points, points[:30], points[:10]]))
    np.testing.assert_array_equal(again[:60], placed)
    np.testing.assert_array_equal(again[60:], np.concatenate([placed[:30], placed[:10]]))
    assert trust_again == trust


def test_points_that_are_all_identical_are_one_point():
    points = np.ones((40, 6), dtype=np.float32)
    placed, trust = place(Pca(), points)
    np.testing.assert_array_equal(placed, np.zeros((40, 2)))
    assert np.isnan(trust)
    with pytest.raises(ConfigError, match="UMAP cannot place 1 points") as caught:
        place(Umap(), points)
    assert "pca" in caught.value.hint


def test_umap_refuses_fewer_than_five_points_before_it_is_imported():
    with pytest.raises(ConfigError, match=r"embed\.projection: UMAP cannot place 4 points"):
        Umap()(cloud(4, 6))


# Trustworthiness


def test_a_planar_set_is_trustworthy_and_noise_is_not():
    assert place(Pca(), planar(100))[1] > 0.999
    assert trustworthiness(cloud(100, 20), cloud(100, 2, seed=5)) == pytest.approx(0.5, abs=0.1)


def test_trustworthiness_is_sklearns():
    points, placed = cloud(80, 10), cloud(80, 2, seed=5)
    placed[:, 0] = points[:, 0]
    assert trustworthiness(points, placed) == sklearn_trustworthiness(points, placed, n_neighbors=15)


def test_too_few_points_have_no_trustworthiness():
    assert np.isnan(trustworthiness(cloud(31, 4), cloud(31, 2)))
    assert np.isfinite(trustworthiness(cloud(32, 4), cloud(32, 2)))


def test_trustworthiness_of_many_points_is_that_of_a_fixed_sample(monkeypatch):
    monkeypatch.setattr(projections, "TRUST_SAMPLE", 200)
    points = cloud(1500, 6)
    placed = np.float32(points[:, :2])
    first = trustworthiness(points, placed)
    assert trustworthiness(points, placed) == first
    monkeypatch.setattr(projections, "TRUST_SAMPLE", 1500)
    whole = trustworthiness(points, placed)
    assert first != whole
    assert first == pytest.approx(whole, abs=0.05)


# Neighbours


@pytest.mark.parametrize("block_bytes", [1, 3000, 2**26])
@pytest.mark.parametrize("away", [0, 100])
def test_nearest_neighbours_are_those_of_all_distances(monkeypatch, block_bytes, away):
    monkeypatch.setattr(arrays, "BLOCK_BYTES", block_bytes)
    points = cloud(90, 6) + np.float32(away)
    indices, found = nearest_neighbours(points, 8)
    expected = distances(points)
    np.testing.assert_array_equal(indices, np.argsort(expected, axis=1)[:, :8])
    np.testing.assert_allclose(found, np.sort(expected, axis=1)[:, :8], rtol=1e-5)
    assert (indices.dtype, found.dtype) == (np.int32, np.float32)


def test_neighbours_that_single_precision_cannot_tell_apart_by_products_are_told_apart():
    line = np.zeros((12, 3), np.float32)
    line[:, 0] = 1e-5 * np.arange(12) ** 2  # within a cloud that is 10^6 times as wide
    indices, found = nearest_neighbours(np.concatenate([line[:6], line[6:] + np.float32(10)]), 4)
    np.testing.assert_array_equal(indices[0], [0, 1, 2, 3])
    np.testing.assert_allclose(found[0], np.float32([0, 1e-5, 4e-5, 9e-5]), rtol=1e-4)


def test_a_point_is_its_own_first_neighbour_even_among_its_equals():
    indices, found = nearest_neighbours(np.ones((7, 3), np.float32), 7)
    assert indices[:, 0].tolist() == list(range(7))
    assert indices[3].tolist() == [3, 0, 1, 2, 4, 5, 6]
    assert (found == 0).all()


# UMAP: importing it takes seconds, so it is used in two tests


@pytest.mark.parametrize("compared", [10**6, 0])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_umap_places_points_by_neighbours_of_either_search(monkeypatch, metric, compared):
    monkeypatch.setattr(projections, "MOST_COMPARED", compared)
    directions = np.linalg.qr(cloud(9, 9))[0][:3]
    points = np.concatenate([1 + np.arange(25)[:, None] % 3 + 0 * directions[:1] for _ in range(3)]) * np.repeat(
        directions, 25, axis=0
    ) + np.float32(0.1) * cloud(75, 9)
    placed, trust = place(Umap(metric=metric), np.float32(points))
    nearest = distances(placed) + np.diag(np.full(75, np.inf))
    if metric == "cosine":  # the three lengths of a direction are then one place
        assert (nearest.argmin(axis=1) // 25 == np.arange(75) // 25).all()
    assert trust > 0.75


def test_umap_is_repeatable_for_a_seed_and_keeps_clusters_apart():
    centres = cloud(3, 8) * 10
    points = np.concatenate([centre + cloud(25, 8, seed=k) * np.float32(0.3) for k, centre in enumerate(centres)])
    placed, trust = place(Umap(seed=3), points)
    assert placed.shape == (75, 2)
    assert placed.dtype == np.float32
    np.testing.assert_array_equal(place(Umap(seed=3), points)[0], placed)
    assert not np.array_equal(place(Umap(seed=4), points)[0], placed)
    nearest = distances(placed) + np.diag(np.full(75, np.inf))
    assert (nearest.argmin(axis=1) // 25 == np.arange(75) // 25).all()
    assert trust > 0.9


@pytest.mark.parametrize("count", [5, 6, 10, 11])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_umap_places_few_points(count, metric):
    placed, trust = place(Umap(metric=metric), cloud(count, 7))
    assert placed.shape == (count, 2)
    assert np.isfinite(placed).all()
    assert len(np.unique(placed, axis=0)) == count
    assert np.isnan(trust)
