"""Train the demo's classifier: a small CNN that tells shapes, with a checkpoint of every epoch.

    python scripts/train_demo_classifier.py OUT

writes OUT/epoch_0.pt (before training) to OUT/epoch_8.pt, each {"epoch", "state_dict", "accuracy"}; it takes
45 to 50 s on 2 CPU cores. Colour, texture and scene are independent of the shape, so the network has to leave
the easy features that it starts with: what its last layer detects moves from colour and scene, by way of
texture, to shape, while the layer before keeps some of each.
"""

import argparse
import importlib.util
import io
import time
import uuid
from pathlib import Path

import numpy as np
import torch
from concept_world import render
from torch import Tensor, nn

EPOCHS = 8
TRAINING_IMAGES = 12_000
HELD_OUT_IMAGES = 1_500
WORLD_SEED = 2000  # neither the probe's nor the encoder's
BATCH = 128
LEARNING_RATE = 6e-3  # slow on purpose: Adam solves the task in two epochs, and leaves nothing to watch
MODEL_FILE = Path(__file__).resolve().parents[1] / "sample_configs" / "demo" / "classifier.py"


def build_classifier() -> nn.Module:
    """Build the network of sample_configs/demo/classifier.py."""
    spec = importlib.util.spec_from_file_location("classifier", MODEL_FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build()


def pixels_and_shapes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Render a world: (n, 3, 64, 64) float32 in [0, 1], and the shapes' numbers (n,) int64."""
    world = render(count, seed)
    pixels = torch.from_numpy(world.images).permute(0, 3, 1, 2).float().div_(255)
    return pixels.contiguous(memory_format=torch.channels_last), torch.from_numpy(world.labels["shape"])


@torch.inference_mode()
def measure_accuracy(model: nn.Module, pixels: Tensor, shapes: Tensor) -> float:
    """Return the share of images whose shape the model names; leaves the model in train mode."""
    model.eval()
    right = sum(
        (model(x).argmax(1) == y).sum().item() for x, y in zip(pixels.split(500), shapes.split(500), strict=True)
    )
    model.train()
    return right / len(shapes)


def save_checkpoint(folder: Path, epoch: int, model: nn.Module, accuracy: float) -> None:
    """Write one checkpoint whole or not at all."""
    content = io.BytesIO()  # torch.save would write the unfinished file's name into a file
    torch.save({"epoch": epoch, "state_dict": model.state_dict(), "accuracy": accuracy}, content)
    unfinished = folder / f".{uuid.uuid4().hex}"
    try:
        unfinished.write_bytes(content.getvalue())
        unfinished.rename(folder / f"epoch_{epoch}.pt")
    finally:
        unfinished.unlink(missing_ok=True)


def train(folder: Path, seed: int) -> None:
    """Train from the start and save every epoch."""
    started = time.monotonic()
    torch.manual_seed(seed)
    pixels, shapes = pixels_and_shapes(TRAINING_IMAGES, WORLD_SEED)
    held_out = pixels_and_shapes(HELD_OUT_IMAGES, WORLD_SEED + 1)
    model = build_classifier().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)
    steps = EPOCHS * (TRAINING_IMAGES // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for epoch in range(EPOCHS + 1):
        losses = []
        batches = torch.randperm(TRAINING_IMAGES)[: TRAINING_IMAGES // BATCH * BATCH].split(BATCH)
        for rows in batches if epoch else ():
            loss = nn.functional.cross_entropy(model(pixels[rows]), shapes[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        accuracy = measure_accuracy(model, *held_out)
        save_checkpoint(folder, epoch, model, accuracy)
        said = f"loss {np.mean(losses):.3f}, " if losses else ""
        print(f"epoch {epoch}: {said}accuracy {accuracy:.1%}, {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    """Train, unless all checkpoints are there."""
    parser = argparse.ArgumentParser(description="Train the demo's shape classifier on the concept world.")
    parser.add_argument("out", type=Path, help="the folder for the checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if all((arguments.out / f"epoch_{epoch}.pt").is_file() for epoch in range(EPOCHS + 1)):
        print(f"{arguments.out}: all {EPOCHS + 1} checkpoints are there, nothing to do")
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    train(arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
