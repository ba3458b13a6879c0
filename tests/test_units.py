import numpy as np
import oracles
import pytest
from cases import rounded_case, sizes
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cmon.records import ALIVE, CONSTANT, DEAD, SATURATED, STATES
from cmon.statistics import best_concepts, is_low_prior, prior_perplexity, top_images, unit_states


def states(*units):
    return unit_states(np.float32(units).T).tolist()


# What a unit is


def test_a_unit_is_alive_dead_constant_or_saturated():
    assert states([0, 0, 0, 0], [7, 7, 7, 7], [5, 5, 5, 1], [5, 5, 1, 2]) == [DEAD, CONSTANT, SATURATED, ALIVE]
    assert STATES == ("alive", "dead", "constant", "saturated")
    assert [int(state) for state in (ALIVE, DEAD, CONSTANT, SATURATED)] == [0, 1, 2, 3]


def test_a_units_zeros_do_not_make_it_dead_where_one_image_activates_it():
    assert states([0, 0, 0, 1e-30], [-1, -1, -1, 0]) == [ALIVE, ALIVE]


def test_a_negative_unit_that_mostly_rests_at_zero_is_saturated():
    assert states([0, 0, 0, -3, -2], [0, 0, -1, -3, -2]) == [SATURATED, ALIVE]


def test_half_of_the_images_at_the_top_are_not_too_many_and_one_more_is():
    assert states([2, 2, 1, 0], [2, 2, 2, 0]) == [ALIVE, SATURATED]
    assert states([2, 2, 1, 0, 1], [2, 2, 2, 0, 1]) == [ALIVE, SATURATED]


def test_one_image_makes_every_unit_constant_or_dead():
    assert states([0], [3], [-1e-30]) == [DEAD, CONSTANT, CONSTANT]


def test_no_units_have_no_states():
    found = unit_states(np.zeros((5, 0), np.float32))
    assert found.shape == (0,)
    assert found.dtype == np.int8


def test_float_noise_on_a_constant_is_constant_but_a_small_signal_is_alive():
    random = np.random.default_rng(0)
    noise = random.integers(-3, 4, size=50) * np.spacing(np.float32(1))
    units = [1 + noise, -1e6 * (1 + noise), 1 + 1e-4 * noise / noise.max(), 1e-20 * noise, 0 * noise]
    assert states(*units) == [CONSTANT, CONSTANT, ALIVE, ALIVE, DEAD]


def test_a_range_of_a_millionth_is_where_a_constant_ends():
    below, above = 1 + 2**-20 - 2**-23, 1 + 2**-20 + 2**-22
    assert states([1, below], [1, above], [-1, -below], [-1, -above]) == [CONSTANT, ALIVE, CONSTANT, ALIVE]


def test_a_unit_over_the_whole_range_of_float32_is_alive():
    assert states([3e38, -3e38], [-3e38, -3e38], [3e38, 3e38]) == [ALIVE, CONSTANT, CONSTANT]


# Its top images


@settings(max_examples=60)
@given(case=sizes, digits=st.integers(0, 2), share=st.floats(0, 1))
def test_top_images_are_their_oracle(case, digits, share):
    activations, _ = rounded_case(*case, digits)
    count = max(1, round(share * case[0]))
    found = top_images(activations, count)
    assert found.tolist() == oracles.top_images(activations.tolist(), count)
    assert found.dtype == np.int32


def test_the_zeros_that_fill_a_sparse_units_top_are_not_the_first_images_by_name():
    """Names go by class in most probes, so that such a unit would be given the first class."""
    activations = np.zeros((1000, 3), np.float32)
    activations[[900, 17, 500], :2] = np.float32([[3, 1], [2, 2], [1, 3]])
    activations[100:900, 2] = -1
    found = top_images(activations, 100)
    assert found[0, :3].tolist() == [900, 17, 500]
    assert found[1, :3].tolist() == [500, 17, 900]
    filled = found[:2, 3:]
    assert abs(filled[0].mean() - 500) < 3 * 1000 / np.sqrt(12 * 97)
    assert np.bincount(filled[0] // 100, minlength=10).min() >= 3  # from every tenth of the names
    assert filled[0].tolist() == filled[1].tolist()  # one order for all units
    assert set(found[2].tolist()) <= {*range(100), *range(900, 1000)}
    assert np.bincount(found[2] // 100, minlength=10)[[0, 9]].min() > 25


def test_ties_are_in_one_order_however_many_images_are_asked_for():
    activations = np.float32(np.random.default_rng(0).integers(0, 3, size=(60, 4)))
    most = top_images(activations, 60)
    for count in (1, 7, 59):
        assert top_images(activations, count).tolist() == most[:, :count].tolist()


def test_of_no_units_there_are_no_top_images():
    assert top_images(np.zeros((5, 0), np.float32), 3).shape == (0, 3)


# Its best concepts


def test_best_concepts_are_in_order_and_equals_stay_in_the_concepts_order():
    scores = np.float32([[1, 3, 3, 2], [0, 0, 0, 0]])
    assert best_concepts(scores, 3).tolist() == [[1, 2, 3], [0, 1, 2]]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    concepts=st.integers(1, 60),
    count=st.integers(1, 10),
    levels=st.sampled_from([1, 3, 10**6]),
)
@example(seed=0, concepts=40, count=10, levels=3)  # at and beyond four times as many concepts: another way to sort
@example(seed=0, concepts=41, count=10, levels=3)
def test_best_concepts_are_those_of_a_whole_sort(seed, concepts, count, levels):
    scores = np.float32(np.random.default_rng(seed).integers(0, levels, size=(5, concepts)))
    count = min(count, concepts)
    expected = [sorted(range(concepts), key=lambda c: (-row[c], c))[:count] for row in scores.tolist()]
    found = best_concepts(scores, count)
    assert found.tolist() == expected
    assert found.dtype == np.int32


@pytest.mark.parametrize("concepts", [8, 100])
def test_of_no_units_there_are_no_best_concepts(concepts):
    assert best_concepts(np.zeros((0, concepts), np.float32), 5).shape == (0, 5)


# Its layer's prior


@settings(max_examples=40)
@given(case=sizes, scale=st.floats(0.01, 1000))
def test_prior_perplexity_is_its_oracle(case, scale):
    likelihood = scale * np.random.default_rng(case[3]).normal(size=case[1:3])
    concepts = likelihood.argmax(axis=1)
    expected = oracles.prior_perplexity(likelihood.tolist(), concepts.tolist())
    assert prior_perplexity(likelihood, concepts.astype(np.int32)) == pytest.approx(expected, rel=1e-9)


def test_perplexity_is_one_where_a_unit_dominates_each_word():
    likelihood = np.array([[0.0, -500, -500], [-500, 0, -500], [-500, -500, 0]])
    assert prior_perplexity(likelihood, np.int32([0, 1, 2])) == pytest.approx(1)


@pytest.mark.parametrize("units", [1, 4, 30])
def test_perplexity_is_the_number_of_units_where_all_are_equal(units):
    likelihood = np.tile([-3.0, -900, 0], (units, 1))
    assert prior_perplexity(likelihood, np.zeros(units, dtype=np.int32)) == pytest.approx(units)


def test_perplexity_is_the_median_over_the_chosen_words_only():
    # Word 0: two of three units share it. Word 1: one unit holds it. Word 2, which nobody chose: all three.
    likelihood = np.array([[0.0, -900, 0], [0, 0, 0], [-900, -900, 0]])
    assert prior_perplexity(likelihood, np.int32([0, 0, 1])) == pytest.approx(2)
    assert prior_perplexity(likelihood, np.int32([0, 1, 1])) == pytest.approx(1)


def test_a_prior_is_low_below_a_quarter_of_the_units_and_of_a_single_one():
    assert is_low_prior(15.9, 64)
    assert not is_low_prior(16, 64)
    assert is_low_prior(1.0, 1)
    assert not is_low_prior(float("nan"), 1)
    assert not is_low_prior(float("nan"), 64)
