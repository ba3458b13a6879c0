"""Runs of one study beside one another: what is compared with what, from the config to the report."""

import csv
import shutil

import h5py
import numpy as np
import pytest
from conftest import TinyStudy, save_checkpoint

from cmon.stores import read_activations, read_matches, read_study

COMPARING = ["compare_categories", "compare_units", "accuracy", "pruning"]


@pytest.fixture(scope="module")
def two(prepared, tmp_path_factory):
    """A study of two runs, whose last networks are one another's with the units of both layers reversed."""
    study = TinyStudy(shutil.copytree(prepared, tmp_path_factory.mktemp("two") / "study"))
    for epoch in (1, 2, 3):
        save_checkpoint(study.checkpoint(f"epoch_{epoch}", "others"), seed=10 + epoch, epoch=epoch)
    reverse(study.checkpoint("epoch_3"), study.checkpoint("epoch_3", "others"))
    (study.folder / "metrics.csv").write_text("checkpoint,accuracy,loss\nepoch_1,0.25,2\nepoch_3,0.75,1\n")
    plain = study.tables["run"][0]
    study.tables["run"] = [{**plain, "metrics": "metrics.csv"}, {**plain, "name": "other", "checkpoints": "others"}]
    study.edit("report", figures=COMPARING)
    result = study.cmon("run")
    assert result.code == 0, result.err
    study.said = result.err
    return study


@pytest.fixture
def compared(two, tmp_path):
    study = TinyStudy(shutil.copytree(two.folder, tmp_path / "study"))
    study.tables = {**two.tables, "run": [dict(run) for run in two.tables["run"]]}
    study.tables["report"] = dict(two.tables["report"])
    return study


def reverse(source, target):
    """Save a network with its units in the reverse order."""
    import torch

    weights = torch.load(source)["state_dict"]
    weights = {name: value.flip(0) for name, value in weights.items()}
    weights["second.weight"] = weights["second.weight"].flip(1)
    torch.save({"epoch": 3, "state_dict": weights}, target)


def rows(study, name):
    with (study.workspace / "report" / name).open() as file:
        return list(csv.DictReader(file))


def test_figures_of_all_runs_are_drawn_where_nothing_else_is_said(two):
    folder = two.workspace / "report" / "clip_dissect" / "compare~all"
    assert {path.stem for path in folder.iterdir()} == {"compare_categories", "compare_units", "accuracy"}
    assert "plain, other" in (two.workspace / "report" / "index.html").read_text()


def test_a_figure_that_the_config_names_and_that_has_nothing_to_show_is_a_warning(two):
    assert "pruning of comparison all is not drawn: " in two.said
    assert "accuracy of" not in two.said


def test_a_figure_that_takes_two_is_a_warning_where_there_is_one(finished):
    finished.edit("report", figures=["categories", "agreement", "compare_units"])
    result = finished.cmon("report")
    assert result.code == 0
    assert "warning: compare_units is not drawn: it takes two runs" in result.err
    assert "warning: agreement is not drawn: it takes two detectors" in result.err


def test_a_figure_that_is_drawn_by_default_is_left_out_silently(compared):
    del compared.tables["report"]["figures"]
    compared.edit("report", dpi=51)
    result = compared.cmon("report")
    assert result.code == 0, result.err
    assert "not drawn" not in result.err
    assert not list(compared.workspace.rglob("pruning.png"))


def test_reversed_units_are_matched_with_what_they_are(two):
    found = {match.layer: match for match in read_matches(two.workspace / "matches.h5")}
    for layer, units in ((0, 6), (1, 8)):
        match = found[layer]
        assert (match.run, match.other, match.checkpoint, match.other_checkpoint, match.same_start) == (
            0,
            1,
            2,
            5,
            False,
        )
        assert match.partner.tolist() == [units - 1 - unit for unit in match.unit.tolist()]
        np.testing.assert_allclose(match.correlation, 1, atol=1e-4)


def test_runs_of_one_start_are_compared_by_number(compared):
    for run in compared.tables["run"]:
        run["start"] = "seed 0"
    compared.edit("report")
    before = compared.files()
    assert compared.cmon("embed").code == 0
    assert compared.changed(before) == {"matches.h5"}
    values = [
        read_activations(compared.workspace / "activations" / run / "epoch_3.h5", "mean").layers[1].values
        for run in ("plain", "other")
    ]
    match = next(match for match in read_matches(compared.workspace / "matches.h5") if match.layer == 1)
    assert match.same_start
    assert match.partner.tolist() == list(range(8))
    expected = [np.corrcoef(values[0][:, unit], values[1][:, unit])[0, 1] for unit in range(8)]
    np.testing.assert_allclose(match.correlation, expected, atol=1e-5)


def test_runs_of_one_start_need_layers_of_one_size(compared):
    def wider(path):
        import torch

        weights = torch.load(path)["state_dict"]
        weights = {
            name: value.repeat(2, *[1] * (value.dim() - 1)) if "second" in name else value
            for name, value in weights.items()
        }
        torch.save({"epoch": int(path.stem[-1]), "state_dict": weights}, path)

    for epoch in (1, 2, 3):
        wider(compared.checkpoint(f"epoch_{epoch}", "others"))
    compared.tables["run"][1]["model_args"] = {"width": 16}
    for run in compared.tables["run"]:
        run["start"] = "seed 0"
    compared.edit("report")
    compared.cmon("run").fails(2, "run other: start", "8 and 16 units in second")


def test_a_comparison_takes_the_runs_that_it_names_in_their_order(compared):
    compared.edit("report", compare={"turned": ["other", "plain"]})
    assert compared.cmon("run").code == 0
    folder = compared.workspace / "report" / "clip_dissect"
    assert (folder / "compare~turned").is_dir()
    assert not list((folder / "compare~all").glob("*"))
    assert {(match.run, match.other) for match in read_matches(compared.workspace / "matches.h5")} == {(1, 0)}


def test_other_runs_are_compared_in_the_order_of_the_comparison(compared):
    third = {**compared.tables["run"][1], "name": "third"}
    compared.tables["run"].append(third)
    compared.edit("report", figures=["compare_units"], compare={"x": ["plain", "third", "other"]})
    assert compared.cmon("run").code == 0
    table = rows(compared, "clip_dissect/compare~x/compare_units.csv")
    assert list(dict.fromkeys(row["other"] for row in table)) == ["third", "other"]


@pytest.mark.parametrize(
    ("compare", "words"),
    [
        ({"x": ["plain", "odd"]}, ["report.compare.x", "no run odd", "plain, other"]),
        ({"x": ["plain"]}, ["report.compare.x", "two runs or more"]),
        ({"x": ["plain", "plain"]}, ["report.compare.x", "each once"]),
        ({"a/b": ["plain", "other"]}, ["report.compare"]),
    ],
)
def test_a_wrong_comparison_is_refused_before_any_work(compared, compare, words):
    compared.edit("report", compare=compare)
    compared.cmon("status").fails(2, *words)


def test_metrics_are_drawn_and_their_table_redraws_the_report_only(compared):
    table = rows(compared, "clip_dissect/compare~all/accuracy.csv")
    told = {(row["run"], row["checkpoint"]): row for row in table if row["metric"] == "accuracy"}
    assert float(told["plain", "epoch_3"]["value"]) == 0.75
    before = compared.files()
    text = (compared.folder / "metrics.csv").read_text()
    (compared.folder / "metrics.csv").write_text(text.replace("0.75", "0.5"))
    assert compared.cmon("run").code == 0
    assert all(name.startswith("report/") for name in compared.changed(before))
    table = rows(compared, "clip_dissect/compare~all/accuracy.csv")
    assert 0.5 in [
        float(row["value"]) for row in table if row["metric"] == "accuracy" and row["checkpoint"] == "epoch_3"
    ]


def test_metrics_that_are_not_there_are_an_error_before_any_work(compared):
    (compared.folder / "metrics.csv").unlink()
    before = compared.files()
    compared.cmon("activations", "--force").fails(2, "run plain: metrics", "No such file")
    assert not compared.changed(before)


def test_a_wrong_field_of_metrics_names_its_line(compared):
    (compared.folder / "metrics.csv").write_text("checkpoint,accuracy\nepoch_1,good\n")
    compared.cmon("report").fails(2, "metrics.csv", "line 2", "'good'")


def test_layers_may_have_other_names_in_tables_and_figures(compared):
    compared.tables["run"][1]["layer_names"] = {"first": "early", "second": "late"}
    compared.edit("report", figures=["compare_categories"])
    before = compared.files()
    assert compared.cmon("run").code == 0
    assert not [name for name in compared.changed(before) if name.startswith(("activations", "similarity"))]
    assert read_study(compared.workspace / "embedding" / "clip_dissect.h5").layers == (
        "first",
        "second",
        "early",
        "late",
    )
    table = rows(compared, "clip_dissect/layers.csv")
    assert {(row["run"], row["layer"]) for row in table} == {
        ("plain", "first"),
        ("plain", "second"),
        ("other", "early"),
        ("other", "late"),
    }


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"third": "x"}, ["layer_names", "no layer third", "first, second"]),
        ({"first": "second"}, ["layer_names", "called the same"]),
        ({"first": "x", "second": "x"}, ["layer_names", "one name"]),
    ],
)
def test_wrong_names_of_layers_are_one_line(compared, names, words):
    compared.tables["run"][1]["layer_names"] = names
    compared.edit("report")
    compared.cmon("embed").fails(2, *words)


def test_status_lists_the_matches_where_units_are_compared(compared):
    assert "matches.h5" in compared.cmon("status").out
    compared.edit("report", figures=["accuracy"])
    assert "matches.h5" not in compared.cmon("status").out


def test_the_report_asks_for_lost_matches(compared):
    (compared.workspace / "matches.h5").unlink()
    compared.edit("report", dpi=52)
    compared.cmon("report").fails(3, "matches.h5", "run cmon embed")


def test_lost_activations_are_asked_for_where_units_must_be_matched(compared):
    (compared.workspace / "activations" / "other" / "epoch_3.h5").unlink()
    assert compared.cmon("embed").code == 0
    (compared.workspace / "matches.h5").unlink()
    compared.cmon("embed").fails(3, "activations/other/epoch_3.h5", "missing", "run cmon activations")


def test_captions_say_what_was_done_to_batch_normalisation(two):
    assert "batchnorm as saved" in (two.workspace / "report" / "index.html").read_text()


def test_the_file_of_pairs_is_as_specified(two):
    with h5py.File(two.workspace / "matches.h5") as file:
        assert set(file["pairs"]) == {
            *("run", "other", "layer", "checkpoint", "other_checkpoint", "same_start"),
            *("unit", "partner", "correlation", "chance"),
        }
        assert {len(values) for values in file["pairs"].values()} == {6 + 8}


def test_sparsity_is_in_the_table_of_layers(two):
    assert {row["sparsity"] for row in rows(two, "clip_dissect/layers.csv")} == {"0.0"}
