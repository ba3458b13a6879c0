"""Stand-ins for what training scripts save beside the weights, so that nothing of it is imported or run."""

import struct
from typing import Any

# Whose names say that a file was made to run code: it is refused as a whole, though stand-ins would keep it harmless.
NEVER = {"builtins", "ctypes", "importlib", "marshal", "multiprocessing", "nt", "os", "pickle", "posix", "pty"} | {
    *("runpy", "shutil", "signal", "socket", "subprocess", "sys", "threading", "webbrowser")
}


class Inert:
    """Stand for an object beside the weights that is not needed: keep what it is made of and do nothing."""

    parts: tuple[Any, ...] = ()

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __setstate__(self, state: Any) -> None:
        """Leave the object's state out."""


class InertDictionary:
    """Stand for a class of dictionaries: torch's safe unpickler fills plain ones only."""

    def __new__(cls, *_: Any) -> "dict[Any, Any]":  # type: ignore[misc]
        """Return a plain dictionary, without what a defaultdict would make of a missing key."""
        return {}


class InertList:
    """Stand for a class of lists: torch's safe unpickler fills plain ones only."""

    def __new__(cls, *_: Any) -> "list[Any]":  # type: ignore[misc]
        """Return a plain list."""
        return []


def scalar(dtype: Any, data: Any = None) -> Any:
    """Read a numpy number, such as an epoch, without numpy's own unpickling."""
    code = dtype.parts[0] if isinstance(dtype, Inert) and dtype.parts else None
    formats = {"i4": "<i", "i8": "<q", "u4": "<I", "u8": "<Q", "f4": "<f", "f8": "<d"}
    return struct.unpack(formats[code], data)[0] if code in formats and isinstance(data, bytes) else Inert()


def stand_ins() -> dict[str, Any]:
    """Return a stand-in for each of the harmless globals that most files have beside their weights.

    None of the real ones is called: their unpickling was not written for bytes that nobody vouches for.
    """
    inert = ["argparse.Namespace", "numpy.ndarray", "numpy.dtype"]
    inert += [f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")]
    paths = ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    inert += [f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in paths]
    inert += [f"builtins.{name}" for name in ("list", "dict", "int", "float", "str", "tuple", "bool")]
    dictionaries = ["collections.defaultdict", "lightning.fabric.utilities.data.AttributeDict"]
    dictionaries += [
        "lightning_fabric.utilities.data.AttributeDict",
        "pytorch_lightning.utilities.parsing.AttributeDict",
    ]
    scalars = {f"numpy.{core}.multiarray.scalar": scalar for core in ("core", "_core")}
    return {
        **dict.fromkeys(inert, Inert),
        **scalars,
        "collections.defaultdict": InertDictionary,
        "collections.deque": InertList,
    }


def may_stand_in(name: str) -> bool:
    """Tell whether a class of somebody's own may be stood in for."""
    return name.partition(".")[0] not in NEVER
