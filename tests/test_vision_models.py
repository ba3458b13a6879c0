"""Vision transformers, ConvNeXts and Swins of three libraries: every layer that one would name is read right.

What a layer puts out is kept by a plain hook and reduced by numpy, by the layout that the architecture has.
"""

import importlib.util
import json
from typing import NamedTuple

import numpy as np
import pytest
import torch

from cmon.errors import ModelError
from cmon.models import build_model, check_random, select_layers
from cmon.recording import Recorder, describe_layers, foldable

FIRST, LAST, COLUMNS = "(n, U, h, w)", "(n, h, w, U)", "(n, U)"
needs_transformers = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="an optional package")


class Case(NamedTuple):
    """A network, the size of its images, and layers with their layout: a number is of the tokens before patches."""

    source: str
    arguments: dict
    size: tuple[int, int]
    layers: dict[str, str | int]
    class_token: bool = True


def timm_vit(name, prefix, size=(16, 16), class_token=True, **arguments):
    arguments = {"img_size": size, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2, **arguments}
    if not class_token:
        arguments |= {"class_token": False, "global_pool": "avg"}
    names = ("norm", "blocks", "blocks.*", "blocks.*.attn", "blocks.*.attn.qkv", "blocks.*.mlp", "blocks.*.mlp.act")
    layers = {"patch_embed.proj": FIRST, **dict.fromkeys(names, prefix), "head": COLUMNS}
    return Case(f"timm:{name}", arguments | {"num_classes": 3}, size, layers, class_token)


def transformers_vit(kind, architecture, prefix, blocks, size=(16, 16), **config):
    shape = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
    config = {"model_type": kind, "architectures": [architecture], "image_size": list(size), "patch_size": 4, **shape}
    names = ("", ".attention", ".mlp", ".mlp.fc1", ".mlp.activation_fn")
    stem = blocks.partition(".")[0]
    layers = {f"{stem}.embeddings.patch_embeddings.projection": FIRST, f"{stem}.embeddings": prefix, stem: prefix}
    return Case("transformers", config, size, layers | {f"{blocks}{name}": prefix for name in names})


TORCHVISION_VIT = {"image_size": 16, "patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 12, "mlp_dim": 20}
CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [10, 12, 14, 18], "num_classes": 3}
CONVNEXT_LAYERS = {
    "stem": FIRST,
    "stages.*": FIRST,
    "stages.*.blocks.*": FIRST,
    "stages.*.blocks.*.conv_dw": FIRST,
    "stages.*.blocks.*.norm": LAST,
    "stages.*.blocks.*.mlp.act": LAST,
    "stages.*.blocks.*.mlp": LAST,
    "head.fc": COLUMNS,
}
SWIN = {"patch_size": 4, "window_size": 4, "embed_dim": 10, "depths": [2, 1], "num_heads": [2, 2], "num_classes": 3}
SWIN_LAYERS = {
    "patch_embed": LAST,
    "layers.*": LAST,
    "layers.*.blocks.*": LAST,
    "layers.*.blocks.*.norm1": LAST,
    "layers.*.blocks.*.mlp": 0,
    "layers.*.blocks.*.mlp.act": 0,
    "norm": LAST,
    "head.fc": COLUMNS,
}
TORCHVISION_SWIN_LAYERS = {
    "features.0.0": FIRST,
    "features.*": LAST,
    "features.[13].*": LAST,
    "features.[13].*.mlp.1": LAST,
    "norm": LAST,
    "permute": FIRST,
    "head": COLUMNS,
}
HF_CONVNEXT = {
    "model_type": "convnext",
    "architectures": ["ConvNextForImageClassification"],
    "hidden_sizes": [10, 12, 14, 18],
    "depths": [1, 1, 1, 1],
}
HF_CONVNEXT_LAYERS = {
    "convnext": FIRST,
    "convnext.embeddings": FIRST,
    "convnext.encoder": FIRST,
    "convnext.encoder.stages.*": FIRST,
    "convnext.encoder.stages.*.layers.*": FIRST,
    "convnext.encoder.stages.*.layers.*.layernorm": LAST,
    "convnext.encoder.stages.*.layers.*.act": LAST,
    "convnext.layernorm": COLUMNS,
    "classifier": COLUMNS,
}
HF_SWIN = {
    "model_type": "swin",
    "architectures": ["SwinForImageClassification"],
    "patch_size": 4,
    "window_size": 4,
    "embed_dim": 10,
    "depths": [2, 1],
    "num_heads": [2, 2],
}
HF_SWIN_LAYERS = {
    "swin.embeddings.patch_embeddings.projection": FIRST,
    "swin": 0,
    "swin.embeddings": 0,
    "swin.encoder.layers.*": 0,
    "swin.encoder.layers.*.blocks.*": 0,
    "swin.encoder.layers.*.blocks.*.mlp.activation_fn": 0,
    "swin.layernorm": 0,
    "classifier": COLUMNS,
}
SQUARE, WIDE = (32, 32), (32, 48)
NETS = "NETS:"
CASES = {
    "timm ViT": timm_vit("vit_tiny_patch16_224", 1),
    "timm ViT, wide": timm_vit("vit_tiny_patch16_224", 1, (16, 24)),
    "timm ViT, no class token": timm_vit("vit_tiny_patch16_224", 0, class_token=False),
    "timm ViT, registers": timm_vit("vit_tiny_patch16_224", 5, reg_tokens=4),
    "timm ViT, registers, no class token": timm_vit("vit_tiny_patch16_224", 4, class_token=False, reg_tokens=4),
    "timm DeiT, distilled": timm_vit("deit_tiny_distilled_patch16_224", 2, (16, 24)),
    "timm ConvNeXt": Case("timm:convnext_tiny", CONVNEXT, SQUARE, CONVNEXT_LAYERS),
    "timm ConvNeXt, wide": Case("timm:convnext_tiny", CONVNEXT, (64, 96), CONVNEXT_LAYERS),
    "timm ConvNeXt, 1x1 convolutions": Case(
        "timm:convnext_atto", CONVNEXT, SQUARE, dict.fromkeys(CONVNEXT_LAYERS, FIRST) | {"head.fc": COLUMNS}
    ),
    "timm Swin": Case("timm:swin_tiny_patch4_window7_224", SWIN | {"img_size": SQUARE}, SQUARE, SWIN_LAYERS, False),
    "timm Swin, wide": Case("timm:swin_tiny_patch4_window7_224", SWIN | {"img_size": WIDE}, WIDE, SWIN_LAYERS, False),
    "torchvision ViT": Case(
        NETS + "vit",
        {},
        (16, 16),
        {
            "conv_proj": FIRST,
            "encoder": 1,
            "encoder.layers.*": 1,
            "encoder.layers.*.mlp.1": 1,
            "encoder.layers.*.self_attention": 1,
            "encoder.ln": 1,
            "heads.head": COLUMNS,
        },
    ),
    "torchvision ConvNeXt": Case(
        NETS + "convnext",
        {},
        WIDE,
        {"features.*": FIRST, "features.[13].*": FIRST, "features.[13].*.block.[2345]": LAST, "avgpool": FIRST},
    ),
    "torchvision Swin": Case(NETS + "swin", {}, SQUARE, TORCHVISION_SWIN_LAYERS, False),
    "torchvision Swin, wide": Case(NETS + "swin", {}, WIDE, TORCHVISION_SWIN_LAYERS, False),
    "transformers ViT": transformers_vit("vit", "ViTForImageClassification", 1, "vit.layers.*"),
    "transformers ViT, wide": transformers_vit("vit", "ViTForImageClassification", 1, "vit.layers.*", (16, 24)),
    "transformers DeiT, distilled": transformers_vit(
        "deit", "DeiTForImageClassificationWithTeacher", 2, "deit.layers.*"
    ),
    "transformers BEiT": transformers_vit("beit", "BeitForImageClassification", 1, "beit.layers.*"),
    "transformers DINOv2, registers": transformers_vit(
        "dinov2_with_registers",
        "Dinov2WithRegistersForImageClassification",
        5,
        "dinov2_with_registers.encoder.layer.*",
    )._replace(size=(16, 24)),
    "transformers ConvNeXt": Case("transformers", HF_CONVNEXT, SQUARE, HF_CONVNEXT_LAYERS),
    "transformers ConvNeXt, wide": Case("transformers", HF_CONVNEXT, (64, 96), HF_CONVNEXT_LAYERS),
    "transformers Swin": Case("transformers", HF_SWIN | {"image_size": 32}, SQUARE, HF_SWIN_LAYERS, False),
    "transformers Swin, wide": Case("transformers", HF_SWIN | {"image_size": [32, 48]}, WIDE, HF_SWIN_LAYERS, False),
}
TRANSFORMERS_CASES = [name for name, case in CASES.items() if case.source == "transformers"]
MARKED = [pytest.param(name, marks=needs_transformers if name in TRANSFORMERS_CASES else ()) for name in CASES]
NETS_FILE = f"""
from torchvision import models


def vit():
    return models.VisionTransformer(num_classes=3, **{TORCHVISION_VIT})


def convnext():
    block = models.convnext.CNBlockConfig
    return models.ConvNeXt([block(10, 12, 1), block(12, None, 2)], num_classes=3)


def swin():
    return models.SwinTransformer([4, 4], 10, [2, 1], [2, 2], [4, 4], num_classes=3)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build a case's network, each once, and say its source: a file's function for torchvision, or a config.json."""
    folder, kept = tmp_path_factory.mktemp("vision"), {}
    (folder / "nets.py").write_text(NETS_FILE)

    def build(name):
        case = CASES[name]
        if name in kept:
            return kept[name]
        source, arguments = case.source, case.arguments
        if source == "transformers":
            place = folder / name
            place.mkdir()
            (place / "config.json").write_text(json.dumps(arguments))
            source, arguments = f"transformers:{place}", {}
        source = source.replace(NETS, f"{folder / 'nets.py'}:")
        return kept.setdefault(name, (build_model(source, arguments), source, arguments))

    return build


def images_of(count, size):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def layouts(model, case):
    return {layer: layout for glob, layout in case.layers.items() for layer in select_layers(model, [glob])}


def outputs(model, images, layers):
    """What layers put out in one plain pass, the first of what is several."""
    kept, handles = {}, []
    for name in layers:

        def keep(module, inputs, output, name=name):
            output = list(output.values()) if isinstance(output, dict) else output
            kept[name] = (output[0] if isinstance(output, tuple | list) else output).clone().numpy()

        handles.append(model.get_submodule(name).register_forward_hook(keep))
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return kept


def reduced(values, layout, pooling, tokens):
    """Reduce what a layer put out as its known layout says."""
    if layout == COLUMNS:
        return values
    if layout in (FIRST, LAST):
        return getattr(values, pooling)(axis=(2, 3) if layout == FIRST else (1, 2))
    if tokens == "class":
        return values[:, 0]
    return values.mean(1) if tokens == "mean" else getattr(values[:, layout:], pooling)(axis=1)


def hooks_of(model):
    return [len(module._forward_hooks) for module in model.modules()]


def record(model, images, layers, batch_size, **options):
    recorded = Recorder(tuple(layers), **options)(model, images.split(batch_size), len(images))
    return {layer.name: layer.values for layer in recorded}


@pytest.mark.parametrize(("tokens", "pooling"), [("patches", "mean"), ("patches", "max"), ("mean", "max")])
@pytest.mark.parametrize("name", MARKED)
def test_every_layer_is_recorded_by_the_layout_that_its_architecture_has(built, name, tokens, pooling):
    case, model = CASES[name], built(name)[0]
    images, known = images_of(5, case.size), layouts(model, case)
    plain = outputs(model, images, known)
    for batch_size in (1, 3):
        recorded = record(model, images, known, batch_size, tokens=tokens, pooling=pooling)
        assert recorded.keys() == known.keys()
        for layer, layout in known.items():
            expected = reduced(plain[layer], layout, pooling, tokens)
            np.testing.assert_allclose(recorded[layer], expected, atol=2e-6, err_msg=layer)


@pytest.mark.parametrize("name", MARKED)
def test_the_class_token_is_the_first_or_refused(built, name):
    case, model = CASES[name], built(name)[0]
    images, known = images_of(3, case.size), layouts(model, case)
    of_tokens = {layer: layout for layer, layout in known.items() if isinstance(layout, int)}
    if not case.class_token:
        for layer in of_tokens:
            with pytest.raises(ModelError, match="without a class token") as caught:
                record(model, images, [layer], 2)
            assert '"mean" or "patches"' in caught.value.hint
        return
    plain, recorded = outputs(model, images, known), record(model, images, known, 2)
    for layer in of_tokens:
        np.testing.assert_allclose(recorded[layer], plain[layer][:, 0], atol=2e-6, err_msg=layer)


@pytest.mark.parametrize("name", [name for name in MARKED if "wide" not in name.values[0]])
@pytest.mark.parametrize("tokens", ["patches", "mean"])
def test_as_many_images_as_tokens_are_told_from_them(built, name, tokens):
    case, model = CASES[name], built(name)[0]
    known = {layer: layout for layer, layout in layouts(model, case).items() if isinstance(layout, int)}
    counts = {values.shape[1] for values in outputs(model, images_of(1, case.size), known).values()}
    for count in counts:
        images = images_of(count, case.size)
        plain = outputs(model, images, known)
        for layer, values in record(model, images, known, count, tokens=tokens).items():
            np.testing.assert_allclose(values, reduced(plain[layer], known[layer], "mean", tokens), atol=2e-6)


@pytest.mark.parametrize("name", MARKED)
def test_maps_are_the_patches_where_they_are_in_the_image(built, name):
    """A patch's own place in the embedding is the oracle: row by row, for all sequences as long as the first."""
    case, model = CASES[name], built(name)[0]
    images, known, shown = images_of(3, case.size), layouts(model, case), {}
    layers = [layer for layer, layout in known.items() if layout != COLUMNS]
    recorder = Recorder(tuple(layers))
    recorder.watch(model, [images], lambda layer, maps: shown.update({layer: maps.clone().numpy()}))
    for layer, values in outputs(model, images, layers).items():
        if isinstance(known[layer], int):
            patches = values[:, known[layer] :]
            height, width = shown[layer].shape[2:]
            assert height * case.size[1] == width * case.size[0]
            expected = np.stack([patches[:, row * width : (row + 1) * width] for row in range(height)], 1)
            expected = expected.transpose(0, 3, 1, 2)
        else:
            expected = values if known[layer] == FIRST else values.transpose(0, 3, 1, 2)
        np.testing.assert_allclose(shown[layer], expected, atol=2e-6, err_msg=layer)


@pytest.mark.parametrize("name", MARKED)
def test_layers_are_described_as_they_are(built, name):
    case, model = CASES[name], built(name)[0]
    images, known = images_of(2, case.size), layouts(model, case)
    plain = outputs(model, images, known)
    described = {layer.name: layer for layer in describe_layers(model, images, "patches")}
    assert list(described) == [name for name, _ in model.named_modules() if name]
    kinds = {FIRST: "map", LAST: "map, units last", COLUMNS: "columns"}
    for layer, layout in known.items():
        found = described[layer]
        assert found.kind == kinds.get(layout, "tokens"), layer
        assert found.shape == plain[layer].shape[1:], layer
        assert found.units == plain[layer].shape[1 if layout == FIRST else -1], layer
        assert found.prefix_tokens == (layout if isinstance(layout, int) else None), layer
        assert found.problem == "", layer


@pytest.mark.parametrize("name", MARKED)
def test_a_network_is_as_it_was_after_it_ended_early(built, name):
    case, model = CASES[name], built(name)[0]
    images, known = images_of(4, case.size), layouts(model, case)
    first = [layer for layer, layout in known.items() if layout == FIRST][:1]
    before, hooks = outputs(model, images, known), hooks_of(model)  # transformers has some of its own
    record(model, images, first, 2)
    assert hooks_of(model) == hooks
    for layer, values in outputs(model, images, known).items():
        np.testing.assert_array_equal(values, before[layer])


@pytest.mark.parametrize("name", MARKED)
def test_an_untrained_one_may_be_a_baseline(built, name):
    check_random(*built(name)[1:])


@needs_transformers
@pytest.mark.parametrize("kind", ["dinov2", "dinov3_vit", "swinv2", "convnextv2", "resnet"])
def test_an_untrained_one_of_transformers_may_be_a_baseline(tmp_path, kind):
    tiny = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
    small = {"swinv2": {"embed_dim": 8, "depths": [1], "num_heads": [2]}, "dinov2": tiny, "dinov3_vit": tiny}
    stages = {"hidden_sizes": [8, 12], "depths": [1, 1], "embedding_size": 8, "num_stages": 2, "image_size": 32}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, **small.get(kind, stages)}))
    check_random(f"transformers:{tmp_path}", {})


@needs_transformers
def test_a_network_of_transformers_with_batch_normalisation_is_not_folded(tmp_path, capfd):
    config = {"hidden_sizes": [8, 12], "depths": [1, 1], "embedding_size": 8, "layer_type": "basic"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet", **config}))
    model, images = build_model(f"transformers:{tmp_path}", {}), images_of(3, SQUARE)
    layers = select_layers(model, ["resnet.encoder.stages.*"])
    assert foldable(model, layers) == ()  # it cannot be traced
    plain = outputs(model, images, layers)
    for layer, values in record(model, images, layers, 2).items():
        np.testing.assert_allclose(values, plain[layer].mean((2, 3)), atol=2e-6)
    assert capfd.readouterr() == ("", "")
