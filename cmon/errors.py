"""What a user can cause, as exceptions that say where it is, what it is and how to mend it."""

import difflib
from collections.abc import Iterable


class CmonError(Exception):
    """A mistake that the user can mend.

    Args:
        where: the file, folder or config key at fault.
        what: what is wrong with it, in one line.
        hint: what repairs it, in one line; may be empty.
    """

    exit_code = 1

    def __init__(self, where: object, what: str, hint: str = "") -> None:
        super().__init__(f"{where}: {what}")
        self.where, self.what, self.hint = str(where), what, hint


class ConfigError(CmonError):
    """The command line or the config cannot be used."""

    exit_code = 2


class NoCheckpointsError(ConfigError):
    """A run has no checkpoints, or none yet."""


class StaleInputError(CmonError):
    """What an earlier stage should have made is missing or out of date."""

    exit_code = 3


class CheckpointError(CmonError):
    """A checkpoint cannot be read, or does not fit its model."""


class UnfinishedError(CheckpointError):
    """A checkpoint is still being written: no mistake, and to be read another time."""


class ModelError(ConfigError):
    """A model cannot be built, or lacks the layer that was asked for."""


class ProbeError(CmonError):
    """An image set or one of its images cannot be read."""


class EncoderError(CmonError):
    """An image-text model or its precomputed features cannot be used."""


class DetectorError(CmonError):
    """A detector cannot score these activations."""


class StoreError(CmonError):
    """A file of the workspace is damaged, foreign, or cannot be read or written."""


class DamagedStoreError(StoreError):
    """A file of the workspace is ours, and broken: the stage that owns it may make it again."""


# A user's model may raise anything, classes of its own among it, or leave the program: nothing narrower will do there.
USER_CODE_ERRORS = (Exception, SystemExit)


def nearest(name: str, allowed: Iterable[str], count: int = 1) -> list[str]:
    """Return the allowed names that look most like `name`, best first; may be empty."""
    return difflib.get_close_matches(name, list(allowed), n=count, cutoff=0.5)


def listing(names: Iterable[object], most: int = 8) -> str:
    """Join names for one line of an error, cut after `most` with the number left out."""
    shown = [one_line(name) for name in names]
    rest = len(shown) - most
    return ", ".join(shown[:most]) + (f" and {rest} more" if rest > 0 else "")


def one_line(text: object, most: int = 300) -> str:
    """Fold any text, such as another library's message, into one printable line of at most `most` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= most else line[: most - 1] + "…"
