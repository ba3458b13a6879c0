"""What torch.save wrote, unpickled without importing or calling anything that the file names."""

import pickle
import re
import types
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

from cmon.checkpoints.damage import refused_name
from cmon.checkpoints.standins import Inert, InertDictionary, InertList, may_stand_in, stand_ins

MOST_STRANGERS = 100


def load_pickle(source: "Path | IO[bytes]", trust_pickle: bool) -> tuple[Any, tuple[str, ...]]:
    """Unpickle a file; what is beside the weights and could run code is stood in for, unless it is trusted.

    Args:
        source: the file, or what is in the memory.
        trust_pickle: may it run code of its own.

    Returns:
        The content, and the names of what was stood in for.
    """
    import torch

    strangers = {} if trust_pickle else _named(source)
    while True:
        known: list[Any] = [(stand_in, name) for name, stand_in in {**stand_ins(), **strangers}.items()]
        _rewind(source)
        # torch warns of what is an error below, or of what the user has just agreed to.
        with warnings.catch_warnings(), torch.serialization.safe_globals(known):
            warnings.simplefilter("ignore")
            try:
                if trust_pickle:
                    # torch takes this module for pickle itself.
                    return torch.load(source, "cpu", _forgiving(), weights_only=False), ()
                return torch.load(source, "cpu", weights_only=True), tuple(strangers)
            except pickle.UnpicklingError as error:
                more = _strangers(error, strangers)
                if not more or len(strangers) > MOST_STRANGERS:
                    raise
                strangers |= more


def _named(source: "Path | IO[bytes]") -> dict[str, Any]:
    """Return stand-ins for all classes that an archive names, of which each would else cost a reading of its own."""
    import torch

    if not zipfile.is_zipfile(source):
        return {}
    known: list[Any] = [(stand_in, name) for name, stand_in in stand_ins().items()]
    _rewind(source)
    with torch.serialization.safe_globals(known):
        names = torch.serialization.get_unsafe_globals_in_checkpoint(source)
    # Those of the training first: they say what the file is.
    names = sorted(filter(may_stand_in, names), key=lambda name: (name.startswith("torch."), name))
    return {name: type(name, (Inert,), {}) for name in names}


def _rewind(source: "Path | IO[bytes]") -> None:
    if not isinstance(source, Path):
        source.seek(0)


def _strangers(error: pickle.UnpicklingError, strangers: dict[str, Any]) -> dict[str, Any]:
    """Return a stand-in for what torch's safe unpickler has refused; none where that is no stranger.

    What is filled as a list or a dictionary is only known once it is filled.
    """
    name = refused_name(error)
    if name and name not in strangers and may_stand_in(name):
        return {name: type(name, (Inert,), {})}
    filled = re.search(r"Can only (append|extend|SETITEM).* but got <class '[\w.]*?(\w+)'>", str(error))
    if not filled:
        return {}
    of = [name for name, stand_in in strangers.items() if stand_in.__name__ == name and name.endswith(filled[2])]
    return dict.fromkeys(of, InertDictionary if filled[1] == "SETITEM" else InertList)


def _forgiving() -> types.ModuleType:
    """Return pickle, but that a class which is not there becomes a module, whose parts are its state.

    A network that a script has saved whole is of a class of `__main__`, which nobody else can import.
    """
    from torch import nn

    class Stranger(nn.Module):
        """Stand for a class that cannot be imported."""

        def __init__(self, *_: Any) -> None:
            super().__init__()

    class Unpickler(pickle.Unpickler):
        """Find classes, or stand in for them."""

        def find_class(self, module: str, name: str) -> Any:
            """Find a class."""
            try:
                return super().find_class(module, name)
            except (ImportError, AttributeError):
                return Stranger

    forgiving = types.ModuleType("pickle")
    vars(forgiving).update(
        vars(pickle) | {"Unpickler": Unpickler, "load": lambda file, **how: Unpickler(file, **how).load()}
    )
    return forgiving
