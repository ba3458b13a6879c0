"""Print how often 95 % intervals hold the truth, on synthetic data where it is known.

    python scripts/check_intervals.py            # about 5 minutes on 2 cores

A population of images is made, with units that detect concepts at many strengths, at two checkpoints. A probe is a
random 1,000 of them. The truth of a number is its mean over many probes of this size; an interval is what one probe and
its resamples say. Intervals about the number are compared with percentiles of the resamples, which fail: a resample
holds images twice, which biases maxima over concepts.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cmon.detectors.base import label_layer
from cmon.detectors.top_down import TopDownCorrelation
from cmon.detectors.wpmi import SoftWpmi
from cmon.embedding import distance_to_anchors, spread, unified_embedding
from cmon.records import Concepts, Evidence, LayerActivations, LayerLabels
from cmon.statistics import Test, draw, half_width
from cmon.statistics.trends import effective_number

POPULATION, PROBE, UNITS, CONCEPTS, DIMENSIONS = 20_000, 1_000, 80, 60, 64


class Population:
    """Images with their features, and two checkpoints' units over them."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        words = random.normal(size=(CONCEPTS, DIMENSIONS))
        words /= np.linalg.norm(words, axis=1, keepdims=True)
        presence = random.random((POPULATION, CONCEPTS)) < 0.08
        seen = presence @ words + random.normal(size=(POPULATION, DIMENSIONS)) / np.sqrt(DIMENSIONS)
        self.images = (seen / np.linalg.norm(seen, axis=1, keepdims=True)).astype(np.float32)
        self.words = words.astype(np.float32)
        self.anchors = self.words[:5]
        self.names = Concepts(tuple(f"word {c}" for c in range(CONCEPTS)), ("",) * CONCEPTS)
        concept = random.integers(0, CONCEPTS, (2, UNITS))
        # A third of the units learn another concept between the checkpoints.
        concept[1] = np.where(random.random(UNITS) < 1 / 3, concept[1], concept[0])
        strength = random.uniform(0, 1.5, (2, UNITS))
        noise = random.normal(size=(2, POPULATION, UNITS))
        self.activations = (strength[:, None] * presence[:, concept].transpose(1, 0, 2) + noise).astype(np.float32)

    def labels(self, detector: object, test: Test, images: np.ndarray, resamples: int) -> list[LayerLabels]:
        """Label both checkpoints by a probe."""
        ids = tuple(str(i) for i in images)
        evidence = Evidence(ids, self.names, self.images[images], self.words)
        draws = draw(PROBE, 50 if test.rate else 0, resamples, seed=0)
        layers = (LayerActivations("layer", one[images]) for one in self.activations)
        return [label_layer(detector, layer, evidence, test, draws) for layer in layers]

    def numbers(self, first: "Words", second: "Words") -> np.ndarray:
        """Work out all that has an interval, in the order of NUMBERS."""
        kept = first.concept == second.concept
        best = first.concept[first.order[: UNITS // 5]] == second.concept[first.order[: UNITS // 5]]
        places = unified_embedding(first.top, first.score, self.words, 1.0)
        often = np.bincount(first.concept[first.clear])
        return np.array(
            [
                first.clear.sum(),
                (often > 0).sum(),
                effective_number(often[often > 0]),
                distance_to_anchors(places, self.anchors),
                spread(places),
                best.mean(),
                kept.mean(),
            ]
        )


@dataclass(frozen=True)
class Words:
    """A checkpoint's words, as they are or in one resample; `order` is that of their scores."""

    concept: np.ndarray
    clear: np.ndarray
    top: np.ndarray
    score: np.ndarray
    order: np.ndarray

    @classmethod
    def of(cls, labels: LayerLabels, resample: int | None = None) -> "Words":
        own = labels.top_score if resample is None else labels.resampled_score[:, resample]
        order = np.argsort(-own[:, 0], kind="stable")
        if resample is None:
            top, score, clear = labels.top_concept, labels.top_score, labels.interpretable
        else:
            top, score = labels.resampled_concept[:, resample], labels.resampled_score[:, resample]
            clear = labels.resampled_interpretable[:, resample]
        return cls(top[:, 0], clear, top[:, :5], score[:, :5], order)


NUMBERS = ("interpretable", "unique words", "effective number", "d_anchor", "spread", "retention at 20 %", "unchanged")
SETTINGS = {
    "top_down, fdr:0.05": (TopDownCorrelation(), Test(rate=0.05)),
    "top_down, tau = 3.5": (TopDownCorrelation(), Test(tau=3.5)),
    "soft_wpmi (top_k = 50), fdr:0.05": (SoftWpmi(top_k=50), Test(rate=0.05)),
}
Interval = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def about_the_number(number: np.ndarray, resampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    half = half_width(resampled)
    return number - half, number + half


def percentiles(number: np.ndarray, resampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.percentile(resampled, [2.5, 97.5], axis=-1))


INTERVALS: dict[str, Interval] = {"about the number": about_the_number, "percentiles": percentiles}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probes", type=int, default=200, help="whose intervals are looked at")
    parser.add_argument("--truth", type=int, default=600, help="probes that the truth is a mean over")
    parser.add_argument("--resamples", type=int, default=100)
    arguments = parser.parse_args()
    population, random = Population(seed=0), np.random.default_rng(1)
    print(f"{'':34}" + "".join(f"{name:>19}" for name in NUMBERS))
    for name, (detector, test) in SETTINGS.items():

        def probe(resamples: int, detector: object = detector, test: Test = test) -> list[LayerLabels]:
            images = random.choice(POPULATION, PROBE, replace=False)
            return population.labels(detector, test, images, resamples)

        def numbers(labels: list[LayerLabels], resample: int | None = None) -> np.ndarray:
            return population.numbers(*(Words.of(one, resample) for one in labels))

        truth = np.mean([numbers(probe(0)) for _ in range(arguments.truth)], axis=0)
        held = {kind: [] for kind in INTERVALS}
        for _ in range(arguments.probes):
            labels = probe(arguments.resamples)
            resampled = np.stack([numbers(labels, b) for b in range(arguments.resamples)], axis=-1)
            for kind, interval in INTERVALS.items():
                low, high = interval(numbers(labels), resampled)
                held[kind].append((low <= truth) & (truth <= high))
        print(f"{name:34}" + "".join(f"{number:>19.3f}" for number in truth))
        for kind, hits in held.items():
            print(f"    {kind:30}" + "".join(f"{share:>19.1%}" for share in np.mean(hits, axis=0)))


if __name__ == "__main__":
    main()
