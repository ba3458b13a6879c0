import tracemalloc
from dataclasses import fields, replace
from pathlib import Path

import make_golden
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmon.config import ClipDissect
from cmon.detectors import detector_from
from cmon.detectors.base import best_concepts, label_layer
from cmon.detectors.clip_dissect import SIMILARITIES, CosSimilarity, CosSimilarityCubed, RankReorder, SoftWpmi, Wpmi
from cmon.dissect import is_low
from cmon.errors import ConfigError, DetectorError
from cmon.fingerprint import canonical_json
from cmon.records import Concepts, Evidence, LayerActivations, Scores, arrays
from cmon.statistics import alive_units, prior_perplexity, top_images

SHARED = Path(__file__).resolve().parents[2] / "shared"
PRIORS = ("soft_wpmi", "wpmi")
NAMES = list(SIMILARITIES)

every_similarity = pytest.mark.parametrize("name", NAMES)
with_prior = pytest.mark.parametrize("name", PRIORS)


def evidence_of(image_features, concept_features):
    words = tuple(f"word {c}" for c in range(len(concept_features)))
    ids = tuple(f"{i:05}" for i in range(len(image_features)))
    return Evidence(ids, Concepts(words, ("",) * len(words)), np.float32(image_features), np.float32(concept_features))


def evidence_with(cosines):
    """Evidence whose cosines are exactly these."""
    return evidence_of(cosines, np.eye(np.shape(cosines)[1]))


def label(detector, activations, evidence, tau=None):
    return label_layer(detector, LayerActivations("layer", np.float32(activations)), evidence, tau)


def fitting(name, images, **parameters):
    """A similarity function with the defaults, but no more top images than there are."""
    if name in PRIORS:
        parameters = {"top_k": max(1, images // 4), **parameters}
    elif name == "rank_reorder":
        parameters = {"top_fraction": 0.25, **parameters}
    return SIMILARITIES[name](**parameters)


def random_case(seed=0, images=80, units=7, concepts=9):
    random = np.random.default_rng(seed)
    cosines = np.float32(0.2 + 0.03 * random.normal(size=(images, concepts)))
    return np.float32(random.normal(size=(images, units))), cosines


# Against the oracles


@pytest.fixture(scope="module")
def golden():
    with np.load(make_golden.GOLDEN) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def golden_evidence(golden):
    return evidence_of(golden["image_features"], golden["concept_features"])


def test_the_golden_file_is_what_its_script_makes(golden):
    made = make_golden.golden()
    assert made.keys() == golden.keys()
    for name, values in made.items():
        np.testing.assert_allclose(values, golden[name], rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(
    ("expected", "detector", "within"),
    [
        ("soft_wpmi", SoftWpmi(), 1e-3),
        ("soft_wpmi_auto", SoftWpmi(a="auto"), 1e-3),
        ("wpmi", Wpmi(), 1e-3),
        ("rank_reorder", RankReorder(), 2e-3),  # where the mean cosine is at its floor scores are in the thousands
        ("cos_similarity", CosSimilarity(), 1e-6),
        ("cos_similarity_cubed", CosSimilarityCubed(), 1e-6),
    ],
)
def test_defaults_agree_with_the_golden_oracle(golden, golden_evidence, expected, detector, within):
    labels = label(detector, golden["activations"], golden_evidence)
    alive = np.delete(labels.scores, make_golden.DEAD, axis=0)
    np.testing.assert_allclose(alive, golden[expected], rtol=1e-5, atol=within)
    assert not labels.alive[make_golden.DEAD]
    assert labels.alive.sum() == 5
    assert np.delete(labels.top_concept[:, 0], make_golden.DEAD).tolist() == golden[expected].argmax(1).tolist()


def test_prior_its_perplexity_and_top_images_agree_with_the_golden_oracle(golden, golden_evidence):
    labels = label(SoftWpmi(), golden["activations"], golden_evidence)
    np.testing.assert_allclose(labels.log_prior, golden["soft_wpmi_log_prior"], atol=1e-3)
    assert labels.facts["prior_perplexity"] == pytest.approx(float(golden["soft_wpmi_prior_perplexity"]), abs=1e-3)
    np.testing.assert_array_equal(np.delete(labels.top_images, make_golden.DEAD, axis=0), golden["top_images"])
    assert (labels.top_images[make_golden.DEAD] == -1).all()


sizes = st.tuples(st.integers(4, 25), st.integers(1, 5), st.integers(1, 6), st.integers(0, 10**6))


def drawn(case, digits):
    """Few digits make ties of activations, of cosines, and whole rows and columns of equals."""
    images, units, concepts, seed = case
    random = np.random.default_rng(seed)
    activations = np.round(random.normal(size=(images, units)), digits)
    activations[0] += 1e-3 + np.arange(units)  # no unit is constant
    return np.float32(activations), np.float32(np.round(random.uniform(-1, 1, size=(images, concepts)), digits))


def assert_as_oracle(detector, name, activations, cosines, atol, **parameters):
    expected = oracles.ORACLES[name](activations.tolist(), cosines.tolist(), **parameters)
    scores = detector(activations, evidence_with(cosines)).values
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=atol)


@settings(max_examples=60, deadline=None)
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
    activations, cosines = drawn(case, digits)
    chosen = {"top_k": max(1, round(share * case[0])), "a": a, "lam": lam, "p_start": p_start, "p_end": p_end}
    assert_as_oracle(SoftWpmi(**chosen), "soft_wpmi", activations, cosines, 2e-3, **chosen)


@settings(max_examples=40, deadline=None)
@given(case=sizes, digits=st.integers(0, 5), share=st.floats(0, 1), a=st.floats(0.01, 200), lam=st.floats(0, 2))
def test_wpmi_is_its_oracle(case, digits, share, a, lam):
    activations, cosines = drawn(case, digits)
    chosen = {"top_k": max(1, round(share * case[0])), "a": a, "lam": lam}
    assert_as_oracle(Wpmi(**chosen), "wpmi", activations, cosines, 2e-3, **chosen)


@settings(max_examples=40, deadline=None)
@given(
    case=sizes,
    digits=st.integers(0, 5),
    p=st.floats(0.5, 6),
    top_fraction=st.floats(0.5, 1),
    scale_p=st.floats(0, 2),
)
def test_rank_reorder_is_its_oracle(case, digits, p, top_fraction, scale_p):
    activations, cosines = drawn(case, digits)
    # Means of a few rounded cosines that cancel to rounding errors on either side of the floor decide thousands.
    cosines = np.abs(cosines) + np.float32(0.01)
    chosen = {"p": p, "top_fraction": top_fraction, "scale_p": scale_p}
    assert_as_oracle(RankReorder(**chosen), "rank_reorder", activations, cosines, 1e-5, **chosen)


@settings(max_examples=30, deadline=None)
@given(case=sizes, digits=st.integers(1, 5))
def test_cosines_are_their_oracles(case, digits):
    activations, cosines = drawn(case, digits)
    cosines[0] += np.float32(2)  # no column is zero
    assert_as_oracle(CosSimilarity(), "cos_similarity", activations, cosines, 1e-6)
    assert_as_oracle(CosSimilarityCubed(), "cos_similarity_cubed", activations, cosines, 1e-6)


@settings(max_examples=60, deadline=None)
@given(case=sizes, digits=st.integers(0, 2), share=st.floats(0, 1))
def test_top_images_are_their_oracle(case, digits, share):
    activations, _ = drawn(case, digits)
    count = max(1, round(share * case[0]))
    assert top_images(activations, count).tolist() == oracles.top_images(activations.tolist(), count)


@settings(max_examples=40, deadline=None)
@given(case=sizes, scale=st.floats(0.01, 1000))
def test_prior_perplexity_is_its_oracle(case, scale):
    likelihood = scale * np.random.default_rng(case[3]).normal(size=case[1:3])
    concepts = likelihood.argmax(axis=1)
    expected = oracles.prior_perplexity(likelihood.tolist(), concepts.tolist())
    assert prior_perplexity(likelihood, concepts.astype(np.int32)) == pytest.approx(expected, rel=1e-9)


# Against the original's outputs


@pytest.fixture(scope="module")
def reference():
    file = SHARED / "data/golden/clip_dissect_reference.npz"
    if not file.exists():
        pytest.skip("../shared/data/golden/clip_dissect_reference.npz is absent")
    with np.load(file) as arrays:
        return dict(arrays)


def reference_labels(reference, detector):
    """All 40 units go in: the dead one, unit 0, must be left out of the prior for the others to agree."""
    labels = label(
        detector, reference["activations"], evidence_of(reference["image_features"], reference["concept_features"])
    )
    assert np.flatnonzero(~labels.alive).tolist() == [0]
    return labels


@pytest.mark.parametrize(
    ("expected", "detector", "within"),
    [
        ("soft_wpmi", SoftWpmi(), 1e-3),
        ("soft_wpmi_top50_lam06", SoftWpmi(top_k=50, lam=0.6), 1e-3),
        ("wpmi", Wpmi(), 1e-3),
        ("cos_similarity", CosSimilarity(), 1e-5),
        ("cos_similarity_cubed", CosSimilarityCubed(), 1e-5),
    ],
)
def test_scores_agree_with_the_original(reference, expected, detector, within):
    labels = reference_labels(reference, detector)
    np.testing.assert_allclose(labels.scores[1:], reference[expected], rtol=0, atol=within)
    assert labels.top_concept[1:, 0].tolist() == reference[expected].argmax(1).tolist()


def test_rank_reorder_is_the_mean_of_the_originals_random_orders(reference):
    scores = reference_labels(reference, RankReorder()).scores[1:]
    mean, std = reference["rank_reorder_mean"], reference["rank_reorder_std"]
    finite = np.isfinite(mean)
    assert finite.mean() > 0.5
    assert (np.abs(scores - mean)[finite] < 3 * std[finite]).all()
    assert np.isfinite(scores).all()


# Properties of every similarity function


@every_similarity
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_images_units_or_concepts_does_not_matter(name, seed):
    activations, cosines = random_case(seed)
    random = np.random.default_rng(seed + 1)
    images, units, concepts = (random.permutation(count) for count in (80, 7, 9))
    detector = fitting(name, 80)
    plain = detector(activations, evidence_with(cosines))
    mixed = detector(activations[images][:, units], evidence_with(cosines[images][:, concepts]))
    np.testing.assert_allclose(mixed.values, plain.values[units][:, concepts], rtol=1e-5, atol=1e-4)
    if plain.log_prior is not None:
        np.testing.assert_allclose(mixed.log_prior, plain.log_prior[concepts], rtol=1e-5, atol=1e-4)
        assert mixed.facts["prior_perplexity"] == pytest.approx(plain.facts["prior_perplexity"], abs=1e-3)


@every_similarity
def test_dead_units_change_no_other_units_scores(name):
    activations, cosines = random_case()
    detector, evidence = fitting(name, 80), evidence_with(cosines)
    dead = np.tile([0, 7, -1e5], (80, 1))
    labels = label(detector, np.hstack([activations, dead]), evidence)
    alone = label(detector, activations, evidence)
    assert labels.alive.tolist() == [True] * 7 + [False] * 3
    np.testing.assert_array_equal(labels.scores[:7], alone.scores)
    np.testing.assert_array_equal(labels.top_images[:7], alone.top_images)
    assert labels.facts == alone.facts
    if alone.log_prior is not None:
        np.testing.assert_array_equal(labels.log_prior, alone.log_prior)
    assert np.isnan(labels.scores[7:]).all()
    assert np.isnan(labels.top_score[7:]).all()
    assert (labels.top_concept[7:] == -1).all()
    assert (labels.top_images[7:] == -1).all()
    assert labels.interpretable.tolist() == labels.alive.tolist()


@every_similarity
def test_a_layer_of_dead_units_has_no_scores(name):
    _, cosines = random_case()
    labels = label(fitting(name, 80), np.full((80, 4), 3), evidence_with(cosines), tau=-1e9)
    assert np.isnan(labels.scores).all()
    assert not labels.alive.any()
    assert not labels.interpretable.any()
    assert labels.log_prior is None
    assert labels.facts == {}


@every_similarity
def test_scores_are_finite_at_the_edges_of_what_activations_can_be(name):
    activations, cosines = random_case()
    detector, evidence = fitting(name, 80), evidence_with(cosines)
    plain = label(detector, activations, evidence)
    for edge in (activations * 1e30, activations * 3e37, activations - 1e3):
        labels = label(detector, edge, evidence)
        assert np.isfinite(labels.scores).all()
        np.testing.assert_array_equal(labels.top_images[:, :3], plain.top_images[:, :3])


@pytest.mark.parametrize("name", [*PRIORS, "rank_reorder", "cos_similarity"])
@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_the_scale_of_activations_does_not_matter(name, scale):
    activations, cosines = random_case()
    detector, evidence = fitting(name, 80), evidence_with(cosines)
    expected = label(detector, activations, evidence).scores
    np.testing.assert_allclose(label(detector, activations * scale, evidence).scores, expected, rtol=1e-5, atol=1e-6)


def test_huge_activations_do_not_overflow_when_cubed():
    activations, cosines = random_case()
    plain, huge = (CosSimilarityCubed()(x, evidence_with(cosines)).values for x in (activations, activations * 1e30))
    np.testing.assert_allclose(huge, plain, rtol=1e-5)


@every_similarity
def test_one_concept_or_one_unit_can_be_scored(name):
    activations, cosines = random_case()
    one_concept = label(fitting(name, 80), activations, evidence_with(cosines[:, :1]))
    assert one_concept.top_concept.tolist() == [[0]] * 7
    assert np.isfinite(one_concept.scores).all()
    one_unit = label(fitting(name, 80), activations[:, :1], evidence_with(cosines))
    assert one_unit.top_concept.shape == (1, 9)
    assert np.isfinite(one_unit.scores).all()


@every_similarity
def test_a_unit_that_fires_on_a_concepts_images_gets_its_word(name):
    random = np.random.default_rng(3)
    shown = random.integers(0, 6, size=240)
    cosines = 0.2 + 0.02 * random.normal(size=(240, 6)) + 0.1 * np.eye(6)[shown]
    activations = cosines + 0.005 * random.normal(size=(240, 6))  # unit u follows concept u, with strength and rank
    detector = fitting(name, 240, **({"top_k": 20, "a": 10.0} if name in PRIORS else {}))
    labels = label(detector, activations, evidence_with(cosines))
    assert labels.top_concept[:, 0].tolist() == list(range(6))


@every_similarity
def test_all_equal_cosines_give_all_concepts_one_score(name):
    activations, _ = random_case()
    labels = label(fitting(name, 80), activations, evidence_with(np.full((80, 4), np.float32(0.2))))
    assert np.isfinite(labels.scores).all()
    np.testing.assert_allclose(labels.scores, labels.scores[:, :1] * np.ones(4), rtol=1e-6, atol=1e-7)


@every_similarity
def test_memory_is_the_cosines_and_blocks_of_them(name, monkeypatch):
    block = 2**20
    monkeypatch.setattr(arrays, "BLOCK_BYTES", block)
    random = np.random.default_rng(0)
    images, concepts = 6000, 700
    activations = np.float32(random.normal(size=(images, 12)))
    evidence = evidence_of(random.normal(size=(images, 8)) / 8, random.normal(size=(concepts, 8)))
    detector = SIMILARITIES[name](**({"top_fraction": 0.02} if name == "rank_reorder" else {}))
    tracemalloc.start()
    try:
        label_layer(detector, LayerActivations("layer", activations), evidence, None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    cosines = images * concepts * 4
    assert cosines < peak < 1.1 * cosines + 3 * block


# Dead units


def test_float_noise_on_a_constant_is_dead_but_a_small_signal_is_not():
    random = np.random.default_rng(0)
    noise = random.integers(-3, 4, size=50) * np.spacing(np.float32(1))
    activations = np.stack([1 + noise, -1e6 * (1 + noise), 1 + 1e-4 * noise / noise.max(), 1e-20 * noise, 0 * noise], 1)
    assert alive_units(np.float32(activations)).tolist() == [False, False, True, True, False]


def test_a_unit_over_the_whole_range_of_float32_is_alive():
    activations = np.float32([[3e38, -3e38], [-3e38, -3e38]])
    assert alive_units(activations).tolist() == [True, False]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_activations_that_are_not_finite_are_refused(value):
    activations, cosines = random_case()
    activations[3, 2] = value
    with pytest.raises(DetectorError, match="layer: activations hold NaN or infinity"):
        label(CosSimilarity(), activations, evidence_with(cosines))


def test_scores_that_are_nan_are_refused():
    def broken(activations, evidence):
        return Scores(np.full((activations.shape[1], 9), np.nan, dtype=np.float32), None, {})

    activations, cosines = random_case()
    with pytest.raises(DetectorError, match="layer: the detector's scores are NaN"):
        label(broken, activations, evidence_with(cosines))


# Labels


def test_best_concepts_are_in_order_and_equals_stay_in_the_concepts_order():
    scores = np.float32([[1, 3, 3, 2], [0, 0, 0, 0]])
    assert best_concepts(scores, 3).tolist() == [[1, 2, 3], [0, 1, 2]]


def test_top_scores_belong_to_the_top_concepts_and_at_most_ten_are_kept():
    activations, cosines = random_case(concepts=12)
    labels = label(CosSimilarity(), activations, evidence_with(cosines))
    assert labels.top_concept.shape == labels.top_score.shape == (7, 10)
    np.testing.assert_array_equal(labels.top_score, -np.sort(-labels.scores, axis=1)[:, :10])
    np.testing.assert_array_equal(labels.top_score, np.take_along_axis(labels.scores, labels.top_concept, axis=1))


def test_fewer_images_than_are_kept_are_all_kept():
    activations, cosines = random_case(images=6)
    labels = label(CosSimilarity(), activations, evidence_with(cosines))
    assert np.sort(labels.top_images, axis=1).tolist() == [list(range(6))] * 7


def test_tau_is_a_best_score_that_just_suffices():
    activations = np.float32([[1, 0, 5], [0, 1, 5], [0, 0, 5]])
    cosines = np.float32([[1, 0], [1, 1], [0, 0]])
    evidence = evidence_with(cosines)
    best = label(CosSimilarity(), activations, evidence).top_score[:, 0]
    np.testing.assert_allclose(best[:2], [2**-0.5, 1])
    assert label(CosSimilarity(), activations, evidence, tau=0.9).interpretable.tolist() == [False, True, False]
    assert label(CosSimilarity(), activations, evidence, tau=1.0).interpretable.tolist() == [False, True, False]
    assert label(CosSimilarity(), activations, evidence, tau=1.1).interpretable.tolist() == [False, False, False]
    assert label(CosSimilarity(), activations, evidence, tau=None).interpretable.tolist() == [True, True, False]


# WPMI: a, lam, top_k and the prior


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


def test_perplexity_is_one_where_a_unit_dominates_each_word():
    likelihood = np.array([[0.0, -500, -500], [-500, 0, -500], [-500, -500, 0]])
    assert prior_perplexity(likelihood, np.int32([0, 1, 2])) == pytest.approx(1)


@pytest.mark.parametrize("units", [1, 4, 30])
def test_perplexity_is_the_number_of_units_where_all_are_equal(units):
    likelihood = np.tile([-3.0, -900, 0], (units, 1))
    assert prior_perplexity(likelihood, np.zeros(units, dtype=np.int32)) == pytest.approx(units)


def test_perplexity_is_the_median_over_the_chosen_words_only():
    # Word 0: two of three units share it. Word 1: one unit holds it. Word 2, which nobody chose: all three.
    likelihood = np.array([[0.0, -900, 0], [0, 0, 0], [-900, -900, 0]])
    assert prior_perplexity(likelihood, np.int32([0, 0, 1])) == pytest.approx(2)
    assert prior_perplexity(likelihood, np.int32([0, 1, 1])) == pytest.approx(1)


def test_equal_units_have_a_perplexity_of_their_number_in_the_facts():
    activations, cosines = random_case()
    scored = SoftWpmi(top_k=20)(np.repeat(activations[:, :1], 6, axis=1), evidence_with(cosines))
    assert scored.facts["prior_perplexity"] == pytest.approx(6)
    assert scored.facts["units"] == 6
    np.testing.assert_allclose(scored.values, 0, atol=1e-6)


# Rank reorder


def test_rank_reorder_of_equal_top_activations_goes_by_the_mean_cosine():
    activations = np.float32([[1.0]] * 4 + [[0.0]] * 4)
    cosines = np.float32([[0.1, 0.4, 0.2]] * 8)
    scored = RankReorder(top_fraction=0.5)(activations, evidence_with(cosines))
    np.testing.assert_allclose(scored.values, -1 / np.sqrt([[0.1, 0.4, 0.2]]), rtol=1e-6)


def test_rank_reorder_needs_two_images():
    activations, cosines = random_case(images=39)
    with pytest.raises(DetectorError, match=r"top_fraction = 0.05 of 39 images is fewer than two"):
        RankReorder()(activations, evidence_with(cosines))
    activations, cosines = random_case(images=40)
    assert RankReorder()(activations, evidence_with(cosines)).values.shape == (7, 9)


def test_a_high_power_does_not_overflow():
    activations, cosines = random_case()
    scores = RankReorder(p=200.0, top_fraction=0.5)(activations * np.float32(1e30), evidence_with(cosines)).values
    assert np.isfinite(scores).all()


# From the config, and recipes


def table(**keys):
    return ClipDissect(kind="clip_dissect", **keys)


@every_similarity
def test_the_config_makes_the_function_it_names_with_its_own_defaults(name):
    made = detector_from(table(similarity=name))
    assert made == SIMILARITIES[name]()
    assert made.recipe()["similarity"] == name
    assert made.score_unit == {"soft_wpmi": "nats", "wpmi": "nats", "rank_reorder": "minus relative error"}.get(
        name, "cosine"
    )


def test_the_papers_defaults():
    assert SoftWpmi().recipe() == {
        "similarity": "soft_wpmi",
        "top_k": 100,
        "a": 10.0,
        "lam": 1.0,
        "p_start": 0.998,
        "p_end": 0.97,
    }
    assert Wpmi().recipe() == {"similarity": "wpmi", "top_k": 28, "a": 2.0, "lam": 0.6}
    assert RankReorder().recipe() == {"similarity": "rank_reorder", "p": 3.0, "top_fraction": 0.05, "scale_p": 0.5}


OTHER_VALUES = {
    "top_k": 7,
    "a": 3.5,
    "a_spread": 0.1,
    "lam": 0.25,
    "p_start": 0.9,
    "p_end": 0.5,
    "p": 2.0,
    "top_fraction": 0.1,
    "scale_p": 1.0,
}
USED = [(name, field.name) for name, kind in SIMILARITIES.items() for field in fields(kind)]


@every_similarity
def test_every_parameter_is_used_or_refused(name):
    parameters = set(ClipDissect.model_fields) - {"kind", "name", "similarity", "tau"}
    assert parameters == OTHER_VALUES.keys()
    for parameter in parameters - {used for similarity, used in USED if similarity == name}:
        with pytest.raises(ConfigError, match=f"{parameter}: has no effect on {name}"):
            detector_from(table(similarity=name, **{parameter: OTHER_VALUES[parameter]}))


@pytest.mark.parametrize(("name", "parameter"), USED)
def test_another_value_of_a_parameter_is_another_recipe(name, parameter):
    automatic = {"a": "auto"} if parameter == "a_spread" else {}
    plain = detector_from(table(similarity=name, **automatic))
    other = detector_from(table(similarity=name, **automatic, **{parameter: OTHER_VALUES[parameter]}))
    assert getattr(other, parameter) == OTHER_VALUES[parameter]
    assert canonical_json(other.recipe()) != canonical_json(plain.recipe())


@every_similarity
def test_defaults_written_out_are_the_defaults(name):
    kind = SIMILARITIES[name]
    written = {f.name: f.default for f in fields(kind) if f.name != "a_spread"}
    assert detector_from(table(similarity=name, **written)).recipe() == kind().recipe()
    # TOML's 10 and 10.0 are one number, and must be one recipe.
    if name in PRIORS:
        whole = detector_from(table(similarity=name, a=int(kind.a)))
        assert canonical_json(whole.recipe()) == canonical_json(kind().recipe())


@with_prior
def test_a_spread_counts_only_where_a_is_automatic(name):
    kind = SIMILARITIES[name]
    assert kind(a_spread=0.1).recipe() == kind().recipe()
    assert kind(a="auto", a_spread=0.1).recipe() != kind(a="auto").recipe()
    with pytest.raises(ConfigError, match="a_spread: has an effect only at a = "):
        detector_from(table(similarity=name, a_spread=0.1))
    with pytest.raises(ConfigError, match="a_spread: has an effect only at a = "):
        detector_from(table(similarity=name, a_spread=0.1, a=5.0))


def test_an_unknown_kind_lists_the_known_ones():
    with pytest.raises(ConfigError, match="unknown: neural_dissect") as caught:
        detector_from(type("Table", (), {"kind": "neural_dissect"})())
    assert "clip_dissect" in caught.value.hint
