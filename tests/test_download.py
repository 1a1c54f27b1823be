"""The download stage: https with resume, git, archives, the mirror, and files that a person fetched."""

import contextlib
import dataclasses
import hashlib
import http.server
import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import types
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mmfuse.data import downloads
from mmfuse.data.archives import Limits, extract
from mmfuse.data.catalog import Dataset, Source, load_catalog
from mmfuse.data.downloads import clone, download
from mmfuse.errors import UserError
from mmfuse.files.writing import files_below, sha256, write_manifest
from mmfuse.stages.download import obtain, run

ROOT = Path(__file__).parents[1]
DATA = bytes(range(256)) * 4096  # 1 MiB


# ------------------------------------------------------------------------------------------ a server to talk to


class Server(http.server.ThreadingHTTPServer):
    """Serves bytes by path, with ranges, and misbehaves where a test asks for it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.tag: str | None = '"one"'
        self.cut: list[int] = []  # after so many bytes the connection breaks, once for each entry
        self.status: list[int] = []  # answers with these instead, once for each entry
        self.kind = "application/octet-stream"
        self.asked: list[tuple[str, str | None]] = []

    def url(self, path: str) -> str:
        """Return the address of a path."""
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""

    def answer(self, status: int, body: bytes, **headers: str):
        """Send an answer, or break off where the test says so."""
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), "Content-Type": self.server.kind, **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if body and self.server.cut:
            self.wfile.write(body[: self.server.cut.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(body)

    def do_GET(self):
        """Answer with a file or a part of it."""
        self.server.asked.append((self.path, self.headers.get("Range")))
        if self.server.status:
            self.answer(self.server.status.pop(0), b"")
            return
        if self.path not in self.server.files:
            self.answer(404, b"")
            return
        whole, tag = self.server.files[self.path], self.server.tag
        headers = {"ETag": tag} if tag else {}
        asked = self.headers.get("Range")
        if asked is None or self.headers.get("If-Range") != tag:
            self.answer(200, whole, **headers)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(whole):
            self.answer(416, b"", Content_Range=f"bytes */{len(whole)}")
        else:
            extent = f"bytes {start}-{len(whole) - 1}/{len(whole)}"
            self.answer(206, whole[start:], Content_Range=extent, **headers)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_file_arrives(server, tmp_path):
    server.files["/set.bin"] = DATA
    path = download(server.url("/set.bin"), tmp_path, digest=hashlib.sha256(DATA).hexdigest())
    assert path.read_bytes() == DATA
    assert server.asked == [("/set.bin", None)]


def test_an_interrupted_transfer_resumes(server, tmp_path):
    server.files["/set.bin"] = DATA
    server.cut = [400_000, 300_000]
    path = download(server.url("/set.bin"), tmp_path, pause=0.01)
    assert path.read_bytes() == DATA
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for _, asked in server.asked[1:] if asked]
    assert len(starts) == 2
    assert 0 < starts[0] <= 400_000 < starts[1] <= 700_000


def test_a_later_call_resumes_and_a_third_needs_no_bytes(server, tmp_path):
    server.files["/set.bin"] = DATA
    server.cut = [500_000]
    with pytest.raises(UserError, match="Cannot download"):
        download(server.url("/set.bin"), tmp_path, attempts=1)
    kept = max(file.stat().st_size for file in tmp_path.iterdir())
    assert kept > 300_000
    path = download(server.url("/set.bin"), tmp_path, attempts=1)
    assert path.read_bytes() == DATA
    assert server.asked[-1] == ("/set.bin", f"bytes={kept}-")
    assert download(server.url("/set.bin"), tmp_path, attempts=1).read_bytes() == DATA
    assert server.asked[-1] == ("/set.bin", f"bytes={len(DATA)}-")


def test_another_file_is_not_glued_to_the_old_part(server, tmp_path):
    server.files["/set.bin"] = DATA
    server.cut = [500_000]
    with pytest.raises(UserError):
        download(server.url("/set.bin"), tmp_path, attempts=1)
    server.files["/set.bin"], server.tag = DATA[::-1], '"two"'
    assert download(server.url("/set.bin"), tmp_path, attempts=1).read_bytes() == DATA[::-1]


@pytest.mark.parametrize("tag", [None, 'W/"one"'])
def test_without_a_strong_tag_nothing_is_resumed(server, tmp_path, tag):
    server.files["/set.bin"], server.tag = DATA, tag
    server.cut = [500_000]
    assert download(server.url("/set.bin"), tmp_path, pause=0.01).read_bytes() == DATA
    assert server.asked == [("/set.bin", None)] * 2


def test_a_wrong_checksum_is_refused_and_forgotten(server, tmp_path):
    server.files["/set.bin"] = DATA
    with pytest.raises(UserError, match="not the expected one") as caught:
        download(server.url("/set.bin"), tmp_path, digest="0" * 64)
    assert "0" * 64 in str(caught.value)
    assert hashlib.sha256(DATA).hexdigest() in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_not_asked_for_twice(server, tmp_path):
    with pytest.raises(UserError, match="HTTP 404"):
        download(server.url("/none.zip"), tmp_path)
    assert len(server.asked) == 1


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.files["/set.bin"], server.status = DATA, [503, 429]
    assert download(server.url("/set.bin"), tmp_path, pause=0.01).read_bytes() == DATA
    server.status = [500] * 9
    with pytest.raises(UserError, match="HTTP 500"):
        download(server.url("/other.bin"), tmp_path, attempts=2, pause=0.01)


def test_a_page_for_people_is_not_a_file(server, tmp_path):
    server.files["/set.zip"], server.kind = b"<html>please click</html>", "text/html; charset=utf-8"
    with pytest.raises(UserError, match="page instead of a file"):
        download(server.url("/set.zip"), tmp_path)


def test_no_network_is_one_clear_error(tmp_path, server):
    address = server.url("/set.bin")
    server.server_close()
    with pytest.raises(UserError, match="Cannot download") as caught:
        download(address, tmp_path, attempts=2, pause=0.01)
    assert "HTTPS_PROXY" in str(caught.value)
    assert caught.value.exit_code == 2


# ---------------------------------------------------------------------------------------------------- archives


def add(archive: tarfile.TarFile, name: str, content: bytes = b"x", **fields: object):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in fields.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("kind", ["", "gz", "xz", "bz2"])
def test_a_good_tar_is_unpacked(tmp_path, kind):
    (tmp_path / "in/ir").mkdir(parents=True)
    (tmp_path / "in/ir/1.png").write_bytes(DATA)
    path = tmp_path / f"a.tar.{kind}".rstrip(".")
    with tarfile.open(path, f"w:{kind}") as archive:
        archive.add(tmp_path / "in", ".")  # begins with a member for the folder itself
        add(archive, "./vi/1.png", b"visible")
    extract(path, tmp_path / "out")
    assert {p.relative_to(tmp_path / "out").as_posix() for p in files_below(tmp_path / "out")} == {
        "ir/1.png", "vi/1.png",
    }  # fmt: skip
    assert (tmp_path / "out/ir/1.png").read_bytes() == DATA


def test_a_good_zip_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("ir")
        archive.writestr("ir/1.png", DATA)
    assert extract(tmp_path / "a.zip", tmp_path / "out") == 2
    assert (tmp_path / "out/ir/1.png").read_bytes() == DATA


NAMES = ["../evil", "/evil", "a/../../evil", "a\\..\\evil", "C:/evil", "a\nb", ""]


@pytest.mark.parametrize("name", NAMES[:-1])
def test_a_tar_cannot_leave_its_folder(tmp_path, name):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        add(archive, "good.png")
        add(archive, name)
    with pytest.raises(UserError, match="unsafe name") as caught:
        extract(tmp_path / "a.tar.gz", tmp_path / "out/in")
    assert repr(name) in str(caught.value)
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("name", NAMES)
def test_a_zip_cannot_leave_its_folder(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good.png", b"x")
        info = zipfile.ZipInfo("x")
        info.filename = name
        archive.writestr(info, b"x")
    with pytest.raises(UserError, match="unsafe name") as caught:
        extract(tmp_path / "a.zip", tmp_path / "out/in")
    assert repr(name) in str(caught.value)
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize(
    ("kind", "link"),
    [(tarfile.SYMTYPE, "/etc/passwd"), (tarfile.SYMTYPE, "good.png"), (tarfile.LNKTYPE, "good.png"),
     (tarfile.FIFOTYPE, ""), (tarfile.CHRTYPE, ""), (tarfile.BLKTYPE, "")],
)  # fmt: skip
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind, link):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "good.png")
        add(archive, "bad.png", b"", type=kind, linkname=link)
    with pytest.raises(UserError, match=r"'bad\.png' is a link, a device"):
        extract(tmp_path / "a.tar", tmp_path / "out")
    assert not os.path.lexists(tmp_path / "out/bad.png")


@pytest.mark.parametrize("mode", [0o120777, 0o010644, 0o020644])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, mode):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("bad.png")
        info.external_attr = mode << 16
        archive.writestr(info, b"/etc/passwd")
    with pytest.raises(UserError, match=r"'bad\.png' is a link"):
        extract(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("names", [("a.png", "a.png"), ("a.png", "A.PNG"), ("a.png", "./a.png")])
def test_duplicates_are_refused(tmp_path, names):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in names:
            add(archive, name)
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        warnings.simplefilter("ignore")  # zipfile itself warns of what this test is about
        for name in names:
            archive.writestr(name, b"x")
    for kind in ("tar", "zip"):
        with pytest.raises(UserError, match="occurs twice"):
            extract(tmp_path / f"a.{kind}", tmp_path / kind)


def test_a_file_below_a_file_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", b"x")
        archive.writestr("a/b.png", b"x")
    with pytest.raises(UserError, match=r"'a/b\.png' has a name that cannot be stored"):
        extract(tmp_path / "a.zip", tmp_path / "out")


def test_bombs_are_refused(tmp_path):
    zeros = bytes(64 << 20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.png", zeros)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", compresslevel=1) as archive:
        add(archive, "zeros.png", zeros)
    for kind in ("zip", "tar.gz"):
        with pytest.raises(UserError, match=r"'zeros\.png' would unpack 67108864 bytes"):
            extract(tmp_path / f"a.{kind}", tmp_path / kind)
        assert sum(file.stat().st_size for file in files_below(tmp_path / kind)) == 0


def test_a_bomb_that_lies_about_its_size_is_stopped(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.png", bytes(1 << 20))
    # say 100 bytes instead of 1 MiB in both headers: never more than those are unpacked
    path.write_bytes(path.read_bytes().replace((1 << 20).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    with pytest.raises(UserError, match=r"damaged|would unpack"):
        extract(path, tmp_path / "out", limits=Limits(total=1000))
    assert sum(file.stat().st_size for file in files_below(tmp_path / "out")) <= 1000


def test_a_bomb_of_headers_is_stopped(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as archive:
        add(archive, "good.png", pax_headers={"comment": "y" * (8 << 20)})
    with pytest.raises(UserError, match="more headers than files"):
        extract(tmp_path / "a.tar.gz", tmp_path / "out", limits=Limits(spare=1 << 20))


def test_limits_on_files_and_bytes(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(4):
            archive.writestr(f"{number}.png", b"x" * 100)
    assert extract(tmp_path / "a.zip", tmp_path / "fits", limits=Limits(files=4, total=400)) == 4
    with pytest.raises(UserError, match=r"'3\.png' is one too many"):
        extract(tmp_path / "a.zip", tmp_path / "few", limits=Limits(files=3))
    with pytest.raises(UserError, match=r"'3\.png' would unpack 400 bytes"):
        extract(tmp_path / "a.zip", tmp_path / "small", limits=Limits(total=399))


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz", "a.tar.bz2"])
def test_damaged_archives_are_named(tmp_path, name):
    path, kind = tmp_path / name, name.rpartition(".")[2]
    content = os.urandom(200_000)
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("1.png", content)
    else:
        with tarfile.open(path, f"w:{kind.removeprefix('tar')}") as archive:
            add(archive, "1.png", content)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(UserError, match="archive is damaged") as caught:
        extract(path, tmp_path / "out")
    assert name in str(caught.value)


# --------------------------------------------------------------------------------------------------------- git


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path) -> Path:
    """A repository with two commits, files of two datasets, and a link that points outside."""
    folder = tmp_path / "upstream"
    for name in ("ct/CT/1.png", "ct/MRI/1.png", "pet/PET/1.png"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"first\r\n" + name.encode())
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    (folder / "ct/CT/1.png").write_bytes(b"second")
    (folder / "ct/link.png").symlink_to("/etc/passwd")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "two")
    return folder


def test_a_repository_is_taken_without_its_history(repository, tmp_path):
    commit = clone(str(repository), tmp_path / "all")
    assert commit == git(repository, "rev-parse", "HEAD")
    assert (tmp_path / "all/ct/CT/1.png").read_bytes() == b"second"
    assert (tmp_path / "all/pet/PET/1.png").read_bytes() == b"first\r\npet/PET/1.png"
    assert not (tmp_path / "all/.git").exists()
    assert not (tmp_path / "all/ct/link.png").is_symlink()


def test_an_older_commit_and_one_folder(repository, tmp_path):
    older = git(repository, "rev-parse", "HEAD~1")
    assert clone(str(repository), tmp_path / "some", commit=older, take="ct") == older
    assert (tmp_path / "some/ct/CT/1.png").read_bytes() == b"first\r\nct/CT/1.png"
    assert not (tmp_path / "some/pet").exists()


def test_git_errors_are_clear(repository, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="Cannot fetch"):
        clone(str(tmp_path / "nowhere"), tmp_path / "a")
    with pytest.raises(UserError, match="has no folder spect"):
        clone(str(repository), tmp_path / "b", take="spect")
    with pytest.raises(UserError, match="not finished after"):
        clone(str(repository), tmp_path / "c", timeout=1e-6)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="git is not installed"):
        clone(str(repository), tmp_path / "d")


# ------------------------------------------------------------------------------------------------- the stage


FILES = {"ir/01.png": b"infrared 1", "vi/01.png": b"visible 1", "ir/02.png": b"infrared 2", "vi/02.png": b"visible 2"}


def lay(folder: Path, files=None) -> Path:
    for name, content in (files or FILES).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def catalog() -> dict[str, Dataset]:
    return load_catalog(ROOT / "data/catalog.yaml", schema=ROOT / "workflow/schemas/catalog.schema.yaml")


@pytest.fixture
def entry(catalog, tmp_path) -> Dataset:
    """A tiny dataset in the layout of TNO with a true manifest."""
    good = lay(tmp_path / "good")
    write_manifest(tmp_path / "tiny.sha256", good, files_below(good))
    return dataclasses.replace(catalog["tno"], name="tiny", mirror="tiny", manifest=tmp_path / "tiny.sha256")


def source(kind: str, address: str, **fields: Any) -> Source:
    empty: dict[str, Any] = {
        "commit": None,
        "sha256": None,
        "take": None,
        "into": ".",
        "instructions": None,
        "archives": {},
    }
    return Source(kind, address, **{**empty, **fields})


def take(entry: Dataset, tmp_path: Path, mirror: Path | None = None) -> Path:
    out = tmp_path / "raw" / entry.name
    obtain(entry, out=out, mirror=mirror, generate=None, manual=tmp_path / "manual")
    return out


def content(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files_below(folder)}


def test_a_mirror_is_copied_and_verified(entry, tmp_path, capsys):
    lay(tmp_path / "mirror/tiny", {**FILES, "ir/03.png": b"3", "notes.txt": b"n"})
    out = take(entry, tmp_path, tmp_path / "mirror")
    assert content(out) == {**FILES, "ir/03.png": b"3", "notes.txt": b"n"}
    assert "4 files verified by checksum, 2 not verified" in capsys.readouterr().err
    assert not [path for path in (tmp_path / "raw").iterdir() if path != out]


def test_a_damaged_and_a_missing_file_of_a_mirror_are_one_error(entry, tmp_path):
    (lay(tmp_path / "mirror/tiny") / "ir/01.png").write_bytes(b"damaged")
    (tmp_path / "mirror/tiny/vi/02.png").unlink()
    old = lay(tmp_path / "raw/tiny", {"ir/old.png": b"kept"})
    with pytest.raises(UserError, match="1 damaged and 1 missing of 4") as caught:
        take(entry, tmp_path, tmp_path / "mirror")
    text = str(caught.value)
    assert f"tiny/ir/01.png: expected sha256 {hashlib.sha256(FILES['ir/01.png']).hexdigest()}" in text
    assert f"found {hashlib.sha256(b'damaged').hexdigest()}" in text
    assert "tiny/vi/02.png" in text
    assert content(old) == {"ir/old.png": b"kept"}
    assert len(list((tmp_path / "raw").iterdir())) == 1


def test_many_problems_are_listed_in_part(entry, tmp_path):
    many = {f"ir/{number:03}.png": b"%d" % number for number in range(20)}
    good = lay(tmp_path / "many", many)
    write_manifest(tmp_path / "many.sha256", good, files_below(good))
    (tmp_path / "mirror/tiny").mkdir(parents=True)
    with pytest.raises(UserError, match="20 missing") as caught:
        take(dataclasses.replace(entry, manifest=tmp_path / "many.sha256"), tmp_path, tmp_path / "mirror")
    assert "ir/004.png" in str(caught.value)
    assert "ir/005.png" not in str(caught.value)
    assert "15 more" in str(caught.value)


def test_another_layout_is_refused(entry, tmp_path):
    lay(tmp_path / "mirror/tiny", {"infrared/01.png": b"1", "vi/01.png": b"1"})
    with pytest.raises(UserError, match=r"no file of image a \(infrared\)") as caught:
        take(dataclasses.replace(entry, manifest=None), tmp_path, tmp_path / "mirror")
    assert "ir/*.png" in str(caught.value)
    assert not (tmp_path / "raw/tiny").exists()


def pack(path: Path, files, top="") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(top + name, data)
    return path


def test_an_archive_is_downloaded_unpacked_and_verified(entry, tmp_path, server, capsys):
    archive = pack(tmp_path / "set.zip", FILES, top="wrap/")
    server.files["/set.zip"], server.cut = archive.read_bytes(), [200]
    where = source("https", server.url("/set.zip"), sha256=sha256(archive), take="wrap")
    out = take(dataclasses.replace(entry, sources=(where,)), tmp_path)
    assert content(out) == FILES
    assert "4 files verified" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["tiny"]


def test_a_hostile_archive_leaves_nothing(entry, tmp_path, server):
    server.files["/set.zip"] = pack(tmp_path / "set.zip", {**FILES, "../../evil.png": b"x"}).read_bytes()
    with pytest.raises(UserError, match=r"evil\.png"):
        take(dataclasses.replace(entry, sources=(source("https", server.url("/set.zip")),)), tmp_path)
    assert not files_below(tmp_path / "raw")
    assert not list(tmp_path.rglob("evil*"))


def test_what_a_broken_download_left_is_resumed_or_removed(entry, tmp_path, server, monkeypatch):
    """Partial files of this source are resumed; those of an earlier address, and what a kill left, are removed."""
    monkeypatch.setattr(downloads.time, "sleep", lambda _: None)
    noise = {**FILES, "ir/noise.bin": os.urandom(300_000)}
    server.files["/set.zip"] = pack(tmp_path / "set.zip", noise).read_bytes()
    at = dataclasses.replace(entry, manifest=None, sources=(source("https", server.url("/set.zip")),))
    room = tmp_path / "raw/.downloads"
    server.cut = [100_000, 1, 1, 1]
    with pytest.raises(UserError, match="Cannot download"):
        take(at, tmp_path)
    (kept,) = [path for path in (room / "tiny").iterdir() if path.suffix == ".zip"]
    size = kept.stat().st_size
    lay(room, {"tiny/tmpabc/files/half.png": b"x", "tiny/0123456789ab-old.zip": b"x", "tiny/.x.json.0a.part": b"x"})
    lay(room, {"another/0123456789ab-other.zip": b"x"})
    server.asked.clear()
    assert content(take(at, tmp_path)) == noise
    assert server.asked == [("/set.zip", f"bytes={size}-")]
    assert not kept.exists()
    assert [path.relative_to(room).as_posix() for path in files_below(room)] == ["another/0123456789ab-other.zip"]


@pytest.mark.parametrize("unlocked", [False, True])
def test_several_processes_that_download_the_same_at_once(entry, tmp_path, server, monkeypatch, capsys, unlocked):
    """Clones may share data/raw; the locks of jobs are those of one clone."""
    noise = {**FILES, "ir/noise.bin": os.urandom(3_000_000)}
    server.files["/set.zip"] = pack(tmp_path / "set.zip", noise).read_bytes()
    at = dataclasses.replace(entry, manifest=None, sources=(source("https", server.url("/set.zip")),))
    transfer = downloads._transfer
    together = threading.Barrier(2)
    met = []

    def slow(*arguments):
        with contextlib.suppress(threading.BrokenBarrierError):
            met.append(together.wait(timeout=60 if unlocked else 0.5))  # without a lock, two begin at once
        transfer(*arguments)

    monkeypatch.setattr(downloads, "_transfer", slow)
    if unlocked:
        monkeypatch.setattr("mmfuse.stages.download._lock", lambda *_: None)
    with ThreadPoolExecutor(3) as pool:
        results = [pool.submit(take, at, tmp_path) for _ in range(3)]
    assert bool(met) == unlocked
    if not unlocked:
        assert all(content(result.result()) == noise for result in results)
        assert [path.name for path in (tmp_path / "raw").iterdir()] == ["tiny"]
        assert "another process is downloading it; this one waits" in capsys.readouterr().err


@pytest.mark.parametrize(("tag", "cut"), [(None, 100_000), ('"one"', 0)])
def test_what_cannot_be_resumed_is_not_kept(server, tmp_path, tag, cut):
    server.files["/set.bin"], server.tag, server.cut = DATA, tag, [cut]
    with pytest.raises(UserError, match="Cannot download"):
        download(server.url("/set.bin"), tmp_path, attempts=1)
    assert not list(tmp_path.iterdir())


def test_a_plain_file_from_https(entry, tmp_path, server):
    for name, data in FILES.items():
        server.files[f"/{name}"] = data
    sources = tuple(source("https", server.url(f"/{name}"), into=name[:2]) for name in FILES)
    assert content(take(dataclasses.replace(entry, sources=sources), tmp_path)) == FILES


def test_two_repositories_make_one_dataset(entry, repository, tmp_path, capsys):
    lay(tmp_path / "labels", {"classes.txt": b"0 person\n"})
    git(tmp_path / "labels", "init", "--quiet")
    git(tmp_path / "labels", "add", ".")
    git(tmp_path / "labels", "commit", "--quiet", "-m", "labels")
    layout = dataclasses.replace(entry.layout, a="MRI/{name}.png", b="CT/{name}.png")
    sources = (source("git", str(repository), take="ct"), source("git", str(tmp_path / "labels"), into="labels"))
    out = take(dataclasses.replace(entry, layout=layout, sources=sources, manifest=None), tmp_path)
    assert content(out)["CT/1.png"] == b"second"
    assert content(out)["labels/classes.txt"] == b"0 person\n"
    assert git(repository, "rev-parse", "HEAD") in capsys.readouterr().err
    assert not (out / ".git").exists()


def test_a_source_with_other_bytes_is_refused(entry, tmp_path, server):
    server.files["/set.zip"] = pack(tmp_path / "set.zip", {**FILES, "ir/01.png": b"other"}).read_bytes()
    with pytest.raises(UserError, match="1 damaged and 0 missing") as caught:
        take(dataclasses.replace(entry, sources=(source("https", server.url("/set.zip")),)), tmp_path)
    assert "ir/01.png" in str(caught.value)
    assert not (tmp_path / "raw/tiny").exists()


def test_a_file_that_no_source_holds_is_written(entry, tmp_path):
    lay(tmp_path / "mirror/tiny")
    written = dataclasses.replace(entry, written={"test_split.txt": ("01.png", "02.png")})
    out = take(written, tmp_path, tmp_path / "mirror")
    assert (out / "test_split.txt").read_text(encoding="utf-8") == "01.png\n02.png\n"


# ------------------------------------------------------------------------------------- what a person fetches


@pytest.fixture
def by_hand(entry) -> Dataset:
    where = source("manual", "https://example.org/get", instructions="Click twice.", archives={"Set.zip": "."})
    return dataclasses.replace(entry, sources=(where,))


def test_the_person_is_told_what_to_do(by_hand, tmp_path):
    (tmp_path / "mirror").mkdir()
    with pytest.raises(UserError) as caught:
        take(by_hand, tmp_path, tmp_path / "mirror")
    for word in ("https://example.org/get", "Click twice.", "Set.zip", str(tmp_path / "manual/tiny"), "ir/{name}.png"):
        assert word in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "raw/tiny").exists()


@pytest.mark.parametrize("top", ["", "Set/"])
def test_an_archive_put_there_is_taken(by_hand, tmp_path, top, capsys):
    pack(tmp_path / "manual/tiny/Set.zip", FILES, top=top)
    assert content(take(by_hand, tmp_path)) == FILES
    assert "4 files verified" in capsys.readouterr().err


def test_unpacked_files_put_there_are_taken_and_verified(by_hand, tmp_path):
    folder = lay(tmp_path / "manual/tiny")
    assert content(take(by_hand, tmp_path)) == FILES
    (folder / "vi/02.png").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"tiny/vi/02\.png"):
        take(by_hand, tmp_path)


def test_an_archive_of_another_name_is_not_guessed_at(by_hand, tmp_path):
    pack(tmp_path / "manual/tiny/Set (1).zip", FILES)
    with pytest.raises(UserError, match="The target of the contents") as caught:
        take(by_hand, tmp_path)
    assert "Set.zip" in str(caught.value)


def test_a_hand_fetched_set_is_preferred_to_the_network(entry, tmp_path):
    lay(tmp_path / "manual/tiny")
    assert content(take(entry, tmp_path)) == FILES


def test_m3fd_archives_go_to_their_folders(catalog, tmp_path):
    for name in ("M3FD_Detection", "M3FD_Fusion"):
        pack(tmp_path / f"manual/m3fd/{name}.zip", {"Ir/00001.png": b"i", "Vis/00001.png": b"v"}, top=f"{name}/")
    out = take(catalog["m3fd"], tmp_path)
    assert set(content(out)) == {
        f"M3FD_{part}/{side}/00001.png" for part in ("Detection", "Fusion") for side in ("Ir", "Vis")
    }


# ------------------------------------------------------------------------------------------ embedded datasets


@pytest.fixture
def generator(monkeypatch):
    """A generator that stands in for the real one."""
    module = types.ModuleType("mmfuse.scenes.synthetic_road")

    def generate(folder: Path, *, seed: int, train: int):
        lay(
            folder,
            {f"train/{side}/{n}.png": bytes([seed, n]) for side in ("infrared", "visible") for n in range(train)},
        )
        if train > 2:
            raise RuntimeError("too many")

    module.generate = generate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(ROOT)


@pytest.mark.usefixtures("generator")
def test_an_embedded_dataset_is_generated(tmp_path):
    run(dataset="synthetic_road", out=tmp_path / "raw/x", mirror=tmp_path, generate={"seed": 7, "train": 2})
    assert content(tmp_path / "raw/x")["train/visible/1.png"] == bytes([7, 1])


@pytest.mark.usefixtures("generator")
def test_a_generator_that_fails_leaves_nothing(tmp_path):
    with contextlib.suppress(RuntimeError):
        run(dataset="synthetic_road", out=tmp_path / "raw/x", mirror=None, generate={"seed": 7, "train": 3})
    assert not list((tmp_path / "raw").iterdir())
    with pytest.raises(UserError, match=r"generate\.synthetic_road"):
        run(dataset="synthetic_road", out=tmp_path / "raw/x", mirror=None, generate=None)


# ------------------------------------------------------------------------------------------- the real mirror


@pytest.fixture
def mirror() -> Path:
    if "MMFUSE_MIRROR" not in os.environ:
        pytest.skip("MMFUSE_MIRROR is not set")
    return Path(os.environ["MMFUSE_MIRROR"])


@pytest.mark.mirror
def test_the_real_mirror_is_copied_and_verified(mirror, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    run(dataset="harvard_ct_mri", out=tmp_path / "raw/harvard_ct_mri", mirror=mirror, generate=None)
    assert len(files_below(tmp_path / "raw/harvard_ct_mri/CT")) == 184
    assert "368 files verified by checksum, 1 not verified" in capsys.readouterr().err


@pytest.mark.mirror
@pytest.mark.parametrize(
    ("damaged", "name"),
    [("msrs_00085D_ir.png", "test/ir/00085D.png"), ("msrs_00890N_ir.png", "test/ir/00012N.png")],
)
def test_damaged_files_that_really_happen_are_refused(catalog, mirror, tmp_path, damaged, name):
    names = ["test/ir/00085D.png", "test/vi/00085D.png", "test/ir/00012N.png", "test/vi/00012N.png"]
    for file in names:
        (tmp_path / "mirror/msrs" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(mirror / "msrs" / file, tmp_path / "mirror/msrs" / file)
    listed = {line[66:]: line for line in catalog["msrs"].manifest.read_text(encoding="utf-8").splitlines()}
    (tmp_path / "small.sha256").write_text("".join(f"{listed[file]}\n" for file in names), encoding="utf-8")
    small = dataclasses.replace(catalog["msrs"], manifest=tmp_path / "small.sha256")
    assert len(files_below(take(small, tmp_path, tmp_path / "mirror"))) == 4
    shutil.copyfile(mirror / "corrupt" / damaged, tmp_path / "mirror/msrs" / name)
    with pytest.raises(UserError, match="1 damaged and 0 missing of 4") as caught:
        take(small, tmp_path, tmp_path / "mirror")
    assert f"msrs/{name}: expected sha256" in str(caught.value)
