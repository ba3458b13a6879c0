"""Make `import torchvision` work beside a torch that its wheel was not built for.

torchvision's wheel on PyPI is a CUDA build. Beside a CPU torch its compiled part cannot be loaded (it wants
libcudart), so the operators nms and qnms are never declared, and torchvision's own import, which attaches
shape functions to them, dies with "operator torchvision::nms does not exist". cmon uses only the models and
transforms, which need neither operator: their schemas are all that is missing. open_clip and timm import
torchvision too, so whoever imports those, or a user's code that may, calls `torchvision()` first.
"""

import functools
import importlib
import importlib.util
from importlib.machinery import PathFinder
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.library import Library

OPERATORS = ("nms", "qnms")


def torchvision() -> ModuleType:
    """Import torchvision, declaring the operators that its compiled part failed to declare.

    Raises:
        ImportError: where torchvision is not installed.
    """
    declare_missing()
    return importlib.import_module("torchvision")


@functools.cache  # the operators vanish with their Library: the cache keeps it alive
def declare_missing() -> "Library | None":
    """Declare the schemas of OPERATORS that do not exist; where all do, change nothing and return None."""
    import torch

    _load_compiled_part()
    missing = [name for name in OPERATORS if not hasattr(torch.ops.torchvision, name)]
    if not missing:
        return None
    # A FRAGMENT, since only one DEF of a namespace may exist, and others mend this import too.
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in missing:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    return library


def _load_compiled_part() -> None:
    """Load torchvision/_C as its own import will, which could not declare again what we had declared."""
    import torch

    package = importlib.util.find_spec("torchvision")
    folders = package.submodule_search_locations if package is not None else None
    compiled = PathFinder.find_spec("_C", folders) if folders else None
    if compiled is None or compiled.origin is None:
        return
    try:
        torch.ops.load_library(compiled.origin)  # type: ignore[no-untyped-call]
    except OSError:  # built for another torch: exactly the case that is mended here
        return
