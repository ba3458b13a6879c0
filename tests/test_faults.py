import os
import pickle
import shutil
import signal
import subprocess
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import TinyStudy, cmon, save_checkpoint


def activations(*names, run="plain"):
    return {f"activations/{run}/{name}.h5" for name in names}


def made(study):
    return {name for name in study.files() if not name.startswith("cache/")}


def change_model(study, old, new):
    path = study.folder / "net.py"
    code = path.read_text()
    assert old in code
    path.write_text(code.replace(old, new))


NAPPING = """import os, time
        time.sleep(float(os.environ.get("NAP", 0)))
        return self.second"""


class Attack:
    """Unpickles by making a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def truncated(path, study):
    path.write_bytes(path.read_bytes()[:-200])


def empty(path, study):
    path.write_bytes(b"")


def text(path, study):
    path.write_text("not a checkpoint")


def lacking(path, study):
    import torch

    content = torch.load(path)
    del content["state_dict"]["second.bias"]
    torch.save(content, path)


def of_another_architecture(path, study):
    import torch

    torch.save({"state_dict": torch.nn.Linear(3, 4).state_dict()}, path)


def diverged(path, study):
    import torch

    content = torch.load(path)
    content["state_dict"]["second.bias"][3] = float("nan")
    torch.save(content, path)


def hostile(path, study):
    import torch

    torch.save({"state_dict": {}, "extra": Attack(study.folder / "attacked")}, path)


def raw_pickle(path, study):
    path.write_bytes(pickle.dumps(Attack(study.folder / "attacked")))


def a_folder(path, study):
    path.unlink()
    path.mkdir()
    (path / "data.pkl").write_text("")
    study.edit("run", checkpoints=[f"runs/epoch_{n}.pt" for n in (1, 3)] + ["link.pt"])
    (study.folder / "link.pt").symlink_to(study.folder / "gone")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (truncated, ["epoch_2.pt", "damaged"]),
        (empty, ["epoch_2.pt", "empty"]),
        (text, ["epoch_2.pt", "damaged"]),
        (lacking, ["epoch_2.pt", "1 missing (second.bias)"]),
        (of_another_architecture, ["epoch_2.pt", "does not fit the model"]),
        (diverged, ["epoch_2.pt", "NaN", "second.bias"]),
        (hostile, ["epoch_2.pt", "could run code", "--trust-pickle"]),
        (raw_pickle, ["epoch_2.pt"]),
        (a_folder, ["link.pt", "No such file"]),
    ],
)
def test_a_bad_checkpoint_is_told_once_and_the_others_are_finished(study, spoil, words):
    spoil(study.checkpoint("epoch_2"), study)
    result = study.cmon("run")
    result.fails(1, *words)
    assert made(study) == {
        "evidence.h5",
        *activations("epoch_1", "epoch_3"),
        *(f"similarity/clip_dissect/plain/epoch_{n}.h5" for n in (1, 3)),
    }
    assert "embed, report: not made" in result.err
    assert result.out == ""
    assert not (study.folder / "attacked").exists()
    before = study.files()
    study.cmon("run").fails(1, *words)
    assert study.changed(before) == set()
    save_checkpoint(study.checkpoint("mended"), seed=2, epoch=2)
    study.edit("run", checkpoints=[f"runs/{name}.pt" for name in ("epoch_1", "mended", "epoch_3")])
    assert study.cmon("run").code == 0
    assert study.changed(before) >= activations("mended")
    assert not study.changed(before) & activations("epoch_1", "epoch_3")


def test_bad_checkpoints_of_one_kind_share_a_line(study):
    for name in ("epoch_1", "epoch_2"):
        study.checkpoint(name).write_bytes(b"")
    study.cmon("run").fails(1, "epoch_1.pt (and 1 more: plain/epoch_2): is empty")


def test_bad_checkpoints_of_two_kinds_have_a_line_each(study):
    study.checkpoint("epoch_1").write_bytes(b"")
    study.checkpoint("epoch_2").write_text("not a checkpoint")
    result = study.cmon("run")
    assert result.code == 1
    assert len(result.errors) == 2


def test_trusted_pickles_may_run_their_code(study):
    hostile(study.checkpoint("epoch_2"), study)
    study.cmon("activations", "--trust-pickle").fails(1, "epoch_2.pt", "no weights")
    assert (study.folder / "attacked").exists()


def test_debug_shows_the_traceback_beside_the_line(study):
    study.checkpoint("epoch_2").write_text("not a checkpoint")
    result = study.cmon("run", "--debug")
    assert len(result.errors) == 1
    assert "Traceback" in result.err


@pytest.mark.parametrize(
    ("table", "values", "code", "words"),
    [
        ("run", {"checkpoints": "empty"}, 2, ["run plain: checkpoints", "empty"]),
        ("run", {"checkpoints": "runs/*.pth"}, 2, ["runs/*.pth"]),
        ("run", {"checkpoints": []}, 2, ["checkpoints"]),
        ("run", {"layers": ["frist"]}, 2, ["frist", "first, second"]),
        ("run", {"layers": []}, 2, ["run[1].layers"]),
        ("run", {"layers": [""]}, 2, ["layers"]),
        ("run", {"layers": ["["]}, 2, ["layers: ["]),
        ("run", {"model": "absent.py:build"}, 2, ["absent.py", "No such file"]),
        ("run", {"model": "net.py:bulid"}, 2, ["bulid", "build"]),
        ("run", {"model": "net.py"}, 2, ["net.py"]),
        ("run", {"model": ""}, 2, ["model"]),
        ("run", {"model_args": {"depth": 3}}, 2, ["net.py:build", "depth"]),
        ("run", {"model_args": {"width": 9}}, 1, ["does not fit the model", "and 2 more"]),
        ("run", {"state_dict_key": "weights"}, 1, ["state_dict_key", "weights"]),
        ("run", {"steps": [1, 2]}, 2, ["steps", "2 steps for 3 checkpoints"]),
        ("run", {"steps": [1, 2, 2]}, 2, ["both have step 2"]),
        ("run", {"preprocess": {"crop": 40}}, 1, ["00.png", "smaller than the crop"]),
        ("run", {"preprocess": {"resize": 2}}, 2, ["images of shape"]),
        ("run", {"preprocess": {"std": [0, 0, 0]}}, 2, ["std"]),
        ("run", {"name": "../../escape"}, 2, ["run[1].name"]),
        ("run", {"name": "plain/x"}, 2, ["run[1].name"]),
        ("probe", {"path": "absent"}, 1, ["absent", "does not exist"]),
        ("probe", {"path": "runs"}, 1, ["holds no images"]),
        ("probe", {"path": "net.py"}, 1, ["net.py", "zip"]),
        ("probe", {"kind": "broden"}, 1, ["index.csv"]),
        ("probe", {"kind": "cifar10"}, 1, ["test_batch"]),
        ("encoder", {"image_features": "concept_features.npy"}, 1, ["12 rows, images.txt names 24"]),
        ("encoder", {"image_features": "net.py"}, 1, ["net.py", ".npy"]),
        ("encoder", {"image_features": "absent.npy"}, 1, ["absent.npy"]),
        ("encoder", {"kind": "clip"}, 2, ["encoder"]),
        ("concepts", {"file": "words.csv"}, 2, ["words.csv"]),
        ("concepts", {"file": "images/00.png"}, 2, ["00.png", "not text"]),
        ("concepts", {"prompt": "a photo of {}"}, 2, ["concepts.prompt"]),
        ("concepts", {"prompt": "a photo"}, 2, ["concepts.prompt"]),
        ("detector", {"kind": "clip_disect"}, 2, ["clip_disect", "clip_dissect"]),
        ("detector", {"top_k": 500}, 1, ["top_k = 500", "24 images"]),
        ("detector", {"top_k": 10**30}, 1, ["top_k"]),
        ("detector", {"top_k": 0}, 2, ["detector[1].top_k"]),
        ("detector", {"similarity": "cos_similarity"}, 2, ["top_k", "no effect on cos_similarity"]),
        ("detector", {"tau": "fdr:2"}, 2, ["tau"]),
        ("embed", {"anchors": ["dog", "unicorn"]}, 1, ["embed.anchors", "unicorn"]),
        ("embed", {"anchors": ["dog", "dog"]}, 2, ["anchors"]),
        ("embed", {"top_k": 11}, 2, ["embed.top_k"]),
        ("report", {"track": ["plain/first/99"]}, 2, ["report.track", "plain/first/99", "6 units"]),
        ("report", {"track": ["plain/third/0"]}, 2, ["report.track", "first, second"]),
        ("report", {"track": ["first"]}, 2, ["report.track"]),
        ("report", {"track": ["plain/first/²"]}, 2, ["report.track"]),
        ("report", {"steps": [99]}, 2, ["report.steps", "1, 2, 3"]),
        ("report", {"figures": ["planes"]}, 2, ["report.figures"]),
        ("report", {"colour": 1}, 2, ["report.colour", "unknown key"]),
        ("activations", {"poling": "max"}, 2, ["activations.poling", "pooling"]),
        ("activations", {"batch_size": 0}, 2, ["batch_size"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_value_is_one_line_that_names_it(study, table, values, code, words):
    (study.folder / "empty").mkdir()
    study.edit(table, **values)
    study.cmon("run").fails(code, *words)
    assert not study.leftovers()


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("detector", "tau", "nan"),
        ("detector", "tau", "1e400"),
        ("detector", "a", "1e308"),
        ("detector", "a", "-1.0"),
        ("detector", "a_spread", "inf"),
        ("detector", "lam", "1e308"),
        ("detector", "top_k", "true"),
        ("detector", "top_k", "5.0"),
        ("embed", "temperature", "1e-320"),
        ("embed", "temperature", "1e308"),
        ("embed", "seed", "-1"),
        ("embed", "anchors", '[""]'),
        ("embed", "anchors", '["\\u0000"]'),
        ("report", "dpi", "1e3"),
        ("report", "steps", f"[{10**30}]"),
        ("activations", "batch_size", str(10**30)),
        ("run", "steps", f"[1, 2, {10**30}]"),
        ("run", "steps", "[-5, 0, 3]"),
        ("run", "model_args", "{width = nan}"),
        ("run", "model_args", "{width = " + "[" * 150 + "]" * 150 + "}"),
        ("run", "model_args", f"{{width = {10**30}}}"),
        ("run", "model_args", "{width = 1979-05-27}"),
        ("run", "model_args", '{width = "\\u0000"}'),
        ("run", "model", '"net.py:build\\u0000"'),
        ("run", "model", '"\\u0000.py:build"'),
        ("run", "model", '"torchvision:"'),
        ("run", "model", '":"'),
        ("run", "state_dict_key", '""'),
        ("run", "checkpoints", '"runs/\\u0000"'),
        ("run", "checkpoints", '"runs/' + "a" * 5000 + '"'),
        ("run", "preprocess", "{mean = [1e300, 0.0, 0.0]}"),
        ("run", "preprocess", "{std = [1e-320, 1.0, 1.0]}"),
        ("run", "preprocess", "{resize = 10000000000}"),
        ("probe", "path", '"\\u0000"'),
        ("probe", "path", '"' + "a" * 5000 + '"'),
        ("probe", "path", '"$UNSET_FOR_CMON/x"'),
        ("probe", "path", '""'),
        ("probe", "path", '"/dev/null"'),
        ("probe", "path", '"/proc/self/mem"'),
        ("encoder", "image_features", '"/dev/null"'),
        ("concepts", "file", '"\\u0000"'),
        ("concepts", "file", '"/proc/self/mem"'),
        ("workspace", "", '"images"'),
        ("workspace", "", '"images/deep/er"'),
        ("workspace", "", '"net.py"'),
        ("workspace", "", '"/proc/cmon"'),
        ("workspace", "", '"\\u0000"'),
        ("workspace", "", '""'),
        ("workspace", "", "1"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_hostile_value_ends_in_one_line_or_in_a_result(study, table, key, value):
    text = study.config.read_text()
    if not key:
        text = f"workspace = {value}\n" + "\n".join(line for line in text.splitlines() if "workspace" not in line)
    else:
        lines = text.splitlines()
        heads = [f"[{table}]", f"[[{table}]]"]
        at = next((number for number, line in enumerate(lines) if line in heads), None)
        if at is None:
            lines.append(f"[{table}]")
            at = len(lines) - 1
        end = next((n for n in range(at + 1, len(lines)) if lines[n].startswith("[")), len(lines))
        kept = [line for line in lines[at + 1 : end] if not line.startswith(f"{key} =")]
        text = "\n".join([*lines[: at + 1], f"{key} = {value}", *kept, *lines[end:]])
    study.config.write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, of an overflow that was asked for
        result = study.cmon("run")
    if result.code:
        result.fails(result.code)
        assert result.code in (1, 2)
    assert not study.leftovers()
    assert (study.folder / "net.py").is_file()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["workspace", "missing"]),
        ("workspace =", ["is not TOML"]),
        ("just words", ["is not TOML"]),
        ('workspace = "a"\nworkspace = "b"', ["is not TOML"]),
        ("x = " + "[" * 5000 + "]" * 5000, ["is not TOML"]),
        ('workspace = "work"\nprobes = 1', ["unknown key"]),
        ("\x00", ["is not TOML"]),
        ("#" * (4 * 2**20 + 1), ["larger than 4 MiB"]),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_config_that_cannot_be_used_is_one_line(study, text, words):
    study.config.write_text(text)
    study.cmon("run").fails(2, *words)
    assert not study.workspace.exists()


def test_a_config_that_is_no_text_a_folder_or_absent_is_one_line(study):
    cmon("run", str(study.folder)).fails(2, "directory")
    cmon("run", str(study.folder / "absent.toml")).fails(2, "absent.toml", "No such file")
    cmon("run", str(study.folder / "images/00.png")).fails(2, "00.png", "UTF-8")
    cmon("status", str(study.folder / "net.py" / "x.toml")).fails(2, "Not a directory")


def test_a_name_used_twice_is_told(study):
    study.tables["detector"] *= 2
    study.edit("detector")
    study.cmon("run").fails(2, "two [[detector]] tables share the name clip_dissect")
    study.tables["detector"] = study.tables["detector"][:1]
    study.tables["run"] *= 2
    study.edit("run")
    study.cmon("run").fails(2, "two [[run]] tables share the name plain")


def test_duplicate_concepts_are_listed_with_their_lines(study):
    (study.folder / "words.csv").write_text("concept,category\ndog,object\ncat,object\ndog,\n")
    study.edit("concepts", file="words.csv")
    study.cmon("run").fails(2, "words.csv", "dog (lines 2, 4)")


def test_a_concept_without_features_is_named(study):
    (study.folder / "words.txt").write_text("dog\nunicorn\n")
    study.edit("concepts", file="words.txt")
    study.cmon("run").fails(1, "concepts.txt", "lacks 1 words: unicorn")


def test_an_image_without_features_is_named(study):
    names = study.folder / "images.txt"
    names.write_text(names.read_text().replace("07.png", "seven.png"))
    study.cmon("run").fails(1, "images.txt", "lacks 1 images of the probe: 07.png")


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_features_without_a_direction_are_named_by_their_word(study, value):
    features = np.load(study.folder / "concept_features.npy")
    features[4] = value
    np.save(study.folder / "concept_features.npy", features)
    study.cmon("run").fails(1, "concept_features.npy", "dog")


class TestAnImageThatIsAText:
    @pytest.fixture(autouse=True)
    def _spoil(self, study):
        (study.folder / "images" / "05.png").write_text("not an image")

    def test_stops_the_run_that_needs_it(self, study):
        study.cmon("run").fails(1, "05.png", "not an image", 'on_error = "skip"')
        assert made(study) == {"evidence.h5"}

    def test_is_left_out_and_counted_where_the_config_says_so(self, study, tmp_path):
        other = TinyStudy(Path(shutil.copytree(study.folder, tmp_path / "without")))
        (other.folder / "images" / "05.png").unlink()
        study.edit("probe", on_error="skip")
        result = study.cmon("run")
        assert result.code == 0
        assert result.err.count("1 unreadable images left out: 05.png") == 1
        assert other.cmon("run").code == 0
        for name in (*activations("epoch_1"), "evidence.h5", "embedding/clip_dissect.h5"):
            found, expected = study.datasets(name), other.datasets(name)
            assert "05.png" not in [image.decode() for image in found["images/id"]]
            for key in expected.keys() - {"recipe"}:
                np.testing.assert_array_equal(found[key], expected[key], err_msg=f"{name}: {key}")

    def test_is_the_only_one_of_a_probe_without_any_image(self, study):
        for path in (study.folder / "images").iterdir():
            path.write_text("not an image")
        study.edit("probe", on_error="skip")
        study.cmon("run").fails(1, "none of its images can be read")


def test_images_of_several_sizes_need_a_preprocess(study):
    from PIL import Image

    Image.new("RGB", (20, 16)).save(study.folder / "images" / "03.png")
    study.cmon("run").fails(1, "03.png is 20x16", "00.png is 16x16", "preprocess.resize")
    study.edit("run", preprocess={"resize": 16, "crop": 16})
    assert study.cmon("run").code == 0


def test_a_layer_that_is_not_there_lists_those_that_are(study):
    study.edit("run", layers=["frist"])
    study.cmon("run").fails(2, "frist", "the model has first, second")


BAD_MODELS = {
    "raises when imported": ("import torch\n", "raise RuntimeError('out of\\nluck')\n", ["RuntimeError: out of luck"]),
    "does not parse": ("class Net", "klass Net", ["SyntaxError"]),
    "leaves when imported": ("import torch\n", "import sys\nsys.exit(0)\n", ["SystemExit: 0"]),
    "leaves when built": ("return Net(width)", "raise SystemExit", ["SystemExit"]),
    "leaves when run": ("return self.second", "raise SystemExit(0)\n        return self.second", ["SystemExit: 0"]),
    "raises when run": ("return self.second", "{}['no key']\n        return self.second", ["no key"]),
    "reads in vain": ("return self.second", "open('/no/file')\n        return self.second", ["No such file"]),
    "asserts when run": ("return self.second", "assert 0, 'odd'\n        return self.second", ["odd"]),
    "returns no model": ("return Net(width)", "return 3", ["returns a int"]),
    "misses a package": ("import torch\n", "import absent_package\nimport torch\n", ["absent_package"]),
    "recurs for ever": ("return Net(width)", "return build(width)", ["RecursionError"]),
    "runs a layer twice": (
        "torch.relu_(self.first(x))",
        "self.first(x) + self.first(x)",
        ["layer first", "more than once"],
    ),
    "runs a layer never": (
        "self.second(torch.relu_(self.first(x)))",
        "self.first(x)",
        ["layer second", "does not run"],
    ),
    "puts out NaN": ("self.second(torch", "self.second(float('nan') * torch", ["layer second", "NaN"]),
    "is a lazy one": ("nn.Conv2d(6, width, 3)", "nn.LazyConv2d(width, 3)", ["net.py"]),
}


@pytest.mark.parametrize(("old", "new", "words"), BAD_MODELS.values(), ids=BAD_MODELS)
def test_a_model_that_does_not_do_is_told_once_and_other_runs_are_finished(study, old, new, words):
    good = {**study.tables["run"][0], "name": "good", "model": "good.py:build"}
    shutil.copy(study.folder / "net.py", study.folder / "good.py")
    study.tables["run"].append(good)
    study.edit("run")
    change_model(study, old, new)
    result = study.cmon("run")
    result.fails(result.code, "plain", *words)
    assert result.code in (1, 2)
    assert made(study) >= activations("epoch_1", "epoch_2", "epoch_3", run="good")
    assert not made(study) & activations("epoch_1", "epoch_2", "epoch_3")


def test_what_a_model_prints_does_not_mix_with_results(study):
    change_model(study, "import torch\n", "import torch\nprint('hello from the model')\n")
    result = study.cmon("run")
    assert result.code == 0
    assert result.out == f"{study.workspace}/report/index.html\n"
    assert "hello from the model" in result.err


@pytest.mark.parametrize("what", ["checkpoint", "model"])
def test_what_changes_while_it_is_read_is_not_believed(study, what):
    path = study.checkpoint("epoch_2") if what == "checkpoint" else study.folder / "net.py"
    # The model spoils the run of the second checkpoint at the end of that of the first.
    change_model(
        study,
        "def build",
        f"""
_load = Net.load_state_dict
def load(self, *args, **kwargs):
    load.count += 1
    if load.count == 2:
        with open({str(path)!r}, "ab") as file:
            file.write(b"# more")
    return _load(self, *args, **kwargs)
load.count = 0
Net.load_state_dict = load


def build""",
    )
    result = study.cmon("run")
    assert activations("epoch_1") <= made(study)
    assert not activations("epoch_2") & made(study)
    if what == "model":
        result.fails(1, "epoch_2.pt", "changed while it was read: model")
        return
    assert result.code == 0, result.err  # a training writes it
    assert result.err.count(f"left for the next time: {path} changed while it was read") == 2
    assert list(study.datasets("embedding/clip_dissect.h5")["checkpoints/name"]) == [b"epoch_1", b"epoch_3"]


def test_links_to_their_own_folder_are_not_followed_for_ever(study):
    for name in ("one", "two"):
        (study.folder / "runs" / name).symlink_to(".")
    hidden = study.folder / "runs" / ".old"
    hidden.mkdir()
    shutil.copy(study.checkpoint("epoch_1"), hidden / "epoch_0.pt")
    study.edit("run", checkpoints="runs/**/*.pt")
    assert study.cmon("activations").code == 0
    assert made(study) == {"evidence.h5", *activations("epoch_1", "epoch_2", "epoch_3")}


@pytest.mark.parametrize("places", ["runs/**", "runs/e**.pt", "runs/**/**/**/*.p*", "r*/***t", "deep/*/*/*.pt"])
def test_a_glob_may_have_stars_in_any_place(study, places):
    shutil.copytree(study.folder / "runs", study.folder / "deep/er/est")
    study.edit("run", checkpoints=places)
    assert study.cmon("activations").code == 0
    assert made(study) == {"evidence.h5", *activations("epoch_1", "epoch_2", "epoch_3")}


def test_a_checkpoint_that_is_named_as_a_glob_hides_no_others(study):
    save_checkpoint(study.folder / "runs" / "*.pt", seed=4, epoch=4)
    assert study.cmon("activations").code == 0
    assert made(study) == {"evidence.h5", *activations("*", "epoch_1", "epoch_2", "epoch_3")}


def test_a_models_file_that_is_no_code_is_not_read(study):
    os.truncate(study.folder / "net.py", 2**40)
    study.cmon("run").fails(2, "net.py", "too large to be Python code")


@pytest.mark.parametrize(
    "name",
    [
        "with space",
        'it\'s "quoted"',
        "ключ-中文-🙂",
        "semi;colon&amp<b>",
        "100%{braces}$x",
        "-dash",
        "per cent %20",
        "a.b.c",
    ],
)
def test_a_checkpoint_may_have_an_odd_name(study, name):
    study.checkpoint("epoch_2").rename(study.folder / "runs" / f"{name}.pt")
    result = study.cmon("run")
    assert result.code == 0, result.err
    assert activations(name) <= made(study)
    assert f"current  activations/plain/{name}.h5\n" in study.cmon("status").out
    assert study.cmon("activations", "--checkpoint", name, "--force").code == 0


@pytest.mark.parametrize("name", ["new\nline", "tab\there", "escape\x1b[31m", os.fsdecode(b"\xff\xfe")])
def test_a_checkpoints_name_that_no_line_can_show_is_refused_on_one_line(study, name):
    study.checkpoint("epoch_2").rename(study.folder / "runs" / f"{name}.pt")
    result = study.cmon("run")
    result.fails(1, "its name cannot be used", "rename it")
    assert "\x1b" not in result.err


def test_two_checkpoints_of_one_name_are_both_named(study):
    shutil.copy(study.checkpoint("epoch_2"), study.folder / "runs" / "epoch_2.pth")
    study.edit("run", checkpoints="runs")
    study.cmon("run").fails(1, "epoch_2.pt", "epoch_2.pth", "rename one")


@pytest.mark.parametrize(
    "place", ["evidence.h5", "activations", "activations/plain/epoch_1.h5", "similarity", "report", "cache"]
)
def test_a_file_or_folder_in_the_place_of_another_is_one_line(study, place):
    path = study.workspace / place
    path.parent.mkdir(parents=True)
    if place.endswith(".h5"):
        (path / "held").mkdir(parents=True)
    else:
        path.write_text("in the way")
    result = study.cmon("run")
    result.fails(1, str(path.relative_to(study.workspace)))
    assert not study.leftovers()


def move_workspace(study, folder):
    study.workspace = folder / "work"
    study.tables["workspace"] = str(study.workspace)
    study.edit("run")


def test_a_read_only_workspace_is_one_line(study, small_disk):
    move_workspace(study, small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    study.cmon("run").fails(1, "Read-only file system")
    assert study.cmon("status").code == 3


@pytest.mark.parametrize("files", [0, 1, 3, 4, 5, 7])
def test_a_full_disk_is_one_line_and_the_run_goes_on_where_there_is_room(study, finished, small_disk, files):
    move_workspace(study, small_disk)
    # Room for the first so many files, in the order of their making, and no whole one more.
    order = sorted(finished.files().items(), key=lambda item: item[1][1])
    pages = [-(-(finished.workspace / name).stat().st_size // 4096) for name, _ in order]
    notes = sum(name.endswith(".h5") for name, _ in order[:files])  # how each was made, a page each
    subprocess.run(["mount", "-o", f"remount,size={4 * (sum(pages[:files]) + notes + 1)}k", small_disk], check=True)
    study.cmon("run").fails(1, "No space left on device", "make room")
    assert not study.leftovers()
    kept = study.files()
    assert set(kept) == {name for name, _ in order[:files]}
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    assert study.cmon("run").code == 0
    assert not study.changed(kept) & kept.keys()
    assert study.cmon("status").code == 0


def test_a_full_disk_hides_no_earlier_mistake_and_ends_the_stage(study, finished, small_disk):
    study.checkpoint("epoch_1").write_bytes(b"")
    study.tables["run"].append({**study.tables["run"][0], "name": "untried"})
    move_workspace(study, small_disk)
    first = [
        path for path in finished.workspace.rglob("*") if path.name == "evidence.h5" or path.parent.name == "pixels"
    ]
    pages = sum(-(-path.stat().st_size // 4096) for path in first)
    subprocess.run(["mount", "-o", f"remount,size={4 * (pages + 1)}k", small_disk], check=True)
    result = study.cmon("run")
    assert result.code == 1
    assert len(result.errors) == 2
    assert "epoch_1.pt: is empty" in result.errors[0]
    assert "epoch_2.h5: cannot be written: No space left" in result.errors[1]
    assert "epoch_3" not in result.err
    assert "untried" not in result.err


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75)],
    ids=lambda value: str(value),
)
def test_a_signal_ends_a_run_on_one_line_and_what_is_done_is_kept(study, number, code):
    change_model(study, "return self.second", NAPPING)
    study.edit("activations", batch_size=1)
    process = study.spawn("run", NAP="0.1")
    line = ""
    while "epoch_1" not in line:
        line = process.stderr.readline()
        assert line, "it ended before a checkpoint was done"
    time.sleep(0.2)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert out == ""
    warned = number == signal.SIGUSR1  # it ends after the checkpoint in hand, the others at once
    *before, last = err.splitlines()
    assert [line.split()[3] for line in before] == ["epoch_2"] * warned
    pieces = "4 pieces" if warned else "3 pieces"  # evidence and decoded images among them
    assert last == f"stopped: what is done is kept ({pieces} of work by this run), run the same command to go on"
    assert not study.leftovers()
    kept = study.files()
    assert activations("epoch_1", *["epoch_2"] * warned) == {name for name in kept if name.startswith("activations")}
    assert study.cmon("run").code == 0
    assert not study.changed(kept) & kept.keys()


def test_a_signal_that_a_weak_reference_swallows_is_asked_for_again(study, monkeypatch):
    import weakref

    from cmon import cli

    class Thing:
        pass

    def swallow(config):
        thing = Thing()
        keep = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGTERM))
        del thing
        time.sleep(5)
        pytest.fail(f"{keep} swallowed the signal")

    monkeypatch.setattr(cli.looks, "read_plan", lambda config: swallow(config))
    result = study.cmon("status")
    assert result.code == 143
    assert result.err.count("stopped") == 1


def test_a_killed_run_leaves_a_study_that_the_next_run_finishes(study):
    change_model(study, "return self.second", NAPPING)
    process = study.spawn("run", NAP="0.2")
    while "epoch_1" not in process.stderr.readline():
        assert process.poll() is None
    process.kill()
    process.communicate()
    assert study.cmon("run").code == 0
    assert study.cmon("status").code == 0


def test_an_unknown_device_is_one_line(study):
    study.cmon("run", "--device", "toaster").fails(2, "--device", "toaster")
    study.cmon("activations", "--device", "cuda:99").fails(2, "--device")


def test_a_damaged_memory_of_hashes_is_an_empty_one(finished):
    path = finished.workspace / "cache/hashes.json"
    for text in ("", "[]", "{", "\0", '{"a": 1}'):
        path.write_text(text)
        assert finished.cmon("status").code == 0


def test_a_workspace_in_the_probe_is_refused_before_it_makes_images(study):
    study.tables["workspace"] = "images/work"
    study.edit("run")
    study.cmon("run").fails(2, "workspace", "lies in the probe's folder")
    assert not (study.folder / "images/work").exists()


def test_a_dead_network_is_told_of_and_drawn(study):
    import torch

    path = study.checkpoint("epoch_2")
    content = torch.load(path)
    for weights in content["state_dict"].values():
        weights.zero_()
    torch.save(content, path)
    result = study.cmon("run")
    assert result.code == 0, result.err
    rows = (study.workspace / "report/clip_dissect/layers.csv").read_text().splitlines()
    assert [row.split(",")[5] for row in rows[1:]] == ["0", "0", "6", "8", "0", "0"]
