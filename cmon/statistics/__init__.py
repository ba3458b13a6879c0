"""Statistics over units: their state, what chance alone makes of them, and how sure their words are."""

from cmon.statistics.draws import Draws, draw
from cmon.statistics.intervals import half_width
from cmon.statistics.quality import word_quality
from cmon.statistics.significance import Test, benjamini_hochberg, p_values
from cmon.statistics.units import best_concepts, is_low_prior, prior_perplexity, top_images, unit_states

__all__ = [
    "Draws",
    "Test",
    "benjamini_hochberg",
    "best_concepts",
    "draw",
    "half_width",
    "is_low_prior",
    "p_values",
    "prior_perplexity",
    "top_images",
    "unit_states",
    "word_quality",
]
