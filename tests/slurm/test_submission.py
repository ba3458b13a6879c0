import os
import shutil
import time
from pathlib import Path

import pytest
from cluster import Submission, slurm, urgent_job
from conftest import TinyStudy, save_checkpoint
from test_faults import NAPPING, activations

NAMES = [f"epoch_{number:02}" for number in range(1, 11)]
# What a job leaves to the commands that it starts, were it to be believed.
INHERITED = {
    "SBATCH_TIMELIMIT": "1",
    "SBATCH_PARTITION": "none",
    "SBATCH_ARRAY_INX": "5-6",
    "SLURM_NTASKS": "99",
    "SLURM_JOB_ID": "1",
    "SLURM_ARRAY_TASK_ID": "2",
    "SLURM_CPUS_PER_TASK": "64",
}


def labels(*names):
    return {f"similarity/clip_dissect/plain/{name}.h5" for name in names}


def save(study, name):
    """Save a checkpoint that nobody can take for one still being written."""
    path = study.checkpoint(name)
    save_checkpoint(path, seed=int(name[-2:]), epoch=int(name[-2:]))
    os.utime(path, (1e9, 1e9))


def made(study):
    """Identify the activations that are there by inode and time."""
    found = {name: study.workspace / name for name in activations(*NAMES)}
    return {name: (path.stat().st_ino, path.stat().st_mtime_ns) for name, path in found.items() if path.exists()}


@pytest.fixture(scope="module")
def ten(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the inputs of a study of ten checkpoints, which can be slow."""
    study = TinyStudy(Path(shutil.copytree(prepared, tmp_path_factory.mktemp("ten") / "study")))
    shutil.rmtree(study.folder / "runs")
    for name in NAMES:
        save(study, name)
    model = study.folder / "net.py"
    model.write_text(model.read_text().replace("return self.second", NAPPING))
    return study.folder


@pytest.fixture(scope="module")
def serial(ten: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the stores that one process makes."""
    study = TinyStudy(Path(shutil.copytree(ten, tmp_path_factory.mktemp("serial") / "study")))
    result = study.cmon("run")
    assert result.code == 0, result.err
    found = study.stores()
    assert found.keys() >= activations(*NAMES) | labels(*NAMES) | {"evidence.h5"}
    return found


@pytest.fixture
def study(ten: Path, tmp_path: Path) -> TinyStudy:
    """Return a study of ten checkpoints of which nothing is made yet."""
    return TinyStudy(Path(shutil.copytree(ten, tmp_path / "study")))


@pytest.fixture(scope="module")
def limited(ten: Path, tmp_path_factory: pytest.TempPathFactory) -> "tuple[TinyStudy, Submission]":
    """Submit a study whose time limit holds some of its units of work, but not all."""
    study = TinyStudy(Path(shutil.copytree(ten, tmp_path_factory.mktemp("limited") / "study")))
    # The warning comes 20 to 50 s after the start: Slurm looks twice a minute.
    options = ("--partition=kept", "--nodelist=n1", "--time=1", "--signal=B:USR1@10")
    return study, Submission(study, "--shards", "1", "--", *options, NAP="5")


@pytest.fixture(scope="module")
def too_long(ten: Path, tmp_path_factory: pytest.TempPathFactory) -> "tuple[TinyStudy, Submission]":
    """Submit a study with one unit of work that needs longer than its job may take."""
    study = TinyStudy(Path(shutil.copytree(ten, tmp_path_factory.mktemp("too_long") / "study")))
    result = study.cmon("activations", "--checkpoint", NAMES[0])
    assert result.code == 0, result.err
    options = ("--partition=kept", "--nodelist=n1", "--time=1", "--signal=B:USR1@10")
    submission = Submission(study, "--shards", "1", "--", *options, NAP="1000")
    slurm("scontrol", "update", f"jobid={submission.jobs['join']}", "TimeLimit=5")  # it waits a minute for files
    return study, submission


@pytest.fixture(scope="module")
def damaged(ten: Path, tmp_path_factory: pytest.TempPathFactory) -> "tuple[TinyStudy, Submission]":
    """Submit a study with a damaged checkpoint, for which its join waits a minute."""
    study = TinyStudy(Path(shutil.copytree(ten, tmp_path_factory.mktemp("damaged") / "study")))
    checkpoint = study.checkpoint("epoch_04")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-200])
    os.utime(checkpoint, (1e9, 1e9))
    return study, Submission(study, "--shards", "4", "--", "--partition=kept")


@pytest.fixture(scope="module", autouse=True)
def _begun_first(limited: object, too_long: object, damaged: object) -> None:
    """Let what takes minutes wait while the other tests run."""


def test_four_shards_make_what_one_process_makes(study, serial):
    submission = Submission(study, "--shards", "4", **INHERITED)
    assert submission.shards == 4
    submission.until(lambda: submission.log("join"), 200)
    slurm("scancel", "--batch", "--signal=USR1", submission.jobs["join"])  # as the user's own --signal would
    submission.wait()
    assert submission.is_well(), submission.log("")
    assert study.stores() == serial
    assert [len(submission.tasks(stage)) for stage in ("activations", "dissect", "join")] == [4, 4, 1]
    assert set(submission.facts("activations", "TimeLimit")) == {"00:05:00"}, "the cluster's own, and no inherited one"
    assert set(submission.facts("activations", "NumCPUs")) == {"1"}
    logs = {path.name for path in (submission.folder / "log").iterdir()}
    assert logs == {f"{stage}_{task}.log" for stage in ("activations", "dissect") for task in range(4)} | {"join.log"}
    assert (study.workspace / "report/index.html").is_file()
    assert not study.leftovers()


def test_shards_that_are_started_twice_at_once_make_the_same(study, serial):
    submissions = [Submission(study, "--shards", "2") for _ in range(2)]
    for submission in submissions:
        submission.wait()
        assert submission.is_well(), submission.log("")
        assert "error:" not in submission.log("")
    assert submissions[0].folder != submissions[1].folder
    assert study.stores() == serial
    assert not study.leftovers()


def test_a_job_whose_config_has_changed_since_is_refused(study):
    submission = Submission(study, "--shards", "2", "--", "--hold")
    study.edit("activations", pooling="max")
    for job in submission.jobs.values():
        slurm("scontrol", "release", job)
    submission.wait()
    assert submission.facts("activations", "ExitCode") == ["2:0"] * 2
    assert submission.facts("join", "ExitCode") == ["2:0"]
    for stage in ("activations", "join"):
        told = [line for line in submission.log(stage).splitlines() if line.startswith("error:")]
        assert all("study.toml" in line and "pooling" in line for line in told), told
        assert told
    assert study.stores() == {}


def test_a_unit_that_fails_holds_up_nothing_else_and_is_made_alone_once_mended(damaged, serial):
    study, submission = damaged
    submission.wait()
    others = [name for name in NAMES if name != "epoch_04"]
    assert study.stores().keys() == {"evidence.h5"} | activations(*others) | labels(*others)
    assert submission.facts("activations") == ["COMPLETED"] * 3 + ["FAILED"]
    assert submission.facts("dissect") == ["COMPLETED"] * 3 + ["CANCELLED"]
    assert submission.facts("join", "ExitCode") == ["3:0"]
    told = [line for line in submission.log("join").splitlines() if line.startswith("error:")]
    assert "epoch_04" in told[-1], told
    status = study.cmon("status", "--missing")
    assert status.code == 3
    assert status.out.splitlines() == ["plain/epoch_04"]

    before = study.files()
    save(study, "epoch_04")
    again = Submission(study, "--shards", "4")
    assert again.shards == 1
    again.wait()
    assert again.is_well(), again.log("")
    changed = {name for name in study.changed(before) if name.endswith(".h5")}
    assert changed == serial.keys() - activations(*others) - labels(*others) - {"evidence.h5"}
    assert study.stores() == serial


@pytest.mark.parametrize("warned", [False, True])
def test_a_cancelled_submission_ends_and_what_it_has_made_is_kept(study, serial, warned):
    submission = Submission(study, "--shards", "2", NAP="3")
    submission.until(lambda: len(made(study)) >= 2, 60)
    if warned:  # it would requeue itself were its time over
        slurm("scancel", "--batch", "--signal=USR1", submission.jobs["activations"])
    slurm("scancel", *submission.jobs.values())
    submission.wait(30)
    time.sleep(1)
    assert all(set(submission.facts(stage)) == {"CANCELLED"} for stage in submission.jobs)
    assert set(submission.facts("activations", "Restarts")) == {"0"}
    found = study.stores()
    assert 2 <= len(made(study)) < len(NAMES)
    assert found == {name: serial[name] for name in found}
    assert not study.leftovers()


def test_a_preempted_shard_goes_on_where_it_was(study, serial):
    submission = Submission(study, "--shards", "2", "--", "--nodelist=n2", NAP="2")
    submission.until(lambda: len(made(study)) >= 2, 60)
    before = made(study)
    urgent = urgent_job("--nodes=1", "--nodelist=n2", "--ntasks=2")
    submission.until(lambda: "JobState=COMPLETED" in slurm("scontrol", "show", "job", urgent), 60)
    submission.wait()
    assert submission.is_well(), submission.log("")
    assert submission.facts("activations", "Restarts") == ["1"] * 2
    assert before.items() <= made(study).items()
    assert study.stores() == serial
    assert not study.leftovers()


def test_a_job_at_its_time_limit_requeues_itself(limited, serial):
    study, submission = limited
    submission.wait(300)
    assert submission.is_well(), submission.log("")
    assert int(submission.facts("activations", "Restarts")[0]) >= 1
    assert "requeued" in submission.log("activations")
    assert study.stores() == serial
    assert not study.leftovers()


def test_a_unit_that_needs_longer_than_the_time_limit_is_not_tried_for_ever(too_long):
    study, submission = too_long
    submission.wait(200)
    assert submission.facts("activations") == ["TIMEOUT"]
    assert submission.facts("activations", "Restarts") == ["0"]
    assert "not requeued: one unit of work needs longer" in submission.log("activations")
    assert submission.facts("join", "ExitCode") == ["3:0"]
    assert made(study).keys() == activations(NAMES[0])
    assert not study.leftovers()
