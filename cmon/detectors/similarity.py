"""What CLIP-Dissect's similarity functions have in common."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal


@dataclass(frozen=True)
class Similarity:
    """A frozen dataclass whose fields are all its parameters, with the papers' values as defaults."""

    name: ClassVar[str]
    score_unit: ClassVar[str] = "cosine"
    uses: ClassVar[Literal["evidence", "counts"]] = "evidence"
    # How often images are permuted and resampled where the config does not say.
    permutations: ClassVar[int] = 100
    resamples: ClassVar[int] = 100

    def recipe(self) -> dict[str, Any]:
        """Return the function's name with all its parameters."""
        return {"similarity": self.name, **asdict(self)}
