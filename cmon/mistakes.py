"""A config's first mistake in one line: the key as its writer would name it, and what is allowed there."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError

from cmon.errors import ConfigError, listing, nearest, one_line

# Dotted name of a table, with its kind where it has several, such as "encoder.features"; "" is the whole config.
Sections: TypeAlias = Mapping[str, type[BaseModel]]
Mistake: TypeAlias = Mapping[str, Any]  # as pydantic describes it

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._+=-]*$"
PROMPT_PATTERN = r"\{\}"
PATTERNS = {
    NAME_PATTERN: "made of letters, digits and . _ + = - after a letter or digit",
    PROMPT_PATTERN: "a text with {} where the word goes",
}
# What pydantic asks for, by the type of its error.
EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a table",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_type": "a whole number",
    "is_instance_of": "a path",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_attributes_type": "a table",
    "model_type": "a table",
    "string_too_long": "at most {max_length} characters",
    "string_type": "a text",
    "too_long": "a list of at most {max_length}",
    "too_short": "a list of at least {min_length}",
}


def as_config_error(path: Path, error: ValidationError, table: dict[str, Any], sections: Sections) -> ConfigError:
    """Say the first mistake of a config, unknown keys before all others, since they make others."""
    mistakes: dict[str, list[Mistake]] = {}
    for mistake in sorted(error.errors(), key=lambda mistake: mistake["type"] != "extra_forbidden"):
        mistakes.setdefault(_place(mistake, table), []).append(mistake)
    first = next(iter(mistakes))
    # Where one of several types is a list, it is its item that is wrong, and not that it is a list.
    where = max((place for place in mistakes if _is_within(place, first)), key=len)
    others = sum(not _is_within(place, first) for place in mistakes)
    hint = f"{others} more to mend after it" if others else "`cmon schema` describes every key"
    return ConfigError(f"{path}: {where}" if where else path, one_line(_said(mistakes[where], sections)), hint)


def _said(alternatives: list[Mistake], sections: Sections) -> str:
    """Say what is wrong at one place: several mistakes there are the alternatives, none of which fits."""
    mistake = alternatives[0]
    kind, value = mistake["type"], mistake["input"]
    if kind == "extra_forbidden":
        allowed = list(sections[".".join(step for step in mistake["loc"][:-1] if isinstance(step, str))].model_fields)
        close = nearest(str(mistake["loc"][-1]), allowed)
        return "unknown key" + (f"; did you mean {close[0]}?" if close else f"; allowed: {listing(allowed, 30)}")
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(mistake["ctx"]["error"])
    if kind == "list_type" and isinstance(value, dict):
        return f"must be a list of tables: write [[{mistake['loc'][-1]}]]"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        kinds = [name.split(".")[1] for name in sections if name.count(".") and name.split(".")[0] == mistake["loc"][0]]
        expected, value = listing(map(repr, dict.fromkeys(kinds))).replace(", ", " or "), mistake["ctx"].get("tag")
        if value is None:
            return f"is missing: {expected}"
    else:
        expected = " or ".join(dict.fromkeys(map(_expected, alternatives)))
    close = nearest(value, re.findall(r"'([^']*)'", expected)) if isinstance(value, str) else []
    shown = "" if isinstance(value, dict | list) else f", not {one_line(repr(value), 80)}"
    return f"must be {expected}{shown}" + (f"; did you mean {close[0]}?" if close else "")


def _expected(mistake: Mistake) -> str:
    context = {
        name: f"{value:g}" if isinstance(value, float) else value for name, value in mistake.get("ctx", {}).items()
    }
    if mistake["type"] == "string_pattern_mismatch":
        return PATTERNS[context["pattern"]]
    if mistake["type"] not in EXPECTED:
        return str(mistake["msg"]).lower()
    return EXPECTED[mistake["type"]].format(**context)


def _place(mistake: Mistake, table: dict[str, Any]) -> str:
    """Write a pydantic location as the user would: run[1].layers, without the names of union members."""
    parts: str = ""
    value: Any = table
    for step in mistake["loc"]:
        if isinstance(step, int):
            parts += f"[{step + 1}]"
            value = value[step] if isinstance(value, list) and step < len(value) else {}
        elif isinstance(value, dict) and (
            step in value or (mistake["type"] == "missing" and step == mistake["loc"][-1])
        ):
            parts += f".{one_line(step, 80)}" if parts else one_line(step, 80)
            value = value.get(step, {})
    return f"{parts}.kind" if mistake["type"].startswith("union_tag") else parts


def _is_within(place: str, outer: str) -> bool:
    return place == outer or (bool(outer) and place.startswith((f"{outer}.", f"{outer}[")))
