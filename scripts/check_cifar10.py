"""Print how often the words of a CIFAR-10 run's units are right, by the images' classes.

    CMON_DATA=data cmon run sample_configs/cifar10_resnet20.toml
    python scripts/check_cifar10.py build/cifar10_resnet20 layer3

A unit's truth is the class most frequent among its 100 most activating images; a word's class is the class name
that is nearest to it by text embedding. Images lie in a folder named after their class.
"""

import argparse
from pathlib import Path

import numpy as np

from cmon.detectors.base import Detector, label_layer
from cmon.detectors.clip_dissect import SoftWpmi, TopDownCorrelation
from cmon.records import Evidence, LayerActivations
from cmon.statistics import Test, draw, top_images
from cmon.stores import read_activations, read_evidence

SETTINGS = {
    "a = 10": SoftWpmi(),
    "a = auto": SoftWpmi(a="auto"),
    "a = auto at 0.12": SoftWpmi(a="auto", a_spread=0.12),
    "a = 10, lam = 0.3": SoftWpmi(lam=0.3),
    "a = 10, lam = 0": SoftWpmi(lam=0.0),
    "top_down": TopDownCorrelation(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("layer", nargs="?", default="layer3")
    arguments = parser.parse_args()
    evidence = read_evidence(arguments.workspace / "evidence.h5")
    print(f"share of {arguments.layer}'s units with a word of their true class; prior's perplexity in brackets")
    print(f"{'checkpoint':12}" + "".join(f"{name:>22}" for name in SETTINGS))
    for path in sorted((arguments.workspace / "activations").glob("*/*.h5")):
        layer = next(layer for layer in read_activations(path, "mean").layers if layer.name == arguments.layer)
        cells = [cell(detector, layer, evidence) for detector in SETTINGS.values()]
        print(f"{path.stem:12}" + "".join(f"{text:>22}" for text in cells))


def cell(detector: Detector, layer: LayerActivations, evidence: Evidence) -> str:
    labels = label_layer(detector, layer, evidence, Test(), draw(len(layer.values), 0, 0, 0))
    right = word_classes(evidence)[labels.top_concept[:, 0]] == true_classes(layer, evidence)
    perplexity = labels.facts.get("prior_perplexity")
    return f"{right[labels.alive].mean():.0%}" + (f" ({perplexity:.1f})" if perplexity else "")


def true_classes(layer: LayerActivations, evidence: Evidence) -> np.ndarray:
    """Return the class most frequent among each unit's 100 top images, (U,) int."""
    names = class_names(evidence)
    of_image = np.array([names.index(image.split("/")[-2]) for image in evidence.image_ids])
    counts = [np.bincount(of_image[best], minlength=len(names)) for best in top_images(layer.values, 100)]
    return np.argmax(counts, axis=1)


def word_classes(evidence: Evidence) -> np.ndarray:
    """Return the nearest class name of every concept, (C,) int."""
    rows = [evidence.concepts.names.index(name) for name in class_names(evidence)]
    return (evidence.concept_features @ evidence.concept_features[rows].T).argmax(axis=1)


def class_names(evidence: Evidence) -> list[str]:
    return sorted({image.split("/")[-2] for image in evidence.image_ids})


if __name__ == "__main__":
    main()
