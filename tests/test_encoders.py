import itertools
import json
import logging
import os
import pickle
import shutil
import socket
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cmon.config import Features, OpenClip
from cmon.encoders import ENCODERS, encoder_recipe, feature_concepts, open_encoder
from cmon.encoders.weights import FOLDER_WEIGHTS
from cmon.errors import ConfigError, EncoderError
from cmon.fingerprint import HashMemory, canonical_json
from cmon.torchvision_import import torchvision

torchvision()
import open_clip  # noqa: E402

DEMO = Path(__file__).resolve().parents[1] / "sample_configs" / "demo" / "encoder"
WORDS = ("red circle", "striped", "a", "größe 縞")
TEXT = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VIT = {"embed_dim": 12, "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16}}
RESNET = {"embed_dim": 12, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}}
PREPROCESS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic", "resize_mode": "shortest"}


def pictures(count=7):
    generator = np.random.default_rng(0)
    sizes = [(40, 50), (64, 64), (33, 90), (20, 10)]
    return [
        Image.fromarray(generator.integers(0, 256, (*sizes[i % 4], 3), dtype=np.uint8)).convert("RGB")
        for i in range(count)
    ]


NAMES = tuple(f"{i}.png" for i in range(7))


def write_model(folder, architecture=VIT, preprocess=PREPROCESS, file="open_clip_pytorch_model.bin", **changes):
    """Write a model of random weights as open_clip saves one."""
    folder.mkdir(parents=True, exist_ok=True)
    model = open_clip.CLIP(**architecture, text_cfg=TEXT)
    config = {"model_cfg": {**architecture, "text_cfg": TEXT, **changes}, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    state = {
        k: torch.randn(v.shape, generator=generator) * 0.3 if v.is_floating_point() else v
        for k, v in model.state_dict().items()
    }
    for name in state:
        if name.endswith("running_var") or ("bn" in name and name.endswith("weight")):
            state[name] = state[name].abs() + 0.5
    if file.endswith("safetensors"):
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in state.items()}, folder / file)
    else:
        torch.save(state, folder / file)
    return folder


def local(folder, **options):
    return OpenClip.model_validate({"kind": "open_clip", "model": f"local-dir:{folder}", **options})


def built_in(model, pretrained, **options):
    return OpenClip.model_validate({"kind": "open_clip", "model": model, "pretrained": str(pretrained), **options})


@pytest.fixture(scope="module")
def small_models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {"demo": DEMO, "vit": write_model(root / "vit"), "resnet": write_model(root / "resnet", RESNET)}


models = pytest.mark.parametrize("name", ["demo", "vit", "resnet"])


def recipe(table, folder):
    return encoder_recipe(table, HashMemory(folder / "hashes.json"))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Count attempts to reach another machine, and have nothing in any cache."""
    attempts = []

    def refuse(*arguments, **_):
        attempts.append(arguments)
        raise OSError("no internet")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return attempts


# --- open_clip


@models
def test_features_equal_those_of_open_clip_itself(small_models, name):
    folder = small_models[name]
    encoder = open_encoder(local(folder), "cpu")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    with torch.inference_mode():
        images = model.encode_image(torch.stack([transform(image) for image in pictures()]), normalize=True).numpy()
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")([f"a photo of {word}" for word in WORDS])
        words = model.encode_text(tokens, normalize=True).numpy()
    assert np.allclose(encoder.image_features(NAMES, pictures()), images, rtol=0, atol=1e-6)
    assert np.allclose(encoder.text_features(WORDS, "a photo of {}"), words, rtol=0, atol=1e-6)
    assert np.ptp(images, axis=0).max() > 1e-4  # the images are told apart at all
    assert np.ptp(words, axis=0).max() > 1e-4


@models
def test_features_are_unit_vectors_in_float32(small_models, name):
    encoder = open_encoder(local(small_models[name]), "cpu")
    for features, rows in ((encoder.image_features(NAMES, pictures()), 7), (encoder.text_features(WORDS, "{}"), 4)):
        assert features.dtype == np.float32
        assert len(features) == rows
        assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)


@models
@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_the_batch_size_does_not_matter(small_models, name, batch_size):
    whole = open_encoder(local(small_models[name]), "cpu")
    parts = open_encoder(local(small_models[name], batch_size=batch_size), "cpu")
    for one, other in (
        (whole.image_features(NAMES, pictures()), parts.image_features(NAMES, iter(pictures()))),
        (whole.text_features(WORDS, "{}"), parts.text_features(WORDS, "{}")),
    ):
        assert np.allclose(one, other, rtol=0, atol=1e-5)


@models
def test_a_model_is_in_evaluation_mode_and_learns_nothing(small_models, name):
    encoder = open_encoder(local(small_models[name]), "cpu")
    before = {key: value.clone() for key, value in encoder.model.state_dict().items()}
    first = encoder.image_features(NAMES, pictures())
    assert np.array_equal(encoder.image_features(NAMES, pictures()), first)
    assert not any(module.training for module in encoder.model.modules())
    assert all(torch.equal(value, before[key]) for key, value in encoder.model.state_dict().items())


def test_images_are_read_one_batch_at_a_time(small_models):
    encoder, waiting = open_encoder(local(small_models["vit"], batch_size=2), "cpu"), []
    encode = encoder.model.encode_image

    def images():
        for image in pictures():
            waiting.append(image)
            assert len(waiting) <= 2
            yield image

    def counted(batch, normalize):
        waiting.clear()
        return encode(batch, normalize=normalize)

    encoder.model.encode_image = counted
    assert len(encoder.image_features(NAMES, images())) == 7


@pytest.mark.parametrize(
    "change",
    [{"resize_mode": "squash"}, {"mean": [0.0, 0.0, 0.0]}, {"std": [1.0, 1.0, 1.0]}, {"interpolation": "bilinear"}],
)
def test_preprocessing_can_be_overridden(small_models, tmp_path, change):
    folder = small_models["vit"]
    changed = open_encoder(local(folder, preprocess=change), "cpu").image_features(NAMES, pictures())
    plain = open_encoder(local(folder), "cpu").image_features(NAMES, pictures())
    stated = write_model(tmp_path / "stated", preprocess={**PREPROCESS, **change})
    assert np.abs(changed - plain).max() > 1e-5
    assert np.array_equal(changed, open_encoder(local(stated), "cpu").image_features(NAMES, pictures()))
    assert recipe(local(folder, preprocess=change), tmp_path) != recipe(local(folder), tmp_path)


def test_the_folders_own_preprocessing_is_used(small_models, tmp_path):
    other = write_model(tmp_path / "other", preprocess={**PREPROCESS, "mean": [0.0, 0.0, 0.0]})
    plain = open_encoder(local(small_models["vit"]), "cpu").image_features(NAMES, pictures())
    assert np.abs(open_encoder(local(other), "cpu").image_features(NAMES, pictures()) - plain).max() > 1e-5


def test_the_prompt_is_what_the_text_encoder_reads(small_models):
    encoder = open_encoder(local(small_models["vit"]), "cpu")
    assert np.array_equal(encoder.text_features(["dog"], "a {} or {}"), encoder.text_features(["a dog or dog"], "{}"))
    assert not np.array_equal(encoder.text_features(["dog"], "a {}"), encoder.text_features(["dog"], "{}"))


@pytest.mark.parametrize("file", FOLDER_WEIGHTS)
def test_every_usual_name_of_weights_is_found(tmp_path, small_models, file):
    folder = write_model(tmp_path / "model", file=file)
    found = open_encoder(local(folder), "cpu").text_features(WORDS, "{}")
    assert np.array_equal(found, open_encoder(local(small_models["vit"]), "cpu").text_features(WORDS, "{}"))


@pytest.mark.parametrize(("used", "left"), [*itertools.pairwise(FOLDER_WEIGHTS)])
def test_of_several_weights_the_recipe_hashes_those_that_open_clip_loads(tmp_path, used, left):
    folder = write_model(tmp_path / "model", file=used)
    alone = recipe(local(folder), tmp_path)
    (folder / left).write_bytes(b"damaged")
    assert open_encoder(local(folder), "cpu").model
    assert recipe(local(folder), tmp_path) == alone
    write_model(folder, file=left)
    (folder / used).write_bytes(b"damaged")
    assert recipe(local(folder), tmp_path) != alone
    with pytest.raises(EncoderError, match=f"{used}: does not load"):
        open_encoder(local(folder), "cpu")


def test_nan_in_the_weights_is_an_error(tmp_path):
    folder = write_model(tmp_path / "model")
    state = torch.load(folder / FOLDER_WEIGHTS[2])
    state["text_projection"][0, 0] = float("nan")
    torch.save(state, folder / FOLDER_WEIGHTS[2])
    with pytest.raises(EncoderError, match="NaN or infinity"):
        open_encoder(local(folder), "cpu").text_features(WORDS, "{}")


# --- its recipe


def test_a_recipe_is_plain_json_and_does_not_know_its_place(small_models, tmp_path):
    moved = shutil.copytree(small_models["vit"], tmp_path / "elsewhere" / "größe")
    found = recipe(local(moved), tmp_path)
    assert found == recipe(local(small_models["vit"]), tmp_path)
    assert json.loads(canonical_json(found)) == found
    assert str(tmp_path) not in canonical_json(found)


@pytest.mark.parametrize("part", ["weights", "architecture", "preprocessing"])
def test_a_recipe_changes_with_each_part_of_a_model(small_models, tmp_path, part):
    folder = shutil.copytree(small_models["vit"], tmp_path / "model")
    before = recipe(local(folder), tmp_path)
    if part == "weights":
        data = bytearray((folder / FOLDER_WEIGHTS[2]).read_bytes())
        data[-1] ^= 1
        (folder / FOLDER_WEIGHTS[2]).write_bytes(data)
    else:
        config = json.loads((folder / "open_clip_config.json").read_text())
        if part == "architecture":
            config["model_cfg"]["quick_gelu"] = True
        else:
            config["preprocess_cfg"]["mean"] = [0, 0, 0]
        (folder / "open_clip_config.json").write_text(json.dumps(config))
    assert recipe(local(folder), tmp_path) != before


def test_a_recipe_changes_with_the_folders_own_tokenizer(tmp_path):
    folder = write_model(tmp_path / "model", text_cfg={**TEXT, "hf_tokenizer_name": "x"})
    (folder / "tokenizer.json").write_text("{}")
    before = recipe(local(folder), tmp_path)
    (folder / "tokenizer.json").write_text('{"more": 1}')
    assert recipe(local(folder), tmp_path) != before


def test_a_batch_size_or_leave_to_fetch_changes_no_recipe(small_models, tmp_path):
    plain = recipe(local(small_models["vit"]), tmp_path)
    assert recipe(local(small_models["vit"], batch_size=3, download=True), tmp_path) == plain


def test_recipes_of_two_tags_or_models_differ(tmp_path):
    tables = [built_in("ViT-B-32", "laion2b_e16"), built_in("ViT-B-32", "openai"), built_in("ViT-B-16", "openai")]
    assert len({canonical_json(recipe(table, tmp_path)) for table in tables}) == 3


def test_a_recipe_needs_neither_torch_nor_open_clip(tmp_path):
    import subprocess

    code = f"""
import sys
from pathlib import Path
from cmon.config import OpenClip
from cmon.encoders import encoder_recipe
from cmon.fingerprint import HashMemory
memory = HashMemory(Path({str(tmp_path)!r}) / "hashes.json")
encoder_recipe(OpenClip(kind="open_clip", model="local-dir:{DEMO}"), memory)
encoder_recipe(OpenClip(kind="open_clip", model="ViT-B-16", pretrained="openai"), memory)
assert not {{"torch", "open_clip", "torchvision"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- built-in architectures

SMALL = "ViT-S-32-alt"  # of the smallest that open_clip has


@pytest.fixture(scope="module")
def built_in_weights(tmp_path_factory):
    """Random weights of a built-in architecture, in a file."""
    torch.manual_seed(0)
    logging.disable(logging.WARNING)
    model = open_clip.create_model(SMALL, pretrained=None)
    logging.disable(logging.NOTSET)
    path = tmp_path_factory.mktemp("weights") / "mine.pt"
    torch.save(model.state_dict(), path)
    return path, model.eval()


def test_a_built_in_model_takes_a_local_file_of_weights(built_in_weights, tmp_path):
    path, model = built_in_weights
    encoder = open_encoder(built_in(SMALL, path), "cpu")
    with torch.inference_mode():
        expected = model.encode_text(open_clip.get_tokenizer(SMALL)(list(WORDS)), normalize=True).numpy()
    assert np.allclose(encoder.text_features(WORDS, "{}"), expected, rtol=0, atol=1e-6)
    assert encoder.image_features(NAMES[:2], pictures(2)).shape == (2, expected.shape[1])
    assert recipe(built_in(SMALL, path), tmp_path)["model"] == SMALL


def test_a_file_with_another_quick_gelu_beside_it_is_refused(built_in_weights, tmp_path):
    shutil.copy(built_in_weights[0], tmp_path / "mine.pt")
    config = {"model_cfg": {"quick_gelu": True}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match=r"trained with QuickGELU, ViT-S-32-alt is not so") as caught:
        open_encoder(built_in(SMALL, tmp_path / "mine.pt"), "cpu")
    assert caught.value.hint == 'set model = "ViT-S-32-alt-quickgelu"'
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"quick_gelu": False}}))
    assert open_encoder(built_in(SMALL, tmp_path / "mine.pt"), "cpu").model


@pytest.mark.parametrize(
    ("model", "tag", "right"),
    [
        ("ViT-B-32", "openai", "ViT-B-32-quickgelu"),
        ("ViT-B/32", "openai", "ViT-B/32-quickgelu"),
        ("ViT-B-16", "openai", "ViT-B-16-quickgelu"),
    ],
)
def test_a_tag_that_was_trained_with_another_quick_gelu_is_refused(offline, model, tag, right):
    with pytest.raises(EncoderError, match="QuickGELU") as caught:
        open_encoder(built_in(model, tag), "cpu")
    assert caught.value.hint == f'set model = "{right}"'
    assert offline == []


def test_a_tag_that_was_trained_without_quick_gelu_is_refused_by_a_model_with_it(offline, monkeypatch):
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda model, tag: {"url": "https://example.org/x.pt"})
    with pytest.raises(
        EncoderError, match="mine was trained without QuickGELU, ViT-B-32-quickgelu is not so"
    ) as caught:
        open_encoder(built_in("ViT-B-32-quickgelu", "mine"), "cpu")
    assert caught.value.hint == 'set model = "ViT-B-32"'


@pytest.mark.parametrize("name", ["ViT-B-32-quickgelu", "ViT-B/32-quickgelu"])
def test_weights_that_are_not_here_are_an_error_and_nothing_is_fetched(offline, name):
    with pytest.raises(EncoderError, match="its weights are not on this machine") as caught:
        open_encoder(built_in(name, "openai"), "cpu")
    assert "encoder.download = true" in caught.value.hint
    assert offline == []


def test_fetching_that_fails_is_an_error(offline, monkeypatch):
    def fail(known):
        raise OSError("no internet")

    monkeypatch.setattr(open_clip, "download_pretrained", fail)
    with pytest.raises(EncoderError, match="cannot be fetched: no internet"):
        open_encoder(built_in("ViT-B-32-quickgelu", "openai", download=True), "cpu")


@pytest.mark.parametrize("place", ["hub", "clip"])
def test_weights_that_were_fetched_before_are_used(offline, monkeypatch, tmp_path, built_in_weights, place):
    known = {"hf_hub": "somebody/model/", "url": "https://example.org/x/mine.pt", "mean": (0.1, 0.2, 0.3)}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda model, tag: known)
    if place == "hub":
        snapshot = tmp_path / "hub" / "models--somebody--model" / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("abc")
        shutil.copy(built_in_weights[0], snapshot / FOLDER_WEIGHTS[2])
    else:
        (tmp_path / ".cache" / "clip").mkdir(parents=True)
        shutil.copy(built_in_weights[0], tmp_path / ".cache" / "clip" / "mine.pt")
    encoder = open_encoder(built_in(SMALL, "mytag"), "cpu")
    assert encoder.model.visual.preprocess_cfg["mean"] == (0.1, 0.2, 0.3)
    assert offline == []


def test_openais_own_archives_of_torchscript_load_only_where_they_are_trusted(tmp_path, built_in_weights):
    path, _ = built_in_weights

    class Holder(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    root = Holder()
    for name, value in torch.load(path).items():
        *owners, last = name.split(".")
        owner = root
        for step in owners:
            if not hasattr(owner, step):
                owner.add_module(step, Holder())
            owner = getattr(owner, step)
        owner.register_buffer(last, value)
    root.register_buffer("input_resolution", torch.tensor(224))
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(root, torch.zeros(1)), tmp_path / "ViT.pt")
    table = built_in(SMALL, tmp_path / "ViT.pt")
    with pytest.raises(EncoderError, match="is a TorchScript archive, which holds code") as caught:
        open_encoder(table, "cpu")
    assert "--trust-pickle" in caught.value.hint
    found = open_encoder(table, "cpu", trust_pickle=True).text_features(WORDS, "{}")
    assert np.array_equal(found, open_encoder(built_in(SMALL, path), "cpu").text_features(WORDS, "{}"))


def test_an_unknown_model_names_the_nearest(tmp_path):
    for use in (lambda t: recipe(t, tmp_path), lambda t: open_encoder(t, "cpu")):
        with pytest.raises(ConfigError, match="open_clip knows no ViT-B-61") as caught:
            use(built_in("ViT-B-61", "openai"))
        assert "ViT-B-16" in caught.value.hint


def test_an_unknown_tag_names_the_nearest(offline):
    with pytest.raises(EncoderError, match="neither a file nor a tag: opnai") as caught:
        open_encoder(built_in("ViT-B-32", "opnai"), "cpu")
    assert caught.value.hint.startswith("nearest: openai; tags of ViT-B-32: ")
    assert offline == []


def test_a_model_without_weights_named_is_a_mistake(tmp_path):
    with pytest.raises(ConfigError, match=r"encoder\.pretrained: is missing"):
        recipe(OpenClip(kind="open_clip", model="ViT-B-32"), tmp_path)


@pytest.mark.parametrize("what", ["recipe", "load"])
@pytest.mark.parametrize("state", ["no folder", "no config", "no weights", "not json", "a list", "no model_cfg"])
def test_a_folder_that_is_no_model_is_an_error(tmp_path, what, state):
    folder = tmp_path / "model"
    if state != "no folder":
        write_model(folder)
    config = folder / "open_clip_config.json"
    if state == "no config":
        config.unlink()
    if state == "no weights":
        (folder / FOLDER_WEIGHTS[2]).unlink()
    if state in ("not json", "a list", "no model_cfg"):
        config.write_text({"not json": "{", "a list": "[]", "no model_cfg": "{}"}[state])
    if state == "no model_cfg" and what == "recipe":
        return
    with pytest.raises(EncoderError) as caught:
        recipe(local(folder), tmp_path) if what == "recipe" else open_encoder(local(folder), "cpu")
    assert str(folder) in caught.value.where
    assert caught.value.hint


@pytest.mark.parametrize(
    "change", [{"text_cfg": {**TEXT, "heads": 3}}, {"text_cfg": {}}, {"vision_cfg": 3}, {"nonsense": 1}]
)
def test_a_config_that_open_clip_cannot_build_is_an_error(tmp_path, change):
    folder = write_model(tmp_path / "model")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"] |= change
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match="does not load"):
        open_encoder(local(folder), "cpu")


@pytest.mark.parametrize("file", [FOLDER_WEIGHTS[0], FOLDER_WEIGHTS[2]])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_cut_weights_are_an_error(tmp_path, file, share):
    folder = write_model(tmp_path / "model", file=file)
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(EncoderError, match="does not load") as caught:
        open_encoder(local(folder), "cpu")
    assert caught.value.where == str(folder / file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("state", [{}, {"a": torch.zeros(2)}, torch.zeros(3), [1, 2], None])
def test_weights_of_something_else_are_an_error(tmp_path, state):
    folder = write_model(tmp_path / "model")
    torch.save(state, folder / FOLDER_WEIGHTS[2])
    with pytest.raises(EncoderError, match="does not load"):
        open_encoder(local(folder), "cpu")


class Runs:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("as_folder", [True, False])
def test_weights_that_would_run_code_are_refused_and_not_run(tmp_path, built_in_weights, legacy, as_folder):
    folder, trace = write_model(tmp_path / "model"), tmp_path / "trace"
    file = folder / FOLDER_WEIGHTS[2]
    torch.save({"x": Runs(str(trace))}, file, _use_new_zipfile_serialization=not legacy)
    if not as_folder:
        (folder / "open_clip_config.json").unlink()
    with pytest.raises(EncoderError, match="does not load safely"):
        open_encoder(local(folder) if as_folder else built_in(SMALL, file), "cpu")
    assert not trace.exists()


def test_a_pickle_dressed_as_torchscript_is_not_run(tmp_path):
    """A pickle with a zip behind it, which torch's reader finds and torch.load does not."""
    import io
    import zipfile

    trace, stream = tmp_path / "trace", io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in ("constants.pkl", "version", "data.pkl"):
            archive.writestr(f"archive/{name}", "3\n")
    (tmp_path / "x.pt").write_bytes(pickle.dumps(Runs(str(trace))) + stream.getvalue())
    with pytest.raises(EncoderError, match="does not load"):
        open_encoder(built_in(SMALL, tmp_path / "x.pt"), "cpu")
    assert not trace.exists()


def test_a_tokenizer_from_a_package_that_is_missing_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    folder = write_model(tmp_path / "model")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "somebody/tokenizer"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match="needs another package"):
        open_encoder(local(folder), "cpu")


def test_a_tokenizer_is_not_fetched_without_leave(tmp_path, monkeypatch, built_in_weights):
    asked = []

    def from_pretrained(name, **options):
        asked.append((name, options))
        raise OSError("not in the cache")

    fake = types.SimpleNamespace(AutoTokenizer=types.SimpleNamespace(from_pretrained=from_pretrained))
    monkeypatch.setitem(sys.modules, "transformers", fake)
    config = open_clip.get_model_config(SMALL)
    config["text_cfg"]["hf_tokenizer_name"] = "somebody/tokenizer"
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, SMALL, config)
    with pytest.raises(EncoderError, match="does not load: not in the cache"):
        open_encoder(built_in(SMALL, built_in_weights[0]), "cpu")
    with pytest.raises(EncoderError):
        open_encoder(built_in(SMALL, built_in_weights[0], download=True), "cpu")
    assert [options.get("local_files_only", False) for _, options in asked] == [True, False]


# --- features


def write_features(
    folder, images=None, concepts=None, ids=("a.png", "b/größe.png", "c.png"), words=("cat", "縞", "dog")
):
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(1)
    for name, values, rows in (("image", images, ids), ("concept", concepts, words)):
        if values is None:
            values = generator.normal(size=(len(rows), 4)).astype(np.float32)
        np.save(folder / f"{name}_features.npy", values)
    (folder / "images.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
    (folder / "concepts.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return features_table(folder)


def features_table(folder):
    return Features(
        kind="features",
        image_features=folder / "image_features.npy",
        images=folder / "images.txt",
        concept_features=folder / "concept_features.npy",
        concepts=folder / "concepts.txt",
    )


def unit(values):
    values = np.asarray(values, dtype=np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_features_are_matched_by_name_in_any_order(tmp_path):
    table = write_features(tmp_path)
    images, concepts = np.load(table.image_features), np.load(table.concept_features)
    encoder = open_encoder(table, "cpu")
    found = encoder.image_features(("c.png", "a.png"), iter(()))
    assert np.allclose(found, unit(images[[2, 0]]), atol=1e-6)
    assert np.allclose(encoder.text_features(("dog", "縞", "cat"), "{}"), unit(concepts[[2, 1, 0]]), atol=1e-6)
    assert found.dtype == np.float32
    assert feature_concepts(table) == ("cat", "縞", "dog")


def test_images_of_precomputed_features_are_not_decoded(tmp_path):
    def images():
        raise AssertionError("an image was asked for")
        yield

    assert len(open_encoder(write_features(tmp_path), "cpu").image_features(("a.png",), images())) == 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_of_any_width_become_unit_vectors(tmp_path, dtype):
    table = write_features(
        tmp_path, images=np.array([[3, 4], [0, 2], [-1, 0]], dtype), concepts=np.eye(3, 2).astype(dtype) + 1
    )
    found = open_encoder(table, "cpu").image_features(("a.png", "b/größe.png", "c.png"), ())
    assert np.allclose(found, [[0.6, 0.8], [0, 1], [-1, 0]], atol=1e-6)


@pytest.mark.parametrize("scale", [1e-40, 1e30, 3e38])
def test_very_short_and_very_long_rows_have_a_direction(tmp_path, scale):
    values = np.array([[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]], np.float32) * np.float32(scale)
    found = open_encoder(write_features(tmp_path, images=values), "cpu").image_features(("a.png",), ())
    assert np.allclose(found, [[2**-0.5, 2**-0.5, 0, 0]], atol=1e-4)


def test_missing_names_are_named_with_the_nearest(tmp_path):
    encoder = open_encoder(write_features(tmp_path), "cpu")
    with pytest.raises(
        EncoderError, match=r"images\.txt: lacks 2 images of the probe: b/grosse\.png, z\.png"
    ) as caught:
        encoder.image_features(("a.png", "b/grosse.png", "z.png"), ())
    assert caught.value.hint == "nearest to the first: b/größe.png"
    with pytest.raises(EncoderError, match=r"concepts\.txt: lacks 1 words: zebra crossing") as caught:
        encoder.text_features(("cat", "zebra crossing"), "{}")
    assert "leave them out" in caught.value.hint


def test_names_are_lines_and_nothing_else(tmp_path):
    words = ("two words", "next\x85line", "sep\u2028arated", "form\x0cfeed")
    table = write_features(tmp_path, words=words)
    assert feature_concepts(table) == words
    (tmp_path / "concepts.txt").write_bytes(b"\xef\xbb\xbfcat\r\n\r\n  dog \r\nsky")
    assert feature_concepts(table) == ("cat", "dog", "sky")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"images": np.ones((2, 4))}, r"image_features\.npy: has 2 rows, images\.txt names 3"),
        ({"concepts": np.ones((4, 4))}, r"concept_features\.npy: has 4 rows, concepts\.txt names 3"),
        ({"images": np.ones((3, 5))}, r"image_features\.npy: has 5 dimensions, concept_features\.npy has 4"),
        ({"images": np.diag([1.0, 0, 1, 1])[:3]}, r"1 rows are zero, NaN or infinite, first that of b/größe\.png"),
        ({"images": [[1, 2], [3, np.nan], [np.inf, 1.0]]}, r"2 rows are zero, NaN or infinite"),
        ({"images": np.ones((3, 0))}, r"3 rows are zero"),
        ({"images": np.ones(3)}, r"does not hold \(rows, dimensions\) floats"),
        ({"images": np.ones((3, 4), int)}, r"does not hold \(rows, dimensions\) floats"),
        ({"images": np.ones((3, 4), complex)}, r"does not hold \(rows, dimensions\) floats"),
        ({"images": np.array([[None]] * 3)}, r"image_features\.npy: is not a readable \.npy: .*allow_pickle"),
        ({"ids": ("a", "a", "b")}, r"images\.txt: names twice: a"),
        ({"words": ("a", "b", "b")}, r"concepts\.txt: names twice: b"),
        ({"words": ()}, r"concepts\.txt: names nothing"),
    ],
)
def test_features_that_do_not_agree_are_an_error(tmp_path, change, match):
    table = write_features(tmp_path, **change)
    with pytest.raises(EncoderError, match=match) as caught:
        open_encoder(table, "cpu")
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"0.1 0.2\n", None])
def test_a_file_that_is_no_array_is_an_error(tmp_path, content):
    table = write_features(tmp_path)
    data = table.image_features.read_bytes()
    table.image_features.write_bytes(data[:-5] if content is None else content)
    with pytest.raises(EncoderError, match=r"image_features\.npy: is not a readable \.npy"):
        open_encoder(table, "cpu")


def test_several_arrays_in_one_file_are_an_error(tmp_path):
    table = write_features(tmp_path)
    with table.image_features.open("wb") as file:
        np.savez(file, a=np.ones((3, 4)))
    with pytest.raises(EncoderError, match="does not hold"):
        open_encoder(table, "cpu")


def test_a_pickle_in_place_of_features_is_refused_and_not_run(tmp_path):
    table, trace = write_features(tmp_path), tmp_path / "trace"
    table.image_features.write_bytes(pickle.dumps(Runs(str(trace))))
    with pytest.raises(EncoderError, match="is not a readable"):
        open_encoder(table, "cpu")
    np.save(table.image_features, np.array([Runs(str(trace))], dtype=object), allow_pickle=True)
    with pytest.raises(EncoderError, match="is not a readable"):
        open_encoder(table, "cpu")
    assert not trace.exists()


@pytest.mark.parametrize("name", ["image_features", "images", "concept_features", "concepts"])
def test_a_missing_file_of_features_is_named(tmp_path, name):
    table = write_features(tmp_path)
    getattr(table, name).unlink()
    for use in (lambda: recipe(table, tmp_path / "memory"), lambda: open_encoder(table, "cpu")):
        with pytest.raises(EncoderError) as caught:
            use()
        assert caught.value.where == str(getattr(table, name))


def test_a_list_that_is_not_utf8_is_an_error(tmp_path):
    table = write_features(tmp_path)
    table.concepts.write_bytes(b"caf\xe9\n")
    with pytest.raises(EncoderError, match=r"concepts\.txt: cannot be read"):
        feature_concepts(table)


def test_a_prompt_has_no_effect_on_features_and_is_refused(tmp_path):
    encoder = open_encoder(write_features(tmp_path), "cpu")
    with pytest.raises(ConfigError, match=r"concepts\.prompt"):
        encoder.text_features(("cat",), "a photo of {}")


@pytest.mark.parametrize("name", ["image_features", "images", "concept_features", "concepts"])
def test_the_recipe_of_features_changes_with_every_file_and_not_with_the_place(tmp_path, name):
    table = write_features(tmp_path / "one")
    before = recipe(table, tmp_path)
    moved = features_table(shutil.copytree(tmp_path / "one", tmp_path / "two"))
    assert recipe(moved, tmp_path) == before
    with getattr(moved, name).open("ab") as file:
        file.write(b"\n")
    assert recipe(moved, tmp_path) != before


def test_every_registered_kind_is_allowed_in_the_config():
    assert set(ENCODERS) == {"open_clip", "features"}
    assert set(ENCODERS) == {table.model_fields["kind"].annotation.__args__[0] for table in (OpenClip, Features)}
