"""Progress: bars with the remaining time on a terminal, plain lines from time to time in a file."""

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from mmfuse import comparing
from mmfuse import progress as module
from mmfuse.benchmarks import cka, convolution, metrics, network
from mmfuse.cli import evaluating, importing, own_images
from mmfuse.comparing.runs import Run
from mmfuse.data.archives import extract
from mmfuse.data.images import write_image
from mmfuse.errors import UserError
from mmfuse.leaderboard import make
from mmfuse.progress import progress
from mmfuse.reporting import pages
from mmfuse.scenes import synthetic_brain, synthetic_road
from mmfuse.stages import detect, segment
from mmfuse.study.integrity import check_present
from mmfuse.study.parameters import load_parameters

ROOT = Path(__file__).parents[1]


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only where the work says so."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("tqdm.std.time", lambda: clock.now)
    return clock


def work(clock, seconds, count, **options):
    for _ in progress(range(count), "fuse", unit="pairs", **options):
        clock.now += seconds


def test_short_work_leaves_nothing_in_a_file_unless_it_always_does(clock, capsys):
    work(clock, 0.5, 10)
    assert capsys.readouterr().err == ""
    work(clock, 0.5, 10, always=True)
    assert capsys.readouterr().err == "fuse: 10 of 10 pairs, 00:05 passed, 00:00 left\n"


def test_lines_in_a_file_are_plain_and_say_what_is_left(clock, capsys):
    work(clock, 5, 8)
    assert capsys.readouterr().err.splitlines() == [
        "fuse: 2 of 8 pairs, 00:10 passed, 00:30 left",
        "fuse: 4 of 8 pairs, 00:20 passed, 00:20 left",
        "fuse: 6 of 8 pairs, 00:30 passed, 00:10 left",
        "fuse: 8 of 8 pairs, 00:40 passed, 00:00 left",
    ]


@pytest.mark.parametrize("hours", [1, 10, 100])
def test_long_work_does_not_fill_a_file(clock, capsys, hours):
    work(clock, 0.5, hours * 7200)
    lines = capsys.readouterr().err.splitlines()
    assert max(map(len, lines)) < 100
    assert 80 < len(lines) < 90 + 12 * hours, "every 10 seconds at first, every 5 minutes at most"


def test_steps_show_the_losses_and_a_resumed_training_its_step(clock, capsys):
    with progress(what="fusion", total=100, unit="steps", always=True, initial=90) as bar:
        for _ in range(10):
            clock.now += 1
            bar.set_postfix(loss="0.25", validation="0.5", refresh=False)
            bar.update()
    assert capsys.readouterr().err == "fusion: 100 of 100 steps, loss=0.25, validation=0.5, 00:10 passed, 00:00 left\n"


def test_what_an_error_ends_is_shown_as_far_as_it_went(clock, capsys):
    with pytest.raises(ValueError, match="broken"), progress(what="fuse", total=4) as bar:
        for _ in range(3):
            clock.now += 6
            bar.update()
        raise ValueError("broken")
    assert capsys.readouterr().err.splitlines()[-1].startswith("fuse: 3 of 4, 00:18 passed")


def test_a_disabled_one_is_silent(clock, capsys):
    work(clock, 60, 5, disable=True, always=True)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_with_the_remaining_time(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    work(clock, 0.01, 10)
    assert capsys.readouterr().err == "", "nothing for work of less than a second"
    work(clock, 0.5, 10)
    assert re.search(r"\rfuse:  40%\|.*4/10 \[00:02<00:03,", capsys.readouterr().err)


@pytest.mark.parametrize(("rows", "columns"), [(24, 80), (0, 0), (0, 100)])
def test_a_bar_is_shown_on_real_terminals_also_on_those_without_a_size(rows, columns):
    program = "from mmfuse.progress import progress\nfor _ in progress(range(3), 'fuse', always=True): pass"
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    try:
        subprocess.run([sys.executable, "-c", program], stdout=other, stderr=other, check=True)
        assert re.search(r"3/3 \[00:\d\d<00:00", os.read(main, 4096).decode())
    finally:
        os.close(main)
        os.close(other)


METER = {
    "prefix": "fusion: ", "ascii": None, "unit": " steps", "unit_scale": False, "unit_divisor": 1000, "initial": 0,
    "colour": None, "nrows": 24, "bar_format": None,
}  # fmt: skip


@pytest.mark.parametrize("prefix", ["fusion: ", "reconstruction: "])
@pytest.mark.parametrize(("count", "elapsed"), [(10, 6.2), (400, 6000.0), (100_000, 400_000.0)])
@pytest.mark.parametrize("postfix", ["loss=2.727, validation=2.274", "loss=0.002727, validation=1.234e-05"])
@pytest.mark.parametrize("columns", [40, 60, 79, 120, 200])
def test_a_bar_shows_whole_values_or_none(prefix, count, elapsed, postfix, columns):
    meter = METER | {"prefix": prefix, "n": count, "total": count, "elapsed": elapsed, "rate": count / elapsed}
    shown = module._Bar.format_meter(**meter, postfix=postfix, ncols=columns)
    assert len(shown) <= columns or "loss" not in shown
    assert set(re.findall(r"\w+=[^],]*", shown)) <= set(postfix.split(", "))
    assert "100%" in shown
    if columns >= 120:
        assert "loss" in shown
        assert "validation" in shown


def test_a_slow_rate_has_no_blank_before_its_unit():
    meter = METER | {"n": 4, "total": 8, "rate": None, "postfix": "", "ncols": 79}
    assert "2.00s/steps" in module._Bar.format_meter(**meter, elapsed=8.0)
    assert "2.00 steps/s" in module._Bar.format_meter(**meter, elapsed=2.0)


def test_nothing_else_in_the_package_makes_bars_of_its_own():
    files = [path for folder in ("src", "workflow") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    assert [path.name for path in files if "from tqdm" in path.read_text()] == ["progress.py"]


# ------------------------------------------------------------------------------- every command that can take long


@pytest.fixture
def shown(monkeypatch):
    """What the commands show progress of."""
    found = []
    begin = module._Lines.__init__

    def remember(self, items, **options):
        found.append(options["desc"])
        begin(self, items, **options)

    monkeypatch.setattr(module._Lines, "__init__", remember)
    return found


@pytest.fixture
def folders(tmp_path, image):
    for side in ("a", "b", "fused"):
        for number in range(2):
            write_image(tmp_path / side / f"{number}.png", image(number))
    return [tmp_path / side for side in ("a", "b", "fused")]


def test_fuse_and_evaluate(shown, folders, tmp_path):
    a, b, fused = folders
    own_images.fuse_folders(a, b, tmp_path / "out", method="average")
    options = {"convention": "lkc_funet", "beside": "", "allow_missing": False}
    evaluating.evaluate_folders(a, b, fused, tmp_path / "scores.csv", metrics="EN", **options)
    assert shown == ["check", "fuse", "check", "measure"]


def test_fuse_that_has_to_find_the_task(shown, folders):
    pairs = own_images.matched_images({"a": folders[0], "b": folders[1]}, allow_missing=False)
    shown.clear()
    own_images._shipped(pairs, None, None, own_images._reader(None, None))
    assert shown == ["determine the task"]


def test_compare(shown):
    runs = [Run(name, "folder", {}, {}, {"road": {}}, {"boxes": {}}) for name in "xy"]
    comparing._scores(*runs)
    comparing.downstream.rows(*runs)
    assert shown == ["compare road", "compare boxes"]


def test_doctor_and_sync_compare_with_the_records(shown, tmp_path):
    check_present(tmp_path, load_parameters(ROOT / "params.yaml"))
    assert shown == ["compare with the records"]


def test_sync(shown, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "workflow/scripts")
    import sync

    for name in ("check_external", "check_unlocked", "write_dvc", "write_code"):
        monkeypatch.setattr(sync, name, lambda *_: None)
    monkeypatch.setattr(sync, "_sync", lambda *_: "DVC")
    sync.sync(ROOT)
    assert shown == ["sync"]


def test_steps_have_names_and_end_complete(clock, capsys):
    with module.steps("sync", 2) as begin:
        for name in ("dvc status", "dvc commit"):
            begin(name)
            clock.now += 60
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "sync, dvc status: 1 of 2 steps, 01:00 passed, 01:00 left"
    assert lines[-1] == "sync, dvc commit: 2 of 2 steps, 02:00 passed, 00:00 left"


def test_leaderboard(shown):
    boards = ROOT / "data/leaderboard/boards.yaml"
    first = next(iter(yaml.safe_load(boards.read_text())["boards"]))
    make.results(None, [], [first], boards, allow_missing=False)
    assert shown == ["rank"]


def test_benchmarks(shown, monkeypatch):
    monkeypatch.setattr(cka, "_in_own_process", lambda *_: (1.0, 1.0, np.zeros((2, 2))))
    cka.run(images=[4, 8], height=16, width=16, batch=4)
    monkeypatch.setattr(convolution, "_measure", lambda _: {"works": []})
    monkeypatch.setattr(convolution, "_fit", lambda *_: convolution.RATES)
    convolution.run()
    network._by_turns({"ours": lambda: None}, 2)
    monkeypatch.setattr(metrics, "_shortest", lambda *_: (1.0, torch.tensor(1.0)))
    monkeypatch.setattr(metrics, "_all_together", lambda *_: {})
    metrics.run(height=96, width=96, repeats=1, threads=1, files=None)
    assert shown == ["measure"] * 4


def test_import_weights(shown, tmp_path):
    with pytest.raises(UserError):
        importing.run("mma_unet", [tmp_path / "none.pth"], out=tmp_path / "w.safetensors")
    assert shown == ["read"]


def test_report(shown, monkeypatch):
    monkeypatch.setattr(pages, "BUILDERS", ())
    monkeypatch.setattr(pages.overview, "page", lambda *_: None)
    pages.pages(None)
    assert shown == ["write pages"]


def test_data(shown, tmp_path):
    for scenes in (synthetic_road, synthetic_brain):
        scenes.generate(tmp_path / scenes.__name__, seed=0, height=32, width=32, train=1, val=0, test=0)
    shutil.make_archive(str(tmp_path / "x"), "zip", ROOT / "docs/decisions")
    shutil.make_archive(str(tmp_path / "x"), "tar", ROOT / "docs/decisions")
    for end in ("zip", "tar"):
        extract(tmp_path / f"x.{end}", tmp_path / end)
    assert shown == [f"draw {split}" for split in ("train", "val", "test")] * 2 + ["unpack x.zip", "unpack x.tar"]


def test_detectors_and_segmenters(shown):
    for stage, what in ((detect, "detect"), (segment, "segment")):
        stage._predict(torch.nn.Identity(), [], torch.device("cpu"))
        assert shown.pop() == what
