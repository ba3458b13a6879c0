import subprocess
import sys
import types

import pytest
import torch

from cmon import torchvision_import
from cmon.torchvision_import import OPERATORS, torchvision


def test_torchvision_is_imported_with_its_models():
    module = torchvision()
    assert module.__name__ == "torchvision"
    assert module.models.get_model("resnet18", weights=None, num_classes=3).fc.out_features == 3


def test_a_second_import_gives_the_same_module():
    assert torchvision() is torchvision()


def test_operators_exist_afterwards():
    torchvision()
    assert all(hasattr(torch.ops.torchvision, name) for name in OPERATORS)


def test_nothing_is_declared_where_the_wheel_matches(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("declared an operator that exists")

    monkeypatch.setattr(torchvision_import, "_load_compiled_part", lambda: None)
    monkeypatch.setattr(torch.ops, "torchvision", types.SimpleNamespace(nms=len, qnms=len), raising=False)
    monkeypatch.setattr(torch.library, "Library", refuse)
    assert torchvision_import.declare_missing.__wrapped__() is None


def test_only_what_is_missing_is_declared(monkeypatch):
    declared = []
    library = types.SimpleNamespace(define=declared.append)
    monkeypatch.setattr(torchvision_import, "_load_compiled_part", lambda: None)
    monkeypatch.setattr(torch.ops, "torchvision", types.SimpleNamespace(nms=len), raising=False)
    monkeypatch.setattr(torch.library, "Library", lambda namespace, kind: library)
    assert torchvision_import.declare_missing.__wrapped__() is library
    assert declared == ["qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"]


@pytest.mark.parametrize("module", ["torchvision_import", "checkpoints", "models"])
def test_importing_the_module_imports_neither_torch_nor_torchvision(module):
    heavy = "{'torch', 'torchvision', 'timm', 'safetensors', 'numpy'}"
    program = f"import sys, cmon.{module}; print(sorted({heavy} & set(sys.modules)))"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"
