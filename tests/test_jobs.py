"""Shards, and what is submitted to a cluster; scripts named sbatch, scancel and scontrol stand for Slurm's."""

import json
import os
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
from conftest import TinyStudy, save_checkpoint
from test_faults import NAPPING, activations, change_model

FAKE = """#!/bin/bash
printf '%s\\n' "$(basename "$0") $*" >> "$CALLS"
env | grep -E '^(SLURM|SBATCH)' >> "$CALLS.env"
if [ -e "$CALLS.refuse" ] && [[ "$*" == *"$(cat "$CALLS.refuse")"* ]]; then
    echo "refused: no such partition" >&2
    exit 1
fi
case "$(basename "$0")" in
    sbatch) echo "$((40 + $(grep -c ^sbatch "$CALLS")));cluster" ;;
    scontrol) [ "$1" != show ] || cat "$CALLS.job" ;;
esac
"""


class Slurm:
    """What was asked of the scripts."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "calls"
        for name in ("sbatch", "scancel", "scontrol"):
            script = folder / name
            script.write_text(FAKE)
            script.chmod(script.stat().st_mode | stat.S_IXUSR)

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    @property
    def environment(self) -> set[str]:
        return set(Path(f"{self.log}.env").read_text().splitlines())

    def refuse(self, what: str) -> None:
        Path(f"{self.log}.refuse").write_text(what)

    def says_of_the_job(self, text: str) -> None:
        Path(f"{self.log}.job").write_text(text)


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Slurm:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith(("SLURM", "SBATCH"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(folder / "calls"))
    return Slurm(folder)


def recorded(study):
    return {name for name in study.files() if name.startswith("activations")}


def submitted(study, *words):
    result = study.cmon("submit", *words)
    assert result.code == 0, result.err
    return json.loads(result.out)


# Shards


def test_a_shard_is_every_nth_unit_from_the_ith_on(study):
    study.edit("run", baseline="random-init", baseline_seeds=2)  # five units: three checkpoints, then two networks
    assert study.cmon("activations", "--shard", "1/3").code == 0
    baseline = {"activations/plain~baseline/random-init-1.h5"}
    assert recorded(study) == activations("epoch_2") | baseline
    assert study.cmon("activations", "--shard", "0/3").code == 0
    assert recorded(study) == activations("epoch_1", "epoch_2") | baseline | {
        "activations/plain~baseline/random-init-0.h5"
    }
    assert study.cmon("dissect", "--shard", "0/3").code == 0
    labels = {name for name in study.files() if name.startswith("similarity")}
    assert labels == {
        "similarity/clip_dissect/plain/epoch_1.h5",
        "similarity/clip_dissect/plain~baseline/random-init-0.h5",
    }


def test_a_shard_without_units_is_done_at_once(study):
    result = study.cmon("activations", "--shard", "7/9")
    assert result.code == 0
    assert recorded(study) == set()
    assert "evidence.h5" in study.files()


@pytest.mark.parametrize("shard", ["3/3", "4/3", "0/0", "-1/3", "1", "a/b", "1/3/4", "0.5/2", "1/"])
def test_what_is_no_shard_is_one_line(study, shard):
    study.cmon("activations", "--shard", shard).fails(2, "--shard", shard, "0/4")


def test_an_array_job_alone_makes_no_shard(study, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    assert study.cmon("activations").code == 0
    assert recorded(study) == activations("epoch_1", "epoch_2", "epoch_3")


def test_a_checkpoint_is_named_with_its_run_where_others_share_its_name(study):
    study.tables["run"].append({**study.tables["run"][0], "name": "other"})
    study.edit("run")
    assert study.cmon("activations", "--checkpoint", "other/epoch_2").code == 0
    assert recorded(study) == activations("epoch_2", run="other")
    study.cmon("activations", "--checkpoint", "other/epoch_9").fails(2, "no other/epoch_9")


def test_what_is_missing_is_named_a_line_each_as_a_checkpoint_is_asked_for(study):
    result = study.cmon("status", "--missing")
    assert result.code == 3
    assert result.out.splitlines() == ["plain/epoch_1", "plain/epoch_2", "plain/epoch_3"]
    for unit in result.out.splitlines()[1:]:
        assert study.cmon("activations", "--checkpoint", unit).code == 0
        assert study.cmon("dissect", "--checkpoint", unit).code == 0
    assert study.cmon("status", "--missing").out == "plain/epoch_1\n"
    assert study.cmon("run").code == 0
    assert study.cmon("status", "--missing") == (0, "", "")
    save_checkpoint(study.checkpoint("epoch_2"), seed=9, epoch=2)
    assert study.cmon("status", "--missing").out == "plain/epoch_2\n"


# What is submitted


def test_three_chained_jobs_are_submitted_and_told_as_json(study, slurm):
    told = submitted(study, "--shards", "2", "--", "--partition", "gpu", "--time=2:00:00")
    assert told["jobs"] == {"activations": "41", "dissect": "42", "join": "43"}
    assert told["shards"] == 2
    folder = Path(told["folder"])
    assert folder.parent == study.workspace / "jobs"
    assert (folder / "log").is_dir()  # Slurm would not make it, and kill the job without a word
    first, second, third = slurm.calls
    for call, stage in zip(slurm.calls, told["jobs"], strict=True):
        assert call.endswith(f"--partition gpu --time=2:00:00 {folder}/{stage}.sh")
        assert "--parsable" in call
        assert "--requeue" in call
        assert "--open-mode=append" in call
    for call in (first, second):
        assert "--array=0-1" in call
        assert "--signal=B:USR1@120" in call
    assert "--dependency" not in first
    assert "--dependency=aftercorr:41 --kill-on-invalid-dep=yes" in second
    assert "--dependency=afterany:42 --kill-on-invalid-dep=yes" in third
    assert "--array" not in third


def test_a_job_that_submits_gives_none_of_its_sizes_on(study, slurm, monkeypatch):
    for name in ("SLURM_NTASKS", "SLURM_JOB_ID", "SBATCH_TIMELIMIT", "SBATCH_PARTITION", "SLURM_CONF"):
        monkeypatch.setenv(name, "here")
    submitted(study)
    assert slurm.environment == {"SLURM_CONF=here"}


def test_a_dry_run_prints_scripts_and_submits_nothing(study, slurm):
    result = study.cmon("submit", "--shards", "3", "--dry-run", "--", "--mem=4G")
    assert result.code == 0
    assert slurm.calls == []
    assert not study.workspace.exists()
    assert result.out.count("#!/bin/bash") == 3
    assert result.out.count("--mem=4G") == 3
    assert '--shard "${SLURM_ARRAY_TASK_ID}/3"' in result.out
    assert "aftercorr:ACTIVATIONS_JOB" in result.out


def test_there_are_no_more_shards_than_units_that_lack_something(study, slurm):
    assert study.cmon("activations").code == 0
    for name in ("epoch_1", "epoch_3"):
        assert study.cmon("dissect", "--checkpoint", name).code == 0
    told = submitted(study, "--shards", "16")
    assert told["shards"] == 1
    assert json.loads((Path(told["folder"]) / "manifest.json").read_text())["due"] == ["plain/epoch_2"]
    assert study.cmon("dissect").code == 0
    told = submitted(study, "--shards", "16")
    assert told["jobs"].keys() == {"join"}
    assert "--dependency" not in slurm.calls[-1]


def test_nothing_is_submitted_where_all_is_current(finished, slurm):
    assert submitted(finished, "--shards", "4") == {"folder": None, "shards": 0, "jobs": {}}
    assert slurm.calls == []


def test_lost_evidence_is_submitted_though_no_unit_lacks_anything(finished, slurm):
    (finished.workspace / "evidence.h5").unlink()
    assert submitted(finished, "--shards", "4")["shards"] == 1


def test_jobs_of_a_chain_that_breaks_are_cancelled(study, slurm):
    slurm.refuse("aftercorr")
    study.cmon("submit", "--shards", "2").fails(1, "sbatch", "refused: no such partition")
    assert slurm.calls[-1] == "scancel 41"


@pytest.mark.parametrize(
    "words", [["--array=0-9%2"], ["-a", "1"], ["-d1"], ["--dependency", "afterok:1"], ["--wrap=ls"]]
)
def test_an_option_that_would_break_the_chain_is_refused(study, slurm, words):
    study.cmon("submit", "--", *words).fails(2, words[0], "for cmon to set")
    assert slurm.calls == []
    assert study.cmon("submit", "--", "--account=a", "--deadline=now", "-A", "d", "-p", "array").code == 0


def test_without_slurm_one_line_says_so(study, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    study.cmon("submit").fails(1, "sbatch", "is not on this machine", "--shard")


# What a job does, run by hand


def job(told, stage, task=0, **environment):
    """Run a job's script as Slurm would."""
    script = ["bash", Path(told["folder"]) / f"{stage}.sh"]
    everything = {**os.environ, "SLURM_ARRAY_TASK_ID": str(task), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(script, capture_output=True, text=True, env=everything, check=False)


def test_scripts_do_what_one_command_does_byte_for_byte(finished, tmp_path, slurm):
    odd = TinyStudy(Path(shutil.copytree(finished.folder, tmp_path / 'it\'s 100% "odd" $HOME & co')))
    shutil.rmtree(odd.workspace)
    told = submitted(odd, "--shards", "2")
    for stage, task in [("activations", 1), ("activations", 0), ("dissect", 0), ("dissect", 1), ("join", 0)]:
        done = job(told, stage, task)
        assert done.returncode == 0, done.stderr
    assert done.stdout == f"{odd.workspace}/report/index.html\n"
    for name in odd.files():
        if not name.startswith(("jobs", "report/index.html", "report/manifest.json")):  # the page names its folder
            assert (odd.workspace / name).read_bytes() == (finished.workspace / name).read_bytes(), name


def test_what_a_training_adds_meanwhile_moves_no_unit_to_another_shard(study, slurm):
    told = submitted(study, "--shards", "2")
    save_checkpoint(study.checkpoint("epoch_0"), seed=8, epoch=0)  # first of all
    assert job(told, "activations", 0).returncode == 0
    assert recorded(study) == activations("epoch_1", "epoch_3")
    for stage, task in [("activations", 1), ("dissect", 0), ("dissect", 1), ("join", 0)]:
        done = job(told, stage, task)
        assert done.returncode == 0, done.stderr
    assert list(study.datasets("embedding/clip_dissect.h5")["checkpoints/name"]) == [b"epoch_1", b"epoch_2", b"epoch_3"]
    assert "changed: checkpoints" in study.cmon("status").out


def test_the_join_labels_what_a_failed_neighbour_held_up_and_names_what_is_missing(study, slurm):
    study.checkpoint("epoch_3").write_bytes(b"spoiled")
    os.utime(study.checkpoint("epoch_3"), (0, 0))
    told = submitted(study, "--shards", "2")
    script = Path(told["folder"]) / "join.sh"
    script.write_text(script.read_text().replace("--wait 60", "--wait 0"))
    assert job(told, "activations", 0).returncode == 1
    assert job(told, "activations", 1).returncode == 0
    assert job(told, "dissect", 1).returncode == 0
    done = job(told, "join")
    assert done.returncode == 3
    assert "1 of 3 checkpoints have no current labels: plain/epoch_3 (missing)" in done.stderr
    assert study.cmon("status", "--missing").out == "plain/epoch_3\n"


def test_a_config_that_changed_since_is_refused_and_a_comment_is_no_change(study, slurm):
    told = submitted(study)
    study.config.write_text(study.config.read_text() + "\n# a comment\n")
    assert job(told, "activations").returncode == 0
    study.edit("activations", pooling="max")
    for stage in ("activations", "dissect", "join"):
        done = job(told, stage)
        assert done.returncode == 2
        assert f"error: {study.config}: changed since it was submitted: activations.pooling" in done.stderr


@pytest.mark.parametrize("text", ["", "[]", '{"config": 1}', "\0"])
def test_a_manifest_that_is_none_is_one_line(study, text):
    path = study.folder / "manifest.json"
    path.write_text(text)
    study.cmon("activations", "--manifest", str(path)).fails(1, "manifest.json", "submit again")
    study.cmon("embed", "--manifest", str(study.folder / "absent")).fails(1, "absent")


def test_a_checkpoint_that_is_gone_since_is_named(study, slurm):
    told = submitted(study, "--shards", "1")
    study.checkpoint("epoch_2").unlink()
    done = job(told, "activations")
    assert done.returncode == 1
    assert "epoch_2.pt: No such file" in done.stderr
    assert recorded(study) == activations("epoch_1", "epoch_3")


# The end of a job's time


def signalled(study, *numbers, after="epoch_1", **environment):
    """Start a slow array task, and send it signals once a checkpoint is done, or at once."""
    change_model(study, "return self.second", NAPPING)
    study.edit("activations", batch_size=1)
    task = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2", "SLURM_JOB_ID": "9", **environment}
    process = study.spawn("activations", "--requeue", NAP="0.1", **task)
    line = ""
    while after not in line:
        line = process.stderr.readline()
        assert line, "it ended before"
    time.sleep(0.3)
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.3)
    _, err = process.communicate(timeout=60)
    assert not study.leftovers()
    return process.returncode, err.splitlines()[-1]


def test_a_job_is_warned_finishes_the_unit_in_hand_and_starts_again(study, slurm):
    code, told = signalled(study, signal.SIGUSR1)
    assert code == 75
    assert told.endswith("run the same command to go on; requeued as job 7_2")
    assert slurm.calls == ["scontrol requeue 7_2"]
    assert recorded(study) == activations("epoch_1", "epoch_2")


def test_a_job_whose_time_is_over_before_its_unit_is_done_starts_again(study, slurm):
    slurm.says_of_the_job("JobId=9 JobState=COMPLETING Reason=TimeLimit Dependency=(null)")
    code, told = signalled(study, signal.SIGUSR1, signal.SIGTERM)
    assert (code, told.rpartition("; ")[2]) == (75, "requeued as job 7_2")
    assert slurm.calls[-1] == "scontrol requeue 7_2"
    assert recorded(study) == activations("epoch_1")


def test_a_job_that_finished_nothing_in_its_time_is_not_started_for_ever(finished, slurm):
    for name in activations("epoch_1", "epoch_2", "epoch_3"):
        (finished.workspace / name).unlink()
    slurm.says_of_the_job("JobId=9 JobState=COMPLETING Reason=TimeLimit Dependency=(null)")
    change_model(finished, "import torch\n", "import sys, torch\nprint('begun', file=sys.stderr, flush=True)\n")
    code, told = signalled(finished, signal.SIGUSR1, signal.SIGTERM, after="begun")
    assert code == 75
    assert "one unit of work needs longer than this job's time limit" in told
    assert not any("requeue" in call for call in slurm.calls)


@pytest.mark.parametrize("numbers", [(signal.SIGTERM,), (signal.SIGUSR1, signal.SIGTERM)])
def test_a_job_that_its_user_cancelled_stays_cancelled(study, slurm, numbers):
    slurm.says_of_the_job("JobId=9 JobState=COMPLETING Reason=None Dependency=(null)")
    code, told = signalled(study, *numbers)
    assert code == 143
    assert told.endswith("run the same command to go on")
    assert not any("requeue" in call for call in slurm.calls)


def test_outside_of_slurm_a_requeue_says_so(study, slurm):
    change_model(study, "return self.second", NAPPING)
    process = study.spawn("activations", "--requeue", NAP="0.5")
    while "epoch_1" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert err.splitlines()[-1].endswith("not requeued: --requeue: this is no job of Slurm")
