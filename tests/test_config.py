import os
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest

from cmon import config, paths, recipes
from cmon.checkpoints import Roster
from cmon.config import (
    FIGURES,
    SECTIONS,
    ClipDissect,
    Features,
    OpenClip,
    OtherDetector,
    Section,
    Statistics,
    Study,
    false_discovery_rate,
    read_config,
    schema,
)
from cmon.detectors import detector_from
from cmon.errors import ConfigError
from cmon.mistakes import EXPECTED
from cmon.recipes import Plan, has_study_prior, plan_study
from cmon.workspace import Workspace

WHOLE = """
workspace = "work"

[probe]
kind = "images"
path = "data/broden1_224"

[concepts]
file = "concepts.csv"
prompt = "{}"

[encoder]
kind = "open_clip"
model = "ViT-B-16"
pretrained = "openai"

[[run]]
name = "standard"
checkpoints = "runs/standard/epoch_*.pt"
model = "torchvision:resnet18"
model_args = { num_classes = 365 }
layers = ["layer2", "layer3", "layer4"]
preprocess = { resize = 256, crop = 224, mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225] }
state_dict_key = "state_dict.0"

[activations]
pooling = "mean"
precision = "float32"

[[detector]]
kind = "clip_dissect"
similarity = "soft_wpmi"
tau = 1.5

[embed]
top_k = 5
anchors = ["striped", "windmill", "field"]

[report]
track = ["standard/layer4/479", "standard/layer4/256"]
formats = ["png", "pdf"]
"""
FEATURES = """kind = "features"
image_features = "image_features.npy"
images = "images.txt"
concept_features = "concept_features.npy"
concepts = "concepts.txt"
"""
SHORT = """
workspace = "work"
probe = { path = "images" }
encoder = { kind = "open_clip", model = "ViT-B-16", pretrained = "openai" }

[[run]]
name = "standard"
checkpoints = "runs/*.pt"
model = "torchvision:resnet18"
layers = ["layer2"]

[[detector]]
kind = "clip_dissect"
"""


def read(tmp_path, text):
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="utf-8")
    return read_config(path)


def refused(tmp_path, text):
    """Return the key and what is said of it, and the hint."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert caught.value.exit_code == 2
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'study.toml'}: ")
    assert "\n" not in said
    assert "pydantic" not in said
    return said.removeprefix(f"{tmp_path / 'study.toml'}: "), caught.value.hint


def changed(before, after, text=SHORT):
    assert before in text
    return text.replace(before, after)


def test_every_documented_key_is_read(tmp_path):
    study = read(tmp_path, WHOLE)
    assert study.workspace == tmp_path / "work"
    assert (study.probe.kind, study.probe.path) == ("images", tmp_path / "data" / "broden1_224")
    assert (study.concepts.file, study.concepts.prompt) == (tmp_path / "concepts.csv", "{}")
    assert isinstance(study.encoder, OpenClip)
    assert (study.encoder.model, study.encoder.pretrained) == ("ViT-B-16", "openai")
    (run,) = study.run
    assert run.checkpoints == tmp_path / "runs" / "standard" / "epoch_*.pt"
    assert (run.name, run.model, run.model_args) == ("standard", "torchvision:resnet18", {"num_classes": 365})
    assert (run.layers, run.state_dict_key) == (["layer2", "layer3", "layer4"], "state_dict.0")
    assert (run.preprocess.resize, run.preprocess.crop, run.preprocess.std[0]) == (256, 224, 0.229)
    assert (study.activations.pooling, study.activations.precision) == ("mean", "float32")
    (detector,) = study.detector
    assert isinstance(detector, ClipDissect)
    assert (detector.similarity, detector.tau, detector.name) == ("soft_wpmi", 1.5, "clip_dissect")
    assert (study.embed.top_k, study.embed.anchors) == (5, ["striped", "windmill", "field"])
    assert study.report.track == ["standard/layer4/479", "standard/layer4/256"]
    assert study.report.formats == ["png", "pdf"]


def test_the_other_encoder_is_read(tmp_path):
    table = 'kind = "open_clip"\nmodel = "ViT-B-16"\npretrained = "openai"\n'
    study = read(tmp_path, changed(table, FEATURES, WHOLE))
    assert isinstance(study.encoder, Features)
    assert study.encoder.concepts == tmp_path / "concepts.txt"


def test_a_short_config_has_the_papers_values(tmp_path):
    study = read(tmp_path, SHORT)
    assert study.detector == [ClipDissect(kind="clip_dissect")]
    assert (study.embed.top_k, study.embed.temperature) == (5, 1.0)
    assert study.run[0].preprocess.geometry() == {"resize": None, "crop": None, "interpolation": "bilinear"}
    assert study.concepts.file is None
    assert study.report.figures == list(FIGURES)


def test_a_whole_number_may_stand_for_a_number(tmp_path):
    assert read(tmp_path, SHORT + "lam = 1\na = 3\ntau = 2\n").detector[0].lam == 1


def test_a_config_is_frozen(tmp_path):
    with pytest.raises(ValueError, match="frozen"):
        read(tmp_path, SHORT).embed.top_k = 3


# --- tau, the prior, and what is drawn

DISSECTION = changed('kind = "clip_dissect"', 'kind = "network_dissection"')
A_RATE = '"fdr:q" with q between 0 and 1, such as "fdr:0.05"'


@pytest.mark.parametrize(
    ("written", "tau", "rate"),
    [
        ('"fdr:0.05"', "fdr:0.05", 0.05),
        ('"fdr:.1"', "fdr:.1", 0.1),
        ('"fdr:0.999"', "fdr:0.999", 0.999),
        ("3", 3.0, None),
        ("2.5", 2.5, None),
        ("-1", -1.0, None),
        ("0", 0.0, None),
        ('"none"', "none", None),
    ],
)
def test_tau_is_a_number_a_rate_or_none(tmp_path, written, tau, rate):
    for text in (SHORT, changed('kind = "clip_dissect"', 'kind = "mine"')):
        found = read(tmp_path, text + f"tau = {written}\n").detector[0].tau
        assert found == tau
        assert type(found) is type(tau)
        assert false_discovery_rate(found) == rate


@pytest.mark.parametrize(("written", "tau"), [("0.04", 0.04), ("1", 1.0), ('"fdr:0.05"', "fdr:0.05")])
def test_tau_of_network_dissection_is_an_iou_or_a_rate(tmp_path, written, tau):
    assert read(tmp_path, DISSECTION).detector[0].tau == 0.04
    assert read(tmp_path, DISSECTION + f"tau = {written}\n").detector[0].tau == tau


@pytest.mark.parametrize(
    "written", ["fdr:0", "fdr:0.0", "fdr:1", "fdr:1.0", "fdr:2", "fdr", "fdr:", "fdr:x", "fdr:0.05 ", "best", "", "0.5"]
)
def test_another_text_for_tau_is_refused_with_what_is_possible(tmp_path, written):
    for text in (SHORT, changed('kind = "clip_dissect"', 'kind = "mine"')):
        said, _ = refused(tmp_path, text + f'tau = "{written}"\n')
        assert said == f'detector[1].tau: must be a number, "none", or {A_RATE}'
    assert refused(tmp_path, DISSECTION + f'tau = "{written}"\n')[0].startswith("detector[1].tau: must be ")


@pytest.mark.parametrize("written", ["0", "-0.1", "1.5", '"none"', "2"])
def test_what_no_iou_can_be_is_refused(tmp_path, written):
    said, _ = refused(tmp_path, DISSECTION + f"tau = {written}\n")
    assert said == 'detector[1].tau: must be above 0 and at most 1, or "fdr:q", such as "fdr:0.05"'


@pytest.mark.parametrize("written", ["true", "nan", "inf", "[1]", "{}"])
def test_what_is_no_number_and_no_text_is_refused_for_tau(tmp_path, written):
    for text in (SHORT, DISSECTION):
        assert refused(tmp_path, text + f"tau = {written}\n")[0].startswith("detector[1].tau: must be ")


@pytest.mark.parametrize("similarity", ["soft_wpmi", "wpmi"])
def test_a_prior_may_be_the_layers_or_the_studys(tmp_path, similarity):
    text = SHORT + f'similarity = "{similarity}"\n'
    assert read(tmp_path, text).detector[0].prior == "layer"
    for prior in ("layer", "study"):
        (table,) = read(tmp_path, text + f'prior = "{prior}"\n').detector
        assert has_study_prior(table) == (table.prior == "study") == (prior == "study")
        assert detector_from(table).lam > 0
    said, _ = refused(tmp_path, text + 'prior = "run"\n')
    assert said == "detector[1].prior: must be 'layer' or 'study', not 'run'"
    assert refused(tmp_path, DISSECTION + 'prior = "study"\n')[0].startswith("detector[1].prior: unknown key")


@pytest.mark.parametrize("keys", ['similarity = "soft_wpmi"\nlam = 0\n', 'similarity = "top_down"\n', ""])
def test_the_studys_prior_of_what_has_none_names_the_key(tmp_path, keys):
    study = read(tmp_path, SHORT + keys + 'name = "mine"\nprior = "study"\n')
    with pytest.raises(ConfigError, match="detector mine: prior: has an effect only on soft_wpmi and wpmi") as caught:
        plan_study(study)
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_a_detector_without_the_key_has_no_study_prior(tmp_path):
    (table,) = read(tmp_path, changed('kind = "clip_dissect"', 'kind = "mine"')).detector
    assert not has_study_prior(table)


def planned(study):
    """Plan a study whose inputs are not there."""
    workspace = Workspace(study.workspace)
    memory = workspace.memory()
    return Plan(study, workspace, memory, Roster(study.run, memory))


def test_how_much_is_drawn_is_the_configs_else_the_detectors(tmp_path):
    text = (
        SHORT
        + """
[[detector]]
kind = "clip_dissect"
name = "sorting"
similarity = "rank_reorder"
[[detector]]
kind = "network_dissection"
tau = "fdr:0.1"
"""
    )
    for added, expected in (
        ("", [(100, 100, 0), (10, 20, 0), (20, 100, 0)]),
        ("[statistics]\npermutations = 7\nresamples = 0\nseed = 4\n", [(7, 0, 4)] * 3),
        ("[statistics]\nresamples = 3\n", [(100, 3, 0), (10, 3, 0), (20, 3, 0)]),
    ):
        study = read(tmp_path, text + added)
        plan = planned(study)
        testings = [plan.testing(table) for table in study.detector]
        assert [(one.permutations, one.resamples, one.seed) for one in testings] == expected
        assert [one.test.rate for one in testings] == [0.05, 0.05, 0.1]


def test_nothing_is_permuted_where_tau_is_no_rate(tmp_path):
    for tau, expected in (("3", (3.0, None)), ('"none"', (None, None))):
        study = read(tmp_path, SHORT + f"tau = {tau}\n[statistics]\npermutations = 9\nseed = 4\n")
        testing = planned(study).testing(study.detector[0])
        assert (testing.permutations, testing.resamples) == (0, 100)
        assert (testing.test.tau, testing.test.rate) == expected


def test_the_seed_is_in_the_recipe_where_something_is_drawn():
    assert recipes.Testing("none", 0, 0, 4).recipe() == {"tau": "none", "permutations": 0, "resamples": 0}
    assert recipes.Testing(2.0, 0, 5, 4).recipe() == {"tau": 2.0, "permutations": 0, "resamples": 5, "seed": 4}
    drawn = recipes.Testing("fdr:0.05", 3, 0, 4)
    assert drawn.recipe() == {"tau": "fdr:0.05", "permutations": 3, "resamples": 0, "seed": 4}
    assert (drawn.draw(9).orders.shape, drawn.draw(9).resamples.shape) == ((3, 9), (0, 9))


def test_statistics_a_baseline_and_a_reference_are_read_and_have_defaults(tmp_path):
    plain = read(tmp_path, SHORT)
    assert plain.statistics == Statistics(permutations=None, resamples=None, seed=0, quality=True)
    assert (plain.run[0].baseline, plain.run[0].baseline_seeds) == ("none", 3)
    assert (plain.report.reference, plain.report.near) == (None, "auto")
    text = changed("[[detector]]", 'baseline = "random-init"\nbaseline_seeds = 5\n[[detector]]')
    drawn = "[statistics]\npermutations = 500\nresamples = 0\nseed = 3\nquality = false\n"
    added = drawn + "[report]\nreference = -2\nnear = 1\n"
    study = read(tmp_path, text + added)
    assert study.statistics == Statistics(permutations=500, resamples=0, seed=3, quality=False)
    assert (study.run[0].baseline, study.run[0].baseline_seeds) == ("random-init", 5)
    assert (study.report.reference, study.report.near) == (-2, 1.0)


# --- unknown keys


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("worksapce = 3\n" + SHORT, "worksapce: unknown key; did you mean workspace?"),
        (changed("path =", "paht ="), "probe.paht: unknown key; did you mean path?"),
        (SHORT + "[concepts]\nfiel = 1\n", "concepts.fiel: unknown key; did you mean file?"),
        (changed("pretrained =", "pretraind ="), "encoder.pretraind: unknown key; did you mean pretrained?"),
        (
            changed("pretrained =", "preprocess = { maen = 1 }, pretrained ="),
            "encoder.preprocess.maen: unknown key; did you mean mean?",
        ),
        (changed("layers =", "layer ="), "run[1].layer: unknown key; did you mean layers?"),
        (
            changed("[[detector]]", "preprocess = { resise = 3 }\n[[detector]]"),
            "run[1].preprocess.resise: unknown key; did you mean resize?",
        ),
        (SHORT + "[activations]\npoling = 1\n", "activations.poling: unknown key; did you mean pooling?"),
        (SHORT + "simlarity = 1\n", "detector[1].simlarity: unknown key; did you mean similarity?"),
        (SHORT + "[statistics]\npermutation = 3\n", "statistics.permutation: unknown key; did you mean permutations?"),
        (SHORT + "[embed]\nancors = []\n", "embed.ancors: unknown key; did you mean anchors?"),
        (SHORT + "[report]\nfigure = []\n", "report.figure: unknown key; did you mean figures?"),
        (SHORT + '[[run]]\n"a.b\\n" = 1\n', "run[2].a.b: unknown key; allowed: name, checkpoints"),
        (SHORT + "[embed]\nqqqq = 1\n", "embed.qqqq: unknown key; allowed: top_k, temperature, anchors, "),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path, text, said):
    assert refused(tmp_path, text)[0].startswith(said)


def test_an_unknown_key_of_features_names_the_nearest_of_its_own(tmp_path):
    text = changed('kind = "open_clip", model = "ViT-B-16", pretrained = "openai"', 'kind = "features", concept = "x"')
    said, hint = refused(tmp_path, text)
    assert said == "encoder.concept: unknown key; did you mean concepts?"
    assert hint == "4 more to mend after it"


def tables_below(table):
    return {item for child in table.__subclasses__() for item in (child, *tables_below(child))}


def test_every_table_is_known_to_the_message_on_unknown_keys():
    assert set(SECTIONS.values()) == tables_below(Section)


# --- wrong values


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "workspace: is missing"),
        (changed("workspace =", "# "), "workspace: is missing"),
        (changed("workspace = ", "workspace = 3 #"), "workspace: must be a path, not 3"),
        (changed("workspace = ", 'workspace = "" #'), "workspace: is empty"),
        (changed('"work"', '"a\\u0000b"'), "workspace: holds a NUL character"),
        (changed("probe = ", "probe = 3 #"), "probe: must be a table, not 3"),
        (
            changed("path =", 'kind = "cifar", path ='),
            "probe.kind: must be 'images', 'broden', 'cifar10' or 'cifar100', ",
        ),
        (changed("encoder = ", "encoder = 3 #"), "encoder: must be a table, not 3"),
        (
            changed('"open_clip"', '"open_clap"'),
            "encoder.kind: must be 'open_clip' or 'features', not 'open_clap'; did you",
        ),
        (changed('kind = "open_clip", ', ""), "encoder.kind: is missing: 'open_clip' or 'features'"),
        (changed('kind = "open_clip"', "kind = 3"), "encoder.kind: must be 'open_clip' or 'features', not "),
        (changed("[[run]]", "[run]"), "run: must be a list of tables: write [[run]]"),
        (
            "run = []\n" + SHORT[: SHORT.index("[[run]]")] + '[[detector]]\nkind = "clip_dissect"',
            "run: must be a list of at",
        ),
        (
            "run = [3]\n" + SHORT[: SHORT.index("[[run]]")] + '[[detector]]\nkind = "clip_dissect"',
            "run[1]: must be a table",
        ),
        (changed('"runs/*.pt"', "3"), "run[1].checkpoints: must be a path or a list, not 3"),
        (changed('"runs/*.pt"', '["a", 3]'), "run[1].checkpoints[2]: must be a path, not 3"),
        (
            changed('"standard"', '"a/b"'),
            "run[1].name: must be made of letters, digits and . _ + = - after a letter or digit",
        ),
        (changed('"standard"', f'"{"x" * 101}"'), "run[1].name: must be at most 100 characters"),
        (changed('["layer2"]', '"layer2"'), "run[1].layers: must be a list, not 'layer2'"),
        (changed('["layer2"]', "[]"), "run[1].layers: must be a list of at least 1"),
        (changed('["layer2"]', "[3]"), "run[1].layers[1]: must be a text, not 3"),
        (
            changed("layers", "steps = [0, 9223372036854775808]\nlayers"),
            "run[1].steps[2]: must be less than 9223372036854775808",
        ),
        (changed("layers", "steps = [1, true]\nlayers"), "run[1].steps[2]: must be a whole number, not True"),
        (
            changed("layers", "preprocess = { resize = '3' }\nlayers"),
            "run[1].preprocess.resize: must be a whole number",
        ),
        (changed("layers", "preprocess = { crop = 0 }\nlayers"), "run[1].preprocess.crop: must be at least 1, not 0"),
        (
            changed("layers", "preprocess = { mean = [1] }\nlayers"),
            "run[1].preprocess.mean: must be a list of at least 3",
        ),
        (changed("layers", "preprocess = { std = [1, 1, 0] }\nlayers"), "run[1].preprocess: std must be positive"),
        (
            changed("layers", "preprocess = { resize = 32, crop = 64 }\nlayers"),
            "run[1].preprocess: a crop of 64 does not fit into a shorter side of 32",
        ),
        (
            changed("layers", "model_args = { x = nan }\nlayers"),
            "run[1]: model_args must be plain numbers, texts, lists",
        ),
        (
            changed("layers", "model_args = { x = 2020-01-01 }\nlayers"),
            "run[1]: model_args must be plain numbers, texts",
        ),
        (changed("[[detector]]", "[detector]"), "detector: must be a list of tables: write [[detector]]"),
        (changed('kind = "clip_dissect"', ""), "detector[1].kind: is missing"),
        (changed('kind = "clip_dissect"', "kind = 3"), "detector[1].kind: must be a text, not 3"),
        (SHORT + 'a = "foo"\n', "detector[1].a: must be a number or 'auto', not 'foo'"),
        (SHORT + "a = true\n", "detector[1].a: must be a number or 'auto', not True"),
        (SHORT + "a = [1]\n", "detector[1].a: must be a number or 'auto'"),
        (SHORT + "a = -1\n", "detector[1]: a must be positive"),
        (SHORT + "tau = inf\n", "detector[1].tau: must be a finite number or a text, not inf"),
        (SHORT + "p_end = 1\n", "detector[1].p_end: must be less than 1, not 1"),
        (SHORT + "top_k = 2.5\n", "detector[1].top_k: must be a whole number, not 2.5"),
        (SHORT + 'similarity = "wpm"\n', "detector[1].similarity: must be 'top_down', 'soft_wpmi', 'wpmi', 'ran"),
        (SHORT + "power = 0\n", "detector[1].power: must be more than 0, not 0"),
        (SHORT + "power = 21\n", "detector[1].power: must be at most 20, not 21"),
        (SHORT + "[statistics]\npermutations = 0\n", "statistics.permutations: must be at least 1, not 0"),
        (SHORT + "[statistics]\npermutations = 10001\n", "statistics.permutations: must be at most 10000, not 10001"),
        (SHORT + "[statistics]\nresamples = -1\n", "statistics.resamples: must be at least 0, not -1"),
        (SHORT + "[statistics]\nresamples = 2.5\n", "statistics.resamples: must be a whole number, not 2.5"),
        (SHORT + "[statistics]\nseed = -1\n", "statistics.seed: must be at least 0, not -1"),
        (SHORT + "[statistics]\nseed = 4294967296\n", "statistics.seed: must be less than 4294967296, not 4294967296"),
        (changed("layers", 'baseline = "random"\nlayers'), "run[1].baseline: must be 'none' or 'random-init', not 'ra"),
        (changed("layers", "baseline_seeds = 0\nlayers"), "run[1].baseline_seeds: must be at least 1, not 0"),
        (changed("layers", "baseline_seeds = 101\nlayers"), "run[1].baseline_seeds: must be at most 100, not 101"),
        (SHORT + "[report]\nreference = 1.5\n", "report.reference: must be a whole number, not 1.5"),
        (SHORT + "[report]\nnear = 2\n", "report.near: must be "),
        (
            SHORT + '[concepts]\nprompt = "a photo"\n',
            "concepts.prompt: must be a text with {} where the word goes, not 'a photo'",
        ),
        (SHORT + '[embed]\nanchors = ["a", "a"]\n', "embed: anchors: a word stands twice"),
        (SHORT + "[embed]\nmin_dist = 2\n", "embed.min_dist: must be at most 1, not 2"),
        (SHORT + "[embed]\nseed = 4294967296\n", "embed.seed: must be less than 4294967296, not 4294967296"),
        (SHORT + '[report]\nfigures = ["plan"]\n', "report.figures[1]: must be 'plane', 'evolution', 'categories', "),
        (SHORT + "[report]\nformats = []\n", "report.formats: must be a list of at least 1"),
        (changed("path =", 'on_error = "ignore", path ='), "probe.on_error: must be 'stop' or 'skip', not 'ignore'"),
        (changed("pretrained =", "download = 1, pretrained ="), "encoder.download: must be true or false, not 1"),
        (SHORT + SHORT[SHORT.index("[[run]]") : SHORT.index("[[det")], "two [[run]] tables share the name standard"),
        (SHORT + '[[detector]]\nkind = "clip_dissect"\n', "two [[detector]] tables share the name clip_dissect"),
    ],
)
def test_a_wrong_value_is_said_in_one_line(tmp_path, text, said):
    assert refused(tmp_path, text)[0].startswith(said)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (SHORT + 'a = "foo"\n', 0),
        (SHORT + 'a = "foo"\ntau = []\n', 1),
        (changed('"runs/*.pt"', "3") + 'a = "foo"\n[embed]\ntop_k = 0\n', 2),
        (changed('"runs/*.pt"', '["a", 3]'), 0),
        ("", 4),
    ],
)
def test_the_hint_counts_the_further_mistakes_and_not_their_alternatives(tmp_path, text, count):
    expected = f"{count} more to mend after it" if count else "`cmon schema` describes every key"
    assert refused(tmp_path, text)[1] == expected


def test_an_error_of_any_length_stays_one_line(tmp_path):
    said, _ = refused(tmp_path, changed('"standard"', '"' + "é\\n" * 500 + '"'))
    assert len(said) < 400


def test_every_phrase_of_the_messages_is_of_an_error_that_pydantic_has():
    from pydantic_core.core_schema import ErrorType

    assert set(EXPECTED) <= set(get_args(ErrorType))


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"a = \n", "is not TOML"), (b"\xff\xfe", "is not UTF-8 text"), (b"a = " + b"[" * 100_000, "is not TOML")],
)
def test_what_is_no_toml_is_an_error(tmp_path, data, said):
    (tmp_path / "study.toml").write_bytes(data)
    with pytest.raises(ConfigError, match=said):
        read_config(tmp_path / "study.toml")


def test_a_missing_config_a_folder_and_an_enormous_file_are_errors(tmp_path):
    (tmp_path / "large.toml").write_bytes(b"#" * (config.LARGEST_CONFIG_BYTES + 1))
    for path, said in (
        (tmp_path / "nowhere.toml", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "large.toml", "larger than 4 MiB"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_config(path)


# --- paths


def test_relative_paths_start_at_the_configs_folder(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "study.toml").write_text(changed('"work"', '"../work"'))
    monkeypatch.chdir(tmp_path)
    study = read_config(Path("configs/study.toml"))
    assert study.workspace == tmp_path / "work"
    assert study.probe.path == tmp_path / "configs" / "images"


def test_absolute_paths_stay(tmp_path):
    assert read(tmp_path, changed('"work"', '"/scratch/me/../work"')).workspace == Path("/scratch/work")


def test_home_and_the_environment_are_filled_in(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("CMON_DATA", "/data")
    monkeypatch.setenv("CMON_PART", "sub")
    text = changed('"work"', '"~/work"', changed('"images"', '"$CMON_DATA/${CMON_PART}ject"'))
    study = read(tmp_path, text)
    assert study.workspace == Path("/home/me/work")
    assert study.probe.path == Path("/data/subject")


@pytest.mark.parametrize("key", ["workspace", "probe.path", "run[1].checkpoints", "run[1].model", "encoder.pretrained"])
def test_an_unset_variable_is_named_with_its_key(tmp_path, monkeypatch, key):
    monkeypatch.delenv("CMON_UNSET", raising=False)
    values = {
        "workspace": '"work"',
        "probe.path": '"images"',
        "run[1].checkpoints": '"runs/*.pt"',
        "run[1].model": '"torchvision:resnet18"',
        "encoder.pretrained": '"openai"',
    }
    for written in ("$CMON_UNSET/x", "${CMON_UNSET}"):
        said, _ = refused(tmp_path, changed(values[key], f'"{written}"'))
        assert said == f"{key}: the environment variable CMON_UNSET is not set"


def test_a_home_that_nobody_knows_is_an_error(tmp_path):
    said, _ = refused(tmp_path, changed('"work"', '"~nobody-of-this-name/x"'))
    assert said == "workspace: nobody's home is known by ~nobody-of-this-name"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("torchvision:resnet18", "torchvision:resnet18"),
        ("package.module:function", "package.module:function"),
        ("net.py:build", "{folder}/net.py:build"),
        ("/code/net.py:build", "/code/net.py:build"),
        ("$CMON_CODE/net.py:build", "/there/net.py:build"),
    ],
)
def test_a_models_file_is_found_from_the_configs_folder(tmp_path, monkeypatch, model, expected):
    monkeypatch.setenv("CMON_CODE", "/there")
    study = read(tmp_path, changed('"torchvision:resnet18"', f'"{model}"'))
    assert study.run[0].model == expected.format(folder=tmp_path)


def test_an_encoders_folder_is_found_from_the_configs_folder(tmp_path):
    assert read(tmp_path, changed('"ViT-B-16"', '"local-dir:enc"')).encoder.model == f"local-dir:{tmp_path}/enc"


@pytest.mark.parametrize(
    ("value", "is_file"),
    [
        ("openai", False),
        ("laion2b_s34b_b79k", False),
        ("w.pt", True),
        ("sub/weights", True),
        ("there", True),
        ("~/w", True),
    ],
)
def test_a_tag_is_told_from_a_file_of_weights(tmp_path, monkeypatch, value, is_file):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "there").write_bytes(b"")
    found = read(tmp_path, changed('"openai"', f'"{value}"')).encoder.pretrained
    assert found == (os.path.normpath(tmp_path / Path(value).expanduser()) if is_file else value)


def test_several_checkpoints_may_be_listed(tmp_path):
    study = read(tmp_path, changed('"runs/*.pt"', '["a.pt", "/b.pt"]'))
    assert study.run[0].checkpoints == [tmp_path / "a.pt", Path("/b.pt")]


# --- detectors of other packages


def test_another_detector_keeps_its_own_keys_and_is_named_after_its_kind(tmp_path):
    (detector,) = read(tmp_path, changed('kind = "clip_dissect"', 'kind = "mine"\nstrength = 3\n')).detector
    assert isinstance(detector, OtherDetector)
    assert (detector.kind, detector.name, detector.tau) == ("mine", "mine", "none")
    assert detector.model_extra == {"strength": 3}


def test_another_detector_may_have_a_name(tmp_path):
    text = SHORT + '[[detector]]\nkind = "mine"\nname = "second"\ntau = 0.5\n'
    assert [detector.name for detector in read(tmp_path, text).detector] == ["clip_dissect", "second"]


# --- the schema


def test_the_schema_describes_every_key():
    described = schema()
    assert described["type"] == "object"
    assert set(described["properties"]) == set(Study.model_fields)
    assert set(described["required"]) == {"workspace", "probe", "encoder", "run", "detector"}
    assert described["additionalProperties"] is False
    for table in set(SECTIONS.values()) - {Study}:
        definition = described["$defs"][table.__name__]
        assert set(definition["properties"]) == set(table.model_fields)
        assert definition["description"]


def test_the_schema_says_what_tau_and_the_prior_may_be():
    for name, default in (("ClipDissect", "fdr:0.05"), ("NetworkDissection", 0.04), ("OtherDetector", "none")):
        tau = schema()["$defs"][name]["properties"]["tau"]
        assert {one["type"] for one in tau["anyOf"]} == {"number", "string"}
        assert tau["default"] == default
    assert schema()["$defs"]["ClipDissect"]["properties"]["prior"]["enum"] == ["layer", "study"]


def test_every_reference_of_the_schema_leads_somewhere():
    described = schema()

    def references(value):
        if isinstance(value, dict):
            for key, item in value.items():
                if key == "$ref":
                    yield item
                yield from references(item)
        elif isinstance(value, list):
            for item in value:
                yield from references(item)

    found = set(references(described))
    assert len(found) >= 8
    assert found <= {f"#/$defs/{name}" for name in described["$defs"]}


def test_the_figures_are_those_that_are_drawn():
    from cmon.figures import FIGURES as DRAWN

    assert tuple(DRAWN) == FIGURES == get_args(config.FigureName)


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[1].glob("sample_configs/*.toml")), ids=lambda path: path.name
)
def test_every_sample_config_is_valid(path, monkeypatch):
    monkeypatch.setenv("CMON_DATA", "/data")
    assert read_config(path).run


@pytest.mark.parametrize("written", ["$CMON_DATA/probe", "${CMON_DATA}/probe"])
def test_a_relative_variable_at_the_start_of_a_path_means_what_it_means_in_the_shell(tmp_path, monkeypatch, written):
    """As in `CMON_DATA=../data cmon run configs/study.toml`."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("CMON_DATA", "../data")
    monkeypatch.setenv("CMON_PACKAGE", "package")
    info = SimpleNamespace(context={"folder": Path("/configs")})
    assert paths._path(written, info) == tmp_path / "data" / "probe"
    assert paths._path("sub/$CMON_DATA", info) == Path("/configs/data")
    assert paths._source("$CMON_DATA/net.py:build", info) == f"{tmp_path}/data/net.py:build"
    assert paths._source("local-dir:$CMON_DATA", info) == f"local-dir:{tmp_path}/data"
    assert paths._source("$CMON_PACKAGE.nets:build", info) == "package.nets:build"
    assert paths._source("net.py:build", info) == "/configs/net.py:build"
