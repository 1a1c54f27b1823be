"""`mmfuse fuse` and `mmfuse evaluate` with images as people have them, on terminals as people have them."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from mmfuse import terminal
from mmfuse.cli import doctor
from mmfuse.data.images import luminance, read_image, write_image
from mmfuse.errors import UserError
from mmfuse.pipeline.jobs import rank
from mmfuse.tracking.servers import default_uri, shown_uri

ROOT = Path(__file__).parents[1]
AVERAGE = ("--method", "average")


@pytest.fixture
def run(mmfuse):
    """Run a command that must end with an exit code; return its output and errors."""

    def command(*words, code=0):
        found, out, err = mmfuse(*words)
        assert found == code, (out, err)
        assert "Traceback" not in err
        return out, err

    return command


def pairs(folder, image, names, *, a="{}.png", b="{}.png", size=(24, 30)):
    for number, name in enumerate(names):
        write_image(folder / "ir" / a.format(name), image(2 * number, 24, 30))
        write_image(folder / "vi" / b.format(name), image(2 * number + 1, *size, colour=True))
    return folder / "ir", folder / "vi"


def mean_of(a, b):
    return (luminance(read_image(a)).astype(int) + luminance(read_image(b))) / 2


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_photos_are_fused_as_displayed(run, tmp_path, image):
    shown = image(2, 24, 30, colour=True)
    turns = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that the tag's reader undoes
    for number, turn in turns.items():
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = number
        stored = Image.fromarray(shown) if turn is None else Image.fromarray(shown).transpose(Image.Transpose(turn))
        for suffix in ("png", "jpg", "tif"):
            write_image(tmp_path / f"ir/{number}{suffix}.png", image(1, 24, 30))
            (tmp_path / "vi").mkdir(exist_ok=True)
            stored.save(tmp_path / f"vi/{number}{suffix}.{suffix}", exif=exif)
    run("fuse", tmp_path / "ir", tmp_path / "vi", tmp_path / "out", *AVERAGE)
    for number in turns:
        for suffix in ("png", "tif"):
            fused = luminance(read_image(tmp_path / f"out/{number}{suffix}.png"))
            expected = (image(1, 24, 30).astype(int) + luminance(shown)) / 2
            assert np.abs(fused - expected).max() <= 2, (number, suffix)
        assert luminance(read_image(tmp_path / f"out/{number}jpg.png")).shape == (24, 30)


def test_a_file_is_written_under_its_own_name(run, tmp_path, image):
    ir, vi = pairs(tmp_path, image, ["1"])
    single = (ir / "1.png", vi / "1.png")
    for name in ("x.png", "new/x.PNG", "x.jpg", "x.tif", "x.bmp"):
        out, _ = run("fuse", *single, tmp_path / name, *AVERAGE)
        assert (tmp_path / name).is_file()
        assert f"fused image: {tmp_path / name}" in out
        near = np.abs(luminance(read_image(tmp_path / name)) - mean_of(*single)).mean()
        assert near < (8 if name.endswith("jpg") else 2)
    run("fuse", *single, tmp_path / "folder.v2", *AVERAGE)
    (tmp_path / "there.png").mkdir()
    run("fuse", *single, tmp_path / "there.png", *AVERAGE)
    assert files(tmp_path / "folder.v2") == files(tmp_path / "there.png") == ["1.png"]
    before = files(tmp_path)
    for name in ("y.webp", "y.gif", "y.PGM", "y.jp2"):
        assert "Cannot write" in run("fuse", *single, tmp_path / name, *AVERAGE, code=2)[1]
    for name in ("y.png", "x.png"):
        assert "Cannot write" in run("fuse", ir, vi, tmp_path / name, *AVERAGE, code=2)[1]
    assert "overwrite" in run("fuse", *single, ir / "1.png", *AVERAGE, code=2)[1]
    assert files(tmp_path) == before


def test_patterns_subfolders_and_sizes_for_both_commands(run, tmp_path, image):
    names = ["001", "night/002", "night/late/ä3"]
    a, b = pairs(tmp_path, image, names, a="{}_ir.png", b="{}_vis.JPG", size=(48, 60))
    how = ("--pattern", "{name}_ir.png", "{name}_vis.jpg", "--recursive")
    out = tmp_path / "out"
    assert "differ in size" in run("fuse", a, b, out, *how, *AVERAGE, code=2)[1]
    assert not out.exists()
    for side, size in (("a", (24, 30)), ("b", (48, 60))):
        run("fuse", a, b, out, *how, *AVERAGE, "--resize-to", side)
        assert files(out) == sorted(f"{name}.png" for name in names)
        assert {read_image(out / f"{name}.png").shape[:2] for name in names} == {size}
        scores = ("--metrics", "EN,MI", "--resize-to", side)
        run("evaluate", "--a", a, "--b", b, "--fused", out, "--out", tmp_path / f"{side}.csv", *how, *scores)
        with (tmp_path / f"{side}.csv").open(encoding="utf-8") as stream:
            assert [row["name"] for row in csv.DictReader(stream)] == sorted(names)
    for name in names:
        (out / f"{name}.png").rename(out / f"{name}_f.png")
    words = ("--fused", f"x={out}", "--fused", f"y={out}", "--out", tmp_path / "t.csv", *how, "--metrics", "EN")
    assert "lack" in run("evaluate", "--a", a, "--b", b, *words, "--resize-to", "b", code=2)[1]
    run("evaluate", "--a", a, "--b", b, *words, "--resize-to", "b", "--fused-pattern", "{name}_f.png")
    assert "inside a folder" in run("fuse", a, b, a / "out", *how, *AVERAGE, code=2)[1]


def test_one_folder_with_both_modalities(run, tmp_path, image):
    pairs(tmp_path, image, ["1", "2"], a="../d/{}_ir.png", b="../d/{}_vis.png")
    folder = tmp_path / "d"
    assert "given twice" in run("fuse", folder, folder, tmp_path / "out", *AVERAGE, code=2)[1]
    how = ("--pattern", "{name}_ir", "{name}_vis")
    _, err = run("fuse", folder, folder, tmp_path / "out", *how, *AVERAGE)
    assert "left out" not in err
    assert files(tmp_path / "out") == ["1.png", "2.png"]
    words = ("--fused", tmp_path / "out", "--out", tmp_path / "s.csv", "--metrics", "EN")
    assert "given twice" in run("evaluate", "--a", folder, "--b", folder, *words, code=2)[1]
    run("evaluate", "--a", folder, "--b", folder, *words, *how)


def test_evaluate_takes_files(run, tmp_path, image):
    a, b = pairs(tmp_path, image, ["1"])
    single = ("--a", a / "1.png", "--b", b / "1.png")
    run("fuse", a / "1.png", b / "1.png", tmp_path / "f.png", *AVERAGE)
    out, _ = run("evaluate", *single, "--fused", tmp_path / "f.png", "--out", tmp_path / "s.csv", "--metrics", "EN,SD")
    assert "1 image, convention" in out
    run("evaluate", *single, "--fused", a / "1.png", "--out", tmp_path / "t.csv", "--metrics", "EN,SD")
    words = ("--fused", f"x={tmp_path / 'f.png'}", "--fused", f"y={a / '1.png'}", "--out", tmp_path / "u.csv")
    run("evaluate", *single, *words, "--metrics", "EN,SD")
    for wrong in (("--a", a, "--b", b / "1.png"), ("--a", a / "1.png", "--b", tmp_path / "none.png")):
        _, err = run("evaluate", *wrong, "--fused", tmp_path / "f.png", "--out", tmp_path / "v.csv", code=2)
        assert "is a file" in err or "not found" in err
    assert not (tmp_path / "v.csv").exists()


def test_nothing_is_written_if_an_image_is_bad(run, tmp_path, image):
    a, b = pairs(tmp_path, image, [f"{number:03}" for number in range(8)])
    run("fuse", a, b, tmp_path / "fused", *AVERAGE)
    for number in (3, 6, 7):
        (b / f"{number:03}.png").write_bytes((b / f"{number:03}.png").read_bytes()[:200])
    words = ("--fused", tmp_path / "fused", "--out", tmp_path / "s.csv", "--metrics", "EN")
    for command in (("fuse", a, b, tmp_path / "out", *AVERAGE), ("evaluate", "--a", a, "--b", b, *words)):
        _, err = run(*command, code=2)
        assert "Of 8 pairs, 3 cannot be used" in err
        assert all(f"vi/{number:03}.png" in err for number in (3, 6, 7))
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "s.csv").exists()


def test_what_is_left_out_is_said(run, tmp_path, image):
    a, b = pairs(tmp_path, image, ["1", "2", "night/4"])
    for folder in (a, b):
        Image.new("L", (30, 24)).save(folder / "3.webp")
    _, err = run("fuse", a, b, tmp_path / "out", *AVERAGE)
    for folder in (a, b):
        assert f"left out: {folder}: 1 file of another type or name (3.webp)" in err
        assert f"left out: {folder}: 1 subfolder (night); --recursive reads them" in err
    assert files(tmp_path / "out") == ["1.png", "2.png"]


# ------------------------------------------------------------------------------------------- terminals and machines


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_all_signs_are_shown_on_any_terminal(monkeypatch, encoding):
    signs = "± ≈ ↑ ↓ … × – → ≤ ≥ straße 한국 \udcff 🙂"
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    terminal.show_all_signs()
    for stream in streams:
        print(signs, file=stream, flush=True)
        text = stream.buffer.getvalue().decode(encoding)
        assert len(text.split()) == len(signs.split())
        if encoding == "ascii":
            assert text.startswith("+- ~ ^ v ... x - -> <= >= stra\\xdfe \\ud55c")


def test_evaluate_writes_to_an_ascii_terminal(run, tmp_path, image, monkeypatch):
    a, b = pairs(tmp_path, image, ["1", "2"])
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    for words in (["--fused", a], ["--fused", f"x={a}", "--fused", f"y={b}"]):
        run("evaluate", "--a", a, "--b", b, *words, "--out", tmp_path / f"{len(words)}.csv", "--metrics", "EN,SD")
    stream.flush()
    assert "+-" in stream.buffer.getvalue().decode("ascii")


@pytest.mark.parametrize("words", [["list", "datasets"], ["--version"], ["--help"]])
@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_reader_that_stops_is_no_error(words, buffered):
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONUNBUFFERED": buffered, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-m", "mmfuse", *words],
        stdout=writing, stderr=subprocess.PIPE, cwd=ROOT, env=environment, check=False, text=True,
    )  # fmt: skip
    os.close(writing)
    assert done.returncode in {0, 141}
    assert done.stderr == ""


VARIABLES = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")


@pytest.mark.parametrize(
    ("values", "expected"),
    [({}, 0), ({"RANK": "3"}, 3), ({"SLURM_PROCID": "2"}, 2), ({"LOCAL_RANK": "1", "NODE_RANK": "1"}, 2)],
)
def test_an_empty_variable_counts_as_unset(monkeypatch, values, expected):
    for name in VARIABLES:
        monkeypatch.setenv(name, values.get(name, ""))
    assert rank() == expected
    for wrong in ("x", "-1", "1.0", " "):
        monkeypatch.setenv("RANK", wrong)
        with pytest.raises(UserError, match=f"RANK={wrong}"):
            rank()


@pytest.mark.parametrize("home", ["file/below", "/proc/none", "/sys/none"])
def test_a_home_that_cannot_be_written_is_told_and_avoided(tmp_path, monkeypatch, project, home):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / home))
    check = next(check for check in doctor.examine(project / "params.yaml") if check.what == "caches")
    assert not check.good
    assert f"export XDG_CACHE_HOME={project}/.mmfuse/cache" in str(check)
    assert doctor.cache_elsewhere() == {"XDG_CACHE_HOME": f"{project}/.mmfuse/cache"}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    assert doctor.cache_elsewhere() == {}


def test_the_database_is_in_the_project_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    for name in ("plain", "what?", "a#b", "a b%20", "?q=1"):
        root = tmp_path / name
        root.mkdir()
        monkeypatch.chdir(root)
        path = Path(default_uri(root).removeprefix("sqlite:///"))
        assert (root / path).resolve() == root / "mlflow.db"
        assert "?" not in str(path)
        assert shown_uri(default_uri(root), root) == "sqlite:///mlflow.db"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="question mark"):
        default_uri(tmp_path / "what?")
