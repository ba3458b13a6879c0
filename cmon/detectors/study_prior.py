"""The study's prior: scores that a unit's neighbours at one checkpoint do not change, from what files keep."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cmon.detectors.base import judge, less_bias, of_all_units
from cmon.detectors.drawing import best_of_each
from cmon.detectors.wpmi import Wpmi
from cmon.records import Evidence, FloatArray, LayerActivations, LayerLabels
from cmon.statistics import Draws, Test, best_concepts


def ranked(detector: Wpmi, labels: LayerLabels, layer: LayerActivations) -> LayerLabels:
    """Keep with a layer's labels the images that resamples under another prior will need."""
    return replace(labels, ranking=of_all_units(detector.ranking(layer.values[:, labels.alive]), labels.alive))


def study_log_prior(layers: Sequence[LayerLabels]) -> FloatArray:
    """Return log p(c) over the units of all these layers, (C,): the mean of their likelihoods.

    log p = logsumexp over layers of (log_prior + log U) - log of the summed U, U being a layer's living units.

    Args:
        layers: of one name, at all checkpoints of all runs; those without living units are left out.
    """
    known = [layer for layer in layers if layer.log_prior is not None]
    units = np.array([layer.alive.sum() for layer in known], dtype=np.float64)
    summed = np.logaddexp.reduce(
        [np.asarray(layer.log_prior, np.float64) + np.log(n) for layer, n in zip(known, units, strict=True)]
    )
    return np.asarray(summed - np.log(units.sum()), dtype=np.float32)


def chance_scores(detector: Wpmi, evidence: Evidence, log_prior: FloatArray, draws: Draws) -> FloatArray:
    """Return the best scores of units that have nothing to do with the images, (N,).

    Under a prior that does not depend on the layer, it is only a unit's top images that its score depends on, so that
    random ones make the null distribution: each permutation of the images is cut into sets of top_k, at most 100.
    """
    sets = min(100, len(evidence.image_ids) // detector.top_k)
    null = np.empty((len(draws.orders), sets), dtype=np.float32)
    for p, order in enumerate(draws.orders):
        best = order[: sets * detector.top_k].reshape(sets, detector.top_k)
        null[p] = (detector.log_likelihood(best, evidence) - np.float32(detector.lam) * log_prior).max(axis=1)
    return null.ravel()


def relabel(
    detector: Wpmi,
    labels: LayerLabels,
    log_prior: FloatArray,
    evidence: Evidence,
    test: Test,
    draws: Draws,
    null: FloatArray,
) -> LayerLabels:
    """Score a layer anew under the study's prior, and test its units.

    Args:
        detector: as it scored the layer.
        labels: under the layer's own prior, with scores and ranking.
        log_prior: (C,) the study's.
        evidence: of the same images.
        test: when a unit is interpretable.
        draws: of the images.
        null: as from chance_scores.

    Returns:
        Labels without the full scores.
    """
    alive, count = labels.alive, labels.top_concept.shape[1]
    prior = np.float32(detector.lam) * log_prior
    likelihood = np.empty((0, len(prior)), np.float32)
    if alive.any():
        assert labels.scores is not None and labels.log_prior is not None
        likelihood = labels.scores[alive] + np.float32(detector.lam) * labels.log_prior
    best = best_concepts(likelihood - prior, count)
    score = np.take_along_axis(likelihood - prior, best, axis=1)
    again = (drawn - prior for drawn in detector.resampled_likelihoods(labels.ranking[alive], evidence, draws))
    concept, resampled = best_of_each(again, (len(best), len(draws.resamples), count))
    resampled = less_bias(resampled, score[:, 0])
    p_value, passed, passed_again = judge(test, score[:, 0], resampled, null)
    return replace(
        labels,
        scores=None,
        facts={name: value for name, value in labels.facts.items() if name != "prior_perplexity"},  # of the layer's own
        top_concept=of_all_units(best, alive),
        top_score=of_all_units(score, alive),
        p_value=of_all_units(p_value, alive),
        interpretable=of_all_units(passed, alive),
        resampled_concept=of_all_units(concept, alive),
        resampled_score=of_all_units(resampled, alive),
        resampled_interpretable=of_all_units(passed_again, alive),
    )
