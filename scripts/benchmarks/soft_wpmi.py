"""Scoring a layer by soft-WPMI against the published loop over its units, and the memory that it takes.

The ratios with goals are of the scores alone, likelihoods and prior, with each unit's top images and the softmax of the
cosines at hand on both sides. Among the figures stand those of a whole layer, top images found on both sides, as for
all layers of a study but the first, and those with the softmax too, which cmon takes once for a study. Memory is that
of the whole scoring from features and activations, over what the process had before: once numba, with its compiled
loops, and numpy's own threads are there, whose memory stands among the figures.
"""

from collections.abc import Iterator

import numpy as np
import torch
from published import clip_dissect_scores as published

from benchmarks.processes import in_new_process, memory_bytes
from benchmarks.rows import Row, compare
from cmon.detectors.wpmi import SoftWpmi
from cmon.records import Concepts, Evidence, FloatArray
from cmon.statistics import top_images
from cmon.threads import threads

IMAGES, DIMENSIONS = 10_000, 512
# Concepts, units, and how many times as fast as the loop.
SIZES = ((1_200, 512, 9.0), (20_000, 128, 5.0))


def rows(pairs: int) -> Iterator[Row]:
    """Measure speed, agreement and memory at both sizes."""
    torch.set_num_threads(threads())
    for concepts, units, goal in SIZES:
        what = f"soft_wpmi, I = {IMAGES:,}, C = {concepts:,}, U = {units}"
        yield from _against_loop(what, concepts, units, goal, pairs)
        table = 4 * IMAGES * concepts
        loaded, taken = in_new_process(_score_once, concepts, units)
        figures = {"peak_mib": taken / 2**20, "table_mib": table / 2**20, "libraries_mib": loaded / 2**20}
        yield Row(f"{what}: peak memory over P", taken / table, "x", 1.5, figures=figures)


def made_evidence(concepts: int, seed: int = 0) -> Evidence:
    """Make up evidence whose cosines deviate as CLIP's do."""
    random = np.random.default_rng(seed)
    features = [random.standard_normal((count, DIMENSIONS), dtype=np.float32) for count in (IMAGES, concepts)]
    for made in features:
        made /= np.linalg.norm(made, axis=1, keepdims=True)
    words = Concepts(tuple(map(str, range(concepts))), ("",) * concepts)
    return Evidence(tuple(map(str, range(IMAGES))), words, *features)


def made_activations(units: int, seed: int = 1) -> FloatArray:
    """Make up activations, (I, U)."""
    return np.random.default_rng(seed).standard_normal((IMAGES, units), dtype=np.float32)


def _against_loop(what: str, concepts: int, units: int, goal: float, pairs: int) -> Iterator[Row]:
    evidence, activations, detector = made_evidence(concepts), made_activations(units), SoftWpmi()
    given = [torch.from_numpy(made) for made in (evidence.image_features, evidence.concept_features)]
    probability, seen = published.probabilities(*given), torch.from_numpy(activations)
    evidence.probability(detector.a)

    best, found = top_images(activations, detector.top_k), published.top_images(seen)

    def ours() -> FloatArray:
        return detector.less_prior(detector.log_likelihood(best, evidence))[0]

    def first_layer() -> None:
        features = (evidence.image_features, evidence.concept_features)
        detector(activations, Evidence(evidence.image_ids, evidence.concepts, *features))

    def loop() -> torch.Tensor:
        return published.soft_wpmi(found, probability)

    def whole_loop(given_probability: torch.Tensor) -> torch.Tensor:
        return published.soft_wpmi(published.top_images(seen), given_probability)

    alone = compare(ours, loop, pairs)
    layer = compare(lambda: detector(activations, evidence), lambda: whole_loop(probability), pairs)
    first = compare(first_layer, lambda: whole_loop(published.probabilities(*given)), pairs)
    figures = alone | {"threads": threads(), "whole_layer": layer, "with_softmax": first}
    yield Row(f"{what}: times as fast as the loop", 1 / alone["ratio"], "x", goal, at_most=False, figures=figures)
    difference = np.abs(detector(activations, evidence).values - whole_loop(probability).numpy()).max()
    yield Row(f"{what}: greatest difference", float(difference), "nats", 1e-3)


def _score_once(concepts: int, units: int) -> tuple[int, int]:
    """Return how many bytes libraries took, and how many scoring took at its peak beyond them."""
    evidence, activations = made_evidence(concepts), made_activations(units)
    alone, few = memory_bytes("VmRSS"), slice(0, 100)
    words = Concepts(evidence.concepts.names[few], evidence.concepts.categories[few])
    images = evidence.image_features[few], evidence.concept_features[few]
    SoftWpmi()(activations[few], Evidence(evidence.image_ids[few], words, *images))
    before = memory_bytes("VmRSS")
    SoftWpmi()(activations, evidence)
    return before - alone, memory_bytes("VmHWM") - before
