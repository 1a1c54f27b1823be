"""Generated input: it is read as documented, or refused with one message. Nothing else happens.

`make test` tries about 100 members, always the same ones; `make test-faults` tries 10,000, others in each run.
`MMFUSE_EXAMPLES` sets the number.
"""

from __future__ import annotations

import copy
import io
import json
import os
import re
import signal
import struct
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

import bad_texts
from bad_inputs import png_bytes, saved
from mmfuse import comparing
from mmfuse.data.catalog import load_catalog
from mmfuse.data.images import image_files, read_image
from mmfuse.data.packs import Pack, write_pack
from mmfuse.downstream.results import read_detections, read_masks
from mmfuse.errors import UserError
from mmfuse.files.reading import read_table
from mmfuse.files.writing import checksum, csv_text
from mmfuse.reporting import efficiency, provenance
from mmfuse.study import integrity
from mmfuse.study.parameters import load_parameters
from mmfuse.study.stages import EVALUATE, jobs_of, report_inputs
from mmfuse.training.checkpoints import WeightsCard, read_weights, save_weights

EXAMPLES = int(os.environ.get("MMFUSE_EXAMPLES", "100"))
SECONDS = 30  # of processor time; the slowest member takes less than one


def members(share):
    """Try a share of the members, in percent."""
    return settings(
        max_examples=max(1, EXAMPLES * share // 100),
        derandomize=EXAMPLES <= 100,
        database=None,
        deadline=None,
        print_blob=True,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


def accepted(call):
    """Return [what a call returns], or [] if it refuses its input with one message; nothing takes for ever."""

    def stop(*_):
        raise AssertionError(f"not done after {SECONDS} seconds of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        return [call()]
    except UserError as error:
        assert error.exit_code == 2
        assert any(part is not None for part in (error.expected, error.found, error.fix)), "no word on what to do"
        assert len(str(error)) < 100_000
        return []
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


# ------------------------------------------------------------------------------------------------------ bytes

EXTREMES = (b"\0", b"\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x01\0\0\0", b"\0\0\0\x01")


@st.composite
def mutated(draw, good):
    """A file with up to four changes, more of them in its header."""
    data = bytearray(draw(st.sampled_from(good)))
    for _ in range(draw(st.integers(1, 4))):
        last = max(0, len(data) - 1)
        place = draw(st.one_of(st.integers(0, min(80, last)), st.integers(0, last)))
        kind = draw(st.sampled_from(["bit", "bit", "bytes", "cut", "insert", "delete", "double"]))
        some = draw(st.one_of(st.sampled_from(EXTREMES), st.binary(min_size=1, max_size=8)))
        if kind == "bit" and data:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "bytes":
            data[place : place + len(some)] = some
        elif kind == "cut":
            del data[place:]
        elif kind == "insert":
            data[place:place] = some
        elif kind == "delete":
            del data[place : place + len(some)]
        else:
            data += data[place:]
    return bytes(data)


# ------------------------------------------------------------------------------------------------------ images


@pytest.fixture(autouse=True)
def _small_images(monkeypatch):
    """Headers that claim a large image take little memory."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1 << 20)


def noise(height, width, channels, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return values[..., 0] if channels == 1 else values


GREY, COLOUR = Image.fromarray(noise(9, 11, 1)), Image.fromarray(noise(9, 11, 3))
SMOOTH = Image.fromarray(np.add.outer(np.arange(40), np.arange(50)).astype(np.uint8))
FILES = [
    *(saved(image, form) for image in (GREY, COLOUR, SMOOTH) for form in ("PNG", "BMP", "TIFF", "JPEG")),
    saved(COLOUR.quantize(16), "PNG"), saved(GREY, "TIFF", compression="tiff_lzw"),
    saved(COLOUR, "TIFF", compression="tiff_adobe_deflate"), saved(COLOUR, "JPEG", progressive=True),
]  # fmt: skip
ORIGINALS = [np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in FILES]


def is_whole_png(data):
    """Whether all chunks of a PNG file have their checksums, up to its end."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return False
    place = 8
    while place + 12 <= len(data):
        (size,) = struct.unpack(">I", data[place : place + 4])
        chunk = data[place + 4 : place + 8 + size]
        if data[place + 8 + size : place + 12 + size] != struct.pack(">I", zlib.crc32(chunk)):
            return False
        if chunk.startswith(b"IEND"):
            return True
        place += 12 + size
    return False


def in_colour(pixels):
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


@members(20)
@given(content=mutated(FILES))
def test_changed_images_are_read_or_refused(tmp_path, content):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    for found in accepted(lambda: read_image(path)):
        assert found.dtype == np.uint8
        assert found.ndim == 2 or (found.ndim == 3 and found.shape[2] == 3)
        assert found.size > 0
        if content.startswith(b"\x89PNG") and not is_whole_png(content):
            assert any(np.array_equal(in_colour(found), one) for one in ORIGINALS), "damage was not noticed"


LOSSLESS = {"PNG": "png", "BMP": "bmp", "TIFF": "tif"}
MODES = {
    "L": ("PNG", "BMP", "TIFF"), "1": ("PNG", "BMP", "TIFF"), "LA": ("PNG", "TIFF"), "RGB": ("PNG", "BMP", "TIFF"),
    "RGBA": ("PNG", "TIFF"), "P": ("PNG", "BMP", "TIFF"), "CMYK": ("TIFF",), "I;16": ("PNG", "TIFF"), "F": ("TIFF",),
    "I": ("TIFF",), "LAB": ("TIFF",), "YCbCr": ("TIFF",),
}  # fmt: skip


@st.composite
def images(draw):
    """An image of any mode, its bytes, and what is read of it by the documentation; None if it is refused."""
    height, width, seed = draw(st.integers(1, 40)), draw(st.integers(1, 40)), draw(st.integers(0, 9))
    mode = draw(st.sampled_from(list(MODES)))
    form = draw(st.sampled_from(MODES[mode]))
    grey, colour = noise(height, width, 1, seed), noise(height, width, 3, seed)
    alpha = noise(height, width, 1, seed + 1)
    if mode == "L":
        image, expected = Image.fromarray(grey), grey
    elif mode == "1":
        expected = np.where(grey > 127, 255, 0).astype(np.uint8)
        image = Image.fromarray(expected).convert("1", dither=Image.Dither.NONE)
    elif mode == "LA":
        image, expected = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]), grey
    elif mode == "RGB":
        image, expected = Image.fromarray(colour), colour
    elif mode == "RGBA":
        image, expected = Image.fromarray(np.dstack([colour, alpha])), colour
    elif mode == "P":
        palette = noise(256, 1, 3, seed)[:, 0]
        image, expected = Image.fromarray(grey, "L"), palette[grey]
        image.putpalette(palette.tobytes())
    elif mode == "CMYK":
        image = Image.fromarray(noise(height, width, 4, seed), "CMYK")
        expected = np.asarray(image.convert("RGB"))
    else:
        expected = None
        values = {"I;16": np.uint16, "F": np.float32, "I": np.int32}
        image = Image.fromarray(grey.astype(values[mode])) if mode in values else Image.fromarray(colour).convert(mode)
    options = {}
    if form == "TIFF" and mode not in {"F", "I", "LAB", "YCbCr"}:
        options["compression"] = draw(st.sampled_from(["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"]))
    return form, saved(image, form, **options), expected


@members(12)
@given(one=images())
def test_images_of_any_mode_and_size_are_read_as_documented(tmp_path, one):
    form, content, expected = one
    path = tmp_path / f"x.{LOSSLESS[form]}"
    path.write_bytes(content)
    found = accepted(lambda: read_image(path))
    assert (expected is None) == (found == [])
    for pixels in found:
        assert pixels.shape == expected.shape
        assert np.array_equal(pixels, expected)


@members(4)
@given(
    depth=st.sampled_from([1, 2, 4, 8, 16]), colour=st.sampled_from([0, 2, 4, 6]), height=st.integers(0, 30),
    width=st.integers(0, 30), missing=st.sampled_from([0, 0, 1, 5]), whole_rows=st.booleans(),
)  # fmt: skip
def test_headers_of_any_depth_are_read_as_documented(tmp_path, depth, colour, height, width, missing, whole_rows):
    """Grey levels of less than 8 bits are stretched to 0 to 255; more than 8 bits, and missing rows, are refused."""
    row = bytes(range(1 + (width * {0: 1, 2: 3, 4: 2, 6: 4}[colour] * depth + 7) // 8))
    data = row * height
    missing *= len(row) if whole_rows else 1
    path = tmp_path / "x.png"
    path.write_bytes(png_bytes(height, width, depth=depth, colour=colour, data=data[: max(0, len(data) - missing)]))
    found = accepted(lambda: read_image(path))
    legal = depth == 8 or (colour == 0 and depth < 8)
    assert bool(found) == (legal and missing == 0 and height * width > 0)
    for pixels in found if colour == 0 else ():
        bits = np.unpackbits(np.frombuffer(row[1:], np.uint8))[: width * depth]
        levels = bits.reshape(width, depth) @ (1 << np.arange(depth)[::-1])
        assert (pixels == levels * 255 // (2**depth - 1)).all()


# ------------------------------------------------------------------------------------------------------ labels

NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
numbers = st.one_of(
    st.floats(0, 1).map(repr), st.integers(-2, 3).map(str), st.floats().map(repr), st.integers().map(str),
    st.sampled_from(
        ["0.5", "1_0", "\u0661", "\uff11", "1,5", "0x1", "nan", "-inf", "1e400", "9" * 45, "1.", ".5", "+1", "1e"]
    ),
)  # fmt: skip
lines = st.lists(numbers, min_size=3, max_size=6).map(" ".join) | st.tuples(
    st.sampled_from("01"), *[st.floats(0, 1).map(repr)] * 4
).map(" ".join)


def labelled(folder, kind, content, **options):
    """Read a pair with a label file as the stages do; return its labels."""
    call = bad_texts.labelled(kind, content, **options)(folder)

    def read():
        call()
        return np.array(Pack(folder / "pack.safetensors")[0][kind])

    return accepted(read)


@members(8)
@given(
    text=st.one_of(st.lists(lines, max_size=4).map("\n".join), st.text(max_size=30)),
    goal=st.sampled_from(["", "detect"]),
)
def test_boxes_are_read_number_by_number_or_refused(tmp_path, text, goal):
    for found in labelled(tmp_path, "boxes", text.encode("utf-8", "surrogatepass"), goal=goal):
        rows = [line.split() for line in re.split("\r\n|\n|\r", text) if line.strip()]
        assert all(len(row) == 5 and all(map(NUMBER.fullmatch, row)) for row in rows)
        assert np.array_equal(
            found, np.array([[float(word) for word in row] for row in rows], np.float32).reshape(-1, 5)
        )
        if goal:
            assert np.isfinite(found).all()
            assert set(found[:, 0]) <= {0, 1}
            assert (found[:, 3:] > 0).all()


VOC = (
    "<annotation><object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
    "</object></annotation>"
)


@members(3)
@given(
    name=st.sampled_from(["car", "Car", "nothing", "ufo", "", "car "]), sides=st.tuples(*[numbers] * 4),
    goal=st.sampled_from(["", "detect"]),
)  # fmt: skip
def test_boxes_in_xml_are_read_number_by_number_or_refused(tmp_path, name, sides, goal):
    text = VOC.format(name, *sides).encode("utf-8")
    for found in labelled(tmp_path, "boxes", text, form="voc", goal=goal):
        assert all(map(NUMBER.fullmatch, sides))
        left, top, right, bottom = map(float, sides)
        wanted = [
            name.strip().lower() == "car",
            (left + right) / 60,
            (top + bottom) / 48,
            (right - left) / 30,
            (bottom - top) / 24,
        ]
        assert np.allclose(found, np.array([wanted], np.float32), rtol=1e-5)


@members(3)
@given(content=mutated([VOC.format("car", 1, 2, 10, 20).encode()]))
def test_changed_xml_is_read_or_refused(tmp_path, content):
    for found in labelled(tmp_path, "boxes", content, form="voc", goal="detect"):
        assert found.shape[1] == 5
        assert np.isfinite(found).all()


MASK = (np.arange(24 * 30).reshape(24, 30) % 2).astype(np.uint8)
MASKS = [saved(Image.fromarray(MASK), form) for form in ("PNG", "BMP", "TIFF")]


@members(6)
@given(content=mutated(MASKS))
def test_changed_masks_are_read_or_refused(tmp_path, content):
    for found in labelled(tmp_path, "mask", content, goal="segment"):
        assert found.shape == MASK.shape
        assert set(np.unique(found)) <= {0, 1}
        assert not content.startswith(b"\x89PNG") or is_whole_png(content) or np.array_equal(found, MASK)


# ------------------------------------------------------------------------------------------------------ names

names = st.one_of(
    st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=40),
    st.text(st.sampled_from("ab.-_ =+@'\"{}[]*?<>&;%$#~\n\t\u202e\u2066\u0301\x85"), min_size=1, max_size=12),
    st.binary(min_size=1, max_size=8).map(os.fsdecode),
)


@members(8)
@given(name=names)
def test_names_stay_as_they_are_or_are_refused(tmp_path_factory, name):
    assume("/" not in name and "\0" not in name and len(os.fsencode(name)) < 250)
    folder = tmp_path_factory.mktemp("names")
    (folder / f"{name}.png").write_bytes(FILES[0])
    for found in accepted(lambda: image_files(folder)):
        composed = unicodedata.normalize("NFC", name)
        assert list(found) == ([] if name.startswith(".") else [composed])
        if found:
            assert not any(unicodedata.category(character) in {"Cc", "Cs"} for character in name)
            (folder / "x.csv").write_text(csv_text([["name"], [name]]), encoding="utf-8", newline="")
            assert read_table(folder / "x.csv", ("name",), fix="") == [{"name": name}]
            write_pack(folder / "x.safetensors", [{"name": name, "a": MASK, "b": MASK}])
            assert Pack(folder / "x.safetensors").names == [name]


# ------------------------------------------------------------------------------------------ parameters, catalog, JSON

junk = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 3), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["base", "mma_unet", "synthetic_road", "../x", "1e3", "", "nan", "s0"]),
    st.lists(st.integers(0, 2), max_size=2),
    st.dictionaries(st.sampled_from(["a", "mean", "steps"]), st.integers(0, 2), max_size=1),
)  # fmt: skip


def places(value, above=()):
    """Return the keys and indices that lead to each inner value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, one in inner for found in [(*above, key), *places(one, (*above, key))]]


@st.composite
def changed(draw, good):
    """A tree of values with one or two changes: another value, one that occurs elsewhere, one less, one more."""
    tree = copy.deepcopy(draw(st.sampled_from(good)))
    for _ in range(draw(st.integers(1, 2))):
        known = places(tree)
        assume(known)
        *above, last = draw(st.sampled_from(known))
        block = tree
        for key in above:
            block = block[key]
        kind = draw(st.sampled_from(["replace", "replace", "replace", "move", "remove", "add"]))
        if kind == "replace":
            block[last] = draw(junk)
        elif kind == "move":
            other = tree
            for key in draw(st.sampled_from(known)):
                other = other[key]
            block[last] = copy.deepcopy(other)
        elif kind == "remove":
            del block[last]
        elif isinstance(block, dict):
            block[draw(st.text(max_size=5))] = draw(junk)
        else:
            block.append(draw(junk))
    return tree


TINY = yaml.safe_load((bad_texts.ROOT / "workflow/configs/tiny.yaml").read_text(encoding="utf-8"))


@pytest.mark.usefixtures("project")
@members(12)
@given(values=changed([TINY]))
def test_changed_parameters_make_a_plan_or_are_refused(values):
    path = Path("params.yaml")
    path.write_text(yaml.dump(values, Dumper=yaml.CSafeDumper), encoding="utf-8", errors="surrogatepass")

    def planned():
        parameters = load_parameters(path)
        for stage, key in jobs_of(parameters):
            stage.check(key)
            stage.files(parameters, key)
            stage.watched(parameters, key)
            stage.tags(parameters, key)
        report_inputs(parameters)
        return parameters

    for found in accepted(planned):
        assert found == values


@members(4)
@given(tree=changed([{"datasets": {"madeup": bad_texts.ENTRY}}]))
def test_changed_catalogs_are_read_or_refused(tmp_path, tree):
    path = tmp_path / "catalog.yaml"
    path.write_text(yaml.dump(tree, Dumper=yaml.CSafeDumper), encoding="utf-8", errors="surrogatepass")
    for found in accepted(lambda: load_catalog(path, schema=bad_texts.CATALOG_SCHEMA)):
        assert list(found) == list(tree["datasets"])


KEY = {"dataset": "road", "method": "average", "variant": "base", "seed": "0"}
RECORD = {
    "stage": "evaluate", "command": "mmfuse stage evaluate",
    "inputs": {"data/x": "0" * 64, "src/mmfuse/errors.py": "1" * 64},
    "outputs": {}, "parameters": {"evaluate.metrics": ["EN"], "data/catalog.yaml:datasets.road": {"title": "Road"}},
    "versions": {"python": "3.11", "torch": "2"}, "commit": "a" * 40, "dirty": False, "changes": None, "seed": 0,
    "machine": {"system": "Linux", "processor": "x", "cores": 2, "device": "cpu", "capability": "X", "threads": 1},
    "mlflow": {"uri": "sqlite:///mlflow.db", "experiment": "s", "run_id": "b" * 32},
    "measured": {"seconds_per_image": 0.5, "parameters": 7, "height": 3, "width": 5, "backend": "torch"},
}  # fmt: skip


def as_json(trees):
    """Changed trees as JSON, and JSON with changed bytes."""
    return changed(trees).map(lambda tree: json.dumps(tree).encode()) | mutated(
        [json.dumps(one).encode() for one in trees]
    )


@members(8)
@given(content=as_json([RECORD]))
def test_changed_records_are_shown_or_refused(tmp_path, content):
    path = bad_texts.written(tmp_path / EVALUATE.path("record", KEY), content)

    def shown():
        run = provenance.read_run(path, "evaluate", "road", "average.base.s0")
        made = provenance.makers([run])
        provenance.section(run, made)
        provenance.overview([run, run], {})
        provenance.as_lines([run])
        efficiency.cost([run, run])
        return run.record

    for found in accepted(shown):
        assert found.items() >= {k: v for k, v in json.loads(content).items() if v is not None}.items()
    table = EVALUATE.path("table", KEY)
    for _ in accepted(lambda: integrity.check_made(tmp_path, {table: "2" * 64})):
        assert json.loads(content)["outputs"][table] == "2" * 64


SUMMARY = bad_texts.SUMMARY | {"dataset": "road", "method": "average", "variant": "base", "task": "ivif", "seed": 0}


@members(5)
@given(
    which=st.sampled_from(["record", "summary", "table"]), record=as_json([RECORD]), summary=as_json([SUMMARY]),
    table=mutated([bad_texts.CSV.encode()]), recorded=st.booleans(),
)  # fmt: skip
def test_changed_results_are_compared_or_refused(tmp_path_factory, which, record, summary, table, recorded):
    """Where a record tells the checksums, no change of a table or of its summary is accepted."""
    root = tmp_path_factory.mktemp("runs")
    good = {"summary": json.dumps(SUMMARY).encode(), "table": bad_texts.CSV.encode()}
    bad = good | {"summary": {"summary": summary}, "table": {"table": table}}.get(which, {})
    for name, contents in (("good", good), ("bad", bad)):
        for output, content in contents.items():
            bad_texts.written(root / name / EVALUATE.path(output, KEY), content)
        outputs = {EVALUATE.path(o, KEY): checksum(root / "good" / EVALUATE.path(o, KEY)) for o in good}
        text = record if (name, which) == ("bad", "record") else json.dumps(RECORD | {"outputs": outputs}).encode()
        if recorded or which == "record":
            bad_texts.written(root / name / EVALUATE.path("record", KEY), text)
    for found in accepted(lambda: comparing.compare([str(root / "good"), str(root / "bad")])):
        assert found.rows
        assert which == "record" or not recorded or bad == good


OBJECTS = {"classes": ["car", "bus"], "objects": {"x": [1, 0], "y": [0, 2]}}
HITS = "image,class,score,hits\nx,car,0.5,1111100000\ny,bus,0.25,1111111111\n"
CLASSES = {"classes": ["car", "bus"], "images": ["x", "y"]}
PIXELS = "image,true,predicted,pixels\nx,car,bus,5\ny,bus,bus,7\n"


@members(5)
@given(
    kind=st.sampled_from([(read_detections, OBJECTS, HITS), (read_masks, CLASSES, PIXELS)]), data=st.data(),
    which=st.sampled_from(["json", "csv"]),
)  # fmt: skip
def test_changed_results_of_detectors_are_read_or_refused(tmp_path, kind, data, which):
    read, summary, table = kind
    content = data.draw(as_json([summary])) if which == "json" else json.dumps(summary).encode()
    bad_texts.written(tmp_path / "a.seed0.json", content)
    bad_texts.written(tmp_path / "a.seed0.csv", data.draw(mutated([table.encode()])) if which == "csv" else table)
    for found, _ in accepted(lambda: read(tmp_path / "a.seed0")):
        assert found == json.loads(content)


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    """A pack and a file of weights, as bytes."""
    folder = tmp_path_factory.mktemp("tensors")
    write_pack(folder / "x", [{"name": "x", "a": MASK, "b": MASK, "mask": MASK}])
    save_weights(folder / "y", {"w": torch.ones(3)}, WeightsCard("average", "base", "ivif", 0, "x", {}, complete=True))
    return (folder / "x").read_bytes(), (folder / "y").read_bytes()


@members(2)
@given(data=st.data())
def test_changed_packs_and_weights_are_read_or_refused(tmp_path, tensors, data):
    """Their checksums are in the records; here, only the header can be held against the content."""
    for content, read in zip(tensors, (lambda path: list(Pack(path)), read_weights), strict=True):
        path = tmp_path / "x.safetensors"
        path.write_bytes(data.draw(mutated([content])))
        for found in accepted(lambda path=path, read=read: read(path)):
            assert found is not None
