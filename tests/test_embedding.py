import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmon import embedding as module
from cmon.embedding import distance_to_anchors, resampled_indices, spread, unified_embedding


def features_of(count, dimensions, seed=0):
    features = np.random.default_rng(seed).normal(size=(count, dimensions))
    return np.float32(features / np.linalg.norm(features, axis=1, keepdims=True))


def test_a_unit_lies_at_the_weighted_mean_of_its_concepts():
    features = np.float32([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    scores = np.log(np.float32([[3, 1]]))  # weights 3/4 and 1/4
    placed = unified_embedding(np.int32([[2, 0]]), scores, features, 1.0)
    np.testing.assert_allclose(placed, [[0.25, 0, 0.75]], rtol=1e-6)
    assert placed.dtype == np.float32
    assert np.linalg.norm(placed) < 0.8  # it is not normalised again


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    best=st.integers(1, 6),
    scale=st.floats(0.001, 300),
    temperature=st.floats(0.01, 100),
)
def test_equation_1_is_its_oracle(seed, best, scale, temperature):
    random = np.random.default_rng(seed)
    features = features_of(8, 5, seed)
    concepts = np.stack([random.permutation(8)[:best] for _ in range(4)]).astype(np.int32)
    scores = np.float32(-np.sort(-scale * random.normal(size=(4, best)), axis=1))
    expected = [
        oracles.unified_embedding(c, s, features.tolist(), temperature)
        for c, s in zip(concepts.tolist(), scores.tolist(), strict=True)
    ]
    np.testing.assert_allclose(unified_embedding(concepts, scores, features, temperature), expected, atol=1e-6)


def test_a_low_temperature_takes_the_best_concept_and_a_high_one_the_mean():
    features, concepts = features_of(3, 4), np.int32([[1, 0, 2]])
    scores = np.float32([[3.5, 1.0, -200.0]])
    for temperature in (0.01, 1e-300):
        np.testing.assert_allclose(unified_embedding(concepts, scores, features, temperature), features[[1]], atol=1e-6)
    hot = unified_embedding(concepts, scores, features, 1e9)
    np.testing.assert_allclose(hot, features.mean(axis=0, keepdims=True), atol=1e-6)


def test_a_constant_added_to_all_scores_does_not_matter():
    features, concepts = features_of(6, 4), np.int32([[0, 3, 5], [2, 1, 4]])
    scores = np.float32([[3, 2, 1], [0.5, 0.25, 0]])
    plain = unified_embedding(concepts, scores, features, 1.0)
    for constant in (-900, 900):
        np.testing.assert_allclose(unified_embedding(concepts, scores + constant, features, 1.0), plain, atol=1e-6)


def test_dead_units_are_nowhere_and_move_no_other():
    features = features_of(6, 4)
    concepts = np.int32([[0, 3], [-1, -1], [2, 1]])
    scores = np.float32([[3, 2], [np.nan, np.nan], [1, 0]])
    placed = unified_embedding(concepts, scores, features, 1.0)
    assert np.isnan(placed[1]).all()
    np.testing.assert_array_equal(placed[[0, 2]], unified_embedding(concepts[[0, 2]], scores[[0, 2]], features, 1.0))


def test_only_dead_units_or_none_are_placed_nowhere():
    dead = unified_embedding(np.full((3, 2), -1, np.int32), np.full((3, 2), np.nan, np.float32), features_of(4, 5), 1.0)
    assert dead.shape == (3, 5)
    assert np.isnan(dead).all()
    none = unified_embedding(np.zeros((0, 2), np.int32), np.zeros((0, 2), np.float32), features_of(4, 5), 1.0)
    assert none.shape == (0, 5)


def test_a_single_concept_is_where_its_units_lie():
    features = features_of(1, 4)
    placed = unified_embedding(np.zeros((2, 1), np.int32), np.float32([[-7], [3]]), features, 1.0)
    np.testing.assert_allclose(placed, features.repeat(2, axis=0), rtol=1e-6)


def test_units_are_placed_in_blocks(monkeypatch):
    random = np.random.default_rng(0)
    features, concepts = features_of(9, 4), random.integers(0, 9, size=(50, 3)).astype(np.int32)
    concepts[7] = -1
    scores = np.float32(random.normal(size=(50, 3)))
    whole = unified_embedding(concepts, scores, features, 1.0)
    monkeypatch.setattr(module, "BLOCK_BYTES", 8 * 3 * 4 * 7)
    np.testing.assert_array_equal(unified_embedding(concepts, scores, features, 1.0), whole)


def test_distance_to_anchors_by_hand():
    units = np.float32([[0, 0], [4, 3], [10, 0]])
    anchors = np.float32([[0, 3], [4, 0]])
    assert distance_to_anchors(units, anchors) == pytest.approx((3 + 3 + 6) / 3)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), units=st.integers(1, 8), anchors=st.integers(1, 6))
def test_distance_to_anchors_is_its_oracle(seed, units, anchors):
    placed, named = features_of(units, 5, seed) * np.float32(0.8), features_of(anchors, 5, seed + 1)
    expected = oracles.d_anchor(placed.tolist(), named.tolist())
    assert distance_to_anchors(placed, named) == pytest.approx(expected, rel=1e-6)


def test_a_unit_on_an_anchor_has_distance_zero():
    anchors = features_of(5, 512)
    assert distance_to_anchors(anchors[[3, 1]], anchors) == pytest.approx(0, abs=1e-6)


def test_dead_units_have_no_distance():
    units = np.float32([[0, 1], [np.nan, np.nan], [0, 3]])
    assert distance_to_anchors(units, np.float32([[0, 0]])) == pytest.approx(2)


@pytest.mark.parametrize(("units", "anchors"), [(0, 3), (3, 0)])
def test_without_units_or_anchors_there_is_no_distance(units, anchors):
    assert np.isnan(distance_to_anchors(np.ones((units, 2), np.float32), np.ones((anchors, 2), np.float32)))
    assert np.isnan(distance_to_anchors(np.full((2, 2), np.nan, np.float32), np.ones((3, 2), np.float32)))


# Spread


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6), units=st.integers(2, 12), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_spread_is_the_mean_over_all_pairs(seed, units, scale):
    random = np.random.default_rng(seed)
    placed = np.float32(scale * random.normal(size=(units, 4)) * random.uniform(0.1, 10, size=(units, 1)))
    assert spread(placed) == pytest.approx(oracles.spread(placed.tolist()), abs=1e-12)


def test_spread_by_hand():
    assert spread(np.float32([[1, 0], [0, 3]])) == pytest.approx(1)
    assert spread(np.float32([[1, 0], [-2, 0]])) == pytest.approx(2)  # opposite
    assert spread(np.float32([[1, 1], [5, 5], [2, 2]])) == pytest.approx(0, abs=1e-12)
    assert spread(np.float32([[1, 0], [0, 1], [-1, 0]])) == pytest.approx(1 + 1 / 3)


def test_many_units_at_one_place_have_no_spread_and_it_is_in_its_bounds():
    one = features_of(1, 512)
    assert spread(one.repeat(3000, axis=0)) == pytest.approx(0, abs=1e-9)
    both = np.concatenate([one.repeat(1500, axis=0), -one.repeat(1500, axis=0)])
    assert spread(both) == pytest.approx(1 + 1 / 2999)


def test_a_unit_at_the_origin_has_no_direction_and_a_cosine_of_0_with_all():
    placed = np.float32([[0, 0], [1, 0], [1, 0]])
    assert spread(placed) == pytest.approx(2 / 3)
    assert spread(placed) == pytest.approx(oracles.spread(placed.tolist()))
    assert spread(np.zeros((3, 2), np.float32)) == pytest.approx(1)


@pytest.mark.parametrize("units", [0, 1])
def test_fewer_than_two_units_have_no_spread(units):
    assert np.isnan(spread(np.ones((units, 3), np.float32)))
    dead = np.full((4, 3), np.nan, np.float32)
    dead[:units] = 1
    assert np.isnan(spread(dead))


def test_units_that_are_not_alive_do_not_count_for_the_spread():
    placed = np.float32([[1, 0], [np.nan, np.nan], [0, 1], [-1, 0]])
    assert spread(placed) == spread(placed[[0, 2, 3]])


# In resamples


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    units=st.integers(0, 6),
    best=st.integers(1, 4),
    named=st.integers(0, 3),
    temperature=st.sampled_from([0.05, 1.0, 20.0]),
    room=st.sampled_from([1, 150, 2**26]),
)
def test_indices_in_resamples_are_those_of_units_that_are_placed_there(seed, units, best, named, temperature, room):
    random = np.random.default_rng(seed)
    features, anchors = features_of(7, 5, seed), features_of(named, 5, seed + 1)
    concept = np.argsort(random.random((units, 3, 7)), axis=2)[..., :best].astype(np.int32)
    score = np.float32(-np.sort(-5 * random.normal(size=concept.shape), axis=2))
    dead = random.random(units) < 0.3
    concept[dead], score[dead] = -1, np.nan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_BYTES", room)
        distances, spreads = resampled_indices(concept, score, features, anchors, temperature)
    assert distances.shape == spreads.shape == (3,)
    for b in range(3):
        placed = [
            oracles.unified_embedding(c, s, features.tolist(), temperature)
            for c, s in zip(concept[~dead, b].tolist(), score[~dead, b].tolist(), strict=True)
        ]
        far = oracles.d_anchor(placed, anchors.tolist()) if placed and named else np.nan
        np.testing.assert_allclose(distances[b], far, rtol=1e-6)
        np.testing.assert_allclose(spreads[b], oracles.spread(placed) if len(placed) > 1 else np.nan, atol=1e-6)


def test_indices_in_a_resample_by_hand():
    features = np.float32([[1, 0], [0, 1]])
    concept, score = np.int32([[[0, 1]], [[1, 0]]]), np.log(np.float32([[[3, 1]], [[3, 1]]]))
    # u is (.75, .25) and (.25, .75): to the anchor they are .25 sqrt(2) and .75 sqrt(2), their cosine is 3/5.
    distances, spreads = resampled_indices(concept, score, features, np.float32([[1, 0]]), 1.0)
    np.testing.assert_allclose(distances, [0.5 * np.sqrt(2)], rtol=1e-6)
    np.testing.assert_allclose(spreads, [0.4], rtol=1e-6)


def test_a_unit_at_the_origin_has_no_direction_in_a_resample_either():
    features = np.float32([[1, 0], [-1, 0]])
    concept = np.int32([[[0, 1]], [[0, 1]], [[0, 1]]])
    score = np.float32([[[1, 1]], [[90, 0]], [[90, 0]]])
    assert resampled_indices(concept, score, features, features, 1.0)[1] == pytest.approx(2 / 3)


def test_without_resamples_there_are_no_indices():
    concept, score = np.zeros((4, 0, 2), np.int32), np.zeros((4, 0, 2), np.float32)
    for found in resampled_indices(concept, score, features_of(3, 5), features_of(2, 5), 1.0):
        assert found.shape == (0,)
