"""A training's own numbers are read from its table, or the line at fault is named."""

import numpy as np
import pytest

from cmon.errors import ConfigError
from cmon.metrics import read_metrics

NAMES, STEPS = ("epoch_0", "epoch_1", "epoch_10"), (0, 1, 10)


def read(tmp_path, text):
    path = tmp_path / "metrics.csv"
    path.write_text(text, encoding="utf-8")
    return read_metrics(path, NAMES, STEPS)


def test_lines_are_found_by_checkpoint_in_any_order(tmp_path):
    text = "checkpoint,step,accuracy,loss\nepoch_10,99,0.75,0.5\nother,1,0.9,9\nepoch_0,98,0.1,\n"
    found = read(tmp_path, text)
    assert list(found) == ["accuracy", "loss"]
    np.testing.assert_array_equal(found["accuracy"], np.float32([0.1, np.nan, 0.75]))
    np.testing.assert_array_equal(found["loss"], np.float32([np.nan, np.nan, 0.5]))


def test_lines_are_found_by_step_where_no_column_names_checkpoints(tmp_path):
    np.testing.assert_array_equal(read(tmp_path, "step,accuracy\n1,0.5\n10,1\n")["accuracy"], [np.nan, 0.5, 1])


def test_what_is_never_measured_is_left_out(tmp_path):
    assert list(read(tmp_path, "step,accuracy,robust_accuracy\n1,0.5,\n10,1,nan\n")) == ["accuracy"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["holds no lines"]),
        ("step,accuracy\n", ["holds no lines"]),
        ("name,accuracy\na,1\n", ["no column checkpoint or step", "name, accuracy"]),
        ("step,accuracy\n1,good\n", ["line 2", "accuracy", "'good'"]),
        ("step,accuracy\n1,0.5\n1,0.6\n", ["line 3", "line 2", "step 1"]),
        ("step,accuracy\n1\n", ["line 2", "another number of fields"]),
        ("step,accuracy\n1,2,3\n", ["line 2", "another number of fields"]),
        ("checkpoint,accuracy\nepoch_00,0.5\n", ["none of the run's checkpoints", "epoch_00"]),
    ],
)
def test_a_wrong_table_is_one_line(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    told = str(caught.value)
    assert "metrics.csv" in told
    for word in words:
        assert word in told
    assert "\n" not in told


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_metrics(tmp_path / "none.csv", NAMES, STEPS)


def test_a_table_that_is_no_text(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match="is no table"):
        read_metrics(path, NAMES, STEPS)
