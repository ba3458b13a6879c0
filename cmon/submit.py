"""A study as jobs of a Slurm cluster: an array for each of the two stages that can be shared, and a join.

Nothing stays alive beside the jobs. Who labels waits for who records the same share (aftercorr); the join comes when
all have ended, whether well or not, so that it can say what is missing.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from shlex import join, quote

from cmon.fingerprint import Json
from cmon.h5 import unwritable, write_whole
from cmon.manifest import Manifest, frozen_study
from cmon.recipes import Plan
from cmon.slurm import SlurmError, cancel, sbatch
from cmon.status import file_states, missing_units
from cmon.work import Options

# How long before the end of a job's time it is told: enough for one unit of work of most studies.
WARNING_S = 120
# How long the join looks for files that a network file system may show late.
WAIT_S = 60
SCRIPT = """#!/bin/bash
# {about}
export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-${{SLURM_CPUS_PER_TASK:-${{SLURM_CPUS_ON_NODE:-1}}}}}}"
{commands}
"""


@dataclass(frozen=True)
class Submission:
    """What is submitted.

    Args:
        folder: of manifest, scripts and logs.
        manifest: the units of work.
        config: the study's file.
        sbatch: options for all jobs.
        options: of the command.
    """

    folder: Path
    manifest: Manifest
    config: Path
    sbatch: Sequence[str]
    options: Options

    @property
    def stages(self) -> tuple[str, ...]:
        """Name the jobs: no arrays where nothing is to be shared."""
        return ("activations", "dissect", "join") if self.manifest.shards else ("join",)

    def script(self, stage: str) -> str:
        """Return a job's script; what runs last takes the shell's place, so that signals reach it."""
        cmon = join([sys.executable, "-u", "-P", "-m", "cmon"])
        study = f"{quote(str(self.config))} --manifest {quote(str(self.folder / 'manifest.json'))}"
        device = ["--device", self.options.device] if self.options.device != "auto" else []
        how = "".join(f" {quote(word)}" for word in device + ["--trust-pickle"] * self.options.trust_pickle)
        if stage == "join":
            about = "Label what a share that failed has held up; place and draw all, or say what is missing."
            commands = (
                "trap '' USR1  # it would end the shell, and there is nothing to be started again",
                f"{cmon} dissect {study}",
                f"{cmon} embed {study}{how} --wait {WAIT_S} || exit",
                f"exec {cmon} report {study}",
            )
            return SCRIPT.format(about=about, commands="\n".join(commands))
        extra = how if stage == "activations" else f" --wait {WAIT_S}"
        about = f"One share of {self.manifest.shards}: its units of work do not depend on what the cluster says."
        share = f'--shard "${{SLURM_ARRAY_TASK_ID}}/{self.manifest.shards}" --requeue'
        return SCRIPT.format(about=about, commands=f"exec {cmon} {stage} {study} {share}{extra}")

    def sbatch_options(self, stage: str, after: str) -> list[str]:
        """Return the options of a job that waits for another; ours first, so that the user's win."""
        log = str(self.folder / "log" / stage).replace("%", "%%")
        options = ["--job-name", f"cmon-{stage}", "--output", f"{log}{'.log' if stage == 'join' else '_%a.log'}"]
        options += ["--open-mode=append", "--requeue"]
        if stage != "join":
            options += [f"--array=0-{self.manifest.shards - 1}", f"--signal=B:USR1@{WARNING_S}"]
        if after:
            # A share whose first stage failed is never to be labelled: its job is to end, not to wait for ever.
            kind = "afterany" if stage == "join" else "aftercorr"
            options += [f"--dependency={kind}:{after}", "--kill-on-invalid-dep=yes"]
        return [*options, *self.sbatch]


def submit_study(plan: Plan, config: Path, shards: int, options: Sequence[str], how: Options) -> Json:
    """Submit what a study lacks, and return folder, number of shards and the jobs' numbers.

    Args:
        plan: of the study.
        config: its file.
        shards: how many jobs share a stage; fewer where there are fewer units of work.
        options: of sbatch, for all jobs.
        how: options of the stages.

    Raises:
        StoreError: where the workspace cannot be written.
        SlurmError: where jobs are not taken; those that were are cancelled.
    """
    if all(file.state.status in ("current", "left") for file in file_states(plan)):
        return {"folder": None, "shards": 0, "jobs": {}}
    submission = _prepared(plan, config, shards, options, how, _new_folder(plan.workspace.jobs))
    folder, jobs = submission.folder, dict[str, str]()
    submission.manifest.write(folder / "manifest.json")
    for stage in submission.stages:
        write_whole(folder / f"{stage}.sh", submission.script(stage).encode())
    try:
        for stage in submission.stages:
            after = next(reversed(jobs.values()), "")
            jobs[stage] = sbatch(submission.sbatch_options(stage, after), str(folder / f"{stage}.sh"))
    except SlurmError:
        cancel(list(jobs.values()))
        raise
    return {"folder": str(folder), "shards": submission.manifest.shards, "jobs": jobs}


def scripts(plan: Plan, config: Path, shards: int, options: Sequence[str], how: Options) -> str:
    """Return all scripts, each under the command that would submit it; arguments as of `submit_study`."""
    submission = _prepared(plan, config, shards, options, how, _free_folder(plan.workspace.jobs))
    parts, after = [], ""
    for stage in submission.stages:
        command = ["sbatch", "--parsable", *submission.sbatch_options(stage, after)]
        parts.append(f"# {join([*command, str(submission.folder / f'{stage}.sh')])}\n{submission.script(stage)}")
        after = f"{stage.upper()}_JOB"
    return "\n".join(parts)


def _prepared(plan: Plan, config: Path, shards: int, options: Sequence[str], how: Options, folder: Path) -> Submission:
    """Freeze what is to be done."""
    due = missing_units(file_states(plan))
    # Without evidence one share has to make it, even where no unit of work lacks anything.
    used = min(shards, max(len(due), 0 if plan.evidence.state().current else 1))
    checkpoints: dict[str, dict[str, str]] = {run.name: {} for run in plan.study.run}
    for unit in plan.units:
        checkpoints[unit.run.name][unit.checkpoint.name] = str(Path(unit.where).absolute())
    manifest = Manifest(str(config.absolute()), frozen_study(plan.study), checkpoints, due, used)
    return Submission(folder, manifest, config.absolute(), options, how)


def _new_folder(jobs: Path) -> Path:
    """Make a folder for one submission, and one for its logs: without it Slurm kills a job without a word."""
    folder = _free_folder(jobs)
    try:
        (folder / "log").mkdir(parents=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


def _free_folder(jobs: Path) -> Path:
    """Name a folder that is not there yet by the time, and a number where that is needed."""
    stamp = time.strftime("%Y-%m-%dT%H-%M-%S")
    names = (jobs / (f"{stamp}~{number}" if number else stamp) for number in count())
    return next(name for name in names if not name.exists())
