"""What a tensor is, in words: its shape, and its kind."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def tensor_shape(tensor: "Tensor") -> str:
    """Write a shape as 64x3x7x7."""
    return "x".join(map(str, tensor.shape)) or "a scalar"


def tensor_kind(tensor: "Tensor") -> str:
    """Name what cannot be cast: integers that were scaled to stand for weights are not the weights."""
    import torch

    if tensor.device.type == "meta" or tensor.is_quantized or tensor.layout != torch.strided:
        return "without data" if tensor.device.type == "meta" else "quantized or sparse"
    return "float" if tensor.is_floating_point() else "complex" if tensor.is_complex() else "integer"
