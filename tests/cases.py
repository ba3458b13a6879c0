"""Activations and evidence of a test's own, and every similarity function with parameters that fit few images."""

import numpy as np
import oracles
import pytest
from hypothesis import strategies as st

from cmon.detectors.base import label_layer
from cmon.detectors.clip_dissect import SIMILARITIES
from cmon.records import Concepts, Evidence, LayerActivations
from cmon.statistics import Test, draw

PRIORS = ("soft_wpmi", "wpmi")

# Images, units, concepts and a seed.
sizes = st.tuples(st.integers(4, 25), st.integers(1, 5), st.integers(1, 6), st.integers(0, 10**6))
every_similarity = pytest.mark.parametrize("name", list(SIMILARITIES))
with_prior = pytest.mark.parametrize("name", PRIORS)


def evidence_of(image_features, concept_features):
    words = tuple(f"word {c}" for c in range(len(concept_features)))
    ids = tuple(f"{i:05}" for i in range(len(image_features)))
    return Evidence(ids, Concepts(words, ("",) * len(words)), np.float32(image_features), np.float32(concept_features))


def evidence_with(cosines):
    """Evidence whose cosines are exactly these."""
    return evidence_of(cosines, np.eye(np.shape(cosines)[1]))


def label(detector, activations, evidence, tau=None, rate=None, draws=None):
    """Label one layer; nothing is drawn where nothing is said of it."""
    draws = draws or draw(len(activations), 0, 0, 0)
    return label_layer(detector, LayerActivations("layer", np.float32(activations)), evidence, Test(tau, rate), draws)


def fitting(name, images, **parameters):
    """A similarity function with the defaults, but no more top images than there are in half of the images."""
    if name in PRIORS:
        parameters = {"top_k": max(1, images // 4), **parameters}
    elif name == "rank_reorder":
        parameters = {"top_fraction": 0.25, **parameters}
    return SIMILARITIES[name](**parameters)


def random_case(seed=0, images=80, units=7, concepts=9):
    """Activations without ties, and cosines spread like CLIP's."""
    random = np.random.default_rng(seed)
    cosines = np.float32(0.2 + 0.03 * random.normal(size=(images, concepts)))
    return np.float32(random.normal(size=(images, units))), cosines


def rounded_case(images, units, concepts, seed, digits):
    """Few digits make ties of activations, of cosines, and whole rows and columns of equals; no unit is constant."""
    random = np.random.default_rng(seed)
    activations = np.round(random.normal(size=(images, units)), digits)
    activations[0] += 1e-3 + np.arange(units)
    return np.float32(activations), np.float32(np.round(random.uniform(-1, 1, size=(images, concepts)), digits))


def planted_case(images=240, words=6, noise=0, seed=3):
    """Unit u follows concept u, with strength and rank; `noise` units after them follow nothing."""
    random = np.random.default_rng(seed)
    shown = random.integers(0, words, size=images)
    cosines = 0.2 + 0.02 * random.normal(size=(images, words)) + 0.1 * np.eye(words)[shown]
    activations = cosines + 0.005 * random.normal(size=(images, words))
    return np.float32(np.hstack([activations, random.normal(size=(images, noise))])), np.float32(cosines)


def repeated(counts, seed=0):
    """The rows of a resample, image by image in a random order, as often as `counts` says."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)


def assert_as_oracle(detector, name, activations, cosines, atol, **parameters):
    expected = oracles.ORACLES[name](activations.tolist(), cosines.tolist(), **parameters)
    scores = detector(activations, evidence_with(cosines)).values
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=atol)
