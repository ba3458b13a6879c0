"""The kinds of file in a workspace: their specification, writers and readers.

Every file is HDF5 (readable from 1.10 on) with the attributes `format` = "cmon", `kind`, `format_version` and
`fingerprint`, and two datasets of one JSON string each: `/recipe`, exactly what was hashed into the fingerprint, and
`/provenance`, what is never hashed: versions of software, machine, device. What differs from run to run (command, host,
time, seconds, peak memory) is in provenance/, by the file's name, so that equal results are equal files. Every dataset
carries the fletcher32 filter; strings are UTF-8 of fixed length; numbers are float32 unless said otherwise.
I images, U units of a layer, C concepts, D dimensions, R rows, K checkpoints, L layers.

activations, a file per checkpoint: activations/<run>/<checkpoint>.h5
    attributes epoch, step          int64  what the checkpoint's content says of itself, each if it does
    attribute sparsity              float64, share of zeros among the network's parameters of two or more dimensions,
                                    after masks; NaN where it has none, or in a file of an older cmon
    /images/id                      (I,)   str, sorted; row i of every array below is image i
    /layer_names                    (L,)   str, in forward order
    /layers/<layer>/mean or max     (I, U) pooled activations, in the unit of the layer's output

counts, a file per checkpoint, where a detector compares units with masks: counts/<run>/<checkpoint>.h5
    attributes quantile, the share of positions above a threshold, and rank_error, by how much it may be off at most
    /images/id, /concepts/name, /concepts/category; a concept is a pair of word and category
    /categories                     (G,)   str
    /concept_area                   (C,)   int64, pixels of the masks of each concept over all images
    /concept_images                 (C,)   int64, images that show each concept
    /layer_names                    (L,)   str, in forward order
    /layers/<layer>/threshold       (U,)   the activation that a unit exceeds at `quantile` of all positions
    /layers/<layer>/intersection    (U, C) int64, pixels above the threshold within the concept's mask
    /layers/<layer>/unit_area       (U, G) int64, pixels above it in the images that carry a label of the category
    /layers/<layer>/whole_area      (U,)   int64, pixels above it in all images that carry any label
    /layers/<layer>/draws/<union>   for both unions of Network Dissection, category and all:
        null (U, P) the best IoU when every image has the labels of another; concept (U, B, T) int32, score (U, B, T)
        the best concepts in every resample of the images; half_concept (U, 2) int32, the best by half of the images

evidence, a file per workspace: evidence.h5
    /images/id, /concepts/name, /concepts/category
    /image_features                 (I, D) unit norm; I is 0 where no detector asks what the images show
    /concept_features               (C, D) unit norm

similarity, a file per detector and checkpoint: similarity/<detector>/<run>/<checkpoint>.h5
    attributes epoch, step, sparsity, score_unit; concepts are those of its detector: the evidence's, or the counts';
    untrained networks are similarity/<detector>/<run>~baseline/random-init-<seed>.h5, and so are their activations
    and counts
    /concepts/images                (C,)   int64, images that show each by the probe's own labels, -1 unknown; or absent
    /images/id, /concepts/name, /concepts/category, /layer_names
    /layers/<layer>                 attributes: numbers on the scoring, such as a, spread, prior_perplexity
    /layers/<layer>/scores          (U, C) higher is better, under the layer's own prior; NaN for units not alive
    /layers/<layer>/log_prior       (C,)   nats, only for similarities that have a prior
    /layers/<layer>/top_concept     (U, T) int32, best first, T = min(10, C); -1 for units not alive
    /layers/<layer>/top_score       (U, T) NaN for units not alive
    /layers/<layer>/top_images      (U, M) int32, most activating first, M = min(20, I); -1 for units not alive
    /layers/<layer>/state           (U,)   int8: 0 alive, 1 dead, 2 constant, 3 saturated
    /layers/<layer>/p_value         (U,)   of the best score against those on P permutations of the images; else NaN
    /layers/<layer>/interpretable   (U,)   bool, alive with a best score that passes tau
    /layers/<layer>/resampled_concept, resampled_score (U, B, T) int32 and float32, as top_concept and top_score, in
                                    every resample of the images; each unit's scores are shifted so that the best are
                                    on average its top_score; B = 0 where resampling is left to embed
    /layers/<layer>/resampled_interpretable (U, B) bool
    /layers/<layer>/ranking         (U, N) int32, the most activating images; N > 0 where resampling is left to embed
    /layers/<layer>/quality         (U, 4) F1, IoU, AUPRC, correlation of the word on images that did not choose it

embedding, a file per detector: embedding/<detector>.h5
    attribute score_unit; attributes with numbers on the projection, such as trustworthiness
    /runs/name, /layer_names, /images/id, /concepts/name, /concepts/category
    /checkpoints/run (K,) int32, /checkpoints/name, /checkpoints/step (K,) int64
    /checkpoints/sparsity           (K,)   share of zeros among the network's weights; NaN where it is not known
    /units/run, checkpoint, layer, unit, concept      (R,) int32; concept is -1 for units not alive
    /units/score, /units/p_value (R,), /units/interpretable (R,) bool, /units/state (R,) int8, /units/quality (R, 4)
    /units/resampled_concept (R, B) int32, /units/resampled_score (R, B), /units/resampled_interpretable (R, B) bool
    /units/top_concept, top_score, top_images         (R, T), (R, T), (R, M) as in similarity
    /units/u                        (R, D) the unified embedding (Concept-Monitor, equation 1); NaN for units not alive
    /concepts/features              (C, D) unit norm
    /concepts/images                (C,)   int64, as in similarity; or absent
    /units/xy, /concepts/xy, /anchors/xy   (R, 2), (C, 2), (N, 2) the plane, comparable only within this file
    /anchors/name (N,) str, /anchors/features (N, D)
    /d_anchor                       (K, L) mean distance of units to the nearest anchor in the space itself
    /spread                         (K, L) mean pairwise cosine distance of units
    /d_anchor_resampled, /spread_resampled (K, L, B) the same in every resample
    /baseline/run, layer, seed, units, alive, interpretable (N,) int32, of untrained networks
    /prior_perplexity               (K, L) units that the layer's prior rests on; NaN where there is no prior

matches, a file per workspace, where figures compare runs: matches.h5; N pairs of units at last checkpoints
    /pairs/run, other, layer, checkpoint, other_checkpoint (N,) int32, of what an embedding file lists
    /pairs/unit, /pairs/partner     (N,)   int32, a unit of the run and one of the other
    /pairs/correlation              (N,)   Pearson's, of their activations; NaN where one is constant
    /pairs/chance                   (N,)   in each layer, of as many matched on permuted images; NaN where same_start
    /pairs/same_start               (N,)   bool, paired by number, since the runs began with the same weights
"""

from cmon.stores.checkpoints import (
    read_activations,
    read_counts,
    read_evidence,
    read_labels,
    read_scores,
    write_activations,
    write_counts,
    write_evidence,
    write_labels,
)
from cmon.stores.matches import read_matches, write_matches
from cmon.stores.study import read_study, write_study

__all__ = [
    "read_activations",
    "read_counts",
    "read_evidence",
    "read_labels",
    "read_matches",
    "read_scores",
    "read_study",
    "write_activations",
    "write_counts",
    "write_evidence",
    "write_labels",
    "write_matches",
    "write_study",
]
