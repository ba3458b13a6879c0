"""What real libraries leave is found, named, ordered, and loaded so that the network sees the same to the last bit."""

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from real_files import CONVNEXT, RESNET, VIT, look

from cmon.checkpoints import discover, load_into, read_checkpoint, resolve_steps
from cmon.checkpoints.repeats import set_aside
from cmon.config import Run
from cmon.errors import CheckpointError
from cmon.fingerprint import HashMemory
from cmon.models import build_model, saved_names

TESTS = Path(__file__).parent
# What is trained by one process, since to import a library takes longer than to train with it.
TOGETHER = {"small": ("timm", "torchvision", "accelerate", "plain")}
OPTIONAL = ("lightning", "transformers", "accelerate")
LONGEST_S = 300


def real(library, tmp_path_factory):
    """Return the folder of what one library left, which the first of all workers that asks makes for all."""
    if library in OPTIONAL and find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    place = tmp_path_factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place
    group = next((name for name, held in TOGETHER.items() if library in held), library)
    folder, told = place / f"real_{group}", place / f"real_{group}.txt"
    try:
        folder.mkdir()
    except FileExistsError:
        waited_until = time.monotonic() + LONGEST_S
        while not told.exists() and time.monotonic() < waited_until:
            time.sleep(0.2)
    else:
        installed = [name for name in TOGETHER.get(group, (group,)) if name not in OPTIONAL or find_spec(name)]
        command = [sys.executable, TESTS / "real_files.py", folder, *installed]
        # Where a cluster's job runs the tests, Lightning would take its processes for the training's.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
        environment["OMP_NUM_THREADS"] = "1"
        made = subprocess.run(command, capture_output=True, text=True, env=environment)
        told.with_suffix(".part").write_text(made.stderr if made.returncode else "")
        told.with_suffix(".part").rename(told)
    assert told.read_text() == ""
    return folder / library


class Left(NamedTuple):
    """What is expected of what one training left.

    Args:
        library: and run, the folder.
        network: (source, arguments) for cmon.
        steps: name -> (step, what the training remembers it by), in order.
        aside: what is no checkpoint of its own, and a word of why.
        within: the folder of the run that the config names.
        which: "raw" or "ema".
        trust: with --trust-pickle.
    """

    library: str
    run: str
    network: tuple[str, dict]
    steps: dict[str, tuple[int, object]]
    aside: dict[str, str] = {}  # noqa: RUF012
    within: str = ""
    which: str = "raw"
    trust: bool = False


def of_timm(kind):
    return f"timm:{kind[0]}", kind[1]


def same(names):
    """Say that names are copies of others."""
    return dict.fromkeys(names, "holds the same weights as")


CONV, VISION, NET = of_timm(CONVNEXT), of_timm(VIT), of_timm(RESNET)
OWN = f"{TESTS / 'odd_network.py'}:build", {}
HUGGING = "transformers:", {}
EPOCHS = {"epoch=0-step=2": (0, 2), "epoch=1-step=4": (1, 4)}
TRAINER = {"checkpoint-2": (2, 2), "checkpoint-4": (4, 4)}
TIMM = {f"checkpoint-{epoch}": (epoch, epoch) for epoch in (1, 2, 3)}
TIMM_ASIDE = {**same(["last", "model_best"]), **dict.fromkeys(["recovery-2-7", "recovery-3-7"], "middle of an epoch")}
REFERENCES = {f"model_{epoch}": (epoch, epoch) for epoch in range(3)}
PLAIN = {"epoch_0": (0, 0), "epoch_1": (1, 1)}


def averaged(steps):
    return {name: (step, f"{key} ema") for name, (step, key) in steps.items()}


ALL = [
    Left("lightning", "epochs", CONV, {**EPOCHS, "epoch=2-step=6": (2, 6)}, same(["last"])),
    Left(
        "lightning",
        "steps",
        VISION,
        {f"epoch={epoch}-step={step}": (step, step) for epoch, step in ((0, 1), (0, 2), (1, 3), (1, 4))},
        same(["last"]),
    ),
    Left("lightning", "again", NET, {"epoch=0": (0, 2)}, same(["epoch=0-v1"])),
    Left("lightning", "best", NET, EPOCHS, same(["best"])),
    Left("lightning", "compiled", VISION, EPOCHS),
    Left("lightning", "compiled_whole", VISION, EPOCHS),
    Left("lightning", "averaged", NET, EPOCHS),
    Left("lightning", "averaged", NET, averaged(EPOCHS), which="ema"),
    Left("lightning", "weights_only", NET, EPOCHS),
    Left("lightning", "sharding", NET, EPOCHS, same(["last"])),
    Left("lightning", "unasked", NET, {"epoch=1-step=4": (1, 4)}),
    Left("lightning", "unasked", NET, {"epoch=1-step=4": (1, 4)}, within="lightning_logs/version_0"),
    Left("timm", "timm", NET, TIMM, TIMM_ASIDE),
    Left("timm", "timm", NET, averaged(TIMM), TIMM_ASIDE, which="ema"),
    Left("torchvision", "references", NET, REFERENCES, same(["checkpoint"])),
    Left("torchvision", "references", NET, averaged(REFERENCES), same(["checkpoint"]), which="ema"),
    Left("transformers", "trainer", HUGGING, TRAINER, same(["model"])),
    Left("transformers", "best", HUGGING, TRAINER, same(["model"])),
    Left("transformers", "sharded", HUGGING, TRAINER),
    Left("transformers", "binary", HUGGING, TRAINER),
    Left("accelerate", "numbered", NET, {f"checkpoint_{epoch}": (epoch, epoch) for epoch in range(3)}),
    Left("accelerate", "named", NET, {f"epoch_{epoch}": (epoch, epoch) for epoch in range(3)}),
    Left("accelerate", "binary", NET, {"step_2": (2, 2)}),
    Left("accelerate", "numbered_final", NET, {"numbered_final": (0, 2)}),
    Left("accelerate", "named_final", NET, {"named_final": (0, 2)}),
    *(
        Left("plain", run, NET, PLAIN)
        for run in ("parallel", "compiled", "parallel_compiled", "compiled_parallel", "traced", "exported", "pruned")
    ),
    Left("plain", "distributed", NET, {"step_0": (0, 0), "step_1": (1, 1)}),
    Left("plain", "scripted", OWN, PLAIN),
    Left("plain", "whole", OWN, PLAIN, trust=True),
    Left("plain", "whole_own", OWN, PLAIN, trust=True),
    Left("parallel", "parallel", OWN, {"step_5": (5, 5), "step_10": (10, 10)}),
    Left("parallel", "accelerate_parallel", OWN, {"checkpoint_5": (5, 5), "checkpoint_10": (10, 10)}),
]


@pytest.fixture(autouse=True)
def _one_thread():
    """Sum up in the order in which the training did."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "left", ALL, ids=lambda left: f"{left.library}-{left.run}-{left.which}{left.within and '-within'}"
)
def test_what_a_training_left_is_read_as_it_is(left, tmp_path, tmp_path_factory):
    folder = real(left.library, tmp_path_factory)
    source, arguments = left.network
    if source == "transformers:":
        source += str(folder / left.run / "checkpoint-2")
    run = Run(name="a", checkpoints=folder / left.run / left.within, model=source, layers=["*"], weights=left.which)
    memory = HashMemory(tmp_path / "hashes.json")
    found = discover(run)
    aside = set_aside(run, found, memory)
    assert aside.keys() == left.aside.keys()
    assert all(left.aside[name] in reason for name, reason in aside.items())
    counted = [file for file in found if file.name not in aside]
    weights = [read_checkpoint(file.path, None, left.which, left.trust) for file in counted]
    steps = resolve_steps(run, [file.name for file in counted], [held.steps for held in weights])
    named = {file.name: step for file, step in zip(counted, steps, strict=True)}
    assert [*named.items()] == [(name, step) for name, (step, _) in left.steps.items()]
    seen = torch.load(folder / "seen.pt")[left.run]
    model, before = build_model(source, arguments), None
    for file, held in zip(counted, weights, strict=True):
        assert load_into(model, held, file.path, saved_as=saved_names(model)) == ()
        expected = seen[left.steps[file.name][1]]
        features = look(model, *expected)
        assert features and all(torch.equal(features[name], value) for name, value in expected.items()), file.name
        first = features[next(iter(expected))]
        assert before is None or not torch.equal(first, before)  # or any other step's would do
        before = first


def test_a_whole_module_is_read_only_where_it_is_trusted(tmp_path_factory):
    folder = real("plain", tmp_path_factory)
    for run, kind in (("whole", "odd_network.Net"), ("whole_own", "__main__.Own")):
        with pytest.raises(CheckpointError, match=kind) as raised:
            read_checkpoint(folder / run / "epoch_0.pt", None, "raw", False)
        assert "--trust-pickle" in raised.value.hint


@pytest.mark.parametrize("which", ["raw", "ema"])
def test_a_study_of_what_timm_left_tells_what_it_does_not_count(study, tmp_path_factory, which):
    place = real("timm", tmp_path_factory) / "timm"
    study.edit("run", checkpoints=str(place), model="timm:test_resnet", model_args=RESNET[1], layers=["layer2"])
    study.edit("run", weights=which)
    result = study.cmon("activations")
    assert result.code == 0, result.err
    made = sorted(file.name for file in (study.workspace / "activations" / "plain").glob("*.h5"))
    assert made == ["checkpoint-1.h5", "checkpoint-2.h5", "checkpoint-3.h5"]
    for name in TIMM_ASIDE:
        assert f"{place / name}.pth.tar" in result.err
    status = study.cmon("status")
    assert "holds the same weights as checkpoint-3" in status.out + status.err
