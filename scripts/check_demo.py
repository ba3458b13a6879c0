"""Print how often the demo's words are right, where the truth is known.

    make demo-check

1. the tiny encoder: zero-shot accuracy on held-out images, per category;
2. planted units, detectors by construction: the share that CLIP-Dissect gives the right word;
3. the trained classifier, at every epoch: the share of living units whose top word is the known truth, that is, the
   word whose presence the unit's activation predicts best, by average precision over all images of the probe.

2 and 3 at the paper's setting (lam = 1) and at the demo's (lam = 0).
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
from concept_world import CONCEPTS, render, words
from plant import TRUTH
from world_truth import average_precision, zero_shot_accuracy

from cmon.detectors.base import label_layer
from cmon.detectors.clip_dissect import SoftWpmi
from cmon.records import Evidence, LayerActivations
from cmon.stores import read_activations, read_evidence

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "build" / "demo"
PROBE_IMAGES, PROBE_SEED = 3000, 1  # as `make demo` renders it
HELD_OUT_IMAGES, HELD_OUT_SEED = 2000, 101
SETTINGS = {"paper (lam = 1)": SoftWpmi(), "demo (lam = 0)": SoftWpmi(lam=0.0)}


def main() -> None:
    accuracy = zero_shot_accuracy(ROOT / "sample_configs" / "demo" / "encoder", HELD_OUT_IMAGES, HELD_OUT_SEED)
    print(f"zero-shot accuracy on {HELD_OUT_IMAGES} held-out images")
    for category, share in accuracy.items():
        print(f"  {category:10} {share:6.1%} of {len(CONCEPTS[category])} words")

    planted = DEMO / "planted"
    if not (DEMO / "planted.pt").exists():
        run("scripts/plant.py", str(DEMO / "planted.pt"))
    run("-m", "cmon", "activations", "--quiet", "sample_configs/demo/planted.toml")
    evidence = read_evidence(planted / "evidence.h5")
    layers = read_activations(planted / "activations" / "planted" / "planted.h5", "mean").layers
    print(f"planted units with the right word, of {sum(layer.values.shape[1] for layer in layers)}")
    for name, detector in SETTINGS.items():
        right = {layer.name: top_words(detector, layer, evidence) == np.array(TRUTH[layer.name]) for layer in layers}
        parts = ", ".join(f"{layer} {hits.sum()}/{len(hits)}" for layer, hits in right.items())
        print(f"  {name:16} {np.concatenate(list(right.values())).mean():6.1%}  ({parts})")

    check_classifier(read_evidence(DEMO / "work" / "evidence.h5"))


def check_classifier(evidence: Evidence) -> None:
    """Print the third table."""
    presence = render(PROBE_IMAGES, PROBE_SEED).presence()
    vocabulary = np.array(words())
    print("classifier's units whose top word is the known truth, living units of layers 2 to 4 (of layer 4)")
    print("  epoch  " + "  ".join(f"{name:>17}" for name in SETTINGS))
    for path in sorted((DEMO / "work" / "activations" / "shapes").glob("*.h5")):
        layers = read_activations(path, "mean").layers
        truth = [vocabulary[average_precision(layer.values, presence).argmax(axis=1)] for layer in layers]
        cells = []
        for detector in SETTINGS.values():
            found = [top_words(detector, layer, evidence) for layer in layers]
            hits = [(word == true)[word != ""] for word, true in zip(found, truth, strict=True)]
            cells.append(f"{np.concatenate(hits).mean():9.0%} ({hits[-1].mean():4.0%})")
        print(f"  {path.stem.removeprefix('epoch_'):>5}  " + "  ".join(f"{cell:>17}" for cell in cells))


def top_words(detector: SoftWpmi, layer: LayerActivations, evidence: Evidence) -> np.ndarray:
    """Return each unit's word, (U,) str; "" for dead units."""
    names = np.array([*evidence.concepts.names, ""])
    return names[label_layer(detector, layer, evidence, tau=None).top_concept[:, 0]]


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
