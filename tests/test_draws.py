import numpy as np
import pytest

from cmon.statistics import draw


def same(one, other):
    return all(np.array_equal(values, getattr(other, name)) for name, values in vars(one).items())


def test_equal_arguments_draw_equally_and_another_seed_draws_anew():
    assert same(draw(50, 3, 4, 7), draw(50, 3, 4, 7))
    one, other = draw(50, 3, 4, 7), draw(50, 3, 4, 8)
    assert (one.orders != other.orders).any(axis=1).all()
    assert (one.resamples != other.resamples).any(axis=1).all()
    assert (one.half != other.half).any()


@pytest.mark.parametrize(("permutations", "resamples"), [(9, 4), (3, 9), (9, 9), (0, 4), (3, 0), (1, 1)])
def test_another_number_of_one_kind_keeps_the_first_ones_and_the_other_kind(permutations, resamples):
    plain, other = draw(50, 3, 4, 7), draw(50, permutations, resamples, 7)
    kept = min(3, permutations)
    assert np.array_equal(plain.orders[:kept], other.orders[:kept])
    kept = min(4, resamples)
    assert np.array_equal(plain.resamples[:kept], other.resamples[:kept])
    assert np.array_equal(plain.half, other.half)
    assert (len(other.orders), len(other.resamples)) == (permutations, resamples)


@pytest.mark.parametrize("images", [1, 2, 7, 50])
def test_orders_are_permutations_resamples_sum_to_the_images_and_half_is_a_half(images):
    draws = draw(images, 6, 5, 0)
    assert np.sort(draws.orders, axis=1).tolist() == [list(range(images))] * 6
    assert draws.resamples.sum(axis=1).tolist() == [images] * 5
    assert draws.resamples.min() >= 0
    assert draws.half.sum() == images // 2
    assert draws.half.shape == (images,)
    assert [array.dtype for array in vars(draws).values()] == [np.int32, np.int32, np.bool_]


def test_no_permutations_and_no_resamples_are_empty_tables():
    draws = draw(50, 0, 0, 0)
    assert draws.orders.shape == draws.resamples.shape == (0, 50)
    assert draws.half.sum() == 25


def test_what_is_drawn_is_uniform():
    draws = draw(40, 3000, 3000, 1)
    places = np.bincount(draws.orders[:, 0], minlength=40)  # which image comes first
    assert abs(places - 75).max() < 5 * 75**0.5
    assert draws.resamples.mean() == 1
    assert draws.resamples.var() == pytest.approx(1 - 1 / 40, abs=0.03)  # binomial
    assert (draws.resamples == 0).mean() == pytest.approx((1 - 1 / 40) ** 40, abs=0.01)
    np.testing.assert_allclose(draws.resamples.mean(axis=0), 1, atol=5 / 3000**0.5)
    halves = np.mean([draw(40, 0, 0, seed).half for seed in range(400)], axis=0)
    np.testing.assert_allclose(halves, 0.5, atol=5 * 0.5 / 400**0.5)


def test_the_kinds_do_not_follow_each_other():
    draws = draw(2000, 1, 1, 0)
    first = np.zeros(2000)
    first[draws.orders[0, :1000]] = 1
    for one, other in ((first, draws.half), (first, draws.resamples[0]), (draws.half, draws.resamples[0])):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.09  # four standard errors
