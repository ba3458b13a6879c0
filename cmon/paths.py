"""The files that a config names: $VARIABLES and ~ replaced, and relative paths started at the config's folder.

A path that begins with a variable whose value is relative starts at the working directory instead.
"""

import errno
import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, ValidationInfo

from cmon.fingerprint import file_status

WEIGHTS_ENDINGS = (".pt", ".pth", ".bin", ".safetensors")


def _path(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str | Path):
        return value
    if not str(value):
        raise ValueError("is empty")
    if "\0" in str(value):
        raise ValueError("holds a NUL character")
    folder = (info.context or {}).get("folder", Path())
    # What a variable holds was written in a shell, where a relative path starts at the working directory.
    start = Path.cwd() if str(value).startswith("$") else folder
    try:
        return Path(os.path.normpath(start / Path(_expanded(str(value))).expanduser()))
    except RuntimeError as error:
        raise ValueError(f"nobody's home is known by {Path(str(value)).parts[0]}") from error


def _expanded(text: str) -> str:
    """Replace $NAME and ${NAME} by the environment's values; an unset one is an error."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise ValueError(f"the environment variable {name} is not set")
        return os.environ[name]

    return re.sub(r"\$(?:(\w+)|\{(\w+)\})", value, text)


def _source(value: object, info: ValidationInfo) -> object:
    """Resolve the path within `file.py:function`, `local-dir:folder` and `transformers:folder`.

    Other names stay as they are, such as one of the Hugging Face hub, which looks like a folder that does not exist.
    """
    if not isinstance(value, str):
        return value
    if value.startswith("local-dir:"):
        return f"local-dir:{_path(value.removeprefix('local-dir:'), info)}"
    if value.startswith("transformers:"):
        name = value.removeprefix("transformers:")
        path = _path(name, info)
        is_path = name.startswith(("./", "../", "/", "~", "$")) or (isinstance(path, Path) and path.exists())
        return f"transformers:{path if is_path else _expanded(name)}"
    if _expanded(value).rpartition(":")[0].endswith(".py"):
        return str(_path(value, info))
    return _expanded(value)


def _weights(value: object, info: ValidationInfo) -> object:
    """Resolve a file of weights; a value that names no file and does not look like one is a tag."""
    if not isinstance(value, str):
        return value
    path = _path(value, info)
    looks_like_file = value.startswith(("~", "$")) or "/" in value or value.endswith(WEIGHTS_ENDINGS)
    return str(path) if looks_like_file or (isinstance(path, Path) and path.is_file()) else value


def read_text(path: Path, largest_bytes: int) -> str:
    """Read a text file that a config names, in UTF-8 with or without a byte order mark.

    Raises:
        OSError: where it cannot be read, is no file but a pipe that would be waited for, or is too large to be meant.
        UnicodeDecodeError: where it is no text.
    """
    if file_status(path).st_size > largest_bytes:
        raise OSError(errno.EFBIG, f"is larger than {largest_bytes / 2**20:.0f} MiB")
    return path.read_text(encoding="utf-8-sig")


FilePath = Annotated[Path, BeforeValidator(_path)]
# A name that may hold a path, such as file.py:function.
Source = Annotated[str, BeforeValidator(_source)]
# A tag, or a file of weights as an absolute path.
Weights = Annotated[str, BeforeValidator(_weights)]
