"""CLIP-Dissect (Oikarinen and Weng, ICLR 2023): units against an image-text model's cosines.

Each of its similarity functions is a frozen dataclass whose fields are all its parameters, with the papers' values as
defaults. Symbols: A (I, U) activations, P (I, C) cosines, Pt = softmax over the concepts of a P.
"""

from dataclasses import fields
from typing import Any

from cmon.config import ClipDissect
from cmon.detectors.correlation import CosSimilarity, CosSimilarityCubed
from cmon.detectors.rank_reorder import RankReorder
from cmon.detectors.similarity import Similarity
from cmon.detectors.top_down import TopDownCorrelation
from cmon.detectors.wpmi import SoftWpmi, Wpmi
from cmon.errors import ConfigError, listing

SIMILARITIES: dict[str, type[Similarity]] = {
    kind.name: kind for kind in (TopDownCorrelation, SoftWpmi, Wpmi, RankReorder, CosSimilarity, CosSimilarityCubed)
}
# Keys of a [[detector]] table that are no parameters of a similarity function.
OF_EVERY_TABLE = {"kind", "name", "similarity", "tau", "prior"}


def from_config(table: ClipDissect) -> Any:
    """Make the similarity function that a [[detector]] table names, with its own defaults for what is not given."""
    kind = SIMILARITIES[table.similarity]
    used = {field.name for field in fields(kind)} | OF_EVERY_TABLE
    if unused := sorted(table.model_fields_set - used):
        hint = f"{table.similarity} takes {listing(sorted(used - OF_EVERY_TABLE)) or 'none'}"
        raise ConfigError(f"detector {table.name}: {unused[0]}", f"has no effect on {table.similarity}", hint)
    if "a_spread" in table.model_fields_set and table.a != "auto":
        where, hint = f"detector {table.name}: a_spread", 'set a = "auto", or leave a_spread out'
        raise ConfigError(where, 'has an effect only at a = "auto"', hint)
    given = {field.name: getattr(table, field.name) for field in fields(kind)}
    made = kind(**{name: value for name, value in given.items() if value is not None})
    if table.prior == "study" and not getattr(made, "lam", 0):
        where, hint = f"detector {table.name}: prior", "set lam, or leave prior out"
        raise ConfigError(where, "has an effect only on soft_wpmi and wpmi, where lam is not 0", hint)
    return made
