"""Imports go one way, each heavy package has one home, and everything public says what it is (DESIGN, section 5)."""

import ast
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1] / "cmon"

GROUND = {
    "__init__",
    "compiled",
    "errors",
    "fingerprint",
    "profiling",
    "signals",
    "threads",
    "torchvision_import",
    "whole",
}
SHARED = {"config", "mistakes", "paths", "records"}
COMPUTING = {
    "checkpoints",
    "concepts",
    "detectors",
    "embedding",
    "encoders",
    "figures",
    "lint",
    "matching",
    "metrics",
    "models",
    "page",
    "probes",
    "projections",
    "recording",
    "statistics",
    "tables",
}
STAGES = {"activations", "dissect", "embed", "estimate", "report", "status", "submit"}

# module or package -> what of cmon it may import; a package may always import itself.
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "torchvision_import": set(),
    "threads": set(),
    "compiled": set(),
    "profiling": set(),
    "signals": set(),
    "whole": set(),
    "fingerprint": {"errors", "whole"},
    "paths": GROUND,
    "mistakes": GROUND,
    "config": GROUND | {"paths", "mistakes"},
    "records": GROUND,
    "h5": GROUND | SHARED,
    "stores": GROUND | SHARED | {"h5"},
    "claims": GROUND,
    "cache": GROUND | SHARED | {"h5"},
    "pixels": GROUND | SHARED | {"cache"},
    "masks": GROUND | SHARED | {"cache", "pixels"},
    "workspace": GROUND | SHARED | {"h5", "stores"},
    **dict.fromkeys(COMPUTING, GROUND | SHARED),
    # Thresholds and ranks are the arithmetic of detectors, and what a figure counts is counted there too.
    "detectors": GROUND | SHARED | {"statistics"},
    "figures": GROUND | SHARED | {"statistics"},
    "tables": GROUND | SHARED | {"statistics"},
    # What is drawn at random is counted while maps are at hand, since none is kept.
    "recording": GROUND | SHARED | {"statistics"},
    "work": GROUND | SHARED,
    "console": GROUND | {"work", "recipes"},
    "testing": GROUND | SHARED | {"detectors", "statistics"},
    "recipes": GROUND | SHARED | COMPUTING | {"h5", "stores", "manifest", "workspace", "testing"},
    **{
        name: GROUND
        | SHARED
        | COMPUTING
        | {"h5", "stores", "cache", "claims", "pixels", "masks", "workspace", "recipes", "work"}
        for name in STAGES - {"estimate", "status", "submit"}
    },
    # It times a sample of what the stages do, and counts what they have yet to make.
    "estimate": GROUND | SHARED | COMPUTING | {"pixels", "workspace", "recipes", "work", "activations", "status"},
    "status": GROUND | SHARED | {"stores", "workspace", "recipes", "work", "report"},
    # What can be recorded of a run's images is told by showing some to its model.
    "hookable": GROUND | SHARED | {"activations", "models", "probes", "recipes", "recording"},
    "inspection": GROUND | SHARED | {"checkpoints", "models"},
    "slurm": GROUND,
    "manifest": GROUND | SHARED | {"h5"},
    "submit": GROUND | SHARED | {"h5", "manifest", "slurm", "recipes", "work", "status"},
    "arguments": GROUND | SHARED | {"manifest", "recipes", "work"},
    "pipeline": GROUND | {"console", "recipes", "work", *STAGES},
    "cli": GROUND
    | {"arguments", "config", "console", "hookable", "inspection", "models", "pipeline", "slurm", "work", *STAGES},
    "__main__": {"cli"},
}
# What is left to do is found from what another stage knows, and what it takes from doing some of it.
READ_OF_ANOTHER = {("status", "report"), ("submit", "status"), ("estimate", "status"), ("estimate", "activations")}
# heavy package -> the modules that may import it
HOMES = {
    "h5py": {"h5", "stores"},
    "open_clip": {"encoders"},
    "huggingface_hub": {"encoders", "models"},
    "umap": {"projections"},
    "sklearn": {"projections"},
    "matplotlib": {"figures"},
    "typer": {"arguments", "cli"},
    "rich": {"console"},
    "jinja2": {"page"},
    "timm": {"models"},
    "safetensors": {"checkpoints", "encoders"},
    "numba": {"compiled"},
    "threadpoolctl": {"threads"},
}
# What may be imported as a module is, since it is small or since all of cmon needs it.
AT_ONCE = {"numpy", "scipy", "PIL", "pydantic", "h5py", "typer", "matplotlib"}


class Import(NamedTuple):
    """One import of one module, by its full dotted name; `late` where it stands in a function."""

    module: str
    line: int
    late: bool
    for_types: bool


FILES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts): ast.parse(file.read_text(encoding="utf-8"))
    for file in sorted(ROOT.rglob("*.py"))
}


def imports_of(tree):
    """List all imports of a file, with those in functions and under TYPE_CHECKING."""
    found = []

    def visit(node, late, for_types):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for_types = True
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            late = True
        if isinstance(node, ast.Import):
            found.extend(Import(name.name, node.lineno, late, for_types) for name in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "cmon":
                known = [name.name if place_exists(name.name) else "__init__" for name in node.names]
                found.extend(Import(f"cmon.{name}", node.lineno, late, for_types) for name in known)
            else:
                found.append(Import(str(node.module), node.lineno, late, for_types))
        for child in ast.iter_child_nodes(node):
            visit(child, late, for_types)

    visit(tree, False, False)
    return found


def place_exists(name):
    return (ROOT / f"{name}.py").exists() or (ROOT / name).is_dir()


def place(file):
    """Return the module or package of cmon that a file belongs to."""
    return file.split(".")[0]


def inner(found):
    """Return the part of cmon that an import is of; None where it is of something else."""
    package, _, rest = found.module.partition(".")
    return (rest.split(".")[0] or "__init__") if package == "cmon" else None


ALL = [(file, found) for file, tree in FILES.items() for found in imports_of(tree)]


def test_the_imports_of_a_file_are_found():
    code = (
        "import a.b\nfrom cmon import errors, __version__\nfrom cmon.h5 import x\nif TYPE_CHECKING:\n    import t\n"
        "def f():\n    import g\nclass C:\n    import k\n    def m(self):\n        from cmon.report import r\n"
    )
    assert [tuple(found) for found in imports_of(ast.parse(code))] == [
        ("a.b", 1, False, False),
        ("cmon.errors", 2, False, False),
        ("cmon.__init__", 2, False, False),
        ("cmon.h5", 3, False, False),
        ("t", 5, False, True),
        ("g", 7, True, False),
        ("k", 9, False, False),
        ("cmon.report", 11, True, False),
    ]


def test_every_module_has_its_place():
    assert {place(file) for file in FILES} == set(MAY_IMPORT)


def test_imports_go_one_way():
    wrong = [
        f"{file}:{found.line} imports {found.module}"
        for file, found in ALL
        if inner(found) is not None and inner(found) not in MAY_IMPORT[place(file)] | {place(file)}
    ]
    assert wrong == []


def test_the_allowed_directions_have_no_circle():
    left = {name: allowed - {name} for name, allowed in MAY_IMPORT.items()}
    while left:
        free = [name for name, allowed in left.items() if not allowed & left.keys()]
        assert free, f"a circle among {sorted(left)}"
        for name in free:
            del left[name]


def test_stages_never_import_each_other_but_to_tell_what_is_left_to_do():
    pairs = {(place(file), inner(found)) for file, found in ALL}
    assert {pair for pair in pairs if set(pair) <= STAGES and len(set(pair)) == 2} <= READ_OF_ANOTHER


def test_the_command_line_imports_stages_in_its_commands_only():
    imported = [found for file, found in ALL if place(file) == "cli"]
    at_once = [found for found in imported if not found.late and not found.for_types]
    assert {inner(found) for found in at_once} - {None} <= GROUND | {"arguments", "cli", "console"}
    assert {inner(found) for found in imported} >= STAGES


@pytest.mark.parametrize("package", HOMES)
def test_each_heavy_package_has_one_home(package):
    users = {place(file) for file, found in ALL if found.module.split(".")[0] == package}
    assert users
    assert users <= HOMES[package]


@pytest.mark.parametrize("package", ["torch", "torchvision"])
def test_torch_is_imported_where_it_is_used_and_never_at_once(package):
    users = [(file, found) for file, found in ALL if found.module.split(".")[0] == package]
    assert [f"{file}:{found.line}" for file, found in users if not found.late and not found.for_types] == []
    assert users or package == "torchvision"


def test_nothing_large_is_imported_at_once():
    import sys

    outside = {
        (place(file), found.module.split(".")[0])
        for file, found in ALL
        if inner(found) is None and not found.late and not found.for_types
    }
    large = {pair for pair in outside if pair[1] not in sys.stdlib_module_names | AT_ONCE}
    assert large == set()


def public_parts(tree):
    """List (name, node) of all public functions and classes, and the public functions of public classes."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            found.append((node.name, node))
            if isinstance(node, ast.ClassDef):
                methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
                found += [(f"{node.name}.{item.name}", item) for item in methods if not item.name.startswith("_")]
    return found


@pytest.mark.parametrize("file", FILES)
def test_everything_public_says_what_it_is(file):
    parts = [(file, FILES[file]), *public_parts(FILES[file])]
    assert [name for name, node in parts if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("file", [name for name in FILES if name not in ("__init__", "__main__")])
def test_a_modules_first_line_is_a_sentence_of_one_line(file):
    first, *rest = (ast.get_docstring(FILES[file]) or "").splitlines()
    assert first.endswith((".", ":"))
    assert not rest or rest[0] == ""


def test_functions_and_modules_are_short():
    lengths = {
        file: max((node.end_lineno or 0) for node in ast.walk(tree) if hasattr(node, "end_lineno"))
        for file, tree in FILES.items()
        if tree.body
    }
    long = [f"{file} has {length} lines" for file, length in lengths.items() if length > 300]
    long += [
        f"{file}.{node.name} has {node.end_lineno - node.lineno + 1} lines"
        for file, tree in FILES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > 60
    ]
    assert long == []


def test_only_the_command_line_prints_or_exits():
    wrong = []
    for file, tree in FILES.items():
        if place(file) in ("cli", "console", "__main__"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "print",
                "exit",
                "quit",
                "sys.exit",
                "os._exit",
            ):
                wrong.append(f"{file}:{node.lineno}")
    assert wrong == []


def test_nothing_is_caught_unseen():
    wrong = []
    for file, tree in FILES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler) and (
                node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            ):
                wrong.append(f"{file}:{node.lineno}")
    assert wrong == []


def test_the_figures_of_the_config_are_those_that_are_drawn():
    from cmon import config, figures

    assert tuple(figures.FIGURES) == config.FIGURES
