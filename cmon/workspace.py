"""Where every file of a study lies, and whether it is current, missing or stale, with the reason."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from cmon.errors import DamagedStoreError, StaleInputError, listing
from cmon.fingerprint import HashMemory, Json, Recipe, changes, fingerprint
from cmon.h5 import read_header
from cmon.whole import sweep, whole_file


@dataclass(frozen=True)
class State:
    """Whether a file can be used as it is.

    Args:
        status: current, missing, stale (other inputs or parameters), damaged, or left while
            its checkpoint is being written.
        reason: why it is stale or damaged, such as "changed: pooling".
    """

    status: Literal["current", "missing", "stale", "damaged", "left"]
    reason: str = ""

    @property
    def current(self) -> bool:
        """Tell whether the file can be used."""
        return self.status == "current"

    def __str__(self) -> str:
        return self.reason or self.status


@dataclass(frozen=True)
class Target:
    """A file that a stage makes: where it lies, and the recipe that it must have been made by."""

    path: Path
    kind: str
    recipe: Recipe

    @cached_property
    def fingerprint(self) -> str:
        """Return the fingerprint of the recipe."""
        return fingerprint(self.recipe)

    def state(self) -> State:
        """Compare the file's own recipe with the one that is asked for.

        Raises:
            StoreError: where the file was made by a newer cmon, or is not ours: it must not be overwritten.
        """
        try:
            header = read_header(self.path, self.kind)
        except DamagedStoreError as error:
            return State("damaged", error.what)
        if header is None:
            return State("stale", "older file format") if self.path.exists() else State("missing")
        if header.fingerprint == self.fingerprint:
            return State("current")
        return State("stale", f"changed: {listing(changes(header.recipe, self.recipe), 4)}")

    def require(self, stage: str, root: Path, look_again: Callable[[], bool] = lambda: False) -> None:
        """Raise a StaleInputError where the file cannot be used, naming the stage that makes it.

        Args:
            stage: that makes it.
            root: of the workspace.
            look_again: asked where it is missing: pauses, and tells whether it could be there by now.
        """
        state = self.state()
        while state.status == "missing" and look_again():
            with suppress(OSError):
                list(self.path.parent.iterdir())  # without which NFS would go on to say what it remembers
            state = self.state()
        if not state.current:
            raise StaleInputError(shown(self.path, root), str(state), f"run cmon {stage}")


@dataclass(frozen=True)
class Workspace:
    """The folders of one study."""

    root: Path

    def activations(self, run: str, checkpoint: str) -> Path:
        """Return the place of one checkpoint's activations."""
        return self.root / "activations" / run / f"{checkpoint}.h5"

    def counts(self, run: str, checkpoint: str) -> Path:
        """Return the place of one checkpoint's counts of pixels."""
        return self.root / "counts" / run / f"{checkpoint}.h5"

    @property
    def evidence(self) -> Path:
        """Return the place of the evidence."""
        return self.root / "evidence.h5"

    def similarity(self, detector: str, run: str, checkpoint: str) -> Path:
        """Return the place of one checkpoint's labels under one detector."""
        return self.root / "similarity" / detector / run / f"{checkpoint}.h5"

    def embedding(self, detector: str) -> Path:
        """Return the place of one detector's joint file."""
        return self.root / "embedding" / f"{detector}.h5"

    @property
    def matches(self) -> Path:
        """Return the place of the pairs of units that are compared between runs."""
        return self.root / "matches.h5"

    @property
    def report(self) -> Path:
        """Return the folder of figures and tables."""
        return self.root / "report"

    @property
    def pixels(self) -> Path:
        """Return the folder of decoded images, a cache that may be deleted at any time."""
        return self.root / "cache" / "pixels"

    @property
    def masks(self) -> Path:
        """Return the folder of decoded masks, a cache as well."""
        return self.root / "cache" / "masks"

    @property
    def jobs(self) -> Path:
        """Return the folder of what was submitted to a cluster, a folder each."""
        return self.root / "jobs"

    def lies_in(self, folder: Path) -> bool:
        """Tell whether it is within a folder, links followed."""
        return Path(os.path.realpath(self.root)).is_relative_to(os.path.realpath(folder))

    def claim(self, name: str) -> Path:
        """Return the file that a process holds while it makes what others need too."""
        return self.root / "cache" / f"{name}.lock"

    def sweep(self) -> None:
        """Delete the temporary files that killed processes have left; the caches of images among them are large."""
        sweep(self.root)

    def note_making(self, path: Path, making: Json) -> None:
        """Write down how a file was made, apart from it: what differs from run to run is no part of a result."""
        place = self.root / "provenance" / path.relative_to(self.root).with_suffix(".json")
        with suppress(OSError), whole_file(place) as file:
            file.write(json.dumps(making, indent=1).encode())

    def memory(self) -> HashMemory:
        """Return the memory of file hashes."""
        return HashMemory(self.root / "cache" / "hashes.json")


def shown(path: Path, root: Path) -> str:
    """Return a path as messages show it: below the workspace where it lies there."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
