import tracemalloc
from dataclasses import replace

import numpy as np
import oracles
import pytest
from cases import (
    assert_as_oracle,
    evidence_of,
    evidence_with,
    fitting,
    label,
    random_case,
    rounded_case,
    sizes,
    with_prior,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from cmon.detectors.drawing import half_words
from cmon.detectors.wpmi import SoftWpmi, Wpmi
from cmon.dissect import is_low
from cmon.errors import DetectorError
from cmon.records import Evidence
from cmon.statistics import draw


@settings(max_examples=60)
@given(
    case=sizes,
    digits=st.integers(0, 5),
    share=st.floats(0, 1),
    a=st.floats(0.01, 200),
    lam=st.floats(0, 2),
    p_start=st.floats(0.5, 0.9999),
    p_end=st.floats(0.1, 0.99),
)
def test_soft_wpmi_is_its_oracle(case, digits, share, a, lam, p_start, p_end):
    activations, cosines = rounded_case(*case, digits)
    chosen = {"top_k": max(1, round(share * case[0])), "a": a, "lam": lam, "p_start": p_start, "p_end": p_end}
    assert_as_oracle(SoftWpmi(**chosen), "soft_wpmi", activations, cosines, 2e-3, **chosen)


@settings(max_examples=40)
@given(case=sizes, digits=st.integers(0, 5), share=st.floats(0, 1), a=st.floats(0.01, 200), lam=st.floats(0, 2))
def test_wpmi_is_its_oracle(case, digits, share, a, lam):
    activations, cosines = rounded_case(*case, digits)
    chosen = {"top_k": max(1, round(share * case[0])), "a": a, "lam": lam}
    assert_as_oracle(Wpmi(**chosen), "wpmi", activations, cosines, 2e-3, **chosen)


@with_prior
@pytest.mark.parametrize("spread", [0.3, 0.05])
def test_an_automatic_a_sets_the_spread_of_the_logits(name, spread):
    activations, cosines = random_case()
    detector = fitting(name, 80, a="auto", a_spread=spread)
    scored = detector(activations, evidence_with(cosines))
    assert scored.facts["a"] * np.float64(cosines).std() == pytest.approx(spread, rel=1e-6)
    fixed = replace(detector, a=scored.facts["a"])(activations, evidence_with(cosines))
    np.testing.assert_array_equal(scored.values, fixed.values)


@with_prior
def test_with_an_automatic_a_the_scale_of_the_cosines_does_not_matter(name):
    activations, cosines = random_case()
    detector = fitting(name, 80, a="auto")
    plain, scaled = (detector(activations, evidence_with(scale * cosines)).values for scale in (1, 0.125))
    np.testing.assert_allclose(scaled, plain, rtol=1e-4, atol=1e-4)


def test_the_spread_is_as_exact_as_the_cosines_deviation_is_small():
    random = np.random.default_rng(0)
    images, words = (np.float32([1, 0, 0] + 0.003 * random.normal(size=(count, 3))) for count in (70, 40))
    cosines = np.float64(images) @ np.float64(words).T
    assert evidence_of(images, words).spread == pytest.approx(cosines.std(), rel=1e-9)


@with_prior
@pytest.mark.parametrize("rounding", [0, 1e-7])
@pytest.mark.parametrize("value", [0.0, 0.3])
def test_an_automatic_a_of_equal_cosines_is_an_error(name, value, rounding):
    activations, noise = random_case()
    evidence = evidence_with(value + rounding * np.sign(noise - noise.mean()))
    with pytest.raises(DetectorError, match="all cosines are equal"):
        fitting(name, 80, a="auto")(activations, evidence)


@pytest.mark.parametrize(("name", "oracle"), [("soft_wpmi", "soft_wpmi_likelihood"), ("wpmi", "wpmi_likelihood")])
def test_without_lam_the_score_is_the_likelihood_alone(name, oracle):
    activations, cosines = random_case()
    detector = fitting(name, 80, lam=0.0)
    scores = detector(activations, evidence_with(cosines)).values
    expected = getattr(oracles, oracle)(activations.tolist(), cosines.tolist(), 20)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-3)
    alone = detector(activations[:, 2:3], evidence_with(cosines)).values
    np.testing.assert_allclose(alone, scores[2:3], rtol=1e-6)


@with_prior
def test_under_its_own_prior_no_score_exceeds_log_units(name):
    random = np.random.default_rng(0)
    activations, cosines = random_case(units=5)
    peaked = cosines + random.normal(size=cosines.shape)
    scores = fitting(name, 80, lam=1.0, a=50.0)(activations, evidence_with(peaked)).values
    assert np.log(5) - 0.01 < scores.max() <= np.log(5) + 1e-5


@with_prior
def test_more_top_images_than_images_is_an_error(name):
    activations, cosines = random_case()
    all_images = fitting(name, 80, top_k=80, lam=0.0)(activations, evidence_with(cosines)).values
    if name == "wpmi":  # its images have no order: with all of them all units are the same
        np.testing.assert_allclose(all_images, all_images[:1] * np.ones((7, 1)), rtol=1e-5)
    with pytest.raises(DetectorError, match="top_k = 81 is more than the probe's 80 images") as caught:
        fitting(name, 80, top_k=81)(activations, evidence_with(cosines))
    assert "smaller top_k" in caught.value.hint


@with_prior
def test_a_layers_single_living_unit_has_no_score_and_is_warned_of(name):
    activations, cosines = random_case(units=1)
    labels = label(fitting(name, 80, lam=1.0), np.hstack([activations, np.zeros((80, 3))]), evidence_with(cosines))
    assert (labels.scores[0] == 0).all()
    assert labels.facts["units"] == 1
    assert labels.facts["prior_perplexity"] == pytest.approx(1)
    assert is_low(labels)
    without = label(fitting(name, 80, lam=0.0), activations, evidence_with(cosines))
    assert len(set(without.scores[0].tolist())) == 9
    assert not is_low(without)


@with_prior
def test_a_large_a_is_as_exact_as_the_cosines(name):
    activations, cosines = random_case()
    cosines += np.float32(0.7)
    detector = fitting(name, 80, a=3000.0, lam=0.0)
    expected = oracles.ORACLES[name](activations.tolist(), cosines.tolist(), top_k=20, a=3000.0, lam=0.0)
    scores = detector(activations, evidence_with(cosines)).values
    np.testing.assert_allclose(scores, expected, rtol=2e-6, atol=0)


def test_equal_units_have_a_perplexity_of_their_number_in_the_facts():
    activations, cosines = random_case()
    scored = SoftWpmi(top_k=20)(np.repeat(activations[:, :1], 6, axis=1), evidence_with(cosines))
    assert scored.facts["prior_perplexity"] == pytest.approx(6)
    assert scored.facts["units"] == 6
    np.testing.assert_allclose(scored.values, 0, atol=1e-6)


def test_one_table_of_probabilities_is_kept_at_a_time():
    """Two detectors on one evidence, each with its own a."""
    _, cosines = random_case(images=2000, concepts=300)
    evidence = evidence_with(cosines)
    tracemalloc.start()
    try:
        tables = [evidence.probability(a).copy() for a in (10.0, 2.0, 10.0)]
        assert evidence.probability(10.0) is evidence.probability(10.0)
        taken = tracemalloc.get_traced_memory()[0] - sum(table.nbytes for table in tables)
    finally:
        tracemalloc.stop()
    assert taken < 1.2 * tables[0].nbytes
    np.testing.assert_array_equal(tables[0], tables[2])
    for a, table in ((10.0, tables[0]), (2.0, tables[1])):
        np.testing.assert_allclose(table[:5], [oracles.softmax(row, a) for row in cosines[:5].tolist()], rtol=1e-5)


@pytest.fixture
def tables(monkeypatch):
    """Note every softmax that is taken."""
    made, plain = [], Evidence.probability

    def noted(evidence, a):
        table = plain(evidence, a)
        if not any(table is one for one in made):
            made.append(table)
        return table

    monkeypatch.setattr(Evidence, "probability", noted)
    return made


@with_prior
@pytest.mark.parametrize("a", [10.0, "auto"])
def test_the_softmax_is_taken_once_for_all_layers_draws_and_halves(name, a, tables):
    activations, cosines = random_case()
    evidence, draws = evidence_with(cosines), draw(80, 3, 3, 0)
    for layer in (activations, activations[:, 2:], -activations):
        detector = fitting(name, 80, a=a)
        label(detector, layer, evidence, rate=0.05, draws=draws)
        half_words(detector, layer, evidence, draws)
    assert len(tables) == 1


def test_a_study_takes_it_once_for_all_layers_checkpoints_and_detectors(study, tables):
    assert study.cmon("activations").code == 0
    chosen = {"kind": "clip_dissect", "similarity": "soft_wpmi", "top_k": 5}
    study.tables["detector"] = [{**chosen, "name": "plain"}, {**chosen, "name": "half", "lam": 0.5}]
    study.edit("statistics", permutations=3, resamples=3)
    result = study.cmon("dissect")
    assert result.code == 0, result.err
    assert len(list(study.workspace.glob("similarity/*/*/*.h5"))) == 6
    assert len(tables) == 1


def test_the_halves_words_under_an_automatic_a_are_by_the_a_of_all_images():
    """Else each half would be judged by another detector than the whole."""
    activations, cosines = random_case(concepts=30)
    cosines[:40] *= 3
    evidence, draws = evidence_with(cosines), draw(80, 0, 0, 0)
    detector = fitting("soft_wpmi", 80, a="auto")
    fixed = replace(detector, a=detector.inverse_temperature(evidence))
    expected = [
        fixed(activations[rows], evidence.of_images(np.flatnonzero(rows).astype(np.int32))).values.argmax(axis=1)
        for rows in (draws.half, ~draws.half)
    ]
    assert half_words(detector, activations, evidence, draws).T.tolist() == np.stack(expected).tolist()
