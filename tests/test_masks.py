import errno
import json
import os
import zlib

import numpy as np
import pytest

from cmon.errors import ProbeError, StoreError
from cmon.masks import BLOCK, build, find
from cmon.records import ImageLabels, PackedLabels

RECIPE = {"labels": "f" * 64, "geometry": {"resize": 4, "crop": None}}


def shown(name):
    """What an image shows: some nothing, with masks of two sizes, at other places in every third."""
    number = int(name)
    random = np.random.default_rng(number)
    height, width = ((5, 13), (8, 8))[number % 2]
    concepts = np.flatnonzero(random.random(6) < 0.5).astype(np.int32) if number != 4 else np.empty(0, np.int32)
    rows = tuple((place + 0.5) / (height + number % 3) for place in range(height))
    columns = tuple((place + 0.5) / width for place in range(width))
    return ImageLabels(concepts, random.random((len(concepts), height, width)) < 0.5, rows, columns)


def names(count):
    return [str(number) for number in range(count)]


def nothing(_):
    return None


def built(folder, count=9, read=shown, recipe=RECIPE, advance=nothing):
    return build(folder, recipe, names(count), read, advance)


def is_equal(one, other):
    assert vars(one).keys() == vars(other).keys()
    return all(
        np.array_equal(a, b) and getattr(a, "dtype", 0) == getattr(b, "dtype", 0)
        for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
    )


@pytest.mark.parametrize("count", [0, 1, 9, BLOCK + 1])
def test_what_is_kept_is_what_was_read(tmp_path, count):
    counted = []
    assert find(tmp_path, RECIPE) is None
    cache = built(tmp_path, count, advance=counted.append)
    assert sum(counted) == count
    for kept in (cache, find(tmp_path, RECIPE)):
        found = list(kept.take(range(count)))
        assert len(found) == count
        assert all(is_equal(one, PackedLabels.of(shown(name))) for one, name in zip(found, names(count), strict=True))


def test_images_are_taken_in_the_order_asked_and_as_often(tmp_path):
    found = list(built(tmp_path).take([7, 4, 0, 7]))
    assert all(is_equal(one, PackedLabels.of(shown(str(n)))) for one, n in zip(found, [7, 4, 0, 7], strict=True))
    assert found[1].bits.shape[1] == 0  # it shows nothing


def flip(path, place, bit=0):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    cache = built(tmp_path)
    whole = cache.path.read_bytes()
    for place in range(0, len(whole), 7):
        flip(cache.path, place, place % 8)
        with pytest.raises(StoreError, match="a checksum does not match") as caught:
            list(find(tmp_path, RECIPE).take(range(9)))
        assert caught.value.hint == "delete it and run again"
        cache.path.write_bytes(whole)


def test_no_flipped_bit_of_the_index_goes_unnoticed(tmp_path):
    cache = built(tmp_path)
    path = cache.path.with_suffix(".json")
    whole = path.read_bytes()
    for place in range(0, len(whole), 11):
        flip(path, place, place % 7)
        found = find(tmp_path, RECIPE)
        assert found is None or found.index == cache.index  # another way to write the same number
        path.write_bytes(whole)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"fingerprint": 1}'])
def test_an_index_of_another_making_is_not_accepted(tmp_path, text):
    built(tmp_path).path.with_suffix(".json").write_text(text)
    assert find(tmp_path, RECIPE) is None


def test_a_file_that_was_cut_is_built_again_and_one_that_vanishes_is_an_error(tmp_path):
    cache = built(tmp_path)
    os.truncate(cache.path, cache.path.stat().st_size - 1)
    assert find(tmp_path, RECIPE) is None
    with pytest.raises(StoreError, match="a checksum does not match"):
        list(cache.take([8]))
    cache.path.unlink()
    with pytest.raises(StoreError, match="cannot be read: No such file"):
        list(cache.take([0]))


@pytest.mark.parametrize("other", [{"labels": "0" * 64}, {"geometry": {"resize": 8, "crop": None}}, {"layout": 2}])
def test_other_labels_or_another_geometry_have_their_own_cache(tmp_path, other):
    built(tmp_path)
    assert find(tmp_path, RECIPE | other) is None
    built(tmp_path, read=lambda name: shown("1"), recipe=RECIPE | other)
    assert is_equal(next(find(tmp_path, RECIPE).take([0])), PackedLabels.of(shown("0")))
    assert is_equal(next(find(tmp_path, RECIPE | other).take([0])), PackedLabels.of(shown("1")))


def test_a_wrong_mask_comes_through_and_leaves_nothing(tmp_path):
    def read(name):
        if name == "5":
            raise ProbeError("mask 5", "is no mask")
        return shown(name)

    with pytest.raises(ProbeError, match="is no mask"):
        built(tmp_path, read=read)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="cannot be written: No space left on device") as caught:
        built(tmp_path)
    assert "make room" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_the_file_can_be_read_without_cmon(tmp_path):
    cache = built(tmp_path)
    table, data = json.loads(cache.path.with_suffix(".json").read_text()), cache.path.read_bytes()
    for number, (grid, count, checksum) in enumerate(
        zip(table["grid"], table["counts"], table["checksums"], strict=True)
    ):
        rows, columns = table["grids"][grid]
        words = (len(rows) * len(columns) + 63) // 64
        part, data = data[: 8 * count * (1 + words)], data[8 * count * (1 + words) :]
        labels = shown(str(number))
        assert zlib.crc32(part) == checksum
        assert np.frombuffer(part, "<i4")[:count].tolist() == labels.concepts.tolist()
        assert np.frombuffer(part, "<i4")[count : 2 * count].tolist() == labels.masks.sum((1, 2)).tolist()
        bits = np.frombuffer(part, "<u8")[count:].reshape(words, count)
        pixels = [[int(word) >> bit & 1 for word in column for bit in range(64)] for column in bits.T]
        assert [row[: len(rows) * len(columns)] for row in pixels] == [mask.ravel().tolist() for mask in labels.masks]
    assert data == b""
