import errno
import json
import os
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest

from cmon import pixels
from cmon.cache import prune
from cmon.errors import ProbeError, StoreError
from cmon.pixels import BLOCK, build, find

RECIPE = {"algorithm": 1, "probe": "f" * 64, "geometry": {"resize": 4, "crop": None}}


def image(index, height=4, width=5):
    return np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)


def names(count):
    return tuple(f"image {index:04d}.png" for index in range(count))


def nothing(_):
    return None


def built(folder, count=7, decode=image, recipe=RECIPE, advance=nothing):
    return build(folder, recipe, names(count), decode, advance)


def decoded(cache):
    return np.concatenate(list(cache.blocks()))


def flip(path, place, bit=0):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


@pytest.mark.parametrize("count", [1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
def test_the_cache_equals_direct_decoding(tmp_path, count):
    cache = built(tmp_path, count)
    expected = np.stack([image(index) for index in range(count)])
    assert np.array_equal(decoded(cache), expected)
    assert cache.index.ids == names(count)
    assert cache.index.shape == (count, 4, 5, 3)
    assert [len(block) for block in cache.blocks()] == [len(expected[i : i + BLOCK]) for i in range(0, count, BLOCK)]


def test_what_was_built_is_found(tmp_path):
    cache = built(tmp_path / "new" / "folder", BLOCK + 5)
    found = find(tmp_path / "new" / "folder", RECIPE)
    assert found == cache
    assert np.array_equal(decoded(found), decoded(cache))


def test_blocks_may_be_changed_by_who_reads_them(tmp_path):
    cache = built(tmp_path)
    next(cache.blocks())[:] = 0
    assert np.array_equal(next(cache.blocks())[3], image(3))


@pytest.mark.parametrize(
    "left_out", [{0}, {3}, {BLOCK + 4}, set(range(BLOCK)), set(range(1, BLOCK + 5)), {0, 2, BLOCK, BLOCK + 1}]
)
def test_skipped_images_are_named_and_left_out(tmp_path, left_out):
    count = BLOCK + 5
    cache = built(tmp_path, count, lambda index: None if index in left_out else image(index))
    kept = [index for index in range(count) if index not in left_out]
    assert cache.index.ids == tuple(names(count)[index] for index in kept)
    assert cache.index.skipped == tuple(names(count)[index] for index in sorted(left_out))
    assert np.array_equal(decoded(cache), np.stack([image(index) for index in kept]))
    assert cache.path.stat().st_size == len(kept) * 4 * 5 * 3
    assert find(tmp_path, RECIPE) == cache


def test_a_probe_of_which_nothing_can_be_read_is_an_error(tmp_path):
    with pytest.raises(ProbeError, match="none of its 7 images can be read"):
        built(tmp_path, decode=nothing)
    assert list(tmp_path.iterdir()) == []


def test_two_sizes_are_an_error_that_names_both_images(tmp_path):
    with pytest.raises(ProbeError, match=r"image 0003\.png is 6x4, image 0001\.png is 5x4") as caught:
        built(tmp_path, decode=lambda index: None if index == 0 else image(index, width=6 if index == 3 else 5))
    assert "preprocess" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_in_decoding_comes_through_and_leaves_nothing(tmp_path):
    def decode(index):
        if index == 5:
            raise ProbeError("image 5", "unreadable image")
        return image(index)

    with pytest.raises(ProbeError, match="unreadable image"):
        built(tmp_path, decode=decode)
    assert list(tmp_path.iterdir()) == []


def test_every_image_is_decoded_once_and_counted(tmp_path):
    counted, asked, lock = [], [], threading.Lock()

    def decode(index):
        with lock:
            asked.append(index)
        return image(index)

    built(tmp_path, 2 * BLOCK + 3, decode, advance=counted.append)
    assert sorted(asked) == list(range(2 * BLOCK + 3))
    assert counted == [BLOCK, BLOCK, 3]


@pytest.mark.parametrize("place", [0, 100, BLOCK * 60 - 1, BLOCK * 60, -1])
def test_a_flipped_bit_is_an_error(tmp_path, place):
    cache = built(tmp_path, BLOCK + 5)
    flip(cache.path, place)
    with pytest.raises(StoreError, match="checksum does not match"):
        decoded(find(tmp_path, RECIPE))


def test_blocks_before_the_damage_are_whole(tmp_path):
    cache = built(tmp_path, 2 * BLOCK)
    flip(cache.path, -1)
    blocks = cache.blocks()
    assert np.array_equal(next(blocks)[0], image(0))
    with pytest.raises(StoreError):
        next(blocks)


def test_a_file_that_vanishes_is_an_error_with_its_name(tmp_path):
    cache = built(tmp_path)
    cache.path.unlink()
    with pytest.raises(StoreError, match="cannot be read: No such file") as caught:
        decoded(cache)
    assert caught.value.where == str(cache.path)


@pytest.mark.parametrize("suffix", [".bin", ".json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "longer"])
def test_what_is_missing_or_damaged_is_built_again(tmp_path, suffix, damage):
    cache = built(tmp_path)
    path = cache.path.with_suffix(suffix)
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": data[:-1], "longer": data + b"}"}[damage])
    assert find(tmp_path, RECIPE) is None
    assert np.array_equal(decoded(built(tmp_path)), decoded(find(tmp_path, RECIPE)))
    assert cache.path.read_bytes() == b"".join(image(index).tobytes() for index in range(7))


@pytest.mark.parametrize("text", ["null", "[]", "3", "{}", '{"shape": 3, "fingerprint": ""}', "[" * 100_000, "\ufeff"])
def test_an_index_of_another_making_is_not_accepted(tmp_path, text):
    built(tmp_path).path.with_suffix(".json").write_text(text)
    assert find(tmp_path, RECIPE) is None


def test_no_flipped_bit_of_the_index_goes_unnoticed(tmp_path):
    cache = built(tmp_path, 3)
    path = cache.path.with_suffix(".json")
    data = path.read_bytes()
    for place in range(len(data)):
        flip(path, place, place % 8)
        assert find(tmp_path, RECIPE) in (None, cache)  # a blank may become another one
        path.write_bytes(data)


def test_names_of_any_bytes_come_back(tmp_path):
    odd = ("größe.png", "\udcff.png", "縞\n.png")
    cache = build(tmp_path, RECIPE, odd, image, nothing)
    assert cache.index.ids == odd
    assert find(tmp_path, RECIPE) == cache


@pytest.mark.parametrize("broken", ["fsync", "bin", "json"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_build_that_ends_early_leaves_nothing_that_is_found(tmp_path, monkeypatch, broken, error):
    replace = Path.replace

    def fail(self, target=None):
        if isinstance(self, Path) and target.suffix != f".{broken}":
            return replace(self, target)
        raise error

    monkeypatch.setattr(*((os, "fsync", fail) if broken == "fsync" else (Path, "replace", fail)))
    with pytest.raises(StoreError if isinstance(error, OSError) else KeyboardInterrupt):
        built(tmp_path)
    monkeypatch.undo()
    assert find(tmp_path, RECIPE) is None
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert np.array_equal(decoded(built(tmp_path)), decoded(find(tmp_path, RECIPE)))


def test_a_killed_process_leaves_nothing_that_is_found(tmp_path):
    code = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_pixels
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
test_pixels.built(Path({str(tmp_path)!r}))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -9
    assert find(tmp_path, RECIPE) is None
    assert np.array_equal(decoded(built(tmp_path))[6], image(6))


def test_a_full_disk_is_an_error_before_anything_is_written(tmp_path, monkeypatch):
    asked = []

    def full(_, start, size):
        asked.append((start, size))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreError, match="cannot be written: No space left on device") as caught:
        built(tmp_path)
    assert "make room" in caught.value.hint
    assert asked == [(0, 7 * 4 * 5 * 3)]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot be written"):
        built(tmp_path / "file" / "pixels")


@pytest.mark.parametrize(
    "other",
    [{**RECIPE, "probe": "0" * 64}, {**RECIPE, "geometry": {"resize": 8, "crop": None}}, {**RECIPE, "algorithm": 2}],
)
def test_another_probe_or_geometry_has_its_own_cache(tmp_path, other):
    first = built(tmp_path)
    assert find(tmp_path, other) is None
    second = built(tmp_path, decode=lambda index: image(index + 100), recipe=other)
    assert first.path != second.path
    assert np.array_equal(decoded(find(tmp_path, RECIPE))[0], image(0))
    assert np.array_equal(decoded(find(tmp_path, other))[0], image(100))


def test_the_index_can_be_read_without_cmon(tmp_path):
    cache = built(tmp_path)
    table = json.loads(cache.path.with_suffix(".json").read_text())
    assert table["shape"] == [7, 4, 5, 3]
    assert table["ids"] == list(names(7))
    assert len(table["checksums"]) == 1
    assert zlib.crc32(cache.path.read_bytes()) == table["checksums"][0]


def test_caches_of_earlier_geometries_are_deleted_and_those_of_the_study_kept(tmp_path):
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    recipes = [{"geometry": size} for size in (1, 2, 3)]
    for recipe in recipes:
        pixels.build(tmp_path, recipe, ("a",), lambda _: image, lambda _: None)
    prune(tmp_path, recipes[1:])
    assert pixels.find(tmp_path, recipes[0]) is None
    assert all(pixels.find(tmp_path, recipe) is not None for recipe in recipes[1:])
    assert len(list(tmp_path.iterdir())) == 4
