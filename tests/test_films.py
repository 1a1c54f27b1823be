"""Pairs that are frames of two aligned films: which frames, in which split, with which pixels, and broken films."""

from __future__ import annotations

import os
import struct
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import yaml

from mmfuse.data.catalog import load_catalog
from mmfuse.data.films import FilmReader, count_frames
from mmfuse.data.images import luminance
from mmfuse.data.packs import Pack
from mmfuse.data.reading import find_pairs, read_pair
from mmfuse.errors import UserError
from mmfuse.files.writing import write_text
from mmfuse.stages import prepare

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "workflow/schemas/catalog.schema.yaml"
HEIGHT, WIDTH = 48, 64


def entry(folder, *, every=5, **changes):
    """The catalog entry of a dataset of films, whose film `late` is the test film."""
    content = {
        "title": "made up", "task": "ivif", "roles": {"a": "infrared", "b": "visible"}, "common_size": None,
        "layout": {"a": "ir/{name}.mp4", "b": "vi/{name}.mp4", "frames": {"every": every}},
        "colour": {"a": "grey", "b": "colour"}, "value_range": [0, 255], "licence": "none", "citation": "none",
        "splits": {"by": "list", "lists": {"test": "test_films.txt"}, "rest": "train"},
        "mirror": "nowhere", "manifest": None, "defects": [],
        "sources": [{"manual": "https://example.org/", "instructions": "none"}], **changes,
    }  # fmt: skip
    write_text(folder / "catalog.yaml", yaml.safe_dump({"datasets": {"madeup": content}}))
    return load_catalog(folder / "catalog.yaml", schema=SCHEMA)["madeup"]


def picture(number, height=HEIGHT, width=WIDTH):
    """A frame of three colours whose lightness says its number."""
    pixels = np.full((height, width, 3), 20 + 8 * (number % 25), np.uint8)
    pixels[: height // 2, : width // 2, 0] += 30
    pixels[height // 2 :, width // 2 :, 2] += 30
    return pixels


def film(path, count, *, height=HEIGHT, width=WIDTH, codec="mpeg4", kind="yuv420p", options=None, shown=picture):
    """Write a film of `count` frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, kind
        stream.bit_rate, stream.codec_context.time_base = 4_000_000, Fraction(1, 30)
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        for number in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown(number, height, width), format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def raw(tmp_path):
    """Two pairs of films: `early` with 12 frames and `late`, the test film, with 16."""
    for name, count in {"early": 12, "late": 16}.items():
        for side in ("ir", "vi"):
            film(tmp_path / f"raw/{side}/{name}.mp4", count)
    write_text(tmp_path / "raw/test_films.txt", "late\n")
    return tmp_path / "raw"


def run(dataset, raw, *, skip_broken=False, subset=None):
    out = raw.parent / "prepared"
    prepare.run(dataset, raw=raw, out=out, val_fraction=0.0, skip_broken=skip_broken, subset=subset)
    return {split: Pack(out / f"{split}.safetensors") for split in ("train", "test")}, pd.read_csv(out / "pairs.csv")


def refused(dataset, raw):
    with pytest.raises(UserError) as caught:
        run(dataset, raw)
    return str(caught.value)


def test_frames_become_pairs_and_films_are_split(raw, tmp_path):
    packs, table = run(entry(tmp_path), raw)
    assert packs["train"].names == ["early_f00000", "early_f00005", "early_f00010"]
    assert packs["test"].names == [f"late_f{number:05}" for number in (0, 5, 10, 15)]
    assert table.iloc[1].tolist() == ["early_f00005", "train", HEIGHT, WIDTH, "ir/early.mp4", "vi/early.mp4"]
    for number, sample in zip((0, 5, 10, 15), packs["test"], strict=True):
        assert sample["a"].shape == (HEIGHT, WIDTH)
        assert np.abs(sample["b"].astype(int) - picture(number)).mean() < 4  # the next frame differs by 8
        assert np.abs(sample["a"].astype(int) - luminance(picture(number))).mean() < 4
    assert {sample["b"].ndim for sample in packs["train"]} == {2}
    one, _ = run(entry(tmp_path, every=1), raw)
    assert len(one["train"]) == 12
    few, _ = run(entry(tmp_path), raw, subset={"test": 2})
    assert few["test"].names == ["late_f00000", "late_f00010"]


def test_equal_films_give_equal_bytes(raw, tmp_path):
    contents = []
    for _ in range(2):
        run(entry(tmp_path), raw)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / "prepared").iterdir()})
    assert contents[0] == contents[1]


def test_a_frame_is_the_same_whichever_was_read_before(raw, tmp_path):
    pairs = find_pairs(entry(tmp_path), raw).pairs
    alone = [read_pair(entry(tmp_path), files)["b"] for files in reversed(pairs)]
    with FilmReader() as films:
        back = [films.frame("b", files.paths["b"], files.frame) for files in reversed(pairs)]
        forth = [films.frame("b", files.paths["b"], files.frame) for files in pairs]
    for one, two, three in zip(alone, back, reversed(forth), strict=True):
        assert np.array_equal(one, two)
        assert np.array_equal(one, three)


@pytest.mark.parametrize(
    ("codec", "kind", "suffix"),
    [("mjpeg", "yuvj422p", ".avi"), ("libx264", "yuv444p", ".mp4"), ("ffv1", "bgr0", ".mkv"), ("ffv1", "gray", ".mkv")],
)
def test_other_pixel_formats_and_containers(tmp_path, codec, kind, suffix):
    size = {"height": 31, "width": 45}  # odd sizes too
    path = film(tmp_path / f"x{suffix}", 3, codec=codec, kind=kind, **size)
    assert count_frames(path) == 3
    with FilmReader() as films:
        shown = films.frame("a", path, 2)
    assert shown.shape == (31, 45, 3)
    expected = picture(2, **size)
    if kind == "gray":
        expected = np.repeat(luminance(expected)[..., None], 3, axis=2)
    assert np.abs(shown.astype(int) - expected).mean() < 5


def test_more_than_eight_bits_are_refused(raw, tmp_path):
    film(raw / "ir/early.mp4", 12, codec="libx264", kind="yuv420p10le")
    said = refused(entry(tmp_path), raw)
    assert said.startswith("3 pairs of madeup")
    assert "early_f00005: Cannot use the film" in said
    assert "10 bits (pixel format yuv420p10le)" in said


@pytest.mark.parametrize("front", [False, True], ids=["index at the end", "index in front"])
def test_a_film_that_is_cut_off(raw, tmp_path, front):
    path = film(raw / "vi/early.mp4", 12, options={"movflags": "faststart"} if front else None)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    said = refused(entry(tmp_path), raw)
    assert said.startswith("1 pair of madeup cannot be used.")
    assert str(path) in said
    assert ("is cut off. (" if front else "contains no film.") in said
    assert list((tmp_path / "prepared").iterdir()) == []
    packs, table = run(entry(tmp_path), raw, skip_broken=True)
    assert not len(packs["train"])
    assert len(packs["test"]) == 4
    assert table[table["split"] == "dropped"]["name"].str.contains("early").sum() == 1


def test_damage_inside_a_film_is_found_by_decoding(raw, tmp_path):
    path = film(raw / "ir/late.mp4", 16, shown=noise)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = bytes(4000)
    path.write_bytes(content)
    said = refused(entry(tmp_path), raw)
    assert f"Damaged or unreadable film: {path}" in said
    packs, table = run(entry(tmp_path), raw, skip_broken=True)
    kept, dropped = packs["test"].names, table[table["split"] == "dropped"]["name"]
    assert kept[0] == "late_f00000"
    assert len(kept) + len(dropped) == 4
    assert dropped.str.contains(r"late_f000\d\d: Damaged").all()


def noise(number, height, width):
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def test_unequal_counts_and_sizes(raw, tmp_path):
    film(raw / "vi/early.mp4", 11)
    film(raw / "vi/late.mp4", 16, width=WIDTH + 16)
    said = refused(entry(tmp_path), raw)
    assert f"The two films of early have unequal numbers of frames (12 in {raw}/ir/early.mp4, 11 in" in said
    assert "late_f00005: Images of one pair differ in size." in said
    assert said.startswith("5 pairs")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "Damaged or unreadable film"), (b"#EXTM3U\nhttp://localhost/x.ts\n", "Damaged or unreadable film")],
)
def test_a_file_that_is_no_film(raw, tmp_path, content, words):
    (raw / "ir/early.mp4").write_bytes(content)
    said = refused(entry(tmp_path), raw)
    assert f"{words}: {raw}/ir/early.mp4" in said
    assert f"({len(content)} bytes)" in said


def test_a_film_without_frames_or_pictures(raw, tmp_path):
    with av.open(str(raw / "ir/late.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    assert f"The file {raw}/ir/late.mp4 contains no film." in refused(entry(tmp_path), raw)
    with av.open(str(tmp_path / "none.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        container.start_encoding()
    with pytest.raises(UserError, match=r"none\.avi is empty"):
        count_frames(tmp_path / "none.avi")


def test_a_film_without_its_counterpart(raw, tmp_path):
    (raw / "ir/early.mp4").unlink()
    assert f"{raw}/vi/early.mp4: its infrared counterpart is missing" in refused(entry(tmp_path), raw)


def test_without_pyav_it_says_what_to_install(raw, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"without the package `av`(.|\n)*pip install av"):
        run(entry(tmp_path), raw, skip_broken=True)


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ({"a": "ir/{name}.png", "b": "vi/{name}.mp4"}, "layout.a: a film's name must end in .mp4"),
        ({"a": "ir/{name}.mp4", "b": "vi/{name}.*"}, "layout.b: a film's name must end in .mp4"),
        ({"a": "ir/{name}.mp4", "b": "vi/{name}.mp4", "mask": "mask/{name}.png"}, "films have no masks"),
    ],
)
def test_a_layout_of_films_that_contradicts_itself(tmp_path, layout, words):
    with pytest.raises(UserError, match="contradicts itself") as caught:
        entry(tmp_path, layout={**layout, "frames": {"every": 5}})
    assert words in str(caught.value)


def test_memory_does_not_grow_with_the_film(tmp_path):
    for side in ("ir", "vi"):
        film(tmp_path / f"raw/{side}/late.mp4", 60, height=240, width=320)
    write_text(tmp_path / "raw/test_films.txt", "late\n")
    dataset = entry(tmp_path, every=1)
    tracemalloc.start()
    try:
        packs, _ = run(dataset, tmp_path / "raw")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(packs["test"]) == 60
    assert most < 60 * 240 * 320 * 4 / 3  # a third of what the pack holds


@pytest.mark.mirror
def test_the_real_films(tmp_path):
    mirror = os.environ.get("MMFUSE_MIRROR")
    if not mirror:
        pytest.skip("MMFUSE_MIRROR is not set")
    dataset = load_catalog(ROOT / "data/catalog.yaml", schema=SCHEMA)["m2vd"]
    (tmp_path / "raw").mkdir()
    for side in ("infrared", "visible"):
        (tmp_path / "raw" / side).symlink_to(Path(mirror, "m2vd", side))
    write_text(tmp_path / "raw/test_films.txt", "".join(f"{name}\n" for name in dataset.written["test_films.txt"]))
    packs, table = run(dataset, tmp_path / "raw")
    assert {split: len(pack) for split, pack in packs.items()} == dataset.pairs == {"train": 77, "test": 40}
    films = {split: {name.rpartition("_f")[0] for name in pack.names} for split, pack in packs.items()}
    assert films == {"train": {"0111_1716", "0113_1714", "0117_1605"}, "test": {"0117_1620"}}
    assert set(zip(table["height"], table["width"], strict=True)) == {(480, 640)}
    greys = [sample["b"].mean(axis=2) for sample in packs["test"]]
    differences = [np.abs(one - two).mean() for one, two in zip(greys[1:], greys[:-1], strict=True)]
    assert np.median(differences) > 3


TURNS = {0: (1, 0, 0, 1), 1: (0, -1, 1, 0), 2: (-1, 0, 0, -1), 3: (0, 1, -1, 0)}  # quarters to the left: a, b, c, d


@pytest.mark.parametrize("quarters", TURNS)
def test_films_are_read_as_they_are_displayed(tmp_path, quarters):
    """The matrix in a track's header maps a stored place (x, y) to the shown one, (ax + cy, bx + dy)."""
    path = film(tmp_path / "x.mp4", 3)
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (number << 16 for number in TURNS[quarters])
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    with FilmReader() as reader:
        shown = reader.frame("a", path, 1)
    path = film(tmp_path / "y.mp4", 3)
    with FilmReader() as reader:
        stored = reader.frame("a", path, 1)
    assert np.array_equal(shown, np.rot90(stored, quarters))
