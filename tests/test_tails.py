import numpy as np
import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cmon.recording import Thresholds
from cmon.recording.tails import LEAST, Tail


def streamed(values, share, batch=7, capacity=LEAST, device="cpu"):
    tail = Tail(values.shape[1], len(values), share, device, capacity)
    for part in torch.from_numpy(values).split(batch):
        tail.add(part)
    return tail.thresholds().numpy(), tail


def shares_around(values, thresholds):
    """The shares of positions above each threshold, and at it or above."""
    return (values > thresholds).mean(axis=0), (values >= thresholds).mean(axis=0)


drawn = st.tuples(st.integers(1, 60), st.integers(1, 4), st.integers(0, 10**6), st.integers(0, 3), st.integers(1, 70))


@given(case=drawn, share=st.floats(0.001, 0.999))
def test_what_fits_into_memory_gives_the_exact_quantile(case, share):
    positions, units, seed, digits, batch = case
    values = np.float32(np.round(np.random.default_rng(seed).normal(size=(positions, units)), digits))
    found, tail = streamed(values, share, batch)
    expected = [oracles.quantile(column, share) for column in values.astype(float).T.tolist()]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found, np.quantile(values.astype(float), 1 - share, axis=0), rtol=1e-6, atol=1e-6)
    assert tail.rank_error == 0


def test_a_quantile_that_is_asked_of_one_position_is_that_position():
    assert streamed(np.float32([[3.0, -2.0]]), 0.005)[0].tolist() == [3.0, -2.0]


def test_values_that_are_all_the_same_are_their_own_quantile():
    assert streamed(np.full((1000, 2), -4.5, np.float32), 0.005)[0].tolist() == [-4.5, -4.5]


ORDERS = {
    "random": lambda x, random: random.permutation(x),
    "rising": lambda x, random: np.sort(x),
    "falling": lambda x, random: np.sort(x)[::-1],
    "in waves": lambda x, random: np.sort(x).reshape(-1, 100).T.ravel(),
    "mostly zero": lambda x, random: np.maximum(random.permutation(x) - 2.5, 0),
    "few values": lambda x, random: np.round(random.permutation(x), 1),
}


@pytest.mark.parametrize("share", [0.005, 0.1, 0.5])
@pytest.mark.parametrize("order", ORDERS)
def test_what_does_not_fit_is_within_the_stated_error_of_rank(order, share):
    random = np.random.default_rng(0)
    column = np.float32(random.normal(size=200_000))
    values = np.float32(np.stack([ORDERS[order](column, random), random.permutation(column)], axis=1))
    found, tail = streamed(values, share, batch=3000)
    above, at_or_above = shares_around(values, found)
    slack = 1 / len(values)  # between two values
    assert (above <= share + tail.rank_error + slack).all()
    assert (at_or_above >= share - tail.rank_error - slack).all()
    assert tail.rank_error > 0
    if order != "rising":
        assert tail.rank_error < 0.02 * share + 0.01 * (share > 0.05)


def test_over_broden_the_error_is_less_than_a_hundredth_of_the_share():
    # A unit of a ResNet-18's layer2: 63,305 images of 28 x 28 positions, of which 248,155 lie above its threshold.
    positions, block, share = 63_305 * 784, 28 * 28 * 615, 0.005
    random = np.random.default_rng(1)
    tail = Tail(1, positions, share)
    blocks = []
    for start in range(0, positions, block):
        values = random.standard_normal((min(block, positions - start), 1), dtype=np.float32)
        tail.add(torch.from_numpy(values))
        blocks.append(values[values > 2])
    assert 0 < tail.rank_error <= 0.01 * share
    above = (np.concatenate(blocks) > tail.thresholds().item()).sum() / positions
    assert above == pytest.approx(share, abs=tail.rank_error)


def test_batches_make_no_difference_as_long_as_the_quantile_is_exact():
    values = np.float32(np.random.default_rng(2).normal(size=(5000, 3)))
    found = [streamed(values, 0.01, batch)[0].tolist() for batch in (1, 17, 5000)]
    assert found[0] == found[1] == found[2]


def test_the_same_stream_gives_the_same_thresholds():
    values = np.float32(np.random.default_rng(3).normal(size=(100_000, 3)))
    assert streamed(values, 0.1, 1000)[0].tolist() == streamed(values, 0.1, 1000)[0].tolist()


@pytest.mark.parametrize("share", [0.005, 0.3])
def test_compiled_loops_find_what_torch_finds_on_any_other_device(share):
    """The same values are kept, so that thresholds are the same numbers even where they are not exact."""
    values = np.float32(np.random.default_rng(9).normal(size=(60_000, 5)))
    values[::3, 1] = 0
    values[:, 2] = values[:, 2].round(1)
    found, tail = streamed(values, share, 1000)
    expected, other = streamed(values, share, 1000, device="cpu:0")
    assert found.tolist() == expected.tolist()
    assert tail.rank_error == other.rank_error
    assert (tail.rank_error > 0) == (share == 0.3)


def held(tail):
    return sum(run.numel() for run in tail._runs if run is not None) + tail._buffer.numel()


def test_memory_does_not_grow_with_the_number_of_images():
    random = np.random.default_rng(4)
    sizes = []
    for positions in (400_000, 1_600_000):
        tail = Tail(2, positions, 0.005, capacity=LEAST)
        most = 0
        for _ in range(positions // 10_000):
            tail.add(torch.from_numpy(np.float32(random.normal(size=(10_000, 2)))))
            most = max(most, held(tail))
        sizes.append(most)
    assert sizes[1] <= sizes[0] + 2 * 2 * LEAST  # four times the images: two more runs of LEAST values a unit


def test_thresholds_are_over_all_positions_of_all_images():
    maps = np.float32(np.random.default_rng(5).normal(size=(12, 3, 4, 5)))
    thresholds = Thresholds(12, 0.02)
    for part in torch.from_numpy(maps).split(5):
        thresholds.add("layer", part)
        thresholds.add("columns", part[:, :, :1, :1])
    expected = np.quantile(maps.transpose(1, 0, 2, 3).reshape(3, -1), 0.98, axis=1)
    np.testing.assert_allclose(thresholds.values()["layer"], expected, rtol=1e-6)
    np.testing.assert_allclose(thresholds.values()["columns"], np.quantile(maps[:, :, 0, 0], 0.98, axis=0), rtol=1e-6)
    assert thresholds.rank_error == 0


def test_maps_with_their_units_last_in_memory_give_the_same():
    maps = torch.randn(8, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    first, second = Thresholds(8, 0.01), Thresholds(8, 0.01)
    first.add("layer", maps)
    second.add("layer", maps.contiguous(memory_format=torch.channels_last))
    assert first.values()["layer"].tolist() == second.values()["layer"].tolist()
