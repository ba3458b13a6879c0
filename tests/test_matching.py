"""Units of two runs are matched by what they are active on; the oracle tries every assignment."""

from itertools import permutations

import numpy as np
import pytest

from cmon.matching import matched, paired


def correlation_of(one, other):
    """Pearson's correlation from its definition."""
    a, b = one - np.mean(one), other - np.mean(other)
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


def best_by_trial(first, other):
    """The assignment with the highest sum of correlations, by trying all of them; `first` has no more units."""
    units, others = first.shape[1], other.shape[1]
    table = [[correlation_of(first[:, u], other[:, v]) for v in range(others)] for u in range(units)]
    return max(permutations(range(others), units), key=lambda way: sum(table[u][v] for u, v in enumerate(way)))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("units", "others"), [(5, 5), (4, 6)])
def test_the_assignment_is_the_best_of_all(seed, units, others):
    random = np.random.default_rng(seed)
    first, other = (random.normal(size=(30, n)).astype(np.float32) for n in (units, others))
    found = matched(first, other, 0)
    assert found.unit.tolist() == list(range(units))
    assert tuple(found.partner.tolist()) == best_by_trial(first, other)
    expected = [correlation_of(first[:, u], other[:, v]) for u, v in zip(found.unit, found.partner, strict=True)]
    np.testing.assert_allclose(found.correlation, expected, atol=1e-6)


def test_a_shuffled_copy_is_found_whatever_its_scale():
    random = np.random.default_rng(1)
    first = random.normal(size=(200, 12)).astype(np.float32)
    order = random.permutation(12)
    found = matched(first, 100 + 7 * first[:, order], 0)
    assert order[found.partner].tolist() == list(range(12))
    np.testing.assert_allclose(found.correlation, 1, atol=1e-5)
    assert found.chance.max() < 0.5
    assert (np.diff(found.chance) <= 0).all()


def test_unrelated_units_correlate_as_chance_says():
    random = np.random.default_rng(2)
    first, other = (random.normal(size=(400, 40)).astype(np.float32) for _ in range(2))
    found = matched(first, other, 0)
    assert found.correlation.mean() > 0.05  # the best of many is high by chance
    assert abs(found.correlation.mean() - found.chance.mean()) < 0.02


def test_constant_units_have_no_partner():
    random = np.random.default_rng(3)
    first, other = (random.normal(size=(50, 4)).astype(np.float32) for _ in range(2))
    first[:, 1], other[:, [0, 2]] = 0.7, 0
    found = matched(first, other, 0)
    assert len(found.unit) == len(found.chance) == 2
    assert 1 not in found.unit
    assert set(found.partner.tolist()) == {1, 3}


def test_no_unit_varies():
    found = matched(np.ones((10, 3), np.float32), np.ones((10, 2), np.float32), 0)
    assert len(found.unit) == len(found.chance) == 0


def test_units_of_one_start_are_paired_by_number():
    random = np.random.default_rng(4)
    first, other = (random.normal(size=(50, 3)).astype(np.float32) for _ in range(2))
    other[:, 2] = 5
    found = paired(first, other)
    assert found.unit.tolist() == found.partner.tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.correlation[:2], [correlation_of(first[:, u], other[:, u]) for u in (0, 1)], 1e-5)
    assert np.isnan(found.correlation[2])
    assert np.isnan(found.chance).all()
