"""Make up a study whose network is really run: images in files, checkpoints, and an encoder's features at random."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cmon.models import build_model

WORDS, DIMENSIONS = 1_200, 512
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def make_images(folder: Path, count: int, size: tuple[int, int], ending: str = "jpg") -> None:
    """Write pictures of blobs and grain, in ten folders as classifiers have them."""

    def make(number: int) -> None:
        random = np.random.default_rng(number)
        blobs = Image.fromarray(random.integers(0, 256, (8, 10, 3), dtype=np.uint8)).resize(size, Image.BICUBIC)
        grain = random.normal(0, 12, (size[1], size[0], 3))
        pixels = (np.asarray(blobs) + grain).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / str(number % 10) / f"{number:05}.{ending}")

    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        list(pool.map(make, range(count)))


def save_checkpoint(path: Path, source: str, seed: int) -> None:
    """Save weights that the seed draws, with normalisation that has seen something."""
    model = build_model(source, {}, seed)
    random = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=random)
            module.running_var.uniform_(0.5, 2, generator=random)
    path.parent.mkdir(exist_ok=True)
    torch.save({"epoch": seed, "state_dict": model.state_dict()}, path)


def make_study(
    folder: Path,
    source: str,
    layers: list[str],
    checkpoints: int,
    images: int,
    size: tuple[int, int],
    preprocess: str,
    ending: str = "jpg",
    more: str = "",
) -> Path:
    """Make a study in a folder, and return its config.

    Args:
        folder: is made.
        source: of the model.
        layers: of it.
        checkpoints: of the run.
        images: of the probe.
        size: of an image, width and height.
        preprocess: TOML of the run's.
        ending: of the images' files.
        more: TOML of further tables.
    """
    random = np.random.default_rng(0)
    make_images(folder / "probe", images, size, ending)
    for epoch in range(checkpoints):
        save_checkpoint(folder / "run" / f"{epoch:03}.pt", source, epoch)
    names = sorted(path.relative_to(folder / "probe").as_posix() for path in (folder / "probe").rglob(f"*.{ending}"))
    for name, rows in (("image", names), ("concept", [f"word {number}" for number in range(WORDS)])):
        features = random.standard_normal((len(rows), DIMENSIONS), dtype=np.float32)
        np.save(folder / f"{name}_features.npy", features / np.linalg.norm(features, axis=1, keepdims=True))
        (folder / f"{name}s.txt").write_text("\n".join(rows))
    config = folder / "study.toml"
    config.write_text(
        f"""
workspace = "work"
[probe]
path = "probe"
[encoder]
kind = "features"
image_features = "image_features.npy"
images = "images.txt"
concept_features = "concept_features.npy"
concepts = "concepts.txt"
[[run]]
name = "run"
checkpoints = "run/*.pt"
model = {json.dumps(source)}
layers = {json.dumps(layers)}
preprocess = {preprocess}
[[detector]]
kind = "clip_dissect"
{more}
"""
    )
    return config
