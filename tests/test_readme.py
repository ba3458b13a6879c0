import importlib
import re
import shlex
from pathlib import Path

import pytest

from cmon.config import read_config

ROOT = Path(__file__).resolve().parents[1]


def test_the_readmes_example_is_a_config(tmp_path):
    example = re.search(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "study.toml").write_text(example[1], encoding="utf-8")
    study = read_config(tmp_path / "study.toml")
    assert study.run[0].name == "standard"
    assert study.encoder.pretrained == str(tmp_path / "weights" / "ViT-B-16.safetensors")


def test_the_readmes_table_of_checkpoints_is_the_registrys():
    from update_readme import updated

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == updated(text), "run scripts/update_readme.py"


@pytest.mark.parametrize("path", sorted((ROOT / "sample_configs").rglob("*.toml")), ids=lambda path: path.stem)
def test_a_sample_config_is_a_config(path, monkeypatch):
    for name in ("CMON_DATA", "DATA", "RUNS"):
        monkeypatch.setenv(name, "/data")
    assert read_config(path).run


def test_the_readme_names_no_file_that_is_not_there():
    named = re.findall(
        r"\b(?:scripts|sample_configs|cmon)/[\w./]+\.\w+", (ROOT / "README.md").read_text(encoding="utf-8")
    )
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", sorted((ROOT / "sample_configs" / "paper").glob("*.toml")), ids=lambda path: path.stem)
def test_the_commands_of_a_paper_config_train_what_it_reads(path, monkeypatch):
    comments = "\n".join(line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#"))
    commands = [shlex.split(line) for line in comments.replace("\\\n", " ").splitlines() if "python scripts/" in line]
    if not commands:
        assert "the training of standard_places365.toml" in comments
        return
    for name in ("DATA", "RUNS"):
        monkeypatch.setenv(name, f"/{name}")
    ((_, script, *words),) = commands
    arguments = importlib.import_module(Path(script).stem).parser().parse_args(words)
    study = read_config(path)
    for run in study.run:
        assert str(run.checkpoints).startswith(str(arguments.out).replace("$RUNS", "/RUNS"))
        assert Path(run.model).name == Path(arguments.model).name
        assert run.model_args == arguments.model_args
        assert (run.preprocess.mean, run.preprocess.std) == (arguments.mean, arguments.std)
        assert f"cmon run {path.relative_to(ROOT)}" in comments
