"""A tiny study in a folder of the test's own, and the command line on it, in this process or in one of its own."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import pytest
from faulting.study import MODEL

from cmon.checkpoints import unfinished

# No example is timed: these machines are shared, and a slow moment is no mistake. Equal runs try equal examples.
hypothesis.settings.register_profile("cmon", deadline=None, derandomize=True)
hypothesis.settings.load_profile("cmon")

# A shell starts what runs in its background with SIGINT ignored, and so would be what tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

IMAGES = 24
WORDS = ("stripe", "dot", "wood", "stone", "dog", "cat", "car", "sky", "sea", "red", "green", "blue")


class Result(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error:")]

    @property
    def hints(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("hint:")]

    def fails(self, code: int, *words: str) -> None:
        """Hold that it failed in one line that says all the words, and without a traceback."""
        assert self.code == code, self.err
        assert len(self.errors) == 1, self.err
        assert len(self.hints) <= 1, self.err
        assert "Traceback" not in self.err, self.err
        told = "\n".join(self.errors + self.hints)
        for word in words:
            assert word in told, told


class TinyStudy:
    """A config, its inputs and its workspace, all in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "study.toml"
        self.workspace = folder / "work"
        self.tables: dict[str, Any] = tables()

    def edit(self, table: str, **values: Any) -> None:
        """Set keys of a table; of the first one where there are several."""
        found = self.tables.setdefault(table, {})
        (found[0] if isinstance(found, list) else found).update(values)
        self.config.write_text(toml(self.tables), encoding="utf-8")

    def checkpoint(self, name: str, run: str = "runs") -> Path:
        return self.folder / run / f"{name}.pt"

    def cmon(self, *words: str) -> Result:
        """Run a command on the study in this process."""
        return cmon(words[0], str(self.config), *words[1:])

    def spawn(self, *words: str, **environment: str) -> "subprocess.Popen[str]":
        """Start a command on the study in a process of its own."""
        command = [sys.executable, "-m", "cmon", words[0], str(self.config), *words[1:]]
        everything = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        return subprocess.Popen(command, text=True, env=everything, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def files(self) -> dict[str, tuple[int, int]]:
        """Identify every file of the workspace by inode and time, but for what is no result and only helps or tells."""
        aside = [self.workspace / "provenance", *self.workspace.glob("cache/*.*")]
        found = sorted(
            path for path in self.workspace.rglob("*") if path.is_file() and not {*path.parents, path} & {*aside}
        )
        return {
            path.relative_to(self.workspace).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found
        }

    def changed(self, before: dict[str, tuple[int, int]]) -> set[str]:
        """Name the files that are not what they were: new, made again, or gone."""
        now = self.files()
        return {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}

    def leftovers(self) -> list[Path]:
        """List the temporary files."""
        return [path for path in self.workspace.rglob("*") if path.name.startswith(".")]

    def stores(self) -> dict[str, bytes]:
        """Return the bytes of all HDF5 files by their place."""
        return {path.relative_to(self.workspace).as_posix(): path.read_bytes() for path in self.workspace.rglob("*.h5")}

    def datasets(self, name: str) -> dict[str, Any]:
        """Read all datasets of one file but its provenance."""
        import h5py

        found: dict[str, Any] = {}
        with h5py.File(self.workspace / name, "r") as file:
            file.visititems(lambda key, item: found.update({key: item[()]}) if hasattr(item, "shape") else None)
        del found["provenance"]
        return found


def cmon(*words: str) -> Result:
    """Run the command line in this process."""
    from cmon.cli import main

    out, err, argv, hook = io.StringIO(), io.StringIO(), sys.argv, sys.unraisablehook
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM)
    handlers = {number: signal.getsignal(number) for number in signals}
    sys.argv = ["cmon", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
            main()
    finally:
        sys.argv, sys.unraisablehook = argv, hook
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Result(left.value.code, out.getvalue(), err.getvalue())


def tables() -> dict[str, Any]:
    """Return the tiny study's config."""
    return {
        "workspace": "work",
        "probe": {"path": "images"},
        "encoder": {
            "kind": "features",
            "image_features": "image_features.npy",
            "images": "images.txt",
            "concept_features": "concept_features.npy",
            "concepts": "concepts.txt",
        },
        "run": [{"name": "plain", "checkpoints": "runs/*.pt", "model": "net.py:build", "layers": ["first", "second"]}],
        "activations": {"pooling": "mean"},
        "detector": [{"kind": "clip_dissect", "similarity": "soft_wpmi", "top_k": 5}],
        "embed": {"top_k": 3, "anchors": ["dog", "sky"], "projection": "pca"},
        "report": {"figures": ["categories"], "formats": ["png"], "dpi": 50},
    }


def toml(tables: dict[str, Any]) -> str:
    """Write tables as TOML: JSON's strings, numbers and lists are TOML's."""
    lines: list[str] = []
    for name, value in sorted(tables.items(), key=lambda item: isinstance(item[1], dict | list)):
        for table in value if isinstance(value, list) else [value]:
            if not isinstance(table, dict):
                lines.append(f"{name} = {_value(table)}")
                continue
            lines.append(f"[[{name}]]" if isinstance(value, list) else f"[{name}]")
            lines += [f"{key} = {_value(held)}" for key, held in table.items()]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_value(held)}" for key, held in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def save_checkpoint(path: Path, seed: int, **content: Any) -> None:
    """Save weights that the seed decides, with what else the checkpoint says of itself."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    shapes = {"first.weight": (6, 3, 3, 3), "first.bias": (6,), "second.weight": (8, 6, 3, 3), "second.bias": (8,)}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    path.parent.mkdir(exist_ok=True)
    torch.save({**content, "state_dict": weights}, path)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the tiny study's inputs once."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("prepared")
    numbers = np.random.default_rng(7)
    (folder / "images").mkdir()
    names = [f"{number:02}.png" for number in range(IMAGES)]
    for name in names:
        pixels = numbers.integers(0, 256, (16, 16, 3), dtype=np.uint8) // numbers.integers(1, 9, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name)
    np.save(folder / "image_features.npy", numbers.normal(size=(IMAGES, 16)).astype(np.float32))
    np.save(folder / "concept_features.npy", numbers.normal(size=(len(WORDS), 16)).astype(np.float32))
    (folder / "images.txt").write_text("\n".join(names))
    (folder / "concepts.txt").write_text("\n".join(WORDS))
    (folder / "net.py").write_text(MODEL)
    for epoch in (1, 2, 3):
        save_checkpoint(folder / "runs" / f"epoch_{epoch}.pt", seed=epoch, epoch=epoch)
    (folder / "study.toml").write_text(toml(tables()))
    return folder


@pytest.fixture(scope="session")
def done(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the tiny study once."""
    folder = tmp_path_factory.mktemp("done") / "study"
    shutil.copytree(prepared, folder)
    result = TinyStudy(folder).cmon("run")
    assert result.code == 0, result.err
    return folder


@pytest.fixture(autouse=True)
def _no_long_look_at_what_could_still_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests spoil checkpoints that are seconds old, and do not go on writing them."""
    monkeypatch.setattr(unfinished, "WATCH_S", 0.0)
    monkeypatch.setattr(unfinished, "LAST_S", 0.0)


@pytest.fixture
def study(prepared: Path, tmp_path: Path) -> TinyStudy:
    """Return a tiny study of which nothing is made yet."""
    return TinyStudy(Path(shutil.copytree(prepared, tmp_path / "study")))


@pytest.fixture
def finished(done: Path, tmp_path: Path) -> TinyStudy:
    """Return a tiny study of which all is made."""
    return TinyStudy(Path(shutil.copytree(done, tmp_path / "finished")))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 64 KiB; skip where that is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    mounted = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True)
    if not mounted or mounted.returncode:
        pytest.skip("no right to mount a small file system")
    yield place
    subprocess.run(["umount", place], check=True)
