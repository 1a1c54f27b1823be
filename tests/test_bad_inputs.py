"""What strangers and accidents hand to mmfuse: refused with one clear message, and nothing of it runs."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

import bad_inputs
import bad_texts
import test_report
from bad_inputs import pixels, saved
from mmfuse.cli.evaluating import evaluate_folders
from mmfuse.cli.own_images import fuse_folders
from mmfuse.data.archives import extract
from mmfuse.data.catalog import load_catalog
from mmfuse.data.images import read_image, write_image
from mmfuse.errors import UserError
from mmfuse.pipeline.jobs import Running
from mmfuse.stages import evaluate, fuse, prepare
from mmfuse.study.plan import System
from mmfuse.tracking import Tracker
from mmfuse.training.checkpoints import load_state, save_state

CORPUS = [
    bad
    for family in (
        bad_inputs.archives, bad_inputs.images, bad_inputs.weights, bad_inputs.packs,
        bad_texts.parameters, bad_texts.catalogs, bad_texts.labels, bad_texts.tables,
    )
    for bad in family()
]  # fmt: skip
refused = set()


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("bad", CORPUS, ids=lambda bad: ascii(bad.name))
def test_a_bad_input_is_refused(bad, tmp_path):
    call = bad.make(tmp_path)
    with pytest.raises(UserError) as caught:
        call()
    said = str(caught.value)
    assert re.search(bad.says, said), said
    assert caught.value.exit_code == 2
    assert caught.value.expected is not None or caught.value.fix is not None, "neither what is expected nor what to do"
    assert len(said) < 10_000
    assert not (tmp_path / "code_was_run").exists()
    assert not [*tmp_path.parent.glob("evil*"), *tmp_path.rglob("evil*"), *tmp_path.rglob("*.part")]
    refused.add(bad.name)


@pytest.mark.parametrize("bad", [bad for bad in CORPUS if "deep" in bad.name], ids=lambda bad: ascii(bad.name))
def test_deep_nesting_is_refused_whatever_recursion_limit_a_library_sets(bad, tmp_path):
    """As torch's compiler and the drawing library of DVC do."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    try:
        test_a_bad_input_is_refused(bad, tmp_path)
    finally:
        sys.setrecursionlimit(limit)


def test_the_corpus_is_large_and_has_no_entry_twice(capsys):
    assert len(CORPUS) == len({bad.name for bad in CORPUS}) >= 200
    with capsys.disabled():
        print(f"\n{len(refused)} of {len(CORPUS)} bad inputs refused, each with its own message")


@pytest.mark.parametrize(
    ("number", "says"),
    [("bad", r"Damaged or unreadable image: .*fused/1\.png"), ("lone", "1 of 2 images"), ("size", "differ in size")],
)
def test_evaluating_refuses_too(tmp_path, number, says):
    for folder in ("a", "b", "fused"):
        write_image(tmp_path / folder / "1.png", pixels())
    if number == "bad":
        (tmp_path / "fused/1.png").write_bytes(saved(Image.fromarray(pixels()), "PNG")[:200])
    if number == "size":
        write_image(tmp_path / "fused/1.png", pixels(25, 30))
    if number == "lone":
        write_image(tmp_path / "fused/2.png", pixels())
    with pytest.raises(UserError, match=says):
        evaluate_folders(
            tmp_path / "a", tmp_path / "b", tmp_path / "fused", tmp_path / "s.csv", metrics="EN",
            convention="lkc_funet", beside="", allow_missing=False,
        )  # fmt: skip
    assert not (tmp_path / "s.csv").exists()


# ---------------------------------------------------------------------------------------- what is odd and can be used


def odd_images():
    grey, colour = Image.fromarray(pixels()), Image.fromarray(pixels(channels=3))
    black = np.where(pixels() > 127, 255, 0).astype(np.uint8)
    alpha = np.dstack([pixels(channels=3), pixels()])
    yield "palette.png", saved(colour.quantize(256), "PNG"), np.asarray(colour.quantize(256).convert("RGB"))
    yield "two.png", saved(Image.fromarray(black).convert("1"), "PNG"), black
    yield "alpha.png", saved(Image.fromarray(alpha), "PNG"), pixels(channels=3)
    yield "grey_alpha.png", saved(Image.merge("LA", [grey, grey]), "PNG"), pixels()
    yield "cmyk.tif", saved(colour.convert("CMYK"), "TIFF"), np.asarray(colour.convert("CMYK").convert("RGB"))
    yield "really_a.jpg", saved(colour, "PNG"), pixels(channels=3)
    yield "really_a.png", saved(grey, "BMP"), pixels()
    yield "packed.tif", saved(grey, "TIFF", compression="tiff_lzw"), pixels()
    yield "transparent.png", saved(grey, "PNG", transparency=3), pixels()


@pytest.mark.parametrize(
    ("name", "content", "expected"), list(odd_images()), ids=lambda value: value if type(value) is str else ""
)
def test_odd_images_are_read_as_documented(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    found = read_image(tmp_path / name)
    assert found.shape == expected.shape
    assert np.array_equal(found, expected)


def test_many_pages_are_refused_without_counting_them(tmp_path):
    times = []
    for number, count in enumerate((1, 2, 65_000)):
        path = tmp_path / f"{number}.tif"
        path.write_bytes(bad_inputs.pages(count))
        start = time.process_time()
        if count == 1:
            assert read_image(path).tolist() == [[128]]
        else:
            with pytest.raises(UserError, match="several images in one file"):
                read_image(path)
        times.append(time.process_time() - start)
    assert times[2] < 2, "counting takes a minute"


def signed(content, path, **options):
    """Write what torch pickles behind its checksum, as a training state."""
    pickled = io.BytesIO()
    torch.save(content, pickled, **options)
    path.write_bytes(hashlib.sha256(pickled.getvalue()).digest() + pickled.getvalue())


@pytest.mark.parametrize(
    "damage", ["pickle", "old pickle", "list", "other keys", "other torch", "text", "half", "nothing"]
)
@pytest.mark.parametrize("write", [torch.save, signed])
def test_a_training_state_that_is_none_is_ignored_and_runs_no_code(tmp_path, damage, write):
    path, evil = tmp_path / "state.pt", bad_inputs.Evil(tmp_path / "code_was_run")
    save_state(path, {"fingerprint": "x", "weights": {"w": torch.ones(99)}})
    assert load_state(path)["fingerprint"] == "x"
    if damage == "pickle":
        write({"fingerprint": evil}, path)
    elif damage == "old pickle":
        write({"fingerprint": evil}, path, _use_new_zipfile_serialization=False)
    elif damage in {"list", "other keys", "other torch"}:
        own = {"torch": str(torch.__version__)}
        other = {"other keys": {"step": 1} | own, "other torch": {"fingerprint": "x", "torch": "2.0"}}
        write(other.get(damage, [1]), path)
    else:
        whole = path.read_bytes()
        path.write_bytes({"text": b"text", "half": whole[: len(whole) // 2], "nothing": b""}[damage])
    assert load_state(path) is None
    assert not (tmp_path / "code_was_run").exists()


def test_a_state_with_any_bit_changed_is_ignored(tmp_path):
    """A training that resumed from it would end with other weights."""
    path = tmp_path / "state.pt"
    save_state(path, {"fingerprint": "x", "step": 5, "weights": {"w": torch.ones(9)}})
    whole = path.read_bytes()
    assert load_state(path)["step"] == 5
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        assert load_state(path) is None
    path.write_bytes(whole + b"\0")
    assert load_state(path) is None


def test_archives_with_any_byte_changed_are_unpacked_or_refused(tmp_path):
    noise = bytes(range(200))
    for kind, whole in {
        "zip": bad_inputs.zip_of(("a/b.png", noise, 0)), "tar": bad_inputs.tar_of(("a/b.png", noise, {})),
        "tar.gz": bad_inputs.PACKERS["tar.gz"](bad_inputs.tar_of(("a/b.png", noise, {}))),
    }.items():  # fmt: skip
        for place in range(0, min(len(whole), 1200), 5):
            path = tmp_path / f"x.{kind}"
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
            try:
                extract(path, tmp_path / f"{kind}{place}")
            except UserError:
                continue
    inside = {path.parts[: len(tmp_path.parts)] for path in tmp_path.rglob("*")}
    assert inside == {tmp_path.parts}


# ---------------------------------------------------------------------------------------------- names, all the way

NAMES = [
    "-rf --help", "<img src=x onerror=alert(1)>", "caf\u00e9 \u65e5\u672c \U0001f642",
    "a'b;c%20&#60; \"q\", =1+2 $HOME `x`",
]  # fmt: skip
MORE = [
    "n" * 200,
    "CON",
    "x..",
    "a b  c",
    "[1]*?{x}~",
    "%s%n%d{0}",
    "{{7*7}}",
    "NA",
    "007",
    "#x?y=1&z",
]


@pytest.fixture
def quiet(tmp_path):
    """A job's surroundings without tracking."""
    return Running(Tracker(tmp_path, "s", "job", fingerprint="x", tags={}, parameters={}, enabled=False), "x")


def test_odd_names_work_from_the_download_to_the_scores(tmp_path, quiet):
    names = sorted(NAMES + MORE)
    for number, name in enumerate(names):
        for side in ("a", "b"):
            write_image(tmp_path / f"raw/{side}/{name}.png", np.roll(pixels(), number))
    (tmp_path / "catalog.yaml").write_text(bad_texts.yaml.safe_dump({"datasets": {"madeup": bad_texts.ENTRY}}))
    entry = load_catalog(tmp_path / "catalog.yaml", schema=bad_texts.CATALOG_SCHEMA)["madeup"]
    prepare.run(entry, raw=tmp_path / "raw", out=tmp_path / "prepared", val_fraction=0.0, skip_broken=False)
    test, fused, out = tmp_path / "prepared/test.safetensors", tmp_path / "fused", tmp_path / "scores.csv"
    fuse.run("average", network={}, weights=None, test=test, out=fused, threads=1, pictures=0, running=quiet)
    assert sorted(path.name for path in fused.iterdir()) == sorted(f"{name}.png" for name in names)
    system = System("average", "base", "ivif", 0)
    evaluate.run(
        system, "madeup", test=test, fused=fused, out=out, convention="lkc_funet", beside=[], metrics=["EN"], workers=1,
        running=quiet,
    )  # fmt: skip
    found = bad_texts.metric_tables.read_scores(out)
    assert sorted(found["name"]) == names
    fuse_folders(tmp_path / "raw/a", fused, tmp_path / "again", weights=None, method="average", allow_missing=False)
    assert len(list((tmp_path / "again").iterdir())) == len(names)


def test_odd_names_stand_in_the_report_as_they_are_and_as_text_only(tmp_path, monkeypatch):
    monkeypatch.setattr(test_report, "NAMES", NAMES)
    test_report.make_study(tmp_path)
    page = test_report._run(tmp_path)
    for name in ("<img src=x", "onerror=alert(1)>", "<script>alert"):
        assert name not in page
    shown = [value for value in test_report._Page(page).all("alt") if "image" in value]
    assert any(name in text for name in NAMES for text in shown)
    tags = {tag for tag, attributes in test_report._Page(page).tags if any(key.startswith("on") for key in attributes)}
    assert not tags


# ------------------------------------------------------------------------------------------------- as a person sees it


def test_the_command_ends_with_code_two_and_without_a_traceback(tmp_path):
    for folder in ("a", "b"):
        write_image(tmp_path / folder / "1.png", pixels())
    (tmp_path / "w.safetensors").write_bytes(pickle.dumps(bad_inputs.Evil(tmp_path / "code_was_run")))
    (tmp_path / "evil.yaml").write_text(f"study: {bad_texts.OBJECTS[1]}".replace("MARKER", "code_was_run"))
    for words in (
        ["fuse", "a", "b", "out", "--weights", "w.safetensors"],
        ["list", "variants", "--params", "evil.yaml"],
    ):
        run = subprocess.run(
            [sys.executable, "-m", "mmfuse", *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert run.returncode == 2, run.stderr
        assert run.stderr.count("error:") == 1 and "Traceback" not in run.stderr
    assert not (tmp_path / "code_was_run").exists()
