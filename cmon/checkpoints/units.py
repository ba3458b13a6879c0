"""What a study looks at: the checkpoints of its runs and, beside them, the same networks untrained."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmon.checkpoints.finding import CheckpointFile, discover
from cmon.config import Run
from cmon.errors import CheckpointError, ConfigError, listing, nearest
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

    def weights(self, memory: HashMemory) -> Recipe:
        """Say what decides the network's weights, beside its model.

        Raises:
            CheckpointError: where a file cannot be read.
        """
        if isinstance(self.checkpoint, Untrained):
            return {"checkpoint": f"random-init {self.checkpoint.seed}"}
        sha256 = _sha256(self.checkpoint.path, memory, "mend or leave it out")
        saved = {"checkpoint": sha256, "state_dict_key": self.run.state_dict_key}
        hint = "name a file that can be read as the run's masks, or leave masks out"
        return saved | ({"masks": _sha256(self.masks, memory, hint)} if self.masks else {})


def _sha256(path: Path, memory: HashMemory, hint: str) -> str:
    try:
        return memory.sha256(path)
    except OSError as error:
        raise CheckpointError(path, error.strerror or "cannot be read", hint) from error


def checkpoint_units(run: Run) -> tuple[Unit, ...]:
    """List a run's checkpoints, see `discover`."""
    return tuple(Unit(run, checkpoint) for checkpoint in discover(run))


def baseline_units(run: Run) -> tuple[Unit, ...]:
    """List the untrained networks that a run asks for, by seed."""
    seeds = run.baseline_seeds if run.baseline == "random-init" else 0
    return tuple(Unit(run, Untrained(seed)) for seed in range(seeds))


def select_units(study: Sequence[Run], runs: Sequence[str], checkpoints: Sequence[str]) -> tuple[Unit, ...]:
    """Return the units of the named runs and checkpoints, all where none are named; baselines after each run's.

    Raises:
        ConfigError: for a name that the study's runs do not have.
    """
    _check_known("--run", runs, [run.name for run in study])
    # Another run may have no checkpoints yet.
    chosen = [run for run in study if not runs or run.name in runs]
    units = [unit for run in chosen for unit in (*checkpoint_units(run), *baseline_units(run))]
    _check_known("--checkpoint", checkpoints, [unit.checkpoint.name for unit in units])
    return tuple(unit for unit in units if not checkpoints or unit.checkpoint.name in checkpoints)


def _check_known(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            close = nearest(name, known, 3) or known
            raise ConfigError(option, f"no {name} in this study", f"there is {listing(close)}")
