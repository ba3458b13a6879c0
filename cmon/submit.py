"""A study as jobs of a Slurm cluster: an array for each of the two stages that can be shared, and a join.

Nothing stays alive beside the jobs. Who labels waits for who records the same share (aftercorr); the join comes when
all have ended, whether well or not, so that it can say what is missing.
"""

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from shlex import join, quote

from cmon.errors import ConfigError
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
    """Jobs that are ready to be submitted.

    Args:
        folder: of manifest, scripts and logs.
        manifest: the units of work.
        stages: names of the jobs: no arrays where nothing is to be shared, and none at all where nothing is missing.
        sbatch: options for all jobs.
        options: of the stages.
    """

    folder: Path
    manifest: Manifest
    stages: tuple[str, ...]
    sbatch: Sequence[str]
    options: Options

    def text(self) -> str:
        """Return all scripts, each under the command that would submit it."""
        after = dict(zip(self.stages, ("", *(f"{stage.upper()}_JOB" for stage in self.stages)), strict=False))
        commands = [join(["sbatch", *self.sbatch_options(stage, after[stage])]) for stage in self.stages]
        parts = zip(commands, map(self.script, self.stages), strict=True)
        return "\n".join(f"# {command}\n{script}" for command, script in parts)

    def script(self, stage: str) -> str:
        """Return a job's script; what runs last takes the shell's place, so that signals reach it."""
        cmon = join([sys.executable, "-u", "-P", "-m", "cmon"])
        study = f"{quote(self.manifest.config)} --manifest {quote(str(self.folder / 'manifest.json'))}"
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
        about = "One share. Their number stands here, since the cluster counts those that were asked for last."
        share = f'--shard "${{SLURM_ARRAY_TASK_ID}}/{self.manifest.shards}" --requeue'
        return SCRIPT.format(about=about, commands=f"exec {cmon} {stage} {study} {share}{extra}")

    def sbatch_options(self, stage: str, after: str) -> list[str]:
        """Return what sbatch is told of a job that waits for another; ours first, so that the user's options win."""
        log = str(self.folder / "log" / stage).replace("%", "%%")
        options = ["--job-name", f"cmon-{stage}", "--output", f"{log}{'.log' if stage == 'join' else '_%a.log'}"]
        options += ["--open-mode=append", "--requeue"]
        if stage != "join":
            options += [f"--array=0-{self.manifest.shards - 1}", f"--signal=B:USR1@{WARNING_S}"]
        if after:
            # A share whose first stage failed is never to be labelled: its job is to end, not to wait for ever.
            kind = "afterany" if stage == "join" else "aftercorr"
            options += [f"--dependency={kind}:{after}", "--kill-on-invalid-dep=yes"]
        return [*options, *self.sbatch, str(self.folder / f"{stage}.sh")]


def prepare(plan: Plan, config: Path, shards: int, sbatch: Sequence[str], options: Options) -> Submission:
    """Freeze what a study lacks.

    Args:
        plan: of the study.
        config: its file.
        shards: how many jobs share a stage; fewer where there are fewer units of work.
        sbatch: options for all jobs.
        options: of the stages.

    Raises:
        ConfigError: for an option that would break the chain.
        CmonError: as `file_states`.
    """
    for word in sbatch:
        if re.match(r"--(array|dependency|wrap)\b|-[ad]", word):
            raise ConfigError(word, "is for cmon to set: jobs are chained by it", "say --shards before the --")
    states = list(file_states(plan))
    due = missing_units(states)
    # Without evidence one share has to make it, even where no unit of work lacks anything.
    used = min(shards, max(len(due), 0 if plan.evidence.state().current else 1))
    lacks = any(file.lacks for file in states)
    checkpoints: dict[str, dict[str, str]] = {run.name: {} for run in plan.study.run}
    for unit in plan.units:
        checkpoints[unit.run.name][unit.checkpoint.name] = str(Path(unit.where).absolute())
    manifest = Manifest(str(config.absolute()), frozen_study(plan.study), checkpoints, due, used)
    stages = ("activations", "dissect", "join") if used else ("join",) if lacks else ()
    return Submission(_free_folder(plan.workspace.jobs), manifest, stages, sbatch, options)


def submit_jobs(submission: Submission) -> Json:
    """Write and submit what is prepared, and return its folder, the number of shards and the jobs' numbers.

    Raises:
        StoreError: where the workspace cannot be written.
        SlurmError: where jobs are not taken; those that were are cancelled.
    """
    folder, jobs = submission.folder, dict[str, str]()
    if submission.stages:
        try:
            (folder / "log").mkdir(parents=True)  # without which Slurm kills a job without a word
        except OSError as error:
            raise unwritable(folder, error) from error
        submission.manifest.write(folder / "manifest.json")
    for stage in submission.stages:
        write_whole(folder / f"{stage}.sh", submission.script(stage).encode())
    try:
        for stage in submission.stages:
            jobs[stage] = sbatch(submission.sbatch_options(stage, next(reversed(jobs.values()), "")))
    except SlurmError:
        cancel(list(jobs.values()))
        raise
    return {"folder": str(folder) if jobs else None, "shards": submission.manifest.shards, "jobs": jobs}


def _free_folder(jobs: Path) -> Path:
    """Name a folder that is not there yet by the time, and a number where that is needed."""
    stamp = time.strftime("%Y-%m-%dT%H-%M-%S")
    names = (jobs / (f"{stamp}~{number}" if number else stamp) for number in count())
    return next(name for name in names if not name.exists())
