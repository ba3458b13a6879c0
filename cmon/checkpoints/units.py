"""What a study looks at: the checkpoints of its runs and, beside them, the same networks untrained."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

from cmon.checkpoints.finding import CheckpointFile, discover
from cmon.checkpoints.folders import members
from cmon.checkpoints.repeats import checkpoint_sha256, set_aside
from cmon.checkpoints.unfinished import is_early, unfinished
from cmon.config import Run
from cmon.errors import CheckpointError, ConfigError, listing, nearest, one_line
from cmon.fingerprint import HashMemory, Recipe


@dataclass(frozen=True)
class Untrained:
    """A run's network before any training, as one seed draws it.

    It is looked at as every checkpoint is, in evaluation mode: batch normalisation has the statistics that it begins
    with, means of 0 and variances of 1, and so normalises nothing, unless the run has them recalibrated. The run's
    masks, which belong to its checkpoints, are not put onto it.
    """

    seed: int

    @property
    def name(self) -> str:
        """Return what stands in place of a checkpoint's name."""
        return f"random-init-{self.seed}"


@dataclass(frozen=True)
class Unit:
    """One unit of work: a checkpoint of a run, or the run's network untrained."""

    run: Run
    checkpoint: CheckpointFile | Untrained

    @property
    def seed(self) -> int | None:
        """Return the seed of an untrained network; None for a checkpoint."""
        return self.checkpoint.seed if isinstance(self.checkpoint, Untrained) else None

    @property
    def folder(self) -> str:
        """Return the folder of its files: the run's, or RUN~baseline, which no run may be called."""
        return self.run.name if self.seed is None else f"{self.run.name}~baseline"

    @property
    def name(self) -> str:
        """Return folder/checkpoint."""
        return f"{self.folder}/{self.checkpoint.name}"

    @property
    def where(self) -> str:
        """Return what an error names: a checkpoint's file, else the name."""
        return str(self.checkpoint.path) if isinstance(self.checkpoint, CheckpointFile) else self.name

    @property
    def masks(self) -> Path | None:
        """Return the file of masks for a checkpoint's weights, where the run has any."""
        if self.run.masks is None or self.seed is not None:
            return None
        return Path(str(self.run.masks).replace("{checkpoint}", self.checkpoint.name))

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files that a checkpoint is read from, without its masks'; itself where they cannot be told."""
        if isinstance(self.checkpoint, Untrained):
            return ()
        return _files(self.checkpoint.path)

    def weights(self, memory: HashMemory) -> Recipe:
        """Say what decides the network's weights, beside its model.

        Raises:
            CheckpointError: where a file cannot be read.
        """
        if isinstance(self.checkpoint, Untrained):
            return {"checkpoint": f"random-init {self.checkpoint.seed}"}
        sha256 = _sha256(self.checkpoint.path, memory, "mend or leave it out")
        saved = {"checkpoint": sha256, "state_dict_key": self.run.state_dict_key}
        saved |= {"weights": self.run.weights} if self.run.weights != "raw" else {}
        hint = "name a file that can be read as the run's masks, or leave masks out"
        return saved | ({"masks": _sha256(self.masks, memory, hint)} if self.masks else {})


def _sha256(path: Path, memory: HashMemory, hint: str) -> str:
    try:
        return checkpoint_sha256(path, memory)
    except OSError as error:
        raise CheckpointError(path, error.strerror or "cannot be read", hint) from error


def _files(path: Path) -> tuple[Path, ...]:
    try:
        return members(path)
    except (CheckpointError, OSError):  # who reads it says what is wrong
        return (path,)


# What a submission to a cluster has listed: run -> checkpoint -> file.
Frozen: TypeAlias = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Roster:
    """The units of work of a study; a run's checkpoints are listed once, when they are first asked for.

    Args:
        runs: of the study.
        memory: of hashes.
        frozen: the checkpoints as a submission has listed them; without it those that are there now.
        due: names of the units that shards are made of; without it all.
        unread: names of units that changed while they were read, and are to be left out as well.
    """

    runs: Sequence[Run]
    memory: HashMemory
    frozen: Frozen | None = None
    due: Collection[str] | None = None
    unread: frozenset[str] = frozenset()
    _listed: dict[str, "_Listed"] = field(default_factory=dict, init=False, repr=False, compare=False)

    def trained(self, run: Run) -> tuple[Unit, ...]:
        """List a run's checkpoints, see `discover`, but for those that are left or set aside."""
        return self._list(run).units

    def left(self, run: Run) -> dict[str, str]:
        """Say of the run's checkpoints that are still being written how that shows, by the name of the unit."""
        return self._list(run).left

    def aside(self, run: Run) -> dict[str, str]:
        """Say of the run's checkpoints that are not counted why, see `set_aside`, by the name of the unit."""
        return self._list(run).aside

    def untrained(self, run: Run) -> tuple[Unit, ...]:
        """List the untrained networks that a run asks for, by seed."""
        seeds = run.baseline_seeds if run.baseline == "random-init" else 0
        return tuple(Unit(run, Untrained(seed)) for seed in range(seeds))

    def select(
        self, runs: Sequence[str], checkpoints: Sequence[str], shard: tuple[int, int] | None = None
    ) -> tuple[Unit, ...]:
        """Return the units of the named runs and checkpoints, all where none are named; baselines after each run's.

        Args:
            runs: names.
            checkpoints: names, of any run or as run/checkpoint.
            shard: (i, n): of these every n-th from the i-th on, counted from 0.

        Raises:
            ConfigError: for a name that the study's runs do not have.
        """
        _check_known("--run", runs, [run.name for run in self.runs])
        # Another run may have no checkpoints yet.
        chosen = [run for run in self.runs if not runs or run.name in runs]
        units = [unit for run in chosen for unit in (*self.trained(run), *self.untrained(run))]
        left = [name for run in chosen for name in (*self.left(run), *self.aside(run))]
        known = [unit.name for unit in units] + left
        _check_known("--checkpoint", checkpoints, [name.partition("/")[2] for name in known], known)
        asked = [unit for unit in units if not checkpoints or {unit.name, unit.checkpoint.name} & {*checkpoints}]
        if shard is None:
            return tuple(asked)
        index, shards = shard
        return tuple([unit for unit in asked if self.due is None or unit.name in self.due][index::shards])

    def _list(self, run: Run) -> "_Listed":
        if run.name not in self._listed:
            if self.frozen is None:
                found = discover(run)
                reasons = _unfinished(found)
                aside = set_aside(run, [one for one in found if one.name not in reasons], self.memory)
            else:
                found = tuple(CheckpointFile(name, Path(path)) for name, path in self.frozen[run.name].items())
                reasons, aside = {}, {}
            units = [Unit(run, one) for one in found]
            left = {u.name: f"{u.where} {reasons[u.checkpoint.name]}" for u in units if u.checkpoint.name in reasons}
            left |= {unit.name: f"{unit.where} changed while it was read" for unit in units if unit.name in self.unread}
            known = {unit.name: aside[unit.checkpoint.name] for unit in units if unit.checkpoint.name in aside}
            counted = tuple(unit for unit in units if unit.name not in left and unit.name not in known)
            self._listed[run.name] = _Listed(counted, left, known)
        return self._listed[run.name]


class _Listed(NamedTuple):
    """A run's checkpoints: those that count, those that are being written, and those that are set aside."""

    units: tuple[Unit, ...]
    left: dict[str, str]
    aside: dict[str, str]


def _unfinished(found: Sequence[CheckpointFile]) -> dict[str, str]:
    """Say of the checkpoints that are still being written how that shows, by name."""
    files = {one.name: _files(one.path) for one in found}
    early = {one.name: "has no trainer_state.json yet" for one in found if is_early(one.path)}
    reasons = unfinished([path for paths in files.values() for path in paths], files[found[-1].name])
    told = {name: [reasons[path] for path in paths if path in reasons] for name, paths in files.items()}
    return early | {name: reasons[0] for name, reasons in told.items() if reasons}


def _check_known(option: str, names: Sequence[str], known: Sequence[str], full: Sequence[str] = ()) -> None:
    for name in names:
        if name not in {*known, *full}:
            close = nearest(name, known, 3) or known
            raise ConfigError(option, f"no {one_line(name)} in this study", f"there is {listing(close)}")
