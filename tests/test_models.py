import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cmon.errors import ConfigError, ModelError
from cmon.fingerprint import file_sha256
from cmon.models import build_model, check_random, model_recipe, select_layers

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


def test_a_recipe_imports_neither_torch_nor_the_module():
    program = (
        "import sys; from cmon.models import model_recipe; r = model_recipe('torch.nn.functional:relu', {});"
        "print('torch' in sys.modules, 'sha256' in r)"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.split() == ["False", "True"]


def test_the_users_file_of_the_real_run_builds():
    file = shared("data/resnet20_epochs/keras_resnet20.py")
    model = build_model(f"{file}:build", {})
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert select_layers(model, ["layer?"]) == ("layer1", "layer2", "layer3")


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
