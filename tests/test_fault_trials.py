"""The script that tries deliberate faults, on few of each kind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmon.concepts import read_concepts
from cmon.config import Features, Preprocess, read_config
from cmon.encoders import feature_concepts, open_encoder
from cmon.errors import CmonError, EncoderError, ProbeError
from cmon.metrics import read_metrics
from cmon.probes import labels, open_labels

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "faults.py"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are killed and counted as Linux does")


def faults(path, *words):
    command = [sys.executable, str(SCRIPT), "--json", str(path / "faults.json"), *words]
    environment = {**os.environ, "TMPDIR": str(path)}
    environment.pop("OMP_NUM_THREADS", None)  # as a user's is: with several threads nothing can be forked
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return ended, json.loads((path / "faults.json").read_text())


def test_a_few_faults_of_every_kind_lose_nothing(tmp_path):
    ended, tallies = faults(tmp_path, "--kills", "1", "--disks", "1", "--flips", "3", "--hostile", "4")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [tally["wrong"] for tally in tallies] == [[]] * len(tallies)
    tried = {tally["fault"]: tally["tried"] for tally in tallies}
    assert tried["kill run"] >= 1
    assert sum(count for fault, count in tried.items() if fault.startswith("damaged")) == 3
    assert sum(count for fault, count in tried.items() if fault.startswith("hostile")) == 4
    for tally in tallies:
        assert tally["skipped"] or sum(tally["came"].values()) == tally["tried"]
        assert f"{tally['fault']} " in ended.stdout
    assert not list(tmp_path.glob("faults-*"))


def pipe(path):
    os.mkfifo(path)
    return path


def huge(path):
    with path.open("wb") as file:
        file.truncate(2**30)
    return path


def features_of(path):
    table = dict.fromkeys(("image_features", "images", "concept_features", "concepts"), path)
    return feature_concepts(Features(kind="features", **table))


READERS = {
    "config": read_config,
    "concepts": read_concepts,
    "metrics": lambda path: read_metrics(path, ["a"], [1]),
    "names of features": features_of,
}


@pytest.mark.parametrize("make", [pipe, huge])
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_pipe_is_not_waited_for_and_a_huge_text_not_read(tmp_path, read, make):
    path = make(tmp_path / "text.csv")
    with pytest.raises(CmonError, match=r"is no file, but a pipe or a device|is larger than [0-9]+ MiB"):
        read(path)


def test_a_number_of_thousands_of_digits_is_no_toml(tmp_path):
    (tmp_path / "study.toml").write_text(f"workspace = {'9' * 10_000}")
    with pytest.raises(CmonError, match="is not TOML: Exceeds the limit"):
        read_config(tmp_path / "study.toml")


HEADERS = ["(" * 9000, "-" * 9000 + "1", "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 4000 + "("]


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header[-20:])
def test_a_header_of_features_that_python_cannot_read_is_one_line(tmp_path, header):
    names = tmp_path / "names.txt"
    names.write_text("dog")
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    (tmp_path / "features.npy").write_bytes(data)
    table = {"image_features": tmp_path / "features.npy", "images": names}
    table |= {"concept_features": tmp_path / "features.npy", "concepts": names}
    with pytest.raises(EncoderError, match=r"features\.npy: is not a readable \.npy: ."):
        open_encoder(Features(kind="features", **table), "cpu")


def broden(folder, size, labels):
    """Write one image with one mask of a size, and of that many labels."""
    (folder / "images").mkdir()
    width, height = size
    row = f"a.png,train,16,16,{height},{width},a_object.png\n"
    (folder / "index.csv").write_text("image,split,ih,iw,sh,sw,object\n" + row)
    names = "".join(f"{number},word{number},object(1),1,1,\n" for number in range(1, labels + 1))
    (folder / "label.csv").write_text("number,name,category,frequency,coverage,syns\n" + names)
    numbers = np.arange(width * height).reshape(height, width) % labels + 1
    channels = [numbers % 256, numbers // 256, 0 * numbers]
    Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)).save(folder / "images" / "a_object.png")
    Image.new("RGB", (16, 16)).save(folder / "images" / "a.png")
    return open_labels(folder)


def test_a_mask_of_too_many_pixels_is_refused_by_its_row(tmp_path):
    broden(tmp_path, (8, 8), 1)
    index = tmp_path / "index.csv"
    index.write_text(index.read_text().replace(",8,8,", ",8000,8000,"))
    with pytest.raises(ProbeError, match="row 2: a mask of 8000x8000 pixels is too large"):
        open_labels(tmp_path)


def test_labels_that_would_fill_the_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(labels, "LARGEST_MASKS_BYTES", 64 * 50)
    found = broden(tmp_path, (8, 8), 60)
    with pytest.raises(ProbeError, match=r"a\.png .*shows 51 labels, more than fit"):
        found.of("a.png", Preprocess())
