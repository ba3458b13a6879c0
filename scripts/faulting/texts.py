"""Tables, lists, arrays, configs and names that nobody would write by accident, and some that somebody might."""

import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

from faulting.cases import Case, edits
from faulting.study import IMAGES, Study
from faulting.tensors import GIB

RUN = ("run",)
HEAD = "image,split,ih,iw,sh,sw,color,object,part,material,scene\n"


def file(name: str, data: Callable[[], bytes]) -> Callable[[Study], None]:
    """Return what puts bytes into a file of the study."""
    return lambda study: (study.folder / name).write_bytes(data())


def npy(head: bytes | str, data: bytes = b"", version: int = 1) -> bytes:
    text = head.encode() if isinstance(head, str) else head
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + data


def described(shape: str, descr: str = "'<f4'", fortran: bool = False) -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


NUMBERS = struct.pack(f"<{IMAGES * 16}f", *(0.01 * (k * k % 97 + 1) for k in range(IMAGES * 16)))
ARRAYS: dict[str, Callable[[], bytes]] = {
    "of 10^12 rows": lambda: npy(described("(1000000000000, 16)"), NUMBERS),
    "of 10^8 rows": lambda: npy(described("(100000000, 16)"), NUMBERS),
    "of 2^80 rows": lambda: npy(described(f"({2**80}, 16)"), NUMBERS),
    "of sizes that multiply to a negative": lambda: npy(described(f"({2**32}, {2**31})"), NUMBERS),
    "of a negative size": lambda: npy(described("(-24, 16)"), NUMBERS),
    "of a float as its size": lambda: npy(described("(24.0, 16)"), NUMBERS),
    "of no size": lambda: npy(described("()"), NUMBERS),
    "of 100 dimensions": lambda: npy(described("(1," * 100 + ")"), NUMBERS),
    "of no rows": lambda: npy(described("(0, 16)")),
    "of no columns": lambda: npy(described("(24, 0)")),
    "of objects": lambda: npy(described("(24, 16)", "'|O'"), NUMBERS),
    "of records": lambda: npy(described("(24, 16)", "[('a', '<f4')]"), NUMBERS),
    "of texts": lambda: npy(described("(24, 1)", "'<U4'"), NUMBERS),
    "of texts of 2^31": lambda: npy(described("(24, 1)", "'<U2147483647'"), NUMBERS),
    "of types without end": lambda: npy(described("(24, 16)", "[" * 900 + "]" * 900), NUMBERS),
    "of minuses without end": lambda: npy("-" * 9000 + "1", NUMBERS),
    "of brackets without end": lambda: npy("(" * 9000, NUMBERS),
    "of code": lambda: npy("__import__('os').system('touch canary')\n", NUMBERS),
    "of a head of 2^32 bytes": lambda: b"\x93NUMPY\x02\x00\xff\xff\xff\xff{" + NUMBERS,
    "of version 9": lambda: npy(described("(24, 16)"), NUMBERS, 9),
    "of NUL": lambda: npy(b"\0" * 100, NUMBERS),
    "of NaN": lambda: npy(described("(24, 16)"), struct.pack("<f", float("nan")) * IMAGES * 16),
    "of infinity": lambda: npy(described("(24, 16)"), struct.pack("<f", float("inf")) * IMAGES * 16),
    "of the largest numbers": lambda: npy(described("(24, 16)", "'<f8'"), struct.pack("<d", 1.7e308) * IMAGES * 16),
}
RIGHT_ARRAYS: dict[str, Callable[[], bytes]] = {
    "of columns first": lambda: npy(described("(24, 16)", fortran=True), NUMBERS),
    "of numbers from the other end": lambda: npy(described("(24, 16)", "'>f4'"), bytes(reversed(NUMBERS))),
    "of version 2": lambda: npy(described("(24, 16)"), NUMBERS, 2),
    "of a longer file": lambda: npy(described("(24, 16)"), NUMBERS + bytes(1000)),
}

TABLES: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "a NUL": lambda: b"\0",
    "NULs among words": lambda: b"concept,category\nd\0g,x\n",
    "bytes of no text": lambda: b"concept\n\xff\xfe\xfd\n",
    "UTF-16": lambda: "concept,category\ndog,\n".encode("utf-16"),
    "a field of 1 MiB": lambda: b"concept\n" + b"a" * 2**20 + b"\n",
    "a quote without end": lambda: b'concept\n"' + b"dog\n" * 100_000,
    "10^6 columns": lambda: b"concept" + b",a" * 10**6 + b"\ndog\n",
    "semicolons": lambda: b"concept;category\ndog;animal\n",
    "200 MiB of lines": lambda: b"concept\n" + b"\n".join(b"w%d" % k for k in range(25_000_000)),
    "two columns of one name": lambda: b"concept,concept\ndog,cat\n",
    "formulas": lambda: b"concept\n=cmd|'/c calc'!A1\n",
    "escapes": lambda: b"concept\n\x1b[2J\x1b[31mdog\n",
    "only a head": lambda: b"concept,category\n",
    "carriage returns": lambda: b"concept\rdog\rcat\r",
}


def index(old: str, new: str, name: str = "index.csv") -> Callable[[Study], None]:
    """Return what changes every place of a text in a table of the probe."""

    def spoil(study: Study) -> None:
        path = study.folder / "broden" / name
        text = path.read_text()
        assert old in text, old
        path.write_bytes(text.replace(old, new).encode("utf-8", "surrogateescape"))

    return spoil


BRODEN: dict[str, Callable[[Study], Any]] = {
    "sizes of 10^9": index("16,16,8,8", "999999999,999999999,999999999,999999999"),
    "sizes of 10^30": index("16,16,8,8", f"{10**30},16,8,8"),
    "negative sizes": index("16,16,8,8", "-16,16,8,8"),
    "sizes that are NaN": index("16,16,8,8", "nan,inf,8,8"),
    "numbers of other scripts": index("16,16,8,8", "١٦,١٦,٨,٨"),
    "a mask that leads out": index("05_color.png", "../../../../../../etc/hostname"),
    "a mask at a root": index("05_color.png", "/etc/hostname"),
    "an image that leads out": index("05.png", "../../one.png"),
    "100,000 masks in a cell": index("05_color.png", ";".join(["05_color.png"] * 100_000)),
    "a cell of 200,000 letters": index("05_color.png", "a" * 200_000),
    "NUL": index("05.png", "0\0005.png"),
    "quotes": index("05_color.png", '"05_color.png'),
    "a byte order mark": index("image,", "\ufeffimage,"),
    "tabs": index(",", "\t"),
    "a label of 10^30": index("300,wheel", f"{10**30},wheel", "label.csv"),
    "a label of 0": index("300,wheel", "0,wheel", "label.csv"),
    "a count of 10^400": index("part(9)", f"part({10**400})", "label.csv"),
    "a count of 10,000 digits": index("part(9)", f"part({'9' * 10_000})", "label.csv"),
    "10,000 categories": index("part(9)", ";".join(f"c{k}(1)" for k in range(10_000)), "label.csv"),
    "a word of a megabyte": index("dog", "d" * 100_000, "label.csv"),
}


def large_masks(study: Study) -> None:
    """Say that a mask has 180 million pixels, and give it all of them."""
    from faulting.probes import png

    path = study.folder / "broden" / "index.csv"
    rows = path.read_text().splitlines(keepends=True)
    path.write_text(
        "".join(row.replace("16,16,8,8", "16,16,13300,13300") if row.startswith("05") else row for row in rows)
    )
    (study.folder / "broden" / "images" / "05_color.png").write_bytes(png(13_300, 13_300, kind=2, bits=8))


def large_table(study: Study) -> None:
    """Put a table of 400 MiB into a zip of a few hundred KiB."""
    import zipfile

    folder = study.folder / "broden"
    with zipfile.ZipFile(study.folder / "broden.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*.*")):
            data = path.read_bytes() + (b"\n" * (400 * 2**20) if path.name == "index.csv" else b"")
            archive.writestr(path.relative_to(folder).as_posix(), data)
    study.edit('path = "broden"', 'path = "broden.zip"')


CONFIGS: dict[str, tuple[str, str]] = {
    "a run that leads out": ('name = "plain"', 'name = "../../out"'),
    "a run at a root": ('name = "plain"', 'name = "/tmp/out"'),
    "a run of dots": ('name = "plain"', 'name = ".."'),
    "a run with a NUL": ('name = "plain"', 'name = "a\\u0000b"'),
    "a run of 10,000 letters": ('name = "plain"', f'name = "{"a" * 10_000}"'),
    "a run called as a baseline": ('name = "other"', 'name = "plain~baseline"'),
    "a detector that leads out": ('kind = "clip_dissect"', 'kind = "clip_dissect"\nname = "../../out"'),
    "a detector of 300 letters": ('kind = "clip_dissect"', f'kind = "clip_dissect"\nname = "{"a" * 300}"'),
    "a comparison that leads out": ("dpi = 50", 'dpi = 50\ncompare = { "../../out" = ["plain", "other"] }'),
    "a workspace at the root": ('workspace = "work"', 'workspace = "/proc/faults"'),
    "a workspace on a device": ('workspace = "work"', 'workspace = "/dev/null"'),
    "a workspace below a file": ('workspace = "work"', 'workspace = "net.py/work"'),
    "masks that lead out": ('start = "same"', 'start = "same"\nmasks = "../../{checkpoint}.pt"'),
    "layers of 10^5 names": ('layers = ["first", "second"]', f"layers = {['x' + str(k) for k in range(10**5)]}"),
    "a glob without end": ('layers = ["first", "second"]', f'layers = ["{"*a" * 200}b"]'),
    "checkpoints by a glob without end": ('checkpoints = "runs/plain/*.pt"', f'checkpoints = "runs/{"*" * 2000}/*.pt"'),
    "a key without end": ('start = "same"', f'start = "same"\nstate_dict_key = "{"a." * 10_000}"'),
    "tables in tables": ('start = "same"', 'start = "same"\nmodel_args = ' + "{a = " * 300 + "1" + "}" * 300),
    "keys in keys": ("[encoder]", "[a" + ".a" * 5000 + "]\n[encoder]"),
    "10^5 runs": ("[activations]", "\n".join(f'[[run]]\nname = "r{k}"' for k in range(10**5)) + "\n[activations]"),
    "a number of 10,000 digits": ("top_k = 3", f"top_k = {'9' * 10_000}"),
    "a number that is none": ("tau = 0.05", "tau = nan"),
    "a prompt of a megabyte": ("[encoder]", f'[concepts]\nprompt = "{"{}" * 500_000}"\n[encoder]'),
    "an anchor of lines": ('anchors = ["dog", "sky"]', 'anchors = ["dog\\nerror: none\\u001b[31m"]'),
    "an image of 10^9 dots an inch": ("dpi = 50", "dpi = 1000000000"),
    "a batch of 10^18": ("quantile = 0.05", f"quantile = 0.05\nbatch_size = {10**18}"),
    "a seed beyond 32 bits": ("permutations = 5", f"permutations = 5\nseed = {2**40}"),
}
NAMES = (
    "with space",
    'it\'s "quoted"',
    "ключ-中文-🙂",
    "-dash",
    "--force",
    "a.b.c",
    "x" * 190,
    "$HOME",
    "a;b|c&d",
    "%s{}",
    "~",
)
BAD_NAMES = ("*", "new\nline", "x" * 201, os.fsdecode(b"\xff\xfe"), "escape\x1b[31m", "..", ".", "tab\t")


def renamed(name: str) -> Callable[[Study], None]:
    """Return what gives a checkpoint an odd name, and has the config name it as it is."""

    def spoil(study: Study) -> None:
        target = study.checkpoint(name)
        study.checkpoint().rename(target)
        if name.startswith("."):
            study.edit('"runs/plain/*.pt"', f'["runs/plain/epoch_1.pt", "runs/plain/{name}.pt"]')
        study.edit('metrics = "metrics.csv"\n', "steps = [1, 2]\n")

    return spoil


def circles(study: Study) -> None:
    """Let two links lead back to their own folder: of paths through both there is no end."""
    for name in ("again", "once_more"):
        (study.folder / "runs" / "plain" / name).symlink_to(".")
    study.edit('"runs/plain/*.pt"', '"runs/plain/**/*.pt"')


def cases() -> Iterator[Case]:
    """Yield texts, arrays, configs and names."""
    for name, data in ARRAYS.items():
        yield Case(f"array: {name}", file("image_features.npy", data))
    for name, data in RIGHT_ARRAYS.items():
        yield Case(f"array: {name}", file("image_features.npy", data), works=True)
    for name, data in TABLES.items():
        yield Case(
            f"metrics: {name}", file("metrics.csv", lambda data=data: data().replace(b"concept", b"checkpoint")), RUN
        )
        yield Case(f"concepts: {name}", with_words("csv", data))
        yield Case(f"words: {name}", with_words("txt", data))
        yield Case(f"names of features: {name}", file("concepts.txt", data))
    for name, spoil in BRODEN.items():
        yield Case(f"broden: {name}", spoil)
    yield Case("broden: a mask of 177 million pixels", large_masks)
    yield Case("broden: a table of 400 MiB in a zip", large_table)
    yield from edits("config", CONFIGS)
    yield Case("config: 4 MiB of brackets", lambda study: study.config.write_text("a = " + "[" * (4 * 2**20 - 10)))
    yield Case(
        "config: 3 MiB of keys", lambda study: study.config.write_text("\n".join(f"k{k} = 1" for k in range(300_000)))
    )
    yield Case("config: 1 GiB", lambda study: os.truncate(study.config, GIB))
    for name in NAMES:
        yield Case(f"name: {name[:20]!r}, {len(name)} letters", renamed(name), RUN, works=True)
    for name in BAD_NAMES:
        yield Case(f"name: {name[:20]!r}, {len(name)} letters", renamed(name), RUN)
    yield Case("name: of an image", moved, RUN, works=True)
    yield Case("name: of links that lead back", circles, works=True)


def with_words(ending: str, data: Callable[[], bytes]) -> Callable[[Study], None]:
    """Return what makes a file the study's concepts."""

    def spoil(study: Study) -> None:
        (study.folder / f"words.{ending}").write_bytes(data())
        study.edit("[encoder]", f'[concepts]\nfile = "words.{ending}"\n\n[encoder]')

    return spoil


def moved(study: Study) -> None:
    """Give an image of the probe an odd name, and its features too."""
    odd = "-ключ'\"$(touch canary);\u202e.png"
    for path in (study.folder / "images.txt", study.folder / "broden" / "index.csv"):
        text = path.read_text()
        path.write_text(
            text.replace("05.png", f'"{odd.replace(chr(34), chr(34) * 2)}"' if path.suffix == ".csv" else odd)
        )
    images = study.folder / "broden" / "images"
    (images / "05.png").rename(images / odd)
