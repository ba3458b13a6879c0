"""What damaged checkpoints raise, and one line that says what is wrong with one."""

import pickle
import re
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

from cmon.errors import CheckpointError, one_line

TRUST_HINT = "if you trust where it comes from, let it run code with --trust-pickle"
DAMAGE_HINT = "copy it again from where it was saved, or leave it out"

# What unpickling arbitrary bytes was seen to raise, or can.
DAMAGE = (
    *(
        ArithmeticError,
        AssertionError,
        AttributeError,
        BufferError,
        EOFError,
        ImportError,
        LookupError,
        MemoryError,
    ),
    *(NameError, OSError, ReferenceError, RuntimeError, StopIteration, SyntaxError, SystemError, TypeError),
    *(ValueError, pickle.PickleError, struct.error, tarfile.TarError, zipfile.BadZipFile, zlib.error),
)


def refused_name(error: BaseException) -> str:
    """Name the class that torch's safe unpickler has refused; "" where it complains of something else."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return found[1] if found else ""


def refusal(path: Path, error: BaseException) -> CheckpointError:
    """Say in one line why a file could not be loaded; torch's own messages fill a screen."""
    text = str(error)
    if name := refused_name(error):
        return needs_trust(path, name)
    if "persistent_load of storage" in text:  # the older format names the source of modules so
        return needs_trust(path, "a module that was pickled whole")
    if isinstance(error, OSError) and error.filename:  # zipfile raises it without, of a damaged file
        return CheckpointError(path, error.strerror or "cannot be opened", "name a file that can be read")
    text = text.rpartition("WeightsUnpickler error: ")[2].partition("Check the documentation")[0]
    if (
        isinstance(error, pickle.UnpicklingError) and path.is_file() and zipfile.is_zipfile(path)
    ):  # whole, as its checksums say
        return CheckpointError(path, f"cannot be unpickled safely: {one_line(text, 120)}", TRUST_HINT)
    if isinstance(error, ImportError | AttributeError):
        return CheckpointError(path, f"cannot be unpickled: {one_line(text, 120)}", "save its state_dict() instead")
    return CheckpointError(path, f"is damaged: {one_line(text, 120) or type(error).__name__}", DAMAGE_HINT)


def needs_trust(path: Path, name: str) -> CheckpointError:
    """Say that a file can be read only by importing a class, and calling it."""
    return CheckpointError(path, f"needs {name}, which could run code, to be unpickled", TRUST_HINT)
