import re
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
