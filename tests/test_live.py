"""Studies of a training that goes on: checkpoints that are being written, that appear, and files that come late."""

import os
import shutil
import signal
import threading
import time

import pytest
from test_faults import activations

from cmon import pipeline
from cmon.checkpoints import unfinished


@pytest.fixture
def looking(monkeypatch):
    """Look for files that are being written as long as a user's command does."""
    monkeypatch.setattr(unfinished, "WATCH_S", 2.0)
    monkeypatch.setattr(unfinished, "LAST_S", 30.0)
    monkeypatch.setattr(pipeline, "LOOK_EVERY_S", 0.2)


def half(path):
    """Make the first half of a checkpoint of what is a whole one."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return whole


def checkpoints(study):
    return [name.decode() for name in study.datasets("embedding/clip_dissect.h5")["checkpoints/name"]]


def test_a_checkpoint_that_is_being_written_is_left_and_taken_the_next_time(study, looking):
    path = study.checkpoint("epoch_3")
    whole = half(path)
    result = study.cmon("run")
    assert result.code == 0, result.err
    assert f"left for the next time: {path} is not whole yet" in result.err
    assert "activations: 2 made, 0 current, 1 left" in result.err or "3 made, 0 current, 1 left" in result.err
    assert checkpoints(study) == ["epoch_1", "epoch_2"]
    os.utime(path)  # all this may have taken longer than a file counts as being written
    assert "left     activations/plain/epoch_3.h5" in study.cmon("status").out
    assert study.cmon("status").code == 0
    assert study.cmon("status", "--missing").out == ""
    path.write_bytes(whole)
    assert study.cmon("status", "--missing").out == "plain/epoch_3\n"
    assert study.cmon("run").code == 0
    assert checkpoints(study) == ["epoch_1", "epoch_2", "epoch_3"]


def test_one_that_grows_is_left_wherever_it_stands(study, looking):
    path, stop = study.checkpoint("epoch_1"), threading.Event()
    half(path)

    def grow():
        while not stop.wait(0.05):
            with path.open("ab") as file:
                file.write(b"more")

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        result = study.cmon("activations")
    finally:
        stop.set()
        thread.join()
    assert result.code == 0, result.err
    assert f"left for the next time: {path} is still being written" in result.err
    assert activations("epoch_1") & study.files().keys() == set()


def test_one_that_is_broken_for_good_is_a_mistake(study, looking):
    path = study.checkpoint("epoch_3")
    half(path)
    os.utime(path, (time.time() - 3600,) * 2)
    study.cmon("run").fails(1, "epoch_3.pt", "damaged")


def test_a_run_of_which_nothing_is_written_yet_has_no_embedding(study, looking):
    for name in ("epoch_1", "epoch_2"):
        study.checkpoint(name).unlink()
    half(study.checkpoint("epoch_3"))
    study.cmon("run").fails(3, "run plain", "no checkpoint that is written")
    assert study.cmon("activations", "--checkpoint", "epoch_3").code == 0


def test_a_watch_takes_what_appears_and_ends_when_nothing_does(study, looking):
    later = study.folder / "later"
    study.checkpoint("epoch_1").parent.rename(later)
    study.checkpoint("epoch_1").parent.mkdir()

    def train():
        for name in ("epoch_1", "epoch_2", "epoch_3"):
            time.sleep(1.5)
            shutil.copy(later / f"{name}.pt", study.checkpoint(name))

    thread = threading.Thread(target=train)
    thread.start()
    result = study.cmon("run", "--watch", "4")
    thread.join()
    assert result.code == 0, result.err
    assert result.out == f"{study.workspace}/report/index.html\n"
    assert checkpoints(study) == ["epoch_1", "epoch_2", "epoch_3"]
    assert "waiting: for new checkpoints" in result.err
    assert study.cmon("status").code == 0


def test_a_watch_that_nothing_comes_to_says_what_it_waited_for(study, looking):
    shutil.rmtree(study.folder / "runs")
    study.cmon("run", "--watch", "0.5").fails(2, "run plain: checkpoints", "nothing matches")


def test_a_watch_ends_with_the_code_of_its_last_time(study, looking):
    study.checkpoint("epoch_2").write_bytes(b"spoiled")
    os.utime(study.checkpoint("epoch_2"), (0, 0))
    study.cmon("run", "--watch", "0.5").fails(1, "epoch_2.pt")


def test_a_watch_stops_at_a_signal(study):
    process = study.spawn("run", "--watch", "60")
    while "waiting: for new checkpoints" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "run the same command to go on" in err
    assert study.cmon("status").code == 0


def test_labels_wait_for_activations_that_show_late(study):
    assert study.cmon("activations").code == 0
    folder = study.workspace / "activations"
    folder.rename(study.workspace / "hidden")
    thread = threading.Timer(1.5, lambda: (study.workspace / "hidden").rename(folder))
    thread.start()
    result = study.cmon("dissect", "--wait", "30")
    thread.join()
    assert result.code == 0, result.err
    assert result.err.count("waiting") == 1


def test_what_never_shows_is_missing_after_one_wait_for_all(study):
    assert study.cmon("activations").code == 0
    shutil.rmtree(study.workspace / "activations")
    start = time.monotonic()
    result = study.cmon("dissect", "--wait", "4")
    assert result.code == 3
    assert 4 <= time.monotonic() - start < 11  # and not 4 s for each
    result = study.cmon("embed", "--wait", "0.1")
    result.fails(3, "3 of 3 checkpoints have no current labels: plain/epoch_1 (missing)")


def test_what_is_stale_is_not_waited_for(finished):
    finished.edit("activations", pooling="max")
    start = time.monotonic()
    finished.cmon("embed", "--wait", "30").fails(3, "changed: activations")
    assert time.monotonic() - start < 10
