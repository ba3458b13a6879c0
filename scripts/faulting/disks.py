"""A disk that fills up in the middle of a stage: one line, nothing by half, and the rest once there is room."""

import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from faulting.kills import mended, wrong
from faulting.running import cmon
from faulting.study import COMMANDS, Study, leftovers, made_by, places
from faulting.tally import Tally

ROOMY = "64m"
PAGE = 4096


def fill(study: Study, reference: dict[str, str], number: int, draws: random.Random) -> list[Tally]:
    """Fill a disk so often, in all four stages in one and in each, at any share of what they write."""
    tallies = {stage: Tally(f"full disk, {stage}") for stage in COMMANDS[:number]}
    with small_disk(study.workspace) as resize:
        for tally in tallies.values():
            tally.skipped = "" if resize else "no right to mount a small file system"
        for k in range(number if resize else 0):
            share, stage = draws.random(), COMMANDS[k % len(COMMANDS)]
            complaint, came = trial(study, reference, stage, share, resize)
            tallies[stage].count(came, f"room for a share of {share:.3f}", complaint)
    return list(tallies.values())


def trial(
    study: Study, reference: dict[str, str], command: str, share: float, resize: Callable[[str], None]
) -> tuple[str, str]:
    """Leave a command room for a share of what it writes; return what is wrong, and what came of it."""
    resize(ROOMY)
    study.begin(command)
    start, before = shutil.disk_usage(study.workspace).used, places(study.workspace)
    made = [
        path
        for name in made_by(command, alone=True)
        for path in (study.finished / name, *(study.finished / name).rglob("*"))
    ]
    pages = sum(-(-path.stat().st_size // PAGE) for path in made if path.is_file())
    resize(str(start + PAGE * (1 + int(share * pages))))
    ended = cmon(command, str(study.config), log=study.log)
    complaint = ended.complaint() or wrong(study, reference, before)
    if not complaint and leftovers(study.workspace):
        complaint = f"leaves {leftovers(study.workspace)[:3]}"
    if not complaint and ended.code and "No space left" not in ended.err:
        complaint = f"says {ended.err[-200:]}"
    resize(ROOMY)
    came = {0: "had room enough", 1: "one line"}.get(ended.code, f"exit code {ended.code}")
    return complaint or mended(study, reference), came


@contextmanager
def small_disk(place: Path) -> Iterator[Callable[[str], None] | None]:
    """Mount a file system, and yield what sets its size; None where that is not allowed."""
    place.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOMY}", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        yield None
        return

    def resize(size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", str(place)], check=True)
