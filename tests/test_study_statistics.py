"""Tests, resamples and the study's prior through the command line: what is stored, what is equal, what is redone."""

import copy
import shutil

import h5py
import numpy as np
import oracles
import pytest
from conftest import IMAGES, WORDS, TinyStudy, save_checkpoint

from cmon.statistics import draw

EPOCHS = ("epoch_1", "epoch_2", "epoch_3")
LAYERS = {"first": 6, "second": 8}
EMBEDDING = "embedding/clip_dissect.h5"
TOP_K = 5


def labels(*names):
    return {f"similarity/clip_dissect/plain/{name}.h5" for name in names}


def redone(study, *stages):
    """Run stages and name the files of the workspace that are others than before, but the report's and the cache's."""
    before = study.files()
    for stage in stages or ("activations", "dissect", "embed"):
        result = study.cmon(stage)
        assert result.code == 0, result.err
    return {name for name in study.changed(before) if not name.startswith(("report/", "cache/"))}


def read(study, *names, layer="second"):
    """Read arrays of one layer at all epochs, (K, U, ...)."""
    files = [study.datasets(name) for name in sorted(labels(*EPOCHS))]
    return [np.stack([file[f"layers/{layer}/{name}"] for file in files]) for name in names]


def made(study, **keys):
    """Make all files but the report; keys are the detector's."""
    study.edit("detector", **keys)
    redone(study)
    return study


@pytest.fixture(scope="module")
def of_the_study(prepared, tmp_path_factory):
    """A study under its own prior, which is only read."""
    study = TinyStudy(shutil.copytree(prepared, tmp_path_factory.mktemp("prior") / "study"))
    study.edit("statistics", permutations=30, resamples=9, seed=2)
    return made(study, prior="study", tau="fdr:0.3")


def copied(study, folder):
    """Copy a study with all its files."""
    other = TinyStudy(shutil.copytree(study.folder, folder / "copy"))
    other.tables = copy.deepcopy(study.tables)
    return other


# Under the layer's own prior


def test_p_values_are_stored_and_equal_for_a_second_study_and_others_for_another_seed(finished, study):
    p_value, resampled = read(finished, "p_value", "resampled_score")
    assert ((p_value > 0) & (p_value <= 1)).all()
    assert len(np.unique(p_value)) > 3
    assert resampled.shape == (3, 8, 100, 10)
    again = read(made(study), "p_value", "resampled_score")
    np.testing.assert_array_equal(again[0], p_value)
    np.testing.assert_array_equal(again[1], resampled)
    study.edit("statistics", seed=1)
    assert redone(study) == labels(*EPOCHS) | {EMBEDDING}
    other = read(study, "p_value", "resampled_score")
    assert not np.array_equal(other[0], p_value)
    assert not np.array_equal(other[1], resampled)
    np.testing.assert_array_equal(*(read(one, "top_score")[0] for one in (study, finished)))


def test_the_stored_numbers_are_those_of_the_draws_of_the_seed(finished):
    """A resample's and a permutation's best scores, from the stored activations, by the oracle."""
    finished.edit("statistics", permutations=4, resamples=3, seed=6)
    finished.edit("detector", tau="fdr:0.3")
    redone(finished)
    draws = draw(IMAGES, 4, 3, 6)
    evidence = finished.datasets("evidence.h5")
    cosines = evidence["image_features"].astype(float) @ evidence["concept_features"].astype(float).T
    activations = finished.datasets("activations/plain/epoch_2.h5")["layers/first/mean"].astype(float)
    found = finished.datasets("similarity/clip_dissect/plain/epoch_2.h5")
    found = {name.removeprefix("layers/first/"): values for name, values in found.items() if "/first/" in name}
    scores = np.array(oracles.soft_wpmi(activations.tolist(), cosines.tolist(), TOP_K))
    np.testing.assert_allclose(found["scores"], scores, atol=1e-3)
    null = [
        np.max(oracles.soft_wpmi(activations[order].tolist(), cosines.tolist(), TOP_K), axis=1)
        for order in draws.orders
    ]
    p_value = [(1 + np.sum(np.array(null) >= best)) / (1 + np.size(null)) for best in scores.max(axis=1)]
    np.testing.assert_allclose(found["p_value"], p_value, atol=1e-6)
    tables = []
    for counts in draws.resamples:
        rows = np.repeat(np.arange(IMAGES), counts)
        tables.append(oracles.soft_wpmi(activations[rows].tolist(), cosines[rows].tolist(), TOP_K))
    again = -np.sort(-np.array(tables), axis=2)[..., :10].transpose(1, 0, 2)
    # Each unit's are shifted to have the best score as the mean of the best ones.
    again += (scores.max(axis=1) - again[..., 0].mean(axis=1))[:, None, None]
    np.testing.assert_allclose(found["resampled_score"], again, atol=2e-3)


def test_another_tau_labels_again_and_records_nothing_again(finished):
    before = read(finished, "p_value", "resampled_concept")
    finished.edit("detector", tau="fdr:0.5")
    assert redone(finished) == labels(*EPOCHS) | {EMBEDDING}
    for one, other in zip(before, read(finished, "p_value", "resampled_concept"), strict=True):
        np.testing.assert_array_equal(one, other)
    finished.edit("detector", tau=1.0)
    assert redone(finished) == labels(*EPOCHS) | {EMBEDDING}
    p_value, best, passed = read(finished, "p_value", "top_score", "interpretable")
    assert np.isnan(p_value).all()
    assert passed.tolist() == (best[..., 0] >= 1).tolist()
    again, clear = read(finished, "resampled_score", "resampled_interpretable")
    assert clear.tolist() == (again[..., 0] >= 1).tolist()


def test_more_permutations_name_their_reason_and_keep_the_resamples(finished):
    (before,) = read(finished, "resampled_score")
    finished.edit("statistics", permutations=150)
    result = finished.cmon("dissect")
    assert "similarity clip_dissect plain/epoch_1: changed: permutations\n" in result.err
    np.testing.assert_array_equal(read(finished, "resampled_score")[0], before)


def test_where_nothing_is_drawn_another_seed_redoes_nothing(finished):
    finished.edit("detector", tau="none")
    finished.edit("statistics", resamples=0, quality=False)
    redone(finished)
    finished.edit("statistics", seed=9)
    assert redone(finished) == set()


def test_the_halves_that_judge_words_are_drawn_also_where_nothing_else_is(finished):
    finished.edit("detector", tau="none")
    finished.edit("statistics", resamples=0)
    redone(finished)
    finished.edit("statistics", seed=9)
    assert redone(finished) == labels(*EPOCHS) | {EMBEDDING}


@pytest.mark.parametrize("prior", ["layer", "study"])
def test_without_resamples_all_stages_work_and_nothing_has_an_interval(finished, prior):
    finished.edit("statistics", resamples=0)
    finished.edit("detector", prior=prior)
    result = finished.cmon("run")
    assert result.code == 0, result.err
    assert read(finished, "resampled_concept")[0].shape == (3, 8, 0, 10)
    file = finished.datasets(EMBEDDING)
    rows = 3 * sum(LAYERS.values())
    assert file["units/resampled_concept"].shape == file["units/resampled_interpretable"].shape == (rows, 0)
    assert file["d_anchor_resampled"].shape == file["spread_resampled"].shape == (3, 2, 0)
    assert np.isfinite(file["units/p_value"]).all()
    assert np.isfinite(file["spread"]).all()


def test_the_embedding_holds_the_labels_their_p_values_and_their_resamples(finished):
    file = finished.datasets(EMBEDDING)
    for place, layer in enumerate(LAYERS):
        rows = file["units/layer"] == place
        p_value, best, again, clear, states = read(
            finished, "p_value", "top_concept", "resampled_concept", "resampled_interpretable", "state", layer=layer
        )
        np.testing.assert_array_equal(file["units/p_value"][rows], p_value.ravel())
        np.testing.assert_array_equal(file["units/concept"][rows], best[..., 0].ravel())
        np.testing.assert_array_equal(file["units/resampled_concept"][rows], again[..., 0].reshape(-1, 100))
        np.testing.assert_array_equal(file["units/resampled_interpretable"][rows], clear.reshape(-1, 100))
        np.testing.assert_array_equal(file["units/state"][rows], states.ravel())


def test_spread_and_distance_are_those_of_the_units_in_every_resample(finished):
    finished.edit("statistics", resamples=2)
    redone(finished)
    file = finished.datasets(EMBEDDING)
    features, anchors = (
        file["concepts/features"].astype(float).tolist(),
        file["anchors/features"].astype(float).tolist(),
    )
    for place, layer in enumerate(LAYERS):
        concept, score = read(finished, "resampled_concept", "resampled_score", layer=layer)
        concept, score = concept[..., :3], score[..., :3].astype(float)  # the config's embed.top_k
        for k in range(3):
            for b in range(2):
                placed = [
                    oracles.unified_embedding(words, scores, features)
                    for words, scores in zip(concept[k, :, b].tolist(), score[k, :, b].tolist(), strict=True)
                ]
                assert file["spread_resampled"][k, place, b] == pytest.approx(oracles.spread(placed), abs=1e-5)
                expected = oracles.d_anchor(placed, anchors)
                assert file["d_anchor_resampled"][k, place, b] == pytest.approx(expected, abs=1e-5)
            here = file["units/u"][(file["units/checkpoint"] == k) & (file["units/layer"] == place)].astype(float)
            assert file["spread"][k, place] == pytest.approx(oracles.spread(here.tolist()), abs=1e-5)


# Under the study's prior


def test_the_studys_prior_records_nothing_again_and_leaves_tests_to_the_join(finished):
    finished.edit("detector", prior="study")
    assert redone(finished) == labels(*EPOCHS) | {EMBEDDING}
    p_value, again, ranking = read(finished, "p_value", "resampled_concept", "ranking")
    assert np.isnan(p_value).all()
    assert again.shape == (3, 8, 0, 10)
    assert ranking.shape == (3, 8, IMAGES)
    for key, value in (("tau", "fdr:0.2"), ("tau", 3.0), ("tau", "none")):
        finished.edit("detector", **{key: value})
        assert redone(finished) == {EMBEDDING}
    for key, value in (("seed", 5), ("resamples", 4), ("resamples", 0)):
        finished.edit("statistics", **{key: value})
        assert redone(finished) == {EMBEDDING}
    result = finished.cmon("run")
    assert result.code == 0, result.err
    finished.edit("detector", tau=2.0)
    assert "embedding clip_dissect: changed: testing.tau\n" in finished.cmon("embed").err
    finished.edit("detector", lam=0.5)
    assert redone(finished) == labels(*EPOCHS) | {EMBEDDING}
    finished.edit("detector", prior="layer")
    assert redone(finished) == labels(*EPOCHS) | {EMBEDDING}


def test_the_embedding_of_the_studys_prior_is_its_oracle_from_stored_scores(of_the_study):
    """L = score + log-prior; the prior is its mean over all units of all checkpoints, and the rest by hand."""
    file = of_the_study.datasets(EMBEDDING)
    draws = draw(IMAGES, 30, 9, 2)
    evidence = of_the_study.datasets("evidence.h5")
    cosines = evidence["image_features"].astype(float) @ evidence["concept_features"].astype(float).T
    features = file["concepts/features"].astype(float).tolist()
    for place, layer in enumerate(LAYERS):
        scores, own = read(of_the_study, "scores", "log_prior", layer=layer)
        likelihood = scores.astype(float) + own[:, None].astype(float)
        prior = np.array(oracles.log_prior(likelihood.reshape(-1, len(WORDS)).tolist()))
        expected = likelihood - prior
        sets = [order[start : start + TOP_K] for order in draws.orders for start in range(0, IMAGES - 4, TOP_K)]
        activations = np.zeros((IMAGES, len(sets)))
        for unit, images in enumerate(sets):
            activations[images, unit] = np.arange(TOP_K, 0, -1)
        null = np.array(oracles.soft_wpmi_likelihood(activations.tolist(), cosines.tolist(), TOP_K)) - prior
        null = null.max(axis=1)
        for k, name in enumerate(EPOCHS):
            rows = (file["units/layer"] == place) & (file["units/checkpoint"] == k)
            best = expected[k].max(axis=1)
            np.testing.assert_allclose(file["units/score"][rows], best, atol=2e-3)
            np.testing.assert_array_equal(file["units/concept"][rows], expected[k].argmax(axis=1))
            near = np.abs(null[:, None] - best).min(axis=0) < 2e-3  # rounding decides which of the two is better
            p_value = (1 + (null[:, None] >= best).sum(axis=0)) / (1 + len(null))
            np.testing.assert_allclose(file["units/p_value"][rows][~near], p_value[~near], atol=1e-6)
            assert near.mean() < 0.5
            p_value = file["units/p_value"][rows]
            assert file["units/interpretable"][rows].tolist() == stepped_up(p_value.tolist(), 0.3)
            placed = [oracles.unified_embedding(*top(row, 3), features) for row in expected[k].tolist()]
            np.testing.assert_allclose(file["units/u"][rows], placed, atol=2e-3)
            recorded = of_the_study.datasets(f"activations/plain/{name}.h5")[f"layers/{layer}/mean"].astype(float)
            for b, counts in enumerate(draws.resamples):
                repeats = np.repeat(np.arange(IMAGES), counts)
                again = oracles.soft_wpmi_likelihood(recorded[repeats].tolist(), cosines[repeats].tolist(), TOP_K)
                again = np.array(again) - prior
                found = file["units/resampled_concept"][rows, b]
                taken = np.take_along_axis(again, found[:, None], axis=1)[:, 0]
                np.testing.assert_allclose(taken, again.max(axis=1), atol=2e-3)


def top(scores, count):
    best = sorted(range(len(scores)), key=lambda c: -scores[c])[:count]
    return best, [scores[c] for c in best]


def stepped_up(p_values, rate):
    """Benjamini and Hochberg: all up to the largest that is at most its place's share of the rate."""
    ordered = sorted(p_values)
    passing = [p for i, p in enumerate(ordered, 1) if p <= i / len(ordered) * rate + 1e-9]
    return [bool(passing) and p <= max(passing) for p in p_values]


def test_the_log_prior_that_is_pooled_is_the_mean_likelihood(of_the_study):
    """From each layer's own prior and its count of units it is the same as from all likelihoods."""
    scores, own = read(of_the_study, "scores", "log_prior", layer="first")
    likelihood = (scores.astype(float) + own[:, None].astype(float)).reshape(-1, len(WORDS))
    from_units = oracles.log_prior(likelihood.tolist())
    from_priors = [oracles.log_sum_exp((column + np.log(6)).tolist()) - np.log(18) for column in own.T.astype(float)]
    np.testing.assert_allclose(from_priors, from_units, atol=1e-3)


def test_another_seed_tests_and_resamples_anew_under_the_studys_prior(of_the_study, tmp_path):
    """The projection has a seed of its own, which is another one."""
    other = copied(of_the_study, tmp_path)
    names = ("units/p_value", "units/resampled_concept", "units/score")
    before = [other.datasets(EMBEDDING)[name] for name in names]
    other.edit("statistics", seed=3)
    assert redone(other) == {EMBEDDING}
    same = [np.array_equal(other.datasets(EMBEDDING)[name], one) for name, one in zip(names, before, strict=True)]
    assert same == [False, False, True]


def test_under_the_studys_prior_one_more_checkpoint_moves_the_scores_of_all(of_the_study, tmp_path):
    grown = copied(of_the_study, tmp_path)
    before = grown.datasets(EMBEDDING)["units/score"]
    save_checkpoint(grown.checkpoint("epoch_4"), seed=4, epoch=4)
    assert redone(grown) == {"activations/plain/epoch_4.h5", EMBEDDING} | labels("epoch_4")
    after = grown.datasets(EMBEDDING)["units/score"]
    assert len(after) == len(before) * 4 // 3
    assert not np.array_equal(after[: len(before)], before)
    np.testing.assert_allclose(after[: len(before)], before, atol=2)


def test_dead_layers_and_dead_units_are_without_words_under_the_studys_prior(study):
    """At the first checkpoint all of the first layer is dead; at the second, all but one unit of the second."""
    import torch

    for name, layer, units in (("epoch_1", "first", slice(None)), ("epoch_2", "second", slice(1, None))):
        loaded = torch.load(study.checkpoint(name), weights_only=True)
        for kind in ("weight", "bias"):
            loaded["state_dict"][f"{layer}.{kind}"][units] = 0
        torch.save(loaded, study.checkpoint(name))
    study.edit("statistics", permutations=5, resamples=3)
    made(study, prior="study")
    file = study.datasets(EMBEDDING)
    state = {
        (k, layer): file["units/state"][(file["units/checkpoint"] == k) & (file["units/layer"] == layer)].tolist()
        for k in range(3)
        for layer in range(2)
    }
    assert state[0, 0] == [1] * 6
    assert state[1, 1] == [0] + [1] * 7
    alive = file["units/state"] == 0
    assert np.isfinite(file["units/score"][alive]).all()
    assert np.isfinite(file["units/p_value"][alive]).all()
    assert (file["units/resampled_concept"][alive] >= 0).all()
    for name in ("score", "p_value", "u"):
        assert np.isnan(file[f"units/{name}"][~alive]).all()
    for name in ("concept", "top_concept", "resampled_concept"):
        assert (file[f"units/{name}"][~alive] == -1).all()
    assert not file["units/interpretable"][~alive].any()
    assert np.isnan(file["spread"][0, 0])
    assert np.isnan(file["spread"][1, 1])


def test_a_layer_that_is_dead_at_all_checkpoints_has_no_words_under_the_studys_prior(study):
    import torch

    for name in EPOCHS:
        loaded = torch.load(study.checkpoint(name), weights_only=True)
        for kind in ("weight", "bias"):
            loaded["state_dict"][f"second.{kind}"][:] = 0
        torch.save(loaded, study.checkpoint(name))
    made(study, prior="study")
    file = study.datasets(EMBEDDING)
    dead = file["units/layer"] == 1
    assert (file["units/concept"][dead] == -1).all()
    assert (file["units/concept"][~dead] >= 0).all()
    assert not file["units/interpretable"][dead].any()
    assert np.isfinite(file["units/p_value"][~dead]).all()


# Other detectors


@pytest.mark.parametrize(
    "keys",
    [
        {"similarity": "top_down"},
        {"similarity": "wpmi", "top_k": 5},
        {"similarity": "wpmi", "top_k": 5, "prior": "study"},
        {"similarity": "rank_reorder", "top_fraction": 0.3},
        {"similarity": "cos_similarity"},
        {"similarity": "cos_similarity_cubed"},
    ],
    ids=lambda keys: "-".join(map(str, keys.values())),
)
def test_every_similarity_is_tested_and_resampled(finished, keys):
    finished.tables["detector"] = [{"kind": "clip_dissect", "name": "clip_dissect", **keys}]
    finished.edit("statistics", permutations=3, resamples=2)
    assert redone(finished) == labels(*EPOCHS) | {EMBEDDING}
    file = finished.datasets(EMBEDDING)
    assert ((file["units/p_value"] > 0) & (file["units/p_value"] <= 1)).all()
    assert ((file["units/resampled_concept"] >= 0) & (file["units/resampled_concept"] < len(WORDS))).all()


def test_the_studys_prior_where_there_is_none_is_an_error_before_any_work(study):
    study.tables["detector"] = [{"kind": "clip_dissect", "prior": "study"}]
    study.edit("detector")
    study.cmon("run").fails(2, "detector clip_dissect: prior", "has an effect only on soft_wpmi and wpmi")
    assert study.files() == {}


def test_the_file_says_what_was_drawn(of_the_study, finished):
    with h5py.File(of_the_study.workspace / EMBEDDING) as file:
        recipe = file["recipe"][0].decode()
    for said in ('"permutations":30', '"resamples":9', '"seed":2', '"tau":"fdr:0.3"'):
        assert said in recipe
    with h5py.File(finished.workspace / "similarity/clip_dissect/plain/epoch_1.h5") as file:
        recipe = file["recipe"][0].decode()
    for said in ('"permutations":100', '"resamples":100', '"seed":0', '"tau":"fdr:0.05"'):
        assert said in recipe
