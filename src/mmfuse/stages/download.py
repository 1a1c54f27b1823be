"""Stage `download`: one dataset of the catalog, complete and verified, in data/raw/DATASET."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmfuse.data.archives import extract, is_archive
from mmfuse.data.catalog import CATALOG, Dataset, Source
from mmfuse.data.catalog import dataset as catalog_entry
from mmfuse.data.downloads import clone, discard, download, partial_files
from mmfuse.data.names import matching
from mmfuse.data.origins import MANUAL, by_hand, mirror_of, mirrored
from mmfuse.errors import UserError
from mmfuse.files.writing import files_below, read_manifest, remove, sha256, whole_folder, write_text
from mmfuse.pipeline.jobs import Work
from mmfuse.progress import progress
from mmfuse.words import number_of

_SHOWN = 5


def work(job: Work) -> None:
    """Run one job of the stage."""
    dataset = job.key["dataset"]
    run(
        dataset=dataset,
        out=job.outputs["folder"],
        mirror=mirror_of(job.parameters["download"]["mirror"]),
        generate=job.parameters["generate"].get(dataset),
    )


def run(
    *,
    dataset: str,
    out: Path,
    mirror: Path | None,
    generate: Mapping[str, Any] | None,
    catalog: Path = CATALOG,
    manual: Path = MANUAL,
) -> None:
    """Put one dataset into `out`, completely or not at all.

    Args:
        dataset: The dataset's name in the catalog.
        out: The folder data/raw/DATASET.
        mirror: A folder with copies of public datasets, or None.
        generate: For an embedded dataset, the arguments of its generator.
        catalog: The catalog file.
        manual: The folder for manual downloads, with one folder per dataset.

    Raises:
        UserError: the dataset is unknown, cannot be reached, needs a manual download, or differs from its checksums.
    """
    obtain(catalog_entry(dataset, catalog), out=out, mirror=mirror, generate=generate, manual=manual)


def obtain(
    entry: Dataset, *, out: Path, mirror: Path | None, generate: Mapping[str, Any] | None, manual: Path = MANUAL
) -> None:
    """Put the dataset of a catalog entry into `out`: generated, from the mirror, by hand, or from its sources.

    Files in `manual` take precedence over a download, because the user put them there deliberately. A mirror takes
    precedence over both.
    """
    copies, place = mirrored(entry, mirror), by_hand(entry, mirror, manual)
    if mirror is not None and entry.mirror is not None and copies is None:
        _say(entry, f"not in the mirror ({mirror / entry.mirror})")
    with whole_folder(out) as folder:
        if entry.generator is not None:
            _generate(entry, folder, generate)
        elif copies is not None:
            _copy(copies, folder)
            _finish(entry, folder, origin=copies, complete=True)
        elif place is not None:
            _take_manual(entry, place, folder)
            _finish(entry, folder, origin=place, complete=False)
        elif entry.sources[0].kind == "manual":
            raise _ask_for(entry, manual / entry.name, mirror)
        else:
            downloads = out.parent / ".downloads" / entry.name
            with _alone(entry, downloads):
                _fetch(entry, folder, downloads)
        _refuse_other_layout(entry, folder)


def _say(entry: Dataset, text: str) -> None:
    """Print a message that is not an error."""
    print(f"{entry.name}: {text}", file=sys.stderr)


def _generate(entry: Dataset, folder: Path, arguments: Mapping[str, Any] | None) -> None:
    """Generate an embedded dataset."""
    if arguments is None:
        raise UserError(
            f"{entry.name} is generated and needs its parameters.",
            expected=f"a block generate.{entry.name} in params.yaml (seed, height, width, train, val, test)",
            found="none",
        )
    # imported here, because only embedded datasets need it
    importlib.import_module(str(entry.generator)).generate(folder, **arguments)


def _copy(source: Path, folder: Path) -> None:
    """Copy all files below a folder, except hidden ones."""
    for file in progress(files_below(source), f"copy {source.name}", unit="files"):
        target = folder / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy_file(file, target)


def _copy_file(file: Path, target: Path) -> None:
    """Copy one file's bytes; an unreadable source is reported as such, not as a problem of the target folder."""
    try:
        stream = file.open("rb")
    except OSError as error:
        raise UserError(f"Cannot read {file}", found=error.strerror, fix="check its permissions") from error
    with stream, target.open("wb") as copy:
        shutil.copyfileobj(stream, copy, 1 << 20)


def _fetch(entry: Dataset, folder: Path, downloads: Path) -> None:
    """Download a dataset from its git and https sources; partial files stay in `downloads` for the next attempt."""
    archives = []
    _clear(entry, downloads)
    for source in entry.sources:
        downloads.mkdir(parents=True, exist_ok=True)
        if source.kind == "git":
            _say(entry, f"downloading {source.address}")
            _fetch_repository(entry, source, folder, downloads)
        else:
            archive = download(source.address, downloads, digest=source.sha256)
            archives.append(archive)
            try:
                _unpack_source(source, archive, folder, downloads)
            except UserError:
                discard(archive)  # useless for a later attempt
                raise
    try:
        _finish(entry, folder, origin=Path(entry.sources[0].address.split("/")[-1]), complete=False)
    finally:
        for archive in archives:
            discard(archive)
        with contextlib.suppress(OSError):
            downloads.rmdir()  # only if it contains no partial files


@contextlib.contextmanager
def _alone(entry: Dataset, downloads: Path) -> Iterator[None]:
    """Hold a lock on the folder of partial files: a process in another clone may share data/raw, and waits.

    The lock file is removed at the end, so a process that waited for it looks whether it is still the one in place.
    """
    path = downloads.with_name(f"{downloads.name}.lock")
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another process has just removed the empty folder
            continue
        try:
            _lock(entry, handle)
            if not path.exists() or not os.path.samestat(os.fstat(handle), path.stat()):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
        finally:
            os.close(handle)
            with contextlib.suppress(OSError):
                path.parent.rmdir()  # only if it is empty


def _lock(entry: Dataset, handle: int) -> None:
    """Lock an open file, waiting if another process holds it; some file systems have no locks, and get none."""
    with contextlib.suppress(OSError):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(entry, "another process is downloading it; this one waits")
            fcntl.flock(handle, fcntl.LOCK_EX)


def _clear(entry: Dataset, downloads: Path) -> None:
    """Remove what an earlier, killed attempt left, except partial files that this one resumes."""
    kept = {path for s in entry.sources if s.kind != "git" for path in partial_files(s.address, downloads)}
    for path in downloads.iterdir() if downloads.is_dir() else ():
        if path not in kept:
            remove(path)


def _fetch_repository(entry: Dataset, source: Source, folder: Path, downloads: Path) -> None:
    """Add the files of a git source."""
    with tempfile.TemporaryDirectory(dir=downloads) as name:
        commit = clone(source.address, Path(name) / "files", commit=source.commit, take=source.take)
        _say(entry, f"{source.address} at commit {commit}")
        _move(Path(name) / "files" / (source.take or "."), folder / source.into)


def _unpack_source(source: Source, archive: Path, folder: Path, downloads: Path) -> None:
    """Add the files of an https source, which may be a single plain file."""
    if not is_archive(archive):
        # the name on disk starts with a checksum of the address
        target = folder / source.into / archive.name[13:]
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy_file(archive, target)
        return
    with tempfile.TemporaryDirectory(dir=downloads) as name:
        extract(archive, Path(name) / "files")
        top = Path(name) / "files" / (source.take or ".")
        if not top.is_dir():
            raise UserError(f"The archive {source.address} has no folder {source.take}.", fix="correct the catalog")
        _move(top, folder / source.into)


def _move(source: Path, folder: Path) -> None:
    """Move all files below a folder into another one; two files with the same name are an error."""
    for file in files_below(source):
        target = folder / file.relative_to(source)
        if file.is_symlink() or target.exists():
            raise UserError(
                f"Refused {file.relative_to(source)}.",
                expected="a plain file that no other source contains",
                found="a link" if file.is_symlink() else "a second file with that name",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)


def _take_manual(entry: Dataset, place: Path, folder: Path) -> None:
    """Add the contents of the dataset's manual folder: archives by their names, and all other files unchanged."""
    known = {name: into for source in entry.sources for name, into in source.archives.items()}
    for item in sorted(place.iterdir()):
        if item.name.startswith("."):
            continue
        if item.is_dir():
            _copy(item, folder / item.name)
        elif not is_archive(item):
            _copy_file(item, folder / item.name)
        elif item.name not in known:
            raise UserError(
                f"The target of the contents of {item} is unknown.",
                expected=f"archives named {', '.join(known)}" if known else "unpacked files",
                fix=f"rename it, or unpack it in {place} so that {entry.layout.a} and {entry.layout.b} exist",
            )
        else:
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpack.") as name:
                _say(entry, f"unpacking {item}")
                extract(item, Path(name) / "files")
                _move(_without_top(Path(name) / "files"), folder / known[item.name])


def _without_top(folder: Path) -> Path:
    """Descend into the single folder that many archives have at the top, ignoring files that macOS adds next to it."""
    inside = [path for path in folder.iterdir() if path.name != "__MACOSX" and not path.name.startswith(".")]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _ask_for(entry: Dataset, place: Path, mirror: Path | None) -> UserError:
    """Return an error that says exactly what to download by hand and where to put it."""
    source = entry.sources[0]
    archives = " and ".join(source.archives) or "the files"
    nowhere = f"nothing in {place}" + (f", and no {entry.mirror} in the mirror {mirror}" if mirror else "")
    return UserError(
        f"{entry.name} must be downloaded by hand from {source.address}",
        expected=f"{archives} in {place} (or unpacked, with the layout {entry.layout.a} and {entry.layout.b})",
        found=nowhere,
        fix=f"{source.instructions} Put {archives} in {place} and run the same command again.",
    )


def _finish(entry: Dataset, folder: Path, *, origin: Path, complete: bool) -> None:
    """Add the small files that no source has, and compare all files with the dataset's checksums.

    Args:
        entry: The dataset.
        folder: The current folder of its files.
        origin: The origin of the files, for the message.
        complete: Whether a missing listed file is an error.
    """
    for file, lines in entry.written.items():
        if not (folder / file).exists():
            write_text(folder / file, "".join(f"{line}\n" for line in lines))
    listed = read_manifest(entry.manifest) if entry.manifest is not None else {}
    absent, wrong = [], []
    for file, digest in progress(listed.items(), f"verify {entry.name}", unit="files"):
        path = folder / file
        found = sha256(path) if path.is_file() else None
        if found is None:
            absent.append(file)
        if found not in {None, digest}:
            wrong.append(f"{origin / file}: expected sha256 {digest}, found {found}")
    problems = wrong + [f"{origin / file}: expected sha256 {listed[file]}, found no such file" for file in absent]
    if wrong or (complete and absent):
        more = f"\n    ... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise UserError(
            f"{entry.name}: {len(wrong)} damaged and {len(absent)} missing of {number_of(len(listed), 'file')}.",
            expected=f"the checksums of {entry.manifest}",
            found="".join(f"\n    {problem}" for problem in problems[:_SHOWN]) + more,
            fix=f"get these files again, or remove them from {origin} and download without it",
        )
    others = len(files_below(folder)) - (len(listed) - len(absent))
    absence = f", without {number_of(len(absent), 'listed file')}" if absent else ""
    _say(entry, f"{number_of(len(listed) - len(absent), 'file')} verified by checksum, {others} not verified{absence}")


def _refuse_other_layout(entry: Dataset, folder: Path) -> None:
    """Stop if no file has the layout of the catalog, so that no later stage fails without a clear reason."""
    splits = list(entry.splits.folders.values()) or [""]
    for side, pattern in {"a": entry.layout.a, "b": entry.layout.b}.items():
        filled = [pattern.replace("{split}", split) for split in splits]
        if not any(True for one in filled for _ in matching(folder, one)):
            top = ", ".join(sorted(path.name for path in folder.iterdir())[:_SHOWN])
            raise UserError(
                f"{entry.name}: no file of image {side} ({entry.roles[side]}) matches the catalog's layout.",
                expected=f"files like {' or '.join(filled).replace('{name}', '*')}",
                found=f"at the top level: {top or 'nothing'}",
                fix="the source has another layout: move the files, or correct the entry in data/catalog.yaml",
            )
