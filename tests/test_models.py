import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from cmon.errors import ConfigError, ModelError
from cmon.fingerprint import file_sha256
from cmon.models import build_model, check_random, model_recipe, saved_names, select_layers
from cmon.paths import Source

SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared(path):
    if not (SHARED / path).exists():
        pytest.skip(f"../shared/{path} is absent")
    return SHARED / path


@pytest.fixture
def module_file(tmp_path):
    def write(text, name="net.py"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    return write


NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.fc = nn.Linear(width, 2)
def build(width=4):
    return Net(width)
"""


def test_a_model_is_in_evaluation_mode_without_gradients(module_file):
    model = build_model(f"{module_file(NET)}:build", {"width": 3})
    assert model.fc.in_features == 3
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_building_is_repeatable_and_leaves_the_random_state(module_file):
    source = f"{module_file(NET)}:build"
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first = build_model(source, {})
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(8)
    assert torch.equal(first.fc.weight, build_model(source, {}).fc.weight)


DRAWS = """
import random
import numpy
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.torch = torch.nn.Parameter(torch.randn(2, 3))
        self.numpy = torch.nn.Parameter(torch.from_numpy(numpy.random.normal(size=(2, 3))))
        self.python = torch.nn.Parameter(torch.tensor([[random.random(), random.random()]]))

build = Net
"""


def test_a_seed_decides_all_that_is_drawn(module_file):
    source = f"{module_file(DRAWS)}:build"
    first, again, other = (dict(build_model(source, {}, seed).named_parameters()) for seed in (5, 5, 6))
    for name, value in first.items():
        assert torch.equal(value, again[name]), name
        assert not torch.equal(value, other[name]), name


@pytest.mark.parametrize("use", [lambda source: build_model(source, {}, 3), lambda source: check_random(source, {})])
def test_no_random_state_is_changed(module_file, use):
    source = f"{module_file(DRAWS)}:build"
    states = lambda: [torch.random.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()]  # noqa: E731
    before = states()
    use(source)
    assert states() == before
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(ModelError):
        use(f"{module_file(DRAWS + 'numpy.random.normal(); torch.rand(1); random.random(); 1 / 0')}:build")
    assert states() == before


def in_a_function(body):
    return f"import torch\nfrom torch import nn\ndef build():\n    model = nn.Sequential({body}\n    return model\n"


@pytest.mark.parametrize(
    "body",
    [
        "nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.PReLU())",
        "nn.Linear(3, 4), nn.LayerNorm((4, 4)))",
        "nn.MultiheadAttention(4, 2))",
        "nn.LSTM(3, 4), nn.Embedding(5, 3, padding_idx=0), nn.Linear(4, 1))",
        "*(getattr(nn.utils.parametrizations, name)(nn.Linear(3, 3)) for name in ('weight_norm', 'spectral_norm')))",
        "nn.Linear(3, 4))\n    model.register_parameter('token', nn.Parameter(torch.zeros(1, 1, 4)))",
        "nn.Linear(3, 4))\n    model.register_buffer('blur', torch.tensor([[1., 2., 1.]]))",
        "nn.Linear(3, 4))\n    model.places = nn.Parameter(torch.arange(8.).view(2, 4).sin(), requires_grad=False)",
        "nn.Linear(3, 4), nn.Linear(4, 4))\n    nn.init.zeros_(model[1].weight)",
        "nn.Linear(3, 4), nn.Linear(3, 4))\n    model[1].weight = model[0].weight",
    ],
)
def test_a_network_that_is_drawn_at_random_may_be_a_baseline(module_file, body):
    check_random(f"{module_file(in_a_function(body))}:build", {})


@pytest.mark.parametrize("source", ["torchvision:resnet18", "timm:resnet10t", "timm:test_vit", "timm:convit_tiny"])
def test_a_zoos_network_may_be_a_baseline(source):
    check_random(source, {})


FIXED = "model[1].weight.data = torch.arange(16.).view(4, 4)"


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (f"nn.Linear(3, 4), nn.Linear(4, 4))\n    {FIXED}", "1 of 2 weights .*: 1.weight"),
        (f"nn.Linear(3, 4), nn.Linear(4, 4))\n    {FIXED}\n    model.requires_grad_(False)", "1 of 2 .*: 1.weight"),
        ("nn.Linear(3, 4))\n    model.places = nn.Parameter(torch.arange(8.).view(2, 4).sin())", "1 of 2 .*: places"),
        ("nn.Linear(3, 4))\n    torch.manual_seed(1)\n    model[0].reset_parameters()", "1 of 1 .*: 0.weight"),
        (
            "nn.Linear(3, 4), nn.Linear(4, 4))\n    [nn.init.constant_(layer.weight, 0.1) for layer in model]",
            "no weight",
        ),
        ("nn.ReLU())", "no weight is random"),
        ("nn.LazyLinear(4))", "0.weight, 0.bias would be drawn only when"),
        (
            "nn.Linear(3, 4))\n    import numpy\n    model[0].weight.data.add_(numpy.random.default_rng().normal())",
            "1 of 2 tensors are random but not of the seed, or never set: 0.weight",
        ),
        # so large that it is fresh memory, which happens to be 0 each time
        ("nn.Linear(3, 4))\n    model.gate = nn.Parameter(torch.empty(2**24))", "1 of 3 tensors .* never set: gate"),
    ],
)
def test_a_network_that_its_seed_does_not_decide_is_no_baseline(module_file, body, what):
    source = f"{module_file(in_a_function(body))}:build"
    with pytest.raises(ModelError, match=what) as caught:
        check_random(source, {})
    assert caught.value.where == source
    assert caught.value.hint


def test_a_seed_that_is_set_as_the_file_is_imported_is_noticed(module_file):
    with pytest.raises(ModelError, match="1 of 1 weights"):
        check_random(f"{module_file('import torch; torch.manual_seed(3)' + NET)}:build", {})


def test_torchvision_model_takes_its_arguments():
    assert build_model("torchvision:resnet18", {"num_classes": 5}).fc.out_features == 5


def test_timm_model_takes_its_arguments_and_a_tag():
    assert build_model("timm:resnet10t.c3_in1k", {"num_classes": 5}).fc.out_features == 5


def test_a_segmentation_model_fetches_no_backbone(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("downloads")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    build_model("torchvision:lraspp_mobilenet_v3_large", {})


@pytest.mark.parametrize(
    ("source", "arguments"),
    [
        ("timm:resnet18", {"pretrained": True}),
        ("torchvision:resnet18", {"weights": "DEFAULT"}),
        ("torchvision:fcn_resnet50", {"weights_backbone": "DEFAULT"}),
    ],
)
def test_pretrained_weights_are_refused(source, arguments):
    with pytest.raises(ConfigError, match="asks for weights") as caught:
        build_model(source, arguments)
    assert "nothing is downloaded" in caught.value.hint


def test_an_argument_that_wants_no_weights_is_accepted():
    assert build_model("torchvision:squeezenet1_1", {"pretrained": False})


@pytest.mark.parametrize("source", ["torchvision:resnet81", "timm:resnet81", "timm:hf-hub:timm/resnet18"])
def test_an_unknown_name_lists_the_nearest(source):
    with pytest.raises(ModelError, match="no model of this name") as caught:
        build_model(source, {})
    assert "resnet18" in caught.value.hint


@pytest.mark.parametrize("source", ["torchvision:resnet18", "timm:resnet18"])
def test_wrong_arguments_of_a_zoo_model_are_named(source):
    with pytest.raises(ModelError, match="colour_count") as caught:
        build_model(source, {"colour_count": 2})
    assert "model_args" in caught.value.hint


def test_wrong_arguments_of_a_users_function_are_named(module_file):
    with pytest.raises(ModelError, match="unexpected keyword argument 'depth'"):
        build_model(f"{module_file(NET)}:build", {"depth": 3})


def test_a_misspelt_scheme_is_corrected():
    with pytest.raises(ModelError, match="no module torchvison") as caught:
        build_model("torchvison:resnet18", {})
    assert "torchvision:resnet18" in caught.value.hint


@pytest.mark.parametrize("source", ["resnet18", "some/net:build", ":build"])
def test_a_source_that_is_no_name_says_what_one_looks_like(source):
    with pytest.raises(ModelError) as caught:
        build_model(source, {})
    assert "package.module:function" in caught.value.hint


def test_a_missing_file_is_an_error_when_built_and_when_described(tmp_path):
    for use in (build_model, model_recipe):
        with pytest.raises(ModelError, match="No such file"):
            use(f"{tmp_path}/absent.py:build", {})


def test_a_missing_function_lists_the_callables_there(module_file):
    with pytest.raises(ModelError, match="no function built") as caught:
        build_model(f"{module_file(NET)}:built", {})
    assert caught.value.hint.startswith("it has build, ")
    assert "Net" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("def build(:", "SyntaxError"),
        ("import absent_module", "absent_module"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("x = {}['key']", "KeyError"),
        ("def build(): raise ValueError('two\\nlines')", "two lines"),
        ("def build(): 1 / 0", "ZeroDivisionError"),
        ("def build(): return 3", "returns a int"),
        ("build = 3", "no function build"),
    ],
)
def test_what_a_users_code_raises_is_one_line(module_file, text, what):
    with pytest.raises(ModelError, match=what) as caught:
        build_model(f"{module_file(text)}:build", {})
    assert "\n" not in str(caught.value)


def test_a_file_imports_its_siblings_and_leaves_no_trace(module_file, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    module_file("WIDTH = 6", "sizes_of_net.py")
    file = module_file("from sizes_of_net import WIDTH\n" + NET.replace("width=4", "width=WIDTH"))
    path = list(sys.path)
    assert build_model(f"{file}:build", {}).fc.in_features == 6
    assert sys.path == path
    assert "sizes_of_net" not in sys.modules
    assert not list(tmp_path.rglob("*.pyc"))
    assert not sys.dont_write_bytecode


def test_two_files_with_siblings_of_one_name_get_their_own(module_file):
    widths = []
    for folder, width in (("a", 5), ("b", 7)):
        module_file(f"WIDTH = {width}", f"{folder}/sizes_of_net.py")
        text = "def build():\n    import torch, sizes_of_net as n\n    return torch.nn.Linear(n.WIDTH, 1)"
        widths.append(build_model(f"{module_file(text, f'{folder}/net.py')}:build", {}).in_features)
    assert widths == [5, 7]


def test_an_environment_below_the_files_folder_stays_imported(module_file, tmp_path, monkeypatch):
    module_file("", "env/lib/a_library_of_cmon_tests.py")
    monkeypatch.syspath_prepend(str(tmp_path / "env/lib"))
    file = module_file("import a_library_of_cmon_tests\n" + NET)
    build_model(f"{file}:build", {})
    assert sys.modules.pop("a_library_of_cmon_tests")


def test_a_changed_file_is_read_anew(module_file):
    source = f"{module_file(NET)}:build"
    assert build_model(source, {}).fc.in_features == 4
    module_file(NET.replace("width=4", "width=9"))
    assert build_model(source, {}).fc.in_features == 9


def test_a_module_is_found_in_the_working_directory(module_file, tmp_path, monkeypatch):
    module_file("", "nets_of_cmon_tests/__init__.py")
    file = module_file(NET, "nets_of_cmon_tests/small.py")
    monkeypatch.chdir(tmp_path)
    source = "nets_of_cmon_tests.small:build"
    try:
        assert model_recipe(source, {}) == {"source": source, "arguments": {}, "sha256": file_sha256(file)}
        assert "nets_of_cmon_tests" not in sys.modules
        assert build_model(source, {}).fc.in_features == 4
    finally:
        for name in ("nets_of_cmon_tests", "nets_of_cmon_tests.small"):
            sys.modules.pop(name, None)


def test_a_recipe_does_not_change_when_the_project_moves(module_file):
    recipes = [model_recipe(f"{module_file(NET, f'{folder}/net.py')}:build", {"width": 2}) for folder in "ab"]
    assert recipes[0] == recipes[1]
    assert recipes[0]["source"] == "net.py:build"


def test_a_recipe_changes_with_the_file(module_file):
    before = model_recipe(f"{module_file(NET)}:build", {})
    assert model_recipe(f"{module_file(NET + '#')}:build", {}) != before


def test_a_zoo_models_recipe_is_its_name_and_arguments():
    expected = {"source": "timm:resnet18", "arguments": {"num_classes": 2}}
    assert model_recipe("timm:resnet18", {"num_classes": 2}) == expected


def test_a_module_that_cannot_be_found_has_a_recipe_without_hash():
    assert model_recipe("absent.module:build", {}) == {"source": "absent.module:build", "arguments": {}}


def test_a_recipe_imports_neither_torch_nor_the_module(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    program = (
        "import sys; from cmon.models import model_recipe; r = model_recipe('torch.nn.functional:relu', {});"
        "s = model_recipe(f'transformers:{sys.argv[1]}', {});"
        "print('torch' in sys.modules, 'transformers' in sys.modules, 'sha256' in r, 'sha256' in s)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert finished.stdout.split() == ["False", "False", "True", "True"]


def test_the_users_file_of_the_real_run_builds():
    file = shared("data/resnet20_epochs/keras_resnet20.py")
    model = build_model(f"{file}:build", {})
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert select_layers(model, ["layer?"]) == ("layer1", "layer2", "layer3")


# Models of transformers

needs_transformers = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="an optional package")
VIT = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "id2label": {"0": "cat", "1": "dog", "2": "car"},
    "label2id": {"cat": 0, "dog": 1, "car": 2},
}


@pytest.fixture
def folder(tmp_path):
    """Write a folder's config.json; return the model's source."""

    def write(text=None, name="checkpoint-500", **changes):
        place = tmp_path / name
        place.mkdir(parents=True, exist_ok=True)
        config = {key: value for key, value in (VIT | changes).items() if value is not None}
        (place / "config.json").write_text(json.dumps(config) if text is None else text)
        return f"transformers:{place}"

    return write


@needs_transformers
def test_a_folder_of_transformers_is_built_as_its_config_says(folder):
    model = build_model(folder(), {})
    assert type(model).__name__ == "ViTForImageClassification"
    assert model.classifier.out_features == 3
    assert model.vit.layers[0].mlp.fc1.weight.shape == (20, 12)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@needs_transformers
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"architectures": ["MyOwnViT", "ViTModel"]}, "ViTModel"),
        ({"architectures": ["AutoConfig", "pipeline", "ViTMAEModel"], "model_type": "vit_mae"}, "ViTMAEModel"),
        ({"architectures": None}, "ViTForImageClassification"),
        ({"architectures": ["Trainer"]}, "ViTForImageClassification"),
        ({"architectures": None, "model_type": "siglip_vision_model"}, "SiglipVisionModel"),
    ],
)
def test_the_first_class_that_is_a_model_of_transformers_is_built(folder, changes, expected):
    assert type(build_model(folder(**changes), {})).__name__ == expected


@needs_transformers
def test_a_seed_decides_a_model_of_transformers(folder):
    source = folder()
    first, again, other = (build_model(source, {}, seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


@needs_transformers
def test_arguments_replace_keys_of_the_config(folder):
    model = build_model(folder(), {"num_labels": 7, "hidden_act": "relu", "image_size": [16, 24]})
    assert model.classifier.out_features == 7
    assert isinstance(model.vit.layers[0].mlp.activation_fn, nn.ReLU)
    assert model(torch.zeros(1, 3, 16, 24)).logits.shape == (1, 7)


@needs_transformers
def test_a_key_that_has_another_name_too_is_replaced(folder):
    swin = {"model_type": "swin", "architectures": None, "num_hidden_layers": None, "embed_dim": 8, "depths": [1, 1]}
    source = folder(**swin, num_attention_heads=[2, 4])
    assert build_model(source, {}).config.num_heads == [2, 4]
    for name in ("num_heads", "num_attention_heads"):
        assert build_model(source, {name: [4, 8]}).config.num_heads == [4, 8]


@needs_transformers
@pytest.mark.parametrize("stated", [{"dtype": "bfloat16"}, {"torch_dtype": "float16"}])
def test_a_model_of_transformers_is_in_float32_however_it_was_saved(folder, stated):
    model = build_model(folder(**stated), {})
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


@needs_transformers
@pytest.mark.parametrize("key", ["num_lables", "dtype", "_name_or_path", "model_type", "attn_implementation"])
def test_an_argument_that_is_no_key_of_the_config_is_an_error(folder, key):
    with pytest.raises(ConfigError, match=f"model_args.{key} is no key of a vit config") as caught:
        build_model(folder(), {key: "x"})
    assert caught.value.hint
    assert key != "num_lables" or "num_labels" in caught.value.hint


@needs_transformers
def test_as_many_labels_as_are_asked_for_or_an_error(folder):
    timm = {"model_type": "timm_wrapper", "architecture": "resnet10t", "num_classes": 5, "id2label": None}
    source = folder(**timm, architectures=None, pretrained_cfg={"input_size": [3, 32, 32]})
    with pytest.raises(ConfigError, match="num_labels has no effect on a timm_wrapper config: there are 5"):
        build_model(source, {"num_labels": 4})


@needs_transformers
@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"pretrained": True}, "asks for weights"),
        ({"num_labels": "ten"}, "TypeError"),
        ({"hidden_size": "x"}, "got str"),
    ],
)
def test_arguments_that_make_no_model_of_transformers_are_an_error(folder, arguments, what):
    with pytest.raises(ConfigError, match=what) as caught:
        build_model(folder(), arguments)
    assert "\n" not in str(caught.value)


def test_code_that_a_config_names_is_never_run(folder, tmp_path):
    source = folder(auto_map={"AutoModel": "own.Own"})
    (tmp_path / "checkpoint-500/own.py").write_text("raise SystemExit('run')")
    with pytest.raises(ModelError, match="Python code of its own") as caught:
        build_model(source, {})
    assert "file.py:function" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "has no model_type"),
        ("{}", "has no model_type"),
        ('{"model_type": 3}', "has no model_type"),
    ],
)
def test_a_config_that_is_none_is_an_error(folder, text, what):
    with pytest.raises(ModelError, match=what) as caught:
        build_model(folder(text), {})
    assert caught.value.hint


@needs_transformers
def test_an_unknown_kind_of_model_lists_the_nearest(folder):
    with pytest.raises(ModelError, match="knows no model_type convnet") as caught:
        build_model(folder(model_type="convnet"), {})
    assert "convnext" in caught.value.hint


@pytest.mark.parametrize("use", [build_model, model_recipe])
def test_a_folder_without_a_config_says_where_one_is(folder, tmp_path, use):
    folder(name="run/checkpoint-500")
    with pytest.raises(ModelError, match="holds no config") as caught:
        use(f"transformers:{tmp_path}/run", {})
    assert caught.value.hint == "one is in checkpoint-500"
    with pytest.raises(ModelError, match="there is no such folder"):
        use(f"transformers:{tmp_path}/absent", {})
    with pytest.raises(ModelError, match="is a file"):
        use(f"transformers:{tmp_path}/run/checkpoint-500/config.json", {})
    (tmp_path / "run/config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="is not text"):
        use(f"transformers:{tmp_path}/run", {})


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return a cache of the Hugging Face hub that holds somebody/vit."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    for name, text in {"refs/main": "c0ffee", "snapshots/c0ffee/config.json": json.dumps(VIT)}.items():
        file = cache / "models--somebody--vit" / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
    return cache


@needs_transformers
def test_a_name_of_the_hub_is_looked_up_in_its_cache(hub):
    assert build_model("transformers:somebody/vit", {}).classifier.out_features == 3
    recipe = model_recipe("transformers:somebody/vit", {})
    assert recipe["source"] == "transformers:somebody/vit"
    assert recipe["sha256"] == file_sha256(hub / "models--somebody--vit/snapshots/c0ffee/config.json")


@pytest.mark.parametrize("use", [build_model, model_recipe])
def test_a_name_that_was_never_downloaded_is_an_error(hub, use):
    with pytest.raises(ModelError, match="nothing is downloaded") as caught:
        use("transformers:somebody/else", {})
    assert str(hub) in str(caught.value)
    assert "hf download somebody/else config.json" in caught.value.hint
    for wrong in ("", "a/b/c", "two words"):
        with pytest.raises(ModelError, match="neither a folder nor a name"):
            use(f"transformers:{wrong}", {})


@needs_transformers
def test_transformers_is_kept_silent_and_off_the_internet(folder, monkeypatch, capfd):
    import logging

    from huggingface_hub import constants

    source = folder()
    build_model(source, {})
    import transformers

    seen = []
    plain = transformers.ViTForImageClassification._from_config

    def loud(*arguments, **options):
        seen.append(constants.HF_HUB_OFFLINE)
        transformers.logging.get_logger("transformers.models").error("an error that is logged")
        return plain(*arguments, **options)

    monkeypatch.setattr(transformers.ViTForImageClassification, "_from_config", loud)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    build_model(source, {})
    assert seen == [True]
    assert constants.HF_HUB_OFFLINE is False
    assert logging.root.manager.disable == logging.NOTSET
    assert capfd.readouterr() == ("", "")


def test_without_transformers_an_error_names_what_installs_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match="needs the package transformers, which is not installed") as caught:
        build_model(folder(), {})
    assert caught.value.hint == "pip install 'concept-monitor[transformers]'"


def test_a_folders_recipe_is_its_name_and_its_config(folder):
    first, second = (folder(name=f"{place}/checkpoint-500") for place in "ab")
    recipe = model_recipe(first, {"num_labels": 2})
    assert recipe == model_recipe(second, {"num_labels": 2})
    assert recipe["source"] == "transformers:checkpoint-500"
    assert recipe["arguments"] == {"num_labels": 2}
    assert model_recipe(folder(hidden_act="relu"), {"num_labels": 2})["sha256"] != recipe["sha256"]


@needs_transformers
@pytest.mark.parametrize(
    "changes", [{}, {"model_type": "convnext", "architectures": None}, {"model_type": "beit", "architectures": None}]
)
def test_what_transformers_saves_fits_its_model_by_the_saved_names(folder, tmp_path, changes):
    from safetensors.torch import load_file

    model = build_model(folder(**changes), {})
    model.save_pretrained(tmp_path / "saved")
    saved, names = load_file(tmp_path / "saved/model.safetensors"), saved_names(model)
    renamed = {names.get(name, name): value for name, value in saved.items()}
    expected = model.state_dict()
    assert renamed.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in renamed.items())
    assert names.keys() <= saved.keys()
    assert all(name != own for name, own in names.items())


def test_only_transformers_has_other_names_in_files(module_file):
    assert saved_names(build_model("timm:resnet10t", {})) == {}
    assert saved_names(build_model(f"{module_file(NET)}:build", {})) == {}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("transformers:runs/checkpoint-500", "transformers:{folder}/runs/checkpoint-500"),
        ("transformers:./runs/checkpoint-900", "transformers:{folder}/runs/checkpoint-900"),
        ("transformers:$PLACE/checkpoint-900", "transformers:/data/checkpoint-900"),
        ("transformers:~/checkpoint-900", "transformers:/home/somebody/checkpoint-900"),
        ("transformers:/data/../checkpoint-900", "transformers:/checkpoint-900"),
        ("transformers:google/vit-base-patch16-224", "transformers:google/vit-base-patch16-224"),
        ("transformers:runs/checkpoint-900", "transformers:runs/checkpoint-900"),
    ],
)
def test_a_folder_starts_at_the_configs_and_other_names_stay(tmp_path, monkeypatch, written, read):
    monkeypatch.setenv("PLACE", "/data")
    monkeypatch.setenv("HOME", "/home/somebody")
    (tmp_path / "runs/checkpoint-500").mkdir(parents=True)
    found = TypeAdapter(Source).validate_python(written, context={"folder": tmp_path})
    assert found == read.format(folder=tmp_path)


def network():
    block = lambda: nn.Sequential(nn.Linear(1, 1), nn.ReLU())  # noqa: E731
    model = nn.Module()
    model.stem, model.layer1, model.layer2 = nn.Linear(1, 1), block(), block()
    model.layer2.add_module("deep", block())
    return model


@pytest.mark.parametrize(
    ("patterns", "layers"),
    [
        (["layer1"], ["layer1"]),
        (["layer*"], ["layer1", "layer2"]),
        (["layer2.*"], ["layer2.0", "layer2.1", "layer2.deep"]),
        (["layer2.**"], ["layer2.0", "layer2.1", "layer2.deep", "layer2.deep.0", "layer2.deep.1"]),
        (["**.0"], ["layer1.0", "layer2.0", "layer2.deep.0"]),
        (["**.stem"], ["stem"]),
        (["layer[1-1]"], ["layer1"]),
        (["layer[!1]"], ["layer2"]),
        (["layer?.[0]"], ["layer1.0", "layer2.0"]),
        (["layer2", "stem", "layer2"], ["stem", "layer2"]),
    ],
)
def test_patterns_choose_layers_in_the_models_order(patterns, layers):
    assert list(select_layers(network(), patterns)) == layers


def test_two_stars_choose_every_layer_but_the_root():
    names = [name for name, _ in network().named_modules() if name]
    random.Random(0).shuffle(names)
    assert set(select_layers(network(), ["**"])) == set(names)


def test_a_pattern_that_matches_nothing_lists_the_nearest_first():
    with pytest.raises(ModelError, match="layer3") as caught:
        select_layers(network(), ["stem", "layer3"])
    assert caught.value.hint.startswith("the model has layer2, layer1, ") or caught.value.hint.startswith(
        "the model has layer1, layer2, "
    )
    assert "stem" in caught.value.hint


@pytest.mark.parametrize("pattern", ["", "Layer1", "stem?", "layer1.", "layer[z-a]", "layer["])
def test_a_pattern_without_a_layer_is_an_error(pattern):
    with pytest.raises(ModelError):
        select_layers(network(), [pattern])


def test_a_long_list_of_layers_is_cut():
    model = nn.Sequential(*(nn.ReLU() for _ in range(50)))
    with pytest.raises(ModelError) as caught:
        select_layers(model, ["absent"])
    assert caught.value.hint.endswith("and 20 more")
