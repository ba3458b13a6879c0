"""Permutations and resamples of a large layer, by the default score and by the paper's, in seconds.

Beside them stand the seconds of the matrix products that the default score cannot do without: weights x features of
the images x features of the words, for every unit and permutation.
"""

from collections.abc import Iterator

import numpy as np

from benchmarks.rows import Row, seconds
from benchmarks.soft_wpmi import IMAGES, made_activations, made_evidence
from cmon.detectors.drawing import null_scores, resampled_labels
from cmon.detectors.top_down import TopDownCorrelation
from cmon.detectors.wpmi import SoftWpmi
from cmon.statistics import draw
from cmon.threads import threads

UNITS, CONCEPTS, DRAWS = 960, 1_200, 100
# What 100 permutations and 100 resamples may take.
GOALS_S = (60.0, 90.0)


def rows(pairs: int) -> Iterator[Row]:
    """Measure both scores, as often as `pairs` says; medians count."""
    evidence, activations = made_evidence(CONCEPTS), made_activations(UNITS)
    permuted, resampled = draw(IMAGES, DRAWS, 0, 0), draw(IMAGES, 0, DRAWS, 0)
    sizes = f"{IMAGES:,} images, {UNITS} units, {CONCEPTS:,} concepts"
    weights = np.ascontiguousarray(activations.T)
    for detector in (TopDownCorrelation(), SoftWpmi()):
        detector(activations, evidence)  # what is worked out once for a study, and compiled once for a machine
        products = [seconds(lambda: weights @ evidence.image_features @ evidence.concept_features.T) for _ in range(5)]
        figures = {"threads": threads(), "products_s": DRAWS * float(np.median(products))}
        ways = ((f"{DRAWS} permutations", null_scores, permuted), (f"{DRAWS} resamples", resampled_labels, resampled))
        for (what, function, draws), goal in zip(ways, GOALS_S, strict=True):
            times = [
                seconds(lambda f=function, d=detector, n=draws: f(d, activations, evidence, n)) for _ in range(pairs)
            ]
            shown = figures | {"all_s": np.round(times, 2).tolist()}
            yield Row(f"{detector.name}: {what}, {sizes}", float(np.median(times)), "s", goal, figures=shown)
