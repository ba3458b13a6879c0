"""The [[detector]] tables, with the papers' values as defaults."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from cmon.config.section import Name, Section

FDR = re.compile(r"fdr:(0?\.\d+)")


def false_discovery_rate(tau: object) -> float | None:
    """Return q of a threshold "fdr:q"; None where it is none of this kind."""
    found = FDR.fullmatch(tau) if isinstance(tau, str) else None
    return float(found[1]) if found and float(found[1]) > 0 else None


def _threshold(value: object) -> object:
    if isinstance(value, str) and value != "none" and false_discovery_rate(value) is None:
        raise ValueError('must be a number, "none", or "fdr:q" with q between 0 and 1, such as "fdr:0.05"')
    return value


def _iou_threshold(value: object) -> object:
    if (isinstance(value, int | float) and not 0 < value <= 1) or value == "none":
        raise ValueError('must be above 0 and at most 1, or "fdr:q", such as "fdr:0.05"')
    return _threshold(value)


Score = Annotated[float, Field(allow_inf_nan=False)]
Threshold = Annotated[Score | str, BeforeValidator(_threshold)]
TAU = (
    "the best score from which a unit is interpretable; fdr:q: where so good a score is too rare on permuted images "
    "for more than a share q of such units to be there by chance; none: every unit is"
)


class ClipDissect(Section):
    """CLIP-Dissect (Oikarinen and Weng, ICLR 2023); parameters of its own similarities have the paper's values."""

    kind: Literal["clip_dissect"]
    name: Name = Field("clip_dissect", description="its files lie under this name")
    similarity: Literal["top_down", "soft_wpmi", "wpmi", "rank_reorder", "cos_similarity", "cos_similarity_cubed"] = (
        Field("top_down", description="top_down is cmon's own; the paper's is soft_wpmi")
    )
    tau: Threshold = Field("fdr:0.05", description=TAU)
    prior: Literal["layer", "study"] = Field(
        "layer",
        description="the units that the prior is taken over: the layer's own at one checkpoint, or those of all "
        "checkpoints and runs, which makes scores comparable over time",
    )
    top_k: int | None = Field(None, ge=1, description="images a unit is judged by; soft_wpmi 100, wpmi 28")
    a: float | Literal["auto"] | None = Field(
        None,
        description="the softmax's inverse temperature; soft_wpmi 10, wpmi 2; auto: a_spread / sd of the cosines",
    )
    a_spread: float = Field(0.3, gt=0, description='what a x sd(cosines) becomes at a = "auto"; 0.3 is CLIP\'s at 10')
    lam: float | None = Field(None, ge=0, description="the weight of the layer's prior; soft_wpmi 1, wpmi 0.6")
    p_start: float = Field(0.998, gt=0, lt=1, description="soft_wpmi: the first image's membership probability")
    p_end: float = Field(0.97, gt=0, lt=1, description="soft_wpmi: the one that the last image's tends to")
    power: float = Field(2.0, gt=0, le=20, description="top_down: how much a unit's top images outweigh the rest")
    p: float = Field(3.0, gt=0, description="rank_reorder: the exponent of the error")
    top_fraction: float = Field(0.05, gt=0, le=1, description="rank_reorder: the share of images a unit is judged by")
    scale_p: float = Field(0.5, ge=0, description="rank_reorder: the exponent of the mean cosine")

    @model_validator(mode="after")
    def _positive_temperature(self) -> "ClipDissect":
        if isinstance(self.a, float) and self.a <= 0:
            raise ValueError("a must be positive")
        return self


class NetworkDissection(Section):
    """Network Dissection (Bau et al., CVPR 2017), with the paper's value as default; it needs a Broden probe."""

    kind: Literal["network_dissection"]
    name: Name = Field("network_dissection", description="its files lie under this name")
    union: Literal["category", "all"] = Field(
        "category",
        description="the images that an IoU's union is over: those with a label of the concept's category, as in the "
        "paper, or all; on a small probe all is the safer",
    )
    tau: Annotated[Score | str, BeforeValidator(_iou_threshold)] = Field(0.04, description=TAU)


class OtherDetector(Section):
    """A detector from another package, registered in the entry-point group `cmon.detectors`; it checks its own keys."""

    model_config = ConfigDict(extra="allow")

    kind: str
    name: Name = Field(description="its files lie under this name; its kind where it has none")
    tau: Threshold = "none"

    @model_validator(mode="before")
    @classmethod
    def _is_named_after_its_kind(cls, table: Any) -> Any:
        return {"name": table["kind"], **table} if isinstance(table, dict) and "kind" in table else table


def _detector_tag(table: Any) -> str:
    kind = table.get("kind") if isinstance(table, dict) else getattr(table, "kind", None)
    return kind if kind in ("clip_dissect", "network_dissection") else "clip_dissect" if kind is None else "other"


Detector = Annotated[
    Annotated[ClipDissect, Tag("clip_dissect")]
    | Annotated[NetworkDissection, Tag("network_dissection")]
    | Annotated[OtherDetector, Tag("other")],
    Discriminator(_detector_tag),
]
