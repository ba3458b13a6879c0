"""Loops over values, pixels and bits, to be compiled."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cmon.records import FloatArray, IntArray, LongArray

Words = npt.NDArray[np.uint64]
Integers = npt.NDArray[Any]


class Axis(NamedTuple):
    """How maps are interpolated along one side, at n places between p positions.

    Args:
        positions: (n, 2) int64, those before and after each place.
        weights: (n, 2) of both.
        first: (p + 1,) int64, the first place whose position before it is the i-th or a later one.
    """

    positions: LongArray
    weights: FloatArray
    first: LongArray


class Masks(NamedTuple):
    """Masks of one grid of pixels, image after image, each of one arrangement of the labels.

    Args:
        words: W, of a mask.
        bits: (W N,) uint64, of each image as PackedLabels has them.
        starts: (n + 1,) int64, where the masks of each image begin.
        arrangement: (N,) int64, 0 for the image's own labels, p for those of permutation p, counted from 1.
        concept: (N,) int64.
        group_starts: (n + 1,) int64, where the groups of each image begin.
        group_arrangement: (M,) int64, for every category that is carried, and for all categories together.
        group: (M,) int64, that category, G for all together.
    """

    words: int
    bits: Words
    starts: LongArray
    arrangement: LongArray
    concept: LongArray
    group_starts: LongArray
    group_arrangement: LongArray
    group: LongArray


class Totals(NamedTuple):
    """The arrays of `Sums`, as compiled loops take them."""

    both: Integers
    area: LongArray
    drawn_both: Integers
    drawn_area: LongArray


def count_above(values: FloatArray, bound: FloatArray, counts: IntArray) -> None:
    """Add to counts, (U,) int32, how many of the values, (P, U), are above their unit's bound, (U,)."""
    for position in range(values.shape[0]):
        for unit in range(values.shape[1]):
            counts[unit] += values[position, unit] > bound[unit]


def keep_above(values: FloatArray, bound: FloatArray, buffer: FloatArray, filled: LongArray) -> None:
    """Put those of the values, (P, U), that are above their unit's bound, (U,), behind the buffer's filled columns."""
    for position in range(values.shape[0]):
        row = values[position]
        left = 0
        # Counting all takes less than looking at one by one, and most rows have few.
        for unit in range(len(row)):
            left += row[unit] > bound[unit]
        unit = 0
        while left > 0:
            if row[unit] > bound[unit]:
                buffer[unit, filled[unit]] = row[unit]
                filled[unit] += 1
                left -= 1
            unit += 1


def mark_inside(
    excess: FloatArray, down: Axis, across: Axis, word: IntArray, bits: Words, ends: LongArray, pixels: LongArray
) -> None:
    """Interpolate maps, (a, h, w), and mark the pixels above 0.

    Between positions that are not above 0 nothing is, so that only the neighbourhood of others is looked at.

    Args:
        excess: of the maps over their thresholds.
        down: between rows.
        across: between columns.
        word: (a W,) int32, W being a mask's words: the numbers of the words with marks are put here, map after map.
        bits: (a W,) uint64, these words.
        ends: (a,) int64, where the words of each map end.
        pixels: (a,) int64, how many of each map are marked.
    """
    maps, height, width = excess.shape
    columns = len(across.weights)
    above = np.empty(height, np.bool_)
    line = np.empty(width, np.float32)
    end = 0
    for number in range(maps):
        for y in range(height):
            above[y] = False
            for x in range(width):
                above[y] |= excess[number, y, x] > 0
        last, marked = -1, 0
        for row in range(len(down.weights)):
            low, high = down.positions[row]
            if not (above[low] or above[high]):
                continue
            for x in range(width):
                line[x] = down.weights[row, 0] * excess[number, low, x] + down.weights[row, 1] * excess[number, high, x]
            for x in range(width):
                before, after = line[x], line[min(x + 1, width - 1)]
                if not (before > 0 or after > 0):
                    continue
                for column in range(across.first[x], across.first[x + 1]):
                    if across.weights[column, 0] * before + across.weights[column, 1] * after > 0:
                        pixel = row * columns + column
                        if pixel >> 6 != last:
                            last = pixel >> 6
                            word[end], bits[end] = last, 0
                            end += 1
                        bits[end - 1] |= np.uint64(1) << np.uint64(pixel & 63)
                        marked += 1
        ends[number], pixels[number] = end, marked


def add_overlaps(
    units: LongArray,
    images: LongArray,
    word: IntArray,
    bits: Words,
    ends: LongArray,
    pixels: LongArray,
    masks: Masks,
    weights: IntArray,
    totals: Totals,
) -> None:
    """Add the pixels of maps within the masks of their images.

    Args:
        units: (a,) int64, of which each map is.
        images: (a,) int64, of which it is, as the masks count them.
        word: of `mark_inside`.
        bits: of the same.
        ends: of the same.
        pixels: of the same.
        masks: of n images.
        weights: (n, B + 2) int32, how often each draw holds each image.
        totals: to which is added.
    """
    start = 0
    both = np.empty(np.diff(masks.starts).max(), np.int64)
    for number in range(len(units)):
        unit, image, end = units[number], images[number], ends[number]
        first, count = masks.starts[image], masks.starts[image + 1] - masks.starts[image]
        both[:count] = 0
        for place in range(start, end):
            at = first * masks.words + word[place] * count
            for mask in range(count):
                # Compilers know this way to count ones, and have an instruction for it.
                ones = bits[place] & masks.bits[at + mask]
                ones -= (ones >> np.uint64(1)) & np.uint64(0x5555555555555555)
                ones = (ones & np.uint64(0x3333333333333333)) + ((ones >> np.uint64(2)) & np.uint64(0x3333333333333333))
                ones = (ones + (ones >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
                both[mask] += np.int64((ones * np.uint64(0x0101010101010101)) >> np.uint64(56))
        start = end
        for mask in range(count):
            if both[mask]:
                arrangement, concept = masks.arrangement[first + mask], masks.concept[first + mask]
                totals.both[unit, arrangement, concept] += both[mask]
                if arrangement == 0:
                    for drawn in range(weights.shape[1]):
                        totals.drawn_both[unit, concept, drawn] += both[mask] * weights[image, drawn]
        for place in range(masks.group_starts[image], masks.group_starts[image + 1]):
            arrangement, group = masks.group_arrangement[place], masks.group[place]
            totals.area[unit, arrangement, group] += pixels[number]
            if arrangement == 0:
                for drawn in range(weights.shape[1]):
                    totals.drawn_area[unit, group, drawn] += pixels[number] * weights[image, drawn]
