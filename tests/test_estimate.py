"""`cmon plan`: what is left to do, and how large it will be."""

import shutil

import pytest

from cmon import estimate
from cmon.config import read_config
from cmon.estimate import estimate_study
from cmon.recipes import plan_study
from cmon.work import Options


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(estimate, "SECONDS", 0.0)  # once is enough where no time is looked at


def estimates(study):
    plan = plan_study(read_config(study.config))
    return {one.what: one for one in estimate_study(plan, Options(device="cpu"))}


def test_all_that_is_missing_is_listed_in_the_order_of_the_stages(study):
    found = estimates(study)
    assert {name: one.count for name, one in found.items()} == {
        "decoded images": 24,
        "evidence": 1,
        "activations plain": 3,
        "similarity clip_dissect plain": 3,
        "embedding clip_dissect": 1,
        "report": 1,
    }
    assert all(one.elapsed_s >= 0 for one in found.values())
    assert found["activations plain"].elapsed_s > 0


def test_what_is_current_is_left_out(finished):
    assert estimates(finished) == {}
    assert finished.cmon("plan").out == "all is current: nothing is left to do\n"
    finished.checkpoint("epoch_2").unlink()
    (finished.workspace / "activations" / "plain" / "epoch_1.h5").unlink()
    assert {name: one.count for name, one in estimates(finished).items()} == {
        "activations plain": 1,
        "embedding clip_dissect": 1,
        "report": 1,
    }


def test_sizes_are_those_of_the_files(study):
    study.edit("statistics", resamples=500)  # so that numbers outweigh what every file has
    planned = estimates(study)
    assert study.cmon("run").code == 0

    def size(pattern):
        return sum(path.stat().st_size for path in study.workspace.glob(pattern))

    assert planned["decoded images"].size_bytes == size("cache/pixels/*.bin")
    similarity = planned["similarity clip_dissect plain"].size_bytes
    assert similarity == pytest.approx(size("similarity/clip_dissect/plain/*.h5"), rel=0.25)


def test_nothing_is_written(study):
    before = {path: path.stat().st_mtime_ns for path in study.folder.rglob("*")}
    assert study.cmon("plan").code == 0
    assert {path: path.stat().st_mtime_ns for path in study.folder.rglob("*") if "__pycache__" not in path.parts} == {
        path: time for path, time in before.items() if "__pycache__" not in path.parts
    }


def test_the_table_sums_up_and_says_how_much_room_there_is(study):
    lines = study.cmon("plan").out.splitlines()
    assert lines[0].split() == ["to", "make", "count", "time", "disk", "memory", "timed", "on"]
    assert lines[-2].startswith("in all")
    assert lines[-1].endswith(f"are free in {study.workspace}")
    assert len({line.index("B ") for line in lines[1:3]}) == 1, "in columns"


def test_what_cannot_be_used_is_said_as_by_the_stages(study):
    shutil.rmtree(study.folder / "images")
    study.cmon("plan").fails(1, "images")


def test_more_checkpoints_take_longer_in_proportion(study):
    one = estimates(study)
    for epoch in (4, 5, 6):
        shutil.copy(study.checkpoint("epoch_1"), study.checkpoint(f"epoch_{epoch}"))
    two = estimates(study)
    assert two["activations plain"].size_bytes == 2 * one["activations plain"].size_bytes
    assert two["activations plain"].count == 6
