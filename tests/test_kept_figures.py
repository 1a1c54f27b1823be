"""Figures of the last report are used again only where nothing that they depend on has changed."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmfuse.reporting import comparisons, figures, kept_figures, style
from mmfuse.reporting.comparisons import Greys
from mmfuse.reporting.figures import History
from mmfuse.reporting.kept_figures import KeptFigures
from mmfuse.reporting.style import Album


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What has been drawn; each drawing has other bytes, so that a stale one is seen."""
    made: list[Any] = []

    def files(paint: Any, *_: float) -> dict[str, bytes]:
        made.append(paint)
        return {ending: f"{ending} {len(made)}".encode() * 50 for ending in ("svg", "pdf", "png")}

    monkeypatch.setattr(style, "_files", files)
    return made


def _losses(last: float = 0.5) -> list[list[History]]:
    steps = np.arange(3.0)
    return [[History("one", steps, np.array([2.0, 1.0, last]), steps, np.array([2.0, 1.0, 1.0]))]]


def _curves(folder: Path, last: float = 0.5, title: str = "t") -> dict[str, bytes]:
    """Return the files of one figure in a new report."""
    album = Album(KeptFigures(folder))
    figures.curves(album, "training", "x", title, "w", _losses(last))
    return album.files


def test_an_unchanged_figure_is_not_drawn_again(tmp_path, drawn):
    first = _curves(tmp_path)
    assert _curves(tmp_path, title="its title is not part of it") == first
    assert len(drawn) == 1


def test_kept_figures_are_those_that_are_drawn(tmp_path):
    assert _curves(tmp_path) == _curves(tmp_path)
    plain = Album()
    figures.curves(plain, "training", "x", "t", "w", _losses())
    assert _curves(tmp_path) == plain.files


def _size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "partial", lambda function, parts, _, *more: partial(function, parts, 3, *more))


CHANGES = {
    "style": lambda m: m.setitem(style._STYLE, "font.size", 10),
    "resolution": lambda m: m.setitem(style._ENDINGS, "png", {"dpi": 100}),
    "library": lambda m: m.setattr(kept_figures.importlib.metadata, "version", lambda name: f"{name} 99"),
    "zlib": lambda m: m.setattr(kept_figures.zlib, "ZLIB_RUNTIME_VERSION", "99"),
    "fonts": lambda m: m.setattr(style, "sha256", lambda _: "another file"),
    "argument": _size,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_figure_is_drawn_again_after_a_change_of(change, tmp_path, drawn, monkeypatch):
    first = _curves(tmp_path)
    CHANGES[change](monkeypatch)
    assert _curves(tmp_path) != first
    assert len(drawn) == 2


@pytest.mark.parametrize("name", ["reporting/figures.py", "data/images.py", "new.py"])
@pytest.mark.usefixtures("drawn")
def test_a_figure_is_drawn_again_after_a_change_of_the_code(name, tmp_path, monkeypatch):
    package = tmp_path / "mmfuse"
    shutil.copytree(kept_figures._PACKAGE / "reporting", package / "reporting")
    monkeypatch.setattr(kept_figures, "_CODE", kept_figures._code(package))
    first = _curves(tmp_path / "kept")
    monkeypatch.setattr(kept_figures, "_CODE", kept_figures._code(package))
    assert _curves(tmp_path / "kept") == first
    (package / name).parent.mkdir(exist_ok=True)
    with (package / name).open("a", encoding="utf-8") as stream:
        stream.write("# a change")
    monkeypatch.setattr(kept_figures, "_CODE", kept_figures._code(package))
    assert _curves(tmp_path / "kept") != first


def test_the_checksum_is_that_of_the_running_code():
    assert kept_figures._code(kept_figures._PACKAGE) == kept_figures._CODE


@pytest.mark.parametrize("last", [np.nextafter(0.5, 1), -0.5, float("nan")])
def test_a_figure_is_drawn_again_after_a_change_of_its_numbers(last, tmp_path, drawn):
    first = _curves(tmp_path)
    assert _curves(tmp_path, last) != first
    assert _curves(tmp_path, last) != first
    assert len(drawn) == 2


def test_figures_of_equal_numbers_and_another_kind_differ(tmp_path, drawn):
    one = Greys(np.ones(256), np.ones(3))
    for paint in (comparisons._modalities, figures._radar, comparisons._modalities):
        Album(KeptFigures(tmp_path)).draw("x", "y", "t", "w", (2, 2), partial(paint, {"a": one}))
    Album(KeptFigures(tmp_path)).draw("x", "y", "t", "w", (2, 3), partial(comparisons._modalities, {"a": one}))
    assert len(drawn) == 3


def test_a_damaged_figure_is_drawn_again(tmp_path, drawn):
    _curves(tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    places = np.linspace(0, len(whole) - 1, 25).astype(int)
    flipped = [whole[:n] + bytes([whole[n] ^ 1]) + whole[n + 1 :] for n in places]
    damaged = [b"", whole[:10], whole[:-1], whole + b"\0", whole[:32], bytes(len(whole)), *flipped]
    for number, content in enumerate(damaged, start=2):
        file.write_bytes(content)
        found = _curves(tmp_path)
        assert len(drawn) == number
        assert found["figures/training/x.svg"] == f"svg {number}".encode() * 50


def test_a_figure_under_another_name_is_drawn_again(tmp_path, drawn):
    _curves(tmp_path)
    (file,) = tmp_path.iterdir()
    _curves(tmp_path, 0.25)
    (other,) = set(tmp_path.iterdir()) - {file}
    shutil.copyfile(file, other)
    _curves(tmp_path, 0.25)
    assert len(drawn) == 3


def test_functions_of_other_programs_are_not_kept(tmp_path, drawn):
    def inner(figure: Any) -> None:
        figure.subplots()

    for paint in (inner, partial(inner), partial(_losses), partial(figures._radar, {"a": inner})):
        for _ in range(2):
            Album(KeptFigures(tmp_path)).draw("x", "y", "t", "w", (2, 2), paint)
    assert len(drawn) == 8
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("drawn")
def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path):
    folder = tmp_path / "file"
    folder.write_text("not a folder")
    assert _curves(folder) != _curves(folder)
    KeptFigures(folder).remove_others()
    assert folder.read_text() == "not a folder"


def test_only_the_figures_of_the_last_report_are_kept(tmp_path, drawn):
    for last in (0.5, 0.25):
        _curves(tmp_path, last)
    assert len(list(tmp_path.iterdir())) == 2
    album = Album(KeptFigures(tmp_path))
    figures.curves(album, "training", "x", "t", "w", _losses(0.25))
    assert album.kept is not None
    album.kept.remove_others()
    _curves(tmp_path, 0.25)
    assert len(drawn) == 2
    assert len(list(tmp_path.iterdir())) == 1
