import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmon.statistics import draw, half_width

NAN = float("nan")


def test_half_a_width_is_two_standard_deviations_by_hand():
    assert half_width([1, 2, 3, 6]) == pytest.approx(1.959964 * (14 / 3) ** 0.5)
    assert half_width([[5, 5, 5], [0, 1, 0]]) == pytest.approx([0, 1.959964 * (1 / 3) ** 0.5])


def test_what_is_not_defined_in_a_resample_is_left_out():
    assert half_width([1, NAN, 2, 3, NAN, 6]) == pytest.approx(half_width([1, 2, 3, 6]))
    assert half_width([1, np.inf, -np.inf, 2]) == pytest.approx(half_width([1, 2]))
    assert half_width([[1, NAN, 3], [4, 6, NAN]]) == pytest.approx([1.959964 * 2**0.5] * 2)


@pytest.mark.parametrize("resampled", [[], [3.0], [NAN, NAN], [NAN, 4.0, NAN]])
def test_fewer_than_two_resamples_have_no_width_and_no_warning(resampled):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(half_width(resampled))
        assert np.isnan(half_width(np.array([resampled] * 3))).tolist() == [True] * 3


def test_of_no_numbers_there_are_no_widths():
    assert half_width(np.zeros((0, 5))).shape == (0,)
    assert half_width(np.zeros((2, 3, 0))).shape == (2, 3)


def test_counts_and_truths_have_widths_too():
    assert half_width(np.int32([1, 2, 3, 6])) == pytest.approx(half_width([1.0, 2, 3, 6]))
    assert half_width(np.array([True, False])) == pytest.approx(1.959964 * 0.5**0.5)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    resamples=st.integers(2, 12),
    shift=st.floats(-1e6, 1e6),
    scale=st.floats(-100, 100),
)
def test_half_a_width_is_numpys_and_goes_with_the_scale_and_not_with_the_place(seed, resamples, shift, scale):
    values = np.random.default_rng(seed).normal(size=(3, 4, resamples))
    expected = 1.959964 * values.std(axis=-1, ddof=1)
    found = half_width(values)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(half_width(shift + scale * values), abs(scale) * expected, rtol=1e-6, atol=1e-8)


def test_float32_is_not_summed_as_such():
    values = np.float32(1e4) + np.float32([0, 1, 0, 1])
    assert half_width(values) == pytest.approx(1.959964 * (1 / 3) ** 0.5, rel=1e-9)


@pytest.mark.parametrize("skewed", [False, True])
def test_the_interval_of_a_mean_covers_it_about_as_often_as_it_says(skewed):
    random = np.random.default_rng(0)
    resamples = draw(200, 0, 100, 0).resamples
    covered = []
    for _ in range(600):
        values = random.exponential(size=200) if skewed else random.normal(size=200)
        covered.append(abs(values.mean() - skewed) <= half_width(resamples @ values / 200))
    assert 0.92 <= np.mean(covered) <= 0.975
