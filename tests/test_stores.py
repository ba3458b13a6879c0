import dataclasses
import random
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmon import stores
from cmon.errors import StoreError
from cmon.h5 import read_header
from cmon.records import (
    Anchors,
    Baseline,
    CheckpointActivations,
    CheckpointCounts,
    CheckpointLabels,
    CheckpointName,
    Concepts,
    Evidence,
    LayerActivations,
    LayerCounts,
    LayerLabels,
    MaskDraws,
    Study,
    Units,
)

RECIPE = {"algorithm": 1, "probe": "f" * 64}
PROVENANCE = {"command": ["cmon", "run", "größe.toml"], "seconds": 1.5}
FLIPS = 300
strings = st.text(st.characters(), max_size=8)
unique_strings = st.lists(strings, max_size=4, unique=True).map(tuple)
some = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

IDS = ("a/1.png", "b/größe.png", "b/\udcff.png", "縞.png", "")
CONCEPTS = Concepts(("striped", "縞模様", "nul\0", ""), ("texture", "texture", "", ""))
FACTS = {"a": 10.0, "prior_perplexity": float("nan")}


def floats(*shape):
    values = np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)
    if values.size:
        values.flat[0] = np.nan
    return values


def integers(*shape):
    return np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape) - 1


def booleans(*shape):
    return integers(*shape) % 2 == 0


STEPS = {"epoch": 3, "step": 1200}


def activations(ids=IDS, layers=("layer1", "layer2.0.conv", "層"), steps=STEPS, units=6):
    made = tuple(LayerActivations(name, floats(len(ids), units)) for name in layers)
    return CheckpointActivations(ids, made, steps, 1 / 3)


def evidence(ids=IDS, concepts=CONCEPTS, dimensions=5):
    return Evidence(ids, concepts, floats(len(ids), dimensions), floats(len(concepts.names), dimensions))


def states(*shape):
    return (integers(*shape) % 4).astype(np.int8)


def counts(ids=IDS, layers=("layer1", "layer2.0.conv", "層"), units=6, permutations=3, resamples=5):
    def longs(*shape):
        return integers(*shape).astype(np.int64) * 2**40

    def draws():
        kept = (integers(units, resamples, 4), floats(units, resamples, 4), integers(units, 2))
        return {union: MaskDraws(floats(units, permutations), *kept) for union in ("all", "category")}

    made = tuple(
        LayerCounts(name, floats(units), longs(units, 4), longs(units, 2), longs(units), draws()) for name in layers
    )
    return CheckpointCounts(CONCEPTS, ("texture", ""), ids, longs(4), longs(4), made, 0.005, 1e-6)


def layer_labels(name, prior=True, units=6, resamples=3, ranking=5):
    return LayerLabels(
        name=name,
        scores=floats(units, 4),
        log_prior=floats(4) if prior else None,
        top_concept=integers(units, 4),
        top_score=floats(units, 4),
        top_images=integers(units, 5),
        state=states(units),
        p_value=floats(units),
        interpretable=booleans(units),
        resampled_concept=integers(units, resamples, 4),
        resampled_score=floats(units, resamples, 4),
        resampled_interpretable=booleans(units, resamples),
        ranking=integers(units, ranking),
        quality=floats(units, 4),
        facts=FACTS if prior else {},
    )


def labels(layers=("layer1", "layer2.0.conv"), prior=True, steps=STEPS, **sizes):
    made = tuple(layer_labels(name, prior, **sizes) for name in layers)
    return CheckpointLabels(CONCEPTS, IDS, made, steps, "nats", integers(4).astype(np.int64) * 2**40, 1 / 3)


def study(rows=7, anchors=("leaf", "縞\0"), resamples=3, baselines=2):
    shapes = {"top_concept": (rows, 4), "top_score": (rows, 4), "top_images": (rows, 5), "embedding": (rows, 3)}
    shapes |= {"xy": (rows, 2), "quality": (rows, 4)}
    shapes |= dict.fromkeys(("resampled_concept", "resampled_score", "resampled_interpretable"), (rows, resamples))
    makers = dict.fromkeys(("score", "p_value", "quality", "top_score", "embedding", "xy"), floats)
    makers |= {"interpretable": booleans, "resampled_interpretable": booleans, "state": states}
    columns = {name: makers.get(name, integers)(*shapes.get(name, (rows,))) for name in Units.__dataclass_fields__}
    return Study(
        detector="clip_dissect",
        score_unit="nats",
        runs=("standard", "robust"),
        checkpoints=(CheckpointName(0, "epoch_0", 0, 0.25), CheckpointName(1, "epoch_2", 2**40)),
        layers=("layer1", "layer2"),
        concepts=CONCEPTS,
        concept_features=floats(4, 3),
        concept_xy=floats(4, 2),
        image_ids=IDS,
        units=Units(**columns),
        anchors=Anchors(anchors, floats(len(anchors), 3), floats(len(anchors), 2)),
        d_anchor=floats(2, 2),
        d_anchor_resampled=floats(2, 2, resamples),
        spread=floats(2, 2),
        spread_resampled=floats(2, 2, resamples),
        baseline=Baseline(*(integers(baselines) + place for place in range(6))),
        prior_perplexity=floats(2, 2),
        facts=FACTS,
        concept_images=integers(4).astype(np.int64) * 2**40,
    )


def without_scores(made):
    return dataclasses.replace(made, layers=tuple(dataclasses.replace(layer, scores=None) for layer in made.layers))


def write_activations(path, made):
    stores.write_activations(path, RECIPE, PROVENANCE, made, "mean")


def write_counts(path, made):
    stores.write_counts(path, RECIPE, PROVENANCE, made)


def write_evidence(path, made):
    stores.write_evidence(path, RECIPE, PROVENANCE, made)


def write_labels(path, made):
    stores.write_labels(path, RECIPE, PROVENANCE, made)


def write_study(path, made):
    stores.write_study(path, RECIPE, PROVENANCE, made)


def read_labels_and_scores(path):
    found = stores.read_labels(path)
    layers = tuple(dataclasses.replace(x, scores=stores.read_scores(path, x.name)) for x in found.layers)
    return dataclasses.replace(found, layers=layers)


# kind -> (what is written, how, how it is read back)
KINDS = {
    "activations": (activations, write_activations, lambda path: stores.read_activations(path, "mean")),
    "counts": (counts, write_counts, stores.read_counts),
    "evidence": (evidence, write_evidence, stores.read_evidence),
    "similarity": (labels, write_labels, read_labels_and_scores),
    "embedding": (study, write_study, stores.read_study),
}
kinds = pytest.mark.parametrize("kind", KINDS)
RESAMPLED = ("resampled_concept", "resampled_score", "resampled_interpretable")
NEW_OF_A_LAYER = ("state", "p_value", "ranking", "quality", *RESAMPLED)
NEW_OF_A_STUDY = (
    *(f"units/{name}" for name in ("state", "p_value", "quality", "resampled_concept", "resampled_interpretable")),
    *("d_anchor_resampled", "spread", "spread_resampled"),
    *(f"baseline/{name}" for name in Baseline.__dataclass_fields__),
)


def file_of(kind, folder):
    make, write, _ = KINDS[kind]
    path = folder / "clip_dissect.h5"
    write(path, make())
    return path


def same(one, other):
    """Tell whether two records hold the same, to the last bit."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    if dataclasses.is_dataclass(one):
        names = [field.name for field in dataclasses.fields(one)]
        return type(one) is type(other) and all(same(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, tuple):
        return isinstance(other, tuple) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other) and (one == other or one != one)


def test_the_comparison_tells_records_apart():
    other = study()
    other.units.xy[3, 1] += 1
    assert same(study(), study())
    assert not same(study(), other)
    assert not same(labels(), labels(prior=False))
    assert not same(activations(), activations(steps={}))


@kinds
def test_every_kind_comes_back_exactly(tmp_path, kind):
    make, _, read = KINDS[kind]
    assert same(read(file_of(kind, tmp_path)), make())


@kinds
def test_every_kind_is_named_in_its_header(tmp_path, kind):
    header = read_header(file_of(kind, tmp_path), kind)
    assert header is not None
    assert (header.kind, header.recipe) == (kind, RECIPE)


@kinds
def test_no_kind_is_read_as_another(tmp_path, kind):
    path = file_of(kind, tmp_path)
    for other, (_, _, read) in KINDS.items():
        if other != kind:
            with pytest.raises(StoreError, match=f"not a cmon file of kind {other}"):
                read(path)


@kinds
def test_equal_records_give_equal_bytes(tmp_path, kind):
    assert file_of(kind, tmp_path / "a").read_bytes() == file_of(kind, tmp_path / "b").read_bytes()


@some
@given(
    ids=unique_strings,
    steps=st.dictionaries(st.sampled_from(["epoch", "step"]), st.integers(-(2**63), 2**63 - 1)),
    units=st.integers(0, 3),
)
def test_activations_of_any_images_come_back(tmp_path, ids, steps, units):
    made = activations(ids=ids, steps=steps, units=units)
    write_activations(tmp_path / "f.h5", made)
    assert same(stores.read_activations(tmp_path / "f.h5", "mean"), made)


@some
@given(ids=unique_strings, names=unique_strings, dimensions=st.integers(0, 3))
def test_evidence_of_any_words_comes_back(tmp_path, ids, names, dimensions):
    made = evidence(ids, Concepts(names, tuple(reversed(names))), dimensions)
    write_evidence(tmp_path / "f.h5", made)
    assert same(stores.read_evidence(tmp_path / "f.h5"), made)


@pytest.mark.parametrize("values", [[1e-45, -0.0, np.inf, -np.inf, np.nan, 3.4e38]])
def test_odd_floats_come_back_exactly(tmp_path, values):
    made = activations(ids=IDS, layers=())
    column = np.array(values, dtype=np.float32)[: len(IDS), None]
    made = dataclasses.replace(made, layers=(LayerActivations("layer", column),))
    write_activations(tmp_path / "f.h5", made)
    assert same(stores.read_activations(tmp_path / "f.h5", "mean"), made)


def test_a_checkpoint_without_layers_comes_back(tmp_path):
    write_activations(tmp_path / "f.h5", activations(layers=()))
    assert same(stores.read_activations(tmp_path / "f.h5", "mean"), activations(layers=()))


@pytest.mark.parametrize(
    "layers", [("b", "a", "c"), ("layer10", "layer2"), ("a.b", "a"), ("features/0", "x"), ("größe", "層")]
)
def test_layers_come_back_in_their_order(tmp_path, layers):
    write_labels(tmp_path / "f.h5", labels(layers))
    found = stores.read_labels(tmp_path / "f.h5")
    assert tuple(layer.name for layer in found.layers) == layers


def test_labels_without_a_prior_or_a_step_come_back(tmp_path):
    made = labels(prior=False, steps={})
    write_labels(tmp_path / "f.h5", made)
    assert same(read_labels_and_scores(tmp_path / "f.h5"), made)


@pytest.mark.parametrize("sparsity", [0.0, 1 / 3, 1.0, float("nan")])
def test_sparsity_comes_back_to_the_last_bit(tmp_path, sparsity):
    recorded, labelled = (dataclasses.replace(made, sparsity=sparsity) for made in (activations(), labels()))
    write_activations(tmp_path / "a.h5", recorded)
    write_labels(tmp_path / "l.h5", labelled)
    assert same(stores.read_activations(tmp_path / "a.h5", "mean"), recorded)
    assert same(read_labels_and_scores(tmp_path / "l.h5"), labelled)


def test_the_sparsity_of_files_that_were_written_without_it_is_not_known(tmp_path):
    write_activations(tmp_path / "a.h5", activations())
    write_labels(tmp_path / "l.h5", labels())
    for name in ("a.h5", "l.h5"):
        with h5py.File(tmp_path / name, "r+", libver=("v110", "v110")) as file:
            del file.attrs["sparsity"]
    assert np.isnan(stores.read_activations(tmp_path / "a.h5", "mean").sparsity)
    assert np.isnan(stores.read_labels(tmp_path / "l.h5").sparsity)


def test_labels_are_read_without_their_full_scores(tmp_path):
    write_labels(tmp_path / "f.h5", labels())
    assert same(stores.read_labels(tmp_path / "f.h5"), without_scores(labels()))


def test_scores_that_were_not_kept_are_an_error(tmp_path):
    write_labels(tmp_path / "f.h5", without_scores(labels()))
    with pytest.raises(StoreError, match="is damaged"):
        stores.read_scores(tmp_path / "f.h5", "layer1")


@pytest.mark.parametrize("made", [study(rows=0), study(anchors=()), study(rows=0, anchors=())])
def test_a_study_without_units_or_anchors_comes_back(tmp_path, made):
    write_study(tmp_path / "clip_dissect.h5", made)
    assert same(stores.read_study(tmp_path / "clip_dissect.h5"), made)


@pytest.mark.parametrize("resamples", [0, 1])
@pytest.mark.parametrize("baselines", [0, 1])
def test_a_study_without_resamples_or_baselines_comes_back(tmp_path, resamples, baselines):
    made = study(resamples=resamples, baselines=baselines)
    write_study(tmp_path / "clip_dissect.h5", made)
    found = stores.read_study(tmp_path / "clip_dissect.h5")
    assert same(found, made)
    assert found.units.resampled_concept.shape == (7, resamples)
    assert found.spread_resampled.shape == (2, 2, resamples)
    assert found.baseline.interpretable.shape == (baselines,)


@pytest.mark.parametrize("sizes", [{"resamples": 0}, {"ranking": 0}, {"resamples": 0, "ranking": 9}, {"units": 0}])
def test_labels_without_resamples_or_a_ranking_or_of_no_units_come_back(tmp_path, sizes):
    made = labels(**sizes)
    write_labels(tmp_path / "f.h5", made)
    assert same(read_labels_and_scores(tmp_path / "f.h5"), made)
    assert same(stores.read_labels(tmp_path / "f.h5"), without_scores(made))


@pytest.mark.parametrize(("permutations", "resamples"), [(0, 0), (0, 4), (4, 0), (1, 1)])
def test_counts_of_nothing_drawn_come_back(tmp_path, permutations, resamples):
    made = counts(permutations=permutations, resamples=resamples)
    write_counts(tmp_path / "f.h5", made)
    found = stores.read_counts(tmp_path / "f.h5")
    assert same(found, made)
    assert found.layers[0].draws["all"].null.shape == (6, permutations)
    assert found.layers[0].draws["category"].score.shape == (6, resamples, 4)


def test_where_nothing_is_known_of_which_images_show_a_word_none_comes_back(tmp_path):
    made, whole = (dataclasses.replace(one, concept_images=None) for one in (labels(), study()))
    write_labels(tmp_path / "f.h5", made)
    write_study(tmp_path / "clip_dissect.h5", whole)
    assert same(read_labels_and_scores(tmp_path / "f.h5"), made)
    assert same(stores.read_study(tmp_path / "clip_dissect.h5"), whole)


def test_labels_know_which_units_are_alive(tmp_path):
    write_labels(tmp_path / "f.h5", labels())
    (first, _) = stores.read_labels(tmp_path / "f.h5").layers
    assert first.state.tolist() == [3, 0, 1, 2, 3, 0]
    assert first.alive.tolist() == [False, True, False, False, False, True]


def test_every_array_of_every_kind_is_checksummed_and_named_in_the_specification(tmp_path):
    for kind in KINDS:
        with h5py.File(file_of(kind, tmp_path / kind), "r") as file:
            found = {}
            file.visititems(lambda name, item, found=found: found.update({name: item}))
            for name, item in found.items():
                if isinstance(item, h5py.Dataset):
                    assert item.fletcher32 or item.size == 0, name
                    assert name.split("/")[-1] in stores.__doc__, name


@pytest.mark.parametrize(
    ("kind", "dataset"),
    [
        *(("similarity", f"layers/layer1/{name}") for name in NEW_OF_A_LAYER),
        *(("embedding", name) for name in NEW_OF_A_STUDY),
        *(("counts", f"layers/layer1/draws/all/{name}") for name in MaskDraws.__dataclass_fields__),
    ],
)
def test_a_flipped_byte_of_an_array_is_noticed(tmp_path, kind, dataset):
    path = file_of(kind, tmp_path)
    with h5py.File(path, "r") as file:
        stored = file[dataset].id.get_chunk_info(0)
        assert file[dataset].id.get_num_chunks() == 1
    data = bytearray(path.read_bytes())
    for place in (0, stored.size // 2, stored.size - 5):
        changed = data.copy()
        changed[stored.byte_offset + place] ^= 4
        path.write_bytes(changed)
        with pytest.raises(StoreError, match="is damaged"):
            KINDS[kind][2](path)


def test_a_study_is_named_after_its_file(tmp_path):
    write_study(tmp_path / "mine.v2.h5", study())
    assert stores.read_study(tmp_path / "mine.v2.h5").detector == "mine.v2"


def test_activations_of_another_pooling_are_an_error(tmp_path):
    write_activations(tmp_path / "f.h5", activations())
    with pytest.raises(StoreError, match="is damaged"):
        stores.read_activations(tmp_path / "f.h5", "max")


@kinds
def test_a_missing_file_of_any_kind_is_not_found(tmp_path, kind):
    with pytest.raises(FileNotFoundError):
        KINDS[kind][2](tmp_path / "f.h5")


@kinds
def test_a_file_of_any_kind_that_is_cut_is_an_error(tmp_path, kind):
    path = file_of(kind, tmp_path)
    data = path.read_bytes()
    for length in [*range(0, len(data), max(1, len(data) // 60)), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(StoreError, match="is damaged"):
            KINDS[kind][2](path)


def flip_bits(kind, folder, seed):
    """Flip FLIPS bits, one at a time, and print how many were noticed; other numbers than were written are an error."""
    make, _, read = KINDS[kind]
    path, generator, noticed = file_of(kind, folder), random.Random(seed), 0
    data, expected = path.read_bytes(), make()
    for _ in range(FLIPS):
        place, bit = generator.randrange(len(data)), generator.randrange(8)
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
        try:
            header, found = read_header(path, kind), read(path)
        except StoreError:
            noticed += 1
            continue
        assert header is not None and header.recipe == RECIPE, (place, bit)
        assert same(found, expected), (place, bit)
    print(noticed)


@kinds
def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path, kind):
    code = "import pathlib, sys, test_stores; test_stores.flip_bits(sys.argv[1], pathlib.Path(sys.argv[2]), seed=0)"
    command = [sys.executable, "-c", code, kind, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > FLIPS * 0.5
