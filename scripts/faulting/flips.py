"""A damaged byte in any file of the workspace: found, rebuilt, or without effect on any number.

Each trial spoils one file of a finished study, asks for its status, and makes the next stage read it. What this stage
then makes must be as without the damage, unless it refuses in one line.
"""

import random
import shutil
from pathlib import Path

from faulting.running import cmon, forked
from faulting.study import Study, contents
from faulting.tally import Tally

# kind of file -> where such files lie, and the stage that reads them
KINDS = {
    "activations": ("activations/*/*.h5", "dissect"),
    "counts": ("counts/*/*.h5", "dissect"),
    "evidence": ("evidence.h5", "dissect"),
    "similarity": ("similarity/*/*/*.h5", "embed"),
    "embedding": ("embedding/*.h5", "report"),
    "matches": ("matches.h5", "report"),
    "pixels": ("cache/pixels/*", "activations"),
    "masks": ("cache/masks/*", "activations"),
    "hashes": ("cache/hashes.json", "activations"),
    "report": ("report/manifest.json", "report"),
    "provenance": ("provenance/activations/*/*.json", "report"),
}


def flip(study: Study, reference: dict[str, str], number: int, draws: random.Random) -> list[Tally]:
    """Damage so many files, of all kinds in turn."""
    tallies = {kind: Tally(f"damaged {kind}") for kind in list(KINDS)[:number]}
    for trial in range(number):
        kind = list(KINDS)[trial % len(KINDS)]
        pattern, stage = KINDS[kind]
        study.clear()
        shutil.copytree(study.finished, study.workspace, dirs_exist_ok=True)
        path = draws.choice(sorted(study.workspace.glob(pattern)))
        what = spoil(path, draws)
        came, complaint = judged(study, reference, path, stage)
        tallies[kind].count(came, f"{path.relative_to(study.workspace)}: {what}", complaint)
    return list(tallies.values())


def spoil(path: Path, draws: random.Random) -> str:
    """Damage a file as disks and copies do, mostly by one flipped bit; return what was done."""
    data = bytearray(path.read_bytes())
    place = draws.randrange(len(data))
    damage = draws.choice(("bit", "bit", "bit", "byte", "zeros", "cut"))
    if damage == "bit":
        data[place] ^= 1 << draws.randrange(8)
    elif damage == "byte":
        data[place] ^= draws.randrange(1, 256)
    elif damage == "zeros":
        data[place : place + 512] = bytes(len(data[place : place + 512]))
    else:
        del data[place:]
    path.write_bytes(data)
    return f"{damage} at {place}"


def judged(study: Study, reference: dict[str, str], path: Path, stage: str) -> tuple[str, str]:
    """Read a damaged file as cmon does; return what came of it, and what is wrong with that."""
    log, name = study.log, path.relative_to(study.workspace).as_posix()
    status = cmon("status", str(study.config), log=log)
    if status.code != 3 and status.complaint():
        return "wrong", f"status: {status.complaint()}"
    seen = status.code == 3
    if path.suffix == ".h5" and not seen:
        compared = forked(lambda: print(comparison(path, study.finished / name)), log)
        if compared.complaint() or compared.out.strip() not in ("equal", "refused"):
            return "wrong", f"reading: {compared.complaint() or compared.out}"
    ended = cmon("run", str(study.config), log=log) if seen else cmon(stage, str(study.config), "--force", log=log)
    if ended.complaint():
        return "wrong", f"{stage}: {ended.complaint()}"
    if ended.code:
        return "refused in one line", ""
    found = contents(study.workspace)
    other = sorted(key for key in found.keys() | reference.keys() if found.get(key) != reference.get(key))
    if not seen and name in other:
        other.remove(name)
    return "seen and made again" if seen else "no number changed", f"other results: {other[:3]}" if other else ""


def comparison(damaged: Path, whole: Path) -> str:
    """Read all that two files hold; say whether it is equal, or refused, or which part is another one."""
    import h5py
    import numpy as np

    from cmon.errors import StoreError
    from cmon.h5 import open_file, read_attribute

    def everything(path: Path) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}

        def take(key: str, item: h5py.Group | h5py.Dataset) -> None:
            found.update({f"{key}.{name}": np.asarray(value) for name, value in item.attrs.items()})
            if isinstance(item, h5py.Dataset):
                found[key] = item[()]

        with open_file(path, kind) as file:
            take("", file)
            file.visititems(take)
        return found

    with h5py.File(whole) as file:
        kind = read_attribute(file, "kind")
    expected = everything(whole)
    try:
        found = everything(damaged)
    except StoreError:
        return "refused"
    keys = found.keys() | expected.keys()
    other = [key for key in keys if key not in found or key not in expected]
    other += [key for key in keys - set(other) if found[key].tobytes() != expected[key].tobytes()]
    return f"other values in {sorted(other)[:3]}" if other else "equal"
