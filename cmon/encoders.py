"""Image-text models: what they say of images and words, as unit vectors of one space."""

import importlib.util
import json
import pickle
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from PIL import Image

from cmon.config import Features, OpenClip
from cmon.errors import ConfigError, EncoderError, listing, nearest, one_line
from cmon.fingerprint import HashMemory, Recipe, file_sha256
from cmon.records import FloatArray
from cmon.torchvision_import import torchvision

EncoderTable: TypeAlias = OpenClip | Features
LOCAL_FOLDER = "local-dir:"
# The names under which open_clip looks for a folder's weights, in its order.
FOLDER_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)


class Encoder(Protocol):
    """A source of image and text features."""

    def image_features(self, ids: Sequence[str], images: Iterable[Image.Image]) -> FloatArray:
        """Return (I, D) unit vectors of images, given by name and as pixels."""

    def text_features(self, words: Sequence[str], prompt: str) -> FloatArray:
        """Return (N, D) unit vectors of words, each put in the prompt's {}."""


def encoder_recipe(table: EncoderTable, memory: HashMemory) -> Recipe:
    """Return all of an encoder that can change its features, without loading it.

    Raises:
        EncoderError: where a file is missing.
        ConfigError: where open_clip does not know the model.
    """
    if isinstance(table, Features):
        files = ("image_features", "images", "concept_features", "concepts")
        return {"kind": table.kind, **{name: _sha256(getattr(table, name), memory) for name in files}}
    recipe: Recipe = {"kind": table.kind, "preprocess": table.preprocess, **_model_config(table.model)}
    if not table.model.startswith(LOCAL_FOLDER):
        recipe["model"] = table.model
    weights = weights_file(table)
    recipe["weights"] = _sha256(weights, memory) if weights else f"tag {table.pretrained}"
    return recipe


def open_encoder(table: EncoderTable, device: str) -> Encoder:
    """Load an encoder."""
    if isinstance(table, Features):
        return read_features(table)
    return load_open_clip(table, device)


def feature_concepts(table: Features) -> tuple[str, ...]:
    """Return the words of precomputed concept features."""
    return _lines(table.concepts)


def weights_file(table: OpenClip) -> Path | None:
    """Return the local file of weights that a config names; None where it names a tag."""
    if table.model.startswith(LOCAL_FOLDER):
        folder = Path(table.model.removeprefix(LOCAL_FOLDER))
        found = [folder / name for name in FOLDER_WEIGHTS if (folder / name).is_file()]
        if not found:
            raise EncoderError(folder, "holds no weights", f"looked for {listing(FOLDER_WEIGHTS)}")
        return found[0]
    if table.pretrained is None:
        raise ConfigError("encoder.pretrained", "is missing", "name a tag, or a local file of weights")
    return Path(table.pretrained) if Path(table.pretrained).is_absolute() else None


@dataclass(frozen=True)
class PrecomputedFeatures:
    """Features that were computed elsewhere, found by name."""

    table: Features
    image_rows: dict[str, int]
    images: FloatArray
    concept_rows: dict[str, int]
    concepts: FloatArray

    def image_features(self, ids: Sequence[str], images: Iterable[Image.Image]) -> FloatArray:  # noqa: ARG002
        """Return (I, D) unit vectors of the named images; one that has none is an EncoderError."""
        return _found(self.table.images, self.image_rows, self.images, ids, "images of the probe")

    def text_features(self, words: Sequence[str], prompt: str) -> FloatArray:
        """Return (N, D) unit vectors of the words; one that has none is an EncoderError."""
        if prompt != "{}":
            raise ConfigError("concepts.prompt", "has no effect on precomputed features", "leave it out")
        return _found(self.table.concepts, self.concept_rows, self.concepts, words, "words")


def read_features(table: Features) -> PrecomputedFeatures:
    """Read precomputed features, (rows, D) each, scaled to unit norm.

    Raises:
        EncoderError: where rows and names do not agree, or a row has no direction.
    """
    images = _unit_rows(table.image_features, table.images)
    concepts = _unit_rows(table.concept_features, table.concepts)
    if images[1].shape[1] != concepts[1].shape[1]:
        what = f"has {images[1].shape[1]} dimensions, {table.concept_features.name} has {concepts[1].shape[1]}"
        raise EncoderError(table.image_features, what, "both must come from one encoder")
    return PrecomputedFeatures(table, *images, *concepts)


@dataclass(frozen=True)
class OpenClipModel:
    """An open_clip model in evaluation mode with its own preprocessing and tokenizer."""

    model: Any
    preprocess: Callable[[Image.Image], Any]
    tokenize: Callable[[list[str]], Any]
    device: str
    batch_size: int

    def image_features(self, ids: Sequence[str], images: Iterable[Image.Image]) -> FloatArray:
        """Return (I, D) unit vectors; `images` is read once, a batch at a time."""
        import torch

        rows, batch = [], []
        for position, image in enumerate(images, 1):
            batch.append(self.preprocess(image))
            if len(batch) == self.batch_size or position == len(ids):
                rows.append(self._encode(self.model.encode_image, torch.stack(batch)))
                batch = []
        return np.concatenate(rows)

    def text_features(self, words: Sequence[str], prompt: str) -> FloatArray:
        """Return (N, D) unit vectors of the words, each put in the prompt's {}."""
        texts = [prompt.replace("{}", word) for word in words]
        starts = range(0, len(texts), self.batch_size)
        batches = [self.tokenize(texts[start : start + self.batch_size]) for start in starts]
        return np.concatenate([self._encode(self.model.encode_text, batch) for batch in batches])

    def _encode(self, encode: Callable[..., Any], batch: Any) -> FloatArray:
        import torch

        with torch.inference_mode():
            features: FloatArray = encode(batch.to(self.device), normalize=True).float().cpu().numpy()
        if not np.isfinite(features).all():
            raise EncoderError("encoder", "its features hold NaN or infinity", "look at its weights")
        return features


def load_open_clip(table: OpenClip, device: str) -> OpenClipModel:
    """Load an open_clip model from a local folder, a local file, or a tag whose weights are on this machine.

    Raises:
        EncoderError: where weights are missing or do not fit, or QuickGELU is set otherwise than they were trained.
    """
    torchvision()
    import open_clip

    weights, preprocess = weights_file(table), dict(table.preprocess)
    _check_quick_gelu(table, weights)
    where = weights or f"encoder.pretrained {table.pretrained}"
    arguments: dict[str, Any] = {}
    if not table.model.startswith(LOCAL_FOLDER):
        if weights is None:
            tagged = open_clip.get_pretrained_cfg(table.model, table.pretrained)
            preprocess = {key: tagged[key] for key in PREPROCESS_KEYS if tagged.get(key) is not None} | preprocess
            weights = _tagged_weights(table, tagged)
        arguments["pretrained"] = str(weights)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, _, transform = open_clip.create_model_and_transforms(
                table.model,
                **arguments,
                force_preprocess_cfg=preprocess,
                device=device,
                require_pretrained=True,
            )
            tokenize = open_clip.get_tokenizer(table.model)
    except (RuntimeError, OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise EncoderError(where, f"does not load: {one_line(error)}", "is it this model's weights?") from error
    except pickle.UnpicklingError as error:
        hint = "save its state_dict as .safetensors, or as a plain .pt"
        raise EncoderError(where, f"does not load safely: {one_line(error)}", hint) from error
    return OpenClipModel(model.eval(), transform, tokenize, device, table.batch_size)


PREPROCESS_KEYS = ("size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color")


def _model_config(name: str) -> Recipe:
    """Read an architecture's config, with its preprocessing where a local folder states it, without importing it."""
    if name.startswith(LOCAL_FOLDER):
        path = Path(name.removeprefix(LOCAL_FOLDER)) / "open_clip_config.json"
    else:
        spec = importlib.util.find_spec("open_clip")
        assert spec is not None and spec.origin is not None
        folder = Path(spec.origin).parent / "model_configs"
        path = folder / f"{name.replace('/', '-')}.json"
        if not path.is_file():
            close = nearest(name, [file.stem for file in folder.glob("*.json")], 3)
            raise ConfigError("encoder.model", f"open_clip knows no {name}", f"nearest: {listing(close) or 'none'}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EncoderError(path, error.strerror or "cannot be read", "name a folder with this file") from error
    except ValueError as error:
        raise EncoderError(path, f"is not JSON: {one_line(error)}", "save the model's config again") from error
    return {"config": config}


def _check_quick_gelu(table: OpenClip, weights: Path | None) -> None:
    """Raise where the model's activation is known to differ from the one that its weights were trained with.

    A tag states it; a local file is known by open_clip's list of sha256, or by an open_clip_config.json beside it.
    """
    if table.model.startswith(LOCAL_FOLDER):
        return  # the folder's config is the statement itself
    import open_clip

    config = open_clip.get_model_config(table.model) or {}
    trained = _trained_with_quick_gelu(table, weights)
    if trained is None or trained == bool(config.get("quick_gelu")):
        return
    base = table.model.removesuffix("-quickgelu")
    right = f"{base}-quickgelu" if trained else base
    what = f"{table.pretrained} was trained {'with' if trained else 'without'} QuickGELU, {table.model} is not so"
    raise EncoderError("encoder.model", what, f'set model = "{right}"')


def _trained_with_quick_gelu(table: OpenClip, weights: Path | None) -> bool | None:
    import open_clip

    if weights is None:
        tagged = open_clip.get_pretrained_cfg(table.model, table.pretrained)
        if not tagged:
            tags = open_clip.list_pretrained_tags_by_model(table.model)
            hint = f"tags of {table.model}: {listing(tags, 20) or 'none'}; or name a local file"
            raise EncoderError("encoder.pretrained", f"neither a file nor a tag: {table.pretrained}", hint)
        return bool(tagged.get("quick_gelu", False))
    beside = weights.with_name("open_clip_config.json")
    if beside.is_file():
        return bool(_model_config(f"{LOCAL_FOLDER}{weights.parent}")["config"].get("model_cfg", {}).get("quick_gelu"))
    sha256 = _sha256(weights, None)
    for model, tag in open_clip.list_pretrained():
        tagged = open_clip.get_pretrained_cfg(model, tag)
        url = str(tagged.get("url", ""))
        stated = url.split("/")[-2] if "openaipublic" in url else Path(url).stem.split("-")[-1]
        if len(stated) >= 8 and sha256.startswith(stated):
            return bool(tagged.get("quick_gelu", False))
    return None


def _tagged_weights(table: OpenClip, tagged: dict[str, Any]) -> Path:
    """Find a tag's weights on this machine, or fetch them where the config allows it."""
    import open_clip
    from huggingface_hub import try_to_load_from_cache

    if table.download:
        try:
            return Path(open_clip.download_pretrained(tagged))
        except (OSError, RuntimeError, ValueError) as error:
            where = f"encoder.pretrained {table.pretrained}"
            raise EncoderError(where, f"cannot be fetched: {one_line(error)}", "name a local file") from error
    repository = str(tagged.get("hf_hub", "")).strip("/")
    names = FOLDER_WEIGHTS if repository.count("/") == 1 else (repository.rpartition("/")[2],)
    repository = "/".join(repository.split("/")[:2])
    for name in names if repository else ():
        cached = try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
    fetched = Path("~/.cache/clip").expanduser() / str(tagged.get("url") or "none").rpartition("/")[2]
    if fetched.is_file():
        return fetched
    hint = "set encoder.download = true once where there is internet, or name a local file of weights"
    raise EncoderError(f"encoder.pretrained {table.pretrained}", "its weights are not on this machine", hint)


def _unit_rows(array: Path, names: Path) -> tuple[dict[str, int], FloatArray]:
    """Read named rows: name -> row, and (rows, D) unit vectors."""
    lines = _lines(names)
    try:
        features = np.load(array, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise EncoderError(array, f"is not a readable .npy: {one_line(error)}", "save it with numpy.save") from error
    if not isinstance(features, np.ndarray) or features.ndim != 2 or features.dtype.kind != "f":
        raise EncoderError(array, "does not hold (rows, dimensions) floats", "save it with numpy.save")
    if len(features) != len(lines):
        raise EncoderError(array, f"has {len(features)} rows, {names.name} names {len(lines)}", "name each row once")
    values = features.astype(np.float32)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    bad = ~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0)
    if bad.any():
        what = f"{bad.sum()} rows are zero, NaN or infinite, first that of {one_line(lines[bad.argmax()])}"
        raise EncoderError(array, what, "compute them again")
    return {name: row for row, name in enumerate(lines)}, values / norms


def _lines(path: Path) -> tuple[str, ...]:
    try:
        lines = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise EncoderError(path, f"cannot be read: {one_line(error)}", "name a UTF-8 text file") from error
    twice = sorted({line for line, count in Counter(lines).items() if count > 1})
    if twice:
        raise EncoderError(path, f"names twice: {listing(twice)}", "a name must mean one row")
    return lines


def _found(where: Path, rows: dict[str, int], features: FloatArray, names: Sequence[str], what: str) -> FloatArray:
    missing = [name for name in names if name not in rows]
    if missing:
        close = nearest(missing[0], rows)
        hint = f"nearest to the first: {close[0]}" if close else "compute their features, or leave them out"
        raise EncoderError(where, f"lacks {len(missing)} {what}: {listing(missing)}", hint)
    return features[[rows[name] for name in names]]


def _sha256(path: Path, memory: HashMemory | None) -> str:
    try:
        return memory.sha256(path) if memory else file_sha256(path)
    except OSError as error:
        raise EncoderError(path, error.strerror or "cannot be read", "name an existing file") from error
