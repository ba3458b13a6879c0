"""Train the small image-text model of the demo on the concept world.

    python scripts/train_demo_encoder.py

makes the weights in sample_configs/demo/encoder/ again (about 190 s on 2 CPU cores). The folder is then an
open_clip model, `open_clip.create_model_and_transforms("local-dir:sample_configs/demo/encoder")`, with
open_clip's default tokenizer; it is in train mode until `.eval()`. `--check` only measures what is there.
"""

import argparse
import io
import json
import math
import os
import re
import sys
import time
import uuid
import zipfile
from pathlib import Path

import numpy as np
import torch
from concept_world import CONCEPTS, captions, render, words
from torch import Tensor
from torch.nn import functional
from world_truth import zero_shot_accuracy

from cmon.torchvision_import import torchvision

ENCODER = Path(__file__).resolve().parents[1] / "sample_configs" / "demo" / "encoder"
MEAN, STD = 0.5, 0.25  # of all three channels, about those of the world
CONFIG = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {
            "image_size": 64,
            "layers": [1, 2, 2, 1],
            "width": 16,
            "head_width": 32,
            "patch_size": None,
        },
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
    },
    "preprocess_cfg": {
        "size": 64,
        "mode": "RGB",
        "mean": [MEAN] * 3,
        "std": [STD] * 3,
        "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}
LOGIT_SCALE = 40.0  # higher brings the cosines of right and wrong words closer together
SMOOTHING = 0.1  # the share of a target that is spread evenly: keeps the cosines' spread bounded
BATCH = 128
LEARNING_RATE = 2e-3


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the mean cross-entropy against rows that sum to 1, smoothed; both (n, m)."""
    target = target * (1 - SMOOTHING) + SMOOTHING / target.shape[1]
    return -(target * functional.log_softmax(logits, dim=1)).sum(dim=1).mean()


def share(matches: Tensor) -> Tensor:
    """Spread each row's target evenly over its matches, of which each has one: (n, m) bool to float32."""
    return matches / matches.sum(dim=1, keepdim=True)


def loss_of_batch(image: Tensor, word: Tensor, caption: Tensor, presence: Tensor, named: Tensor) -> Tensor:
    """Compute the loss: over all words, over each category's words, and half of that over captions.

    A caption matches every image that has all it names, not only its own: the usual contrastive loss, which
    takes those for wrong, stays blind to shapes.

    Args:
        image: (B, D) unit norm.
        word: (C, D) unit norm.
        caption: (B, D) unit norm.
        presence: (B, C) bool, what each image has.
        named: (B, C) bool, what each caption names.
    """
    logits = LOGIT_SCALE * image @ word.T
    loss = soft_cross_entropy(logits, share(presence))
    sizes = [len(names) for names in CONCEPTS.values()]
    for part, target in zip(logits.split(sizes, dim=1), presence.split(sizes, dim=1), strict=True):
        loss = loss + soft_cross_entropy(part, target.float())
    matches = named.float() @ presence.float().T == named.sum(dim=1, keepdim=True)  # (caption, image)
    logits = LOGIT_SCALE * caption @ image.T
    return loss + 0.25 * (soft_cross_entropy(logits, share(matches)) + soft_cross_entropy(logits.T, share(matches.T)))


def train(count: int, epochs: int, seed: int) -> tuple[torch.nn.Module, Tensor]:
    """Train on `count` pictures.

    Returns:
        The model in eval mode, and the tokens that its text tower has met: (T,) int64.
    """
    torchvision()
    import open_clip

    torch.manual_seed(seed)
    world = render(count, seed)
    sentences = captions(world, seed)
    presence = torch.from_numpy(world.presence())
    named = torch.from_numpy(
        np.stack([[bool(re.search(rf"\b{word}\b", text)) for text in sentences] for word in words()], axis=1)
    )
    pixels = torch.from_numpy(world.images)
    model_config = CONFIG["model_cfg"]
    tokenizer = open_clip.SimpleTokenizer(context_length=model_config["text_cfg"]["context_length"])
    word_tokens, caption_tokens = tokenizer(words()), tokenizer(sentences)

    model = open_clip.CLIP(**model_config)
    model.logit_scale.data.fill_(math.log(LOGIT_SCALE))
    # Random rows are as good as learned ones for a few dozen words, and cost no optimizer state.
    model.token_embedding.weight.requires_grad_(False)
    model.logit_scale.requires_grad_(False)
    model = model.to(memory_format=torch.channels_last)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.02)
    steps = epochs * (count // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    model.train()
    started = time.monotonic()
    for epoch in range(1, epochs + 1):
        losses = []
        for rows in torch.randperm(count)[: count // BATCH * BATCH].split(BATCH):
            batch = pixels[rows].permute(0, 3, 1, 2).float().div(255).sub(MEAN).div(STD)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                image = model.encode_image(batch.contiguous(memory_format=torch.channels_last))
                text = model.encode_text(torch.cat([word_tokens, caption_tokens[rows]]))
            image, text = (functional.normalize(features.float(), dim=1) for features in (image, text))
            word, caption = text[: len(word_tokens)], text[len(word_tokens) :]
            loss = loss_of_batch(image, word, caption, presence[rows], named[rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch}: loss {np.mean(losses):.4f}, {time.monotonic() - started:.0f} s", flush=True)
    return model.eval(), torch.unique(torch.cat([word_tokens, caption_tokens]))


def compressed_weights(model: torch.nn.Module, tokens: Tensor) -> bytes:
    """Pack a model's weights small: float16, rows of unmet tokens zeroed, and torch's zip file deflated.

    torch.load reads a deflated zip as it reads its own, so a vocabulary of zeros costs next to nothing and
    open_clip's default tokenizer fits.
    """
    state = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    state = {name: value.contiguous() for name, value in state.items()}
    table = torch.zeros_like(state["token_embedding.weight"])
    table[tokens] = state["token_embedding.weight"][tokens]
    state["token_embedding.weight"] = table
    stored, deflated = io.BytesIO(), io.BytesIO()
    torch.save(state, stored)
    with zipfile.ZipFile(stored) as source, zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            # A fixed date, so that equal weights are equal bytes.
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            target.writestr(entry, source.read(name), zipfile.ZIP_DEFLATED, compresslevel=9)
    return deflated.getvalue()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        unfinished.write_bytes(content)
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)


def bound_the_heap() -> None:
    """Start this program again with a setting of glibc's that it reads at its start only.

    Without it the heap grows by gigabytes an epoch, since large freed blocks are not given back.
    """
    setting = {"MALLOC_MMAP_THRESHOLD_": "1048576"}
    if not setting.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **setting})


def main() -> None:
    """Train, save and measure."""
    parser = argparse.ArgumentParser(description="Train the demo's image-text model on the concept world.")
    parser.add_argument("--out", type=Path, default=ENCODER)
    parser.add_argument("--images", type=int, default=40_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--check", action="store_true", help="measure the weights that are there; train nothing")
    arguments = parser.parse_args()
    bound_the_heap()
    torch.set_num_threads(arguments.threads)
    if not arguments.check:
        started = time.monotonic()
        model, tokens = train(arguments.images, arguments.epochs, arguments.seed)
        arguments.out.mkdir(parents=True, exist_ok=True)
        # The name is one that open_clip looks for in a local-dir.
        write_whole(arguments.out / "open_clip_pytorch_model.bin", compressed_weights(model, tokens))
        write_whole(arguments.out / "open_clip_config.json", (json.dumps(CONFIG, indent=2) + "\n").encode())
        print(f"trained in {time.monotonic() - started:.0f} s")
    for category, accuracy in zero_shot_accuracy(arguments.out, 2000, arguments.seed + 1).items():
        print(f"{category:8} {accuracy:.1%} of held-out images right by bare words")


if __name__ == "__main__":
    main()
