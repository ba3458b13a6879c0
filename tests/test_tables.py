import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmon.records import STATES, Anchors, Baseline, CheckpointName, Concepts, Study, Units
from cmon.tables import csv_bytes, layers_table, units_table

CAT, RED, SKY = 0, 1, 2
DEAD, CONSTANT, SATURATED = STATES[1:]

# One run of two checkpoints with a layer of four units and one of one unit; another run with its first layer only.
# A unit: its best concept, its score, whether it is interpretable, its second concept with its score; or its state.
CELLS = {
    (0, 0, 0): [(CAT, 3.0, True, (RED, 2.5)), (CAT, 2.0, True, (SKY, 0.5)), DEAD, (RED, 0.1, False, (CAT, 0.0))],
    (0, 0, 1): [CONSTANT],
    (0, 1, 0): [(CAT, 3.5, True, (RED, 1.0)), (RED, 2.5, True, (CAT, 1.0)), DEAD, (SKY, 0.25, True, (CAT, 0.0))],
    (0, 1, 1): [(SKY, -1.5, False, (CAT, -2.0))],
    (1, 2, 0): [*[(RED, 1.0, True, (CAT, 0.5))] * 3, SATURATED],
}
# Two resamples: in the second, unit 1 has another word and unit 0 is not interpretable.
OTHER = {CAT: RED, RED: CAT, SKY: SKY}


def a_study(words=("cat", "red", "sky"), categories=("object", "color", "scene"), resamples=2):
    rows = {name: [] for name in Units.__dataclass_fields__}
    for (run, checkpoint, layer), cell in CELLS.items():
        for unit, found in enumerate(cell):
            alive, state = isinstance(found, tuple), found if isinstance(found, str) else "alive"
            concept, score, clear, (second, second_score) = found if alive else (-1, np.nan, False, (-1, np.nan))
            row = {"run": run, "checkpoint": checkpoint, "layer": layer, "unit": unit}
            row |= {"concept": concept, "score": score, "interpretable": clear, "state": STATES.index(state)}
            row |= {"p_value": 0.25 if alive else np.nan, "quality": [0.5, np.nan, 1, 0.75] if alive else [np.nan] * 4}
            row |= {"resampled_concept": [concept, OTHER[concept] if alive and unit == 1 else concept][:resamples]}
            row |= {"resampled_interpretable": [clear, clear and unit > 0][:resamples]}
            row |= {"top_concept": [concept, second, -1], "top_score": [score, second_score, np.nan]}
            row |= {"top_images": [-1], "embedding": [np.nan], "xy": [0.5, unit] if alive else [np.nan] * 2}
            for name, value in row.items():
                rows[name].append(value)
    kinds = {"interpretable": bool, "resampled_interpretable": bool, "state": np.int8}
    kinds |= dict.fromkeys(("score", "p_value", "quality", "top_score", "embedding", "xy"), np.float32)
    nothing = np.zeros((0, 1), np.float32)
    return Study(
        detector="d",
        score_unit="nats",
        runs=("plain", "robust"),
        checkpoints=(
            CheckpointName(0, "a.pt", 1),
            CheckpointName(0, "b.pt", 10, 0.25),
            CheckpointName(1, "a.pt", 5, 0.0),
        ),
        layers=("layer1", "layer2"),
        concepts=Concepts(tuple(words), tuple(categories)),
        concept_features=np.zeros((3, 2), np.float32),
        concept_xy=np.zeros((3, 2), np.float32),
        image_ids=("i.png",),
        units=Units(**{name: np.array(values, kinds.get(name, np.int32)) for name, values in rows.items()}),
        anchors=Anchors((), nothing, nothing),
        d_anchor=np.float32([[0.5, np.nan], [0.25, 0.75], [1.5, np.nan]]),
        d_anchor_resampled=np.float32([[[1, 2], [np.nan, np.nan]], [[1, 1], [1, 3]], [[1, 2], [1, np.nan]]])[
            ..., :resamples
        ],
        spread=np.float32([[0.125, np.nan], [0.375, np.nan], [0, np.nan]]),
        spread_resampled=np.float32([[[1, 1.5], [np.nan] * 2], [[1, 1], [np.nan] * 2], [[0, 0], [np.nan] * 2]])[
            ..., :resamples
        ],
        baseline=Baseline(*np.zeros((6, 0), np.int32)),
        prior_perplexity=np.float32([[2.5, np.nan], [3.5, 1], [4, np.nan]]),
        facts={},
    )


def rows_of(table):
    return list(csv.reader(io.StringIO(csv_bytes(table).decode())))


def test_units_csv_counted_by_hand():
    quality = "0.5,,1.0,0.75"
    assert csv_bytes(units_table(a_study())).decode().splitlines() == [
        "run,checkpoint,step,layer,unit,concept,category,score,interpretable,state,p_value,label_confidence,"
        "category_confidence,quality_f1,quality_iou,quality_auprc,quality_correlation,x,y,concept_2,score_2,concept_3,"
        "score_3",
        f"plain,a.pt,1,layer1,0,cat,object,3.0,1,alive,0.25,1.0,1.0,{quality},0.5,0.0,red,2.5,,",
        f"plain,a.pt,1,layer1,1,cat,object,2.0,1,alive,0.25,0.5,0.5,{quality},0.5,1.0,sky,0.5,,",
        "plain,a.pt,1,layer1,2,,,,0,dead,,,,,,,,,,,,,",
        f"plain,a.pt,1,layer1,3,red,color,0.1,0,alive,0.25,1.0,1.0,{quality},0.5,3.0,cat,0.0,,",
        "plain,a.pt,1,layer2,0,,,,0,constant,,,,,,,,,,,,,",
        f"plain,b.pt,10,layer1,0,cat,object,3.5,1,alive,0.25,1.0,1.0,{quality},0.5,0.0,red,1.0,,",
        f"plain,b.pt,10,layer1,1,red,color,2.5,1,alive,0.25,0.5,0.5,{quality},0.5,1.0,cat,1.0,,",
        "plain,b.pt,10,layer1,2,,,,0,dead,,,,,,,,,,,,,",
        f"plain,b.pt,10,layer1,3,sky,scene,0.25,1,alive,0.25,1.0,1.0,{quality},0.5,3.0,cat,0.0,,",
        f"plain,b.pt,10,layer2,0,sky,scene,-1.5,0,alive,0.25,1.0,1.0,{quality},0.5,0.0,cat,-2.0,,",
        *(
            f"robust,a.pt,5,layer1,{unit},red,color,1.0,1,alive,0.25,{share},{share},{quality},0.5,{unit}.0,cat,0.5,,"
            for unit, share in ((0, 1.0), (1, 0.5), (2, 1.0))
        ),
        "robust,a.pt,5,layer1,3,,,,0,saturated,,,,,,,,,,,,,",
    ]


def test_confidence_in_a_category_counts_words_of_the_same_one_and_is_unknown_without():
    table = units_table(a_study(categories=("thing", "thing", "")))
    assert table["label_confidence"].tolist()[:2] == [1, 0.5]
    assert table["category_confidence"].tolist()[:2] == [1, 1]
    assert np.isnan(table["category_confidence"][table["concept"] == "sky"]).all()
    assert np.isnan(units_table(a_study(resamples=0))["label_confidence"]).all()


def apart(one, other):
    """Return the error of a number that has two values in two resamples, to three digits."""
    return round(1.959964 * abs(one - other) / 2**0.5, 3)


def test_layers_csv_counted_by_hand():
    table = {name: c.round(3) if c.dtype.kind == "f" else c for name, c in layers_table(a_study()).items()}
    one, half = apart(2, 1), apart(1.5, 1)
    assert csv_bytes(table).decode().splitlines() == [
        "run,checkpoint,step,layer,units,dead,constant,saturated,interpretable,interpretable_error,unique_concepts,"
        "unique_concepts_error,effective_concepts,effective_concepts_error,spread,spread_error,d_anchor,"
        "d_anchor_error,label_confidence,changed,changed_error,drifted,median_score,prior_perplexity,sparsity",
        # In the second resample unit 0 is not interpretable: one word remains of one.
        f"plain,a.pt,1,layer1,4,1,0,0,2,{one},1,0.0,1.0,0.0,0.125,{half},0.5,{one},0.75,,,,2.0,2.5,",
        "plain,a.pt,1,layer2,1,0,1,0,0,0.0,0,0.0,0.0,0.0,,,,,,,,,,,",
        # Three words in the first resample, cat and sky in the second. Unit 1 changed, and back in the second.
        f"plain,b.pt,10,layer1,4,1,0,0,3,{one},3,{one},3.0,{one},0.375,0.0,0.25,0.0,1.0,0.667,"
        f"{apart(2 / 3, 2 / 3)},0.333,2.5,3.5,0.25",
        f"plain,b.pt,10,layer2,1,0,0,0,0,0.0,0,0.0,0.0,0.0,,,0.75,{apart(1, 3)},,,,,-1.5,1.0,0.25",
        # All red in the first resample, cat and red in the second.
        f"robust,a.pt,5,layer1,4,0,0,1,3,{one},1,{one},1.0,{one},0.0,0.0,1.5,{one},1.0,,,,1.0,4.0,0.0",
    ]


def test_the_order_of_the_units_rows_does_not_matter_to_layers_csv():
    study = a_study()
    order = np.random.default_rng(0).permutation(len(study.units.unit))
    columns = {name: values for name, values in vars(study.units).items() if len(values)}
    mixed = replace(study.units, **{name: values[order] for name, values in columns.items()})
    assert rows_of(layers_table(replace(study, units=mixed))) == rows_of(layers_table(study))


def test_without_resamples_there_are_no_errors():
    table = layers_table(a_study(resamples=0))
    errors = [name for name in table if name.endswith("_error")]
    assert len(errors) == 6
    assert all(np.isnan(table[name]).all() for name in (*errors, "label_confidence", "drifted"))
    assert table["interpretable"].tolist() == [2, 0, 3, 0, 3]


def test_at_most_five_concepts_of_a_unit_are_listed():
    study = a_study()
    wide = replace(study.units, top_concept=np.zeros((14, 10), np.int32), top_score=np.ones((14, 10), np.float32))
    names = list(units_table(replace(study, units=wide)))
    assert [name for name in names if name.startswith("concept_")] == [f"concept_{rank}" for rank in (2, 3, 4, 5)]
    narrow = replace(study.units, top_concept=np.zeros((14, 1), np.int32), top_score=np.ones((14, 1), np.float32))
    assert not [name for name in units_table(replace(study, units=narrow)) if name.startswith("concept_")]


def test_a_study_without_units_has_the_same_columns():
    study = a_study()
    none = replace(study.units, **{name: getattr(study.units, name)[:0] for name in Units.__dataclass_fields__})
    empty = replace(study, units=none)
    assert rows_of(units_table(empty)) == [list(units_table(study))]


# Words as the fields of a CSV

WORDS = ("a, b", 'the "x"', "two\nlines", "漢字 ñ", "=1+1", "a\rb", " padded ", "'", "🙂")


def test_any_word_comes_back_from_the_csv():
    table = {"word": np.array(WORDS), "n": np.arange(len(WORDS))}
    text = csv_bytes(table)
    assert text.startswith(b"word,n\n")
    rows = list(csv.reader(io.StringIO(text.decode("utf-8"), newline="")))
    assert rows[1:] == [[word, str(n)] for n, word in enumerate(WORDS)]


def test_quotes_are_put_only_where_they_are_needed():
    text = csv_bytes({"word": np.array(WORDS[:4])}).decode()
    assert text == 'word\n"a, b"\n"the ""x"""\n"two\nlines"\n漢字 ñ\n'


def test_words_of_a_study_come_back_from_its_units():
    words = ("a, b", 'the "x"', "two\nlines")
    rows = list(csv.DictReader(io.StringIO(csv_bytes(units_table(a_study(words, ("c,d", "", "漢")))).decode())))
    assert [row["concept"] for row in rows[:4]] == ["a, b", "a, b", "", 'the "x"']
    assert [row["category"] for row in rows[:4]] == ["c,d", "c,d", "", ""]
    assert {row["concept"] for row in rows[9:10]} == {"two\nlines"}


def test_an_empty_field_alone_is_still_a_row():
    assert rows_of({"word": np.array(["", "a", ""])}) == [["word"], [""], ["a"], [""]]


def test_a_file_name_that_is_no_utf8_is_written_as_its_bytes():
    name = b"caf\xe9.pt".decode("utf-8", "surrogateescape")
    assert csv_bytes({"checkpoint": np.array([name])}) == b"checkpoint\ncaf\xe9.pt\n"


def test_truth_is_0_and_1_and_nan_is_empty():
    table = {"clear": np.array([True, False]), "score": np.float32([np.nan, -2]), "n": np.int64([3, -1])}
    assert csv_bytes(table) == b"clear,score,n\n1,,3\n0,-2.0,-1\n"


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_numbers_come_back_exactly(values):
    column = np.array(values, dtype=np.float32)
    rows = rows_of({"number": column, "wide": column.astype(np.float64) / 3})
    assert np.array([row[0] for row in rows[1:]], dtype=np.float32).tobytes() == column.tobytes()
    assert [float(row[1]) for row in rows[1:]] == (column.astype(np.float64) / 3).tolist()


def test_single_precision_is_not_written_at_double_length():
    assert csv_bytes({"x": np.float32([0.1, 1e-8])}) == b"x\n0.1\n1e-08\n"


def test_columns_without_rows_are_a_header():
    assert csv_bytes({"a": np.array([], dtype=np.float32), "b": np.array([], dtype=np.str_)}) == b"a,b\n"


def test_columns_of_unequal_length_are_a_mistake():
    with pytest.raises(ValueError, match="zip"):
        csv_bytes({"a": np.arange(3), "b": np.arange(2)})
