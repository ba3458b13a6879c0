"""What cmon asks of Slurm: to take jobs, and to start one again whose time has ended."""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cmon.errors import CmonError, one_line
from cmon.signals import Stopped, ignore

# An answer that takes longer will not come; the controller may be busy for a minute.
PATIENCE_S = 120


class SlurmError(CmonError):
    """Slurm is not there, or does not take a job."""


def sbatch(words: Sequence[str]) -> str:
    """Submit a script, and return the job's number.

    Args:
        words: options, then the script's path.

    Raises:
        SlurmError: where it is not taken.
    """
    # Inside of another job, that job's sizes would be taken for this one's.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name == "SLURM_CONF" or not name.startswith(("SLURM_", "SBATCH_"))
    }
    return _answer(["sbatch", "--parsable", *words], environment).partition(";")[0]


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs, of which nothing is to come."""
    if jobs:
        _answer(["scancel", *jobs])


@contextmanager
def requeued(asked: bool) -> Iterator[None]:
    """Start this job again where its time ends within the block, if any work was finished in it.

    A job that finishes none would be started again for ever.
    """
    try:
        yield
    except Stopped as stopped:
        ignore()
        if not asked or stopped.number == signal.SIGINT:
            raise
        # Slurm starts preempted jobs again by itself, and one that its user cancelled is to stay cancelled.
        if stopped.number == signal.SIGUSR1 or _is_out_of_time():
            stopped.number = signal.SIGUSR1
            stopped.note = f"; {_requeue(stopped.finished)}"
        raise


def _is_out_of_time() -> bool:
    """Tell whether a SIGTERM came since the job's time is over."""
    try:
        return "Reason=TimeLimit" in _answer(["scontrol", "show", "job", "--oneliner", _job()]).split()
    except SlurmError:
        return False


def _requeue(finished: int) -> str:
    """Requeue this job if it has finished something, and say what came of that."""
    if not finished:
        return "not requeued: one unit of work needs longer than this job's time limit, ask for more with --time"
    try:
        _answer(["scontrol", "requeue", _job()])
    except SlurmError as error:
        return f"not requeued: {error}"
    return f"requeued as job {_job()}"


def _job() -> str:
    """Name this job; the number of an array's first task can stand for all of them."""
    environment = os.environ
    if "SLURM_ARRAY_JOB_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    if "SLURM_JOB_ID" not in environment:
        raise SlurmError("--requeue", "this is no job of Slurm")
    return environment["SLURM_JOB_ID"]


def _answer(command: list[str], environment: dict[str, str] | None = None) -> str:
    """Return what a command of Slurm's prints."""
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False, errors="replace"
        )
    except FileNotFoundError as error:
        hint = "submit on a machine of the cluster; --dry-run prints the scripts, and --shard I/N needs no Slurm"
        raise SlurmError(command[0], "is not on this machine", hint) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(command[0], f"does not answer: {one_line(error)}", "submit again later") from error
    if done.returncode:
        what = one_line(done.stderr or done.stdout) or f"exit code {done.returncode}"
        raise SlurmError(command[0], what, "look at the options after --, which sbatch has")
    return done.stdout.strip()
