"""Probes made to fill memory, to hang, or to be written elsewhere."""

import io
import os
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from faulting.cases import Case, images_only
from faulting.study import Study
from faulting.tensors import GIB, sparse

ODD = "05.png"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes | None = None, *chunks: bytes, kind: int = 0, bits: int = 1) -> bytes:
    """Return a PNG that says it is so large; without rows it has all of them, black."""
    channels = {0: 1, 2: 3, 3: 1, 6: 4}[kind]
    if rows is None:
        packer, row = zlib.compressobj(9), bytes(1 + (width * bits * channels + 7) // 8)
        rows = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunks) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def gif(width: int, height: int) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0x80, 0, 0)
        + bytes(6)
        + b","
        + struct.pack("<HHHHB", 0, 0, width, height, 0)
        + b"\x02\x02\x44\x01\x00;"
    )


def bmp(width: int, height: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 100, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        + bytes(46)
    )


def tiff(width: int, height: int, strips: int = 1, compression: int = 1) -> bytes:
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)]
    tags += [(273, 4, strips, 8), (278, 4, 1, height), (279, 4, strips, 100)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4 + 200)


def tiff_circle() -> bytes:
    """Return a TIFF whose list of pictures leads back to its start."""
    data = bytearray(tiff(4, 4))
    place = 10 + 12 * 8
    data[place : place + 4] = struct.pack("<I", 8)
    return bytes(data)


IMAGES: dict[str, Callable[[], bytes]] = {
    "a PNG of 2^31 pixels a side": lambda: png(2**31 - 1, 2**31 - 1, b""),
    "a PNG of 100,000 pixels a side": lambda: png(100_000, 100_000, b""),
    "a PNG of 178 million black pixels": lambda: png(13_300, 13_400),
    "a PNG of 89 million black pixels": lambda: png(9_400, 9_500),
    "a PNG of 170 million colours": lambda: png(13_000, 13_000, kind=2, bits=8),
    "a PNG of 16 bits and 80 million pixels": lambda: png(8_900, 8_900, bits=16),
    "a PNG of one pixel by ten million": lambda: png(1, 10_000_000, zlib.compress(bytes(20_000_000))),
    "a PNG of no width": lambda: png(0, 5, b""),
    "a PNG whose text unpacks to 1 GiB": lambda: png(16, 16, None, chunk(b"zTXt", b"a\0\0" + packed(GIB))),
    "a PNG whose profile unpacks to 1 GiB": lambda: png(16, 16, None, chunk(b"iCCP", b"a\0\0" + packed(GIB))),
    "a PNG whose rows unpack to 1 GiB": lambda: png(16, 16, packed(GIB)),
    "a PNG of 100,000 chunks": lambda: png(16, 16, None, chunk(b"tEXt", b"a\0b") * 100_000),
    "a GIF of 65,535 pixels a side": lambda: gif(65_535, 65_535),
    "a GIF of 13,000 pixels a side": lambda: gif(13_000, 13_000),
    "a BMP of 2^31 pixels a side": lambda: bmp(2**31 - 1, 2**31 - 1),
    "a BMP of 13,000 pixels a side": lambda: bmp(13_000, 13_000),
    "a TIFF of 2^32 pixels a side": lambda: tiff(2**32 - 1, 2**32 - 1),
    "a TIFF of 13,000 pixels a side": lambda: tiff(13_000, 13_000),
    "a TIFF of 2^32 strips": lambda: tiff(16, 16, 2**32 - 1),
    "a deflated TIFF of 13,000 pixels a side": lambda: tiff(13_000, 13_000, 1, 8),
    "a TIFF that leads back to itself": tiff_circle,
    "a PPM of 10^9 pixels a side": lambda: b"P6 1000000000 1000000000 255\n" + bytes(100),
    "a PPM of 13,000 pixels a side": lambda: b"P6 13000 13000 255\n" + bytes(100),
    "a PPM of a number without end": lambda: b"P6 " + b"1" * 10**7,
    "a JPEG that says nothing": lambda: b"\xff\xd8" + b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + bytes(100),
    "a WebP that says 16,383 a side": lambda: (
        b"RIFF\x64\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xfe\x3f\0\xfe\x3f\0" + bytes(100)
    ),
    "an EPS, which starts programs": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EOF\n",
}


def packed(size_bytes: int) -> bytes:
    packer = zlib.compressobj(9)
    piece = bytes(2**20)
    return b"".join([*(packer.compress(piece) for _ in range(size_bytes // 2**20)), packer.flush()])


def image(made: Callable[[], bytes], resize: str = "") -> Callable[[Study], None]:
    """Return what puts bytes into the place of one image, in a plain folder."""

    def spoil(study: Study) -> None:
        images_only(study)
        (study.folder / "images" / ODD).write_bytes(made())
        if resize:
            study.edit('start = "same"', f'start = "same"\npreprocess = {resize}')

    return spoil


def archive(build: Callable[[dict[str, bytes]], bytes]) -> Callable[[Study], None]:
    """Return what packs the images into a zip of one's own, in place of the folder."""

    def spoil(study: Study) -> None:
        images_only(study)
        files = {path.name: path.read_bytes() for path in sorted((study.folder / "images").iterdir())}
        (study.folder / "images.zip").write_bytes(build(files))
        study.edit('path = "images"', 'path = "images.zip"')

    return spoil


def zipped(
    files: dict[str, bytes], method: int = zipfile.ZIP_STORED, attributes: dict[str, int] | None = None
) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method, compresslevel=9) as packed_, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (attributes or {}).get(name, 0)
            packed_.writestr(entry, data, method)
    return stream.getvalue()


def lying(files: dict[str, bytes], field: int, value: int) -> bytes:
    """Return a zip whose directory lies of its first entry, in 4 bytes at a place."""
    data = bytearray(zipped(files, zipfile.ZIP_DEFLATED))
    place = data.index(b"PK\x01\x02") + field
    data[place : place + 4] = struct.pack("<I", value)
    return bytes(data)


def nested_overlap(files: dict[str, bytes]) -> bytes:
    """Let every name mean the bytes of the first: a bomb that is short."""
    data = bytearray(zipped({**files, "00.png": bytes(2**28)}, zipfile.ZIP_DEFLATED))
    first = data.index(b"PK\x01\x02")
    same, place = bytes(data[first + 16 : first + 28]), data.find(b"PK\x01\x02", first + 4)
    while place > 0:
        data[place + 16 : place + 28], data[place + 42 : place + 46] = same, bytes(4)
        place = data.find(b"PK\x01\x02", place + 4)
    return bytes(data)


ZIPS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "an entry of 1 GiB": lambda files: zipped({**files, ODD: bytes(GIB)}, zipfile.ZIP_DEFLATED),
    "an entry of 400 MiB": lambda files: zipped({**files, ODD: bytes(400 * 2**20)}, zipfile.ZIP_DEFLATED),
    "all entries of 256 MiB, in one place": nested_overlap,
    "a bzip2 entry of 400 MiB": lambda files: zipped({**files, ODD: bytes(400 * 2**20)}, zipfile.ZIP_BZIP2),
    "an lzma entry of 400 MiB": lambda files: zipped({**files, ODD: bytes(400 * 2**20)}, zipfile.ZIP_LZMA),
    "a size that is less than there is": lambda files: lying({**files, "00.png": bytes(2**27)}, 24, 1000),
    "a size that is more than there is": lambda files: lying(files, 24, 2**28),
    "a packed size of 4 GiB": lambda files: lying(files, 20, 2**32 - 1),
    "a place behind the end": lambda files: lying(files, 42, 2**31),
    "a checksum that is another": lambda files: lying(files, 16, 7),
    "50,000 further entries": lambda files: zipped({**files, **{f"notes/{k}.txt": b"" for k in range(50_000)}}),
    "a name of 60,000 letters": lambda files: zipped({**files, "a" * 60_000 + ".png": files[ODD]}),
    "names that lead out": lambda files: zipped(
        {
            **files,
            "../out.png": b"x",
            "../../../../out.png": b"x",
            "/tmp/faults-out.png": b"x",
            "..\\out.png": b"x",
            "C:\\out.png": b"x",
        }
    ),
    "links": lambda files: zipped({**files, ODD: b"/etc/hostname"}, attributes={ODD: 0o120777 << 16}),
    "folders that are devices": lambda files: zipped({**files, "dev/": b""}, attributes={"dev/": 0o060777 << 16}),
    "names in no known letters": lambda files: zipped(
        {**files, "\udcff.png".encode("utf-8", "surrogateescape").decode("latin-1"): files[ODD]}
    ),
    "NUL and lines in names": lambda files: zipped(
        {**files, "a\nerror: b.png": files[ODD], "c\x1b[31m.png": files[ODD]}
    ),
    "an archive in itself": lambda files: zipped({**files, ODD: zipped(files)}),
    "a tail of other bytes": lambda files: zipped(files) + bytes(10**6),
    "only its directory": lambda files: (data := zipped(files))[data.index(b"PK\x01\x02") :],
}


def special(make: Callable[[Path], object], name: str = "images/05.png") -> Callable[[Study], None]:
    """Return what puts something that is no file into the place of one."""

    def spoil(study: Study) -> None:
        if name.startswith("images"):
            images_only(study)
        path = study.folder / name
        if path.is_dir():
            path.rename(path.with_name("aside"))
        else:
            path.unlink(missing_ok=True)
        make(path)

    return spoil


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("absent"),
    "a link to a device without end": lambda path: path.symlink_to("/dev/zero"),
    "a link to memory": lambda path: path.symlink_to("/proc/self/mem"),
    "a folder": Path.mkdir,
    "a link upwards": lambda path: path.symlink_to(".."),
    "2 GiB of nothing": sparse,
}
PLACES = (
    "images/05.png",
    "images",
    "runs/plain/epoch_2.pt",
    "net.py",
    "broden/index.csv",
    "broden/label.csv",
    "broden/images/05_color.png",
    "image_features.npy",
    "concepts.txt",
    "images.txt",
    "metrics.csv",
    "study.toml",
    "words.csv",
    "masks.pt",
)


def placed(make: Callable[[Path], object], name: str) -> Callable[[Study], None]:
    """Return what makes a place special, and the config name it."""

    def spoil(study: Study) -> None:
        if name == "words.csv":
            study.edit("[encoder]", '[concepts]\nfile = "words.csv"\n\n[encoder]')
        if name == "masks.pt":
            study.edit('start = "same"', 'start = "same"\nmasks = "masks.pt"')
        special(make, name)(study)

    return spoil


def cifar(data: bytes) -> Callable[[Study], None]:
    """Return what makes the probe a batch of CIFAR-10."""

    def spoil(study: Study) -> None:
        images_only(study)
        study.edit('path = "images"', 'kind = "cifar10"\npath = "cifar"')
        (study.folder / "cifar").mkdir()
        (study.folder / "cifar" / "test_batch").write_bytes(data)

    return spoil


def cases() -> Iterator[Case]:
    """Yield images, archives, and what is no file at all."""
    for name, made in IMAGES.items():
        yield Case(f"image: {name}", image(made))
    for resize in ("{resize = 224, crop = 224}", "{resize = 4096, crop = 16}"):
        yield Case(f"image: 1 by 60,000, {resize}", image(lambda: png(1, 60_000), resize))
    for name, build in ZIPS.items():
        yield Case(f"zip: {name}", archive(build))
    for what, make in SPECIAL.items():
        for place in PLACES:
            yield Case(f"place: {what} as {place}", placed(make, place))
    pickled = {"of 2^40 rows": 2**40, "of a negative size": -1}
    for name, rows in pickled.items():
        yield Case(f"cifar: {name}", cifar(batch(rows)))
    yield Case("cifar: lists in lists", cifar(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."))
    yield Case("cifar: a text without end", cifar(b"\x80\x02X\xff\xff\xff\x7f" + b"a" * 100))
    yield Case("cifar: no bytes", cifar(pickle.dumps({b"data": None})))


def batch(rows: int) -> bytes:
    """Pickle an array that says it has so many rows."""
    import numpy as np

    whole = pickle.dumps({b"data": np.zeros((0, 3072), np.uint8)}, 4)
    return whole.replace(b"K\x00M\x00\x0c", b"\x8a\x08" + struct.pack("<q", rows) + b"M\x00\x0c")
