"""A study by make and by Snakemake, as sample_configs has them: who is called when, and what is there in the end."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import save_checkpoint

from cmon.config import read_config

SAMPLES = Path(__file__).resolve().parents[1] / "sample_configs"
MAKEFILE = SAMPLES / "Makefile"
NOTHING = "make: Nothing to be done for 'all'.\n"
SETTINGS = {
    "CMON": f"{sys.executable} -m cmon",
    "CONFIG": "study.toml",
    "WORKSPACE": "work",
    "RUNS": "plain",
    "CHECKPOINTS.plain": "runs/*.pt",
    "DETECTORS": "clip_dissect",
    "RECORDED": "activations",
    "INPUTS": "net.py",
}
RECORDER = """#!/bin/sh
echo "$@" >> called
"""

needs_make = pytest.mark.skipif(not shutil.which("make"), reason="there is no make")
needs_snakemake = pytest.mark.skipif(not importlib.util.find_spec("snakemake"), reason="there is no snakemake")


def start(study, *words, **settings):
    """Start make in a process group of its own, apart from the make that may have started these tests."""
    of_make = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    environment = {name: value for name, value in os.environ.items() if name not in of_make} | {"LC_ALL": "C"}
    command = ["make", "-f", str(MAKEFILE), *(f"{name}={value}" for name, value in {**SETTINGS, **settings}.items())]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*command, *words], cwd=study.folder, env=environment, start_new_session=True, **pipes)


def make(study, *words, **settings):
    """Run make, and return its exit code and what was said."""
    process = start(study, *words, **settings)
    said = process.communicate()[0]
    return process.returncode, said


def called(study, *words, **settings):
    """Say what make has called, where cmon finds everything current and does nothing."""
    recorder, log = study.folder / "recorder", study.folder / "called"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    log.write_text("")
    code, said = make(study, *words, CMON="./recorder", **settings)
    assert code == 0, said
    return sorted(line.replace(" study.toml", "").replace("--checkpoint ", "") for line in log.read_text().splitlines())


def stores(study):
    """Read all files of numbers."""
    found = sorted(path for path in study.workspace.rglob("*.h5") if "cache" not in path.parts)
    return {path.relative_to(study.workspace).as_posix(): path.read_bytes() for path in found}


def inodes(study):
    """Identify all files of numbers: a file that is made again is another one."""
    return {name: inode for name, (inode, _) in study.files().items() if name.endswith(".h5") and "cache" not in name}


def dated(path, age_s):
    """Say that a file was last changed so long ago."""
    os.utime(path, (time.time() - age_s,) * 2)


OF_ALL = [
    *(f"activations plain/epoch_{epoch}" for epoch in (1, 2, 3)),
    *(f"dissect plain/epoch_{epoch}" for epoch in (1, 2, 3)),
    "embed",
    "report",
]
OF_ONE = ["activations plain/epoch_2", "dissect plain/epoch_2", "embed", "report"]


@needs_make
def test_what_cmon_run_has_made_is_made(finished):
    assert make(finished) == (0, NOTHING)


@needs_make
@pytest.mark.parametrize("name", ["study.toml", "net.py"])
def test_cmon_is_asked_of_everything_after_an_edit_and_not_again(finished, name):
    (finished.folder / name).touch()
    assert called(finished, "-j4") == OF_ALL
    assert make(finished) == (0, NOTHING)


@needs_make
def test_cmon_is_asked_of_one_checkpoint_where_that_is_newer_and_not_again(finished):
    finished.checkpoint("epoch_2").touch()
    assert called(finished, "-j4") == OF_ONE
    assert make(finished) == (0, NOTHING)


@needs_make
def test_what_is_edited_while_a_recipe_runs_is_not_missed(finished):
    finished.checkpoint("epoch_2").touch()
    (finished.folder / "editing").write_text("touch runs/epoch_2.pt\n")
    code, said = make(finished, CMON="sh editing")
    assert code == 0, said
    assert called(finished) == OF_ONE


@needs_make
def test_what_is_edited_while_a_new_file_is_made_is_not_missed(finished):
    path = finished.workspace / "activations" / "plain" / "epoch_2.h5"
    path.rename(finished.folder / "made.h5")
    editing = f"touch runs/epoch_2.pt; sleep 0.1; cp -n made.h5 {path.relative_to(finished.folder)}\n"
    (finished.folder / "editing").write_text(editing)
    code, said = make(finished, CMON="sh editing")
    assert code == 0, said
    assert called(finished) == OF_ONE


@needs_make
@pytest.mark.parametrize("name", ["activations/plain/epoch_2.h5", "similarity/clip_dissect/plain/epoch_2.h5"])
def test_a_file_that_is_gone_is_asked_for(finished, name):
    (finished.workspace / name).unlink()
    assert make(finished, "-q")[0] == 1
    code, said = make(finished, CMON="true")  # it makes nothing, and does not fail
    assert code == 2
    assert name in said
    assert not (finished.workspace / name).exists()


@needs_make
def test_untrained_networks_are_units_of_their_own(finished):
    finished.edit("run", baseline="random-init", baseline_seeds=2)
    untrained = {"UNTRAINED.plain": "random-init-0 random-init-1"}
    code, said = make(finished, "-n", CMON="cmon", **untrained)
    assert code == 0, said
    wanted = [
        f"cmon {stage} study.toml --checkpoint 'plain~baseline/random-init-1'" for stage in ("activations", "dissect")
    ]
    assert set(wanted) <= set(said.splitlines())


@needs_make
def test_checkpoints_that_are_not_there_are_told(finished):
    code, said = make(finished, **{"CHECKPOINTS.plain": "elsewhere/*.pt"})
    assert code == 2
    assert 'CHECKPOINTS.plain: nothing matches "elsewhere/*.pt"' in said


@needs_make
def test_only_what_has_changed_is_made_again(finished):
    before = inodes(finished)
    save_checkpoint(finished.checkpoint("epoch_2"), seed=9, epoch=2)
    finished.checkpoint("epoch_1").touch()
    finished.config.write_text("# a comment\n" + finished.config.read_text())
    code, said = make(finished, "-j4")
    assert code == 0, said
    assert {name for name, _ in inodes(finished).items() ^ before.items()} == {
        "activations/plain/epoch_2.h5",
        "similarity/clip_dissect/plain/epoch_2.h5",
        "embedding/clip_dissect.h5",
    }
    assert finished.cmon("status").code == 0
    before = finished.files()
    assert make(finished) == (0, NOTHING)
    assert finished.changed(before) == set()


@needs_make
def test_a_checkpoint_that_fails_holds_up_itself_and_the_report(finished):
    for path in finished.folder.rglob("*"):
        dated(path, 7200)
    path = finished.checkpoint("epoch_2")
    path.write_bytes(path.read_bytes()[:-200])
    dated(path, 3600)
    before = stores(finished)
    (finished.workspace / "similarity/clip_dissect/plain/epoch_3.h5").unlink()
    code, said = make(finished, "-k", "-j4")
    assert code == 2
    assert re.findall("^error: .*", said, flags=re.MULTILINE) == [f"error: {path}: is damaged: File is not a zip file"]
    assert stores(finished) == before
    assert called(finished) == OF_ONE


@needs_make
def test_a_make_that_is_killed_leaves_nothing_that_is_bad(study, done):
    study.checkpoint("epoch_3").unlink()
    moments = [
        (signal.SIGKILL, "evidence.h5"),
        (signal.SIGTERM, "activations/*/*.h5"),
        (signal.SIGINT, "similarity/*/*/*.h5"),
    ]
    for number, pattern in moments:
        process = start(study, "-j2")
        while not list(study.workspace.glob(pattern)):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        os.killpg(process.pid, number)
        process.communicate()
        assert process.returncode
    code, said = make(study, "-j2")
    assert code == 0, said
    assert make(study) == (0, NOTHING)
    assert study.leftovers() == []
    assert study.cmon("status").code == 0
    of_one = {name: data for name, data in stores(study).items() if not name.startswith("embedding/")}
    assert len(of_one) == 5
    assert of_one.items() <= stores(type(study)(done)).items()


def test_the_variables_are_those_of_the_demo(monkeypatch):
    said = dict(re.findall(r"^([\w.]+) :?= (.*)$", MAKEFILE.read_text(encoding="utf-8"), flags=re.MULTILINE))
    study = read_config(SAMPLES / "demo.toml")
    (run,) = study.run
    root = SAMPLES.parent
    assert (root / said["CONFIG"]).samefile(SAMPLES / "demo.toml")
    assert Path(os.path.normpath(study.workspace)) == root / said["WORKSPACE"]
    assert said["RUNS"] == run.name
    assert Path(os.path.normpath(str(run.checkpoints))) == root / said["CHECKPOINTS.shapes"]
    assert said["UNTRAINED.shapes"].split() == [f"random-init-{seed}" for seed in range(run.baseline_seeds)]
    assert said["DETECTORS"].split() == [table.name for table in study.detector]
    assert root / said["INPUTS"] == Path(os.path.normpath(run.model.rpartition(":")[0]))


@needs_snakemake
def test_snakemake_leaves_it_to_cmon_whether_a_number_is_worked_out_again(finished):
    settings = {
        "cmon": SETTINGS["CMON"],
        "study": "study.toml",
        "workspace": "work",
        "checkpoints": {"plain": "runs/*.pt"},
        "untrained": {},
        "detectors": ["clip_dissect"],
        "recorded": ["activations"],
        "inputs": ["net.py"],
    }
    (finished.folder / "settings.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "snakemake", "-s", str(SAMPLES / "Snakefile"), "--configfile", "settings.json"]

    def snakemake():
        done = subprocess.run([*command, "--cores", "4"], cwd=finished.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert "Nothing to be done" in snakemake()
    before, gone = inodes(finished), "similarity/clip_dissect/plain/epoch_2.h5"
    finished.config.write_text(finished.config.read_text() + "# a comment\n")
    (finished.workspace / gone).unlink()
    assert snakemake().count(" 0 made") == 3 + 2 + 2
    assert "Nothing to be done" in snakemake()
    after = inodes(finished)
    assert after.pop(gone)
    assert after.items() < before.items()
