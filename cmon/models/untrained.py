"""Whether a model's function draws its weights at random, as a network before its training has them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cmon.errors import ModelError, listing
from cmon.models.building import MODELS, draw_model
from cmon.models.zoos import build_errors

if TYPE_CHECKING:
    from torch import Tensor, nn

FIXED_HINT = (
    "leave pretrained weights out of model_args, and weights and seeds out of the function; "
    "a filter that is fixed by design belongs into a buffer"
)
UNSET_HINT = "let the model set all of its weights, from the random numbers of torch, numpy.random or random"


def check_random(source: str, arguments: dict[str, Any]) -> None:
    """Refuse a model whose weights are not decided by the seed, or not by the seed alone.

    The model is built under two seeds, and again under the first. No weight, which is a floating parameter of two or
    more dimensions, may be equal under both seeds: it would be pretrained, or fixed. Three kinds may be equal: those
    that are filled with one number, as normalisation, gates and class tokens often begin; those that the function
    has frozen and that belong to no layer of torch which draws its weights, such as sine-cosine positions; and those
    of torchvision, timm and transformers, whose models are built without anyone's weights, but some, such as ConViT,
    begin with numbers that are fixed by design. Some weight must differ in every case.

    Raises:
        ModelError: naming what is equal under two seeds, or differs under one.
    """
    first, other = draw_model(source, arguments, 0), draw_model(source, arguments, 1)
    with build_errors(source, "cannot be built under two seeds"):
        _refuse_fixed(source, first, other)
        del other
        with _unset_is_nan():
            again = draw_model(source, arguments, 0)
        _refuse_unrepeatable(source, first, again)


def _refuse_fixed(source: str, first: "nn.Module", other: "nn.Module") -> None:
    """Raise where weights are equal under two seeds, or none differ."""
    import torch

    weights, others = _weights(source, first), _weights(source, other)
    equal = [name for name, value in weights.items() if name in others and torch.equal(value, others[name])]
    may_be = weights.keys() if source.partition(":")[0] in MODELS else _frozen_by_design(first)
    fixed = [name for name in equal if name not in may_be]
    if fixed:
        what = f"{len(fixed)} of {len(weights)} weights are equal under every seed, and not random: {listing(fixed, 3)}"
        raise ModelError(source, what, FIXED_HINT)
    if len(equal) == len(weights):
        raise ModelError(source, "no weight is random: the model is the same under every seed", FIXED_HINT)


def _refuse_unrepeatable(source: str, first: "nn.Module", again: "nn.Module") -> None:
    """Raise where two models of one seed differ."""
    import torch

    before, now = (
        {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
        for model in (first, again)
    )
    other = [name for name, value in before.items() if name not in now or not torch.equal(value, now[name])]
    if other:
        what = (
            f"{len(other)} of {len(before)} tensors are random but not of the seed, or never set: {listing(other, 3)}"
        )
        raise ModelError(source, what, UNSET_HINT)


def _weights(source: str, model: "nn.Module") -> "dict[str, Tensor]":
    """Return the parameters that are at least matrices, and not filled with one number."""
    from torch.nn.parameter import is_lazy

    lazy = [name for name, value in model.named_parameters() if is_lazy(value)]
    if lazy:
        what = f"{listing(lazy, 3)} would be drawn only when the first image is seen"
        raise ModelError(source, what, "give the lazy layers their sizes")
    return {
        name: value.detach()
        for name, value in model.named_parameters()
        if value.ndim > 1 and value.numel() and value.dtype.is_floating_point and (value != value.flatten()[0]).any()
    }


def _frozen_by_design(model: "nn.Module") -> set[str]:
    """Name the frozen parameters of layers that do not draw them: torch's own that do have reset_parameters."""
    return {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if not (hasattr(module, "reset_parameters") or hasattr(module, "_reset_parameters"))
        for name, value in module.named_parameters(recurse=False)
        if not value.requires_grad
    }


@contextmanager
def _unset_is_nan() -> Iterator[None]:
    """Let torch fill the memory of new tensors with NaN, so that one that is never set is told from a random one."""
    import torch

    enabled, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
