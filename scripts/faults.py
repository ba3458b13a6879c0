"""Try deliberate faults on a small study, and count what was lost: nothing may be.

    python scripts/faults.py                             # a bounded number of each kind, about 12 minutes
    python scripts/faults.py --kills 300 --disks 50 --flips 200 --hostile 1000
    python scripts/faults.py --only hostile --hostile 1000

Kills: SIGKILL at any moment of any stage. Disks: one that is full after a part of what a stage writes (takes the
right to mount). Flips: a damaged byte in any file of the workspace. Hostile: checkpoints, images, archives, arrays,
tables, configs and names that were made to run code, to fill the memory, to hang, or to be written elsewhere. What
each kind holds cmon to stands in its file of `faulting/`. Equal seeds try equal faults, but for the times of kills.
Exits with 1 where something was lost or wrong. Linux only.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

# Before numpy is imported, which starts its threads at once: a process that has several cannot be forked.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

from faulting import disks, flips, hostile, kills
from faulting.running import cmon, forked, warm
from faulting.study import Study, contents, make
from faulting.tally import Tally, table

KINDS = ("kills", "disks", "flips", "hostile")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of commands")
    parser.add_argument("--disks", type=int, default=20, help="that are full")
    parser.add_argument("--flips", type=int, default=100, help="of bits and bytes")
    parser.add_argument("--hostile", type=int, default=200, help=f"inputs, of {len(hostile.cases())}")
    parser.add_argument("--only", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path("build/faults.json"), help="where all counts go")
    arguments = parser.parse_args()
    warm()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as sandbox:
        tallies = tried(Study(Path(sandbox)), arguments)
    print(table(tallies))
    print(f"{sum(tally.tried for tally in tallies)} faults in {time.monotonic() - start:.0f} s")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps([vars(tally) for tally in tallies], indent=2))
    return int(any(tally.wrong for tally in tallies))


def tried(study: Study, arguments: argparse.Namespace) -> list[Tally]:
    """Make the study, run it undisturbed, and then under faults of every kind that is asked for."""
    made = forked(lambda: make(study), study.log)
    assert not made.code, made.err
    undisturbed = cmon("run", str(study.config), log=study.log)
    assert not undisturbed.code, undisturbed.err
    reference = contents(study.workspace)
    shutil.copytree(study.workspace, study.finished)
    found: list[Tally] = []
    for kind in arguments.only:
        draws = random.Random(arguments.seed)
        print(f"{kind} ...", file=sys.stderr, flush=True)
        if kind == "kills":
            found += kills.kill(study, reference, arguments.kills, draws)
        elif kind == "disks":
            found += disks.fill(study, reference, arguments.disks, draws)
        elif kind == "flips":
            found += flips.flip(study, reference, arguments.flips, draws)
        else:
            found += hostile.provoke(study, undisturbed.peak_mib, arguments.hostile, draws)
    return found


if __name__ == "__main__":
    sys.exit(main())
