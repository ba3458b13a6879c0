"""Fold batch normalisation into the convolutions before it: the same function in fewer passes over memory."""

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from cmon.errors import USER_CODE_ERRORS

if TYPE_CHECKING:
    from torch import fx, nn

# The names of a convolution, and of the batch normalisation that alone reads it.
Pairs: TypeAlias = tuple[tuple[str, str], ...]


def foldable(model: "nn.Module", layers: Sequence[str]) -> Pairs:
    """Name the convolutions whose batch normalisation can be folded into them without anyone noticing.

    These are pairs of plain modules that run once, of which the second is all that reads the first. Whether that is
    so is seen in symbolic traces: one of the network, and one of every recorded layer, so that what a layer puts out
    counts as read. A network that cannot be traced has none.

    Args:
        model: in evaluation mode.
        layers: whose outputs are recorded; they are left as they are.
    """
    from torch import fx, nn

    modules = list(model.modules())
    # A trace follows a class's forward, and would not see another that a module has been given.
    if not any(type(one) is nn.BatchNorm2d for one in modules) or any("forward" in vars(one) for one in modules):
        return ()
    try:
        traced = copy.deepcopy(model)  # forward code may leave things in the model
        graphs = {scope: _trace(traced, scope, layers) for scope in ("", *layers)}
    except USER_CODE_ERRORS:
        return ()
    nodes = [(scope, node) for scope, graph in graphs.items() for node in graph.nodes]
    # By the modules themselves, since one may have several names.
    calls = Counter(id(_module(traced, scope, node)) for scope, node in nodes if node.op == "call_module")
    read = {id(_owner(traced, scope, node)) for scope, node in nodes if node.op == "get_attr"}
    found = []
    for scope, node in nodes:
        before = node.args[0] if node.op == "call_module" and len(node.args) == 1 else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        names = _name(scope, before), _name(scope, node)
        pair = _module(traced, scope, before), _module(traced, scope, node)
        alone = all(calls[id(one)] == 1 and id(one) not in read for one in pair)
        if alone and not set(names) & set(layers) and _fits(*pair):
            found.append(names)
    return tuple(found)


@contextmanager
def folded(model: "nn.Module", pairs: Pairs) -> Iterator[None]:
    """Fold these pairs within the context; afterwards the model is as it was.

    W' = W x g / sqrt(v + eps) and b' = (b - m) x g / sqrt(v + eps) + c, for a scale g, shift c, mean m and variance v.
    """
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    with ExitStack() as undo:
        for names in pairs:
            convolution, norm = (model.get_submodule(name) for name in names)
            parent, _, place = names[1].rpartition(".")
            holder, own = model.get_submodule(parent), (convolution.weight, convolution.bias)
            statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
            weight, bias = fuse_conv_bn_weights(*own, *statistics)  # type: ignore[arg-type]
            undo.callback(_put, convolution, *own)
            undo.callback(setattr, holder, place, norm)
            _put(convolution, weight.requires_grad_(False), bias.requires_grad_(False))
            setattr(holder, place, nn.Identity())
        yield


def _trace(model: "nn.Module", scope: str, layers: Sequence[str]) -> "fx.Graph":
    """Trace one recorded layer or, at scope "", all outside of them."""
    from torch import fx

    leaves = [model.get_submodule(name) for name in layers if name != scope]

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: "nn.Module", module_qualified_name: str) -> bool:
            return any(m is leaf for leaf in leaves) or super().is_leaf_module(m, module_qualified_name)

    root = model.get_submodule(scope)
    if scope and fx.Tracer().is_leaf_module(root, scope):
        return fx.Graph()  # a module of torch's own, with nothing inside
    return Tracer().trace(root)


def _fits(convolution: "nn.Module", norm: "nn.Module") -> bool:
    """Tell whether these are a plain convolution, and batch normalisation by running statistics of its channels."""
    from torch import nn

    plain = type(convolution) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.running_mean is not None
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    return plain and not any(getattr(module, name) for module in (convolution, norm) for name in hooks)


def _name(scope: str, node: "fx.Node") -> str:
    return f"{scope}.{node.target}" if scope else str(node.target)


def _module(model: "nn.Module", scope: str, node: "fx.Node") -> "nn.Module":
    return model.get_submodule(_name(scope, node))


def _owner(model: "nn.Module", scope: str, node: "fx.Node") -> "nn.Module":
    """Return the module whose parameter a node reads by itself."""
    return model.get_submodule(_name(scope, node).rpartition(".")[0])


def _put(convolution: Any, weight: Any, bias: Any) -> None:
    convolution.weight, convolution.bias = weight, bias
