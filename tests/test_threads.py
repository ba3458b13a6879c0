"""Work in threads: in order, a few items ahead, in as many threads as asked, with errors where they belong."""

import threading

import numpy as np
import pytest

from cmon import threads as module
from cmon.threads import blas_in_one_thread, in_threads, map_ahead, product, threads


@pytest.mark.parametrize("count", [0, 1, 2, 3, 20])
def test_results_come_in_the_items_order(count):
    assert list(map_ahead(lambda n: n * n, range(count), 2)) == [n * n for n in range(count)]


def test_no_more_is_taken_than_the_threads_that_wait():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = map_ahead(str, items(), 3)
    for number in range(10):
        assert next(results) == str(number)
        assert len(taken) == number + 4


def test_the_next_ones_are_made_while_one_is_used():
    made = threading.Event()

    def work(number):
        if number:
            made.set()
        return number

    results = map_ahead(work, range(3), 1)
    assert next(results) == 0
    assert made.wait(5)
    results.close()


def test_an_error_comes_where_its_result_would_have():
    results = map_ahead(lambda n: 1 // (n - 3), range(9), 4)
    assert [next(results) for _ in range(3)] == [-1, -1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize(("told", "expected"), [("3", 3), ("2,1", 2), (" 4 ", 4)])
def test_as_many_threads_are_taken_as_the_user_says(told, expected, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert threads() == expected


@pytest.mark.parametrize("told", ["", "0", "many"])
def test_otherwise_as_many_as_there_are_processors(told, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0, 2, 5}, raising=False)
    assert threads() == 3


def test_what_fails_in_a_thread_fails():
    def fail(units):
        raise ValueError(units.start)

    with pytest.raises(ValueError, match="0"):
        in_threads(fail, 40)


# Numbers and threads


def test_a_product_is_the_same_bytes_for_any_number_of_threads(monkeypatch):
    random = np.random.default_rng(0)
    left = random.normal(size=(100, 5000)).astype(np.float32)
    right = random.normal(size=(5000, 30)).astype(np.float32)
    found = []
    with blas_in_one_thread():
        for count in (1, 2, 5):
            monkeypatch.setenv("OMP_NUM_THREADS", str(count))
            found.append(product(left, right))
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()
    np.testing.assert_allclose(found[0], left.astype(float) @ right.astype(float), rtol=0, atol=1e-3)


def test_a_product_fills_what_it_is_given(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    room = np.full((5, 2), np.nan)
    left, right = np.arange(15.0).reshape(5, 3), np.ones((3, 2))
    assert product(left, right, room) is room
    assert room[:, 1].tolist() == [3, 12, 21, 30, 39]
    assert product(left[:0], right).shape == (0, 2)


def test_numpys_own_products_keep_to_one_thread_within_a_stage():
    from threadpoolctl import threadpool_info, threadpool_limits

    def counts():
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    with threadpool_limits(2, user_api="blas"):
        with blas_in_one_thread():
            assert counts() == {1}
        assert counts() == {2}


def test_what_is_left_in_the_middle_waits_for_no_thread():
    """The garbage collector ends it, and may do so while a thread starts: to wait then would be to wait for ever."""
    end = threading.Event()
    late = threading.Timer(30, end.set)
    late.start()
    results = map_ahead(lambda number: number and end.wait(60), range(3), 2)
    assert next(results) == 0
    results.close()
    assert not end.is_set()
    end.set()
    late.cancel()
