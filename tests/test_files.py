"""Files that are written whole or not at all, their checksums, and what an unwritable place says."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest

from mmfuse.errors import UserError
from mmfuse.files import writing
from mmfuse.files.reading import read_table
from mmfuse.files.writing import (
    checksum,
    csv_text,
    files_below,
    read_manifest,
    sha256,
    sheet_text,
    whole_file,
    whole_folder,
    write_json,
    write_manifest,
    write_text,
)


def test_checksum_of_a_file_and_of_a_folder(tmp_path):
    write_text(tmp_path / "x/a.txt", "abc")
    assert sha256(tmp_path / "x/a.txt") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert checksum(tmp_path / "x/a.txt") == sha256(tmp_path / "x/a.txt")
    text = f"a.txt\0{sha256(tmp_path / 'x/a.txt')}\n"
    assert checksum(tmp_path / "x") == hashlib.sha256(text.encode()).hexdigest()


def test_checksum_of_a_folder_knows_names_contents_and_folders(tmp_path):
    sums = set()
    for number, (name, content) in enumerate([("a", "1"), ("b", "1"), ("a", "2"), ("c/a", "1")]):
        write_text(tmp_path / f"{number}" / name, content)
        sums.add(checksum(tmp_path / f"{number}"))
    assert len(sums) == 4
    write_text(tmp_path / "0" / ".hidden", "engines leave such files")
    assert checksum(tmp_path / "0") in sums


def test_files_below_are_sorted_and_not_hidden(tmp_path):
    for name in ("b.txt", "a/2", "a/10", ".git/x", "a/.y", "a/b/z"):
        write_text(tmp_path / name, name)
    assert [p.relative_to(tmp_path).as_posix() for p in files_below(tmp_path)] == ["a/10", "a/2", "a/b/z", "b.txt"]


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    write_text(tmp_path / "x.txt", "old")
    with pytest.raises(RuntimeError, match="half"), whole_file(tmp_path / "x.txt") as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise RuntimeError("half")
    assert (tmp_path / "x.txt").read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_a_reader_of_the_old_file_keeps_it(tmp_path):
    write_text(tmp_path / "x.txt", "old")
    with (tmp_path / "x.txt").open(encoding="utf-8") as reader:
        write_text(tmp_path / "x.txt", "new")
        assert reader.read() == "old"


def test_the_target_does_not_exist_before_the_end(tmp_path):
    with whole_file(tmp_path / "new/x.txt") as temporary:
        temporary.write_text("text", encoding="utf-8")
        assert not (tmp_path / "new/x.txt").exists()
        assert temporary.name.startswith(".")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.txt"]


def test_written_files_have_the_usual_permissions(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "x.txt", "x")
        with whole_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x.txt").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


def test_a_folder_replaces_the_old_one_whole(tmp_path):
    write_text(tmp_path / "f/old.txt", "old")
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "f") as folder:
        write_text(folder / "new.txt", "new")
        raise RuntimeError
    assert [p.name for p in (tmp_path / "f").iterdir()] == ["old.txt"]
    with whole_folder(tmp_path / "f") as folder:
        write_text(folder / "new.txt", "new")
    assert [p.name for p in (tmp_path / "f").iterdir()] == ["new.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


class Killed(BaseException):
    """A process that ends here."""


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize("stop", [1, 2, 3, 4, None])
def test_a_stop_while_a_folder_is_replaced_loses_neither(tmp_path, monkeypatch, atomic, stop):
    """Stop before each renaming, and before what is left is removed."""
    target = tmp_path / "f"
    with whole_folder(target) as folder:
        (folder / "a").write_text("old")
    steps = []

    def step(action):
        def run(*args, **options):
            steps.append(action)
            if len(steps) == stop:
                raise Killed
            return action(*args, **options)

        return run

    if not atomic:
        monkeypatch.setattr(writing.ctypes, "CDLL", lambda *_, **__: object())
    else:
        monkeypatch.setattr(writing, "_exchange", step(writing._exchange))
    monkeypatch.setattr(Path, "replace", step(Path.replace))
    monkeypatch.setattr(writing, "remove", lambda _: None)  # a killed process removes nothing
    with contextlib.suppress(Killed), whole_folder(target) as folder:
        (folder / "a").write_text("new")
    monkeypatch.undo()
    writing.remove_leftovers(target)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    finished = stop is None or stop > len(steps) or (stop == 3 and not atomic)
    assert (target / "a").read_text() == ("new" if finished else "old")


@pytest.mark.parametrize("kind", [whole_file, whole_folder])
@pytest.mark.parametrize("place", ["file/x", "file/deep/x", "/proc/mmfuse/x", "/proc/x"])
def test_an_unwritable_place_is_the_users_mistake(tmp_path, kind, place):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(UserError) as caught, kind(tmp_path / place):
        pass
    assert str(tmp_path / place) in str(caught.value)
    assert "another output folder" in str(caught.value)


def test_a_full_disk_is_said(tmp_path):
    with pytest.raises(UserError, match="free some space"), whole_file(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_other_errors_are_not_disguised(tmp_path):
    with pytest.raises(OSError, match="disk is on fire"), whole_file(tmp_path / "x"):
        raise OSError(errno.EIO, "disk is on fire")
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "x"):
        Path(tmp_path / "not there").read_bytes()


def test_names_may_be_as_long_as_the_file_system_allows(tmp_path):
    write_text(tmp_path / ("n" * 250 + ".txt"), "x")
    write_text(tmp_path / ("ö" * 125 + ".txt"), "x")
    assert len(list(tmp_path.iterdir())) == 2


def test_equal_values_give_equal_json(tmp_path):
    write_json(tmp_path / "x.json", {"b": 1.5, "a": ["ä", None]})
    write_json(tmp_path / "y.json", {"a": ["ä", None], "b": 1.5})
    assert (tmp_path / "x.json").read_bytes() == (tmp_path / "y.json").read_bytes()
    assert (tmp_path / "x.json").read_text(encoding="utf-8").startswith('{\n  "a": [\n    "ä",')
    with pytest.raises(ValueError, match="nan"):
        write_json(tmp_path / "z.json", float("nan"))
    assert not (tmp_path / "z.json").exists()


def test_manifest_round_trip(tmp_path):
    for name in ("b c.txt", "a/x.txt"):
        write_text(tmp_path / "data" / name, name)
    write_manifest(tmp_path / "m.sha256", tmp_path / "data", files_below(tmp_path / "data"))
    entries = read_manifest(tmp_path / "m.sha256")
    assert list(entries) == ["a/x.txt", "b c.txt"]
    assert entries["b c.txt"] == sha256(tmp_path / "data/b c.txt")


@pytest.mark.parametrize("line", ["abc  x.txt", f"{'0' * 64} x.txt", f"{'0' * 64}  "])
def test_a_bad_manifest_line_is_named(tmp_path, line):
    write_text(tmp_path / "m.sha256", f"{'1' * 64}  good.txt\n{line}\n")
    with pytest.raises(UserError, match="line 2"):
        read_manifest(tmp_path / "m.sha256")


FORMULAS = [
    "=1+2", "=cmd|' /C calc'!A0", "@SUM(1)", "+1+2", "-1+2", "-rf --help", "\t=1", "\uff1d1+2", "--1", "-0.5.png",
]  # fmt: skip
HARMLESS = ["=", "-", "a=b", "", " =1", "'=1", "x,y", 'x"y', "x\ny", "007", "NA", "-0.5", "+2e-3", "-inf"]


@pytest.mark.parametrize("write", [csv_text, sheet_text])
def test_a_table_for_programs_is_exact_and_one_for_people_has_no_formula(tmp_path, write):
    path = tmp_path / "x.csv"
    path.write_text(
        write([["name", "value"], *([cell, -0.1] for cell in FORMULAS + HARMLESS)]), encoding="utf-8", newline=""
    )
    rows = read_table(path, ("name", "value"), fix="")
    shown = [f"'{cell}" for cell in FORMULAS] if write is sheet_text else FORMULAS
    assert [row["name"] for row in rows] == shown + HARMLESS
    assert {row["value"] for row in rows} == {"-0.1"}, "negative numbers stay numbers"
