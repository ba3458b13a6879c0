from typing import ClassVar

import numpy as np
import pytest
from cases import PRIORS, every_similarity, evidence_with, fitting, label, random_case, repeated, rounded_case

from cmon.detectors.clip_dissect import SIMILARITIES, CosSimilarity, RankReorder
from cmon.detectors.drawing import best_of_each, half_words, null_scores, resampled_labels
from cmon.errors import DetectorError
from cmon.records import Concepts, MaskEvidence, Scores
from cmon.statistics import best_concepts, draw

# Of different images that tie they take one at random, and another one where images are repeated.
RANDOM_TIES = (*PRIORS, "rank_reorder")


class Product:
    """A detector of somebody else's: no more than the protocol asks for."""

    score_unit: ClassVar[str] = "products"
    uses: ClassVar[str] = "evidence"

    def recipe(self):
        return {}

    def __call__(self, activations, evidence):
        return Scores(np.float32(activations.T @ evidence.cosines), None, {})


def assert_best_of(found, expected):
    """Hold that labels (U, B, T) are the best of B tables of scores (U, C); near equals may change their places."""
    concept, score = found
    assert concept.dtype == np.int32
    assert score.dtype == np.float32
    assert concept.shape[1] == len(expected)
    for b, table in enumerate(expected):
        np.testing.assert_allclose(score[:, b], -np.sort(-table, axis=1)[:, : score.shape[2]], rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(np.take_along_axis(table, concept[:, b], axis=1), score[:, b], rtol=1e-5, atol=1e-4)
        assert all(len(set(row)) == len(row) for row in concept[:, b].tolist())


@every_similarity
def test_null_scores_are_those_of_permuted_activations(name):
    activations, cosines = random_case(1)
    evidence, detector, draws = evidence_with(cosines), fitting(name, 80), draw(80, 5, 0, 3)
    found = null_scores(detector, activations, evidence, draws)
    expected = [detector(activations[order], evidence).values.max(axis=1) for order in draws.orders]
    np.testing.assert_allclose(found, np.transpose(expected), rtol=1e-5, atol=1e-4)
    assert found.dtype == np.float32


@every_similarity
def test_images_are_permuted_for_all_units_together(name):
    """So that two units that are one stay one under every permutation."""
    activations, cosines = random_case(1, units=3)
    activations[:, 2] = activations[:, 0]
    found = null_scores(fitting(name, 80), activations, evidence_with(cosines), draw(80, 5, 0, 3))
    np.testing.assert_array_equal(found[2], found[0])
    assert (found[1] != found[0]).all()


@pytest.mark.parametrize(
    ("name", "digits"),
    [*((name, 7) for name in SIMILARITIES), *((name, 0) for name in SIMILARITIES if name not in RANDOM_TIES)],
)
def test_resampled_labels_are_those_of_repeated_images(name, digits):
    """Copies of one image tie, which changes nothing since they are equally good; so do others at digits = 0."""
    activations, cosines = rounded_case(80, 7, 14, 2, digits)
    cosines = np.float32(0.2 + 0.03 * cosines)
    evidence, detector, draws = evidence_with(cosines), fitting(name, 80), draw(80, 0, 6, 3)
    expected = []
    for counts in draws.resamples:
        rows = repeated(counts)
        expected.append(detector(activations[rows], evidence.of_images(rows)).values)
    found = resampled_labels(detector, activations, evidence, draws)
    assert found[0].shape == (7, 6, 10)
    assert_best_of(found, expected)


@every_similarity
def test_a_resample_of_every_image_once_gives_the_labels_themselves_whatever_ties(name):
    activations, cosines = rounded_case(80, 7, 9, 4, digits=0)
    cosines = np.float32(0.2 + 0.03 * cosines)
    evidence, detector, draws = evidence_with(cosines), fitting(name, 80), draw(80, 0, 1, 3)
    draws.resamples[:] = 1
    scores = detector(activations, evidence).values
    assert_best_of(resampled_labels(detector, activations, evidence, draws), [scores])


@every_similarity
def test_a_unit_that_a_resample_makes_constant_has_finite_scores_there(name):
    activations, cosines = random_case()
    activations[:, 2] = 0
    activations[7, 2] = 1
    draws = draw(80, 3, 12, 0)
    assert 0 < (draws.resamples[:, 7] == 0).sum() < 12
    found = resampled_labels(fitting(name, 80), activations, evidence_with(cosines), draws)
    assert np.isfinite(found[1]).all()
    assert ((found[0] >= 0) & (found[0] < 9)).all()
    labels = label(fitting(name, 80), activations, evidence_with(cosines), rate=0.05, draws=draws)
    assert labels.alive.all()


@every_similarity
def test_words_by_either_half_are_those_of_its_images_alone(name):
    activations, cosines = random_case(5)
    evidence, detector, draws = evidence_with(cosines), fitting(name, 80), draw(80, 0, 0, 3)
    found = half_words(detector, activations, evidence, draws)
    assert found.shape == (7, 2)
    assert found.dtype == np.int32
    for side, half in enumerate((draws.half, ~draws.half)):
        rows = np.flatnonzero(half)
        table = detector(activations[rows], evidence_with(cosines[rows])).values
        assert found[:, side].tolist() == table.argmax(axis=1).tolist()
    assert (found[:, 0] != found[:, 1]).any()


def test_half_of_the_images_may_be_too_few_for_a_detector():
    activations, cosines = random_case()
    with pytest.raises(DetectorError, match="top_k = 41 is more than the probe's 40 images"):
        half_words(fitting("soft_wpmi", 80, top_k=41), activations, evidence_with(cosines), draw(80, 0, 0, 0))
    with pytest.raises(DetectorError, match="of 40 images is fewer than two"):
        half_words(RankReorder(top_fraction=0.03), activations, evidence_with(cosines), draw(80, 0, 0, 0))


def test_a_detector_that_can_only_score_is_permuted_resampled_and_halved_by_scoring_anew():
    activations, cosines = random_case(6, concepts=12)
    evidence, draws = evidence_with(cosines), draw(80, 4, 5, 1)
    product = activations.T.astype(float) @ cosines.astype(float)
    null = [(activations[order].T.astype(float) @ cosines).max(axis=1) for order in draws.orders]
    np.testing.assert_allclose(null_scores(Product(), activations, evidence, draws), np.transpose(null), rtol=1e-4)
    weighted = [(activations * counts[:, None]).T.astype(float) @ cosines for counts in draws.resamples]
    assert_best_of(resampled_labels(Product(), activations, evidence, draws), weighted)
    halves = [activations[half].T.astype(float) @ cosines[half] for half in (draws.half, ~draws.half)]
    words = np.stack([table.argmax(axis=1) for table in halves], axis=1)
    assert half_words(Product(), activations, evidence, draws).tolist() == words.tolist()
    labels = label(Product(), activations, evidence, rate=0.5, draws=draws)
    np.testing.assert_allclose(labels.top_score, -np.sort(-product, axis=1)[:, :10], rtol=1e-4)
    assert labels.resampled_concept.shape == (7, 5, 10)
    assert np.isfinite(labels.p_value).all()


def test_a_detectors_own_ways_are_taken_where_it_has_them():
    class Knowing(Product):
        def null_scores(self, activations, evidence, draws):
            return "null"

        def resampled_labels(self, activations, evidence, draws):
            return "resampled"

        def half_words(self, activations, evidence, draws):
            return "halves"

    class Faster(Product):
        def resampled_scores(self, activations, evidence, draws):
            for b in range(len(draws.resamples)):
                yield np.float32([[b, 2, 1]])

    activations, cosines = random_case(units=1, concepts=3)
    arguments = (activations, evidence_with(cosines), draw(80, 2, 4, 0))
    assert null_scores(Knowing(), *arguments) == "null"
    assert resampled_labels(Knowing(), *arguments) == "resampled"
    assert half_words(Knowing(), *arguments) == "halves"
    concept, score = resampled_labels(Faster(), *arguments)
    assert concept.tolist() == [[[1, 2, 0], [1, 0, 2], [0, 1, 2], [0, 1, 2]]]
    assert score.tolist() == [[[2, 1, 0], [2, 1, 1], [2, 2, 1], [3, 2, 1]]]


def test_the_best_of_each_table_are_its_best_concepts():
    tables = np.float32(np.random.default_rng(0).integers(0, 5, size=(3, 4, 60)))
    concept, score = best_of_each(iter(tables), (4, 3, 10))
    for b, table in enumerate(tables):
        assert concept[:, b].tolist() == best_concepts(table, 10).tolist()
        assert score[:, b].tolist() == np.take_along_axis(table, concept[:, b], axis=1).tolist()


@every_similarity
def test_without_draws_nothing_is_drawn(name):
    activations, cosines = random_case()
    arguments = (fitting(name, 80), activations, evidence_with(cosines), draw(80, 0, 0, 0))
    assert null_scores(*arguments).shape == (7, 0)
    assert [found.shape for found in resampled_labels(*arguments)] == [(7, 0, 9)] * 2


def test_what_is_drawn_is_the_same_for_another_layer():
    activations, cosines = random_case()
    evidence, draws = evidence_with(cosines), draw(80, 3, 3, 0)
    found = [label(CosSimilarity(), layer, evidence, rate=0.05, draws=draws) for layer in (activations, activations)]
    np.testing.assert_array_equal(found[0].resampled_score, found[1].resampled_score)
    np.testing.assert_array_equal(found[0].p_value, found[1].p_value)


class OfCounts:
    """Another package's detector that uses counts, and can only score."""

    score_unit, uses = "pixels", "counts"

    def __call__(self, activations, evidence):
        return Scores(evidence.intersection.astype(np.float32), None, {})


@pytest.mark.parametrize("function", [null_scores, resampled_labels, half_words])
def test_a_detector_of_counts_that_only_scores_is_told_that_counts_cannot_be_drawn_anew(function):
    counts = MaskEvidence(
        Concepts(("a",), ("",)), np.ones((2, 1), int), np.ones((2, 1), int), *[np.ones(2, int)] * 2, {}, {}
    )
    with pytest.raises(DetectorError, match="cannot be permuted or resampled"):
        function(OfCounts(), np.ones((4, 2), np.float32), counts, draw(4, 2, 2, 0))
