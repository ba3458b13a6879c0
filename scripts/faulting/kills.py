"""SIGKILL at any moment: nothing wrong is left, nothing finished is lost, and the next run ends as if none had been.

Half of the kills come at random times. These seldom meet the moments when files are written, so that the other half
come at a random one of the steps that change files: right before a file is opened, renamed or deleted, or a folder
made. The first kill of a chain comes anywhere in the length of a command, and each next one in what that has left.
"""

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from faulting.running import Ended, cmon
from faulting.study import COMMANDS, Study, contents, leftovers, places
from faulting.tally import Tally

# Kills in a row, before a run that is left alone.
CHAIN = 3
STEPS = ("open", "os.rename", "os.remove", "os.mkdir")


def kill(study: Study, reference: dict[str, str], number: int, draws: random.Random) -> list[Tally]:
    """Kill so many commands, of all four stages in one and of each, in equal shares."""
    tallies = []
    for place, command in enumerate(COMMANDS[:number]):
        tally = Tally(f"kill {command}")
        tallies.append(tally)
        length_s, steps = undisturbed(study, command)
        while tally.came["killed"] < len(range(place, number, len(COMMANDS))):
            study.begin(command)
            left, seed = 1.0, draws.getrandbits(32)
            for trial in range(CHAIN):
                share = draws.random() * left
                left -= share
                before = places(study.workspace)
                ended = killed(study, command, share * length_s if tally.tried % 2 else int(share * steps))
                came = {-signal.SIGKILL: "killed", 0: "ended first"}.get(ended.code, f"exit code {ended.code}")
                complaint = wrong(study, reference, before) or ended.complaint() * (came != "killed")
                tally.count(came, f"chain {seed}, trial {trial}", complaint)
            if complaint := mended(study, reference):
                tally.wrong.append(f"{tally.fault}: chain {seed}: {complaint}")
    return tallies


def killed(study: Study, command: str, moment: float | int) -> Ended:
    """Kill a command after so many seconds, or right before its so-manieth step that changes files, from 0."""
    if isinstance(moment, float):
        return cmon(command, str(study.config), log=study.log, kill_after_s=moment)
    left = moment

    def count() -> None:
        nonlocal left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    return cmon(command, str(study.config), log=study.log, before=at_steps(count, study.workspace))


def undisturbed(study: Study, command: str) -> tuple[float, int]:
    """Return the seconds that a command takes, and its steps."""
    steps = study.sandbox / "steps"
    steps.write_bytes(b"")
    with steps.open("ab", buffering=0) as file:
        study.begin(command)
        counted = at_steps(lambda: file.write(b"."), study.workspace)
        elapsed_s = cmon(command, str(study.config), log=study.log, before=counted).elapsed_s
    return elapsed_s, steps.stat().st_size


def at_steps(call: Callable[[], object], workspace: Path) -> Callable[[], None]:
    """Return what makes a process call something right before every step that changes files of the workspace."""
    root = os.fsencode(workspace)

    def seen(event: str, arguments: tuple[object, ...]) -> None:
        if event in STEPS and isinstance(arguments[0], str | bytes | Path):
            changes = event != "open" or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
            if changes and os.fsencode(arguments[0]).startswith(root):
                call()

    return lambda: sys.addaudithook(seen)


def wrong(study: Study, reference: dict[str, str], before: dict[str, tuple[int, int]]) -> str:
    """Say what a fault has spoiled: a file that is not as without it, or one that was finished and is no more."""
    now = places(study.workspace)
    lost = [name for name, place in before.items() if now.get(name) != place]
    if lost:
        return f"finished before, and lost or made again: {lost[:3]}"
    other = [name for name, sha256 in contents(study.workspace).items() if reference.get(name) != sha256]
    return f"there, and not as without a fault: {other[:3]}" if other else ""


def mended(study: Study, reference: dict[str, str]) -> str:
    """Run undisturbed; say what is then not as it would be without faults."""
    ended = cmon("run", str(study.config), log=study.log)
    if ended.code or ended.complaint():
        return f"the next run ends with {ended.code}: {ended.err[-300:]}"
    found = contents(study.workspace)
    other = sorted(name for name in found.keys() | reference.keys() if found.get(name) != reference.get(name))
    if other:
        return f"after the next run, not as without faults: {other[:3]}"
    left = leftovers(study.workspace)
    return f"after the next run there is {left[:3]}" if left else ""
