import math
from collections import Counter
from dataclasses import fields, replace
from itertools import product

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_figures import a_study

from cmon.statistics.history import History, Measured, measured
from cmon.statistics.lifetimes import births_deaths, lifetimes
from cmon.statistics.meaning import pair_cosines
from cmon.statistics.retention import PERCENTS, Lexicon, retention
from cmon.statistics.trends import (
    category_codes,
    changes,
    drifts,
    effective_number,
    indices,
    label_confidence,
    overlap,
)

pytestmark = pytest.mark.filterwarnings("error")

DEAD = -1


def a_history(concept, interpretable=None, resampled=None, resampled_interpretable=None):
    """Make a history from lists over checkpoints, units and resamples; without resamples where none are given."""
    concept = np.array(concept, np.int32)
    clear = concept >= 0 if interpretable is None else np.array(interpretable, bool)
    resampled = np.zeros((*concept.shape, 0), np.int32) if resampled is None else np.array(resampled, np.int32)
    sure = resampled >= 0 if resampled_interpretable is None else np.array(resampled_interpretable, bool)
    return History(concept, clear, resampled, sure)


@st.composite
def histories(draw, most_words=4):
    """Draw a history in which units that are not alive have no word in any resample either."""
    k, u, b = (draw(st.integers(low, high)) for low, high in ((1, 4), (1, 6), (0, 4)))
    alive = draw(arrays(bool, (k, u)))
    concept = np.where(alive, draw(arrays(np.int32, (k, u), elements=st.integers(0, most_words - 1))), -1)
    words = draw(arrays(np.int32, (k, u, b), elements=st.integers(0, most_words - 1)))
    clear, sure = draw(arrays(bool, (k, u))) & alive, draw(arrays(bool, (k, u, b))) & alive[..., None]
    return a_history(concept, clear, np.where(alive[..., None], words, -1), sure)


def off_by(values):
    """Half the width of an interval: 1.96 standard deviations of what is known; NaN of fewer than two."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return math.nan
    mean = math.fsum(known) / len(known)
    return 1.959964 * math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1))


def one_resample(history, b):
    return a_history(history.resampled_concept[..., b], history.resampled_interpretable[..., b])


# History


def test_a_history_holds_the_words_of_one_layer_of_one_run_by_step_and_unit():
    study = a_study(resamples=3)
    history, units = History.of(study, 0, 1), study.units
    assert history.concept.shape == (3, 3)
    for k, u in product(range(3), range(3)):
        (row,) = np.flatnonzero((units.checkpoint == k) & (units.layer == 1) & (units.unit == u))
        assert history.concept[k, u] == units.concept[row]
        assert history.interpretable[k, u] == units.interpretable[row]
        assert history.resampled_concept[k, u].tolist() == units.resampled_concept[row].tolist()
        assert history.resampled_interpretable[k, u].tolist() == units.resampled_interpretable[row].tolist()
    second = History.of(study, 1, 0)
    assert [study.concepts.names[i] if i >= 0 else "" for i in second.concept[0]] == ["", "sky", "sky"]


def test_a_unit_that_is_not_alive_holds_no_word_whatever_a_table_says_of_it():
    study = a_study(resamples=3)
    yes, words = np.ones_like(study.units.interpretable), np.maximum(study.units.concept, 0)
    sure = np.ones_like(study.units.resampled_interpretable)
    claimed = replace(study.units, interpretable=yes, concept=words, resampled_interpretable=sure)
    history = History.of(replace(study, units=claimed), 0, 0)
    alive = History.of(study, 0, 0).concept >= 0
    assert not alive.all()
    np.testing.assert_array_equal(history.interpretable, alive)
    np.testing.assert_array_equal(history.concept >= 0, alive)
    np.testing.assert_array_equal(history.resampled_interpretable, np.repeat(alive[..., None], 3, axis=2))


def test_the_order_of_a_tables_rows_does_not_matter():
    study = a_study(resamples=3)
    order = np.random.default_rng(0).permutation(len(study.units.unit))
    mixed = replace(study.units, **{one.name: getattr(study.units, one.name)[order] for one in fields(study.units)})
    one, other = History.of(study, 0, 0), History.of(replace(study, units=mixed), 0, 0)
    for name in ("concept", "interpretable", "resampled_concept", "resampled_interpretable"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@given(histories())
def test_holders_are_counted_of_every_word_at_every_checkpoint(history: History):
    words = np.array([0, 2, 3], np.int32)
    counts = history.holders(words)
    for k, (v, word) in product(range(len(counts)), enumerate(words)):
        held = [c == word and clear for c, clear in zip(history.concept[k], history.interpretable[k], strict=True)]
        assert counts[k, v] == sum(held)


@given(histories())
def test_an_error_is_that_of_the_number_in_every_resample_alone(history: History):
    def number(one):
        return np.stack([one.concept.sum(axis=1) * 1.0, one.interpretable.sum(axis=1) * 1.0])

    found = measured(number, history)
    singles = [number(one_resample(history, b)) for b in range(history.resamples)]
    np.testing.assert_array_equal(found.value, number(history))
    for place in np.ndindex(found.value.shape):
        expected = off_by([one[place] for one in singles])
        assert found.error[place] == pytest.approx(expected, nan_ok=True, abs=1e-9)


def test_an_interval_ends_where_the_number_cannot_be():
    found = Measured(np.array([0.1, 0.5, 2.0]), np.array([0.2, np.nan, 0.5]))
    low, high = found.within(0, 1)
    np.testing.assert_allclose(low, [0, np.nan, 1])
    np.testing.assert_allclose(high, [0.3, np.nan, 1])


# Labels


def test_confidence_is_the_share_of_resamples_with_the_same_label():
    concept = np.array([3, 3, DEAD], np.int32)
    resampled = np.array([[3, 3, 1, 3], [0, 0, 0, 0], [DEAD] * 4], np.int32)
    np.testing.assert_array_equal(label_confidence(concept, resampled), [0.75, 0, np.nan])
    assert np.isnan(label_confidence(concept, resampled[:, :0])).all()


def test_categories_are_numbered_and_a_missing_one_is_none():
    codes = category_codes(["object", "", "color", "object"])
    assert codes.tolist() == [codes[0], -1, codes[2], codes[0], -1]
    assert codes[0] != codes[2] and codes[[0, 2]].min() >= 0
    assert category_codes(["", ""]).tolist() == [-1, -1, -1]
    # Of an unit whose word has no category, confidence in the category is not known.
    concept, resampled = np.array([1, 0], np.int32), np.array([[1, 1], [3, 2]], np.int32)
    np.testing.assert_array_equal(label_confidence(codes[concept], codes[resampled]), [np.nan, 0.5])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_effective_number_is_its_oracle(labels):
    counts = np.bincount(labels, minlength=8)
    assert effective_number(np.stack([counts, 0 * counts])) == pytest.approx([oracles.effective_number(labels), 0])


@pytest.mark.parametrize(("counts", "number"), [([], 0), ([0, 0], 0), ([3], 1), ([1, 0, 1, 1], 3), ([2, 2], 2)])
def test_effective_number_by_hand(counts, number):
    assert effective_number(np.array(counts, dtype=np.int64)) == pytest.approx(number)


# Changes and drift


def test_a_change_is_another_word_than_at_the_checkpoint_before_of_units_alive_at_both():
    changed, both = changes(a_history([[1, 1, DEAD, 2], [1, 2, 1, DEAD], [2, 2, 1, DEAD]]))
    assert changed.tolist() == [[False] * 4, [False, True, False, False], [True, False, False, False]]
    assert both.tolist() == [[False] * 4, [True, True, False, False], [True, True, True, False]]


def pairs_that_coincide(one, other):
    return sum(a == b for a, b in product(one, other))


@given(st.integers(2, 6).flatmap(lambda b: st.tuples(*[arrays(np.int32, (3, b), elements=st.integers(0, 3))] * 2)))
def test_overlap_compares_coincidences_between_lists_with_those_within(lists):
    found = overlap(*lists)
    for unit, (one, other) in enumerate(zip(*lists, strict=True)):
        size = len(one)
        within = [(pairs_that_coincide(words, words) - size) / (size * (size - 1)) for words in (one, other)]
        if sum(within) == 0:
            assert np.isnan(found[unit])
        else:
            assert found[unit] == pytest.approx(pairs_that_coincide(one, other) / size**2 / (sum(within) / 2))


def drifted(concept, resampled):
    """Tell of units at two checkpoints, (2, U) and (2, U, B), whether they drifted."""
    return drifts(a_history(concept, None, resampled))[1].tolist()


def test_a_word_that_changed_and_stays_changed_in_95_of_100_resamples_drifted():
    old, new = [[0] * 100] * 3, [[1] * 100, [1] * 95 + [0] * 5, [1] * 94 + [0] * 6]
    assert drifted([[0, 0, 0], [1, 1, 1]], [old, new]) == [1, 1, 0]


def test_resamples_that_differ_without_a_change_are_no_drift():
    assert drifted([[0], [0]], [[[0] * 20], [[1] * 20]]) == [0]


def test_a_unit_that_has_another_word_in_every_resample_does_not_drift_by_having_another_one_again():
    random = np.random.default_rng(0)
    units, resamples = 400, 100

    def noise(words):
        return random.integers(0, words, (2, units, resamples)).astype(np.int32)

    for words in (2, 10, 50, 200, 1000):
        resampled = noise(words)
        resampled[1, :, 0] = (resampled[0, :, 0] + 1) % words
        differ = (resampled[0] != resampled[1]).mean(axis=1) >= 0.95
        assert differ.all() == (words >= 200)  # that words differ is not enough
        assert np.mean(drifted(resampled[..., 0], resampled)) <= 0.01, words
    # Among 20 words before and among 20 others after: it moved, however unsure its words are.
    moved = noise(20) + np.array([0, 20])[:, None, None]
    assert np.mean(drifted(moved[..., 0], moved)) == 1


def test_resamples_are_compared_in_pairs_so_that_flicker_shared_by_checkpoints_is_no_drift():
    # Both checkpoints flip between two words with the images, the same ones in every resample.
    flips = np.tile([0, 1], 20)
    assert drifted([[0], [1]], [[flips], [flips]]) == [0]


def test_drift_is_unknown_without_resamples_and_of_units_not_alive_at_both():
    assert np.isnan(drifts(a_history([[0, 0], [1, 0]]))).all()
    assert np.isnan(drifts(a_history([[0], [1]], None, [[[0]], [[1]]]))).all()
    found = drifts(a_history([[0, DEAD], [1, 1]], None, [[[0, 0], [DEAD] * 2], [[1, 1], [1, 1]]]))
    np.testing.assert_array_equal(found, [[np.nan, np.nan], [1, np.nan]])


# Indices


def test_the_indices_of_a_layer_are_those_of_a_loop_over_units_and_resamples():
    study = a_study(resamples=7)
    for run, layer in product(range(2), range(2)):
        history = History.of(study, run, layer)
        found = indices(study, run, layer)
        for k in range(3):
            expected = by_hand(history, k)
            singles = [by_hand(one_resample(history, b), k) for b in range(7)]
            for name, value in expected.items():
                assert found[name].value[k] == pytest.approx(value, nan_ok=True), name
                error = off_by([one[name] for one in singles])
                assert found[name].error[k] == pytest.approx(error, nan_ok=True, abs=1e-12), name
        mine = [k for k, name in enumerate(study.checkpoints) if name.run == run]
        for name in ("spread", "d_anchor"):
            np.testing.assert_array_equal(found[name].value, getattr(study, name)[mine, layer])
            for k, at in enumerate(mine):
                error = off_by(getattr(study, f"{name}_resampled")[at, layer].tolist())
                assert found[name].error[k] == pytest.approx(error)


def by_hand(history, k):
    clear = [c for c, sure in zip(history.concept[k].tolist(), history.interpretable[k], strict=True) if sure]
    pairs = list(zip(history.concept[k - 1].tolist(), history.concept[k].tolist(), strict=True)) if k else []
    both = [(old, new) for old, new in pairs if old != DEAD and new != DEAD]
    return {
        "interpretable": len(clear),
        "unique_concepts": len(set(clear)),
        "effective_concepts": oracles.effective_number(clear) if clear else 0,
        "changed": sum(old != new for old, new in both) / len(both) if both else math.nan,
    }


def test_median_confidence_and_drift_are_shares_without_an_interval():
    study = a_study(resamples=30)
    found, history = indices(study, 0, 1), History.of(study, 0, 1)
    for k in range(3):
        here = history.interpretable[k]
        shares = [(r == c).mean() for c, r in zip(history.concept[k], history.resampled_concept[k], strict=True)]
        assert found["label_confidence"].value[k] == pytest.approx(np.median(np.array(shares)[here]))
    expected = np.nanmean(drifts(history)[1:], axis=1)
    np.testing.assert_allclose(found["drifted"].value[1:], expected)
    for name in ("label_confidence", "drifted"):
        assert np.isnan(found[name].error).all()
    assert np.isnan(found["drifted"].value[0]) and np.isnan(found["changed"].value[0])


def test_without_resamples_nothing_has_an_error_and_drift_is_unknown():
    found = indices(a_study(resamples=0), 0, 0)
    assert all(np.isnan(one.error).all() for one in found.values())
    assert np.isnan(found["drifted"].value).all() and np.isnan(found["label_confidence"].value).all()
    assert np.isfinite(found["changed"].value[1:]).all()


# Retention

FEATURES = np.array([[1, 0], [0.8, 0.6], [0, 1], [-1, 0]], np.float32)
LEXICON = Lexicon(category_codes(["warm", "warm", "cold", ""]), FEATURES, 0.75)


def test_retention_counted_by_hand():
    # Five units, the last not interpretable at the start; two later checkpoints.
    history = a_history([[0, 0, 2, 3, 1], [0, 1, 2, 3, 1], [0, 0, 1, DEAD, 1]], [[1, 1, 1, 1, 0], [0] * 5, [0] * 5])
    scores = (np.float32([9, 8, 7, 6, 99]), np.zeros((5, 0), np.float32))
    found = retention(history, 0, *scores, LEXICON)
    #                             5  10 20 30 40 50 75 100 % of four units, rounded up
    assert found.units.tolist() == [1, 1, 1, 2, 2, 2, 3, 4]
    strict, final, category, meaning = found.share.value
    assert strict.tolist() == [1, 1, 1, 1 / 2, 1 / 2, 1 / 2, 2 / 3 - 1 / 3, 1 / 4]
    assert final.tolist() == [1, 1, 1, 1, 1, 1, 2 / 3, 2 / 4]
    # The third unit went from cold to warm, the fourth's word has no category.
    assert category.tolist() == [1, 1, 1, 1, 1, 1, 2 / 3, 2 / 3]
    # Word 2 and word 1: cosine 0.6.
    assert meaning.tolist() == [1, 1, 1, 1, 1, 1, 2 / 3, 2 / 4]
    near = retention(history, 0, *scores, Lexicon(LEXICON.category, FEATURES, 0.59)).share.value[3]
    assert near.tolist() == [1, 1, 1, 1, 1, 1, 1, 3 / 4]


def test_retention_starts_at_its_reference():
    history = a_history([[0, 0], [1, 2], [1, 0]])
    found = retention(history, 1, np.float32([1, 2]), np.zeros((2, 0), np.float32), LEXICON)
    assert found.units.tolist() == [1] * 6 + [2] * 2
    # The second unit, which has the higher score, lost its word.
    assert found.share.value[0].tolist() == [0] * 6 + [0.5] * 2


def kept_by_loop(then, later, category, near):
    """Tell what one unit kept, as the four kinds; None where that does not count."""
    last = later[-1]
    alike = last == then or (last >= 0 and float(FEATURES[then] @ FEATURES[last]) >= near)
    group = category[then]
    return [all(word == then for word in later), last == then, group == category[last] if group >= 0 else None, alike]


def clearest_by_loop(interpretable, score):
    """List the interpretable units, clearest first, and how many of them each x takes."""
    order = sorted((u for u, clear in enumerate(interpretable) if clear), key=lambda u: (-score[u], u))
    return order, [math.ceil(percent * len(order) / 100) for percent in PERCENTS]


def share_by_loop(words, order, taken, reference):
    """Average over the first units of an order, with words (K, U)."""
    shares = []
    for kind, count in product(range(4), taken):
        kept = [
            kept_by_loop(words[reference][u], [row[u] for row in words[reference + 1 :]], LEXICON.category, 0.75)[kind]
            for u in order[:count]
        ]
        counts = [one for one in kept if one is not None]
        shares.append(sum(counts) / len(counts) if counts else math.nan)
    return shares


@given(histories(), st.data())
def test_retention_is_that_of_a_loop_over_units_and_resamples(history: History, data):
    checkpoints, units = history.concept.shape
    reference = data.draw(st.integers(0, checkpoints - 1))
    score = np.array(data.draw(st.lists(st.sampled_from([1, 2, 3]), min_size=units, max_size=units)), np.float32)
    again = data.draw(arrays(np.float32, (units, history.resamples), elements=st.sampled_from([1, 2, 3])))
    found = retention(history, reference, score, again, LEXICON)
    order, taken = clearest_by_loop(history.interpretable[reference], score)
    assert found.units.tolist() == taken
    if reference == checkpoints - 1:
        assert np.isnan(found.share.value).all() and np.isnan(found.share.measured().error).all()
        return
    expected = share_by_loop(history.concept.tolist(), order, taken, reference)
    assert found.share.value.ravel() == pytest.approx(expected, nan_ok=True)
    resampled = [
        share_by_loop(
            history.resampled_concept[..., b].tolist(),
            *clearest_by_loop(history.resampled_interpretable[reference, :, b], again[:, b]),
            reference,
        )
        for b in range(history.resamples)
    ]
    errors = [off_by(values) for values in zip(*resampled, strict=True)] or [math.nan] * len(expected)
    assert found.share.measured().error.ravel() == pytest.approx(errors, nan_ok=True, abs=1e-9)
    same = [
        (history.resampled_concept[reference, u] == history.concept[reference, u]).mean()
        if history.resamples
        else math.nan
        for u in order
    ]
    assert found.flicker == pytest.approx([np.mean(same[:n]) if n else math.nan for n in taken], nan_ok=True)


def test_without_categories_none_is_kept_or_lost():
    lexicon = Lexicon(category_codes(["", "", "", ""]), FEATURES, 0.75)
    found = retention(a_history([[0, 1], [0, 2]]), 0, np.float32([1, 2]), np.zeros((2, 0), np.float32), lexicon)
    assert np.isnan(found.share.value[2]).all()
    assert np.isfinite(found.share.value[[0, 1, 3]]).all()


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=9))
def test_cosines_of_pairs_are_those_of_a_loop(pairs):
    one, two = (np.array([pair[i] for pair in pairs], np.int32) for i in (0, 1))
    found = pair_cosines(FEATURES[:3], FEATURES, one, two)
    assert found == pytest.approx([float(FEATURES[a] @ FEATURES[b]) for a, b in pairs], abs=1e-6)


# Births and deaths


def test_births_and_deaths_counted_by_hand():
    #                  from the start, born at 1 and lost, comes and goes, only at the end, never
    holders = [[2, 0, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 3, 0, 0], [1, 0, 0, 1, 0]]
    born, died = births_deaths(np.array(holders))
    np.testing.assert_array_equal(born, [np.nan, 1, 0, 1])
    np.testing.assert_array_equal(died, [np.nan, 0, 0, 2])


@given(histories())
def test_lifetimes_are_those_of_a_loop_over_words_and_resamples(history: History):
    def events(one):
        held = [
            {c for c, sure in zip(row, clear, strict=True) if sure}
            for row, clear in zip(one.concept.tolist(), one.interpretable, strict=True)
        ]
        found = [[math.nan] * 2]
        for k in range(1, len(held)):
            before, after = set().union(*held[:k]), set().union(*held[k:])
            found.append([len(held[k] - before), len(held[k - 1] - after)])
        return found

    def units(one, word):
        return [Counter(row[clear].tolist())[word] for row, clear in zip(one.concept, one.interpretable, strict=True)]

    found = lifetimes(history)
    singles = [one_resample(history, b) for b in range(history.resamples)]
    for k, expected in enumerate(events(history)):
        assert [found.births.value[k], found.deaths.value[k]] == pytest.approx(expected, nan_ok=True)
        errors = [off_by([events(one)[k][i] for one in singles]) for i in (0, 1)]
        assert [found.births.error[k], found.deaths.error[k]] == pytest.approx(errors, nan_ok=True, abs=1e-9)
    assert found.words.tolist() == sorted(set(history.concept[history.interpretable].tolist()))
    for v, word in enumerate(found.words.tolist()):
        counts = units(history, word)
        assert found.holders.value[:, v].tolist() == counts
        at = [k for k, count in enumerate(counts) if count]
        assert (found.born[v], found.last[v]) == (at[0], at[-1])
        for k in range(len(counts)):
            error = off_by([units(one, word)[k] for one in singles])
            assert found.holders.error[k, v] == pytest.approx(error, nan_ok=True, abs=1e-9)


@given(histories())
def test_words_there_at_first_plus_births_less_deaths_are_those_there_at_last(history: History):
    found = lifetimes(history)
    there = (found.born == 0).sum() + np.nansum(found.births.value) - np.nansum(found.deaths.value)
    assert there == (found.last == len(history.concept) - 1).sum()
