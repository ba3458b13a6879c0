"""Which of a model's layers are meant, by name or glob."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cmon.errors import ModelError, listing, nearest, one_line

if TYPE_CHECKING:
    from torch import nn

SHOWN_LAYERS = 30


def select_layers(model: "nn.Module", patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the model's layers that any of the patterns names, in the order of named_modules.

    `*`, `?` and `[abc]` stay within one dotted level; `**` crosses levels.

    Raises:
        ModelError: where a pattern names no layer.
    """
    layers = [name for name, _ in model.named_modules() if name]
    chosen: set[str] = set()
    for pattern in patterns:
        found = {pattern} & set(layers) or {name for name in layers if _layer_regex(pattern).fullmatch(name)}
        if not found:
            known = [*nearest(pattern, layers, 3)]
            known += [name for name in layers if name not in known]
            hint = f"the model has {listing(known, SHOWN_LAYERS)}" if known else "the model has no layers"
            raise ModelError(f"layers: {one_line(pattern)}", "names no layer of the model", hint)
        chosen |= found
    return tuple(name for name in layers if name in chosen)


def _layer_regex(pattern: str) -> re.Pattern[str]:
    """Translate a layer's glob; `**.` also stands for no level at all."""
    tokens = re.split(r"(\*\*\.|\*\*|\*|\?|\[!?[^\]]+\])", pattern)
    fixed = {"**.": r"(?:.*\.)?", "**": ".*", "*": r"[^.]*", "?": "[^.]"}
    text = ""
    for index, token in enumerate(tokens):
        if index % 2 and token.startswith("["):
            inner = re.sub(r"([\\\[&~|^])", r"\\\1", token[1:-1])
            text += f"(?!\\.)[{'^' + inner[1:] if inner.startswith('!') else inner}]"
        else:
            text += fixed[token] if index % 2 else re.escape(token)
    try:
        return re.compile(text)
    except re.error as error:
        raise ModelError(f"layers: {one_line(pattern)}", f"is no pattern: {error}", "mend the [...]") from error
