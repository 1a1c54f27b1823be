"""Names of images: patterns, suffixes, subfolders and Unicode, in folders and in datasets of the catalog."""

from __future__ import annotations

import itertools
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from mmfuse.data.images import read_image, write_image
from mmfuse.data.names import Naming, find_images, left_out
from mmfuse.data.pairs import check_all, find_own_pairs, match_folders, read_triple
from mmfuse.errors import UserError

LETTERS = [
    "é",
    "ü",
    "ß",
    "ガ",
    "한",
    "ệ",
    "Å",
    "ñ",
    "й",
    " ",
    ".",
    "_",
    "-",
    "a",
    "Z",
    "7",
    "'",
    "[",
    "*",
    "(",
    "+",
    "$",
]


def empty(*paths: Path) -> None:
    """Make files: finding images does not read them."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def odd_names(seed: int, count: int) -> list[str]:
    """Return different names of 2 to 8 signs, in composed form."""
    chance = random.Random(seed)
    names = {"n" + "".join(chance.choices(LETTERS, k=chance.randint(1, 7))) + "n" for _ in range(3 * count)}
    return sorted({unicodedata.normalize("NFC", name) for name in names})[:count]


# -------------------------------------------------------------------------------------------------------- patterns

PATTERNS = [
    ("{name}_ir.png", "{name}_vis.png"), ("{name}_ir.*", "{name}_vis.*"), ("{name}_ir", "{name}_vis"),
    ("ir_{name}.png", "vis_{name}.png"), ("{name}-(1).png", "{name}-(2).png"), ("{name}.thermal", "{name}.rgb"),
    ("{name}/ir.png", "{name}/vis.png"), ("ir/{name}.png", "vis/{name}.png"),
    ("{name}/{name}_ir.png", "{name}/{name}.png"),
    ("{name}é.png", "{name}ü.png"),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), PATTERNS)
@pytest.mark.parametrize("together", [False, True])
def test_patterns_find_what_they_describe(tmp_path, first, second, together):
    a, b = tmp_path / "a", tmp_path / ("a" if together else "b")
    names = odd_names(len(first), 12)
    suffixes = itertools.cycle([".png", ".JPG", ".tif"] if first[-4:] != ".png" else [".png", ".PNG"])
    expected = []
    for name in names:
        paths = []
        for folder, pattern in ((a, first), (b, second)):
            stem = pattern.removesuffix(".png").removesuffix(".*").replace("{name}", name)
            paths.append(folder / f"{stem}{next(suffixes)}")
        empty(*paths)
        expected.append((name, paths))
    naming = Naming({"a": first, "b": second})
    matched, lines = find_own_pairs({"a": a, "b": b}, naming)
    assert [(pair.name, [pair.paths["a"], pair.paths["b"]]) for pair in matched] == expected
    assert lines == []
    empty(a / "other.xcf")
    assert "other.xcf" in "".join(left_out({"a": a, "b": b}, naming))


@pytest.mark.parametrize(
    ("first", "second"), [("{name}.png", "{name}.jpg"), ("{name}_ir.*", "{name}_vis.*"), ("ir/{name}", "vi/{name}")]
)
def test_subfolders_become_part_of_the_name(tmp_path, first, second):
    expected = []
    for number, sub in enumerate(["", "night/", "day/1/", "day/2/"]):
        for folder, pattern in (("a", first), ("b", second)):
            above, _, last = pattern.rpartition("/")
            name = last.replace("{name}", f"n{number}").replace(".*", ".png")
            empty(tmp_path / folder / sub / above / (name if "." in name else f"{name}.png"))
        expected.append(f"{sub}n{number}")
    sources = {"a": tmp_path / "a", "b": tmp_path / "b"}
    patterns = {"a": first, "b": second}
    matched, lines = find_own_pairs(sources, Naming(patterns, recursive=True))
    assert [pair.name for pair in matched] == sorted(expected)
    assert lines == []


def test_links_to_folders_are_followed_once(tmp_path):
    for side in "ab":
        empty(tmp_path / side / "1.png", tmp_path / f"far_{side}/2.png")
        (tmp_path / side / "link").symlink_to(tmp_path / f"far_{side}")
        (tmp_path / side / "again").symlink_to(tmp_path / side)
    matched, _ = find_own_pairs({"a": tmp_path / "a", "b": tmp_path / "b"}, Naming(recursive=True))
    assert [pair.name for pair in matched] == ["1", "link/2"]


def test_a_pattern_without_a_name_or_without_matches_is_refused(tmp_path):
    empty(tmp_path / "a/1_ir.png", tmp_path / "b/1_vis.png")
    sources = {"a": tmp_path / "a", "b": tmp_path / "b"}
    with pytest.raises(UserError, match=r"no \{name\}"):
        find_own_pairs(sources, Naming({"a": "ir.png", "b": "vis.png"}))
    with pytest.raises(UserError, match=r"no images to match(.|\n)*x_\{name\}\.png(.|\n)*1_ir\.png"):
        find_own_pairs(sources, Naming({"a": "x_{name}.png", "b": "x_{name}.png"}))
    with pytest.raises(UserError, match=r"no name in common(.|\n)*\{name\}_ir\.png"):
        find_own_pairs(sources)
    with pytest.raises(UserError, match="no effect on files"):
        find_own_pairs({"a": tmp_path / "a/1_ir.png", "b": tmp_path / "b/1_vis.png"}, Naming(recursive=True))


def test_two_files_of_one_name_are_refused(tmp_path):
    for one, two in [("1.png", "1.PNG"), ("1.jpg", "1.tiff"), ("é.png", unicodedata.normalize("NFD", "é.png"))]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        empty(folder / one, folder / two)
        with pytest.raises(UserError, match="Two images with the same name"):
            find_images(folder)


# --------------------------------------------------------------------------------------------------------- Unicode


@pytest.mark.parametrize("seed", range(20))
def test_composed_and_decomposed_names_match(tmp_path, seed):
    names, forms = odd_names(seed, 10), random.Random(seed)
    for side in "abc":
        empty(*(tmp_path / side / f"{unicodedata.normalize(forms.choice(['NFC', 'NFD']), name)}.png" for name in names))
    matched = match_folders(**{side: tmp_path / side for side in "abc"})
    assert [pair.name for pair in matched] == names
    for pair in matched:
        assert all(unicodedata.normalize("NFC", path.stem) == pair.name for path in pair.paths.values())
        assert all(path.exists() for path in pair.paths.values())


# ------------------------------------------------------------------------------------------- what is left out is said


@pytest.mark.parametrize(
    "suffix", [".webp", ".gif", ".jp2", ".heic", ".pgm", ".nii.gz", ".dcm", ".npy", ".xyz", ".exr", ".tga", ".mp4"]
)
def test_pairs_of_other_types_and_in_subfolders_are_said(tmp_path, suffix):
    for side in "ab":
        empty(tmp_path / side / "1.png", tmp_path / side / f"3{suffix}", tmp_path / side / "night/4.png")
        empty(tmp_path / side / ".hidden.png", tmp_path / side / ".git/5.png", tmp_path / side / "notes.txt")
    sources = {"a": tmp_path / "a", "b": tmp_path / "b"}
    matched, lines = find_own_pairs(sources)
    assert [pair.name for pair in matched] == ["1"]
    for side in "ab":
        assert f"{tmp_path / side}: 1 file of another type or name (3{suffix})" in lines
        assert f"{tmp_path / side}: 1 subfolder (night); --recursive reads them" in lines
    assert len(lines) == 4
    (tmp_path / "b" / f"3{suffix}").unlink()
    empty(tmp_path / "b/3.png")
    if suffix.count(".") == 1:
        with pytest.raises(UserError, match=rf"3\.png: no image with this name in .*a \(3\{suffix} is not read\)"):
            find_own_pairs(sources)


def test_long_lists_are_shortened(tmp_path):
    for side in "ab":
        empty(tmp_path / side / "1.png", *(tmp_path / side / f"{number}.webp" for number in range(50)))
    lines = list(left_out({"a": tmp_path / "a", "b": tmp_path / "b"}, Naming()))
    assert lines[0] == f"{tmp_path / 'a'}: 50 files of another type or name (0.webp, 1.webp, 10.webp, ...)"


# ----------------------------------------------------------------------------------------------- folders and files


def test_one_folder_or_file_for_both_is_refused(tmp_path):
    empty(tmp_path / "d/001_ir.png", tmp_path / "d/001_vis.png")
    (tmp_path / "link").symlink_to(tmp_path / "d")
    file = tmp_path / "d/001_ir.png"
    for a, b in [("d", "d"), ("d", "link"), ("d", "d/../d"), (file, file), (file, tmp_path / "link/001_ir.png")]:
        with pytest.raises(UserError, match="given twice"):
            find_own_pairs({"a": tmp_path / a, "b": tmp_path / b})
    same = Naming({"a": "{name}_ir.png", "b": "{name}_ir.png"})
    with pytest.raises(UserError, match="given twice"):
        find_own_pairs({"a": tmp_path / "d", "b": tmp_path / "d"}, same)


def test_files_folders_and_what_is_missing_are_told_apart(tmp_path):
    empty(tmp_path / "a/1.png", tmp_path / "b/1.png")
    file, folder = tmp_path / "a/1.png", tmp_path / "b"
    for sources in ({"a": file, "b": folder}, {"a": folder, "b": file}, {"fused": folder, "a": folder, "b": file}):
        with pytest.raises(UserError, match=r"1\.png is a file") as caught:
            find_own_pairs(sources)
        assert f"{folder} is a folder" in str(caught.value)
    with pytest.raises(UserError, match=r"Image not found: .*nothing\.png"):
        find_own_pairs({"a": tmp_path / "nothing.png", "b": file})
    with pytest.raises(UserError, match=r"Folder not found: .*nothing"):
        find_own_pairs({"a": folder, "b": tmp_path / "nothing"})
    with pytest.raises(UserError, match="this is a file"):
        find_images(file)


# ------------------------------------------------------------------------------------------- all images are checked


@pytest.mark.parametrize("seed", range(6))
def test_all_unusable_images_are_listed(tmp_path, image, seed):
    chance = np.random.default_rng(seed)
    chosen = chance.choice(30, int(chance.integers(2, 25)), replace=False)
    bad = {f"{number:02}": int(chance.integers(4)) for number in chosen}
    for number in range(30):
        name = f"{number:02}"
        size = (21, 20) if bad.get(name) == 3 else (20, 20)
        write_image(tmp_path / f"a/{name}.png", image(number, 20, 20))
        write_image(tmp_path / f"b/{name}.png", image(number, *size, colour=True))
        path = tmp_path / f"{'ab'[number % 2]}/{name}.png"
        content = path.read_bytes()
        if bad.get(name) in {0, 1, 2}:
            path.write_bytes([content[: len(content) // 2], b"", b"GIF89a" + content][bad[name]])
    matched, _ = find_own_pairs({"a": tmp_path / "a", "b": tmp_path / "b"})
    with pytest.raises(UserError, match=f"Of 30 pairs, {len(bad)} cannot be used") as caught:
        check_all(matched)
    for number in range(30):
        assert (f"/{number:02}.png" in str(caught.value)) == (f"{number:02}" in bad)
    check_all([pair for pair in matched if pair.name not in bad])


@pytest.mark.parametrize("side", ["a", "b"])
def test_sources_are_resized_only_when_asked(tmp_path, image, side):
    write_image(tmp_path / "a.png", image(1, 20, 24))
    write_image(tmp_path / "b.png", image(2, 40, 48, colour=True))
    size = (20, 24) if side == "a" else (40, 48)
    write_image(tmp_path / "f.png", image(3, *size))
    paths = [tmp_path / name for name in ("f.png", "a.png", "b.png")]
    assert [triple.shape for triple in read_triple(*paths, resize_to=side)] == 3 * [(1, *size)]
    with pytest.raises(UserError, match="--resize-to"):
        read_triple(*paths)
    with pytest.raises(UserError, match="differ in size"):
        read_triple(*paths, resize_to="b" if side == "a" else "a")
    kept = read_triple(*paths, resize_to=side)["fab".index(side)]
    assert np.array_equal(np.rint(kept[0].numpy() * 255)[:3], read_image(tmp_path / f"{side}.png", colour=False)[:3])
