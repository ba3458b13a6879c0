"""What the table of claims says of a difference, and how it counts units."""

import check_claims
import numpy as np
import pytest
from check_claims import Finding, compared, count, plus_minus
from test_tables import a_study

from cmon.statistics.history import Sampled


@pytest.mark.parametrize(
    ("difference", "error", "agrees"),
    [
        (2.0, 1.0, "yes"),
        (-2.0, 1.0, "no"),
        (0.5, 1.0, "open"),
        (1.0, 1.0, "open"),
        (2.0, np.nan, "open"),
        (None, 1, ""),
    ],
)
def test_a_claim_is_only_decided_where_the_interval_excludes_0(difference, error, agrees):
    assert Finding("", difference, error).agrees == agrees


def test_a_difference_is_taken_in_every_resample():
    # Both numbers move together: their own errors are large, that of their difference is 0.
    moves = np.array([1.0, 5.0, 9.0])
    finding = compared(Sampled(np.float64(5), moves), Sampled(np.float64(7), moves + 2), -1)
    assert finding.difference == -2
    assert finding.error == 0
    assert finding.agrees == "no"
    assert finding.text == "5 ± 8 → 7 ± 8 (difference +2 ± 0)"


def test_units_are_counted_by_layer_and_category():
    study = a_study()
    # At the second checkpoint layer1 has cat, red and sky, all interpretable; in the second resample not unit 0, cat,
    # and unit 1 holds another word than red.
    assert count(study, 1, ["layer1"]).value == 3
    assert count(study, 1, ["layer1"], ["object", "scene"]).value == 2
    np.testing.assert_array_equal(count(study, 1, ["layer1"]).resampled, [3, 2])
    assert count(study, 1, ["layer2"]).value == 0
    assert count(study, 1, ["layer1"], ["material"]).value == 0


def test_numbers_without_an_error_stand_alone():
    assert plus_minus(3.14, np.nan, 1) == "3.1"


def test_without_the_studies_it_says_what_to_run(monkeypatch, tmp_path):
    monkeypatch.setattr(check_claims, "SMALL", tmp_path)
    with pytest.raises(SystemExit, match="run make small"):
        check_claims.main()
