"""What leaves which checkpoints: how each kind is recognised, and where its weights and its step lie."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cmon.checkpoints.folders import STATE
from cmon.checkpoints.loading import Loaded


@dataclass(frozen=True)
class Kind:
    """One kind of checkpoint.

    Args:
        name: what people call it.
        found: the files or folders that it is found as, for people.
        told_by: what it is recognised by, for people.
        is_one: tells it from what was loaded.
        raw: the places of its weights, of which the first that there is counts; () for the usual places.
        averaged: the same of their exponential moving average.
        steps: what of its content says the epoch and the step, each as the names of keys, earlier ones winning.
        trust: can it be read only with --trust-pickle.
        larger: is the network one part of what is saved, beside losses and metrics.
    """

    name: str
    found: str
    told_by: str
    is_one: Callable[[Loaded], bool]
    raw: tuple[str, ...] = ()
    averaged: tuple[str, ...] = ()
    steps: Mapping[str, tuple[str, ...]] | None = None
    trust: bool = False
    larger: bool = False


# Where training scripts put the weights and their average, and how the content says the step: earlier ones win.
PLACES = ("state_dict", "model", "model_state_dict", "net")
AVERAGED_PLACES = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "ema")
STEPS = {"epoch": ("epoch",), "step": ("global_step", "step", "iteration")}
LIGHTNING_STEPS = {"epoch": ("epoch",), "step": ("global_step",)}
NO_STEPS: Mapping[str, tuple[str, ...]] = {}


def _has(*keys: str) -> Callable[[Loaded], bool]:
    """Tell whether a content has all of these keys."""
    return lambda loaded: isinstance(loaded.content, Mapping) and all(key in loaded.content for key in keys)


def _in(container: str) -> Callable[[Loaded], bool]:
    return lambda loaded: loaded.container == container


def _is_module(loaded: Loaded) -> bool:
    import torch

    held = loaded.content if isinstance(loaded.content, Mapping) else {"": loaded.content}
    return any(isinstance(value, torch.nn.Module) for value in held.values())


def _is_bare(loaded: Loaded) -> bool:
    import torch

    held = loaded.content
    if not isinstance(held, Mapping) or any(isinstance(held.get(place), Mapping) for place in PLACES):
        return False
    return any(isinstance(value, torch.Tensor) and value.dim() for value in held.values())


# The first that says yes is it; the last always does.
KINDS = (
    Kind(
        "PyTorch Lightning, averaged",
        "`*.ckpt`",
        "`averaging_state`, as its callback `WeightAveraging` leaves it",
        _has("pytorch-lightning_version", "averaging_state"),
        raw=("current_model_state",),
        averaged=("state_dict",),
        steps=LIGHTNING_STEPS,
        larger=True,
    ),
    Kind(
        "PyTorch Lightning",
        "`*.ckpt`, also a folder that a sharding strategy leaves",
        "`pytorch-lightning_version`",
        _has("pytorch-lightning_version"),
        raw=("state_dict",),
        steps=LIGHTNING_STEPS,
        larger=True,
    ),
    Kind(
        "Hugging Face Trainer",
        "`checkpoint-500/` with `model.safetensors` or `pytorch_model.bin`, whole or in shards with their index",
        f"`{STATE}`",
        _has(STATE),
        steps={"step": ("global_step",)},
    ),
    Kind(
        "timm",
        "`checkpoint-12.pth.tar`, `last.pth.tar`, `model_best.pth.tar`",
        "`arch`, `version` and `state_dict`",
        _has("arch", "version", "state_dict"),
        raw=("state_dict",),
        averaged=("state_dict_ema",),
        steps={"epoch": ("epoch",)},
    ),
    Kind(
        "torchvision references",
        "`model_12.pth`, `checkpoint.pth`",
        "`model`, `optimizer`, `lr_scheduler` and `epoch`",
        _has("model", "optimizer", "lr_scheduler", "epoch"),
        raw=("model",),
        averaged=("model_ema",),
        steps={"epoch": ("epoch",)},
    ),
    Kind(
        "torch.distributed.checkpoint",
        "a folder, also Accelerate's `pytorch_model_fsdp_0/`",
        "`.metadata` beside `*.distcp`",
        _in("distributed"),
    ),
    Kind("TorchScript", "`*.pt`, `*.torchscript`", "the archive's `code/`", _in("TorchScript"), steps=NO_STEPS),
    Kind("torch.export", "`*.pt2`", "the archive's list of weights", _in("torch.export"), steps=NO_STEPS),
    Kind(
        "whole module",
        "what `torch.save(model)` leaves",
        "a `torch.nn.Module`",
        _is_module,
        trust=True,
    ),
    Kind(
        "safetensors",
        "`*.safetensors`, or a folder, as `save_pretrained` and Accelerate leave it, whole or in shards",
        "the file's header",
        _in("safetensors"),
    ),
    Kind("state dict", "what `torch.save(model.state_dict())` leaves", "tensors by name", _is_bare),
    Kind(
        "training state",
        "any other file of `torch.save`, zip or older",
        f"weights under {', '.join(f'`{place}`' for place in PLACES)}, or where `state_dict_key` says",
        lambda loaded: True,  # noqa: ARG005
    ),
)


def kind_of(loaded: Loaded) -> Kind:
    """Say what kind of checkpoint was loaded."""
    return next(kind for kind in KINDS if kind.is_one(loaded))


def recognised() -> str:
    """Return the table of all kinds, as Markdown."""
    rows = ["| kind | found as | told by | weights, raw and averaged | step |", "|---|---|---|---|---|"]
    for kind in KINDS:
        trusted = ", with `--trust-pickle` only" if kind.trust else ""
        row = [kind.name, kind.found + trusted, kind.told_by, _told_places(kind), _told_steps(kind)]
        rows.append(f"| {' | '.join(row)} |")
    return "\n".join(rows) + "\n"


def _told_places(kind: Kind) -> str:
    raw = kind.raw[0] if kind.raw else ""
    averaged = kind.averaged[0] if kind.averaged else ""
    return ", ".join(f"`{place}`" for place in (raw, averaged) if place) or "at the usual places"


def _told_steps(kind: Kind) -> str:
    keys = [key for keys in (STEPS if kind.steps is None else kind.steps).values() for key in keys]
    return ", else ".join(f"`{key}`" for key in keys[:2]) + "".join(f", `{key}`" for key in keys[2:]) or "the name's"
