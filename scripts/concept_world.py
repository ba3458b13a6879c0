"""A procedural world of concepts: small pictures whose every attribute is known.

Each picture shows one object, a shape with a texture and a colour, in front of a scene. The four attributes
are drawn independently. Objects are saturated (or pure white) with near-black patterns, scenes are muted and
of middle brightness, so the object's pixels can be told from the scene's by their colour alone.

    python scripts/concept_world.py OUT --images 3000 --seed 1

writes a world as a folder in the layout of Network Dissection's Broden; with `--classes texture` it writes
OUT/<texture>/<number>.png instead, a folder of images for each word of one category.
"""

import argparse
import csv
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

CONCEPTS: dict[str, tuple[str, ...]] = {
    "color": ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "white"),
    "texture": (
        "plain",
        "horizontal stripes",
        "vertical stripes",
        "diagonal stripes",
        "dotted",
        "checkered",
        "grid",
    ),
    "shape": (
        "circle",
        "square",
        "triangle",
        "diamond",
        "star",
        "heart",
        "cross",
        "ring",
        "crescent",
        "arrow",
    ),
    "scene": ("sea", "desert", "mountain", "forest", "city", "field"),
}

IMAGE_SIZE = 64  # pixels
MASK_SIZE = 32  # pixels; Broden's masks have half the resolution of its images
PERIOD = 8  # pixels between two stripes, dots or lines
RADIUS_RANGE = (14.0, 21.0)  # pixels from an object's centre to its farthest points, about
ROTATION_RANGE = (-0.2, 0.2)  # radians; more would make a square a diamond

PALETTE = np.array(  # RGB in [0, 255], a row per colour
    [
        (222, 36, 42),
        (250, 138, 20),
        (250, 224, 40),
        (36, 165, 62),
        (52, 214, 226),
        (42, 78, 226),
        (136, 44, 188),
        (252, 132, 194),
        (128, 72, 30),
        (246, 246, 246),
    ],
    dtype=np.float32,
)
INK = np.array((26, 24, 32), dtype=np.float32)  # what patterns are drawn with; no scene is as dark

_CHUNK = 250  # images rendered at once, to bound the memory
_SHADING = 0.05  # an object is lit by up to this share from the upper left
_NOISE = 3.0  # standard deviation, of 255


@dataclass(frozen=True)
class World:
    """Pictures with all that is known of them.

    Attributes:
        images: (n, 64, 64, 3) uint8, RGB.
        object_mask: (n, 64, 64) bool, where the object covers at least half of the pixel.
        labels: category -> (n,) int64, index into CONCEPTS[category].
    """

    images: np.ndarray
    object_mask: np.ndarray
    labels: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.images)

    def presence(self) -> np.ndarray:
        """Say which concepts each image has: (n, C) bool, columns as in `words()`."""
        columns = [self.labels[category][:, None] == np.arange(len(CONCEPTS[category])) for category in CONCEPTS]
        return np.concatenate(columns, axis=1)


def words() -> list[str]:
    """List all words, category by category."""
    return [word for category in CONCEPTS for word in CONCEPTS[category]]


# Shapes: signed distance to the outline, negative inside, in units of the object's radius.
# Arrays x (to the right) and y (downwards) broadcast.


def _box(x: np.ndarray, y: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 0.9


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _box(x, y, 0.8, 0.8)


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    sides = (2.0 * np.abs(x) - y) / np.sqrt(5.0) - 0.43
    return np.maximum(sides, y - 0.8)


def _diamond(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.abs(x) * 1.25 + np.abs(y)) / np.hypot(1.25, 1.0) - 0.65


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    half_sector = np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + half_sector) % (2 * half_sector) - half_sector)
    distance = np.hypot(x, y)
    along, across = distance * np.cos(angle), distance * np.sin(angle)
    tip, notch = 1.08, 0.5
    edge_x, edge_y = notch * np.cos(half_sector) - tip, notch * np.sin(half_sector)
    return ((along - tip) * edge_y - across * edge_x) / np.hypot(edge_x, edge_y)


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    side = np.abs(x)
    tip = np.maximum((side + y) / np.sqrt(2.0) - 0.62, (side - y) / np.sqrt(2.0) - 0.62)
    lobe = np.hypot(side - 0.42, y + 0.38) - 0.52
    return np.minimum(np.maximum(tip, -0.45 - y), lobe)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.minimum(_box(x, y, 0.92, 0.33), _box(x, y, 0.33, 0.92))


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.68) - 0.28


def _crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(x - 0.1, y) - 0.98, 0.74 - np.hypot(x - 0.58, y))


def _arrow(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    head = np.maximum((np.abs(y) + x) / np.sqrt(2.0) - 0.7, -0.05 - x)
    return np.minimum(head, _box(x + 0.45, y, 0.5, 0.33))


_SHAPES: tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], ...] = (
    _circle,
    _square,
    _triangle,
    _diamond,
    _star,
    _heart,
    _cross,
    _ring,
    _crescent,
    _arrow,
)


def shape_coverage(
    shape: int,
    center_x: np.ndarray,
    center_y: np.ndarray,
    radius: np.ndarray,
    rotation: np.ndarray,
    size: int,
) -> np.ndarray:
    """Draw one shape at several places.

    Args:
        shape: index into CONCEPTS["shape"].
        center_x: (n,) pixels from the left edge.
        center_y: (n,) pixels from the upper edge.
        radius: (n,) pixels.
        rotation: (n,) radians, clockwise.
        size: height and width of the drawing in pixels.

    Returns:
        (n, size, size) share of each pixel that the shape covers.
    """
    grid = np.arange(size, dtype=np.float32) + 0.5
    x = grid[None, None, :] - center_x[:, None, None]
    y = grid[None, :, None] - center_y[:, None, None]
    cosine, sine = np.cos(rotation)[:, None, None], np.sin(rotation)[:, None, None]
    scale = radius[:, None, None]
    distance = _SHAPES[shape]((x * cosine + y * sine) / scale, (y * cosine - x * sine) / scale) * scale
    return np.clip(0.5 - distance, 0.0, 1.0)


# Textures: signed distance in pixels to the edge of the ink, negative in the ink.


def _wave(position: np.ndarray) -> np.ndarray:
    """Return the distance to the nearest multiple of PERIOD, in pixels."""
    return np.abs((position + PERIOD / 2) % PERIOD - PERIOD / 2)


def _checkers(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Fields of 5 pixels, and so a period of 10: with 4 they look like a grid at this size.
    across, down = (_wave(t * PERIOD / 10) * 10 / PERIOD - 2.5 for t in (x, y))
    return np.sign(across * down) * np.minimum(np.abs(across), np.abs(down))


_TEXTURES: tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], ...] = (
    lambda x, y: np.full(np.broadcast_shapes(x.shape, y.shape), np.float32(9.0)),
    lambda x, y: np.broadcast_to(_wave(y) - 2.0, np.broadcast_shapes(x.shape, y.shape)),
    lambda x, y: np.broadcast_to(_wave(x) - 2.0, np.broadcast_shapes(x.shape, y.shape)),
    lambda x, y: _wave((x + y) / np.float32(np.sqrt(2.0))) - 2.0,
    lambda x, y: np.hypot(_wave(x), _wave(y)) - 2.5,
    _checkers,
    lambda x, y: np.minimum(_wave(x), _wave(y)) - 1.1,
)


def texture_ink(texture: int, shift_x: np.ndarray, shift_y: np.ndarray, size: int) -> np.ndarray:
    """Draw one texture over whole images.

    Args:
        texture: index into CONCEPTS["texture"].
        shift_x: (n,) pixels by which the pattern is moved to the left.
        shift_y: (n,) pixels by which it is moved up.
        size: height and width of the drawing in pixels.

    Returns:
        (n, size, size) share of ink in each pixel.
    """
    grid = np.arange(size, dtype=np.float32) + 0.5
    x = grid[None, None, :] + shift_x[:, None, None]
    y = grid[None, :, None] + shift_y[:, None, None]
    return np.clip(0.5 - _TEXTURES[texture](x, y), 0.0, 1.0)


# Scenes: each paints (n, 64, 64, 3) in [0, 255], muted and neither dark nor bright, so that none of its
# pixels could be an object's.


def _uniform(random: np.random.Generator, low: float, high: float, *shape: int) -> np.ndarray:
    return (low + (high - low) * random.random(shape, dtype=np.float32)).astype(np.float32)


def _sky(count: int, top: Sequence[float], bottom: Sequence[float]) -> np.ndarray:
    """Paint a vertical gradient: (count, 64, 64, 3)."""
    height = np.linspace(0.0, 1.0, IMAGE_SIZE, dtype=np.float32)[:, None]
    column = np.array(top, np.float32) * (1 - height) + np.array(bottom, np.float32) * height
    return np.tile(column[None, :, None, :], (count, 1, IMAGE_SIZE, 1)).astype(np.float32)


def _ridge(random: np.random.Generator, count: int, knots: int, low: float, high: float) -> np.ndarray:
    """Draw random skylines: (count, 64), the height in pixels from the upper edge, linear between knots."""
    heights = _uniform(random, low, high, count, knots + 1)
    position = np.arange(IMAGE_SIZE, dtype=np.float32) / IMAGE_SIZE * knots
    left = position.astype(int)
    share = position - left
    return heights[:, left] * (1 - share) + heights[:, left + 1] * share


def _below(line: np.ndarray) -> np.ndarray:
    """Return the share of each pixel below skylines (n, 64): (n, 64, 64, 1)."""
    rows = np.arange(IMAGE_SIZE, dtype=np.float32)[None, :, None] + 0.5
    return np.clip(rows - line[:, None, :] + 0.5, 0.0, 1.0)[..., None]


def _lay(canvas: np.ndarray, cover: np.ndarray, paint: np.ndarray | Sequence[float]) -> None:
    """Cover a share of each pixel with paint, in place."""
    change = np.asarray(paint, np.float32) - canvas
    change *= cover
    canvas += change


def _clouds(canvas: np.ndarray, random: np.random.Generator) -> np.ndarray:
    count = len(canvas)
    grid = np.arange(IMAGE_SIZE, dtype=np.float32)
    for _ in range(3):
        x = (grid[None, None, :] - _uniform(random, 0, 64, count, 1, 1)) / _uniform(random, 7, 13, count, 1, 1)
        y = (grid[None, :, None] - _uniform(random, 3, 20, count, 1, 1)) / _uniform(random, 2, 3.5, count, 1, 1)
        cover = np.clip(1.6 - 1.3 * np.hypot(x, y), 0.0, 0.85)[..., None]
        _lay(canvas, cover, (206, 208, 210))
    return canvas


def _paint_sea(count: int, random: np.random.Generator) -> np.ndarray:
    canvas = _sky(count, (158, 178, 192), (200, 206, 206))
    rows = np.arange(IMAGE_SIZE, dtype=np.float32)[None, :, None]
    columns = np.arange(IMAGE_SIZE, dtype=np.float32)[None, None, :]
    horizon = _uniform(random, 20, 30, count, 1)
    depth = np.maximum(rows - horizon[:, :, None], 0.0)
    swell = np.sin(columns * 0.28 + _uniform(random, 0, 6.3, count, 1, 1) + depth * 0.5)
    crests = np.sin(14.0 * np.log1p(depth * 0.18) + _uniform(random, 0, 6.3, count, 1, 1) + 0.9 * swell)
    water = np.array((92, 128, 150), np.float32) + 16.0 * np.clip(crests, -0.3, 1.0)[..., None]
    _lay(canvas, _below(np.tile(horizon, (1, IMAGE_SIZE))), water)
    return canvas


def _paint_desert(count: int, random: np.random.Generator) -> np.ndarray:
    canvas = _sky(count, (196, 190, 176), (206, 196, 176))
    columns = np.arange(IMAGE_SIZE, dtype=np.float32)[None, :]
    for height, paint in ((28, (190, 168, 134)), (39, (178, 152, 116)), (51, (164, 138, 104))):
        wave = np.sin(columns * _uniform(random, 0.06, 0.13, count, 1) + _uniform(random, 0, 6.3, count, 1))
        ridge = height + _uniform(random, -3, 3, count, 1) + 4.5 * wave
        _lay(canvas, _below(ridge), paint)
        # A lit crest makes a dune of what were else a band.
        _lay(canvas, _below(ridge) * (1 - _below(ridge + 1.5)), (206, 188, 156))
    return canvas


def _paint_mountain(count: int, random: np.random.Generator) -> np.ndarray:
    canvas = _sky(count, (176, 184, 196), (204, 204, 206))
    for low, high, knots, paint in (
        (8, 36, 5, (148, 154, 168)),
        (22, 44, 6, (120, 126, 142)),
        (42, 56, 7, (94, 100, 114)),
    ):
        ridge = _ridge(random, count, knots, low, high)
        slope = np.gradient(ridge, axis=1)[:, None, :, None]
        _lay(canvas, _below(ridge), np.array(paint, np.float32) + 14.0 * (slope < 0))
        snow = _below(ridge) * (1 - _below(np.maximum(ridge, 24 - 0.3 * (ridge - 24))))
        _lay(canvas, snow, (208, 208, 208))
    return canvas


def _paint_forest(count: int, random: np.random.Generator) -> np.ndarray:
    canvas = _sky(count, (186, 194, 188), (198, 202, 190))
    columns = np.arange(IMAGE_SIZE, dtype=np.float32)[None, :]
    for base, width, tall, paint in (
        (34, 7.0, 16.0, (140, 156, 140)),
        (46, 9.0, 20.0, (110, 130, 110)),
        (60, 12.0, 24.0, (82, 102, 84)),
    ):
        tree = (columns + _uniform(random, 0, width, count, 1)) / width
        tops = _uniform(random, 0.65, 1.15, count, 12)
        height = tall * np.take_along_axis(tops, tree.astype(int), axis=1)
        fraction = 1 - np.abs(tree % 1 - 0.5) * 2
        notched = fraction + 0.12 * np.sin(fraction * 16.0)  # steps, as of branches
        _lay(canvas, _below(base - height * notched), paint)
    return canvas


def _paint_city(count: int, random: np.random.Generator) -> np.ndarray:
    canvas = _sky(count, (182, 178, 190), (206, 198, 198))
    rows = np.arange(IMAGE_SIZE)[None, :, None]
    columns = np.arange(IMAGE_SIZE)[None, :]
    for low, high, width, paint in ((12, 36, 9, (160, 152, 162)), (24, 50, 12, (122, 114, 128))):
        place = columns + random.integers(0, width, (count, 1))
        roofs = _uniform(random, low, high, count, 9).round()
        roof = np.take_along_axis(roofs, place // width, axis=1)
        house = _below(np.where(place % width == 0, 70, roof))
        _lay(canvas, house, paint)
        column_of_windows = (place % width % 3 == 2) & (place % width < width - 1)
        window = column_of_windows[:, None, :] & ((rows - roof[:, None, :]) % 4 >= 2) & (rows > roof[:, None, :] + 1)
        _lay(canvas, window[..., None] * house, (202, 192, 168))
    return canvas


def _paint_field(count: int, random: np.random.Generator) -> np.ndarray:
    canvas = _clouds(_sky(count, (150, 172, 192), (190, 200, 206)), random)
    columns = np.arange(IMAGE_SIZE, dtype=np.float32)[None, :]
    rows = np.arange(IMAGE_SIZE, dtype=np.float32)[None, :, None]
    wave = np.sin(columns * _uniform(random, 0.04, 0.09, count, 1) + _uniform(random, 0, 6.3, count, 1))
    hill = _uniform(random, 27, 34, count, 1) + 4.0 * wave
    _lay(canvas, _below(hill), (146, 164, 124))
    horizon = _uniform(random, 36, 42, count, 1)
    depth = np.maximum(rows - horizon[:, :, None] + 6, 1.0)
    furrow = np.cos((columns[:, None, :] - _uniform(random, 10, 54, count, 1, 1)) * 14.0 / depth)
    ground = np.array((128, 150, 104), np.float32) + np.array((14, 12, 8), np.float32) * furrow[..., None]
    _lay(canvas, _below(np.tile(horizon, (1, IMAGE_SIZE))), ground)
    return canvas


_SCENES: tuple[Callable[[int, np.random.Generator], np.ndarray], ...] = (
    _paint_sea,
    _paint_desert,
    _paint_mountain,
    _paint_forest,
    _paint_city,
    _paint_field,
)


def render(count: int, seed: int) -> World:
    """Draw `count` pictures whose attributes are independent and uniform.

    Equal arguments give equal worlds; pictures of worlds with different seeds are independent.
    """
    random = np.random.default_rng(seed)
    labels = {category: random.integers(0, len(CONCEPTS[category]), count) for category in CONCEPTS}
    images = np.empty((count, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    object_mask = np.empty((count, IMAGE_SIZE, IMAGE_SIZE), bool)
    for start in range(0, count, _CHUNK):
        part = slice(start, min(start + _CHUNK, count))
        images[part], object_mask[part] = _render_chunk({c: labels[c][part] for c in labels}, random)
    return World(images, object_mask, labels)


def _render_chunk(labels: dict[str, np.ndarray], random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    count = len(labels["color"])
    square = (IMAGE_SIZE, IMAGE_SIZE)
    canvas = np.empty((count, *square, 3), np.float32)
    for scene, rows in _rows_by_label(labels["scene"]):
        canvas[rows] = _SCENES[scene](len(rows), random)
    canvas *= _uniform(random, 0.95, 1.02, count, 1, 1, 1)

    radius = _uniform(random, *RADIUS_RANGE, count)
    rotation = _uniform(random, *ROTATION_RANGE, count)
    reach = IMAGE_SIZE / 2 - 2 - 1.1 * radius  # how far the centre may move with the object all in the picture
    center_x, center_y = (IMAGE_SIZE / 2 + reach * _uniform(random, -1, 1, count) for _ in range(2))
    cover, shadow = np.empty((2, count, *square), np.float32)
    for shape, rows in _rows_by_label(labels["shape"]):
        place = (radius[rows], rotation[rows], IMAGE_SIZE)
        cover[rows] = shape_coverage(shape, center_x[rows], center_y[rows], *place)
        shadow[rows] = shape_coverage(shape, center_x[rows] + 1.5, center_y[rows] + 2.0, *place)

    shift_x, shift_y = _uniform(random, 0, 40, 2, count)
    ink = np.empty((count, *square), np.float32)
    for texture, rows in _rows_by_label(labels["texture"]):
        ink[rows] = texture_ink(texture, shift_x[rows], shift_y[rows], IMAGE_SIZE)

    slant = np.linspace(1.0, -1.0, IMAGE_SIZE, dtype=np.float32)
    light = 1.0 + _SHADING * (slant[:, None] + slant[None, :]) / 2
    paint = PALETTE[labels["color"]][:, None, None, :] * light[..., None]
    _lay(paint, ink[..., None], INK)
    shadow *= -0.14
    shadow += 1
    canvas *= shadow[..., None]
    _lay(canvas, cover[..., None], paint)
    canvas += _NOISE * random.standard_normal((count, *square, 1), dtype=np.float32) + np.float32(0.5)
    return np.clip(canvas, 0, 255, out=canvas).astype(np.uint8), cover >= 0.5


def _rows_by_label(labels: np.ndarray) -> Iterable[tuple[int, np.ndarray]]:
    return [(int(label), np.flatnonzero(labels == label)) for label in np.unique(labels)]


def captions(world: World, seed: int) -> list[str]:
    """Describe each picture by a random non-empty subset of its attributes, as "red star, dotted, sea"."""
    random = np.random.default_rng(seed)
    subsets = random.integers(1, 16, len(world))
    sentences = []
    for row, subset in enumerate(subsets):
        named = {
            category: CONCEPTS[category][world.labels[category][row]]
            for bit, category in enumerate(CONCEPTS)
            if subset >> bit & 1
        }
        thing = " ".join(named[category] for category in ("color", "shape") if category in named)
        phrases = [thing, named.get("texture", ""), named.get("scene", "")]
        sentences.append(", ".join(phrase for phrase in phrases if phrase))
    return sentences


_MASKED = ("color", "texture", "shape")  # categories with a label per pixel; a scene is the whole image's


def write_broden(world: World, folder: Path) -> None:
    """Write a world in the layout of Network Dissection's Broden.

    A label's number is its place in `words()`, counted from 1. Colour, texture and shape are masks over the
    object; the scene is a label of the whole image. Beside Broden's own files: concepts.csv (concept,
    category) and attributes.csv (image, color, texture, shape, scene: the truth of each image).

    Args:
        folder: made here; an existing one is filled.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    number = {word: place for place, word in enumerate(words(), start=1)}
    blocks = world.object_mask.reshape(len(world), MASK_SIZE, 2, MASK_SIZE, 2)
    small_mask = blocks.sum(axis=(2, 4)) >= 2
    numbers = {
        category: np.array([number[word] for word in CONCEPTS[category]])[world.labels[category]]
        for category in CONCEPTS
    }
    names = [f"world_{row:06d}" for row in range(len(world))]
    for row, name in enumerate(names):
        _save_png(folder / "images" / f"{name}.png", world.images[row])
        for category in _MASKED:
            label = np.where(small_mask[row], numbers[category][row], 0)
            pixels = np.stack([label % 256, label // 256, np.zeros_like(label)], axis=-1).astype(np.uint8)
            _save_png(folder / "images" / f"{name}_{category}.png", pixels)

    index = [
        [
            *(f"{name}.png", "val" if row % 10 >= 7 else "train"),
            *(IMAGE_SIZE, IMAGE_SIZE, MASK_SIZE, MASK_SIZE),
            *(f"{name}_color.png", numbers["scene"][row], f"{name}_shape.png", f"{name}_texture.png"),
        ]
        for row, name in enumerate(names)
    ]
    header = ["image", "split", "ih", "iw", "sh", "sw", "color", "scene", "shape", "texture"]
    _write_csv(folder / "index.csv", header, index)
    _write_label_tables(folder, world, small_mask.mean(axis=(1, 2)), number)
    pairs = [(word, category) for category in CONCEPTS for word in CONCEPTS[category]]
    _write_csv(folder / "concepts.csv", ["concept", "category"], pairs)
    truth = [
        [f"{name}.png"] + [CONCEPTS[category][world.labels[category][row]] for category in CONCEPTS]
        for row, name in enumerate(names)
    ]
    _write_csv(folder / "attributes.csv", ["image", *CONCEPTS], truth)


def write_classes(world: World, folder: Path, category: str) -> None:
    """Write a world's images as a folder for each word of one category, made here."""
    for word in CONCEPTS[category]:
        (folder / word).mkdir(parents=True)
    for row, label in enumerate(world.labels[category]):
        _save_png(folder / CONCEPTS[category][label] / f"{row:06d}.png", world.images[row])


def _write_label_tables(folder: Path, world: World, area: np.ndarray, number: dict[str, int]) -> None:
    """Write label.csv, category.csv and c_<category>.csv; `area` (n,) is the object's share of each mask."""
    label_rows: list[list[object]] = []
    category_rows: list[list[object]] = []
    for category, names in CONCEPTS.items():
        share = area if category in _MASKED else np.ones(len(world))
        rows = []
        for place, word in enumerate(names):
            has = world.labels[category] == place
            rows.append((number[word], word, int(has.sum()), f"{share[has].sum():.4f}"))
        label_rows += [[n, word, f"{category}({count})", count, cover, ""] for n, word, count, cover in rows]
        category_rows.append([category, number[names[0]], number[names[-1]], len(names), len(world)])
        by_frequency = sorted(rows, key=lambda row: (-row[2], row[0]))
        header = ["code", "number", "name", "frequency", "coverage"]
        _write_csv(folder / f"c_{category}.csv", header, [[code, *row] for code, row in enumerate(by_frequency, 1)])
    _write_csv(folder / "label.csv", ["number", "name", "category", "frequency", "coverage", "syns"], label_rows)
    _write_csv(folder / "category.csv", ["name", "first", "last", "count", "frequency"], sorted(category_rows))


def _save_png(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path, compress_level=1)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def main() -> None:
    """Write one world, whole or not at all."""
    parser = argparse.ArgumentParser(description="Draw a world of concepts in Broden's layout.")
    parser.add_argument("out", type=Path, help="the folder to make")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--classes", choices=CONCEPTS, help="a folder for each word of this category, and no Broden")
    arguments = parser.parse_args()
    out: Path = arguments.out
    category: str | None = arguments.classes
    # The folder appears by a rename when all is written, so one that holds these is complete.
    complete = [out / word for word in CONCEPTS[category]] if category else [out / "index.csv"]
    if out.exists():
        if all(path.exists() for path in complete):
            print(f"{out}: already there, nothing to do")
            return
        sys.exit(f"error: {out}: exists and is not a world\nhint: give another folder, or remove this one")
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.{uuid.uuid4().hex}")
    try:
        world = render(arguments.images, arguments.seed)
        if category:
            write_classes(world, unfinished, category)
        else:
            write_broden(world, unfinished)
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    print(f"{out}: {arguments.images} images")


if __name__ == "__main__":
    main()
