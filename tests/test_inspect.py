"""`cmon inspect`: what checkpoints hold, and whether they match a model."""

import contextlib
import io
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import cmon, save_checkpoint
from faulting.study import MODEL
from safetensors.torch import save_file

from cmon import console
from cmon.inspection import Reading, inspect_checkpoints

# The tiny study's network: 6 x 3 x 3 x 3 and 8 x 6 x 3 x 3 weights, 6 and 8 biases.
WEIGHTS, NUMBERS = 162 + 432, 162 + 432 + 14


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plain(seed=1):
    numbers = np.random.default_rng(seed)
    shapes = {"first.weight": (6, 3, 3, 3), "first.bias": (6,), "second.weight": (8, 6, 3, 3), "second.bias": (8,)}
    return {name: torch.from_numpy(numbers.normal(size=shape).astype(np.float32)) for name, shape in shapes.items()}


def save(name, content):
    torch.save(content, name)


def inspected(*words):
    """Return what the command says of one checkpoint or several, as JSON, and its exit code."""
    result = cmon("inspect", *words, "--json")
    return json.loads(result.out, parse_constant=pytest.fail), result.code


def fields(text):
    """Split lines of text as awk -F '  +' does."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]


def test_one_checkpoint_is_told_in_lines_of_a_key_and_a_value(folder):
    weights = plain()
    weights["second.weight"][:4] = 0
    save(
        "epoch_3.pt", {"state_dict": {f"module._orig_mod.{name}": value for name, value in weights.items()}, "epoch": 3}
    )
    result = cmon("inspect", "epoch_3.pt")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "checkpoint:       epoch_3.pt\n"
        "kind:             training state\n"
        "epoch:            3\n"
        "weights:          state_dict\n"
        "prefix:           module._orig_mod.\n"
        "tensors:          4\n"
        f"parameters:       {NUMBERS}\n"
        f"zeros:            {216 / WEIGHTS:.1%}\n"
        "NaN or infinity:  none\n"
        "averaged weights: none\n"
    )


def test_several_are_a_line_each_in_columns_that_are_two_blanks_apart(folder):
    (folder / "runs").mkdir()
    for epoch in (10, 9):
        save(f"runs/epoch_{epoch}.pt", {"model": plain(epoch), "epoch": epoch, "optimizer": {}, "lr_scheduler": {}})
    bad = plain(3)
    bad["second.bias"][2], bad["second.weight"][0] = float("nan"), float("inf")
    save("runs/bad.pt", bad)
    result = cmon("inspect", "runs")
    assert (result.code, result.err) == (0, "")
    assert fields(result.out) == [
        ["checkpoint", "kind", "epoch", "step", "tensors", "parameters", "zeros", "notes"],
        ["runs/bad.pt", "state dict", "-", "-", "4", "608", "0.0%", "NaN or infinity in second.weight"],
        ["runs/epoch_9.pt", "torchvision references", "9", "-", "4", "608", "0.0%", "-"],
        ["runs/epoch_10.pt", "torchvision references", "10", "-", "4", "608", "0.0%", "-"],
    ]
    header, *rows = result.out.splitlines()
    assert {len(row) for row in rows[1:]} == {len(header) - len("notes") + 1}


def test_json_is_an_object_for_one_checkpoint_and_a_list_for_a_folder(folder):
    (folder / "runs").mkdir()
    save("runs/a.pt", {"net": plain(), "epoch": 4, "global_step": 80})
    expected = {
        "path": "runs/a.pt",
        "kind": "training state",
        "steps": {"epoch": 4, "step": 80},
        "place": "net",
        "prefix": "",
        "tensors": 4,
        "parameters": NUMBERS,
        "sparsity": 0.0,
        "not_finite": None,
        "averaged": False,
        "repeats": [],
        "matches": None,
        "error": None,
        "hint": None,
    }
    assert inspected("runs/a.pt") == (expected, 0)
    assert inspected("runs") == ([expected], 0)


def test_whole_numbers_are_no_parameters_and_a_file_without_matrices_has_no_sparsity(folder):
    save_file({"scale": torch.ones(5), "steps": torch.arange(7)}, "scales.safetensors")
    found, code = inspected("scales.safetensors")
    assert (found["kind"], found["tensors"], found["parameters"], found["sparsity"]) == ("safetensors", 2, 5, None)
    assert code == 0
    assert "zeros:            no weights\n" in cmon("inspect", "scales.safetensors").out


def test_of_what_pruning_keeps_as_two_the_product_is_counted_once(folder):
    weights = plain()
    mask = torch.zeros(6, 3, 3, 3)
    mask[:2] = 1
    weights |= {"first.weight_orig": weights.pop("first.weight"), "first.weight_mask": mask}
    save("pruned.pt", weights)
    found, _ = inspected("pruned.pt")
    assert (found["tensors"], found["parameters"], found["sparsity"]) == (5, NUMBERS, 108 / WEIGHTS)


def test_equal_weights_are_told_whatever_is_around_them(folder):
    save("epoch_1.pt", {"state_dict": plain(1), "epoch": 1})
    save("epoch_2.pt", {"state_dict": plain(2), "epoch": 2})
    wrapped = {f"_orig_mod.{name}" if "second" in name else name: value for name, value in plain(2).items()}
    save("best.pt", wrapped)
    other = plain(1)
    other["first.bias"][0] += 1
    save("other.pt", other)
    found, _ = inspected(".")
    repeats = {one["path"]: one["repeats"] for one in found}
    assert repeats == {"best.pt": ["epoch_2.pt"], "epoch_1.pt": [], "epoch_2.pt": ["best.pt"], "other.pt": []}


def test_averaged_weights_are_told_of_and_inspected_where_asked_for(folder):
    raw, averaged = plain(1), plain(2)
    averaged["first.weight"][:] = 0
    save("last.pth.tar", {"arch": "net", "version": 2, "state_dict": raw, "state_dict_ema": averaged, "epoch": 5})
    first, second = inspected("last.pth.tar")[0], inspected("last.pth.tar", "--weights", "ema")[0]
    assert [one["kind"] for one in (first, second)] == ["timm", "timm"]
    assert [one["averaged"] for one in (first, second)] == [True, True]
    assert [one["place"] for one in (first, second)] == ["state_dict", "state_dict_ema"]
    assert [one["sparsity"] for one in (first, second)] == [0, 162 / WEIGHTS]


def test_weights_elsewhere_are_found_where_the_key_says(folder):
    save("nested.pt", {"states": [{"a": torch.ones(2)}, {"b": torch.ones(3, 3)}]})
    found, code = inspected("nested.pt", "--state-dict-key", "states.1")
    assert (found["place"], found["parameters"], code) == ("states.1", 9, 0)


def test_a_folder_that_is_one_checkpoint_is_one(folder):
    (folder / "checkpoint-500").mkdir()
    save_file(plain(), "checkpoint-500/model.safetensors")
    (folder / "checkpoint-500/trainer_state.json").write_text('{"global_step": 500, "epoch": 2.5}')
    found, code = inspected("checkpoint-500")
    assert code == 0
    assert (found["path"], found["kind"], found["steps"]) == ("checkpoint-500", "Hugging Face Trainer", {"step": 500})


def test_what_cannot_be_read_is_a_row_with_the_error_and_the_others_are_shown(folder):
    save("a.pt", plain())
    (folder / "broken.pt").write_bytes(b"PK\x03\x04 and no more")
    save("whole.pt", torch.nn.Linear(2, 2))
    found, code = inspected("a.pt", "broken.pt", "whole.pt")
    assert code == 1
    assert [one["parameters"] for one in found] == [NUMBERS, None, None]
    assert found[0]["error"] is None
    assert "damaged" in found[1]["error"]
    assert "--trust-pickle" in found[2]["hint"]
    result = cmon("inspect", "a.pt", "broken.pt", "whole.pt")
    assert [row[:2] for row in fields(result.out)[1:]] == [
        ["a.pt", "state dict"],
        ["broken.pt", "-"],
        ["whole.pt", "-"],
    ]
    assert "damaged" in fields(result.out)[2][-1]
    assert len(result.errors) == len(result.hints) == 2
    assert inspected("whole.pt", "--trust-pickle")[0]["kind"] == "whole module"


def test_one_that_cannot_be_read_says_so_in_its_lines_too(folder):
    (folder / "empty.pt").touch()
    result = cmon("inspect", "empty.pt")
    result.fails(1, "empty.pt", "0 bytes")
    assert result.out.splitlines()[0].split() == ["checkpoint:", "empty.pt"]
    assert "0 bytes" in result.out.splitlines()[1]


def test_a_few_stored_numbers_that_stand_for_many_are_refused(folder):
    save("bomb.pt", {"weight": torch.ones(1, 1).expand(2**20, 2**20)})
    found, code = inspected("bomb.pt")
    assert code == 1
    assert found["error"] == "would unfold to 4194304 MiB"


def test_a_path_that_does_not_exist_is_a_wrong_command(folder):
    save("a.pt", plain())
    cmon("inspect", "a.pt", "b.pt").fails(2, "b.pt")
    cmon("inspect", "*.ckpt").fails(2, "nothing matches")


def test_a_model_says_which_match_and_of_the_others_what_does_not(folder):
    (folder / "net.py").write_text(MODEL)
    save_checkpoint(folder / "fits.pt", seed=1)
    wider = plain() | {"second.weight": torch.ones(9, 6, 3, 3), "second.bias": torch.ones(9)}
    save("wider.pt", wider)
    found, code = inspected("fits.pt", "wider.pt", "--model", "net.py:build")
    assert [one["matches"] for one in found] == [True, False]
    assert "second.weight is 9x6x3x3, the model has 8x6x3x3" in found[1]["error"]
    assert code == 1
    found, code = inspected("fits.pt", "wider.pt", "--model", "net.py:build", "--model-arg", "width=9")
    assert [one["matches"] for one in found] == [False, True]
    assert inspected("fits.pt", "--model", "net.py:build")[1] == 0
    allowed = ("--allow-missing", "second.*")
    assert [one["matches"] for one in inspected("fits.pt", "wider.pt", "--model", "net.py:build", *allowed)[0]] == [
        True
    ] * 2
    assert fields(cmon("inspect", "fits.pt", "wider.pt", "--model", "net.py:build").out)[1][-1] == "matches"


def test_what_a_model_prints_is_kept_out_of_the_json(folder):
    (folder / "net.py").write_text(MODEL + "print('imported')\n")
    save_checkpoint(folder / "fits.pt", seed=1)
    assert inspected("fits.pt", "--model", "net.py:build")[0]["matches"] is True


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("width=9", 9),
        ("width = [1, 2]", None),
        ("x=0.5", 0.5),
        ('x="text"', "text"),
        ("x=[1, 2]", [1, 2]),
        ("x=a=b", None),
    ]
    + [(wrong, None) for wrong in ("x", "=1", "x=", "x=avg", "x.y=1", "x=1\ny=2", "x=1\n[value.z]")],
)
def test_a_models_argument_is_a_key_and_a_value_of_toml(text, read):
    from cmon.arguments import read_model
    from cmon.errors import ConfigError

    if read is None:
        with pytest.raises(ConfigError, match="--model-arg"):
            read_model("timm:net", [text])
    else:
        assert list(read_model("timm:net", [text])[1].values()) == [read]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--model-arg", "width=9"), "--model"),
        (("--allow-missing", "fc.*"), "--model"),
        (("--model", "nowhere.py:build"), "nowhere.py"),
        (("--model", "timm:no_such_network"), "no_such_network"),
        (("--model", "$NO_SUCH_FOLDER/net.py:build"), "NO_SUCH_FOLDER"),
        (("--weights", "ema", "--state-dict-key", "x"), "--state-dict-key"),
        (("--weights", "both"), "--weights"),
    ],
)
def test_a_wrong_option_is_a_wrong_command(folder, words, named):
    save("a.pt", plain())
    cmon("inspect", "a.pt", *words).fails(2, named)


def test_names_from_a_checkpoint_cannot_write_to_the_terminal(folder):
    save("a.pt", {"\x1b[2Jmodule.x": torch.tensor([[float("nan")]])})
    shutil.copy("a.pt", "b.pt")
    for text in (cmon("inspect", "a.pt", "b.pt").out, cmon("inspect", "a.pt").out):
        assert "[2Jmodule.x" in text
        assert "\x1b" not in text


def test_only_one_checkpoint_is_held_at_a_time(folder, monkeypatch):
    import weakref

    from cmon import inspection

    held = []
    read = inspection.read_checkpoint

    def watching(*args):
        assert not any(one() is not None for one in held)
        weights = read(*args)
        held.extend(weakref.ref(value) for value in weights.tensors.values())
        return weights

    monkeypatch.setattr(inspection, "read_checkpoint", watching)
    paths = [folder / f"{number}.pt" for number in range(3)]
    for number, path in enumerate(paths):
        save(path, plain(number))
    assert len(inspect_checkpoints(paths, Reading(), lambda: None)) == 3
    assert len(held) == 12


@pytest.fixture
def terminal(monkeypatch):
    """Let the command line take what it writes to for a terminal of 80 columns."""

    class Screen(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(io, "StringIO", Screen)
    return Screen


def test_a_terminal_gets_a_table_of_its_width_with_remarks_below(terminal):
    long = "epoch=10-step=400-val_loss=0.1234567890123456789.ckpt"
    rows = [(long, "timm", 11_689_512), ("b.pt", "PyTorch Lightning", ""), ("c.pt", "", "")]
    with contextlib.redirect_stdout(terminal()) as screen:
        console.show_table(
            ("name", "kind", "parameters"), rows, [["odd", "matches"], ["matches", "NaN", "odd"], ["odd"]], "3 in runs"
        )
    lines = screen.getvalue().splitlines()
    assert lines[0] == "3 in runs"
    assert lines[1].split() == ["name", "kind", "parameters"]
    assert "11,689,512" in lines[2]
    assert max(map(len, lines[1:-3])) <= 80
    assert lines[-3:] == ["all: odd", f"{long}, b.pt: matches", "b.pt: NaN"]


def test_on_a_terminal_checkpoints_of_one_folder_go_by_their_names_and_errors_are_told_once(folder, terminal):
    (folder / "runs").mkdir()
    save("runs/a.pt", plain())
    save("runs/b.pt", plain())
    (folder / "runs/empty.pt").touch()
    result = cmon("inspect", "runs")
    assert result.code == 1
    lines = [line.split() for line in result.out.splitlines()]
    assert lines[0] == ["3", "checkpoints", "in", "runs"]
    assert [line[:3] for line in lines[2:5]] == [["a.pt", "state", "dict"], ["b.pt", "state", "dict"], ["empty.pt"]]
    assert [" ".join(line) for line in lines[5:]] == ["a.pt: same weights as b.pt", "b.pt: same weights as a.pt"]
    assert result.errors == ["error: runs/empty.pt: is empty: 0 bytes"]
