"""Progress: bars with the remaining time on a terminal, plain lines from time to time in a file."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmfuse.progress import progress

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


def test_nothing_else_in_the_package_makes_bars_of_its_own():
    files = [path for folder in ("src", "workflow") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    assert [path.name for path in files if "from tqdm" in path.read_text()] == ["progress.py"]
