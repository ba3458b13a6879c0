"""A small study of all four stages: a set laid out like Broden, two runs, both kinds of detector."""

import hashlib
import os
import shutil
from pathlib import Path

IMAGES, SIDE = 24, 16
WORDS = ("red", "blue", "dog", "wheel", "sky", "wood")
STAGES = ("activations", "dissect", "embed", "report")
COMMANDS = ("run", *STAGES)
# What each stage leaves in the workspace.
MAKES = {
    "activations": ("evidence.h5", "activations", "counts", "cache"),
    "dissect": ("similarity",),
    "embed": ("embedding", "matches.h5"),
    "report": ("report",),
}
# Where it is noted who made a file, when, and in how many seconds, and when files were last changed.
NOTED = ("provenance", "hashes.json")
MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.second = nn.Conv2d(6, width, 3)

    def forward(self, x):
        return self.second(torch.relu_(self.first(x)))


def build(width=8):
    return Net(width)
"""
CONFIG = """
workspace = "work"

[probe]
kind = "broden"
path = "broden"

[encoder]
kind = "features"
image_features = "image_features.npy"
images = "images.txt"
concept_features = "concept_features.npy"
concepts = "concepts.txt"

[[run]]
name = "plain"
checkpoints = "runs/plain/*.pt"
model = "net.py:build"
layers = ["first", "second"]
start = "same"
metrics = "metrics.csv"
baseline = "random-init"
baseline_seeds = 1

[[run]]
name = "other"
checkpoints = "runs/other/*.pt"
model = "net.py:build"
layers = ["first", "second"]
start = "same"

[activations]
quantile = 0.05

[[detector]]
kind = "clip_dissect"
similarity = "soft_wpmi"
top_k = 5

[[detector]]
kind = "network_dissection"
tau = 0.05

[statistics]
permutations = 5
resamples = 3

[embed]
top_k = 3
anchors = ["dog", "sky"]
projection = "pca"

[report]
figures = ["categories", "compare_units"]
formats = ["png"]
dpi = 50
"""
LABELS = """number,name,category,frequency,coverage,syns
1,red-c,color(9),9,1,
2,blue-c,color(9),9,1,
3,dog,object(9),9,1,
300,wheel,part(9);object(9),9,1,
5,sky-s,scene(6),6,1,
6,wood,material(5),5,1,
"""


class Study:
    """The study's files, in a folder that also holds all that must not be touched.

    Args:
        sandbox: the outermost folder.
    """

    def __init__(self, sandbox: Path) -> None:
        self.sandbox = sandbox
        self.folder = sandbox / "one" / "two" / "study"
        self.config = self.folder / "study.toml"
        self.workspace = self.folder / "work"
        self.finished = sandbox / "finished"
        self.canary = sandbox / "canary"
        self.log = sandbox / "log"

    def edit(self, old: str, new: str) -> None:
        """Put a text of the config in the place of the first that is there."""
        text = self.config.read_text(encoding="utf-8")
        assert old in text, old
        self.config.write_text(text.replace(old, new, 1), encoding="utf-8")

    def checkpoint(self, name: str = "epoch_2") -> Path:
        """Return the file of one checkpoint of the run plain."""
        return self.folder / "runs" / "plain" / f"{name}.pt"

    def clear(self) -> None:
        """Empty the workspace."""
        self.workspace.mkdir(exist_ok=True)
        for path in self.workspace.iterdir():
            remove(path)

    def begin(self, command: str) -> None:
        """Leave in the workspace what a command begins with: what earlier stages made in an undisturbed run."""
        self.clear()
        shutil.copytree(self.finished, self.workspace, dirs_exist_ok=True)
        for name in made_by(command):
            remove(self.workspace / name)


def made_by(command: str, alone: bool = False) -> list[str]:
    """Name the files and folders of the workspace that a command makes, or it and all stages after it."""
    first = STAGES.index(command) if command in STAGES else 0
    stages = STAGES[first : first + 1] if alone and command in STAGES else STAGES[first:]
    return [name for stage in stages for name in MAKES[stage]]


def remove(path: Path) -> None:
    """Delete a file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make(study: Study) -> None:
    """Write all inputs of the study."""
    import numpy as np
    from PIL import Image

    folder = study.folder
    images = folder / "broden" / "images"
    images.mkdir(parents=True)
    random = np.random.default_rng(7)
    rows = []
    names = [f"{number:02}.png" for number in range(IMAGES)]
    for number, name in enumerate(names):
        Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(images / name)
        cells = []
        for category, labels in {
            "color": (0, 1, 2),
            "object": (0, 3, 300),
            "part": (0, 300),
            "material": (0, 6),
        }.items():
            numbers = random.choice(labels, (SIDE // 2, SIDE // 2))
            mask = np.stack([numbers % 256, numbers // 256, 0 * numbers], axis=-1).astype(np.uint8)
            cells.append(f"{number:02}_{category}.png")
            Image.fromarray(mask).save(images / cells[-1])
        rows.append(
            f"{name},train,{SIDE},{SIDE},{SIDE // 2},{SIDE // 2},{','.join(cells)},{'5' if number % 4 else ''}\n"
        )
    (folder / "broden" / "index.csv").write_text(
        "image,split,ih,iw,sh,sw,color,object,part,material,scene\n" + "".join(rows)
    )
    (folder / "broden" / "label.csv").write_text(LABELS)
    np.save(folder / "image_features.npy", random.normal(size=(IMAGES, 16)).astype(np.float32))
    np.save(folder / "concept_features.npy", random.normal(size=(len(WORDS), 16)).astype(np.float32))
    (folder / "images.txt").write_text("\n".join(names))
    (folder / "concepts.txt").write_text("\n".join(WORDS))
    (folder / "metrics.csv").write_text("checkpoint,accuracy\nepoch_1,0.5\nepoch_2,0.6\n")
    (folder / "net.py").write_text(MODEL)
    study.config.write_text(CONFIG)
    for run, name, seed in (
        ("plain", "epoch_1", 1),
        ("plain", "epoch_2", 2),
        ("other", "epoch_1", 3),
        ("other", "epoch_2", 4),
    ):
        save_checkpoint(folder / "runs" / run / f"{name}.pt", seed)


def weights(seed: int) -> "dict[str, object]":
    """Draw the weights of one checkpoint."""
    import torch

    drawn = torch.Generator().manual_seed(seed)
    shapes = {"first.weight": (6, 3, 3, 3), "first.bias": (6,), "second.weight": (8, 6, 3, 3), "second.bias": (8,)}
    return {name: torch.randn(shape, generator=drawn) for name, shape in shapes.items()}


def save_checkpoint(path: Path, seed: int) -> None:
    """Save one checkpoint."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": weights(seed)}, path)


def contents(workspace: Path) -> dict[str, str]:
    """Hash all files that a study makes but what notes of their making, and what is hidden."""
    found = {}
    for path in sorted(workspace.rglob("*")):
        name = path.relative_to(workspace).as_posix()
        if path.is_file() and not any(
            part in NOTED or part.startswith(".") or part.endswith(".lock") for part in name.split("/")
        ):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def places(workspace: Path) -> dict[str, tuple[int, int]]:
    """Tell of all finished files which file of the disk each one is, and when it was written.

    A report is finished when its manifest is there, and a cache when its table is.
    """

    def finished(name: str) -> bool:
        path = workspace / name
        if name.startswith("cache/"):
            return path.with_suffix(".json").exists()
        return not name.startswith("report/") or (workspace / "report" / "manifest.json").exists()

    stats = {name: (workspace / name).stat() for name in contents(workspace) if finished(name)}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in stats.items()}


def leftovers(workspace: Path) -> list[str]:
    """List the temporary files."""
    return [str(path.relative_to(workspace)) for path in workspace.rglob(".*.tmp")]


def listing(sandbox: Path, leave_out: Path) -> dict[str, tuple[int, int, int]]:
    """Tell of every file and folder outside of one its kind, size and time."""
    found = {}
    for folder, below, files in os.walk(sandbox):
        below[:] = [name for name in below if Path(folder, name) != leave_out]
        for name in (*below, *files):
            status = Path(folder, name).lstat()
            size = 0 if name in below else status.st_size
            found[os.path.relpath(Path(folder, name), sandbox)] = (
                status.st_mode,
                size,
                0 if name in below else status.st_mtime_ns,
            )
    return found
