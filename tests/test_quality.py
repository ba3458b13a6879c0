from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, jaccard_score

from cmon.records import QUALITY, Presence
from cmon.statistics import draw, word_quality

NAN = [np.nan] * 4
# One unit and one word, on four images of either half; each half has the word on two.
HALF = np.array([1, 1, 1, 1, 0, 0, 0, 0], dtype=bool)
SHOWN = np.array([1, 1, 0, 0, 1, 0, 1, 0], dtype=bool)
VALUES = [4, 2, 3, 1, 9, 3, 2, 1]


def presence(shown, judged=None, column=None):
    """Make labels of (I, K) or of one word, all images being judged and all words known where nothing is said."""
    shown = np.asarray(shown, dtype=bool)
    shown = shown if shown.ndim == 2 else shown[:, None]
    judged = np.ones_like(shown) if judged is None else np.asarray(judged, dtype=bool).reshape(shown.shape)
    column = np.arange(shown.shape[1]) if column is None else column
    return Presence(shown, judged, np.asarray(column, dtype=np.int32))


def judged(values, labels, half=HALF, words=(0, 0)):
    """Judge one unit."""
    column = np.asarray(values, dtype=np.float32)[:, None]
    return word_quality(column, np.array([words], dtype=np.int32), labels, half)[0]


def oracle(values, shown, half):
    """Judge one unit by scikit-learn, one word for both halves; no image is left out."""
    ways = []
    for naming, judging in ((half, ~half), (~half, half)):
        best, threshold = Fraction(-1), -np.inf
        for level in sorted(set(values[naming].tolist())):  # exactly, and of equals the highest
            taken = values[naming] >= level
            f1 = Fraction(2 * int((taken & shown[naming]).sum()), int(taken.sum() + shown[naming].sum()))
            best, threshold = max((best, threshold), (f1, level))
        taken, truth = values[judging] >= threshold, shown[judging]
        flat = np.ptp(values[judging]) == 0
        ways.append(
            [
                f1_score(truth, taken, zero_division=0),
                jaccard_score(truth, taken, zero_division=0),
                average_precision_score(truth, values[judging].astype(np.float64)),
                0 if flat else np.corrcoef(values[judging].astype(np.float64), truth)[0, 1],
            ]
        )
    return np.mean(ways, axis=0)


def test_a_unit_is_judged_as_by_hand():
    found = judged(VALUES, presence(SHOWN))
    # Named on 4 2 3 1 with the word on 4 and 2: from 4 on F1 is 2/3, from 2 on 4/5. From 2 on, the others are
    # 9 3 2 with the word on 9 and 2: F1 4/5, IoU 2/3; AP (1 + 2/3) / 2.
    # Named on 9 3 2 1: from 9 on 2/3, from 2 on 4/5. From 2 on, the others are 4 2 3: the same, and so is AP.
    assert found[:3] == pytest.approx([4 / 5, 2 / 3, 5 / 6])
    first = np.corrcoef(VALUES[:4], SHOWN[:4])[0, 1]
    second = np.corrcoef(VALUES[4:], SHOWN[4:])[0, 1]
    assert found[3] == pytest.approx((first + second) / 2)
    assert found.dtype == np.float32
    assert len(QUALITY) == 4


def test_each_half_is_judged_by_the_word_of_the_other():
    shown = np.array([[1, 0], [1, 0], [0, 1], [0, 0], [1, 0], [0, 1], [0, 0], [0, 1]], dtype=bool)
    values = [5, 4, 1, 1.5, 1, 7, 2, 6]  # the first word in the first half, the second in the second
    right_for_its_own = judged(values, presence(shown), words=(0, 1))
    right_for_the_other = judged(values, presence(shown), words=(1, 0))
    assert right_for_its_own[2] < 0.5
    assert right_for_its_own[3] < 0
    assert right_for_the_other[2] == 1
    assert right_for_the_other[3] > 0.8


def test_a_perfect_unit_has_all_of_it():
    assert judged(SHOWN * 3.0 + 1, presence(SHOWN)) == pytest.approx([1, 1, 1, 1])


def test_a_threshold_that_no_image_of_the_other_half_reaches_gives_an_f1_of_0():
    found = judged([9, 8, 1, 1, 2, 1, 3, 1], presence(SHOWN))
    assert found[:2] == pytest.approx([1 / 2, 1 / 2])  # the other way it is perfect
    assert found[2] == 1


def test_of_thresholds_with_equal_f1_the_highest_is_taken():
    # Named on 5 4 3 2 with the word on 5 and 2, F1 is 2/3 from 5 on as well as from 2 on.
    found = judged([5, 4, 3, 2, 6, 4, 3, 1], presence([1, 0, 0, 1, 1, 0, 1, 0]))
    assert found[0] == pytest.approx((2 / 3 + 2 / 5) / 2)


@st.composite
def situations(draw_one, levels=6):
    """Draw activations of few levels, hence with ties, a word, and halves; both halves are mixed and alive."""
    images = draw_one(st.integers(8, 40))
    seed = draw_one(st.integers(0, 2**32 - 1))
    numbers = np.random.default_rng(seed)
    half = np.arange(images) < images // 2
    half = half[numbers.permutation(images)]
    shown = numbers.random(images) < draw_one(st.sampled_from([0.1, 0.5, 0.8]))
    values = numbers.integers(-2, draw_one(st.integers(2, levels)), images) + shown * draw_one(st.integers(-1, 2))
    for side in (half, ~half):
        first, second = np.flatnonzero(side)[:2]
        shown[first], shown[second] = True, False
        values[np.flatnonzero(side)[2]] = values[side].max() + 1  # so that no more than half share the greatest
    return values.astype(np.float32), shown, half


@given(situations())
def test_quality_agrees_with_scikit_learn(situation):
    values, shown, half = situation
    assert judged(values, presence(shown), half) == pytest.approx(oracle(values, shown, half), abs=1e-6)


@given(situations(), st.sampled_from([lambda v: v**3, np.exp, lambda v: np.arctan(v) / 7, lambda v: 5 * v - 100]))
def test_only_the_correlation_changes_where_activations_keep_their_order(situation, transform):
    values, shown, half = situation
    labels = presence(shown)
    before, after = judged(values, labels, half), judged(transform(values), labels, half)
    assert after[:3] == pytest.approx(before[:3], abs=1e-7)


@given(situations(), st.floats(0.01, 100), st.floats(-50, 50))
def test_nothing_changes_with_the_unit_of_measurement(situation, scale, offset):
    values, shown, half = situation
    found = judged(values * np.float32(scale) + np.float32(offset), presence(shown), half)
    assert found == pytest.approx(judged(values, presence(shown), half), abs=1e-3)


@given(situations(), st.integers(0, 2**32 - 1))
def test_neither_the_order_of_images_nor_which_half_is_which_matters(situation, seed):
    values, shown, half = situation
    order = np.random.default_rng(seed).permutation(len(values))
    expected = judged(values, presence(shown), half)
    assert judged(values[order], presence(shown[order]), half[order]) == pytest.approx(expected, abs=1e-6)
    assert judged(values, presence(shown), ~half) == pytest.approx(expected, abs=1e-6)


@given(situations())
def test_all_are_between_their_bounds_and_f1_and_iou_say_the_same(situation):
    values, shown, half = situation
    f1, iou, auprc, correlation = judged(values, presence(shown), half)
    assert 0 <= iou <= f1 <= 1
    assert 0 < auprc <= 1 + 1e-6
    assert -1 - 1e-6 <= correlation <= 1 + 1e-6


def test_images_that_the_labels_cannot_judge_are_left_out():
    values, shown = np.array([*VALUES, 50, 60, 0, -3]), np.array([*SHOWN, 0, 0, 0, 0])
    half = np.array([*HALF, 1, 0, 1, 0], dtype=bool)
    said = np.array([1] * 8 + [0] * 4)
    assert judged(values, presence(shown, said), half) == pytest.approx(judged(VALUES, presence(SHOWN)))
    assert judged(values, presence(shown), half)[2] < 0.6


def test_a_unit_that_is_constant_where_it_is_judged_is_no_better_than_chance():
    values = np.array([2.0] * 8 + [1, 7, 3, 2, 1, 9, 3, 2])
    half = np.array([*HALF, 1, 1, 1, 1, 0, 0, 0, 0], dtype=bool)
    labels = presence([*SHOWN, *[0] * 8], [1] * 8 + [0] * 8)
    assert judged(values, labels, half) == pytest.approx([2 / 3, 1 / 2, 1 / 2, 0])


@pytest.mark.parametrize(
    ("values", "shown", "words"),
    [
        (VALUES, SHOWN, (-1, -1)),
        (VALUES, SHOWN, (0, -1)),
        (VALUES, SHOWN, (-1, 0)),
        (VALUES, SHOWN, (1, 1)),  # the second concept is none of the labels'
        (VALUES, SHOWN, (0, 1)),
        (VALUES, [0, 0, 0, 0, 1, 0, 1, 0], (0, 0)),  # not in one half
        (VALUES, [1, 1, 1, 1, 1, 0, 1, 0], (0, 0)),  # everywhere in one half
        (VALUES, [0] * 8, (0, 0)),
        ([0] * 8, SHOWN, (0, 0)),
        ([3] * 8, SHOWN, (0, 0)),
        ([1, 2, 3, 4, 0, 0, 0, 0], SHOWN, (0, 0)),  # dead in one half
        ([5, 5, 5, 5, 1, 2, 3, 4], SHOWN, (0, 0)),  # constant in one half
        ([5, 5, 5, 1, 1, 2, 3, 4], SHOWN, (0, 0)),  # saturated in one half
    ],
)
def test_what_has_no_answer_is_nan_throughout(values, shown, words):
    labels = presence(shown, column=[0, -1])
    assert np.array_equal(judged(values, labels, words=words), NAN, equal_nan=True)


def test_labels_that_know_no_word_give_nan():
    labels = Presence(np.zeros((8, 0), bool), np.zeros((8, 0), bool), np.array([-1, -1], dtype=np.int32))
    assert np.array_equal(judged(VALUES, labels), NAN, equal_nan=True)


@pytest.mark.parametrize("images", [1, 2, 3])
def test_of_almost_no_images_nothing_is_said(images):
    half = draw(images, 0, 0, 0).half
    found = judged(range(images), presence(np.arange(images) % 2 == 0), half)
    assert np.array_equal(found, NAN, equal_nan=True)


def test_units_do_not_matter_to_one_another_and_neither_does_the_size_of_blocks(monkeypatch):
    numbers = np.random.default_rng(5)
    values = numbers.normal(size=(90, 40)).astype(np.float32)
    values[:, 7] = 0
    labels = presence(numbers.random((90, 6)) < 0.3, numbers.random((90, 6)) < 2, [3, -1, 0, 1, 5, 2, 4])
    words = numbers.integers(-1, 7, (40, 2)).astype(np.int32)
    half = draw(90, 0, 0, 3).half
    found = word_quality(values, words, labels, half)
    assert 10 < np.isfinite(found).all(axis=1).sum() < 40
    assert np.array_equal(np.isnan(found).any(axis=1), np.isnan(found).all(axis=1))
    alone = [word_quality(values[:, [u]], words[[u]], labels, half)[0] for u in range(40)]
    assert np.array_equal(found, alone, equal_nan=True)
    monkeypatch.setattr("cmon.records.arrays.BLOCK_BYTES", 1000)
    assert np.array_equal(found, word_quality(values, words, labels, half), equal_nan=True)


# --- chance


def expected_precision(count, positives):
    """Average precision of a random order, in the mean over orders (Bestgen, 2015)."""
    ranks = np.arange(1, count + 1)
    return float(np.mean(((positives - 1) / (count - 1) * (ranks - 1) + 1) / ranks))


def noise(units, images, seed):
    return np.random.default_rng(seed).normal(size=(images, units)).astype(np.float32)


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_a_random_word_has_the_auprc_of_a_random_order_and_no_correlation(share):
    images, units = 400, 1500
    shown = np.arange(images) % 200 < 200 * share  # as many in either half
    half = np.arange(images) < 200
    found = word_quality(noise(units, images, 1), np.zeros((units, 2), np.int32), presence(shown), half)
    error = found.std(axis=0) / np.sqrt(units)
    assert abs(found[:, 2].mean() - expected_precision(200, int(200 * share))) < 3 * error[2]
    assert abs(found[:, 2].mean() - share) < 0.03
    assert abs(found[:, 3].mean()) < 3 * error[3]
    assert found[:, 0].mean() <= 2 * share / (1 + share)
    assert found[:, 1].mean() <= share


def test_a_word_that_was_the_best_of_many_by_chance_is_not_praised_for_it():
    images, units, concepts = 300, 400, 60
    numbers = np.random.default_rng(2)
    shown = np.stack([numbers.permutation(150) < 15 for _ in range(2 * concepts)], axis=1)
    shown = np.concatenate([shown[:, :concepts], shown[:, concepts:]])  # 15 of 150 in either half
    half, values = np.arange(images) < 150, noise(units, images, 3)
    own = np.empty((2, units, concepts))
    for side in range(2):
        rows = half == (side == 0)
        for unit in range(units):
            for concept in range(concepts):
                order = np.argsort(-values[rows, unit])
                ranks = np.flatnonzero(shown[rows, concept][order]) + 1
                own[side, unit, concept] = np.mean(np.arange(1, 16) / ranks)
    words = own.argmax(axis=2).T.astype(np.int32)
    found = word_quality(values, words, presence(shown), half)[:, 2]
    chance, error = expected_precision(150, 15), found.std() / np.sqrt(units)
    assert abs(found.mean() - chance) < 3 * error
    assert own.max(axis=2).mean() > chance + 20 * error  # where they were chosen they look far better
