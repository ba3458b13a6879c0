"""What is true of the concept world, to hold detectors and encoders against."""

from pathlib import Path

import numpy as np
from concept_world import CONCEPTS, World, render, words

from cmon.torchvision_import import torchvision


def average_precision(activations: np.ndarray, presence: np.ndarray) -> np.ndarray:
    """Compute how well each unit ranks the images that have each concept above the others.

    AP = sum over thresholds of (recall gained) x precision; images with equal activations share a threshold,
    so that their order does not matter.

    Args:
        activations: (I, U), any real type, finite.
        presence: (I, C) bool, which image has which concept.

    Returns:
        (U, C) float64 in [0, 1]; 0 for a concept that no image has. A unit that is constant gets the
        concept's share of the images.
    """
    assert activations.ndim == presence.ndim == 2 and len(activations) == len(presence)
    assert np.isfinite(activations).all()
    totals = presence.sum(axis=0)
    rank = np.arange(1.0, len(presence) + 1)[:, None]
    result = np.zeros((activations.shape[1], presence.shape[1]))
    for unit, column in enumerate(activations.T):
        order = np.argsort(-column, kind="stable")
        descending = column[order]
        found = np.cumsum(presence[order], axis=0, dtype=np.float64)
        ends = np.append(descending[1:] != descending[:-1], True)[: len(descending)]  # last of each tie
        precision = (found / rank)[ends]
        gained = np.diff(found[ends], axis=0, prepend=0.0)
        result[unit] = (gained * precision).sum(axis=0) / np.maximum(totals, 1)
    return result


def truth_table(world: World, activations: np.ndarray) -> np.ndarray:
    """Name each unit by the word whose images it ranks first, by how far its average precision beats chance.

    Chance is the word's share of the images. Were it not taken off, words of small categories (a scene is one
    of six) would win over words of large ones (a colour is one of ten) in units that detect nothing.

    Args:
        world: I images.
        activations: (I, U) pooled activations.

    Returns:
        (U,) int64, the best word's place in `concept_world.words()`.
    """
    presence = world.presence()
    chance = presence.mean(axis=0)
    return (average_precision(activations, presence) - chance).argmax(axis=1)


def zero_shot_accuracy(folder_of_encoder: Path, count: int, seed: int) -> dict[str, float]:
    """Measure how often an encoder's nearest word of a category is the right one.

    Text is the bare words; images are those of `render(count, seed)`, in the encoder's own preprocessing.

    Args:
        folder_of_encoder: what open_clip calls a local-dir.

    Returns:
        category -> share of the images in [0, 1].
    """
    world = render(count, seed)
    cosine = cosines(Path(folder_of_encoder), world)
    accuracy, start = {}, 0
    for category, names in CONCEPTS.items():
        nearest = cosine[:, start : start + len(names)].argmax(axis=1)
        accuracy[category] = float((nearest == world.labels[category]).mean())
        start += len(names)
    return accuracy


def cosines(folder_of_encoder: Path, world: World) -> np.ndarray:
    """Compare each image with each bare word: (I, C) float32, columns as in `concept_world.words()`."""
    import torch
    from PIL import Image

    torchvision()
    import open_clip

    name = f"local-dir:{folder_of_encoder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    model.eval()  # open_clip leaves a model in train mode
    with torch.inference_mode():
        text = model.encode_text(open_clip.get_tokenizer(name)(words()), normalize=True)
        parts = []
        for start in range(0, len(world), 250):
            pictures = [preprocess(Image.fromarray(image)) for image in world.images[start : start + 250]]
            parts.append(model.encode_image(torch.stack(pictures), normalize=True) @ text.T)
    return torch.cat(parts).numpy()
