"""Which architecture and weights of open_clip a config means, and whether the two belong together."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from cmon.config import OpenClip
from cmon.errors import ConfigError, EncoderError, listing, nearest, one_line
from cmon.fingerprint import HashMemory, Recipe, canonical_json, file_sha256

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
TOKENIZER_ENDINGS = (".json", ".model", ".txt")


def open_clip_recipe(table: OpenClip, memory: HashMemory) -> Recipe:
    """Return an open_clip model's config, weights and preprocessing, without importing it."""
    recipe: Recipe = {
        "kind": table.kind,
        "preprocess": table.preprocess.stated(),
        "config": model_config(table.model),
    }
    if not table.model.startswith(LOCAL_FOLDER):
        recipe["model"] = table.model
    elif "hf_tokenizer_name" in canonical_json(recipe["config"]):  # the folder holds a tokenizer too
        files = sorted(Path(table.model.removeprefix(LOCAL_FOLDER)).iterdir())
        recipe["tokenizer"] = {file.name: sha256_of(file, memory) for file in files if file.suffix in TOKENIZER_ENDINGS}
    weights = weights_file(table)
    recipe["weights"] = sha256_of(weights, memory) if weights else f"tag {table.pretrained}"
    return recipe


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


def model_config(name: str) -> dict[str, Any]:
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
    except (ValueError, RecursionError) as error:
        raise EncoderError(path, f"is not JSON: {one_line(error)}", "save the model's config again") from error
    if not isinstance(config, dict):
        raise EncoderError(path, "is no JSON object", "save the model's config again")
    return config


def tag_config(table: OpenClip) -> dict[str, Any]:
    """Return what open_clip knows of a tag: mean, std, interpolation, where its weights are, its QuickGELU."""
    import open_clip

    model = table.model.replace("/", "-")
    known: dict[str, Any] = open_clip.get_pretrained_cfg(model, table.pretrained)
    if not known:
        tags = open_clip.list_pretrained_tags_by_model(model)
        close = nearest(str(table.pretrained), tags)
        hint = f"nearest: {close[0]}; " if close else ""
        hint += f"tags of {table.model}: {listing(tags, 20) or 'none'}; or name a local file"
        raise EncoderError("encoder.pretrained", f"neither a file nor a tag: {table.pretrained}", hint)
    return known


def check_quick_gelu(table: OpenClip, weights: Path | None) -> None:
    """Raise where the model's activation is known to differ from the one that its weights were trained with.

    A tag states it; a local file is known by open_clip's list of sha256, or by an open_clip_config.json beside it.
    """
    if table.model.startswith(LOCAL_FOLDER):
        return  # the folder's config is the statement itself
    trained = bool(tag_config(table).get("quick_gelu")) if weights is None else _file_has_quick_gelu(weights)
    if trained is None or trained == bool(model_config(table.model).get("quick_gelu")):
        return
    base = table.model.removesuffix("-quickgelu")
    right = f"{base}-quickgelu" if trained else base
    what = f"{table.pretrained} was trained {'with' if trained else 'without'} QuickGELU, {table.model} is not so"
    raise EncoderError("encoder.model", what, f'set model = "{right}"')


def _file_has_quick_gelu(weights: Path) -> bool | None:
    import open_clip

    if weights.with_name("open_clip_config.json").is_file():
        stated = model_config(f"{LOCAL_FOLDER}{weights.parent}").get("model_cfg")
        return bool(stated.get("quick_gelu")) if isinstance(stated, dict) else None
    sha256 = sha256_of(weights, None)
    for model, tag in open_clip.list_pretrained():
        known = open_clip.get_pretrained_cfg(model, tag)
        url = str(known.get("url", ""))
        stated = url.split("/")[-2] if "openaipublic" in url else Path(url).stem.split("-")[-1]
        if len(stated) >= 8 and sha256.startswith(stated):
            return bool(known.get("quick_gelu", False))
    return None


def tagged_weights(table: OpenClip, known: dict[str, Any]) -> Path:
    """Find a tag's weights on this machine, or fetch them where the config allows it."""
    import open_clip
    from huggingface_hub import try_to_load_from_cache

    where = f"encoder.pretrained {table.pretrained}"
    if table.download:
        try:
            return Path(open_clip.download_pretrained(known))
        except (OSError, RuntimeError, ValueError) as error:
            raise EncoderError(where, f"cannot be fetched: {one_line(error)}", "name a local file") from error
    # "organisation/repository/" holds one of the usual names, "organisation/repository/file" that file.
    repository = str(known.get("hf_hub", "")).strip("/")
    names = FOLDER_WEIGHTS if repository.count("/") == 1 else (repository.rpartition("/")[2],)
    repository = "/".join(repository.split("/")[:2])
    for name in names if repository else ():
        cached = try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
    fetched = Path("~/.cache/clip").expanduser() / str(known.get("url") or "none").rpartition("/")[2]
    if fetched.is_file():
        return fetched
    hint = "set encoder.download = true once where there is internet, or name a local file of weights"
    raise EncoderError(where, "its weights are not on this machine", hint)


def sha256_of(path: Path, memory: HashMemory | None) -> str:
    """Return the sha256 of a file's bytes; one that cannot be read is an EncoderError."""
    try:
        return memory.sha256(path) if memory else file_sha256(path)
    except OSError as error:
        raise EncoderError(path, error.strerror or "cannot be read", "name an existing file") from error
