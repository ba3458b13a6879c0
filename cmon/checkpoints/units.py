"""What a study looks at: the checkpoints of its runs and, beside them, the same networks untrained."""

from dataclasses import dataclass

from cmon.checkpoints.finding import CheckpointFile, discover
from cmon.config import Run


@dataclass(frozen=True)
class Untrained:
    """A run's network before any training, as one seed draws it.

    It is looked at as every checkpoint is, in evaluation mode: batch normalisation has the statistics that it begins
    with, means of 0 and variances of 1, and so normalises nothing.
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


def checkpoint_units(run: Run) -> tuple[Unit, ...]:
    """List a run's checkpoints, see `discover`."""
    return tuple(Unit(run, checkpoint) for checkpoint in discover(run))


def baseline_units(run: Run) -> tuple[Unit, ...]:
    """List the untrained networks that a run asks for, by seed."""
    seeds = run.baseline_seeds if run.baseline == "random-init" else 0
    return tuple(Unit(run, Untrained(seed)) for seed in range(seeds))
