import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from cmon.detectors.base import judge
from cmon.statistics import benjamini_hochberg, p_values, significance

NAN = float("nan")


def when(tau=None, rate=None):
    """Return a test; under its own name pytest would take it for one of its own."""
    return significance.Test(tau, rate)


# p-values


def test_a_p_value_by_hand():
    null = np.float32([[1, 2, 3], [4, 5, 5]])  # six scores, of all units together
    best = np.float32([0, 1, 3.5, 5, 5.1])
    assert p_values(best, null).tolist() == np.float32([7 / 7, 7 / 7, 4 / 7, 3 / 7, 1 / 7]).tolist()
    assert p_values(best, null).dtype == np.float32


def test_a_null_score_that_is_equal_is_as_good():
    assert p_values(np.float32([2]), np.float32([2, 2, 2])) == 1
    assert p_values(np.float32([np.nextafter(np.float32(2), np.float32(3))]), np.float32([2, 2, 2])) == 0.25


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6), units=st.integers(0, 6), size=st.integers(1, 40), levels=st.sampled_from([3, 10**6]))
def test_p_values_are_counts(seed, units, size, levels):
    random = np.random.default_rng(seed)
    best, null = (np.float32(random.integers(0, levels, n)) for n in ((units, 2), (size, 3)))
    scores = null.ravel().tolist()
    expected = [[(1 + sum(x >= s for x in scores)) / (1 + len(scores)) for s in row] for row in best.tolist()]
    found = p_values(best, null)
    np.testing.assert_allclose(found, np.reshape(expected, (units, 2)), rtol=1e-6)
    assert ((found > 0) & (found <= 1)).all()


def test_p_is_never_0_however_many_null_scores_and_however_good_the_score():
    found = p_values(np.float32([3e38, 1]), np.zeros(2_000_000, np.float32))
    assert found.tolist() == np.float32([1 / 2_000_001] * 2).tolist()
    assert (found > 0).all()


def test_p_values_of_chance_are_uniform():
    random = np.random.default_rng(0)
    found = np.concatenate([p_values(*np.split(random.normal(size=1000), [200])) for _ in range(50)])
    for level in (0.01, 0.05, 0.5):
        assert (found <= level).mean() == pytest.approx(level, abs=3 * (level / 10_000) ** 0.5 * 2)


# Benjamini and Hochberg


def test_benjamini_and_hochberg_by_hand():
    # Bounds at q = 0.05 of five: 0.01, 0.02, 0.03, 0.04, 0.05. The fourth smallest is the last one below its bound.
    p_value = np.float32([0.039, 0.005, 0.9, 0.031, 0.021])
    assert benjamini_hochberg(p_value, 0.05).tolist() == [True, True, False, True, True]
    assert benjamini_hochberg(p_value, 0.04).tolist() == [False, True, False, False, False]
    assert benjamini_hochberg(np.float32([0.02, 0.021]), 0.05).tolist() == [True, True]
    assert benjamini_hochberg(np.float32([0.026, 0.9]), 0.05).tolist() == [False, False]


def test_equal_p_values_pass_together():
    assert benjamini_hochberg(np.float32([0.05, 0.05, 0.05, 0.9]), 0.05).tolist() == [False] * 4
    assert benjamini_hochberg(np.float32([0.03, 0.03, 0.03, 0.9]), 0.05).tolist() == [True, True, True, False]


@pytest.mark.parametrize("rate", [0.05, 0.01, 0.1, 0.2, 0.3])
def test_a_p_value_that_is_its_bound_passes(rate):
    """Such as 5 of 100: in float32 it is a little more than the 0.05 of the config."""
    assert benjamini_hochberg(np.float32([rate]), rate).tolist() == [True]
    assert benjamini_hochberg(np.float32([1, rate / 2]), rate).tolist() == [False, True]
    above = np.nextafter(np.float32(rate), np.float32(1))
    assert benjamini_hochberg(np.float32([above]), rate).tolist() == [False]


def test_of_no_units_none_pass():
    assert benjamini_hochberg(np.float32([]), 0.05).tolist() == []


@settings(max_examples=80)
@given(seed=st.integers(0, 10**6), units=st.integers(1, 40), rate=st.floats(0.001, 0.9), null=st.integers(5, 200))
def test_benjamini_and_hochberg_are_scipys(seed, units, rate, null):
    random = np.random.default_rng(seed)
    p_value = (1 + random.integers(0, null, units) * random.integers(0, 2, units)) / (1 + null)
    adjusted = false_discovery_control(p_value, method="bh")
    clear = np.abs(adjusted - rate) > 1e-9  # rounding decides what is equal to its bound
    assert benjamini_hochberg(p_value, rate)[clear].tolist() == (adjusted <= rate)[clear].tolist()
    single = false_discovery_control(np.float32(p_value).astype(float), method="bh")
    clear = np.abs(single - rate) > 1e-6
    assert benjamini_hochberg(np.float32(p_value), rate)[clear].tolist() == (single <= rate)[clear].tolist()


def layers(count, planted, permutations=20, seed=0):
    """Labels of `count` layers of 25 units: the best of 30 words' scores, and the same of permuted images."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        null = random.normal(size=(25, permutations, 30)).max(axis=2)
        best = random.normal(size=(25, 30)).max(axis=1)
        best[:planted] += 5
        yield benjamini_hochberg(p_values(np.float32(best), np.float32(null)), 0.05)


def test_a_layer_of_chance_rarely_has_an_interpretable_unit():
    """Where all is chance every discovery is a false one, so that the share of layers with any is at most q."""
    share = np.mean([passed.any() for passed in layers(1500, planted=0)])
    assert 0.02 < share < 0.05 + 3 * (0.05 / 1500) ** 0.5


def test_planted_units_pass_and_a_share_of_at_most_q_of_those_that_pass_are_chance():
    passed = np.stack(list(layers(400, planted=10)))
    assert passed[:, :10].mean() > 0.99
    false = passed[:, 10:].sum(axis=1) / np.maximum(passed.sum(axis=1), 1)
    assert 0.02 < false.mean() < 0.05 * 15 / 25 + 3 * false.std() / 400**0.5


# The test, of a layer and of every resample


def test_a_fixed_tau_is_a_score_that_just_suffices_whatever_its_p_value():
    assert when(tau=2.0).passed(np.float32([1.9, 2, 2.1]), np.float32([0, NAN, 1])).tolist() == [False, True, True]
    assert when(tau=0.0).passed(np.float32([-1, 0]), np.float32([0, 0])).tolist() == [False, True]


def test_without_a_tau_every_unit_passes():
    assert when().passed(np.float32([-3e38, 0]), np.float32([1, NAN])).tolist() == [True, True]


def test_a_rate_goes_by_p_values_and_not_by_scores():
    assert when(rate=0.5).passed(np.float32([9, 1]), np.float32([0.6, 0.1])).tolist() == [False, True]


@pytest.mark.parametrize("asked", [when(), when(tau=1.0), when(rate=0.05)])
def test_of_no_units_none_are_judged(asked):
    p_value, passed, again = judge(asked, np.zeros(0, np.float32), np.zeros((0, 4, 3), np.float32), np.zeros((0, 5)))
    assert (p_value.shape, passed.shape, again.shape) == ((0,), (0,), (0, 4))
    assert (passed.dtype, again.dtype) == (np.bool_, np.bool_)


RESAMPLED = np.float32([[[3, 0], [1, 0]], [[1, 1], [5, 0]], [[2, 2], [2, 1]]])  # three units, two resamples, two words
BEST = np.float32([2, 0, 3])


def test_a_resample_is_judged_by_its_own_best_scores():
    p_value, passed, again = judge(when(tau=2.0), BEST, RESAMPLED, np.zeros((3, 0), np.float32))
    assert np.isnan(p_value).all()
    assert passed.tolist() == [True, False, True]
    assert again.tolist() == [[True, False], [False, True], [True, True]]
    assert judge(when(), BEST, RESAMPLED, np.zeros((3, 0)))[2].tolist() == [[True] * 2] * 3


def test_a_resample_is_judged_by_the_same_null_scores_and_all_its_units():
    null = np.float32([[0.5] * 9, [1.5] * 9, [2.5] * 2 + [0] * 7])  # 27 of them
    p_value, passed, again = judge(when(rate=0.25), BEST, RESAMPLED, null)
    assert p_value.tolist() == np.float32([3 / 28, 28 / 28, 1 / 28]).tolist()
    assert passed.tolist() == [True, False, True]
    # Resample 0: 3, 1, 2 have p = 1/28, 12/28, 3/28; resample 1: 1, 5, 2 the same for units 0, 1 and 2.
    assert again.tolist() == [[True, False], [False, True], [True, True]]
    _, passed, again = judge(when(rate=0.1), BEST, RESAMPLED, null)
    assert passed.tolist() == [False] * 3
    assert again.tolist() == [[False] * 2] * 3


def test_without_null_scores_no_unit_passes_a_rate():
    p_value, passed, again = judge(when(rate=0.5), BEST, RESAMPLED, np.zeros((3, 0), np.float32))
    assert np.isnan(p_value).all()
    assert not passed.any()
    assert not again.any()


def test_without_resamples_there_is_nothing_to_judge_again():
    for shape in ((3, 0, 2), (3, 0, 1)):
        _, passed, again = judge(when(tau=2.0), BEST, np.zeros(shape, np.float32), np.zeros((3, 4)))
        assert passed.tolist() == [True, False, True]
        assert again.shape == (3, 0)
