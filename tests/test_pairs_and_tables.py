"""Score tables: order, digits, summaries and files; pairing of folders by name."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mmfuse.data.images import luminance, read_image, write_image
from mmfuse.data.pairs import check_equal_sizes, match_folders, read_triple
from mmfuse.errors import UserError
from mmfuse.metrics import resolve, score
from mmfuse.metrics.tables import read_scores, score_images, summarise, write_scores

# ------------------------------------------------------------------------------------------------------------ tables


@pytest.fixture
def album(image):
    """Names and triples of several sizes."""
    sizes = [(48, 64), (48, 64), (50, 44), (48, 64), (48, 64), (48, 64)]
    triples = [
        tuple(torch.from_numpy(image(3 * i + k, *size)).double()[None] / 255 for k in range(3))
        for i, size in enumerate(sizes)
    ]
    return [f"{i:03}" for i in range(len(sizes))], triples


def test_score_images_keeps_order_and_digits(album):
    names, triples = album
    metrics = resolve("lkc_funet", ["EN", "SSIM", "VIF"])
    frame = score_images(names, iter(triples), metrics)
    assert list(frame.columns) == ["name", "EN", "SSIM", "VIF"]
    assert frame["name"].tolist() == names
    for row, triple in zip(frame.to_dict("records"), triples, strict=True):
        alone = score(*(image[None] for image in triple), metrics)
        assert row["VIF"] == pytest.approx(alone["VIF"].item(), rel=1e-14)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        pd.testing.assert_frame_equal(frame, score_images(names, triples, metrics, workers=3), check_exact=True)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    pd.testing.assert_frame_equal(frame, score_images(names, triples, metrics, group=2), rtol=1e-13)


def test_score_images_errors(album):
    names, triples = album
    metrics = resolve("lkc_funet", ["EN", "VIF"])
    with pytest.raises(UserError, match="same name"):
        score_images(["x", "x"], triples[:2], metrics)
    with pytest.raises(UserError, match="Fewer images"):
        score_images(names, triples[:2], metrics)
    with pytest.raises(UserError, match="More images"):
        score_images(names[:2], triples, metrics)
    small = [tuple(image[:, :30] for image in triple) for triple in triples]
    with pytest.raises(UserError, match=r"003.*VIF(.|\n)*41x41"):
        score_images(names, triples[:3] + small[3:], metrics)


def test_summary():
    metrics = resolve("lkc_funet", ["EN", "SSIM"], ["vifb"])
    frame = pd.DataFrame({"name": ["a", "b", "c", "d"], "EN": [1.0, 2.0, 3.0, 6.0], "SSIM": [0.5] * 4})
    frame = frame.assign(**{"EN.vifb": frame["EN"], "SSIM.vifb": 0.9})
    summary = summarise(frame, metrics, "lkc_funet")
    assert summary["EN"] == {
        "convention": "lkc_funet",
        "definition": "en",
        "better": "higher",
        "mean": 3.0,
        "std": math.sqrt(3.5),
        "median": 2.5,
        "count": 4,
    }
    assert summary["SSIM"]["definition"] == "ssim_gauss_mean_l255"
    assert summary["SSIM.vifb"]["definition"] == "ssim_gauss_sum_l255"
    assert summary["EN.vifb"] == {**summary["EN"], "convention": "vifb"}
    assert summarise(frame[:1], metrics, "lkc_funet")["EN"]["std"] == 0
    with pytest.raises(UserError, match="no scores"):
        summarise(frame[:0], metrics, "lkc_funet")
    with pytest.raises(UserError, match="no column SSIM"):
        summarise(frame[["name", "EN"]], metrics, "lkc_funet")
    with pytest.raises(UserError, match="b"):
        summarise(frame.assign(EN=[1.0, math.nan, 3.0, 4.0]), metrics, "lkc_funet")


def test_files_keep_every_digit_and_are_deterministic(tmp_path):
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"name": ["00537", "NA", "a,b", 'quo"te'], "EN": random.random(4) / 3, "SD": [1.0, 1e-17, 1e22, 0.1]}
    )
    summary = {"dataset": "demo", "metrics": summarise(frame, resolve("lkc_funet", ["EN", "SD"]), "lkc_funet")}
    for folder in ("x", "y"):
        write_scores(frame, summary, csv=tmp_path / folder / "s.csv", json=tmp_path / folder / "s.json")
    for file in ("s.csv", "s.json"):
        assert (tmp_path / "x" / file).read_bytes() == (tmp_path / "y" / file).read_bytes()
    assert b"\r" not in (tmp_path / "x" / "s.csv").read_bytes()
    back = read_scores(tmp_path / "x" / "s.csv")
    pd.testing.assert_frame_equal(back, frame, check_exact=True, check_dtype=False)
    assert back["EN"].tolist() == frame["EN"].tolist()
    assert json.loads((tmp_path / "x" / "s.json").read_text()) == summary


@pytest.mark.parametrize("text", ["", "title,EN\nx,1\n", "name,EN\nx,\n", "name,EN\nx,high\n"])
def test_unusable_scores_are_refused(text, tmp_path):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(UserError, match=r"s\.csv"):
        read_scores(tmp_path / "s.csv")
    with pytest.raises(UserError, match="not found"):
        read_scores(tmp_path / "none.csv")


# ------------------------------------------------------------------------------------------------------------- pairs


def fill(folder, names, size=(6, 8)):
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        write_image(folder / name, pixels)


def test_match_folders(tmp_path):
    fill(tmp_path / "ir", ["b.png", "a.png", "a.b.png"])
    fill(tmp_path / "vi", ["a.jpg", "b.bmp", "a.b.tif"])
    fill(tmp_path / "out", ["a.png", "b.png", "a.b.png"])
    (tmp_path / "vi" / "notes.txt").write_text("no image")
    matched = match_folders(infrared=tmp_path / "ir", visible=tmp_path / "vi", fused=tmp_path / "out")
    assert [m.name for m in matched] == ["a", "a.b", "b"]
    assert matched[0].paths == {
        "infrared": tmp_path / "ir/a.png",
        "visible": tmp_path / "vi/a.jpg",
        "fused": tmp_path / "out/a.png",
    }


def test_missing_counterparts_are_listed_once(tmp_path):
    fill(tmp_path / "ir", [f"{i:02}.png" for i in range(14)])
    fill(tmp_path / "vi", ["00.png", "01.png", "zz.png"])
    with pytest.raises(UserError) as caught:
        match_folders(infrared=tmp_path / "ir", visible=tmp_path / "vi")
    message = str(caught.value)
    assert "13 of 15" in message
    assert f"{tmp_path / 'ir/02.png'}: no image with this name in {tmp_path / 'vi'}" in message
    assert "and 3 more" in message
    assert "12.png" not in message
    matched, missing = match_folders(allow_missing=True, infrared=tmp_path / "ir", visible=tmp_path / "vi")
    assert [m.name for m in matched] == ["00", "01"]
    assert len(missing) == 13
    assert missing[-1] == f"{tmp_path / 'vi/zz.png'}: no image with this name in {tmp_path / 'ir'}"


def test_nothing_to_match(tmp_path):
    fill(tmp_path / "ir", ["x.png"])
    fill(tmp_path / "vi", ["y.png"])
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no name in common"):
        match_folders(allow_missing=True, infrared=tmp_path / "ir", visible=tmp_path / "vi")
    with pytest.raises(UserError, match="no images"):
        match_folders(infrared=tmp_path / "none")
    with pytest.raises(UserError, match="Folder not found"):
        match_folders(infrared=tmp_path / "ir", visible=tmp_path / "nowhere")


def test_unequal_sizes_name_both_files():
    one, two = np.zeros((4, 6), np.uint8), np.zeros((4, 7, 3), np.uint8)
    check_equal_sizes((Path("a.png"), one), (Path("b.png"), np.zeros((4, 6, 3), np.uint8)))
    with pytest.raises(UserError, match=r"4x6 .*a\.png(.|\n)*4x7 in b\.png"):
        check_equal_sizes((Path("a.png"), one), (Path("b.png"), two))


def test_read_triple(tmp_path):
    fill(tmp_path, ["f.png", "a.png", "b.png"])
    fill(tmp_path, ["other.png"], size=(6, 9))
    triple = read_triple(tmp_path / "f.png", tmp_path / "a.png", tmp_path / "b.png")
    for image, name in zip(triple, "fab", strict=True):
        assert image.shape == (1, 6, 8)
        expected = luminance(read_image(tmp_path / f"{name}.png"))
        assert np.array_equal(np.rint(image[0].numpy() * 255), expected)
    with pytest.raises(UserError, match=r"other\.png"):
        read_triple(tmp_path / "f.png", tmp_path / "a.png", tmp_path / "other.png")
