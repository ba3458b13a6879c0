"""Write the weights of the planted network: detectors of the concept world by construction, not by training.

    python scripts/plant.py OUT.pt

`sample_configs/demo/planted.py` is the architecture. A colour unit answers to its paint; a texture unit
matches a piece of its pattern; a shape unit matches its outline in several sizes and rotations. `TRUTH` has
each unit's word. A unit is 0 on nearly all images without its word.
"""

import argparse
import importlib.util
import io
import uuid
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from concept_world import CONCEPTS, INK, PALETTE, PERIOD, RADIUS_RANGE, shape_coverage, texture_ink
from torch import Tensor, nn

MODEL_FILE = Path(__file__).resolve().parents[1] / "sample_configs" / "demo" / "planted.py"
TRUTH: dict[str, tuple[str, ...]] = {layer: CONCEPTS[layer] for layer in ("color", "texture", "shape")}

NEAR, FAR = 40.0, 75.0  # sum of |RGB differences| up to which closeness is 1, and from which it is 0
COLOR_THRESHOLD = 0.5  # mean closeness in 3 x 3 pixels; where two paints blend, a third shows on thinner lines
TEXTURE_THRESHOLD = 0.57  # 1 is a perfect fit
MISPLACED_INK = 2.0  # weight of ink in the place of paint, against the right ink's 1
SHAPE_THRESHOLD = 0.74  # 1 is a perfect fit


def load_planted() -> ModuleType:
    """Import sample_configs/demo/planted.py."""
    spec = importlib.util.spec_from_file_location("planted", MODEL_FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def planted_network() -> nn.Module:
    """Build the network and write its weights, in eval mode."""
    planted = load_planted()
    network = planted.build()
    weights = {
        **_paint_weights(),
        **_color_weights(),
        **_template_weights("texture", texture_templates(planted.PHASES, planted.PATCH), TEXTURE_THRESHOLD),
        **_template_weights("shape", shape_templates(planted.VIEWS, planted.OUTLINE), SHAPE_THRESHOLD),
    }
    network.load_state_dict(weights)
    return network.eval()


def _paint_weights() -> dict[str, Tensor]:
    paints = torch.from_numpy(np.concatenate([PALETTE, INK[None]])) / 255
    count = len(paints)
    sign = torch.tensor([1.0, -1.0])
    differences = torch.einsum("s,cd->csd", sign, torch.eye(3)).expand(count, 3, 2, 3)
    offsets = -paints[:, :, None] * sign
    slope = 255 / (FAR - NEAR)
    total = -slope * torch.eye(count).repeat_interleave(6, dim=1)
    return {
        "paint.differences.weight": differences.reshape(6 * count, 3, 1, 1),
        "paint.differences.bias": offsets.reshape(6 * count),
        "paint.sum.weight": total[:, :, None, None],
        "paint.sum.bias": torch.full((count,), FAR / (FAR - NEAR)),
    }


def _color_weights() -> dict[str, Tensor]:
    own = torch.eye(len(PALETTE), len(PALETTE) + 1)
    weight = own[:, :, None, None].expand(-1, -1, 3, 3) / 9
    return {
        "color.templates.weight": weight.clone(),
        "color.templates.bias": torch.full((len(PALETTE),), -COLOR_THRESHOLD),
    }


def texture_templates(phases: int, size: int) -> np.ndarray:
    """Make kernels over the maps of paint and ink that give 1 where a pattern fits and 0 where nothing is.

    Returns:
        (textures, phases, 2, size, size) float32.
    """
    side = round(phases**0.5)
    steps = np.arange(side, dtype=np.float32) / side
    shift_x, shift_y = (grid.ravel() * PERIOD * 1.25 for grid in np.meshgrid(steps, steps))
    kernels = []
    for texture in range(len(CONCEPTS["texture"])):
        ink = texture_ink(texture, shift_x, shift_y, size)
        paint = 1 - ink
        # Ink and paint weigh the same, however little of a pattern is ink: few dots else hardly count.
        paint, ink = (part / np.maximum(part.sum((1, 2), keepdims=True), 1) for part in (paint, ink))
        # Ink where paint should be is the sign of another pattern: a grid has dots, and lines between them.
        kernel = np.stack([paint - ink, ink - MISPLACED_INK * paint], axis=1)
        kernels.append(kernel if texture == 0 else kernel / 2)
    return np.stack(kernels).astype(np.float32)


def shape_templates(views: int, size: int) -> np.ndarray:
    """Make kernels over the map of the object, at half resolution: 1 / area in the outline, else -1 / area.

    So a fit is the share of the outline that is filled, less what lies outside it.

    Returns:
        (shapes, views, 1, size, size) float32.
    """
    rotations = 3
    radius = np.geomspace(RADIUS_RANGE[0] + 0.5, RADIUS_RANGE[1] - 0.5, views // rotations)
    radius, rotation = (grid.ravel() for grid in np.meshgrid(radius, np.linspace(-0.13, 0.13, rotations)))
    center = np.full(views, size, np.float32)
    kernels = []
    for shape in range(len(CONCEPTS["shape"])):
        fine = shape_coverage(shape, center, center, radius, rotation, 2 * size)
        cover = fine.reshape(views, size, 2, size, 2).mean((2, 4))
        kernels.append((2 * cover - 1) / cover.sum((1, 2), keepdims=True))
    return np.stack(kernels)[:, :, None].astype(np.float32)


def _template_weights(layer: str, kernels: np.ndarray, threshold: float) -> dict[str, Tensor]:
    weight = torch.from_numpy(kernels).flatten(0, 1)
    return {
        f"{layer}.templates.weight": weight,
        f"{layer}.templates.bias": torch.full((len(weight),), -threshold),
    }


def main() -> None:
    """Write the state dict, whole or not at all."""
    parser = argparse.ArgumentParser(description="Write the planted network's weights.")
    parser.add_argument("out", type=Path, help="the .pt file to write")
    out: Path = parser.parse_args().out
    out.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()  # torch.save would write the unfinished file's name into a file
    torch.save(planted_network().state_dict(), content)
    unfinished = out.with_name(f".{out.name}.{uuid.uuid4().hex}")
    try:
        unfinished.write_bytes(content.getvalue())
        unfinished.rename(out)
    finally:
        unfinished.unlink(missing_ok=True)
    print(f"{out}: {sum(len(names) for names in TRUTH.values())} planted units")


if __name__ == "__main__":
    main()
