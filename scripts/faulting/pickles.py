"""Checkpoints that would run code, if anything in them were called."""

import io
import os
import pickle
import pydoc
import runpy
import shutil
import subprocess
import timeit
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from faulting.cases import Case
from faulting.study import Study, weights


class Calls:
    """Unpickles by calling a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.call


def calls(canary: Path) -> dict[str, Calls]:
    """Return calls that leave a file, by name."""
    import numpy as np
    import torch

    path = str(canary)
    code = f"open({path!r}, 'w')"
    script = canary.with_name("script.py")
    return {
        "os.system": Calls(os.system, f"touch {path}"),
        "os.mkdir": Calls(os.mkdir, path),
        "builtins.eval": Calls(eval, code),
        "builtins.exec": Calls(exec, code),
        "io.open": Calls(open, path, "w"),
        "subprocess.call": Calls(subprocess.call, ["touch", path]),
        "subprocess.Popen": Calls(subprocess.Popen, ["touch", path]),
        "Path.touch": Calls(Path.touch, canary),
        "shutil.copy": Calls(shutil.copy, "/etc/hostname", path),
        "timeit.timeit": Calls(timeit.timeit, code, "pass"),
        "pydoc.pipepager": Calls(pydoc.pipepager, "", f"touch {path}"),
        "runpy.run_path": Calls(runpy.run_path, str(script)),
        "torch.hub": Calls(torch.hub.download_url_to_file, "file:///etc/hostname", path),
        "torch.save": Calls(torch.save, {}, path),
        "torch.load": Calls(torch.load, path),
        "numpy.save": Calls(np.save, path, [1]),
        "numpy.memmap": Calls(np.memmap, path, "uint8", "w+", 0, (1,)),
        "getattr": Calls(getattr, Calls(__import__, "os"), "system"),
        "an import": Calls(__import__, "antigravity"),
        "an OrderedDict's state": Calls(OrderedDict, state={"x": Calls(os.system, f"touch {path}")}),
        "a tensor's state": Calls(torch.nn.Parameter, Calls(os.system, f"touch {path}")),
    }


def put_zip(path: Path, value: Any) -> None:
    import torch

    torch.save({"state_dict": weights(2), "extra": value}, path)


def put_legacy(path: Path, value: Any) -> None:
    import torch

    torch.save({"state_dict": weights(2), "extra": value}, path, _use_new_zipfile_serialization=False)


def put_nested(path: Path, value: Any) -> None:
    import torch

    torch.save({"state_dict": {**weights(2), "deep": [{"deeper": (value,)}]}}, path)


def put_as_key(path: Path, value: Any) -> None:
    import torch

    torch.save({"state_dict": weights(2), ("a", value): 1}, path)


def put_raw(path: Path, value: Any) -> None:
    path.write_bytes(pickle.dumps(value, 2))


def put_old(path: Path, value: Any) -> None:
    path.write_bytes(pickle.dumps(value, 0))


def put_tar(path: Path, value: Any) -> None:
    import tarfile

    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            data = pickle.dumps(value, 2)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def put_compressed(path: Path, value: Any) -> None:
    repacked(path, value, zipfile.ZIP_DEFLATED)


def put_twice(path: Path, value: Any) -> None:
    """Put a harmless pickle first, and a second one of its name."""
    repacked(path, 1, zipfile.ZIP_STORED)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("epoch_2/data.pkl", pickle.dumps(value, 2))


def put_torchscript(path: Path, value: Any) -> None:
    """Dress it as an archive of TorchScript, which holds code of its own."""
    repacked(path, value, zipfile.ZIP_STORED)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("epoch_2/constants.pkl", pickle.dumps(value, 2))
        archive.writestr("epoch_2/code/__torch__.py", "import os\nos.system('touch canary')\n")


def repacked(path: Path, value: Any, method: int) -> None:
    """Save a value, and write its archive again with a compression."""
    put_zip(path, value)
    with zipfile.ZipFile(path) as saved:
        records = {entry.filename: saved.read(entry) for entry in saved.infolist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in records.items():
            archive.writestr(name, data)


PUTS = (
    put_zip,
    put_legacy,
    put_nested,
    put_as_key,
    put_raw,
    put_old,
    put_tar,
    put_compressed,
    put_twice,
    put_torchscript,
)


def cases() -> Iterator[Case]:
    """Yield every call in two formats, so that every format has some, and one call in all."""
    names = list(calls(Path("canary")))
    pairs = [
        (name, put) for k, name in enumerate(names) for put in {PUTS[k % len(PUTS)], PUTS[(3 * k + 1) % len(PUTS)]}
    ]
    pairs += [("os.system", put) for put in PUTS]
    for name, put in sorted(set(pairs), key=lambda pair: (pair[0], pair[1].__name__)):
        spoil = lambda study, name=name, put=put: put(study.checkpoint(), calls(study.canary)[name])  # noqa: E731
        yield Case(f"pickle: {name}, {put.__name__.removeprefix('put_')}", spoil)
    yield Case("pickle: masks that run code", with_masks)
    yield Case("pickle: features that run code", with_features)


def with_masks(study: Study) -> None:
    put_zip(study.folder / "masks.pt", calls(study.canary)["os.system"])
    study.edit('start = "same"', 'start = "same"\nmasks = "masks.pt"')


def with_features(study: Study) -> None:
    import numpy as np

    values = np.array([calls(study.canary)["os.system"]], dtype=object)
    np.save(study.folder / "image_features.npy", values, allow_pickle=True)
