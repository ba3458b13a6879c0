"""The four stages in order, once or for as long as a training brings new checkpoints."""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from cmon.console import run_stage, say_failures, shown_progress
from cmon.errors import NoCheckpointsError, StaleInputError

if TYPE_CHECKING:
    from cmon.recipes import Plan
    from cmon.work import Options, Outcome

# How often a run's folder is looked at, at most.
LOOK_EVERY_S = 5.0

# Path, size and time of every checkpoint that is written.
Seen: TypeAlias = list[tuple[str, int, int]]


def run_all(plan: "Plan", options: "Options", quiet: bool, profile: bool) -> "list[Outcome]":
    """Run the four stages; figures take every checkpoint, and are not drawn where one failed.

    Raises:
        CmonError: as the stages do.
    """
    from cmon.activations import record_activations
    from cmon.dissect import dissect_checkpoints
    from cmon.embed import embed_study
    from cmon.report import report_study

    recorded = run_stage("activations", record_activations, plan, options, quiet, profile)
    if (
        recorded.left.keys() - plan.left
    ):  # some were written to while they were read; what is left now is left to the end
        unread = frozenset(recorded.left)
        plan = replace(plan, roster=replace(plan.roster, unread=unread))
    labelled = run_stage("dissect", dissect_checkpoints, plan, options, quiet, profile)
    if recorded.failed:
        # What has no activations now has just been told why.
        labelled.failed = [failure for failure in labelled.failed if not isinstance(failure[1], StaleInputError)]
    outcomes = [recorded, labelled]
    if any(outcome.failed for outcome in outcomes):
        if not quiet:
            sys.stderr.write("embed, report: not made, since they need every checkpoint\n")
        return outcomes
    outcomes.append(run_stage("embed", embed_study, plan, options, quiet, profile))
    outcomes.append(run_stage("report", report_study, plan, options, quiet, profile))
    return outcomes


def watch(read: "Callable[[], Plan]", options: "Options", quiet: bool, profile: bool, patience_s: float) -> int:
    """Run the four stages whenever a checkpoint has appeared or changed, until none has for a while.

    Args:
        read: reads the config, and lists what is there now.
        options: of the command.
        quiet: say nothing but errors.
        profile: say what time was spent on.
        patience_s: how long nothing new may appear.

    Returns:
        The exit code of the last time.

    Raises:
        CmonError: as the stages do, and where there never was a checkpoint of every run.
    """
    progress = shown_progress(quiet)
    code, last, since = 0, None, time.monotonic()
    while True:
        plan, seen, nothing = _look(read)
        if plan is not None and seen != last:
            code, last = say_failures(run_all(plan, options, quiet, profile)), seen
            since = time.monotonic()
        elif isinstance(nothing, StaleInputError) or (plan is not None and plan.left):
            since = time.monotonic()  # something is being written
        if time.monotonic() - since >= patience_s:
            if last is None and nothing is not None:
                raise nothing
            return code
        progress.wait("for new checkpoints", min(LOOK_EVERY_S, max(0.2, patience_s / 4)))


def _look(read: "Callable[[], Plan]") -> "tuple[Plan | None, Seen, NoCheckpointsError | StaleInputError | None]":
    """Return the study and its checkpoints, or no study and why: a run that has none yet."""
    try:
        plan = read()
        for run in plan.study.run:
            if not plan.roster.trained(run):
                return None, [], StaleInputError(f"run {run.name}", "has no checkpoint that is written", "run again")
    except NoCheckpointsError as error:
        return None, [], error
    return plan, [_stamp(file) for unit in plan.units for file in unit.files], None


def _stamp(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError:  # gone by now, or a broken link
        return str(path), -1, -1
    return str(path), status.st_size, status.st_mtime_ns
