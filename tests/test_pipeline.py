import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import WORDS, TinyStudy, cmon, save_checkpoint

from cmon import fingerprint

EPOCHS = ("epoch_1", "epoch_2", "epoch_3")
REPORT = {
    "report/index.html",
    "report/manifest.json",
    "report/clip_dissect/units.csv",
    "report/clip_dissect/concepts.csv",
    "report/clip_dissect/layers.csv",
    "report/clip_dissect/plain/categories.png",
    "report/clip_dissect/plain/categories.csv",
}
JOINT = {"embedding/clip_dissect.h5"} | REPORT


def activations(*names, run="plain"):
    return {f"activations/{run}/{name}.h5" for name in names}


def labels(*names, run="plain", detector="clip_dissect"):
    return {f"similarity/{detector}/{run}/{name}.h5" for name in names}


def results(study):
    return {name for name in study.files() if not name.startswith("cache/")}


def changed_by_a_run(study, before=None):
    """Run the study and say what is another file than before."""
    before = study.files() if before is None else before
    result = study.cmon("run")
    assert result.code == 0, result.err
    return study.changed(before), result


def steps(study):
    with h5py.File(study.workspace / "embedding/clip_dissect.h5") as file:
        return {
            name.decode(): int(step)
            for name, step in zip(file["checkpoints/name"], file["checkpoints/step"], strict=True)
        }


def same(first, second):
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name], equal_nan=first[name].dtype.kind == "f")
        if isinstance(first[name], np.ndarray)
        else first[name] == second[name]
        for name in first
    )


def write_attribute(path, name, value):
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        file.attrs[name] = value


def spying(*words, on):
    """Run the command line in a process of its own that says at its end which of some modules it has imported."""
    code = (
        f"import sys\nfrom cmon.cli import main\ntry:\n main()\nfinally:\n print([m for m in {on} if m in sys.modules])"
    )
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)


def processor_s():
    """Return the processor's seconds in processes that have ended: others beside them take none of these."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture
def remembering(monkeypatch):
    """Let hashes be remembered however young the files are, as they are in a study that took longer than a test."""
    monkeypatch.setattr(fingerprint, "RACY_S", -3600)


def test_a_run_makes_every_file(study):
    result = study.cmon("run")
    assert result.code == 0
    assert result.out == f"{study.workspace}/report/index.html\n"
    assert results(study) == {"evidence.h5"} | activations(*EPOCHS) | labels(*EPOCHS) | JOINT
    assert not study.leftovers()


def test_a_second_run_makes_nothing_and_touches_nothing(finished):
    changed, result = changed_by_a_run(finished)
    assert changed == set()
    assert "activations: 0 made, 4 current" in result.err


def test_a_finished_study_may_be_moved(finished, tmp_path):
    moved = TinyStudy(finished.folder.rename(tmp_path / "moved"))
    assert changed_by_a_run(moved)[0] == set()


def test_another_checkpoint_under_a_known_name_rebuilds_what_rests_on_it_only(finished):
    save_checkpoint(finished.checkpoint("epoch_2"), seed=20, epoch=2)
    changed, result = changed_by_a_run(finished)
    assert changed == activations("epoch_2") | labels("epoch_2") | JOINT
    assert "activations plain/epoch_2: changed: checkpoint\n" in result.err


def test_swapped_checkpoints_of_one_size_and_time_are_noticed(finished, remembering):
    first, second = finished.checkpoint("epoch_1"), finished.checkpoint("epoch_2")
    save_checkpoint(first, seed=1)
    save_checkpoint(second, seed=2)
    for path in (first, second):
        os.utime(path, ns=(10**18, 10**18))
    finished.edit("run", steps=[1, 2, 3])
    assert first.stat().st_size == second.stat().st_size
    assert finished.cmon("run").code == 0
    before = {name: finished.datasets(f"activations/plain/{name}.h5") for name in EPOCHS}
    first.rename(first.with_suffix(".kept"))
    second.rename(first)
    first.with_suffix(".kept").rename(second)
    assert {path.stat().st_mtime_ns for path in (first, second)} == {10**18}
    changed, _ = changed_by_a_run(finished)
    assert activations("epoch_1", "epoch_2") <= changed
    after = {name: finished.datasets(f"activations/plain/{name}.h5") for name in EPOCHS}
    key = "layers/first/mean"
    assert np.array_equal(before["epoch_1"][key], after["epoch_2"][key])
    assert np.array_equal(before["epoch_2"][key], after["epoch_1"][key])
    assert not np.array_equal(before["epoch_1"][key], after["epoch_1"][key])


def test_hashes_are_remembered_so_that_a_second_run_reads_no_checkpoint(study, remembering, monkeypatch):
    assert study.cmon("run").code == 0
    monkeypatch.setattr(fingerprint, "file_sha256", lambda path: pytest.fail(f"{path} was read again"))
    assert study.cmon("activations").code == 0


def test_hashes_are_remembered_also_when_a_stage_stops_early(study, remembering, monkeypatch):
    study.edit("run", layers=["absent"])
    assert study.cmon("activations").code == 2
    monkeypatch.setattr(fingerprint, "file_sha256", lambda path: pytest.fail(f"{path} was read again"))
    assert study.cmon("activations").code == 2


def test_a_figures_option_rebuilds_the_report_only(finished):
    finished.edit("report", dpi=60)
    changed, result = changed_by_a_run(finished)
    assert changed == REPORT
    assert "report: changed: dpi\n" in result.err


def test_a_figure_that_is_no_longer_wanted_is_deleted(finished):
    finished.edit("report", figures=["top_units"])
    assert finished.cmon("run").code == 0
    folder = finished.workspace / "report/clip_dissect/plain"
    assert sorted(path.name for path in folder.iterdir()) == ["top_units.csv", "top_units.png"]


def test_another_pooling_is_named_as_the_reason(finished):
    finished.edit("activations", pooling="max")
    changed, result = changed_by_a_run(finished)
    assert changed == activations(*EPOCHS) | labels(*EPOCHS) | JOINT
    assert "activations plain/epoch_1: changed: pooling\n" in result.err


def test_a_detectors_parameter_leaves_activations_alone(finished):
    finished.edit("detector", top_k=6)
    changed, result = changed_by_a_run(finished)
    assert changed == labels(*EPOCHS) | JOINT
    assert "similarity clip_dissect plain/epoch_1: changed: detector.top_k\n" in result.err


@pytest.mark.parametrize(("tau", "reason"), [("fdr:0.1", "tau"), (0.25, "tau, permutations")])
def test_another_tau_is_named_as_the_reason_and_leaves_activations_alone(finished, tau, reason):
    finished.edit("detector", tau=tau)
    changed, result = changed_by_a_run(finished)
    assert changed == labels(*EPOCHS) | JOINT
    assert f"similarity clip_dissect plain/epoch_1: changed: {reason}\n" in result.err


def test_another_category_or_prompt_encodes_no_image_again(finished, monkeypatch):
    from cmon.activations import evidence as stage
    from cmon.encoders import open_encoder

    def words_only(*arguments):
        encoder = open_encoder(*arguments)
        monkeypatch.setattr(type(encoder), "image_features", lambda *_: pytest.fail("images are encoded again"))
        return encoder

    before = finished.datasets("evidence.h5")
    monkeypatch.setattr(stage, "open_encoder", words_only)
    words = finished.folder / "words.csv"
    words.write_text("concept,category\n" + "".join(f"{word},thing\n" for word in reversed(WORDS)))
    finished.edit("concepts", file=str(words))
    changed, _ = changed_by_a_run(finished)
    assert changed == {"evidence.h5"} | labels(*EPOCHS) | JOINT
    after = finished.datasets("evidence.h5")
    assert np.array_equal(after["image_features"], before["image_features"])
    assert np.array_equal(after["concept_features"], before["concept_features"][::-1])


def test_other_anchors_rebuild_the_embedding_and_the_report_only(finished):
    finished.edit("embed", anchors=["cat"])
    changed, result = changed_by_a_run(finished)
    assert changed == JOINT
    assert "embedding clip_dissect: changed: anchors\n" in result.err


def test_another_model_file_or_argument_is_noticed(finished):
    model = finished.folder / "net.py"
    model.write_text(model.read_text().replace("torch.relu_", "torch.tanh"))
    changed, result = changed_by_a_run(finished)
    assert activations(*EPOCHS) <= changed
    assert "changed: model.sha256" in result.err
    finished.edit("run", model_args={"width": 8})
    assert "changed: model.arguments.width" in changed_by_a_run(finished)[1].err


def test_another_byte_of_an_image_is_noticed(finished):
    path = finished.folder / "images" / "03.png"
    (finished.folder / "images" / "04.png").replace(path.with_suffix(".kept"))
    path.replace(path.with_name("04.png"))
    path.with_suffix(".kept").replace(path)
    changed, result = changed_by_a_run(finished)
    assert {"evidence.h5"} | activations(*EPOCHS) <= changed
    assert "evidence: changed: probe\n" in result.err


def test_a_new_checkpoint_is_made_and_joined_and_the_others_are_kept(finished):
    save_checkpoint(finished.checkpoint("epoch_4"), seed=4, epoch=4)
    changed, _ = changed_by_a_run(finished)
    assert changed == activations("epoch_4") | labels("epoch_4") | JOINT
    assert steps(finished)["epoch_4"] == 4


def test_a_removed_checkpoint_leaves_the_joint_files(finished):
    finished.checkpoint("epoch_2").unlink()
    changed, _ = changed_by_a_run(finished)
    assert changed == JOINT
    assert set(steps(finished)) == {"epoch_1", "epoch_3"}
    assert "epoch_2" not in (finished.workspace / "report/clip_dissect/units.csv").read_text()


def test_a_renamed_checkpoint_has_the_same_numbers_under_its_new_name(finished):
    before = finished.datasets("activations/plain/epoch_3.h5")
    finished.checkpoint("epoch_3").rename(finished.checkpoint("last"))
    changed, _ = changed_by_a_run(finished)
    assert changed == activations("last") | labels("last") | JOINT
    assert same(before, finished.datasets("activations/plain/last.h5"))
    assert set(steps(finished)) == {"epoch_1", "epoch_2", "last"}


def test_checkpoints_of_one_name_in_two_runs_share_nothing(study):
    for epoch in (1, 2):
        save_checkpoint(study.folder / "others" / f"epoch_{epoch}.pt", seed=10 + epoch, epoch=epoch)
    study.tables["run"].append({**study.tables["run"][0], "name": "other", "checkpoints": "others"})
    study.edit("run")
    assert study.cmon("run").code == 0
    assert activations(*EPOCHS) | activations("epoch_1", "epoch_2", run="other") <= results(study)
    found = [study.datasets(f"activations/{run}/epoch_1.h5")["layers/first/mean"] for run in ("plain", "other")]
    assert not np.array_equal(*found)
    rows = [line.split(",") for line in (study.workspace / "report/clip_dissect/layers.csv").read_text().splitlines()]
    assert [row[:4] for row in rows[1:]] == [
        [run, f"epoch_{epoch}", str(epoch), layer]
        for run, epochs in (("plain", (1, 2, 3)), ("other", (1, 2)))
        for epoch in epochs
        for layer in ("first", "second")
    ]


def test_a_second_detector_is_made_beside_the_first(finished):
    finished.tables["detector"].append({"kind": "clip_dissect", "name": "cosine", "similarity": "cos_similarity"})
    finished.edit("detector")
    changed, _ = changed_by_a_run(finished)
    assert labels(*EPOCHS, detector="cosine") | {"embedding/cosine.h5", "report/cosine/units.csv"} <= changed
    assert not changed & ({"embedding/clip_dissect.h5"} | labels(*EPOCHS) | activations(*EPOCHS))
    page = (finished.workspace / "report/index.html").read_text()
    assert "plain, clip_dissect" in page
    assert "plain, cosine" in page


def test_steps_come_from_the_config_else_the_content_else_the_name(study):
    assert study.cmon("run").code == 0
    assert steps(study) == {"epoch_1": 1, "epoch_2": 2, "epoch_3": 3}
    for epoch, step in ((1, 30), (2, 20), (3, 10)):
        save_checkpoint(study.checkpoint(f"epoch_{epoch}"), seed=epoch, epoch=step)
    assert study.cmon("run").code == 0
    assert list(steps(study).items()) == [("epoch_3", 10), ("epoch_2", 20), ("epoch_1", 30)]
    for epoch in (1, 2, 3):
        save_checkpoint(study.checkpoint(f"epoch_{epoch}"), seed=epoch)
    assert study.cmon("run").code == 0
    assert steps(study) == {"epoch_1": 1, "epoch_2": 2, "epoch_3": 3}
    study.edit("run", steps=[5, 6, 7])
    assert changed_by_a_run(study)[0] == JOINT
    assert steps(study) == {"epoch_1": 5, "epoch_2": 6, "epoch_3": 7}


def test_the_batch_size_changes_no_number_and_rebuilds_nothing(finished):
    before = finished.datasets("activations/plain/epoch_1.h5")
    finished.edit("activations", batch_size=7)
    assert changed_by_a_run(finished)[0] == set()
    assert finished.cmon("run", "--force").code == 0
    after = finished.datasets("activations/plain/epoch_1.h5")
    for layer in ("first", "second"):
        np.testing.assert_allclose(before[f"layers/{layer}/mean"], after[f"layers/{layer}/mean"], rtol=1e-4, atol=1e-6)
    assert before["recipe"].tolist() == after["recipe"].tolist()


def test_equal_inputs_give_equal_numbers_in_two_workspaces(finished, study):
    assert study.cmon("run").code == 0
    assert results(study) == results(finished)
    for name in results(study):
        if name.endswith(".h5"):
            assert same(study.datasets(name), finished.datasets(name)), name
        elif name.endswith((".csv", ".png")):
            assert (study.workspace / name).read_bytes() == (finished.workspace / name).read_bytes(), name


def test_stages_one_by_one_make_what_a_run_makes(study, finished):
    for stage in ("activations", "dissect", "embed", "report"):
        result = study.cmon(stage)
        assert result.code == 0, result.err
    assert results(study) == results(finished)
    assert study.cmon("status").code == 0


@pytest.mark.parametrize(
    ("stage", "earlier", "file"),
    [
        ("dissect", "activations", "evidence.h5"),
        ("embed", "activations", "evidence.h5"),
        ("report", "embed", "embedding/clip_dissect.h5"),
    ],
)
def test_a_stage_before_its_inputs_says_which_to_run(study, stage, earlier, file):
    result = study.cmon(stage)
    result.fails(3, file, "missing", f"run cmon {earlier}")
    assert results(study) == set()


def test_embedding_before_labelling_says_which_stage_to_run(study):
    assert study.cmon("activations").code == 0
    study.cmon("embed").fails(3, "similarity/clip_dissect", "3 of 3 checkpoints", "run cmon dissect")


def test_labelling_stale_activations_is_refused_with_the_reason(finished):
    before = finished.files()
    finished.edit("activations", pooling="max")
    result = finished.cmon("dissect")
    result.fails(3, "activations/plain/epoch_1.h5", "changed: pooling", "run cmon activations", "and 2 more")
    finished.cmon("embed").fails(3, "3 of 3 checkpoints")
    finished.cmon("report").fails(3, "embedding/clip_dissect.h5", "changed: checkpoints", "run cmon embed")
    assert finished.changed(before) == set()


def test_a_missing_activations_file_is_not_missed_where_its_labels_are_current(finished):
    (finished.workspace / "activations/plain/epoch_2.h5").unlink()
    assert finished.cmon("dissect").code == 0
    assert "missing  activations/plain/epoch_2.h5\n" in finished.cmon("status").out
    assert changed_by_a_run(finished)[0] == activations("epoch_2")


@pytest.mark.parametrize("damage", ["deleted", "truncated"])
def test_a_lost_picture_is_drawn_again(finished, damage):
    picture = finished.workspace / "report/clip_dissect/plain/categories.png"
    whole = picture.read_bytes()
    picture.unlink()
    if damage == "truncated":
        picture.write_bytes(whole[:100])
    status = finished.cmon("status")
    assert status.code == 3
    assert "lost: clip_dissect/plain/categories.png" in status.out
    assert changed_by_a_run(finished, {})[0] >= REPORT
    assert picture.read_bytes() == whole


@pytest.mark.parametrize("manifest", ["", "[]", "{", '{"fingerprint": "", "recipe": {}, "files": []}', "\0"])
def test_a_damaged_list_of_the_reports_files_is_mended_by_the_report(finished, manifest):
    (finished.workspace / "report/manifest.json").write_text(manifest)
    status = finished.cmon("status")
    assert "damaged  report/index.html" in status.out
    assert changed_by_a_run(finished)[0] == REPORT


@pytest.mark.parametrize(
    ("file", "owner", "user", "table"),
    [
        ("evidence.h5", "activations", "dissect", "detector"),
        ("activations/plain/epoch_1.h5", "activations", "dissect", "detector"),
        ("similarity/clip_dissect/plain/epoch_1.h5", "dissect", "embed", "embed"),
        ("embedding/clip_dissect.h5", "embed", "report", "report"),
    ],
)
class TestAFileOfTheWorkspace:
    def test_that_is_damaged_is_refused_by_its_user_and_mended_by_its_owner(self, finished, file, owner, user, table):
        path = finished.workspace / file
        path.write_bytes(path.read_bytes()[:1000])
        finished.edit(table, **({"dpi": 60} if table == "report" else {"top_k": 4}))  # so that its user has work
        before = finished.files()
        finished.cmon(user).fails(3, file.split("/")[0], "is damaged", f"run cmon {owner}")
        assert finished.changed(before) <= labels("epoch_2", "epoch_3")
        assert f"damaged  {file}" in finished.cmon("status").out
        mended = finished.cmon(owner)
        assert mended.code == 0
        assert "is damaged" in mended.err
        assert f"current  {file}" in finished.cmon("status").out
        assert finished.cmon(user).code == 0

    def test_of_a_newer_cmon_is_never_overwritten(self, finished, file, owner, user, table):
        path = finished.workspace / file
        write_attribute(path, "format_version", 99)
        before = finished.files()
        result = finished.cmon(owner)
        result.fails(1, file, "newer than this cmon", "upgrade cmon")
        assert finished.changed(before) == set()
        assert f"{file}  (" in finished.cmon("status").out

    def test_that_is_not_cmons_is_never_overwritten(self, finished, file, owner, user, table):
        path = finished.workspace / file
        path.unlink()
        with h5py.File(path, "w") as other:
            other["years_of_work"] = [1, 2, 3]
        result = finished.cmon(owner)
        result.fails(1, file, "is not a cmon file", "move it away")
        with h5py.File(path) as other:
            assert list(other) == ["years_of_work"]

    def test_of_an_older_format_is_made_again(self, finished, file, owner, user, table):
        path = finished.workspace / file
        write_attribute(path, "format_version", 0)
        assert f"stale    {file}  (older file format)" in finished.cmon("status").out
        assert file in changed_by_a_run(finished)[0]


def test_a_flipped_byte_of_data_is_an_error_and_not_a_number(finished):
    path = finished.workspace / "activations/plain/epoch_2.h5"
    with h5py.File(path) as file:
        offset = file["layers/second/mean"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[offset + 5] ^= 1
    path.write_bytes(data)
    finished.edit("detector", top_k=6)
    before = finished.files()
    result = finished.cmon("dissect")
    result.fails(1, "epoch_2.h5", "is damaged", "delete it")
    assert finished.changed(before) == labels("epoch_1", "epoch_3")
    path.unlink()
    assert finished.cmon("run").code == 0


def test_status_lists_every_file_and_tells_by_its_exit_code(study, finished):
    nothing = study.cmon("status")
    assert nothing.code == 3
    assert nothing.out.count("missing ") == len(nothing.out.splitlines()) == 9
    assert not study.workspace.exists()
    everything = finished.cmon("status")
    assert everything.code == 0
    assert everything.out.count("current ") == len(everything.out.splitlines()) == 9


def test_status_goes_on_where_a_checkpoint_is_gone_behind_its_link(finished):
    path = finished.checkpoint("epoch_2")
    path.replace(finished.folder / "scratch.pt")
    path.symlink_to(finished.folder / "scratch.pt")
    assert finished.cmon("status").code == 0
    (finished.folder / "scratch.pt").unlink()
    status = finished.cmon("status")
    assert status.code == 3
    assert status.err == ""
    lines = {line.split()[1]: line for line in status.out.splitlines()}
    assert len(lines) == 9
    assert lines["activations/plain/epoch_1.h5"].startswith("current")
    for name in ("activations/plain/epoch_2.h5", "embedding/clip_dissect.h5", "report/index.html"):
        assert lines[name].startswith("stale")
        assert "epoch_2.pt: No such file" in lines[name]


def test_a_listed_checkpoint_that_is_gone_is_named(finished):
    finished.edit("run", checkpoints=[f"runs/{name}.pt" for name in EPOCHS])
    assert finished.cmon("status").code == 0
    finished.checkpoint("epoch_2").unlink()
    for command in ("status", "run"):
        finished.cmon(command).fails(2, "run plain: checkpoints", "there is no", "epoch_2.pt")


def test_a_dry_run_says_what_would_be_made_and_makes_nothing(study, finished):
    for words in (["run"], ["activations"]):
        result = study.cmon(*words, "--dry-run")
        assert result.code == 0
        assert "activations/plain/epoch_1" in result.out.replace("activations plain", "activations/plain")
        assert not study.workspace.exists()
    finished.edit("detector", top_k=6)
    before = finished.files()
    assert finished.cmon("run", "--dry-run").out.splitlines() == [
        *(f"similarity/clip_dissect/plain/{name}.h5: changed: detector.top_k" for name in EPOCHS),
        *("embedding/clip_dissect.h5: changed: " + ", ".join(f"checkpoints.plain/{name}" for name in EPOCHS),),
        "report/index.html: changed: embedding.clip_dissect",
    ]
    assert finished.cmon("dissect", "--dry-run").out.count("similarity clip_dissect plain/") == 3
    assert finished.changed(before) == set()


@pytest.mark.parametrize(
    ("stage", "files"),
    [
        ("activations", {"evidence.h5"} | activations(*EPOCHS)),
        ("dissect", labels(*EPOCHS)),
        ("embed", {"embedding/clip_dissect.h5"}),
        ("report", REPORT),
    ],
)
def test_force_makes_again_what_the_stage_owns(finished, stage, files):
    before = finished.files()
    assert finished.cmon(stage, "--force").code == 0
    assert finished.changed(before) == files
    assert finished.cmon("status").code == 0


def test_runs_and_checkpoints_can_be_chosen(study):
    assert study.cmon("activations", "--checkpoint", "epoch_2", "--run", "plain").code == 0
    assert results(study) == {"evidence.h5"} | activations("epoch_2")
    assert study.cmon("dissect", "--checkpoint", "epoch_2").code == 0
    assert labels("epoch_2") <= results(study)
    study.cmon("activations", "--checkpoint", "epoch_9").fails(2, "--checkpoint", "no epoch_9", "epoch_")
    study.cmon("dissect", "--run", "plane").fails(2, "--run", "no plane", "plain")


def test_a_chosen_run_does_not_wait_for_the_checkpoints_of_another(study):
    study.tables["run"].append({**study.tables["run"][0], "name": "later", "checkpoints": "later/*.pt"})
    study.edit("run")
    assert study.cmon("activations", "--run", "plain").code == 0
    study.cmon("activations").fails(2, "run later: checkpoints", "later/*.pt")


def test_progress_is_one_line_per_checkpoint_and_quiet_is_quiet(study, finished):
    lines = study.cmon("run").err.splitlines()
    assert [line.split("  ")[0] for line in lines if line.startswith("activations plain")] == [
        f"activations plain {number}/3 epoch_{number}" for number in (1, 2, 3)
    ]
    assert finished.cmon("run", "--force", "--quiet").err == ""


def test_files_of_killed_processes_are_swept_once_they_are_old(study):
    folder = study.workspace / "cache/pixels"
    folder.mkdir(parents=True)
    old, young = folder / ".0123.tmp", folder / ".4567.tmp"
    for path in (old, young):
        path.write_text("half a file")
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    assert study.cmon("run").code == 0
    assert study.leftovers() == [young]


def test_a_run_of_a_finished_study_is_quick_and_imports_no_torch(finished):
    times_s = []
    for _ in range(3):
        start = processor_s()
        done = spying("run", str(finished.config), on=("torch", "torchvision", "umap", "open_clip", "sklearn"))
        times_s.append(processor_s() - start)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "[]"
    assert min(times_s) < 3


@pytest.mark.parametrize("words", [[], ["run"], ["status"]])
def test_help_is_quick_and_imports_nothing_heavy(words):
    times_s = []
    for _ in range(3):
        start = processor_s()
        done = spying(*words, "--help", on=("torch", "h5py", "numpy", "matplotlib", "PIL", "scipy"))
        times_s.append(processor_s() - start)
        assert done.returncode == 0, done.stderr
        assert "Usage: cmon" in done.stdout
        assert done.stdout.splitlines()[-1] == "[]"
    assert min(times_s) < 0.4


def test_the_schema_describes_every_table():
    result = cmon("schema")
    assert result.code == 0
    described = json.loads(result.out)
    assert {"probe", "encoder", "run", "detector", "embed", "report"} <= set(described["properties"])


def test_the_version_is_printed():
    from cmon import __version__

    assert cmon("--version").out == f"{__version__}\n"


def test_without_a_command_there_is_help():
    result = cmon()
    assert result.code == 2
    assert "Usage: cmon" in result.out
    assert result.err == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["walk"], "walk"),
        (["run"], "config"),
        (["run", "study.toml", "--forse"], "--forse"),
        (["embed", "study.toml", "--run", "plain"], "--run"),
    ],
)
def test_wrong_usage_is_one_line(words, told):
    cmon(*words).fails(2, told, "cmon --help")


def test_a_closed_pipe_ends_quietly(finished):
    command = f"{sys.executable} -m cmon schema | head -c 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert done.stdout == "{"


def test_the_page_needs_no_other_file_and_escapes_what_it_shows(study):
    study.edit("embed", anchors=["dog"])
    names = study.folder / "concepts.txt"
    names.write_text(names.read_text().replace("dot", "<script>alert(1)</script>"))
    assert study.cmon("run").code == 0
    page = Path(study.workspace / "report/index.html").read_text()
    assert "<script" not in page
    assert 'src="data:image/png;base64,' in page
