import math
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmon import threads
from cmon.detectors.kernels import rank_weights, sums_of_logs
from cmon.detectors.top_down import image_order


def sums_by_loops(probability, chosen, member, epsilon):
    """The formula in Python's own floats."""
    return [
        [
            math.fsum(
                math.log(1 + p * (float(probability[i, c]) - 1) + epsilon) for i, p in zip(rows, member, strict=True)
            )
            for c in range(probability.shape[1])
        ]
        for rows in chosen.tolist()
    ]


def case(images=40, units=5, concepts=7, count=11, seed=0, peak=8.0):
    random = np.random.default_rng(seed)
    logits = peak * random.normal(size=(images, concepts))
    probability = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability = np.float32(probability / probability.sum(axis=1, keepdims=True))
    chosen = random.integers(0, images, (units, count)).astype(np.int32)
    return probability, chosen, random.uniform(0.5, 0.999, count)


# Sums of logarithms


@settings(max_examples=40)
@given(
    images=st.integers(1, 30),
    units=st.integers(1, 40),
    concepts=st.integers(1, 70),
    count=st.integers(1, 30),
    seed=st.integers(0, 10**6),
    peak=st.sampled_from([0.0, 1.0, 30.0, 300.0]),
)
def test_sums_of_logs_are_those_of_plain_loops(images, units, concepts, count, seed, peak):
    given = case(images, units, concepts, count, seed, peak)
    found = sums_of_logs(*given, 1e-7)
    assert found.shape == (units, concepts)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, sums_by_loops(*given, 1e-7), rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, 1e-7, 1.0])
@pytest.mark.parametrize("member", [1.0, 0.9999999, 0.998, 1e-30])
def test_the_farthest_probabilities_stay_finite_and_exact_over_a_thousand_images(value, member):
    """A product of so many would leave float32, and float64 too."""
    probability = np.full((3, 2), value, np.float32)
    found = sums_of_logs(probability, np.zeros((1, 1000), np.int32), np.full(1000, member), 1e-7)
    one = math.log(1 + member * (float(np.float32(value)) - 1) + 1e-7)
    np.testing.assert_allclose(found, 1000 * one, rtol=2e-6, atol=1e-3)


def test_arrays_need_not_lie_in_order():
    probability, chosen, member = case()
    expected = sums_of_logs(probability, chosen, member, 1e-7)
    mixed = sums_of_logs(np.asfortranarray(probability), np.asfortranarray(chosen), member[::-1].copy()[::-1], 1e-7)
    np.testing.assert_array_equal(mixed, expected)
    twice = np.repeat(probability, 2, axis=1)[:, ::2]
    np.testing.assert_array_equal(sums_of_logs(twice, chosen, member, 1e-7), expected)


def test_no_units_have_no_sums():
    probability, _, member = case()
    assert sums_of_logs(probability, np.zeros((0, 11), np.int32), member, 1e-7).shape == (0, 7)


# Weights by rank


@settings(max_examples=40)
@given(images=st.integers(1, 25), levels=st.sampled_from([1, 2, 5, 10**6]), seed=st.integers(0, 10**6))
def test_weights_are_those_of_images_that_are_written_out(images, levels, seed):
    """Each copy of an image has a rank of its own; equal ones share the mean of theirs."""
    random = np.random.default_rng(seed)
    activations = np.float32(random.integers(0, levels, (images, 3)))
    counts = np.bincount(random.integers(0, images, images), minlength=images).astype(np.int32)
    weight = random.uniform(0, 1, images)
    found, squares = rank_weights(image_order(activations), counts, weight)
    rows = np.repeat(np.arange(images), counts)
    for u, column in enumerate(activations.T.tolist()):
        copies = [column[row] for row in rows]
        ranked = sorted(copies, reverse=True)
        shares = {
            v: math.fsum(w for w, x in zip(weight, ranked, strict=True) if x == v) / ranked.count(v) for v in ranked
        }
        expected = [shares[column[i]] * counts[i] for i in range(images) if counts[i]]
        np.testing.assert_allclose(found[u], expected, rtol=1e-6)
        assert squares[u] == pytest.approx(math.fsum(shares[v] ** 2 for v in copies))


def test_the_order_of_images_by_hand():
    assert image_order(np.float32([[2, 0], [5, 0], [3, 0]])).tolist()[0] == [1, 2, 0]
    tied = image_order(np.float32([[4], [7], [4], [9]]))[0].tolist()
    assert tied[:2] == [3, 1]
    assert tied[2] >= 0 > tied[3]
    assert {tied[2], -1 - tied[3]} == {0, 2}
    assert image_order(np.zeros((4, 0), np.float32)).shape == (0, 4)


# Threads


@pytest.mark.parametrize("at_a_time", [1, 16, 1000])
@pytest.mark.parametrize("number", ["1", "2", "5"])
def test_neither_threads_nor_blocks_change_a_byte(number, at_a_time, monkeypatch):
    given = case(images=300, units=70, concepts=131, count=23)
    counts = np.random.default_rng(0).integers(0, 3, 300).astype(np.int32)
    order = image_order(np.random.default_rng(1).normal(size=(300, 70)).round(1).astype(np.float32))
    weight = np.log(np.arange(1, counts.sum() + 1.0))
    expected = sums_of_logs(*given, 1e-7), *rank_weights(order, counts, weight)
    monkeypatch.setenv("OMP_NUM_THREADS", number)
    monkeypatch.setattr(threads, "UNITS_AT_A_TIME", at_a_time)
    found = sums_of_logs(*given, 1e-7), *rank_weights(order, counts, weight)
    assert [part.tobytes() for part in found] == [part.tobytes() for part in expected]
    alone = [sums_of_logs(given[0], given[1][u : u + 1], given[2], 1e-7) for u in range(70)]
    assert np.concatenate(alone).tobytes() == expected[0].tobytes()


def test_several_threads_may_score_at_once():
    given, found = case(images=300, units=70, concepts=131, count=23), []
    callers = [threading.Thread(target=lambda: found.append(sums_of_logs(*given, 1e-7))) for _ in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len({made.tobytes() for made in found}) == 1
    assert len(found) == 6


def test_numba_is_not_imported_before_something_is_scored():
    code = "import sys, cmon.dissect, cmon.detectors.kernels; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
