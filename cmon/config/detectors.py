"""The [[detector]] tables, with the papers' values as defaults."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from cmon.config.section import Name, Section


def _threshold(value: object) -> object:
    if isinstance(value, str) and value.startswith("fdr"):
        raise ValueError('a false discovery rate is not there yet: must be a number or "none" today')
    return value


Threshold = Annotated[Annotated[float, Field(allow_inf_nan=False)] | Literal["none"], BeforeValidator(_threshold)]


class ClipDissect(Section):
    """CLIP-Dissect (Oikarinen and Weng, ICLR 2023), with the papers' values as defaults."""

    kind: Literal["clip_dissect"]
    name: Name = Field("clip_dissect", description="its files lie under this name")
    similarity: Literal["soft_wpmi", "wpmi", "rank_reorder", "cos_similarity", "cos_similarity_cubed"] = "soft_wpmi"
    tau: Threshold = Field("none", description="the best score from which a unit is interpretable; none: every one is")
    top_k: int | None = Field(None, ge=1, description="images a unit is judged by; soft_wpmi 100, wpmi 28")
    a: float | Literal["auto"] | None = Field(
        None,
        description="the softmax's inverse temperature; soft_wpmi 10, wpmi 2; auto: a_spread / sd of the cosines",
    )
    a_spread: float = Field(0.3, gt=0, description='what a x sd(cosines) becomes at a = "auto"; 0.3 is CLIP\'s at 10')
    lam: float | None = Field(None, ge=0, description="the weight of the layer's prior; soft_wpmi 1, wpmi 0.6")
    p_start: float = Field(0.998, gt=0, lt=1, description="soft_wpmi: the first image's membership probability")
    p_end: float = Field(0.97, gt=0, lt=1, description="soft_wpmi: the one that the last image's tends to")
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
    tau: float = Field(0.04, gt=0, le=1, description="the best IoU from which a unit is interpretable")


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
