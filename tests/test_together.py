"""Several processes on one study, and what a killed one leaves behind."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_faults import NAPPING, change_model

from cmon import whole
from cmon.claims import claim, try_claim
from cmon.whole import sweep, whole_file

HOLD = """
import sys, time
from pathlib import Path
from cmon.claims import claim
from cmon.whole import whole_file
with claim(Path(sys.argv[1]) / "one.lock", lambda: None), whole_file(Path(sys.argv[1]) / "result") as file:
    file.write(b"half of")
    file.flush()
    print("held", flush=True)
    time.sleep(60)
"""


def hidden(folder):
    return list(folder.rglob(".*.tmp"))


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds a claim and writes a file."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


# Files


def test_a_file_is_there_once_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "er" / "file"
    with whole_file(path) as file:
        file.write(b"all of it")
        assert not path.exists()
    assert path.read_bytes() == b"all of it"
    assert hidden(tmp_path) == []


def test_an_error_leaves_what_was_there_before(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(KeyError), whole_file(path) as file:
        file.write(b"half")
        raise KeyError
    assert path.read_bytes() == b"before"
    assert hidden(tmp_path) == []


def test_what_is_being_written_is_not_swept_and_what_a_kill_left_is(tmp_path, holder):
    (written,) = hidden(tmp_path)
    os.utime(written, (0, 0))  # by a process that was stopped for a while
    sweep(tmp_path)
    assert hidden(tmp_path) == [written]
    os.utime(written)
    holder.kill()
    holder.wait()
    sweep(tmp_path)
    assert hidden(tmp_path) == []
    assert not (tmp_path / "result").exists()


def test_of_another_machines_files_only_an_old_one_is_swept(tmp_path):
    for name in (".0000-new.tmp", ".0000-old.tmp"):
        (tmp_path / name).touch()
    long_ago = time.time() - whole.ABANDONED_S - 60
    os.utime(tmp_path / ".0000-old.tmp", (long_ago, long_ago))
    sweep(tmp_path)
    assert [path.name for path in hidden(tmp_path)] == [".0000-new.tmp"]


def test_a_file_that_a_sweep_had_first_is_made_again(tmp_path, monkeypatch):
    first = True

    def raced(file):
        nonlocal first
        if first:  # another process sweeps between the file's creation and its lock
            first = False
            sweep(tmp_path)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True

    monkeypatch.setattr(whole, "try_lock", raced)
    with whole_file(tmp_path / "file") as file:
        file.write(b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_without_locks_files_are_written_and_swept_by_their_age(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with whole_file(tmp_path / "file") as file:
        file.write(b"whole")
        sweep(tmp_path)
        assert len(hidden(tmp_path)) == 1
    assert (tmp_path / "file").read_bytes() == b"whole"
    with try_claim(tmp_path / "one.lock") as first, try_claim(tmp_path / "one.lock") as second:
        assert (first, second) == (True, True)


# Claims


def test_a_claim_waits_for_who_holds_it_and_ends_with_its_process(tmp_path, holder):
    waits = 0

    def wait():
        nonlocal waits
        waits += 1
        if waits == 3:
            holder.kill()
        time.sleep(0.01)

    with try_claim(tmp_path / "one.lock") as held:
        assert not held
    with claim(tmp_path / "one.lock", wait):
        assert waits >= 3
    with try_claim(tmp_path / "one.lock") as held:
        assert held


def test_where_no_claim_can_be_written_there_is_nothing_to_wait_for(tmp_path):
    (tmp_path / "file").touch()
    with claim(tmp_path / "file" / "one.lock", pytest.fail):
        pass


# Studies


def finish(*processes):
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err


def test_two_runs_at_once_make_the_same_bytes(study, finished):
    change_model(study, "return self.second", NAPPING)
    change_model(finished, "return self.second", NAPPING)
    assert finished.cmon("run").code == 0
    finish(study.spawn("run", NAP="0.3"), study.spawn("run", NAP="0.3"))
    assert study.stores() == finished.stores()
    assert not study.leftovers()


def test_shards_that_are_started_twice_make_the_same_bytes(study, finished):
    for stage in ("activations", "dissect"):
        finish(*(study.spawn(stage, "--shard", f"{shard}/2") for shard in (0, 1, 0, 1)))
    assert study.cmon("embed").code == 0
    assert study.cmon("report").code == 0
    assert study.stores() == finished.stores()
    assert not study.leftovers()


def test_who_finds_the_evidence_taken_records_first_and_waits_for_it_at_the_end(study):
    place = study.workspace / "cache" / "evidence.lock"
    with try_claim(place) as held:
        assert held
        process = study.spawn("activations")
        said = [process.stderr.readline()]
        while said[-1] and "waiting" not in said[-1]:
            said.append(process.stderr.readline())
        assert any("plain 3/3 epoch_3" in line for line in said)
        assert said[-1] == "waiting: another process makes the evidence\n"
        assert not (study.workspace / "evidence.h5").exists()
    finish(process)
    assert (study.workspace / "evidence.h5").exists()


def test_who_waits_for_another_process_stops_at_a_signal(study):
    with try_claim(study.workspace / "cache" / "images.lock"):
        process = study.spawn("activations")
        while "waiting: another process reads the images" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGUSR1)
        process.communicate(timeout=30)
    assert process.returncode == 75


@pytest.mark.parametrize("stage", ["activations", "dissect", "embed", "report"])
def test_every_stage_sweeps_what_a_kill_has_left(finished, stage):
    left = finished.workspace / "activations" / f".{whole._machine()}-0.tmp"
    left.touch()
    assert finished.cmon(stage).code == 0
    assert not left.exists()


def test_equal_results_are_equal_files_and_how_they_were_made_lies_apart(study, finished):
    assert study.cmon("run", "--force").code == 0
    assert study.stores() == finished.stores()
    notes = {
        path.relative_to(study.workspace / "provenance") for path in (study.workspace / "provenance").rglob("*.json")
    }
    assert notes == {Path(name).with_suffix(".json") for name in study.stores()} | {Path("report.json")}
