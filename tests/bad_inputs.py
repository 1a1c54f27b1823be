"""A corpus of bad inputs, made anew by each run: archives, images, weights, packs, labels, parameters, tables.

Each entry writes its input below a folder and returns the call that a user's command makes of it.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import random
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from mmfuse.cli.own_images import fuse_folders
from mmfuse.data.archives import Limits, extract
from mmfuse.data.packs import Pack
from mmfuse.training.checkpoints import build, load_method, weights_of

Call = Callable[[], object]


@dataclass(frozen=True)
class Bad:
    """One bad input: its name, what makes it and returns the call, and what the message must say."""

    name: str
    make: Callable[[Path], Call]
    says: str


# ---------------------------------------------------------------------------------------------------- archives

PACKERS = {"tar": bytes, "tar.gz": partial(gzip.compress, mtime=0), "tar.bz2": bz2.compress, "tar.xz": lzma.compress}
UNSAFE = (
    "../evil", "/evil", "a/../../evil", "..", "./../evil", "a\\..\\evil", "C:/evil", "a\nb", "a\tb.png", "a\x7fb.png",
    "a\u0085b.png",
)  # fmt: skip


def tar_of(*members: tuple[str, bytes, dict[str, Any]], form: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, content, fields in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in fields.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def zip_of(*members: tuple[str, bytes, int], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", method) as archive:
        warnings.simplefilter("ignore")  # of a name twice
        for name, content, mode in members:
            info = zipfile.ZipInfo("x")
            info.filename, info.external_attr, info.compress_type = name, mode << 16, method
            archive.writestr(info, content)
    return stream.getvalue()


def archive(kind: str, content: bytes, limits: Limits | None = None) -> Callable[[Path], Call]:
    def make(folder: Path) -> Call:
        path = folder / f"bad.{kind}"
        path.write_bytes(content)
        return lambda: extract(path, folder / "inner/out", limits=limits)

    return make


def archives() -> Iterator[Bad]:
    good = ("good.png", b"x", {})
    for name in UNSAFE:
        yield Bad(f"zip {name!r}", archive("zip", zip_of(("good.png", b"x", 0), (name, b"x", 0))), "unsafe name")
        for kind in ("tar", "tar.gz"):
            content = PACKERS[kind](tar_of(good, (name, b"x", {})))
            yield Bad(f"{kind} {name!r}", archive(kind, content), "unsafe name")
    kinds = {
        "link": (tarfile.SYMTYPE, "/etc/passwd"), "link inside": (tarfile.SYMTYPE, "good.png"),
        "link above": (tarfile.SYMTYPE, "../../x"), "hard link": (tarfile.LNKTYPE, "good.png"),
        "pipe": (tarfile.FIFOTYPE, ""), "device": (tarfile.CHRTYPE, ""), "disk": (tarfile.BLKTYPE, ""),
    }  # fmt: skip
    for what, (kind, target) in kinds.items():
        for form in ("tar", "tar.xz"):
            content = PACKERS[form](tar_of(good, ("bad.png", b"", {"type": kind, "linkname": target})))
            yield Bad(f"{form} with a {what}", archive(form, content), r"'bad\.png' is a link, a device")
    for mode in (0o120777, 0o010644, 0o020644, 0o060644, 0o140644):
        yield Bad(
            f"zip with mode {mode:o}", archive("zip", zip_of(("bad.png", b"/etc", mode))), "is a link or a device"
        )
    for names in (("a.png", "a.png"), ("a.png", "A.PNG"), ("a.png", "./a.png"), ("b/../a.png", "a.png")):
        says = "unsafe name" if ".." in names[0] else "occurs twice"
        yield Bad(f"zip twice {names}", archive("zip", zip_of(*((n, b"x", 0) for n in names))), says)
        yield Bad(f"tar twice {names}", archive("tar", tar_of(*((n, b"x", {}) for n in names))), says)
    for kind, content in {
        "zip": zip_of(("a", b"x", 0), ("a/b.png", b"x", 0)), "tar": tar_of(("a", b"x", {}), ("a/b.png", b"x", {}))
    }.items():  # fmt: skip
        yield Bad(f"{kind} file below a file", archive(kind, content), "cannot be stored with the others")
    long = "n" * 300 + ".png"
    yield Bad("zip long name", archive("zip", zip_of((long, b"x", 0))), "cannot be stored")
    yield Bad("tar long name", archive("tar", tar_of((long, b"x", {}))), "cannot be stored")
    yield from bombs()
    yield from broken_archives()


def bombs() -> Iterator[Bad]:
    zeros, small = bytes(20 << 20), Limits(ratio=10, spare=1 << 20)
    flat = tar_of(("zeros.png", zeros, {}))
    packed = {"zip": zip_of(("zeros.png", zeros, 0)), **{k: PACKERS[k](flat) for k in ("tar.gz", "tar.bz2", "tar.xz")}}
    for kind, content in packed.items():
        yield Bad(f"{kind} bomb", archive(kind, content, small), r"'zeros\.png' would unpack \d+ bytes")
    many = [f"{n}.png" for n in range(5)]
    few = Limits(files=4)
    yield Bad("zip too many", archive("zip", zip_of(*((n, b"", 0) for n in many)), few), "one too many: more than 4")
    yield Bad("tar too many", archive("tar", tar_of(*((n, b"", {}) for n in many)), few), "one too many: more than 4")
    total = Limits(total=2000)
    yield Bad("zip too large", archive("zip", zip_of(("a.png", bytes(3000), 0)), total), "at most 2000 are allowed")
    yield Bad("tar too large", archive("tar", tar_of(("a.png", bytes(3000), {})), total), "at most 2000 are allowed")
    lie = zip_of(("a.png", bytes(1 << 20), 0)).replace((1 << 20).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    yield Bad("zip that lies about a size", archive("zip", lie, total), "damaged|would unpack")
    nested = gzip.compress(tar_of(("a.png", b"x", {"pax_headers": {"comment": "y" * (4 << 20)}})))
    yield Bad("tar bomb of headers", archive("tar.gz", nested, Limits(spare=1 << 20)), "more headers than files|would")


def broken_archives() -> Iterator[Bad]:
    noise = random.Random(1).randbytes(3000)
    whole = {
        "zip": zip_of(("a.png", noise, 0)),
        **{k: pack(tar_of(("a.png", noise, {}))) for k, pack in PACKERS.items()},
    }
    for kind, content in whole.items():
        for share in (0.3, 0.6):
            cut = content[: int(3500 * share) if kind == "tar" else int(len(content) * share)]
            yield Bad(f"{kind} cut at {share}", archive(kind, cut), "archive is damaged")
    png = png_bytes(4, 4)
    for kind in ("zip", "tar", "tar.gz", "tar.xz"):
        yield Bad(f"an image named {kind}", archive(kind, png), "archive is damaged")
        yield Bad(f"a page named {kind}", archive(kind, b"<html>please log in</html>"), "archive is damaged")
        yield Bad(f"nothing named {kind}", archive(kind, b""), "archive is damaged|no members")
    yield Bad("a tar named zip", archive("zip", whole["tar"]), "archive is damaged")
    yield Bad("a zip named tar", archive("tar", whole["zip"]), "archive is damaged")
    locked = bytearray(whole["zip"])
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(mark) + offset] |= 1
    yield Bad("zip with a password", archive("zip", bytes(locked)), "is encrypted")
    wrong = bytearray(whole["zip"])
    wrong[wrong.index(noise[:20] if noise[:20] in wrong else b"a.png") + 40] ^= 0xFF
    yield Bad("zip with a wrong byte", archive("zip", bytes(wrong)), "archive is damaged")
    method = bytearray(whole["zip"])
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        method[method.index(mark) + offset] = 97
    yield Bad("zip in an unknown way", archive("zip", bytes(method)), "archive is damaged")
    text = bytearray(zip_of(("\u00e4.png", b"x", 0)))
    place = text.index("\u00e4".encode(), text.index(b"PK\x01\x02"))
    text[place] = 0xFF
    yield Bad("zip with a name that is no text", archive("zip", bytes(text)), "archive is damaged|unsafe name")


# ------------------------------------------------------------------------------------------------------ images


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bytes(height: int, width: int, *, depth: int = 8, colour: int = 0, data: bytes | None = None) -> bytes:
    """A PNG by hand, of any depth: Pillow writes no colour images of 16 bits."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    if data is None:
        row = bytes(range(256)) * (1 + width * channels * depth // 8 // 256)
        data = b"".join(b"\0" + row[: width * channels * depth // 8] for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def tiff_bytes(height: int, width: int, strips: list[bytes], **tags: int) -> bytes:
    """A grey TIFF image by hand, without compression."""
    body, places = b"", []
    for strip in strips:
        places.append(8 + len(body))
        body += strip
    lists, values = (
        b"",
        {256: width, 257: height, 258: 8, 259: 1, 262: 1, 277: 1}
        | {int(name[1:]): value for name, value in tags.items()},
    )
    starts, counts = (324, 325) if 322 in values else (273, 279)
    for tag, numbers in ((starts, places), (counts, [len(strip) for strip in strips])):
        values[tag] = numbers[0] if len(numbers) == 1 else 8 + len(body) + len(lists)
        lists += struct.pack(f"<{len(numbers)}I", *numbers) if len(numbers) > 1 else b""
    entries = [
        struct.pack("<HHII", tag, 4, len(strips) if tag in {starts, counts} else 1, value)
        for tag, value in sorted(values.items())
    ]
    start = struct.pack("<I", 8 + len(body) + len(lists))
    return b"II*\0" + start + body + lists + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


def pixels(height: int = 24, width: int = 30, *, channels: int = 1) -> np.ndarray:
    values = np.random.default_rng(channels).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return values[..., 0] if channels == 1 else values


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=form, **options)
    return stream.getvalue()


def pair(name: str, content: bytes) -> Callable[[Path], Call]:
    """A folder with one good image and, under its name in the other folder, the bad one."""

    def make(folder: Path) -> Call:
        for side in ("a", "b"):
            (folder / side).mkdir()
        stem = Path(name).stem
        (folder / f"a/{stem}.png").write_bytes(saved(Image.fromarray(pixels()), "PNG"))
        (folder / "b" / name).write_bytes(content)
        return fusing(folder)

    return make


def fusing(folder: Path, *, a: str = "a", b: str = "b", weights: str | None = None, method: str = "average") -> Call:
    given = folder / weights if weights else None
    return lambda: fuse_folders(
        folder / a, folder / b, folder / "out", weights=given, method=method, allow_missing=False
    )


def pages(count: int) -> bytes:
    """Return a TIFF file of many pages of one grey pixel."""
    fields = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 278: 1, 279: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields.items())
    size = 2 + len(entries) + 4
    starts = [12 + size * number for number in range(count)]
    page = struct.pack("<H", len(fields)) + entries
    every = b"".join(page + struct.pack("<I", following) for following in [*starts[1:], 0])
    return b"II*\0" + struct.pack("<I", 12) + b"\x80\0\0\0" + every


def images() -> Iterator[Bad]:
    grey, colour = Image.fromarray(pixels()), Image.fromarray(pixels(channels=3))
    damaged, kind = "Damaged or unreadable image: .*bad", "Cannot use the image .*bad"
    for form, suffix in {"PNG": "png", "JPEG": "jpg", "BMP": "bmp", "TIFF": "tif"}.items():
        whole = saved(colour, form)
        for share in (0.0, 0.02, 0.5, 0.9):
            says = rf"{damaged}\.{suffix}(.|\n)*{int(len(whole) * share)} bytes"
            yield Bad(f"{suffix} cut at {share}", pair(f"bad.{suffix}", whole[: int(len(whole) * share)]), says)
        yield Bad(f"noise named {suffix}", pair(f"bad.{suffix}", random.Random(2).randbytes(999)), damaged)
    foreign = r"This kind of file is not read: .*bad\.png"
    for form in ("GIF", "WEBP", "PPM", "TGA", "ICO", "EPS", "PDF", "PCX", "SGI"):
        yield Bad(f"{form} named png", pair("bad.png", saved(colour, form)), foreign)
    yield Bad("a page named jpg", pair("bad.jpg", b"<html>not found</html>"), damaged)
    yield Bad("a program named png", pair("bad.png", b"\x7fELF" + bytes(400)), damaged)
    for what, number in {"grey": 0, "colour": 2, "grey and alpha": 4, "colour and alpha": 6}.items():
        content = png_bytes(24, 30, depth=16, colour=number)
        yield Bad(f"png of 16 bits, {what}", pair("bad.png", content), rf"{kind}(.|\n)*8 bits per channel(.|\n)*16")
    deep = {
        "uint16": pixels().astype(np.uint16) * 257, "int32": pixels().astype(np.int32),
        "float32": pixels().astype(np.float32), "float32 with nan": np.full((24, 30), np.nan, np.float32),
    }  # fmt: skip
    for what, values in deep.items():
        yield Bad(f"tif of {what}", pair("bad.tif", saved(Image.fromarray(values), "TIFF")), f"{kind}(.|\n)*8 bits")
    for mode in ("LAB", "YCbCr"):
        yield Bad(f"tif in {mode}", pair("bad.tif", saved(colour.convert(mode), "TIFF")), f"{kind}(.|\n)*{mode}")
    more = {"save_all": True, "append_images": [Image.fromarray(255 - pixels())]}
    yield Bad("animation", pair("bad.png", saved(grey, "PNG", **more)), f"{kind}(.|\n)*several images in one file")
    yield Bad("pages", pair("bad.tiff", saved(grey, "TIFF", **more)), f"{kind}(.|\n)*several images in one file")
    yield Bad("many pages", pair("bad.tiff", pages(65_000)), f"{kind}(.|\n)*several images in one file")
    yield Bad("huge png", pair("bad.png", png_bytes(60000, 60000, data=b"")), r"bad\.png is too large(.|\n)*pixels")
    huge = bytearray(saved(grey, "BMP"))
    huge[18:26] = struct.pack("<ii", 50000, 50000)
    yield Bad("huge bmp", pair("bad.bmp", bytes(huge)), r"bad\.bmp is too large")
    yield Bad("png of no pixel", pair("bad.png", png_bytes(0, 0, data=b"")), damaged)
    wrong = bytearray(saved(colour, "PNG"))
    wrong[60] ^= 0xFF
    yield Bad("png with a wrong byte", pair("bad.png", bytes(wrong)), damaged)
    sizes = saved(Image.fromarray(pixels(24, 31)), "PNG")
    yield Bad("unequal sizes", pair("bad.png", sizes), r"differ in size(.|\n)*24x30(.|\n)*24x31")
    yield from folders()


def folders() -> Iterator[Bad]:
    """Whole folders that do not fit."""
    good = saved(Image.fromarray(pixels()), "PNG")

    def laid(*files: str, **where: Any) -> Callable[[Path], Call]:
        def make(folder: Path) -> Call:
            for file in files:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_bytes(good)
            return fusing(folder, **where)

        return make

    yield Bad("lone file", laid("a/1.png", "b/1.png", "a/2.png"), r"1 of 2 images(.|\n)*a/2\.png: no image with")
    yield Bad("no name in common", laid("a/1.png", "b/2.png"), "no name in common")
    yield Bad("one name twice", laid("a/1.png", "a/1.bmp", "b/1.png"), "Two images with the same name")
    yield Bad("no image", laid("a/1.txt", "b/1.txt"), "no images to match")
    yield Bad("no folder", laid("a/1.png"), "Folder not found: .*b")
    yield Bad("file and folder", laid("a/1.png", "b/1.png", a="a/1.png"), "Files and folders cannot be matched")
    for name in (
        "line\nbreak.png",
        "tab\t.png",
        "bell\x07.png",
        "\x9b31m.png",
        "a\u2028b.png",
        "a\u202egnp.png",
        "\u2067a.png",
        "caf\udce9.png",
    ):
        yield Bad(
            f"named {name!r}", laid(f"a/{name}", f"b/{name}"), "file name in (.|\n)*cannot be used(.|\n)*rename it"
        )
    yield Bad("untrained", laid("a/1.png", "b/1.png", method="mma_unet"), "needs trained weights")
    yield Bad("no such method", laid("a/1.png", "b/1.png", method="../evil"), "Unknown method '../evil'")
    yield Bad("over its source", laid("out/1.png", "b/1.png", a="out"), "overwrite their sources")


# ----------------------------------------------------------------------------------------------------- weights

CARD = {"method": "mma_unet", "variant": "base", "task": "ivif", "seed": 0, "part": "fusion", "complete": True}


class Evil:
    """Whoever unpickles this makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.marker,))


@cache
def good_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return weights_of(build("mma_unet", {"width": 4}).deployed_modules())


def weights_file(
    card: object = None, *, change: Callable[[dict[str, torch.Tensor]], object] | None = None, **fields: Any
) -> bytes:
    values = dict(good_weights())
    if change:
        change(values)
    header = json.dumps(CARD | {"network": {"width": 4}} | fields) if card is None else card
    return save(values, metadata={"mmfuse": header})


def stored(name: str, content: bytes) -> Callable[[Path], Call]:
    def make(folder: Path) -> Call:
        (folder / name).write_bytes(content)
        return lambda: load_method(folder / name)

    return make


def malicious(name: str, write: Callable[[Evil, Path], None]) -> Callable[[Path], Call]:
    def make(folder: Path) -> Call:
        write(Evil(folder / "code_was_run"), folder / name)
        return lambda: load_method(folder / name)

    return make


def weights() -> Iterator[Bad]:
    unreadable = "Not a readable weights file"
    for name in ("w.safetensors", "w.pt", "w.pth", "w.ckpt"):
        yield Bad(f"torch pickle {name}", malicious(name, torch.save), unreadable)
    for protocol in (0, 2, 4):
        write = lambda evil, path, p=protocol: path.write_bytes(pickle.dumps(evil, protocol=p))  # noqa: E731
        yield Bad(f"pickle of protocol {protocol}", malicious("w.safetensors", write), unreadable)
    whole = weights_file()
    for share in (0.0, 0.001, 0.3, 0.999):
        yield Bad(f"weights cut at {share}", stored("w.safetensors", whole[: int(len(whole) * share)]), unreadable)
    size = int.from_bytes(whole[:8], "little")
    yield Bad("header too long", stored("w.safetensors", (1 << 62).to_bytes(8, "little") + whole[8:]), unreadable)
    yield Bad("header is no text", stored("w.safetensors", whole[:8] + b"\xff" * size + whole[8 + size :]), unreadable)
    yield Bad("bytes too many", stored("w.safetensors", whole + b"more"), unreadable)
    for what, card in {
        "no json": "{", "a list": "[1]", "a number": "5", "deep": "[" * 100_000, "a stranger": "{}",
        "more keys": json.dumps(CARD | {"network": {}, "extra": 1}),
    }.items():  # fmt: skip
        yield Bad(f"card: {what}", stored("w.safetensors", weights_file(card)), unreadable)
    yield Bad("no card", stored("w.safetensors", save(dict(good_weights()))), unreadable)
    for method in ("none", "../evil", "base", "", "os", "mma_unet.evil"):
        yield Bad(f"method {method!r}", stored("w.safetensors", weights_file(method=method)), "Unknown method")
    for network in (
        {"none": 1}, {"width": "x"}, {"width": 10**9}, {"width": -1}, {"width": 1.5}, {"width": None}, {"pairing": "x"},
        {"__class__": 1}, "text", [1],
    ):  # fmt: skip
        says = "does not take these options|cannot use|No network can be built"
        yield Bad(f"network {network!r}", stored("w.safetensors", weights_file(network=network)), says)
    fit = "do not fit this network"
    first = min(good_weights())
    yield Bad("other width", stored("w.safetensors", weights_file(network={"width": 8})), fit)
    yield Bad(
        "other shape", stored("w.safetensors", weights_file(change=lambda w: w.update({first: torch.ones(3)}))), fit
    )
    yield Bad("one more", stored("w.safetensors", weights_file(change=lambda w: w.update(other=torch.ones(3)))), fit)
    yield Bad("one missing", stored("w.safetensors", weights_file(change=lambda w: w.pop(first))), f"{fit}(.|\n)*also")
    other = weights_file(method="smfnet", network={})
    yield Bad("another method's", stored("w.safetensors", other), fit)
    yield Bad(
        "one part", stored("w.safetensors", weights_file(part="vi_unet", complete=False)), "only the part 'vi_unet'"
    )
    for value in (float("nan"), float("inf"), float("-inf")):
        broken = weights_file(change=lambda w, v=value: w.update({first: w[first] * 0 + v}))
        yield Bad(f"weights of {value}", stored("w.safetensors", broken), rf"are broken(.|\n)*other values in {first}")
    yield Bad("no file", lambda folder: lambda: load_method(folder / "none.safetensors"), "Weights not found")


def packs() -> Iterator[Bad]:
    def make(name: str, content: bytes) -> Callable[[Path], Call]:
        def write(folder: Path) -> Call:
            (folder / name).write_bytes(content)
            return lambda: [sample["name"] for sample in Pack(folder / name)]

        return write

    def pack(names: object, **tensors: torch.Tensor) -> bytes:
        image = torch.zeros(4, 4, dtype=torch.uint8)
        values = {"000000.a": image, "000000.b": image.clone()} | tensors
        return save({k: v for k, v in values.items() if v.numel()}, metadata={"names": json.dumps(names)})

    says = "Not a readable pack"
    good = pack(["one"])
    for share in (0.0, 0.3, 0.9):
        yield Bad(f"pack cut at {share}", make("p.safetensors", good[: int(len(good) * share)]), says)
    yield Bad("pickle as pack", make("p.safetensors", pickle.dumps([1])), says)
    for names in (["../evil"], ["a/b"], [""], [".."], [1], {"a": 1}, "text", None, ["one", "two"]):
        yield Bad(f"pack with names {names!r}", make("p.safetensors", pack(names)), says)
    for what, tensors in {
        "no second image": {"000000.b": torch.zeros(0)},
        "float image": {"000000.a": torch.zeros(4, 4)},
        "flat image": {"000000.a": torch.zeros(16, dtype=torch.uint8)},
        "boxes in bytes": {"000000.boxes": torch.ones(1, 5).byte()},
    }.items():  # fmt: skip
        yield Bad(f"pack with {what}", make("p.safetensors", pack(["one"], **tensors)), says)
