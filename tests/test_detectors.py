import tracemalloc
from dataclasses import fields
from pathlib import Path

import make_golden
import numpy as np
import pytest
from cases import (
    PRIORS,
    assert_as_oracle,
    every_similarity,
    evidence_of,
    evidence_with,
    fitting,
    label,
    planted_case,
    random_case,
    rounded_case,
    sizes,
    with_prior,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from cmon.config import ClipDissect
from cmon.detectors import detector_from
from cmon.detectors.base import label_layer
from cmon.detectors.clip_dissect import (
    SIMILARITIES,
    CosSimilarity,
    CosSimilarityCubed,
    RankReorder,
    SoftWpmi,
    TopDownCorrelation,
    Wpmi,
)
from cmon.errors import ConfigError, DetectorError
from cmon.fingerprint import canonical_json
from cmon.records import ALIVE, CONSTANT, DEAD, SATURATED, LayerActivations, Scores, arrays
from cmon.statistics import draw, significance

SHARED = Path(__file__).resolve().parents[2] / "shared"


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
        ("top_down", TopDownCorrelation(), 1e-4),
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


@settings(max_examples=40)
@given(
    case=sizes,
    digits=st.integers(0, 5),
    p=st.floats(0.5, 6),
    top_fraction=st.floats(0.5, 1),
    scale_p=st.floats(0, 2),
)
def test_rank_reorder_is_its_oracle(case, digits, p, top_fraction, scale_p):
    activations, cosines = rounded_case(*case, digits)
    # Means of a few rounded cosines that cancel to rounding errors on either side of the floor decide thousands.
    cosines = np.abs(cosines) + np.float32(0.01)
    chosen = {"p": p, "top_fraction": top_fraction, "scale_p": scale_p}
    assert_as_oracle(RankReorder(**chosen), "rank_reorder", activations, cosines, 1e-5, **chosen)


@settings(max_examples=30)
@given(case=sizes, digits=st.integers(1, 5))
def test_cosines_are_their_oracles(case, digits):
    activations, cosines = rounded_case(*case, digits)
    cosines[0] += np.float32(2)  # no column is zero
    assert_as_oracle(CosSimilarity(), "cos_similarity", activations, cosines, 1e-6)
    assert_as_oracle(CosSimilarityCubed(), "cos_similarity_cubed", activations, cosines, 1e-6)


def test_cubes_of_cosines_that_hardly_differ_are_not_blown_up():
    """Their norms are at least 1e-3, as in the original."""
    activations, cosines = random_case()
    cosines = np.float32(0.2 + 0.3 * (cosines - 0.2))
    assert_as_oracle(CosSimilarityCubed(), "cos_similarity_cubed", activations, cosines, 1e-7)
    assert np.abs(CosSimilarityCubed()(activations, evidence_with(cosines)).values).max() < 0.05


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
@settings(max_examples=15)
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
def test_units_that_are_not_alive_change_no_other_units_scores(name):
    activations, cosines = random_case()
    detector, evidence, draws = fitting(name, 80), evidence_with(cosines), draw(80, 3, 4, 0)
    dead = np.tile(np.float32([0, 7, -1e5, 1]), (80, 1))
    dead[3, 3] = 0
    labels = label(detector, np.hstack([activations, dead]), evidence, rate=0.9, draws=draws)
    alone = label(detector, activations, evidence, rate=0.9, draws=draws)
    assert labels.state.tolist() == [ALIVE] * 7 + [DEAD, CONSTANT, CONSTANT, SATURATED]
    assert labels.alive.tolist() == [True] * 7 + [False] * 4
    for kept in ("p_value", "interpretable", "resampled_concept", "resampled_score", "resampled_interpretable"):
        np.testing.assert_array_equal(getattr(labels, kept)[:7], getattr(alone, kept))
    np.testing.assert_array_equal(labels.scores[:7], alone.scores)
    np.testing.assert_array_equal(labels.top_images[:7], alone.top_images)
    assert labels.facts == alone.facts
    if alone.log_prior is not None:
        np.testing.assert_array_equal(labels.log_prior, alone.log_prior)
    assert np.isnan(labels.scores[7:]).all()
    assert np.isnan(labels.top_score[7:]).all()
    assert (labels.top_concept[7:] == -1).all()
    assert (labels.top_images[7:] == -1).all()
    assert np.isnan(labels.p_value[7:]).all()
    assert (labels.resampled_concept[7:] == -1).all()
    assert np.isnan(labels.resampled_score[7:]).all()
    assert not labels.resampled_interpretable[7:].any()
    assert not labels.interpretable[7:].any()
    without = label(detector, np.hstack([activations, dead]), evidence)
    assert without.interpretable.tolist() == without.alive.tolist()


@every_similarity
def test_a_layer_of_dead_units_has_no_scores(name):
    _, cosines = random_case()
    labels = label(fitting(name, 80), np.full((80, 4), 3), evidence_with(cosines), tau=-1e9, draws=draw(80, 2, 3, 0))
    assert np.isnan(labels.scores).all()
    assert labels.resampled_concept.shape == labels.resampled_score.shape == (4, 3, 9)
    assert labels.resampled_interpretable.tolist() == [[False] * 3] * 4
    assert np.isnan(labels.p_value).all()
    of_a_rate = label(fitting(name, 80), np.full((80, 4), 3), evidence_with(cosines), rate=0.5, draws=draw(80, 2, 3, 0))
    assert not of_a_rate.interpretable.any()
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


@pytest.mark.parametrize("name", ["top_down", *PRIORS, "rank_reorder", "cos_similarity"])
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
    activations, cosines = planted_case()
    detector = fitting(name, 240, **({"top_k": 20, "a": 10.0} if name in PRIORS else {}))
    labels = label(detector, activations, evidence_with(cosines))
    assert labels.top_concept[:, 0].tolist() == list(range(6))


@every_similarity
def test_all_equal_cosines_give_all_concepts_one_score(name):
    activations, _ = random_case()
    labels = label(fitting(name, 80), activations, evidence_with(np.full((80, 4), np.float32(0.2))))
    assert np.isfinite(labels.scores).all()
    np.testing.assert_allclose(labels.scores, labels.scores[:, :1] * np.ones(4), rtol=1e-6, atol=1e-7)


def peak_of_labelling(detector, draws, monkeypatch, block):
    """Label 12 units against 6,000 images and 700 concepts."""
    monkeypatch.setattr(arrays, "BLOCK_BYTES", block)
    random = np.random.default_rng(0)
    activations = np.float32(random.normal(size=(6000, 12)))
    evidence = evidence_of(random.normal(size=(6000, 8)) / 8, random.normal(size=(700, 8)))
    tracemalloc.start()
    try:
        label_layer(detector, LayerActivations("layer", activations), evidence, significance.Test(None, 0.05), draws)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", sorted(SIMILARITIES.keys() - {"top_down"}))
def test_memory_is_the_cosines_and_blocks_of_them(name, monkeypatch):
    """Those with a prior keep one table of (images, concepts) too: the softmax of the cosines, and not the cosines."""
    detector = SIMILARITIES[name](**({"top_fraction": 0.02} if name == "rank_reorder" else {}))
    peak = peak_of_labelling(detector, draw(6000, 0, 0, 0), monkeypatch, 2**20)
    cosines = 6000 * 700 * 4
    assert cosines < peak < 1.1 * cosines + 3 * 2**20


@with_prior
def test_permutations_and_resamples_take_no_further_table(name, monkeypatch):
    peak = peak_of_labelling(SIMILARITIES[name](), draw(6000, 3, 3, 0), monkeypatch, 2**20)
    assert peak < 1.1 * 6000 * 700 * 4 + 3 * 2**20


def test_top_down_never_makes_the_cosines(monkeypatch):
    peak = peak_of_labelling(TopDownCorrelation(), draw(6000, 0, 0, 0), monkeypatch, 2**20)
    assert peak < 0.5 * 6000 * 700 * 4
    drawn = peak_of_labelling(TopDownCorrelation(), draw(6000, 30, 3, 0), monkeypatch, 2**20)
    assert drawn < 0.5 * 6000 * 700 * 4  # one permutation's or resample's features at a time


# Labels


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


@pytest.mark.parametrize("draws", [draw(80, 5, 0, 0), draw(80, 0, 5, 0)], ids=["permuted", "resampled"])
def test_scores_that_are_nan_on_drawn_images_only_are_refused(draws):
    """As of a correlation that divides by the deviation of a unit that is constant in a resample."""
    activations, cosines = random_case()

    def broken(given, evidence):
        values = np.full((given.shape[1], 9), np.nan if given.tobytes() != activations.tobytes() else 1, np.float32)
        return Scores(values, None, {})

    with pytest.raises(DetectorError, match="layer: the detector's scores are NaN"):
        label(broken, activations, evidence_with(cosines), rate=0.05, draws=draws)


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


# Tests, permutations and resamples


@every_similarity
def test_chance_makes_few_units_interpretable_and_planted_ones_all_are(name):
    activations, cosines = planted_case(noise=30)
    detector = fitting(name, 240, **({"top_k": 20, "a": 10.0} if name in PRIORS else {}))
    labels = label(detector, activations, evidence_with(cosines), rate=0.05, draws=draw(240, 20, 0, 0))
    assert labels.interpretable[:6].all()
    assert labels.interpretable[6:].sum() <= 2
    noise = label(detector, activations[:, 6:], evidence_with(cosines), rate=0.05, draws=draw(240, 20, 0, 0))
    assert not noise.interpretable.any()
    assert 0.2 < noise.p_value.mean() < 0.8


@every_similarity
def test_permutations_and_resamples_change_no_score_and_no_word(name):
    activations, cosines = random_case()
    plain = label(fitting(name, 80), activations, evidence_with(cosines))
    drawn = label(fitting(name, 80), activations, evidence_with(cosines), draws=draw(80, 3, 4, 0))
    for kept in ("scores", "top_concept", "top_score", "top_images", "state"):
        np.testing.assert_array_equal(getattr(drawn, kept), getattr(plain, kept))
    assert drawn.facts == plain.facts
    assert np.isnan(plain.p_value).all()
    assert not np.isnan(drawn.p_value).any()
    shapes = {kept: getattr(plain, kept).shape for kept in ("resampled_concept", "resampled_score")}
    assert shapes == dict.fromkeys(shapes, (7, 0, 9))
    assert plain.resampled_interpretable.shape == (7, 0)
    assert drawn.resampled_interpretable.shape == (7, 4)
    for labels in (plain, drawn):
        assert labels.ranking.shape == (7, 0)
        assert labels.quality.shape == (7, 4)
        assert np.isnan(labels.quality).all()


def test_a_resampled_unit_passes_by_its_score_there():
    activations, cosines = random_case()
    tau = float(np.median(label(CosSimilarity(), activations, evidence_with(cosines)).top_score[:, 0]))
    labels = label(CosSimilarity(), activations, evidence_with(cosines), tau=tau, draws=draw(80, 0, 30, 0))
    best = labels.resampled_score[:, :, 0]
    assert labels.resampled_interpretable.tolist() == (best >= tau).tolist()
    assert 0.1 < labels.resampled_interpretable.mean() < 0.9


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
    units = {"top_down": "standard deviations", "rank_reorder": "minus relative error"}
    units |= dict.fromkeys(PRIORS, "nats") | dict.fromkeys(("cos_similarity", "cos_similarity_cubed"), "cosine")
    assert made.score_unit == units[name]


def test_top_down_is_the_default_and_the_papers_function_stays_by_name():
    assert detector_from(table()) == TopDownCorrelation(power=2.0)
    assert detector_from(table(similarity="soft_wpmi")) == SoftWpmi()
    assert table().tau == "fdr:0.05"


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
    assert TopDownCorrelation().recipe() == {"similarity": "top_down", "power": 2.0}
    assert CosSimilarity().recipe() == {"similarity": "cos_similarity"}
    assert CosSimilarityCubed().recipe() == {"similarity": "cos_similarity_cubed"}
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
    "power": 3.0,
}
USED = [(name, field.name) for name, kind in SIMILARITIES.items() for field in fields(kind)]


@every_similarity
def test_every_parameter_is_used_or_refused(name):
    parameters = set(ClipDissect.model_fields) - {"kind", "name", "similarity", "tau", "prior"}
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


@pytest.mark.parametrize("name", sorted(SIMILARITIES.keys() - set(PRIORS)))
def test_the_studys_prior_is_refused_where_there_is_no_prior(name):
    with pytest.raises(ConfigError, match="detector clip_dissect: prior: has an effect only on soft_wpmi and wpmi"):
        detector_from(table(similarity=name, prior="study"))
    assert detector_from(table(similarity=name, prior="layer")) == SIMILARITIES[name]()


@with_prior
def test_the_studys_prior_is_refused_where_it_weighs_nothing(name):
    with pytest.raises(ConfigError, match=r"detector mine: prior: has an effect only .* where lam is not 0") as caught:
        detector_from(table(name="mine", similarity=name, prior="study", lam=0))
    assert "set lam" in caught.value.hint
    assert detector_from(table(similarity=name, prior="study")) == SIMILARITIES[name]()


def test_an_unknown_kind_lists_the_known_ones():
    with pytest.raises(ConfigError, match="unknown: neural_dissect") as caught:
        detector_from(type("Table", (), {"kind": "neural_dissect"})())
    assert "clip_dissect" in caught.value.hint
