"""Whether two checkpoints hold the same weights, from a digest of each."""

import hashlib
from typing import TYPE_CHECKING

from cmon.checkpoints.fitting import unwrapped
from cmon.checkpoints.tensors import tensor_kind

if TYPE_CHECKING:
    from torch import Tensor

# Raised where equal weights give another digest than before.
DIGEST = 1


def digest(tensors: "dict[str, Tensor]") -> str:
    """Return the sha256 over names, kinds, shapes and numbers; wrappers' parts of names count for nothing.

    Of tensors that are no plain numbers, or stand for more of them than are stored, there is none: "".
    """
    import torch

    hashed = hashlib.sha256()
    for name in sorted(tensors, key=lambda name: (unwrapped(name), name)):
        value = tensors[name]
        if tensor_kind(value) not in ("float", "integer") or value.nbytes > value.untyped_storage().nbytes():
            return ""
        hashed.update(f"{unwrapped(name)} {value.dtype} {tuple(value.shape)}\n".encode())
        hashed.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()
