"""Inputs made to harm: no code of theirs runs, nothing is written elsewhere, and an end comes soon, in one line."""

import os
import random
import shutil
import time

from faulting import folders, pickles, probes, tensors, texts
from faulting.cases import Case
from faulting.running import cmon, forked
from faulting.study import Study, listing, remove
from faulting.tally import Tally

# Above what an ordinary run takes.
MOST_MIB = 600
LONGEST_S = 60


def cases() -> list[Case]:
    """List all hostile inputs."""
    return [case for module in (pickles, tensors, folders, probes, texts) for case in module.cases()]


def provoke(study: Study, ordinary_mib: float, number: int, draws: random.Random) -> list[Tally]:
    """Try hostile inputs, all or so many of them."""
    wanted = cases()
    wanted = wanted if number >= len(wanted) else draws.sample(wanted, number)
    tallies: dict[str, Tally] = {}
    pristine, log = study.sandbox / "pristine", study.log
    remove(study.workspace)
    shutil.copytree(study.folder, pristine)
    for case in wanted:
        kind = case.name.partition(":")[0]
        tally = tallies.setdefault(kind, Tally(f"hostile {kind}"))
        remove(study.folder)
        shutil.copytree(pristine, study.folder)
        spoiled = forked(lambda case=case: case.spoil(study), log)
        assert not spoiled.code, f"{case.name}: {spoiled.err}"
        age(study)
        tally.count(*tried(study, case, ordinary_mib))
    return list(tallies.values())


def age(study: Study) -> None:
    """Make all inputs an hour old: what has just been written might still be on its way."""
    then = time.time() - 3600
    for path in study.folder.rglob("*"):
        os.utime(path, (then, then), follow_symlinks=False)


def tried(study: Study, case: Case, ordinary_mib: float) -> tuple[str, str, str]:
    """Run one case; return what came of it, its name, and what is wrong with that."""
    before = listing(study.sandbox, study.workspace)
    log = study.log
    ended = cmon(case.words[0], str(study.config), *case.words[1:], log=log, longest_s=LONGEST_S)
    now = listing(study.sandbox, study.workspace)
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    changed = [name for name in changed if name not in ("log.out", "log.err")]
    complaint = ended.complaint(most_errors=3)
    if study.canary.exists():
        study.canary.unlink()
        complaint = "its code ran"
    elif changed:
        complaint = f"written outside of the workspace: {changed[:3]}"
    elif not complaint and ended.peak_mib > ordinary_mib + MOST_MIB:
        complaint = f"took {ended.peak_mib - ordinary_mib:.0f} MiB more than an ordinary run"
    elif not complaint and case.works and ended.code:
        complaint = f"did not work: {ended.err[-200:]}"
    came = {0: "worked"}.get(ended.code, "refused in one line" if len(ended.errors) == 1 else "refused in a few lines")
    return came, case.name, complaint
