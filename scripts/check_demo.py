"""Print how often the demo's words are right, where the truth is known.

    make demo-check

1. the tiny encoder: zero-shot accuracy on held-out images, per category;
2. planted units, detectors by construction: the share that each detector gives the right word, and how often CLIP-
   Dissect and Network Dissection agree on them;
3. the trained classifier, at every epoch: the share of living units whose top word is the known truth, that is, the
   word whose presence the unit's activation predicts best, by average precision over all images of the probe; in
   brackets of the last layer. The last two columns are of the units that Network Dissection finds interpretable.

2 and 3 for CLIP-Dissect with the paper's score (soft_wpmi) and with the demo's (top_down), and for Network Dissection;
3 also for the paper's score without its prior (lam = 0).
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
from concept_world import CONCEPTS, render, words
from plant import TRUTH
from world_truth import average_precision, zero_shot_accuracy

from cmon.detectors.base import Detector, label_layer
from cmon.detectors.clip_dissect import SoftWpmi, TopDownCorrelation
from cmon.records import Evidence, LayerActivations
from cmon.statistics import Test, draw
from cmon.stores import read_activations, read_evidence, read_labels

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "build" / "demo"
PROBE_IMAGES, PROBE_SEED = 3000, 1  # as `make demo` renders it
HELD_OUT_IMAGES, HELD_OUT_SEED = 2000, 101
SETTINGS = {"paper": SoftWpmi(), "paper, lam = 0": SoftWpmi(lam=0.0), "demo (top_down)": TopDownCorrelation()}


def main() -> None:
    accuracy = zero_shot_accuracy(ROOT / "sample_configs" / "demo" / "encoder", HELD_OUT_IMAGES, HELD_OUT_SEED)
    print(f"zero-shot accuracy on {HELD_OUT_IMAGES} held-out images")
    for category, share in accuracy.items():
        print(f"  {category:10} {share:6.1%} of {len(CONCEPTS[category])} words")

    planted = DEMO / "planted"
    if not (DEMO / "planted.pt").exists():
        run("scripts/plant.py", str(DEMO / "planted.pt"))
    for stage in ("activations", "dissect"):
        run("-m", "cmon", stage, "--quiet", "sample_configs/demo/planted.toml")
    check_planted(planted)
    check_classifier(DEMO / "work")


def check_planted(work: Path) -> None:
    """Print the second table."""
    found = {name: stored_words(work, name, "planted", "planted") for name in ("paper", "demo", "network_dissection")}
    print(f"planted units with the right word, of {sum(map(len, TRUTH.values()))}")
    for name, layers in found.items():
        right = {layer: words == np.array(TRUTH[layer]) for layer, (words, _) in layers.items()}
        parts = ", ".join(f"{layer} {hits.sum()}/{len(hits)}" for layer, hits in right.items())
        print(f"  {name:18} {np.concatenate(list(right.values())).mean():6.1%}  ({parts})")
    by_iou = np.concatenate([found["network_dissection"][layer][0] for layer in TRUTH])
    for name in ("paper", "demo"):
        words = np.concatenate([found[name][layer][0] for layer in TRUTH])
        both = (words != "") & (by_iou != "")
        same = (words == by_iou)[both].sum()
        print(f"  {name} and network_dissection give the same word to {same} of the {both.sum()} units with both")


def check_classifier(work: Path) -> None:
    """Print the third table."""
    presence, evidence = render(PROBE_IMAGES, PROBE_SEED).presence(), read_evidence(work / "evidence.h5")
    vocabulary = np.array(words())
    columns = [*SETTINGS, "IoU", "IoU >= 0.04", "units of those"]
    print("classifier's units whose top word is the known truth, living units of layers 2 to 4 (of layer 4)")
    print("  epoch  " + "  ".join(f"{name:>17}" for name in columns))
    for path in sorted((work / "activations" / "shapes").glob("*.h5")):
        layers = read_activations(path, "mean").layers
        truth = [vocabulary[average_precision(layer.values, presence).argmax(axis=1)] for layer in layers]
        stored = stored_words(work, "network_dissection", "shapes", path.stem)
        by_iou = [stored[layer.name][0] for layer in layers]
        clear = [np.where(stored[layer.name][1], stored[layer.name][0], "") for layer in layers]
        found = [[top_words(detector, layer, evidence) for layer in layers] for detector in SETTINGS.values()]
        cells = [share(one, truth) for one in (*found, by_iou, clear)]
        cells.append(f"{sum((one != '').sum() for one in clear)} ({(clear[-1] != '').sum()})")
        print(f"  {path.stem.removeprefix('epoch_'):>5}  " + "  ".join(f"{cell:>17}" for cell in cells))


def share(found: list[np.ndarray], truth: list[np.ndarray]) -> str:
    """Say how many of the units with a word have the true one, of all layers and of the last."""
    hits = [(word == true)[word != ""] for word, true in zip(found, truth, strict=True)]
    return f"{np.concatenate(hits).mean():9.0%} ({hits[-1].mean():4.0%})"


def stored_words(work: Path, detector: str, run: str, checkpoint: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return each layer's words, (U,) str with "" for dead units, and which of its units are interpretable."""
    labels = read_labels(work / "similarity" / detector / run / f"{checkpoint}.h5")
    names = np.array([*labels.concepts.names, ""])
    return {layer.name: (names[layer.top_concept[:, 0]], layer.interpretable) for layer in labels.layers}


def top_words(detector: Detector, layer: LayerActivations, evidence: Evidence) -> np.ndarray:
    """Return each unit's word, (U,) str; "" for dead units."""
    names = np.array([*evidence.concepts.names, ""])
    labels = label_layer(detector, layer, evidence, Test(), draw(len(layer.values), 0, 0, 0))
    return names[labels.top_concept[:, 0]]


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
