"""Checkpoints that are damaged, or claim what cannot be."""

import io
import json
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from faulting.cases import Case
from faulting.pickles import Calls
from faulting.study import Study, weights

GIB = 2**30


def saved(form: str) -> bytes:
    """Return a whole checkpoint of a form: zip, legacy or safetensors."""
    import safetensors.torch
    import torch

    stream = io.BytesIO()
    if form == "safetensors":
        return bytes(safetensors.torch.save(weights(2)))
    torch.save({"state_dict": weights(2)}, stream, _use_new_zipfile_serialization=form == "zip")
    return stream.getvalue()


def damaged(form: str, cut: float | None, seed: int) -> Callable[[Study], None]:
    """Return what puts a cut checkpoint, or one with flipped bits, into a study."""

    def spoil(study: Study) -> None:
        draws, data = random.Random(seed), bytearray(saved(form))
        if cut is not None:
            del data[int(cut * len(data)) :]
        else:
            for _ in range(1 + seed % 3):
                # Most of a file is weights; what is hostile lies where its structure is.
                data[draws.choice((draws.randrange(len(data)), draws.randrange(min(600, len(data)))))] ^= (
                    1 << draws.randrange(8)
                )
        put(study, bytes(data), form)

    return spoil


def put(study: Study, data: bytes, form: str = "zip") -> None:
    """Put the bytes of a checkpoint into the place of one, under the form's ending."""
    path = study.checkpoint()
    if form == "safetensors":
        path.unlink()
        path = path.with_suffix(".safetensors")
        study.edit('checkpoints = "runs/plain/*.pt"', 'checkpoints = "runs/plain"')
    path.write_bytes(data)


def rebuilt(size: Any, stride: Any, offset: int = 0, numbers: int = 4) -> Any:
    """Return what unpickles as a tensor of that geometry over a few numbers."""
    import torch

    storage = torch.zeros(numbers).storage()
    return Calls(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())


GEOMETRIES = {
    "of 10^12 rows": ((10**12, 10), (10, 1)),
    "spread from one number to 4 TB": ((10**6, 10**6), (0, 0)),
    "spread from one number to 3 GiB": ((30_000, 27_000), (0, 0)),
    "of a negative size": ((-5, 3), (3, 1)),
    "of a negative stride": ((2, 2), (-1, 1)),
    "of sizes beyond 64 bits": ((2**62, 2**62), (1, 1)),
    "of 60 dimensions": ((2,) * 60, (1,) * 60),
    "beyond its numbers": ((100, 100), (100, 1)),
    "without a size": ((0, 3), (3, 1)),
    "of a float as its size": ((2.5,), (1,)),
    "of a text as its size": (("2",), (1,)),
}


def geometry(name: str, pruned: bool) -> Callable[[Study], None]:
    def spoil(study: Study) -> None:
        import torch

        odd, held = rebuilt(*GEOMETRIES[name]), weights(2)
        if pruned:
            del held["second.weight"]
            held |= {"second.weight_orig": odd, "second.weight_mask": odd}
        else:
            held["second.weight"] = odd
        torch.save({"state_dict": held}, study.checkpoint())

    return spoil


def content(change: Callable[[dict[str, Any]], Any]) -> Callable[[Study], None]:
    """Return what saves a checkpoint's content after a change of it."""

    def spoil(study: Study) -> None:
        import torch

        whole: dict[str, Any] = {"state_dict": weights(2)}
        torch.save(change(whole) or whole, study.checkpoint())

    return spoil


def deep(whole: dict[str, Any]) -> None:
    """Put lists into one another, as deep as they can still be saved."""
    value: Any = []
    for _ in range(200):
        value = [value]
    whole["extra"] = value


def laughs(whole: dict[str, Any]) -> None:
    value: Any = ["ha"] * 10
    for _ in range(30):
        value = [value] * 10
    whole["extra"] = value


def circle(whole: dict[str, Any]) -> None:
    whole["state_dict"]["self"] = whole


def weight(name: str, make: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    """Return what replaces one weight."""

    def change(whole: dict[str, Any]) -> None:
        whole["state_dict"][name] = make(whole["state_dict"][name])

    return change


def contents() -> dict[str, Callable[[dict[str, Any]], Any]]:
    import torch

    return {
        "NaN": weight("first.bias", lambda w: w * float("nan")),
        "infinity": weight("first.bias", lambda w: w + float("inf")),
        "numbers that overflow": weight("first.weight", lambda w: w * 1e38),
        "numbers near nothing": weight("first.weight", lambda w: w * 1e-45),
        "complex weights": weight("first.bias", lambda w: w + 0j),
        "whole weights": weight("first.bias", lambda w: w.long()),
        "weights without data": weight("first.bias", lambda w: w.to("meta")),
        "sparse weights": weight("first.bias", lambda w: w.to_sparse()),
        "a sparse tensor of 10^15": weight("first.bias", lambda w: torch.sparse_coo_tensor([[1]], [1.0], (10**15,))),
        "weights of 8 bits": weight("first.bias", lambda w: w.to(torch.float8_e4m3fn)),
        "a nested tensor": weight("first.bias", lambda w: torch.nested.nested_tensor([w, w])),
        "10,000 names": lambda whole: whole["state_dict"].update({f"x{k}": torch.zeros(1) for k in range(10_000)}),
        "a name of a megabyte": lambda whole: whole["state_dict"].update({"x" * 10**6: torch.zeros(1)}),
        "a name of lines and escapes": lambda whole: whole["state_dict"].update(
            {"a\nerror: b\x1b[31m\r\0": torch.zeros(1)}
        ),
        "a name of 100,000 dots": lambda whole: whole["state_dict"].update({"." * 10**5: torch.zeros(1)}),
        "names that are numbers": lambda whole: {"state_dict": {1: torch.zeros(1), None: torch.zeros(2, 2)}},
        "lists in lists": deep,
        "a billion laughs": laughs,
        "itself": circle,
        "an endless step": lambda whole: whole.update(epoch=10**400),
        "a step that is NaN": lambda whole: whole.update(epoch=float("nan")),
        "a negative step": lambda whole: whole.update(epoch=-3),
        "nothing": lambda whole: {"nothing": None},
    }


def bomb(records: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method, compresslevel=9) as archive:
        for name, data in records.items():
            archive.writestr(f"epoch_2/{name}", data)
    return stream.getvalue()


def text_bomb() -> bytes:
    """Pack a pickle of a text of 1 GiB, which deflates to a megabyte."""
    head = b"\x80\x02}q\x00X\x01\x00\x00\x00aX" + struct.pack("<I", GIB)
    return bomb({"data.pkl": head + b"a" * GIB + b"s.", "version": b"3\n", "byteorder": b"little"})


def record_bomb() -> bytes:
    return bomb({"data.pkl": pickle.dumps({}, 2), "data/0": bytes(GIB), "version": b"3\n"})


def many_records() -> bytes:
    return bomb({"data.pkl": pickle.dumps({}, 2), "version": b"3\n", **{f"data/{k}": b"" for k in range(60_000)}}, 0)


def overlapping() -> bytes:
    """Let a thousand names of a directory mean one and the same record of a megabyte."""
    data = bytearray(bomb({"data.pkl": pickle.dumps({}, 2), "version": b"3\n", "data/0": bytes(2**20)}, 0))
    first, last, end = data.index(b"PK\x01\x02"), data.rindex(b"PK\x01\x02"), data.rindex(b"PK\x05\x06")
    entry, tail = bytes(data[last:end]), bytearray(data[end:])
    copies = b"".join(entry.replace(b"data/0", f"dat{k:03}".encode()) for k in range(1000))
    struct.pack_into("<HHI", tail, 8, 1003, 1003, end - first + len(copies))
    return bytes(data[:end]) + copies + bytes(tail)


def lying_record() -> bytes:
    data = bytearray(saved("zip"))
    place = data.rindex(b"PK\x01\x02") + 24
    data[place : place + 4] = struct.pack("<I", 0xFFFFFFF0)
    return bytes(data)


ARCHIVES = {
    "a text that unpacks to 1 GiB": text_bomb,
    "a record that unpacks to 1 GiB": record_bomb,
    "60,000 records": many_records,
    "1,000 records in one place": overlapping,
    "a record that claims 4 GiB": lying_record,
    "a text without end": lambda: b"\x80\x02X" + b"\xff\xff\xff\x7f" + b"a" * 100,
    "a legacy pickle of 200,000 marks": lambda: b"\x80\x02" + b"(" * 200_000 + b".",
    "a legacy pickle of lists in lists": lambda: b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "a memo at 2^31": lambda: b"\x80\x02}r" + struct.pack("<I", 2**31 - 1) + b".",
    "a number of 256 MiB": lambda: b"\x80\x02\x8b" + struct.pack("<i", 2**28) + b"\1" * 100 + b".",
    "frames of 2^60 bytes": lambda: b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"}.",
}


def safetensors(header: bytes | dict[str, Any], data: bytes = bytes(64), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[int], ends: list[int], kind: str = "F32") -> dict[str, Any]:
    return {"a": {"dtype": kind, "shape": shape, "data_offsets": ends}}


SAFETENSORS = {
    "a head of 2^63 bytes": lambda: safetensors(b"{}", length=2**63),
    "a head longer than the file": lambda: safetensors(b"{}", length=10**6),
    "a shape beyond 64 bits": lambda: safetensors(entry([2**40, 2**40], [0, 64])),
    "a shape of 10^12": lambda: safetensors(entry([10**12], [0, 64])),
    "data beyond the end": lambda: safetensors(entry([10**9], [0, 4 * 10**9])),
    "data from behind": lambda: safetensors(entry([16], [64, 0])),
    "a negative place": lambda: safetensors(entry([16], [-64, 0])),
    "an unknown type": lambda: safetensors(entry([16], [0, 64], "F33")),
    "two tensors in one place": lambda: safetensors({**entry([16], [0, 64]), "b": entry([16], [0, 64])["a"]}),
    "a head of brackets": lambda: safetensors(b"[" * 100_000),
    "no head": lambda: b"\0" * 8,
    "metadata that is a number": lambda: safetensors({"__metadata__": 1, **entry([16], [0, 64])}),
}


def cases() -> Iterator[Case]:
    """Yield damaged and absurd checkpoints."""
    for form in ("zip", "legacy", "safetensors"):
        for cut in (0.001, 0.3, 0.9, 0.999):
            yield Case(f"checkpoint: {form} cut at {cut}", damaged(form, cut, 0))
        for seed in range(6):
            yield Case(f"checkpoint: {form} with flipped bits {seed}", damaged(form, None, seed))
    for name in GEOMETRIES:
        yield Case(f"tensor: {name}", geometry(name, pruned=False))
        yield Case(f"mask: {name}", geometry(name, pruned=True))
    for name in contents():
        yield Case(f"checkpoint: holds {name}", content(lambda whole, name=name: contents()[name](whole)))
    for name, made in ARCHIVES.items():
        yield Case(f"checkpoint: {name}", lambda study, made=made: put(study, made()))
    for name, made in SAFETENSORS.items():
        yield Case(f"safetensors: {name}", lambda study, made=made: put(study, made(), "safetensors"))
    yield Case("checkpoint: 2 GiB of nothing", lambda study: sparse(study.checkpoint()))


def sparse(path: Path, size_bytes: int = 2 * GIB) -> None:
    """Make a file of zeros that takes no room."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
