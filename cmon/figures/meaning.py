"""Which words are near in meaning: the cosine of their features from which they count so."""

import numpy as np

from cmon.records import View

FEW_PAIRS, MOST_WORDS = 0.01, 1000


def near_cosine(view: View) -> float:
    """Return the cosine from which two words are near: the view's, or else what 1 % of pairs of concepts exceed.

    Encoders differ in how far apart they put words that have nothing in common, so that no fixed cosine means the same
    for all. Beyond 1,000 different words, as many are taken evenly from all.
    """
    if view.near is not None:
        return view.near
    rows = np.sort(np.unique(np.array(view.study.concepts.names), return_index=True)[1])
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_WORDS)).round().astype(int))]
    features = view.study.concept_features[rows].astype(np.float64)
    pairs = (features @ features.T)[np.triu_indices(len(rows), 1)]
    return min(float(np.quantile(pairs, 1 - FEW_PAIRS)), 1.0) if len(pairs) else 1.0
