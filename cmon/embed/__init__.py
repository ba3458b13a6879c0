"""Stage 3: place all units of all checkpoints and runs in one space, and in one plane."""

from collections.abc import Callable

import numpy as np

from cmon.config import Detector as DetectorTable
from cmon.config import Embed
from cmon.embed.labels import read_study_labels
from cmon.embed.matching import match_runs
from cmon.embedding import distance_to_anchors, resampled_indices, spread, unified_embedding
from cmon.encoders import open_encoder
from cmon.errors import CmonError, StaleInputError, listing
from cmon.projections import Pca, Umap, place
from cmon.recipes import Plan
from cmon.recording import pick_device
from cmon.records import (
    Anchors,
    CheckpointLabels,
    CheckpointName,
    Concepts,
    Evidence,
    FloatArray,
    LayerLabels,
    Study,
    Units,
)
from cmon.stores import read_evidence, read_study, write_matches, write_study
from cmon.threads import blas_in_one_thread
from cmon.work import Options, Outcome, Progress, Stopwatch, is_due, making, provenance


@blas_in_one_thread()
def embed_study(plan: Plan, options: Options, progress: Progress) -> Outcome:
    """Make every detector's joint file where it is not current.

    Raises:
        StaleInputError: where the evidence, or the labels of any checkpoint, are missing or stale.
    """
    outcome = Outcome()
    look_again = options.patience(progress)
    plan.evidence.require("activations", plan.workspace.root, look_again)
    outcome.left |= plan.left
    for table in plan.study.detector:
        target = plan.embedding(table)
        state = target.state()
        if options.force or not state.current:
            _require_all(plan, table, look_again)
        if not is_due(f"embedding {table.name}", state, options, progress, outcome):
            continue
        watch = Stopwatch()
        progress.line(f"embed {table.name}: {len(plan.units)} checkpoints")
        progress.begin(f"embed {table.name}", 1)
        study = _study(plan, table, options)
        with options.profile.writing(target.path):
            write_study(target.path, target.recipe, provenance(), study)
        plan.workspace.note_making(target.path, making(watch))
        progress.done(table.name)
        progress.end()
    _match(plan, options, progress, outcome)
    return outcome


def _match(plan: Plan, options: Options, progress: Progress, outcome: Outcome) -> None:
    """Make the file of the pairs of units that are compared between runs, where it is wanted and not current."""
    if not plan.study.pairs_of_runs:
        return
    target = plan.matches
    if not is_due("matches", target.state(), options, progress, outcome):
        return
    watch = Stopwatch()
    with options.profile.part("matching units"):
        matches = match_runs(plan, read_study(plan.embedding(plan.study.detector[0]).path))
    with options.profile.writing(target.path):
        write_matches(target.path, target.recipe, provenance(), matches)
    plan.workspace.note_making(target.path, making(watch))
    progress.line(f"matches: units of {len(plan.study.pairs_of_runs)} pairs of runs")
    progress.kept()


def _require_all(plan: Plan, table: DetectorTable, look_again: Callable[[], bool]) -> None:
    """Raise one StaleInputError that names every checkpoint without current labels, or a run without any checkpoint."""
    for run in plan.study.run:
        if not plan.roster.trained(run):
            raise StaleInputError(f"run {run.name}", "has no checkpoint that is written", "run again when it has")
    units, lacking = (*plan.units, *plan.baselines), []
    for unit in units:
        try:
            plan.similarity(table, unit).require("dissect", plan.workspace.root, look_again)
        except StaleInputError as error:
            lacking.append(f"{unit.name} ({error.what})")
    if lacking:
        what = f"{len(lacking)} of {len(units)} checkpoints have no current labels: {listing(lacking, 4)}"
        raise StaleInputError(f"similarity/{table.name}", what, "run cmon dissect, or leave them out of the config")


def _study(plan: Plan, table: DetectorTable, options: Options) -> Study:
    profile = options.profile
    with profile.part("reading files"):
        evidence = read_evidence(plan.evidence.path)
        read = read_study_labels(plan, table, evidence)
    names, labels = read.names, read.labels
    layers = tuple(dict.fromkeys(layer.name for checkpoint in labels for layer in checkpoint.layers))
    settings, concepts = plan.study.embed, labels[0].concepts
    concept_features, anchor_features = _features_of(plan, concepts, evidence, options)
    units = _units(names, labels, layers, concept_features, settings)
    with profile.part("indices"):
        indices = _indices(units, labels, layers, concept_features, anchor_features, settings)
    alive = units.alive
    points = np.concatenate([units.embedding[alive], concept_features, anchor_features])
    with profile.part("projection"):
        placed, trust = place(_projection(settings), points)
    count = int(alive.sum())
    units.xy[alive] = placed[:count]
    anchor_start = count + len(concept_features)
    return Study(
        detector=table.name,
        score_unit=labels[0].score_unit,
        runs=tuple(run.name for run in plan.study.run),
        checkpoints=names,
        layers=layers,
        concepts=concepts,
        concept_features=concept_features,
        concept_xy=placed[count:anchor_start],
        image_ids=labels[0].image_ids,
        units=units,
        anchors=Anchors(tuple(settings.anchors), anchor_features, placed[anchor_start:]),
        **indices,
        baseline=read.baseline(layers),
        prior_perplexity=_layer_fact(labels, layers, "prior_perplexity"),
        facts={"trustworthiness": trust, **_common_facts(labels)},
        concept_images=labels[0].concept_images,
    )


def _units(
    names: tuple[CheckpointName, ...],
    labels: list[CheckpointLabels],
    layers: tuple[str, ...],
    concept_features: FloatArray,
    settings: Embed,
) -> Units:
    parts: list[tuple[int, int, int, LayerLabels]] = [
        (names[k].run, k, layers.index(layer.name), layer)
        for k, checkpoint in enumerate(labels)
        for layer in checkpoint.layers
    ]

    def repeated(values: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        return np.repeat(np.array(values, dtype=np.int32), [len(part[3].state) for part in parts])

    def joined(field: str) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        return np.concatenate([getattr(part[3], field) for part in parts])

    top_concept, top_score = joined("top_concept").astype(np.int32), joined("top_score").astype(np.float32)
    best = settings.top_k
    embedding = unified_embedding(top_concept[:, :best], top_score[:, :best], concept_features, settings.temperature)
    return Units(
        run=repeated([part[0] for part in parts]),
        checkpoint=repeated([part[1] for part in parts]),
        layer=repeated([part[2] for part in parts]),
        unit=np.concatenate([np.arange(len(part[3].state), dtype=np.int32) for part in parts]),
        concept=top_concept[:, 0].copy(),
        score=top_score[:, 0].copy(),
        interpretable=joined("interpretable").astype(np.bool_),
        state=joined("state").astype(np.int8),
        p_value=joined("p_value").astype(np.float32),
        quality=joined("quality").astype(np.float32),
        resampled_concept=np.concatenate([part[3].resampled_concept[..., 0] for part in parts]),
        resampled_score=np.concatenate([part[3].resampled_score[..., 0] for part in parts]),
        resampled_interpretable=joined("resampled_interpretable").astype(np.bool_),
        top_concept=top_concept,
        top_score=top_score,
        top_images=joined("top_images").astype(np.int32),
        embedding=embedding,
        xy=np.full((len(embedding), 2), np.nan, dtype=np.float32),
    )


def _features_of(plan: Plan, concepts: Concepts, evidence: Evidence, options: Options) -> tuple[FloatArray, FloatArray]:
    """Place concepts and anchors, (C, D) and (N, D): those of the evidence as there, others by the text encoder."""
    known = dict(zip(evidence.concepts.names, evidence.concept_features, strict=True))
    for key, words in (("concepts", concepts.names), ("embed.anchors", plan.study.embed.anchors)):
        outside = [word for word in dict.fromkeys(words) if word not in known]
        if not outside:
            continue
        encoder = open_encoder(plan.study.encoder, pick_device(options.device), options.trust_pickle)
        try:
            known |= zip(outside, encoder.text_features(outside, plan.study.concepts.prompt), strict=True)
        except CmonError as error:
            raise type(error)(f"{key}: {error.where}", error.what, error.hint) from error
    size = evidence.concept_features.shape[1]
    features = (
        np.array([known[word] for word in words], dtype=np.float32)
        for words in (concepts.names, plan.study.embed.anchors)
    )
    placed, anchors = (rows.reshape(-1, size) for rows in features)
    return placed, anchors


def _projection(settings: Embed) -> Umap | Pca:
    if settings.projection == "pca":
        return Pca()
    return Umap(settings.neighbours, settings.min_dist, settings.metric, settings.seed)


def _indices(
    units: Units,
    labels: list[CheckpointLabels],
    layers: tuple[str, ...],
    concept_features: FloatArray,
    anchors: FloatArray,
    settings: Embed,
) -> dict[str, FloatArray]:
    """Measure where each checkpoint's layers lie in the space, as they are and in every resample of the images."""
    shape, best = (len(labels), len(layers)), settings.top_k
    found = {name: np.full(shape, np.nan, np.float32) for name in ("d_anchor", "spread")}
    resampled = (*shape, units.resampled_concept.shape[1])
    found |= {f"{name}_resampled": np.full(resampled, np.nan, np.float32) for name in tuple(found)}
    start = 0  # of the layer's rows, which lie in this order
    for k, checkpoint in enumerate(labels):
        for one in checkpoint.layers:
            place = (k, layers.index(one.name))
            here = units.embedding[start : start + len(one.state)]
            start += len(one.state)
            found["d_anchor"][place], found["spread"][place] = distance_to_anchors(here, anchors), spread(here)
            again = (one.resampled_concept[..., :best], one.resampled_score[..., :best])
            distances, spreads = resampled_indices(*again, concept_features, anchors, settings.temperature)
            found["d_anchor_resampled"][place], found["spread_resampled"][place] = distances, spreads
    return found


def _layer_fact(labels: list[CheckpointLabels], layers: tuple[str, ...], fact: str) -> FloatArray:
    """Collect one number on the scoring, (K, L); NaN where a layer has none."""
    values = np.full((len(labels), len(layers)), np.nan, dtype=np.float32)
    for k, checkpoint in enumerate(labels):
        for layer in checkpoint.layers:
            values[k, layers.index(layer.name)] = layer.facts.get(fact, np.nan)
    return values


def _common_facts(labels: list[CheckpointLabels]) -> dict[str, float]:
    """Keep the numbers on the scoring that all layers share, such as a, and the largest of what differs."""
    facts = [layer.facts for checkpoint in labels for layer in checkpoint.layers]
    names = ("a", "spread", "lam", "quantile", "rank_error")
    values = {name: [one[name] for one in facts if name in one] for name in names}  # a layer of dead units has none
    return {name: max(found) for name, found in values.items() if found}
