"""Make golden/clip_dissect_oracle.npz again: `python tests/make_golden.py [FILE]`."""

import sys
from pathlib import Path

import numpy as np
import oracles

GOLDEN = Path(__file__).parent / "golden" / "clip_dissect_oracle.npz"
DEAD = 2


def inputs():
    """About CLIP's spread of cosines at concepts' means above 0; unit 0 follows concept 4; unit 2 is dead."""
    random = np.random.default_rng(20240521)
    common = np.full(12, 0.5)
    concepts = random.normal(size=(15, 12)) + common
    images = random.normal(size=(120, 12)) + common
    concepts /= np.linalg.norm(concepts, axis=1, keepdims=True)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    activations = random.normal(size=(120, 6))
    activations[:, 0] = images @ concepts[4] + 0.1 * random.normal(size=120)
    activations[:, 1] = np.maximum(activations[:, 1], 0)  # ties at 0
    activations[:, DEAD] = 0.25
    activations[:, 3] = np.round(activations[:, 3])  # many ties
    activations[:, 4] -= 10  # negative only
    activations[:, 5] *= 1e4
    return images.astype(np.float32), concepts.astype(np.float32), activations.astype(np.float32)


def golden():
    images, concepts, activations = inputs()
    cosines = (images.astype(np.float64) @ concepts.astype(np.float64).T).tolist()
    alive = np.delete(activations.astype(np.float64), DEAD, axis=1).tolist()
    likelihood = oracles.soft_wpmi_likelihood(alive, cosines)
    scores = {name: oracle(alive, cosines) for name, oracle in oracles.ORACLES.items()}
    scores["soft_wpmi_auto"] = oracles.soft_wpmi(alive, cosines, a=0.3 / oracles.standard_deviation(cosines))
    return {
        "image_features": images,
        "concept_features": concepts,
        "activations": activations,
        **{name: np.array(table) for name, table in scores.items()},
        "soft_wpmi_log_prior": np.array(oracles.log_prior(likelihood)),
        "soft_wpmi_prior_perplexity": np.array(
            oracles.prior_perplexity(likelihood, oracles.best_concept(scores["soft_wpmi"]))
        ),
        "top_images": np.array(oracles.top_images(alive, 20)),
    }


if __name__ == "__main__":
    np.savez_compressed(Path(sys.argv[1]) if len(sys.argv) > 1 else GOLDEN, **golden())
