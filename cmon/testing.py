"""How best scores are tested: against a fixed threshold, or at a false discovery rate that permutations tell."""

from dataclasses import asdict, dataclass

from cmon.config import Detector, Statistics, false_discovery_rate
from cmon.detectors import detector_from
from cmon.fingerprint import Recipe
from cmon.statistics import Draws, Test, draw


@dataclass(frozen=True)
class Testing:
    """How best scores are tested.

    Args:
        tau: as in the config.
        permutations: of the images.
        resamples: of the images.
        seed: of both.
    """

    tau: float | str
    permutations: int
    resamples: int
    seed: int

    def recipe(self) -> Recipe:
        """Return the parameters; the seed only where something is drawn."""
        return {name: value for name, value in asdict(self).items() if name != "seed" or self.drawn}

    @property
    def drawn(self) -> bool:
        """Tell whether anything is drawn at random."""
        return self.permutations + self.resamples > 0

    @property
    def test(self) -> Test:
        """Return the test."""
        rate = false_discovery_rate(self.tau)
        return Test(None if rate or self.tau == "none" else float(self.tau), rate)

    def draw(self, images: int) -> Draws:
        """Draw for so many images."""
        return draw(images, self.permutations, self.resamples, self.seed)


def testing_of(detector: Detector, chosen: Statistics) -> Testing:
    """Say how a detector's best scores are tested, and how often images are permuted and resampled for it."""
    made = detector_from(detector)
    rate = false_discovery_rate(detector.tau)
    often: tuple[int, int] = (getattr(made, "permutations", 100), getattr(made, "resamples", 100))
    permutations = (chosen.permutations or often[0]) if rate else 0
    resamples = often[1] if chosen.resamples is None else chosen.resamples
    return Testing(detector.tau, permutations, resamples, chosen.seed)


def has_study_prior(detector: Detector) -> bool:
    """Tell whether a detector's prior is taken over the whole study."""
    return getattr(detector, "prior", "layer") == "study"
