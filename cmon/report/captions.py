"""The settings that every figure prints beneath it, and the warning that a page prints above them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cmon.config import Detector as DetectorTable
from cmon.detectors import detector_from
from cmon.recipes import Plan, has_study_prior
from cmon.records import STATES, Study, Table
from cmon.statistics import is_low_prior

# Columns of layers.csv that the page leaves to it.
NOT_ON_PAGE = ("run", "checkpoint", "changed", "changed_error", "median_score")


def caption(plan: Plan, table: DetectorTable, study: Study, runs: tuple[int, ...]) -> str:
    """Say in one line what the numbers of figures of some runs rest on."""
    parameters = {k: v for k, v in detector_from(table).recipe().items() if k not in ("similarity", "p_start", "p_end")}
    if "a" in study.facts:
        parameters["a"] = f"{study.facts['a']:.3g}" + (" (auto)" if parameters["a"] == "auto" else "")
        parameters["a x sd"] = f"{study.facts['a'] * study.facts['spread']:.2f}"
    parts = [table.name, *([table.similarity] if hasattr(table, "similarity") else [])]
    parts += [
        f"{name} = {value:g}" if isinstance(value, float) else f"{name} = {value}" for name, value in parameters.items()
    ]
    parts += [f"C = {len(study.concepts.names):,}", f"I = {len(study.image_ids):,}", _test(plan, table)]
    parts += _prior(table, study, runs)
    if "quantile" in study.facts:
        error = f" (within {study.facts['rank_error']:.1g})" if study.facts["rank_error"] else ""
        parts += [f"T exceeded at {study.facts['quantile']:g} of positions{error}"]
    states = np.bincount(study.units.state[np.isin(study.units.run, runs)], minlength=len(STATES))
    silent = ", ".join(f"{count:,} {name}" for name, count in zip(STATES[1:], states[1:], strict=True))
    parts += [f"of {states.sum():,} units x checkpoints {silent}"]
    embed = plan.study.embed
    parts += [f"plane: {embed.projection}, trustworthiness {study.facts['trustworthiness']:.2f}"]
    parts += [
        f"u: {embed.top_k} concepts, T = {embed.temperature:g}",
        f"pooling {plan.study.activations.pooling}",
        *_networks(plan, table, study, runs),
    ]
    return "; ".join(parts)


def _networks(plan: Plan, table: DetectorTable, study: Study, runs: tuple[int, ...]) -> list[str]:
    """Say what was done to networks before they were looked at, and how sparse they are where any weight is zero."""
    tables = [plan.study.run[run] for run in runs]
    how = {
        run.name: f"recalibrated on {run.batchnorm_images.name if run.batchnorm_images else 'the probe'}"
        if run.batchnorm == "recalibrate"
        else "as saved"
        for run in tables
    }
    parts = [f"batchnorm {_each(how)}"]
    if tokens := {run.name: run.tokens for run in tables if "tokens" in run.model_fields_set}:
        # Masks are compared with the patches in any case.
        by = "top images by tokens" if table.kind == "network_dissection" else "tokens"
        parts.append(f"{by} {_each(tokens)}")
    if any(run.weights != "raw" for run in tables):
        parts.append(f"weights {_each({run.name: run.weights for run in tables})}")
    sparsity = [name.sparsity for name in study.checkpoints if name.run in runs]
    if max(sparsity, default=0) > 0.005:
        parts.append(f"{100 * min(sparsity):.3g} to {100 * max(sparsity):.3g} % of weights are zero")
    return parts


def _each(ways: Mapping[str, str]) -> str:
    """Say once what is the same for all runs, else run by run."""
    said = set(ways.values())
    return said.pop() if len(said) == 1 else ", ".join(f"{name} {way}" for name, way in ways.items())


def _test(plan: Plan, table: DetectorTable) -> str:
    """Say what a unit must pass to be interpretable, and what intervals rest on."""
    testing = plan.testing(table)
    drawn = [f"{testing.permutations} permutations"] * bool(testing.permutations)
    drawn += [f"{testing.resamples} resamples of the images"] * bool(testing.resamples)
    return f"tau = {testing.tau}" + (f" ({', '.join(drawn)}, seed {testing.seed})" if drawn else "")


def _prior(table: DetectorTable, study: Study, runs: tuple[int, ...]) -> list[str]:
    """Say which units the prior is over, and how many of a layer's own it rests on."""
    if not study.facts.get("lam", 0):
        return ["prior: none"]
    if has_study_prior(table):
        return ["prior: study"]
    perplexity = study.prior_perplexity[[name.run in runs for name in study.checkpoints]]
    known = perplexity[np.isfinite(perplexity)]
    return ["prior: layer", *([f"its perplexity {np.median(known):.1f} units (median)"] if len(known) else [])]


def low_prior(table: DetectorTable, layers: Table, study: Study, run: str) -> str:
    """Count the layers whose scores rest on a prior that is too concentrated; "" where none does."""
    if not study.facts.get("lam", 0) or has_study_prior(table):
        return ""
    rows = np.flatnonzero(layers["run"] == run)
    living = layers["units"] - layers["dead"] - layers["constant"] - layers["saturated"]
    low = sum(is_low_prior(layers["prior_perplexity"][row], living[row]) for row in rows)
    return (
        f"In {low} of {len(rows)} layers x checkpoints the prior rests on less than a quarter of the units: there a "
        "score says which unit is best for a word, and not what a unit shows. See the column prior perplexity."
        if low
        else ""
    )


def summary(layers: Table, run: str) -> list[dict[str, Any]]:
    """Return the layers of a run at its first and last step, for the page: each number with its error."""
    rows = np.flatnonzero(layers["run"] == run)
    ends = {layers["step"][rows].min(), layers["step"][rows].max()}
    seldom = ("constant", "saturated", "sparsity", "prior_perplexity")
    hidden = {*NOT_ON_PAGE, *(name for name in seldom if not (layers[name][rows] > 0).any())}
    found = []
    for row in rows[np.isin(layers["step"][rows], list(ends))]:
        shown = {name: column[row] for name, column in layers.items() if name not in hidden}
        for name in [name for name in shown if f"{name}_error" in layers]:
            error = layers[f"{name}_error"][row]
            if np.isfinite(error):
                shown[name] = f"{float(shown[name]):.3g} ± {error:.2g}"
        found.append({name: value for name, value in shown.items() if not name.endswith("_error")})
    return found
