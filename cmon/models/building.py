"""Build a model, without weights, from its name in the config."""

import errno
import hashlib
import importlib
import importlib.util
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cmon.errors import ModelError, listing, nearest, one_line
from cmon.fingerprint import Recipe, file_sha256, file_status
from cmon.models.huggingface import TRANSFORMERS, transformers_model, transformers_recipe
from cmon.models.zoos import build_errors, timm_model, torchvision_model
from cmon.torchvision_import import torchvision

if TYPE_CHECKING:
    from torch import nn

SOURCES_HINT = "write torchvision:NAME, timm:NAME, transformers:FOLDER, package.module:function or file.py:function"
LARGEST_SOURCE_BYTES = 4 * 2**20


def model_recipe(source: str, arguments: dict[str, Any]) -> Recipe:
    """Say what a model is made of, without importing it: its name, arguments and the user's file.

    A file goes in by its name and sha256, not its folder, so that a project can move. Files that it imports
    in turn are not seen. Of a folder of transformers it is the file that describes the network.

    Raises:
        ModelError: where a file.py or a folder's config.json cannot be read.
    """
    if source.startswith(TRANSFORMERS):
        return transformers_recipe(source.removeprefix(TRANSFORMERS), arguments)
    place, _, function = source.rpartition(":")
    if place.endswith(".py"):
        try:
            sha256 = _source_sha256(Path(place))
        except OSError as error:
            raise _unreadable(place, error) from error
        return {"source": f"{Path(place).name}:{function}", "arguments": arguments, "sha256": sha256}
    file = _module_file(place) if place and source.partition(":")[0] not in MODELS else None
    return {"source": source, "arguments": arguments} | ({"sha256": _source_sha256(file)} if file else {})


def build_model(source: str, arguments: dict[str, Any], seed: int = 0) -> "nn.Module":
    """Build a model on the CPU, in evaluation mode, without gradients and without anyone's weights.

    Args:
        source: torchvision:NAME, timm:NAME, transformers:/path/folder or transformers:NAME, package.module:function
            or /path/file.py:function.
        arguments: keyword arguments of that model or function.
        seed: of its random initialisation, of which a checkpoint leaves nothing.

    Raises:
        ModelError: where there is no such model, or it cannot be built.
        ConfigError: where the arguments ask for pretrained weights.
    """
    model = draw_model(source, arguments, seed)
    with build_errors(source):
        return model.cpu().eval().requires_grad_(False)


def draw_model(source: str, arguments: dict[str, Any], seed: int) -> "nn.Module":
    """Build a model as `build_model` does, and leave it as its own function returned it.

    The random numbers of torch, numpy and Python start at the seed, and afterwards are where they were.
    """
    import torch

    scheme, _, name = source.partition(":")
    with _seeded(seed):
        model = MODELS[scheme](name, arguments) if scheme in MODELS else _user_model(source, arguments)
    if not isinstance(model, torch.nn.Module):
        what = f"returns a {type(model).__name__}, not a torch.nn.Module"
        raise ModelError(source, what, "name a function that returns the model")
    return model


MODELS: dict[str, Callable[[str, dict[str, Any]], "nn.Module"]] = {
    "torchvision": torchvision_model,
    "timm": timm_model,
    "transformers": transformers_model,
}


def _user_model(source: str, arguments: dict[str, Any]) -> Any:
    """Import the user's function, from a file or a module, and call it."""
    place, _, function = source.rpartition(":")
    is_file = place.endswith(".py")
    if not is_file and not all(part.isidentifier() for part in place.split(".")):
        raise ModelError(source, "is no model's name", SOURCES_HINT)
    folder = Path(place).resolve().parent if is_file else Path.cwd()
    torchvision()  # the user's code may import it, or timm
    with _importable(folder, forget=is_file):
        with build_errors(source, "cannot be imported"):
            module = _import_file(Path(place)) if is_file else _import_module(source, place)
        build = getattr(module, function, None)
        if not callable(build):
            known = [name for name, value in vars(module).items() if callable(value) and name[:1] != "_"]
            close = nearest(function, known, 3)
            known = [*close, *(name for name in known if name not in close)]
            what = f"there is no function {one_line(function)} in {place}"
            raise ModelError(source, what, f"it has {listing(known, 20)}" if known else "it has none")
        with build_errors(source):
            return build(**arguments)


@contextmanager
def _importable(folder: Path, forget: bool) -> Iterator[None]:
    """Put a folder at the front of sys.path, and write no bytecode into it.

    Where `forget` is set, modules found in the folder are forgotten afterwards: another run's file may have
    siblings of the same names, and would be given these.
    """
    before, wrote = set(sys.modules), sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.dont_write_bytecode = wrote
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
        for name in set(sys.modules) - before if forget else ():
            if _lies_in(folder, name):
                del sys.modules[name]


def _lies_in(folder: Path, name: str) -> bool:
    """Tell whether a module was found directly in the folder, not in an environment that lies below it."""
    module, top = sys.modules[name], folder / name.partition(".")[0]
    place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    return place is not None and (Path(place).is_relative_to(top) or Path(place) == top.with_name(f"{top.name}.py"))


def _import_file(file: Path) -> ModuleType:
    """Import a file under a name of its own, as new: it may have changed."""
    name = "_cmon_model_" + hashlib.sha256(str(file.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    try:
        code = compile(file.read_bytes(), str(file), "exec", dont_inherit=True)
    except OSError as error:
        raise _unreadable(str(file), error) from error
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None, "a file that ends in .py has a loader"
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    exec(code, vars(module))
    return module


def _import_module(source: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the user's module was found, and misses another
        close = nearest(name, MODELS)
        hint = f"did you mean {close[0]}:{source.partition(':')[2]}?" if close else SOURCES_HINT
        raise ModelError(source, f"there is no module {error.name}", hint) from error


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Start all random numbers at a seed, and put them back where they were."""
    import numpy as np
    import torch

    python, legacy = random.getstate(), np.random.get_state()
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count() if used else 0)):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


def _source_sha256(file: Path) -> str:
    if file_status(file).st_size > LARGEST_SOURCE_BYTES:
        raise OSError(errno.EFBIG, "is too large to be Python code")
    return file_sha256(file)


def _unreadable(place: str, error: OSError) -> ModelError:
    return ModelError(place, error.strerror or "cannot be read", "name a Python file in the run's model")


def _module_file(name: str) -> Path | None:
    """Find a module's source as an import would, but without importing the packages that hold it."""
    folders: list[str] = [str(Path.cwd()), *sys.path]
    importlib.invalidate_caches()
    spec = None
    for depth, _ in enumerate(parts := name.split(".")):
        spec = PathFinder.find_spec(".".join(parts[: depth + 1]), folders)
        folders = list(spec.submodule_search_locations or ()) if spec else []
    file = Path(spec.origin) if spec and spec.origin and spec.has_location else None
    return file if file and file.suffix == ".py" and file.is_file() else None
