from dataclasses import replace

import numpy as np
import oracles
import pytest
from cases import evidence_with, fitting, label, random_case, repeated, with_prior
from scipy.stats import ks_2samp

from cmon.detectors import chance_scores, relabel, study_log_prior
from cmon.detectors.study_prior import ranked
from cmon.records import LayerActivations
from cmon.statistics import draw, p_values, significance

IMAGES, CONCEPTS = 80, 9
ORACLES = {"soft_wpmi": oracles.soft_wpmi_likelihood, "wpmi": oracles.wpmi_likelihood}
EVERY = significance.Test()


@pytest.fixture(scope="module")
def evidence():
    return evidence_with(random_case(images=IMAGES, concepts=CONCEPTS)[1])


def of_a_checkpoint(detector, activations, evidence):
    """Label one layer as `dissect` does where the prior is the study's: all is left to the join but the scores."""
    labels = label(detector, activations, evidence)
    return ranked(detector, labels, LayerActivations("layer", np.float32(activations)))


def checkpoints(units=(7, 4, 5), seed=1):
    """Activations of one layer at several checkpoints; one unit of each is dead."""
    random = np.random.default_rng(seed)
    made = [np.float32(random.normal(size=(IMAGES, count + 1))) for count in units]
    for activations in made:
        activations[:, 1] = 0
    return made


def likelihoods(name, detector, activations, evidence):
    """L of the living units, from the oracle."""
    alive = np.delete(np.asarray(activations, float), 1, axis=1)
    return ORACLES[name](alive.tolist(), evidence.cosines.tolist(), detector.top_k, detector.a)


def pooled(name, detector, layers, evidence):
    every = [row for activations in layers for row in likelihoods(name, detector, activations, evidence)]
    return oracles.log_prior(every)


# The prior


@with_prior
def test_the_studys_prior_is_the_mean_likelihood_of_all_units_of_all_checkpoints(name, evidence):
    detector, layers = fitting(name, IMAGES, a=40.0), checkpoints()
    found = study_log_prior([of_a_checkpoint(detector, one, evidence) for one in layers])
    np.testing.assert_allclose(found, pooled(name, detector, layers, evidence), atol=1e-3)
    assert found.dtype == np.float32
    assert found.shape == (CONCEPTS,)


def test_layers_of_dead_units_have_no_say_in_it(evidence):
    detector, layers = fitting("soft_wpmi", IMAGES), checkpoints()
    labels = [of_a_checkpoint(detector, one, evidence) for one in layers]
    dead = of_a_checkpoint(detector, np.zeros((IMAGES, 30)), evidence)
    np.testing.assert_array_equal(study_log_prior([dead, *labels, dead]), study_log_prior(labels))


def test_the_prior_of_one_checkpoint_alone_is_its_layers_own(evidence):
    labels = of_a_checkpoint(fitting("soft_wpmi", IMAGES), checkpoints()[0], evidence)
    np.testing.assert_allclose(study_log_prior([labels]), labels.log_prior, atol=1e-4)


# Scores under it


@with_prior
@pytest.mark.parametrize("lam", [1.0, 0.6])
def test_scores_are_the_likelihood_less_the_studys_prior(name, lam, evidence):
    detector, layers = fitting(name, IMAGES, a=40.0, lam=lam), checkpoints()
    labels = [of_a_checkpoint(detector, one, evidence) for one in layers]
    prior = study_log_prior(labels)
    expected_prior = np.array(pooled(name, detector, layers, evidence))
    for activations, one in zip(layers, labels, strict=True):
        found = relabel(detector, one, prior, evidence, EVERY, draw(IMAGES, 0, 0, 0), np.zeros(0, np.float32))
        expected = np.array(likelihoods(name, detector, activations, evidence)) - lam * expected_prior
        alive = np.arange(activations.shape[1]) != 1
        np.testing.assert_allclose(found.top_score[alive], -np.sort(-expected, axis=1), atol=2e-3)
        taken = np.take_along_axis(expected, found.top_concept[alive], axis=1)
        np.testing.assert_allclose(found.top_score[alive], taken, atol=2e-3)
        assert found.scores is None
        assert (found.top_concept[1] == -1).all()
        assert np.isnan(found.top_score[1]).all()
        assert found.interpretable.tolist() == alive.tolist()
        for kept in ("state", "top_images", "ranking", "log_prior"):
            np.testing.assert_array_equal(getattr(found, kept), getattr(one, kept))
        assert found.facts == {name: value for name, value in one.facts.items() if name != "prior_perplexity"}


@with_prior
def test_resamples_from_the_ranking_are_those_of_the_full_activations(name, evidence):
    detector = fitting(name, IMAGES, top_k=5, a=40.0)
    activations = checkpoints()[0]
    labels = of_a_checkpoint(detector, activations, evidence)
    assert labels.ranking.shape == (8, 70)  # fewer than there are images
    prior, draws = study_log_prior([labels]), draw(IMAGES, 4, 20, 3)
    null = chance_scores(detector, evidence, prior, draws)
    test = significance.Test(None, 0.9)
    found = relabel(detector, labels, prior, evidence, test, draws, null)
    alive = labels.alive
    alone = replace(detector, lam=0.0)  # its score is the likelihood
    tables = []
    for counts in draws.resamples:
        rows = repeated(counts)
        tables.append(alone(activations[rows][:, alive], evidence.of_images(rows)).values - detector.lam * prior)
    # Each unit's are shifted to have the best score as the mean of the best ones.
    shift = found.top_score[alive, :1] - np.mean([table.max(axis=1) for table in tables], axis=0)[:, None]
    for b, table in enumerate(tables):
        np.testing.assert_allclose(found.resampled_score[alive, b], shift - np.sort(-table, axis=1), atol=1e-4)
        taken = np.take_along_axis(table, found.resampled_concept[alive, b], axis=1) + shift
        np.testing.assert_allclose(found.resampled_score[alive, b], taken, atol=1e-4)
    every = np.argsort(-activations, axis=0).T.astype(np.int32)
    every[1] = -1
    full = relabel(detector, replace(labels, ranking=every), prior, evidence, test, draws, null)
    for kept in vars(full):
        if kept != "ranking" and isinstance(getattr(full, kept), np.ndarray):
            np.testing.assert_array_equal(getattr(found, kept), getattr(full, kept))
    p_again = [p_values(found.resampled_score[alive, b, 0], null) for b in range(20)]
    expected = np.stack([test.passed(p, p) for p in p_again], axis=1)
    assert found.resampled_interpretable[alive].tolist() == expected.tolist()
    assert 0.05 < expected.mean() < 0.95
    assert found.p_value[alive].tolist() == p_values(found.top_score[alive, 0], null).tolist()
    assert found.interpretable[alive].tolist() == test.passed(p_again[0], found.p_value[alive]).tolist()
    assert np.isnan(found.p_value[1])
    assert (found.resampled_concept[1] == -1).all()
    assert np.isnan(found.resampled_score[1]).all()
    assert not found.resampled_interpretable[1].any()


def test_a_ranking_is_as_long_as_any_resample_needs():
    """Of a large probe it keeps few images; a resample that needs more would be a mistake of ours."""
    activations, cosines = random_case(images=3000, units=2)
    evidence, draws = evidence_with(cosines), draw(3000, 0, 300, 0)
    for top_k, kept in ((1, 62), (28, 116), (100, 260), (2000, 3000)):
        detector = fitting("wpmi", 3000, top_k=top_k)
        ranking = detector.ranking(activations)
        assert ranking.shape == (2, kept)
        needed = max(int(np.searchsorted(counts[ranking[0]].cumsum(), top_k)) + 1 for counts in draws.resamples)
        assert needed <= min(kept, 3000)
        next(detector.resampled_likelihoods(ranking, evidence, draws))


@with_prior
def test_neighbours_at_one_checkpoint_matter_through_the_pooled_prior_only(name, evidence):
    """Under the layer's own prior a unit that has not changed is scored otherwise where its neighbours have."""
    detector = fitting(name, IMAGES, a=40.0, lam=1.0)
    first, other, _ = checkpoints(units=(7, 7, 7))
    second = other.copy()
    second[:, 0] = first[:, 0]  # the same unit among others
    labels = [of_a_checkpoint(detector, one, evidence) for one in (first, second)]
    prior = study_log_prior(labels)
    nothing = np.zeros(0, np.float32)
    under = [relabel(detector, one, prior, evidence, EVERY, draw(IMAGES, 0, 0, 0), nothing) for one in labels]
    np.testing.assert_allclose(under[0].top_score[0], under[1].top_score[0], atol=1e-4)
    assert under[0].top_concept[0].tolist() == under[1].top_concept[0].tolist()
    assert np.abs(labels[0].top_score[0] - labels[1].top_score[0]).max() > 0.05


def test_a_layer_of_dead_units_stays_without_words(evidence):
    detector = fitting("soft_wpmi", IMAGES)
    dead = of_a_checkpoint(detector, np.zeros((IMAGES, 3)), evidence)
    assert dead.ranking.shape == (3, 80)
    assert (dead.ranking == -1).all()
    prior, draws = np.zeros(CONCEPTS, np.float32), draw(IMAGES, 2, 4, 0)
    null = chance_scores(detector, evidence, prior, draws)
    for test in (EVERY, significance.Test(0.0), significance.Test(None, 0.5)):
        found = relabel(detector, dead, prior, evidence, test, draws, null)
        assert (found.top_concept == -1).all()
        assert np.isnan(found.top_score).all()
        assert np.isnan(found.p_value).all()
        assert not found.interpretable.any()
        assert found.resampled_concept.shape == (3, 4, CONCEPTS)
        assert found.resampled_interpretable.shape == (3, 4)
        assert not found.resampled_interpretable.any()


def test_without_draws_there_are_no_p_values_and_no_resamples(evidence):
    detector = fitting("soft_wpmi", IMAGES)
    labels = of_a_checkpoint(detector, checkpoints()[0], evidence)
    draws = draw(IMAGES, 0, 0, 0)
    null = chance_scores(detector, evidence, study_log_prior([labels]), draws)
    assert null.shape == (0,)
    found = relabel(detector, labels, study_log_prior([labels]), evidence, significance.Test(0.5), draws, null)
    assert np.isnan(found.p_value).all()
    assert found.resampled_concept.shape == (8, 0, CONCEPTS)
    assert found.interpretable.tolist() == (found.top_score[:, 0] >= 0.5).tolist()


# Chance


@with_prior
def test_chance_scores_are_of_disjoint_sets_of_random_images(name, evidence):
    detector, draws = fitting(name, IMAGES, top_k=30, a=40.0), draw(IMAGES, 3, 0, 0)
    prior = np.float32(np.random.default_rng(0).normal(size=CONCEPTS)) - 60
    found = chance_scores(detector, evidence, prior, draws)
    assert found.shape == (6,)  # two sets of 30 in 80 images, three times
    for place, score in enumerate(found):
        images = draws.orders[place // 2, place % 2 * 30 :][:30]
        activations = np.zeros((IMAGES, 1))
        activations[images, 0] = np.arange(30, 0, -1)
        likelihood = ORACLES[name](activations.tolist(), evidence.cosines.tolist(), 30, detector.a)
        assert score == pytest.approx((np.array(likelihood) - detector.lam * prior).max(), abs=1e-3)


def test_at_most_a_hundred_sets_are_taken_of_each_permutation():
    _, cosines = random_case(images=450)
    evidence, draws = evidence_with(cosines), draw(450, 2, 0, 0)
    for top_k, sets in ((2, 100), (4, 100), (5, 90), (450, 1)):
        detector = fitting("wpmi", 450, top_k=top_k)
        assert chance_scores(detector, evidence, np.zeros(9, np.float32), draws).shape == (2 * sets,)


@with_prior
def test_chance_scores_are_as_those_of_units_that_have_nothing_to_do_with_the_images(name):
    random = np.random.default_rng(0)
    activations, cosines = random_case(images=400, units=1500, concepts=20)
    evidence = evidence_with(cosines + 0.05 * random.normal(size=20))
    detector = fitting(name, 400, top_k=20, a=20.0)
    prior = study_log_prior([label(detector, activations[:, :50], evidence)])
    null = chance_scores(detector, evidence, prior, draw(400, 75, 0, 0))
    scores = replace(detector, lam=0.0)(activations, evidence).values - np.float32(detector.lam) * prior
    assert ks_2samp(null, scores.max(axis=1)).pvalue > 0.01
    assert ks_2samp(null, scores.max(axis=1) + 0.3 * null.std()).pvalue < 1e-6  # it would notice
    p_value = p_values(scores.max(axis=1), null)
    for level in (0.05, 0.3):
        assert (p_value <= level).mean() == pytest.approx(level, abs=4 * (level / 1500) ** 0.5)
