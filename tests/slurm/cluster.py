"""A study submitted to the cluster of scripts/local_slurm.sh, and what became of its jobs."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TinyStudy

CONFIGURATION = Path(os.environ.get("SLURM_CONF", "none"))
if not CONFIGURATION.is_file() or "ClusterName=local_slurm\n" not in CONFIGURATION.read_text():
    pytest.exit("tests/slurm: these jobs are for a local Slurm only: make test-slurm", 2)

ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "OUT_OF_MEMORY"}


def slurm(*words: str) -> str:
    done = subprocess.run(words, text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def start_what_was_requeued() -> None:
    """Let jobs go on at once that would wait two minutes."""
    for line in slurm("squeue", "--noheader", "--array", "--states=PENDING", "--format=%i %r").splitlines():
        job, reason = line.split(maxsplit=1)
        if reason == "BeginTime":  # until now: an error where it has begun since
            subprocess.run(["scontrol", "update", f"jobid={job}", "StartTime=now"], capture_output=True, timeout=60)


def urgent_job(*options: str) -> str:
    """Submit a job that preempts others."""
    return slurm("sbatch", "--parsable", "--partition=urgent", "--output=/dev/null", *options, "--wrap=sleep 1").strip()


class Submission:
    """What one `cmon submit` has submitted."""

    def __init__(self, study: TinyStudy, *words: str, **environment: str) -> None:
        process = study.spawn("submit", *words, **environment)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        answer = json.loads(out)
        self.folder, self.jobs, self.shards = Path(answer["folder"]), answer["jobs"], answer["shards"]

    def tasks(self, stage: str) -> list[dict[str, str]]:
        """Return what Slurm says of the tasks of a stage, in their order; one line where an array has yet to begin."""
        lines = slurm("scontrol", "show", "job", "--oneliner", self.jobs[stage]).splitlines()
        tasks = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines if line]
        return sorted(tasks, key=lambda task: int(re.match(r"\d*", task.get("ArrayTaskId", "0"))[0] or 0))

    def facts(self, stage: str, key: str = "JobState") -> list[str]:
        return [task[key] for task in self.tasks(stage)]

    def log(self, stage: str) -> str:
        return "".join(path.read_text() for path in sorted((self.folder / "log").glob(f"{stage}*")))

    def until(self, reached: Callable[[], object], within_s: float) -> None:
        """Wait until something is so."""
        end = time.monotonic() + within_s
        while not reached():
            start_what_was_requeued()
            if time.monotonic() > end:
                logs = "".join(f"--- {stage}\n{self.log(stage)}" for stage in self.jobs)
                pytest.fail(f"not so within {within_s} s\n{slurm('squeue', '--all', '--array')}\n{logs}")
            time.sleep(0.3)

    def wait(self, within_s: float = 200) -> None:
        """Wait until all jobs have ended."""
        self.until(lambda: all(set(self.facts(stage)) <= ENDED for stage in self.jobs), within_s)

    def is_well(self) -> bool:
        """Tell whether all jobs were as they should be."""
        return {state for stage in self.jobs for state in self.facts(stage)} == {"COMPLETED"}
