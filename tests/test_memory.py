"""Batches that are too large for the memory are halved, and nothing after the last recorded layer is computed."""

import numpy as np
import pytest
import torch
from torch import nn

from cmon.errors import ModelError
from cmon.recording import MemoryShortageError, Recorder

# As the tiny study's network, with room for five images at a time.
SMALL_ROOM = """
import torch
from net import Net

class Short(Net):
    def forward(self, x):
        maps = self.first(x)
        if len(x) > {room}:
            raise {error}
        return self.second(torch.relu_(maps))

def build():
    return Short(8)
"""
ERRORS = {
    "gpu": 'torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")',
    "cpu": 'RuntimeError("DefaultCPUAllocator: can\'t allocate memory: you tried to allocate 9 bytes")',
    "python": "MemoryError()",
}


def crowd(study, room, error="python"):
    (study.folder / "short.py").write_text(SMALL_ROOM.format(room=room, error=ERRORS[error]))
    study.edit("run", model="short.py:build")


@pytest.mark.parametrize("error", ERRORS)
def test_the_batch_is_halved_until_it_fits_and_a_line_says_so(study, finished, monkeypatch, error):
    monkeypatch.syspath_prepend(study.folder)
    crowd(study, room=6, error=error)
    result = study.cmon("activations")
    assert result.code == 0, result.err
    said = [line for line in result.err.splitlines() if "out of memory" in line]
    # 32 images are asked for and 24 are there; from then on all checkpoints begin with what did.
    assert said == [f"out of memory with {n} images at a time: {n // 2} from here on" for n in (32, 16, 8)]
    for name in ("epoch_1", "epoch_3"):
        one, other = (which.datasets(f"activations/plain/{name}.h5") for which in (study, finished))
        for layer in ("first", "second"):
            np.testing.assert_allclose(one[f"layers/{layer}/mean"], other[f"layers/{layer}/mean"], rtol=1e-5, atol=1e-6)


def test_no_room_for_a_single_image_is_an_error_that_says_so(study, monkeypatch):
    monkeypatch.syspath_prepend(study.folder)
    crowd(study, room=0)
    study.cmon("activations").fails(2, "out of memory with 1 images at a time", "preprocess")


def test_a_shortage_outside_of_the_model_counts_too():
    def batches():
        yield torch.zeros(2, 3, 4, 4)
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MemoryShortageError, match="out of memory with 2 images"):
        Recorder(("0",))(nn.Sequential(nn.Conv2d(3, 2, 1)).eval(), batches(), 4)


def test_another_runtime_error_outside_of_the_model_is_no_shortage():
    def batches():
        yield torch.zeros(2, 3, 4, 4)
        raise RuntimeError("the cache is damaged")

    with pytest.raises(RuntimeError, match="the cache is damaged"):
        Recorder(("0",))(nn.Sequential(nn.Conv2d(3, 2, 1)).eval(), batches(), 4)


class Counting(nn.Module):
    """Counts how often each of its layers runs."""

    def __init__(self):
        super().__init__()
        self.early, self.late, self.head = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 4, 1), nn.Conv2d(4, 5, 1)
        self.runs = {"early": 0, "late": 0, "head": 0}

    def forward(self, x):
        for name in self.runs:
            try:
                x = self.get_submodule(name)(x)
            except Exception:  # noqa: BLE001 - as a model may that falls back on something
                x = torch.zeros(())
            self.runs[name] += 1
        return x


@pytest.mark.parametrize(
    ("layers", "runs"), [(("early",), (1, 1, 1)), (("late", "early"), (5, 1, 1)), (("head",), (5, 5, 1))]
)
def test_only_the_first_batch_runs_beyond_the_last_layer(layers, runs):
    model = Counting().eval()
    images = torch.randn(10, 3, 4, 4)
    recorded = Recorder(layers)(model, images.split(2), 10)
    # The layer that is the last has run, too, though its own count comes after it.
    assert tuple(model.runs.values()) == runs
    whole = {"early": model.early(images)}
    whole["late"] = model.late(whole["early"])
    whole["head"] = model.head(whole["late"])
    assert {layer.name for layer in recorded} == set(layers)
    for layer in recorded:
        np.testing.assert_allclose(layer.values, whole[layer.name].mean((2, 3)).detach(), rtol=1e-5, atol=1e-6)


def test_a_layer_that_runs_again_after_the_last_one_is_seen():
    class Again(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.layer(self.other(self.layer(x)))

    with pytest.raises(ModelError, match="layer layer: runs more than once"):
        Recorder(("layer",))(Again().eval(), torch.randn(4, 3, 2, 2).split(2), 4)
