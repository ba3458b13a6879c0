"""Work in threads: in order, a few items ahead, in as many threads as asked, with errors where they belong."""

import threading

import pytest

from cmon import threads as module
from cmon.threads import in_threads, map_ahead, threads


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
