import numpy as np
import oracles
import pytest
from cases import assert_as_oracle, evidence_of, evidence_with, label, random_case, rounded_case, sizes
from hypothesis import given, settings
from hypothesis import strategies as st

from cmon.detectors.drawing import half_words
from cmon.detectors.top_down import TopDownCorrelation, image_order
from cmon.statistics import draw

top_down = TopDownCorrelation()
seeds = st.integers(0, 10**6)


def score(activations, cosines, detector=top_down):
    return detector(np.float32(activations), evidence_with(cosines)).values


def resampled(activations, cosines, draws, detector=top_down):
    return list(detector.resampled_scores(np.float32(activations), evidence_with(cosines), draws))


# Against the oracle


@settings(max_examples=60)
@given(case=sizes, digits=st.integers(0, 5), power=st.floats(0.05, 20))
def test_top_down_is_its_oracle(case, digits, power):
    activations, cosines = rounded_case(*case, digits)
    assert_as_oracle(TopDownCorrelation(power), "top_down", activations, cosines, 1e-5, power=power)


@settings(max_examples=25)
@given(case=sizes, digits=st.integers(0, 5), seed=seeds, power=st.sampled_from([1.0, 2.0, 5.0]))
def test_a_resample_is_scored_as_its_repeated_images(case, digits, seed, power):
    activations, cosines = rounded_case(*case, digits)
    draws = draw(len(cosines), 0, 3, seed)
    for counts, scores in zip(
        draws.resamples, resampled(activations, cosines, draws, TopDownCorrelation(power)), strict=True
    ):
        rows = np.repeat(np.arange(len(counts)), counts)
        expected = oracles.top_down(activations[rows].tolist(), cosines[rows].tolist(), power)
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=2e-5)


def test_the_score_by_hand():
    weights = np.log(4 / np.array([1, 2, 3, 4])) ** 2
    cosines = np.array([0.9, 0.1, 0.5, 0.2])
    expected = 2 * np.corrcoef(weights, cosines)[0, 1]
    found = score([[8], [4], [2], [1]], cosines[:, None])
    assert found.dtype == np.float32
    assert found == pytest.approx(expected, abs=1e-6)
    shared = np.array([weights[0], weights[1:3].mean(), weights[1:3].mean(), weights[3]])
    expected = 2 * np.corrcoef(shared, cosines)[0, 1]
    assert score([[8], [4], [4], [1]], cosines[:, None]) == pytest.approx(expected, abs=1e-6)


def test_no_score_exceeds_the_root_of_the_images_and_a_words_own_unit_reaches_it():
    weights = np.log(50 / np.arange(1, 51)) ** 2
    found = score(np.arange(50, 0, -1.0)[:, None], np.stack([weights, -weights], axis=1) / 40)
    np.testing.assert_allclose(found, [[50**0.5, -(50**0.5)]], rtol=1e-5)


# What does not change a score


@settings(max_examples=30)
@given(seed=seeds, digits=st.integers(0, 3))
def test_only_the_order_of_a_units_activations_matters(seed, digits):
    activations, cosines = rounded_case(30, 4, 5, seed, digits)
    plain = score(activations, cosines)
    for one in (np.exp, lambda x: x**3, lambda x: 1e20 * x - 1e20, np.arctan):
        mapped = np.float32(one(np.float64(activations)))
        pairs = zip(activations.T, mapped.T, strict=True)
        if all(len(np.unique(column)) == len(np.unique(other)) for column, other in pairs):  # no new ties by rounding
            np.testing.assert_array_equal(score(mapped, cosines), plain)


@settings(max_examples=30)
@given(seed=seeds, scale=st.floats(0.01, 100), shift=st.floats(-1, 1))
def test_a_words_cosines_may_be_shifted_and_stretched(seed, scale, shift):
    activations, cosines = random_case(seed)
    scaled = np.float64(cosines) * scale + shift * scale
    np.testing.assert_allclose(score(activations, scaled), score(activations, cosines), atol=2e-3)
    np.testing.assert_allclose(score(activations, -scaled), -score(activations, cosines), atol=2e-3)


@settings(max_examples=20)
@given(seed=seeds)
def test_neighbours_and_other_words_change_no_score(seed):
    activations, cosines = random_case(seed)
    plain = score(activations, cosines)
    np.testing.assert_allclose(score(activations[:, 2:4], cosines), plain[2:4], atol=1e-5)
    others = cosines.copy()
    others[:, [0, 5]] = np.random.default_rng(seed).uniform(-1, 1, (80, 2))
    kept = [1, 2, 3, 4, 6, 7, 8]
    np.testing.assert_allclose(score(activations, others)[:, kept], plain[:, kept], atol=1e-4)
    features = np.random.default_rng(seed).normal(size=(80, 12)) / 4
    words = np.random.default_rng(seed + 1).normal(size=(9, 12)) / 4
    whole = top_down(activations, evidence_of(features, words)).values
    alone = top_down(activations, evidence_of(features, words[3:4])).values
    np.testing.assert_allclose(alone, whole[:, 3:4], atol=1e-5)


# Constants


def test_a_word_whose_cosines_are_all_equal_has_a_score_of_0():
    activations, cosines = random_case()
    rounding = np.where(np.arange(80) % 2, 1e-7, -1e-7)
    cosines[:, [1, 4]] = np.float32(np.stack([np.full(80, 0.3), 0.3 + rounding], axis=1))
    scores = score(activations, cosines)
    assert (scores[:, [1, 4]] == 0).all()
    assert (np.delete(scores, [1, 4], axis=1) != 0).all()


@pytest.mark.parametrize("power", [0.01, 1.0, 2.0, 20.0])
@pytest.mark.parametrize("images", [1, 2, 3, 79, 80, 1000, 1013])
def test_a_constant_unit_has_a_score_of_0(power, images):
    activations, cosines = random_case(images=images)
    activations[:, [0, 3]] = [0, 7]
    scores = score(activations, cosines, TopDownCorrelation(power))
    assert (scores[[0, 3]] == 0).all()
    assert images < 3 or (scores[[1, 2, 4]] != 0).any()


@pytest.mark.parametrize("power", [0.01, 1.0, 2.0, 20.0])
def test_what_is_constant_in_a_resample_has_a_score_of_0_there(power):
    activations, cosines = random_case(images=81)
    activations[:, 2], cosines[:, 4] = 0, 0.25
    activations[7, 2], cosines[7, 4] = 1, 0.5  # one image makes all the difference
    draws = draw(81, 0, 12, 0)
    without = draws.resamples[:, 7] == 0
    assert 2 < without.sum() < 9
    for missing, scores in zip(without, resampled(activations, cosines, draws, TopDownCorrelation(power)), strict=True):
        assert np.isfinite(scores).all()
        if missing:
            assert (scores[2] == 0).all()
            assert (scores[:, 4] == 0).all()
        else:
            assert (scores[2] != 0).all()


def test_units_that_differ_on_one_image_only_are_scored_by_that_image():
    """However many others share a value: the weights' deviation is small, and not rounding."""
    images = 3000
    _, cosines = random_case(images=images)
    activations = np.zeros((images, 2))
    activations[5] = 1, -1
    expected = (cosines[5] - cosines.mean(axis=0, dtype=np.float64)) / cosines.std(axis=0, dtype=np.float64)
    scale = images**0.5 / (images - 1) ** 0.5
    for power in (0.5, 1.0, 2.0, 20.0):  # at 0.01 the weights are all but equal by themselves
        scores = score(activations, cosines, TopDownCorrelation(power))
        np.testing.assert_allclose(scores, scale * np.stack([expected, -expected]), atol=1e-3)


# What chance makes of it


@pytest.mark.parametrize("ties", [False, True])
def test_chance_has_a_mean_of_0_and_a_standard_deviation_of_1_for_all_units_and_words(ties):
    random = np.random.default_rng(0)
    images = 500
    cosines = np.stack(
        [0.2 + 0.003 * random.normal(size=images), random.exponential(size=images), random.integers(0, 2, images)], 1
    )
    activations = random.normal(size=(images, 1000))
    if ties:
        activations = np.where(activations > 1.5, np.round(activations, 1), 0)
    scores = score(activations, cosines)
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=0.1)  # three standard errors
    np.testing.assert_allclose(scores.std(axis=0), 1, atol=0.07)


def test_permuted_images_are_scored_as_permuted_activations_also_where_they_tie():
    activations, cosines = rounded_case(60, 300, 8, 0, digits=0)
    draws = draw(60, 7, 0, 5)
    for units in (1, 5, 300):
        found = top_down.null_scores(activations[:, :units], evidence_with(cosines), draws)
        expected = [score(activations[order, :units], cosines).max(axis=1) for order in draws.orders]
        assert found.shape == (units, 7)
        np.testing.assert_allclose(found, np.transpose(expected), atol=2e-5)


# Exactness


def test_features_with_a_common_direction_lose_no_more_than_a_thousandth():
    """An encoder's cosines are often 0.2 +- 0.003: what all images and words share must not cost what tells them."""
    random = np.random.default_rng(1)
    common = np.zeros(256)
    common[0] = 1
    images, words = (random.normal(size=(count, 256)) / 16 for count in (2000, 30))
    images = 0.05 * images + common
    words = words + 0.2 * common
    images, words = (np.float32(x / np.linalg.norm(x, axis=1, keepdims=True)) for x in (images, words))
    cosines = np.float64(images) @ np.float64(words).T
    assert cosines.mean() == pytest.approx(0.2, abs=0.02)
    assert cosines.std(axis=0).mean() == pytest.approx(0.003, abs=0.0005)
    activations = np.float32(cosines[:, :6] + 0.003 * random.normal(size=(2000, 6)))
    weights = [oracles.top_down_weights(column, 2.0) for column in activations[:400].T.tolist()]
    expected = 400**0.5 * np.corrcoef(np.array(weights), cosines[:400].T)[:6, 6:]
    evidence = evidence_of(images[:400], words)
    np.testing.assert_allclose(top_down(activations[:400], evidence).values, expected, atol=1e-3)
    assert expected.max() > 5  # and what they tell is much
    every = evidence_of(images, words)
    ranks = np.argsort(np.argsort(-activations, axis=0), axis=0) + 1
    expected = 2000**0.5 * np.corrcoef((np.log(2000 / ranks) ** 2).T, cosines.T)[:6, 6:]
    np.testing.assert_allclose(top_down(activations, every).values, expected, atol=1e-3)
    counts = draw(2000, 0, 1, 0).resamples
    rows = np.repeat(np.arange(2000), counts[0])
    (found,) = top_down.resampled_scores(activations, every, draw(2000, 0, 1, 0))
    literal = top_down(activations[rows], every.of_images(rows)).values
    np.testing.assert_allclose(found, literal, atol=2e-3)


def test_words_are_scored_in_blocks(monkeypatch):
    from cmon.records import arrays

    activations, cosines = random_case()
    whole = score(activations, cosines)
    drawn = resampled(activations, cosines, draw(80, 0, 2, 0))
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 12 * 80 * 2)
    np.testing.assert_allclose(score(activations, cosines), whole, atol=1e-5)
    np.testing.assert_allclose(resampled(activations, cosines, draw(80, 0, 2, 0)), drawn, atol=1e-5)


def test_what_depends_on_evidence_and_draws_alone_is_worked_out_once_for_all_layers(monkeypatch):
    from cmon.detectors import top_down as module

    made, plain = [], module._found_deviations
    monkeypatch.setattr(module, "_found_deviations", lambda *given: made.append(len(given[2])) or plain(*given))
    activations, cosines = random_case()
    evidence = evidence_with(cosines)
    for layer in (activations, activations[:, 2:], -activations):
        draws = draw(80, 3, 5, 0)  # other arrays with the same numbers, as of another detector
        label(top_down, layer, evidence, rate=0.05, draws=draws)
        half_words(top_down, layer, evidence, draws)
    assert sorted(made) == [1, 2, 5]
    centred = evidence.kept["centred"]
    label(top_down, activations, evidence, draws=draw(80, 3, 5, 1))  # other resamples
    assert sorted(made) == [1, 2, 5, 5]
    assert evidence.kept["centred"] is centred


def test_neither_threads_nor_blocks_change_the_order_of_images(monkeypatch):
    activations, _ = rounded_case(60, 50, 3, 0, digits=1)
    expected = image_order(np.float32(activations))
    for number in ("1", "2", "7"):
        monkeypatch.setenv("OMP_NUM_THREADS", number)
        assert image_order(np.float32(activations)).tobytes() == expected.tobytes()
