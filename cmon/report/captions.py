"""The settings that every figure prints beneath it, and the warning that a page prints above them."""

import numpy as np

from cmon.config import Detector as DetectorTable
from cmon.detectors import detector_from
from cmon.recipes import Plan
from cmon.records import Study, Table
from cmon.statistics import is_low_prior


def caption(plan: Plan, table: DetectorTable, study: Study, run: int) -> str:
    """Say in one line what the numbers of a run's figures rest on."""
    parameters = {k: v for k, v in detector_from(table).recipe().items() if k not in ("similarity", "p_start", "p_end")}
    if "a" in study.facts:
        parameters["a"] = f"{study.facts['a']:.3g}" + (" (auto)" if parameters["a"] == "auto" else "")
        parameters["a x sd"] = f"{study.facts['a'] * study.facts['spread']:.2f}"
    parts = [table.name, *([table.similarity] if hasattr(table, "similarity") else [])]
    parts += [
        f"{name} = {value:g}" if isinstance(value, float) else f"{name} = {value}" for name, value in parameters.items()
    ]
    parts += [f"C = {len(study.concepts.names):,}", f"I = {len(study.image_ids):,}", f"tau = {table.tau}"]
    perplexity = study.prior_perplexity[[name.run == run for name in study.checkpoints]]
    if np.isfinite(perplexity).any() and study.facts["lam"] > 0:
        parts += ["prior: layer", f"its perplexity {np.nanmedian(perplexity):.1f} units (median)"]
    if "quantile" in study.facts:
        error = f" (within {study.facts['rank_error']:.1g})" if study.facts["rank_error"] else ""
        parts += [f"T exceeded at {study.facts['quantile']:g} of positions{error}"]
    alive = study.units.alive[study.units.run == run]
    silent = "dead or saturated" if "quantile" in study.facts else "dead"
    parts += [f"{int((~alive).sum())} of {len(alive):,} units x checkpoints {silent}"]
    embed = plan.study.embed
    parts += [f"plane: {embed.projection}, trustworthiness {study.facts['trustworthiness']:.2f}"]
    parts += [
        f"u: {embed.top_k} concepts, T = {embed.temperature:g}",
        f"pooling {plan.study.activations.pooling}",
    ]
    return "; ".join(parts)


def low_prior(layers: Table, study: Study, run: str) -> str:
    """Count the layers whose scores rest on a prior that is too concentrated; "" where none does."""
    if not study.facts.get("lam", 0):
        return ""
    rows = np.flatnonzero(layers["run"] == run)
    living = layers["units"] - layers["dead"]
    low = sum(is_low_prior(layers["prior_perplexity"][row], living[row]) for row in rows)
    return (
        f"In {low} of {len(rows)} layers x checkpoints the prior rests on less than a quarter of the units: there a "
        "score says which unit is best for a word, and not what a unit shows. See the column prior perplexity."
        if low
        else ""
    )
