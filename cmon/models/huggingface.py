"""Models of transformers, from the config.json that their training left or the local cache of the Hugging Face hub."""

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cmon.errors import ConfigError, ModelError, listing, nearest, one_line
from cmon.fingerprint import Recipe, bytes_sha256, canonical_json
from cmon.models.zoos import build_errors, import_optional, without_pretrained
from cmon.paths import read_text
from cmon.torchvision_import import torchvision

if TYPE_CHECKING:
    from torch import nn

TRANSFORMERS = "transformers:"
LARGEST_CONFIG_BYTES = 4 * 2**20
# What says how a network was saved or is to be run, not what it is; an attention's kernel could even be code to fetch.
LEFT_OUT = ("attn_implementation", "dtype", "experts_implementation", "torch_dtype", "transformers_version")
FIXED = (*LEFT_OUT, "architectures", "auto_map", "model_type")


def transformers_recipe(name: str, arguments: dict[str, Any]) -> Recipe:
    """Say what a model of transformers is made of, without importing it; a folder by its name, not its place.

    Raises:
        ModelError: where there is no config.json, or it cannot be read.
    """
    sha256 = bytes_sha256(_config_text(name).encode())
    known_as = Path(name).name if Path(name).is_absolute() else name
    return {"source": TRANSFORMERS + known_as, "arguments": arguments, "sha256": sha256}


def transformers_model(name: str, arguments: dict[str, Any]) -> "nn.Module":
    """Build a model of transformers, without weights and without ever asking the internet.

    Args:
        name: an absolute folder that holds a config.json, or a name of the Hugging Face hub, whose config.json has
            been downloaded before.
        arguments: replace keys of that config.

    Raises:
        ModelError: where there is no such config, or transformers has no such model.
        ConfigError: where the arguments ask for weights, or name what no such config has.
    """
    source = TRANSFORMERS + name
    arguments = without_pretrained(source, arguments)
    stated = _config(source, name)
    with _quiet(source) as transformers, build_errors(source):
        config = _configured(source, transformers, stated, arguments)
        model: nn.Module = _model_class(source, transformers, config)._from_config(config, dtype="float32")
        return model


def saved_names(model: "nn.Module") -> dict[str, str]:
    """Return what transformers calls weights in a file, where the model has another name for them.

    Since version 5 its models have been rewritten, but still save under the names of old.

    Returns:
        name in a file -> name in the model; empty for all models but those of transformers.
    """
    # Where these have not been imported, no model is of a class of theirs; the second came with version 5.
    models, loading = (sys.modules.get(f"transformers.{name}") for name in ("modeling_utils", "core_model_loading"))
    if models is None or loading is None or not isinstance(model, models.PreTrainedModel):
        return {}
    weights = model.state_dict()
    with _quiet(type(model).__name__):
        saved = loading.revert_weight_conversion(model, dict(weights))
    names = {id(value): name for name, value in weights.items()}
    return {name: names[id(value)] for name, value in saved.items() if names.get(id(value), name) != name}


def _config(source: str, name: str) -> dict[str, Any]:
    """Read the config.json that describes a network."""
    try:
        config = json.loads(_config_text(name))
    except (ValueError, RecursionError) as error:
        raise ModelError(source, f"config.json is not JSON: {one_line(error, 100)}", "save the model again") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(source, "config.json has no model_type", "name a folder of a model of transformers")
    if config.get("auto_map"):
        what = "config.json names Python code of its own (auto_map), which is not run"
        raise ModelError(source, what, "import it in a file of yours, and set model = file.py:function")
    return config


def _config_text(name: str) -> str:
    file = _folder_config(Path(name)) if Path(name).is_absolute() else _cached_config(name)
    try:
        return read_text(file, LARGEST_CONFIG_BYTES)
    except OSError as error:
        raise ModelError(file, error.strerror or "cannot be read", "name a folder that holds a config.json") from error
    except UnicodeDecodeError as error:
        raise ModelError(file, "is not text in UTF-8", "save the model's config again") from error


def _folder_config(folder: Path) -> Path:
    if (folder / "config.json").is_file():
        return folder / "config.json"
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "there is no such folder"
        raise ModelError(folder, what, "name the folder that holds the model's config.json")
    below = sorted(file.parent.name for file in folder.glob("*/config.json"))
    hint = f"one is in {listing(below, 3)}" if below else "name the folder that save_pretrained or the Trainer wrote"
    raise ModelError(folder, "holds no config.json", hint)


def _cached_config(name: str) -> Path:
    """Find the config.json of a name of the hub among what has been downloaded before."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError as error:
        what = "is neither a folder nor a name of the Hugging Face hub"
        raise ModelError(TRANSFORMERS + name, what, "write transformers:FOLDER or transformers:OWNER/NAME") from error
    if not isinstance(found, str):
        what = f"there is no such folder, and no such model in {constants.HF_HUB_CACHE}; nothing is downloaded"
        hint = f"run `hf download {name} config.json` where there is internet, or name a folder with a config.json"
        raise ModelError(TRANSFORMERS + name, what, hint)
    return Path(found)


def _configured(source: str, transformers: ModuleType, stated: dict[str, Any], arguments: dict[str, Any]) -> Any:
    """Make transformers' config of a config.json, with some of its keys replaced."""
    kind = stated["model_type"]
    if kind not in transformers.CONFIG_MAPPING:
        close = nearest(kind, transformers.CONFIG_MAPPING.keys(), 3)
        what = f"transformers {transformers.__version__} knows no model_type {one_line(kind)}"
        raise ModelError(source, what, f"the nearest are {listing(close)}" if close else "install another transformers")
    config_class = transformers.CONFIG_MAPPING[kind]
    same = config_class.attribute_map  # other names of some keys
    told = {key: value for key, value in stated.items() if not key.startswith("_") and key not in LEFT_OUT}
    kept = {same.get(key, key): value for key, value in told.items()}
    known = {"num_labels", *config_class.from_dict(dict(kept)).to_dict(), *same} - set(FIXED)
    for key in arguments:
        if key not in known or key.startswith("_"):
            close = nearest(key, known, 3)
            hint = f"the nearest are {listing(close)}" if close else "model_args replace keys of config.json"
            raise ConfigError(source, f"model_args.{key} is no key of a {kind} config", hint)
    if "num_labels" in arguments:  # which transformers counts from the names of the labels
        kept = {key: value for key, value in kept.items() if key not in ("id2label", "label2id")}
    replaced = json.loads(canonical_json({same.get(key, key): value for key, value in arguments.items()}))
    config = config_class.from_dict(kept | replaced)
    if config.num_labels != arguments.get("num_labels", config.num_labels):
        what = f"model_args.num_labels has no effect on a {kind} config: there are {config.num_labels}"
        raise ConfigError(source, what, "set num_classes, if its config.json has it")
    return config


def _model_class(source: str, transformers: ModuleType, config: Any) -> Any:
    """Choose the class that was saved, or else transformers' own for classifying images, or for this config."""
    for name in config.architectures or ():
        found = getattr(transformers, str(name), None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    for mapping in (transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, transformers.MODEL_MAPPING):
        if type(config) in mapping:
            found = mapping[type(config)]
            return found[0] if isinstance(found, tuple | list) else found
    what = f"transformers {transformers.__version__} has no model of a {config.model_type} config"
    raise ModelError(source, what, "install another transformers")


@contextmanager
def _quiet(source: str) -> Iterator[ModuleType]:
    """Import transformers, and keep what it logs and warns from the user, and it from the internet."""
    from huggingface_hub import constants

    torchvision()  # which transformers imports
    offline, disabled = constants.HF_HUB_OFFLINE, logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        constants.HF_HUB_OFFLINE = True
        try:
            yield import_optional("transformers", "transformers", source)
        finally:
            constants.HF_HUB_OFFLINE = offline
            logging.disable(disabled)
