from dataclasses import replace

import numpy as np
import pytest
from test_figures import a_study

from cmon.figures.retention import followed, lexicon_of
from cmon.records import View
from cmon.statistics.comparison import interpretable_counts
from cmon.statistics.history import Sampled
from cmon.statistics.retention import retention


def view_of(study, run):
    return View(study, run, (), (), 5, 5, "", lambda index: np.zeros((2, 2, 3), np.uint8), near=0.5)


def test_units_are_counted_by_group_as_one_by_one():
    units, group = a_study(resamples=5).units, np.array([1, -1, 1, 0], np.int32)
    # Whatever is said of units that are not alive, they do not count.
    dead = ~units.alive
    claimed = units.resampled_interpretable | dead[:, None]
    units = replace(units, interpretable=units.interpretable | dead, resampled_interpretable=claimed)
    rows = np.arange(2, len(units.run), 2)
    found = interpretable_counts(units, rows, group, 3)
    value, resampled = np.zeros(4), np.zeros((4, 5))
    for row in rows:
        if units.state[row] != 0:
            continue
        if units.interpretable[row]:
            value[3] += 1
            if group[units.concept[row]] >= 0:
                value[group[units.concept[row]]] += 1
        for b in range(5):
            if units.resampled_interpretable[row, b]:
                resampled[3, b] += 1
                if group[units.resampled_concept[row, b]] >= 0:
                    resampled[group[units.resampled_concept[row, b]], b] += 1
    np.testing.assert_array_equal(found.value, value)
    np.testing.assert_array_equal(found.resampled, resampled)
    assert 0 < value[:3].sum() < value[3]  # some are in no group


def test_nothing_is_counted_among_no_rows_or_without_resamples():
    units = a_study(resamples=0).units
    group = np.zeros(4, np.int32)
    assert interpretable_counts(units, np.zeros(0, np.intp), group, 1).value.tolist() == [0, 0]
    assert interpretable_counts(units, np.arange(6), group, 1).resampled.shape == (2, 0)


def test_the_error_of_a_difference_is_of_differences_in_the_same_resamples():
    random = np.random.default_rng(0)
    shared = random.normal(0, 5, 200)
    own = Sampled(np.array([20.0]), (20 + shared)[None])
    other = Sampled(np.array([12.0]), (12 + shared)[None])
    difference = own.minus(other).measured()
    assert difference.value.tolist() == [8]
    assert difference.error == pytest.approx([0], abs=1e-9)  # both go up and down together
    assert own.measured().error[0] > 9
    against = Sampled(np.array([12.0]), (12 - shared)[None])
    assert own.minus(against).measured().error == pytest.approx(2 * own.measured().error)


def test_shares_are_of_a_whole_that_may_be_nothing():
    counts = Sampled(np.array([3.0]), np.array([[2.0, 4.0]]))
    share = counts.per(4)
    assert (share.value.tolist(), share.resampled.tolist()) == ([0.75], [[0.5, 1.0]])
    assert np.isnan(counts.per(0).value).all() and np.isnan(counts.per(0).resampled).all()


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("run", [0, 1])
def test_retention_in_a_resample_is_that_of_a_study_on_this_resample(run, layer):
    study = a_study(resamples=6)
    view = view_of(study, run)
    lexicon = lexicon_of(view)
    found = retention(*followed(view, layer), lexicon).share
    units = study.units
    for b in range(6):
        clear = units.resampled_interpretable[:, b] & units.alive
        nothing = {"resampled_concept": units.resampled_concept[:, :0], "resampled_score": units.resampled_score[:, :0]}
        nothing["resampled_interpretable"] = units.resampled_interpretable[:, :0]
        now = {"concept": units.resampled_concept[:, b], "interpretable": clear, "score": units.resampled_score[:, b]}
        single = view_of(replace(study, units=replace(units, **now, **nothing)), run)
        expected = retention(*followed(single, layer), lexicon).share.value
        np.testing.assert_array_equal(found.resampled[..., b], expected)
