"""What commands print fits the terminal; a pipe gets whole lines."""

from __future__ import annotations

import random
import sys

import pytest

from mmfuse import terminal
from mmfuse.benchmarks import backends, cka
from mmfuse.cli import app

WORDS = ["a", "0.1234", "[0.1233,", "0.1235]", "no", "difference", "lkc_funet.all_bn_3x3", "/home/user/" + 30 * "x"]


def cells(rows):
    return [[cell.split() for cell in row] for row in rows]


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("width", [40, 80, 200])
def test_tables_fit_and_keep_their_words(seed, width, monkeypatch):
    chance = random.Random(seed)
    shape = chance.randint(1, 8), chance.randint(1, 9)
    rows = [[" ".join(chance.choices(WORDS, k=chance.randint(0, 4))) for _ in range(shape[1])] for _ in range(shape[0])]
    rows = [["first" if k == 0 else cell for k, cell in enumerate(row)] for row in rows]
    monkeypatch.setenv("COLUMNS", str(width))
    lines = terminal.table(rows)
    assert max(map(len, lines)) <= width
    assert sorted("".join(lines).replace(" ", "")) == sorted("".join(map("".join, rows)).replace(" ", ""))
    monkeypatch.delenv("COLUMNS")
    whole = terminal.table(rows)
    assert len(whole) == len(rows)
    for line, row in zip(whole, rows, strict=True):
        assert line.split() == " ".join(row).split()
    if max(map(len, whole)) <= width:
        assert lines == whole


def test_wide_cells_are_broken_at_blanks(monkeypatch):
    monkeypatch.setenv("COLUMNS", "43")
    rows = [["system", "run 1", "p"], ["mma_unet.base", "0.5123 [0.4987, 0.5244]", "0.0005"]]
    assert terminal.table(rows) == [
        "  system         run 1            p",
        "  mma_unet.base  0.5123 [0.4987,  0.0005",
        "                 0.5244]",
    ]


def test_lines_are_broken_between_words(monkeypatch):
    line = "  torch  " + 30 * "word " + 90 * "x"
    assert terminal.wrapped(line) == line
    monkeypatch.setenv("COLUMNS", "80")
    broken = terminal.wrapped(line).splitlines()
    assert max(map(len, broken[:-1])) <= 80
    assert broken[-1] == 6 * " " + 90 * "x"
    assert {text[:6] for text in broken[1:]} == {6 * " "}


ONE = {"seconds": 1234.5678, "processor_seconds": 1234.5678, "peak_mib": 12345.0, "difference": 1e-6, "psnr": 123.0}
RESULTS = {
    backends: {
        "method": "lkc_funet", "height": 1080, "width": 1920, "threads": 16, "device": "cpu",
        **{name: {"onnxruntime": value} for name, value in {**ONE, "seconds_to_prepare": 600.0}.items()},
        "reasons": {"openvino": "The package is not installed. " * 5},
    },
    cka: {
        "layers": 123, "height": 960, "width": 1280, "batch": 64,
        "rows": [
            {
                "images": 256, "difference_mean": 0.1234, "difference_largest": 0.1234,
                **{way: {"seconds": 12345.6, "peak_mib": 123456.7} for way in ("minibatches", "at_once")},
            }
        ],
    },
}  # fmt: skip


@pytest.mark.parametrize("module", RESULTS, ids=lambda module: module.__name__)
def test_benchmarks_fit_80_columns(mmfuse, module, monkeypatch):
    monkeypatch.setattr(module, "run", lambda *_args, **_options: RESULTS[module])
    name = module.__name__.rpartition(".")[2]
    words = ["network", "lkc_funet", "--backends", "all"] if module is backends else [name]
    whole = mmfuse("benchmark", *words)[1]
    assert max(map(len, whole.splitlines())) > 80
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = mmfuse("benchmark", *words)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert out.split() == whole.split()


def test_commands_to_copy_are_not_broken(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    line = "to do: " + "run it again, or " * 2 + "`mmfuse sync --write-dvc --check --code`, then `dvc repro`"
    broken = terminal.wrapped(line)
    assert "`mmfuse sync --write-dvc --check --code`," in broken
    assert "`dvc repro`" in broken
    assert broken.split() == line.split()
    assert max(len(text) for text in broken.splitlines() if "`" not in text) <= 40


def test_errors_fit_the_terminal_and_are_whole_elsewhere(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["mmfuse", "leaderboard", "--out", 30 * "long " + ".md/page.html"])
    said = {}
    for terminal_there in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda there=terminal_there: there)
        with pytest.raises(SystemExit) as ended:
            app.main()
        assert ended.value.code == 2
        said[terminal_there] = capsys.readouterr().err
    assert max(map(len, said[False].splitlines())) > 80
    assert max(map(len, said[True].splitlines())) <= 80
    assert said[True].split() == said[False].split()
