"""Train a ViT and a ConvNeXt to tell shapes, and leave what the trainers of two libraries leave.

    python scripts/train_vision_models.py OUT

writes OUT/vit, which is transformers' own Trainer's: checkpoint-0 (before training) to checkpoint-3000, and the model
at the end beside them; and OUT/convnext, in timm's train.py's way: checkpoint-0.pth.tar (before training) to
checkpoint-8.pth.tar, each with the moving average of the weights, last and model_best. Each folder also gets a
metrics.csv of accuracies by step, when all else is there. The task is the demo's: colour, texture and scene are
independent of the shape, so that a network has to leave the easy features that it starts with.
"""

import argparse
import csv
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from train_demo_classifier import HELD_OUT_IMAGES, WORLD_SEED, measure_accuracy, pixels_and_shapes

from cmon.torchvision_import import torchvision

SHAPES = 10
MEAN = STD = 0.5  # of all three channels, as in transformers' own preprocessing for ViT

VIT: dict[str, Any] = {
    "image_size": 64,
    "patch_size": 8,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_labels": SHAPES,
    "initializer_range": 0.08,  # at the usual 0.02, which suits 768 channels, so narrow a network learns hardly at all
}
VIT_IMAGES = 24_000  # twice the demo's: without convolutions it takes more to see shapes
VIT_EPOCHS, VIT_BATCH, VIT_LEARNING_RATE = 8, 64, 2e-3
VIT_EARLY_STEPS = (25, 100)  # are kept beside the end of every epoch

CONVNEXT: dict[str, Any] = {"dims": (24, 48, 64, 64), "depths": (1, 1, 2, 1), "num_classes": SHAPES}
CONVNEXT_IMAGES = 12_000
CONVNEXT_EPOCHS, CONVNEXT_BATCH, CONVNEXT_LEARNING_RATE = 8, 128, 6e-4
EMA_DECAY = 0.99

Data = tuple[Tensor, Tensor]  # (n, 3, 64, 64) normalised pixels, (n,) shapes


def train_vit(folder: Path, data: Data, held_out: Data) -> dict[int, float]:
    """Train a ViT by transformers' Trainer; return the accuracy at every step that is kept."""
    import transformers

    class KeepEarlySteps(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step in VIT_EARLY_STEPS:
                control.should_save = control.should_evaluate = True

    torch.manual_seed(0)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=VIT_EPOCHS,
        per_device_train_batch_size=VIT_BATCH,
        per_device_eval_batch_size=500,
        learning_rate=VIT_LEARNING_RATE,
        weight_decay=0.05,
        warmup_steps=VIT_EPOCHS * VIT_IMAGES // VIT_BATCH // 10,
        lr_scheduler_type="cosine",
        save_strategy="epoch",
        eval_strategy="epoch",
        logging_strategy="epoch",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        transformers.ViTForImageClassification(transformers.ViTConfig(**VIT)),
        arguments,
        train_dataset=_examples(*data),
        eval_dataset=_examples(*held_out),
        compute_metrics=lambda seen: {"accuracy": float((seen.predictions.argmax(1) == seen.label_ids).mean())},
        callbacks=[KeepEarlySteps()],
    )
    accuracies = {0: trainer.evaluate()["eval_accuracy"]}
    trainer.save_model(str(folder / "checkpoint-0"))
    trainer.train()
    trainer.save_model()
    told = [entry for entry in trainer.state.log_history if "eval_accuracy" in entry]
    return accuracies | {entry["step"]: entry["eval_accuracy"] for entry in told}


def _examples(pixels: Tensor, shapes: Tensor) -> list[dict[str, Tensor]]:
    return [{"pixel_values": image, "labels": shape} for image, shape in zip(pixels, shapes, strict=True)]


def train_convnext(folder: Path, data: Data, held_out: Data) -> dict[int, float]:
    """Train a ConvNeXt with timm's optimizer, moving average and saver; return the accuracy after every epoch."""
    import timm
    from timm.optim import create_optimizer_v2
    from timm.utils import CheckpointSaver, ModelEmaV3

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    model = timm.create_model("convnext_atto", **CONVNEXT)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=CONVNEXT_LEARNING_RATE, weight_decay=0.05)
    steps = CONVNEXT_EPOCHS * (len(data[1]) // CONVNEXT_BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, CONVNEXT_LEARNING_RATE, total_steps=steps)
    average = ModelEmaV3(model, decay=EMA_DECAY)
    kept = CONVNEXT_EPOCHS + 1
    saver = CheckpointSaver(model, optimizer, model_ema=average, checkpoint_dir=str(folder), max_history=kept)
    accuracies, started = {}, time.monotonic()
    for epoch in range(CONVNEXT_EPOCHS + 1):
        for pixels, shapes in _batches(*data) if epoch else ():
            loss = nn.functional.cross_entropy(model(pixels), shapes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update(model)
        accuracies[epoch] = measure_accuracy(model, *held_out)
        saver.save_checkpoint(epoch, metric=accuracies[epoch])
        averaged = measure_accuracy(average.module, *held_out)
        said = f"accuracy {accuracies[epoch]:.1%}, of the average {averaged:.1%}"
        print(f"convnext: epoch {epoch}: {said}, {time.monotonic() - started:.0f} s", flush=True)
    return accuracies


def _batches(pixels: Tensor, shapes: Tensor) -> Iterator[Data]:
    for rows in torch.randperm(len(shapes))[: len(shapes) // CONVNEXT_BATCH * CONVNEXT_BATCH].split(CONVNEXT_BATCH):
        yield pixels[rows], shapes[rows]


def render_data(images: int, seed: int) -> Data:
    """Render a world as `pixels_and_shapes` does, its pixels normalised."""
    pixels, shapes = pixels_and_shapes(images, seed)
    return pixels.sub_(MEAN).div_(STD), shapes


def write_metrics(file: Path, accuracies: dict[int, float]) -> None:
    """Write accuracies as cmon reads what a training has recorded."""
    with file.open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        writer.writerow(["step", "accuracy"])
        writer.writerows([step, f"{accuracy:.4f}"] for step, accuracy in accuracies.items())


TRAININGS = {"convnext": (train_convnext, CONVNEXT_IMAGES), "vit": (train_vit, VIT_IMAGES)}


def train_network(name: str, folder: Path) -> None:
    """Train one network in this process, by one thread, unless it is there."""
    if (folder / "metrics.csv").is_file():
        print(f"{folder}: already there, nothing to do", flush=True)
        return
    torch.set_num_threads(1)
    torchvision()  # before timm and transformers import it
    train, images = TRAININGS[name]
    data, held_out = render_data(images, WORLD_SEED), render_data(HELD_OUT_IMAGES, WORLD_SEED + 1)
    write_metrics(folder / "metrics.csv", train(folder, data, held_out))


def main() -> None:
    """Train both networks at once, since two threads on one of them would mostly wait for each other."""
    parser = argparse.ArgumentParser(description="Train a ViT and a ConvNeXt on the concept world.")
    parser.add_argument("out", type=Path, help="the folder for a folder of each network")
    out: Path = parser.parse_args().out
    with ProcessPoolExecutor(len(TRAININGS), multiprocessing.get_context("spawn")) as pool:
        for training in [pool.submit(train_network, name, out / name) for name in TRAININGS]:
            training.result()


if __name__ == "__main__":
    main()
