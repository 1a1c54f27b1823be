"""Datasets put together by hand: lists, suffixes, names, labels and counts that differ from the catalog's."""

from __future__ import annotations

import codecs
import itertools
import random
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from PIL import ExifTags, Image

from mmfuse.data.catalog import Labels, Layout, Splits, load_catalog
from mmfuse.data.images import write_image
from mmfuse.data.reading import _boxes, find_pairs, read_pair
from mmfuse.errors import UserError
from mmfuse.stages import prepare

NAMES = ["00001D", "test 1", "x.y.1", "straße_café", "a  b", "한국", "FLIR_1", "-1"]


@pytest.fixture
def dataset():
    """Make a catalog entry with a layout, splits and numbers of pairs."""

    def make(a="ir/{name}.png", b="vi/{name}.png", *, boxes=None, **splits):
        entry = load_catalog()["msrs"]
        none = {"folders": {}, "lists": {}, "rest": None, "to": None, "number": None, "step": 0, "remainder": 0}
        pairs = splits.pop("pairs", {})
        layout = Layout(a=a, b=b, mask=None, boxes=boxes, channels={}, every=None)
        return replace(entry, name="own", layout=layout, splits=Splits(**{**none, **splits}), pairs=pairs)

    return make


def empty(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


# ----------------------------------------------------------------------------------------------------------- lists

ENCODINGS = {
    "utf-8": lambda text: text.encode(),
    "utf-8 with a mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "utf-16 with a mark": lambda text: text.encode("utf-16"),
    "big-endian utf-16": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "  \n", "\n\n", "\t\r\n"])
def test_each_listed_name_is_found(tmp_path, dataset, encoding, end):
    chance = random.Random(f"{encoding}{end}")
    empty(*(tmp_path / side / f"{name}.png" for side in ("ir", "vi") for name in NAMES))
    test = chance.sample(NAMES, 5)
    written = [unicodedata.normalize(chance.choice(["NFC", "NFD"]), name) for name in test]
    lines = [f"{name}{chance.choice(['', '.png', '.JPG'])}" for name in written]
    for last in ("", end):
        (tmp_path / "test.txt").write_bytes(ENCODINGS[encoding](end.join(lines) + last))
        found = find_pairs(dataset(by="list", lists={"test": "test.txt"}, rest="train"), tmp_path)
        splits = {files.name: files.split for files in found.pairs}
        assert splits == {name: "test" if name in test else "train" for name in NAMES}
        assert found.problems == found.differences == []


def test_several_names_in_a_line(tmp_path, dataset):
    empty(*(tmp_path / side / f"{name}.png" for side in ("ir", "vi") for name in ("1", "2", "3", "4 5")))
    (tmp_path / "test.txt").write_text("1.png 2.png\n4 5\n", encoding="utf-8")
    found = find_pairs(dataset(by="list", lists={"test": "test.txt"}, rest="train"), tmp_path)
    assert {files.name for files in found.pairs if files.split == "test"} == {"1", "2", "4 5"}


def test_listed_names_without_files_are_said(tmp_path, dataset, capsys):
    empty(*(tmp_path / side / f"{name}.png" for side in ("ir", "vi") for name in NAMES))
    (tmp_path / "test.txt").write_text("\n".join([*NAMES[:3], "test7", "none of these"]), encoding="utf-8")
    entry = dataset(by="list", lists={"test": "test.txt"}, rest="train", pairs={"train": 5, "test": 5})
    found = find_pairs(entry, tmp_path)
    assert found.differences == [
        "no files for 2 of 5 names in test.txt (test7, none of these)",
        "3 pairs in test, where the catalog says 5",
    ]
    found.warn("own")
    assert capsys.readouterr().err.splitlines() == [f"warning: own: {line}" for line in found.differences]


def test_a_list_in_another_encoding_is_refused(tmp_path, dataset):
    empty(tmp_path / "ir/é.png", tmp_path / "vi/é.png")
    (tmp_path / "test.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(UserError, match=r"not a text file: .*test\.txt(.|\n)*save it as UTF-8"):
        find_pairs(dataset(by="list", lists={"test": "test.txt"}, rest="train"), tmp_path)


# ------------------------------------------------------------------------------------------------ suffixes and files


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".*"])
def test_letters_of_a_suffix_may_be_large(tmp_path, dataset, suffix):
    chance = random.Random(suffix)
    written = ".png" if suffix == ".*" else suffix
    forms = ["".join(form) for form in itertools.product(*((sign, sign.upper()) for sign in written[1:]))]
    for number in range(20):
        empty(*(tmp_path / side / f"{number:02}.{chance.choice(forms)}" for side in ("ir", "vi")))
        empty(tmp_path / f"boxes/{number:02}.{chance.choice(['txt', 'TXT', 'Txt'])}")
    entry = dataset(f"ir/{{name}}{suffix}", f"vi/{{name}}{suffix}", boxes="boxes/{name}.txt", by="all", to="test")
    found = find_pairs(entry, tmp_path)
    assert [files.name for files in found.pairs] == [f"{number:02}" for number in range(20)]
    assert all("boxes" in files.paths for files in found.pairs)
    assert found.differences == []


@pytest.mark.parametrize("layout", ["{name}.png", "{name}.*"])
@pytest.mark.parametrize("other", ["3.webp", "3.gif", "night/3.png", "3.jp2", "3.heic"])
@pytest.mark.parametrize("by", ["all", "folder"])
def test_files_beside_the_pairs_are_said(tmp_path, dataset, layout, other, by):
    top = "train/" if by == "folder" else ""
    for side in ("ir", "vi"):
        empty(tmp_path / f"{top}{side}/1.png", tmp_path / f"{top}{side}/{other}", tmp_path / f"{top}{side}/notes.txt")
    where = {"folders": {"train": "train"}} if top else {"to": "train"}
    split = "{split}/" if top else ""
    entry = dataset(f"{split}ir/{layout}", f"{split}vi/{layout}", by=by, **where, pairs={"train": 2})
    found = find_pairs(entry, tmp_path)
    assert [files.name for files in found.pairs] == ["1"]
    assert found.differences == [
        f"2 files that no pattern of `layout` matches ({top}ir/{other}, {top}vi/{other})",
        "1 pair in train, where the catalog says 2",
    ]


def test_composed_and_decomposed_names_are_one(tmp_path, dataset):
    for name in NAMES:
        for side, form in (("ir", "NFC"), ("vi", "NFD")):
            empty(tmp_path / side / f"{unicodedata.normalize(form, name)}.png")
    found = find_pairs(dataset(by="all", to="test"), tmp_path)
    assert sorted(files.name for files in found.pairs) == sorted(NAMES)
    assert found.problems == []


def test_prepare_reports_and_goes_on(tmp_path, dataset, image, capsys):
    for number, name in enumerate(NAMES):
        write_image(tmp_path / f"raw/ir/{name}.png", image(number, 16, 16))
        write_image(tmp_path / f"raw/vi/{name}.png", image(number, 16, 16, colour=True))
    (tmp_path / "raw/test.txt").write_bytes(codecs.BOM_UTF8 + "\r\n".join([*NAMES[:3], "test7"]).encode())
    entry = dataset(by="list", lists={"test": "test.txt"}, rest="train", pairs={"train": 5, "test": 4})
    prepare.run(entry, raw=tmp_path / "raw", out=tmp_path / "out", val_fraction=0, skip_broken=False)
    out, err = capsys.readouterr()
    assert "own: 5 train, 0 val, 3 test" in out
    assert "test7" in err
    assert "3 pairs in test, where the catalog says 4" in err


# ---------------------------------------------------------------------------------------------------------- labels

WHOLE = ["1", "1.0", "1.", "1.000e+00", "1.000000000000000000e+00", "+1", "01", "10e-1"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", " \n", "\n\n"])
def test_boxes_of_all_programs_are_read(tmp_path, dataset, encoding, end):
    entry, chance = dataset(by="all", to="test"), random.Random(f"{encoding}{end}")
    entry = replace(entry, labels={"boxes": Labels({1: "car"}, "yolo")})
    forms = [".6f", ".18e", "g"]
    numbers = [
        [chance.choice(WHOLE), *(f"{chance.random():{chance.choice(forms)}}" for _ in range(4))] for _ in range(9)
    ]
    lines = [chance.choice([" ", "\t", "   "]).join(words) for words in numbers]
    path = tmp_path / "x.txt"
    path.write_bytes(ENCODINGS[encoding](end.join(lines)))
    expected = np.array([[1, *map(float, words[1:])] for words in numbers], np.float32)
    assert np.array_equal(_boxes(entry, path, (10, 10)), expected)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1,0.5,0.5,0.2,0.2", "commas"),
        ("1, 0.5, 0.5, 0.2, 0.2", "commas"),
        ("1 0.5 0.5 0.2", "4 values"),
        ("1 0.5 0.5 0.2 0.2 0.9", "6 values"),
        ("1.5 0.5 0.5 0.2 0.2", "'1.5' is not a class id"),
        ("car 0.5 0.5 0.2 0.2", "'car'"),
        ("1 0,5 0,5 0,2 0,2", "commas"),
        ("1 0.5 nan 0.2 0.2", "'nan'"),
        ("1 0.5 ０.5 0.2 0.2", "is not a number"),
        ("1;0.5;0.5;0.2;0.2", "1 values"),
        ("1e7 0.5 0.5 0.2 0.2", "not a class id"),
    ],
)
@pytest.mark.parametrize("place", [1, 2, 5])
def test_a_wrong_line_of_boxes_is_named(tmp_path, dataset, line, reason, place):
    entry = dataset(by="all", to="test")
    entry = replace(entry, labels={"boxes": Labels({1: "car"}, "yolo")})
    lines = ["1 0.5 0.5 0.2 0.2"] * 6
    lines[place - 1] = line
    (tmp_path / "x.txt").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError, match=f"Unreadable boxes: .*x.txt(.|\n)*line {place}: ") as caught:
        _boxes(entry, tmp_path / "x.txt", (10, 10))
    assert reason in str(caught.value)
    assert "class, centre x, centre y, width and height" in str(caught.value)
    assert "download" not in str(caught.value)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_belong_to_the_image_as_displayed(tmp_path, dataset, image, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    size = (40, 20) if orientation > 4 else (20, 40)
    (tmp_path / "vi").mkdir()
    Image.fromarray(image(1, *size, colour=True)).save(tmp_path / "vi/1.png", exif=exif)
    write_image(tmp_path / "ir/1.png", image(2, 20, 40))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/1.xml").write_text(
        "<a><object><name>car</name><bndbox><xmin>4</xmin><ymin>4</ymin><xmax>12</xmax><ymax>8</ymax></bndbox></object>"
        "</a>",
        encoding="utf-8",
    )
    entry = dataset(boxes="labels/{name}.xml", by="all", to="test")
    entry = replace(entry, labels={"boxes": Labels({1: "car"}, "voc")})
    sample = read_pair(entry, find_pairs(entry, tmp_path).pairs[0])
    assert sample["b"].shape == (20, 40, 3)
    assert np.allclose(sample["boxes"], [[1, 8 / 40, 6 / 20, 8 / 40, 4 / 20]])
