"""The pictures in the README: pairs that may be shown, put side by side, and the head of a report."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import shipped_weights
from mmfuse.data.catalog import dataset
from mmfuse.data.images import read_image
from mmfuse.errors import UserError
from mmfuse.inference.fusing import fuse_pair
from mmfuse.weights import shipped
from test_report import ROOT

sys.path.insert(0, str(ROOT / "workflow/scripts"))
import readme_pictures as script

DRAWN = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
PAIR = {"name": "x", "a": DRAWN[..., 0], "b": DRAWN}


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Shipped weights for infrared and visible images alone."""
    folder = tmp_path / "weights"
    shipped_weights.make(folder, "roads", "ivif", default=["ivif"])
    monkeypatch.setattr(shipped, "FOLDER", folder)
    monkeypatch.setattr(script, "read_sample", lambda *_: PAIR)
    return folder


@pytest.mark.parametrize(
    ("name", "free"),
    [("m2vd", True), ("openms", True), ("synthetic_road", True), ("msrs", False), ("harvard_ct_mri", False),
     ("msrs_train30", False), ("tno", False)],
)  # fmt: skip
def test_only_pairs_whose_licence_allows_it_are_shown(name, free):
    if free:
        script.check_licence(dataset(name))
    else:
        with pytest.raises(UserError, match=f"Pictures of {name} may not be shown"):
            script.check_licence(dataset(name))


def test_a_row_has_both_sources_and_both_results(weights, capsys):
    row = script.make_row("m2vd", "x", {})
    assert row.titles == ["infrared", "visible", "Laplacian pyramid", "MMA-UNet"]
    assert [picture.shape for picture in row.pictures] == [(20, 30), (20, 30, 3), (20, 30, 3), (20, 30, 3)]
    _, net = script.network("ivif", {"ivif": str(weights / "roads.safetensors")})
    assert np.array_equal(row.pictures[3], fuse_pair(net, PAIR["a"], PAIR["b"], script.best_device()))
    assert not np.array_equal(row.pictures[2], row.pictures[3])
    assert capsys.readouterr().out == "m2vd, x: Tang, M2VD, github.com/Linfeng-Tang/M2VD. Licence: MIT.\n"


@pytest.mark.usefixtures("weights")
def test_without_weights_of_the_task_nothing_is_written(tmp_path, capsys):
    words = ["strip", "m2vd:x", "openms:x", "--out", str(tmp_path / "out.jpg")]
    assert script.main(words) == 2
    assert "No weights for mif" in capsys.readouterr().err
    assert not (tmp_path / "out.jpg").exists()
    assert script.main([*words, "--weights", "roads"]) == 2
    assert "Cannot read --weights" in capsys.readouterr().err


@pytest.mark.usefixtures("weights")
def test_the_strip_is_written(tmp_path):
    out = tmp_path / "new/out.jpg"
    assert script.main(["strip", "m2vd:x", "--width", "60", "--out", str(out)]) == 0
    assert read_image(out).shape == (40 + script.TEXT + 2 * script.GAP, 4 * 60 + 3 * script.GAP, 3)


def test_rows_lie_below_each_other_at_one_width():
    black, white = np.zeros((10, 20), np.uint8), np.full((10, 20, 3), 255, np.uint8)
    row = script.Row(["first", "second"], [black, white])
    tall = replace(row, pictures=[np.full((40, 20), 128, np.uint8)] * 2)
    sheet = script.layout([row, tall], 40)
    head = script.TEXT + 2 * script.GAP
    assert sheet.shape == (20 + 80 + 2 * head, 80 + script.GAP, 3)
    assert (sheet[head : head + 20, :40] == 0).all()
    assert (sheet[head : head + 20, 40:] == 255).all()
    assert (sheet[2 * head + 20 :, 40 + script.GAP :] == 128).all()
    assert (sheet[:head, :40] == 0).any(), "the title"


@pytest.mark.mirror
def test_a_frame_of_the_test_film_is_read():
    if "MMFUSE_MIRROR" not in os.environ:
        pytest.skip("MMFUSE_MIRROR is not set")
    sample = script.read_sample(dataset("m2vd"), "0117_1620_f00120")
    assert (sample["a"].shape, sample["b"].shape) == ((480, 640), (480, 640, 3))
    with pytest.raises(UserError, match="did you mean '0117_1620_f00120'"):
        script.read_sample(dataset("m2vd"), "0117_1620_f0012")


def test_the_head_of_a_report(tmp_path, capsys):
    page, out = tmp_path / "index.html", tmp_path / "report.jpg"
    assert script.main(["report", "--page", str(page), "--out", str(out)]) == 2
    assert "There is no report" in capsys.readouterr().err
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        pytest.skip("no Chromium on the path; Debian's package is called chromium")
    page.write_text("<body style='background: #204060; margin: 0'><div style='height: 3000px'></div>")
    assert script.main(["report", "--page", str(page), "--out", str(out)]) == 0
    with Image.open(out) as image:
        assert image.size == script.REPORT_SIZE
        assert np.abs(np.asarray(image).astype(int) - [0x20, 0x40, 0x60]).max() < 4
