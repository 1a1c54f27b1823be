"""Downloads: https with resume, and git repositories."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import requests

from mmfuse import __version__
from mmfuse.errors import UserError
from mmfuse.files.writing import sha256, write_text
from mmfuse.progress import progress

_NETWORK = "check the network and the proxy settings (HTTPS_PROXY) and run it again; data/README.md lists other ways"
_CHUNK = 1 << 16
_TIMEOUT = 60.0  # seconds to wait for the server's next bytes


# ---------------------------------------------------------------------------------------------------- https


class _TryAgainError(Exception):
    """A temporary failure of the transfer: try again."""


def download(url: str, folder: Path, *, digest: str | None = None, attempts: int = 4, pause: float = 0.5) -> Path:
    """Download a file into a folder, resuming an earlier, interrupted transfer.

    The partial file and its metadata stay in `folder`, so that a later call resumes. The server continues only exactly
    the same file (If-Range); otherwise the transfer restarts.

    Args:
        url: The address.
        folder: Target folder; the file's name there starts with a checksum of the address.
        digest: The file's SHA-256, if known.
        attempts: Maximum number of connections.
        pause: Seconds before the second attempt, doubled for each further one.

    Returns:
        The path of the complete file.

    Raises:
        UserError: no network, no such file, an HTML page instead of an archive, or a wrong checksum.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, _ = partial_files(url, folder)
    with requests.Session() as session:
        for attempt in range(1, attempts + 1):
            try:
                _transfer(session, url, path)
                break
            except (requests.RequestException, _TryAgainError) as error:
                # a wrong certificate or address does not change by retrying
                lasting = isinstance(error, requests.exceptions.SSLError | ValueError)
                if lasting or attempt == attempts:
                    if not all(_partial(path)):  # nothing to resume
                        discard(path)
                    raise UserError(f"Cannot download {url}", found=_shown(error), fix=_NETWORK) from error
                time.sleep(pause * 2 ** (attempt - 1))
    found = sha256(path) if digest else digest
    if found != digest:
        discard(path)
        raise UserError(
            f"The downloaded file is not the expected one: {url}",
            expected=f"sha256 {digest}",
            found=f"sha256 {found}",
            fix="run the same command again; if the error persists, the source has changed: update the catalog",
        )
    return path


def partial_files(url: str, folder: Path) -> tuple[Path, Path]:
    """Return the paths of a downloaded or partial file and of its metadata."""
    name = re.sub(r"[^\w.-]", "_", PurePosixPath(unquote(urlsplit(url).path)).name) or "file"
    path = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name}"
    return path, _note(path)


def discard(path: Path) -> None:
    """Remove a downloaded or partial file and its metadata."""
    path.unlink(missing_ok=True)
    _note(path).unlink(missing_ok=True)


def _note(path: Path) -> Path:
    """Return the metadata file, which identifies the version of the remote file that a partial file belongs to."""
    return path.with_name(path.name + ".json")


def _partial(path: Path) -> tuple[int, str]:
    """Return the number of bytes present and the validator to resume with; (0, "") if none are usable."""
    try:
        return path.stat().st_size, str(json.loads(_note(path).read_text(encoding="utf-8"))["validator"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, ""


def _shown(text: object) -> str:
    """Return text without the queries of its addresses: a server may redirect to an address that contains a token."""
    return re.sub(r"\?[^\s'\")>]+", "?…", str(text))


def _transfer(session: requests.Session, url: str, path: Path) -> None:
    """Try once to download the missing bytes."""
    have, validator = _partial(path)
    headers = {"Accept-Encoding": "identity", "User-Agent": f"mmfuse/{__version__}"}
    if have and validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        extent = response.headers.get("Content-Range", "")
        if response.status_code == 416 and extent == f"bytes */{have}":
            return  # an earlier call already downloaded everything
        resumed = response.status_code == 206 and extent.startswith(f"bytes {have}-")
        if response.status_code == 416 or (response.status_code == 206 and not resumed):
            discard(path)
            raise _TryAgainError(f"the server cannot continue the file: {response.status_code} {extent}")
        _refuse_answer(response, url)
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        tag = response.headers.get("ETag", "")
        # a weak tag (W/...) does not guarantee equal bytes and is not allowed in If-Range
        validator = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")
        if not resumed:
            path.unlink(missing_ok=True)
            write_text(_note(path), json.dumps({"url": url, "validator": validator}))
        bar = progress(what=path.name[13:], total=total, unit="B", unit_scale=True, initial=start)
        with path.open("ab") as stream, bar:
            for chunk in response.iter_content(_CHUNK):
                stream.write(chunk)
                bar.update(len(chunk))
    if total is not None and path.stat().st_size != total:
        raise _TryAgainError(f"the transfer stopped at {path.stat().st_size} of {total} bytes")


def _refuse_answer(response: requests.Response, url: str) -> None:
    """Reject responses that are not the file: an error, an HTML page, or a redirect to an unencrypted connection."""
    status = f"HTTP {response.status_code} {response.reason}"
    if response.status_code == 429 or response.status_code >= 500:
        raise _TryAgainError(status)
    if not response.ok:
        raise UserError(
            f"Cannot download {url}",
            found=status,
            fix="open the address in a browser; if the file has moved, use a mirror",
        )
    if urlsplit(url).scheme == "https" and urlsplit(response.url).scheme != "https":
        raise UserError(f"{url} redirects to an unencrypted address.", expected="https", found=_shown(response.url))
    kind = response.headers.get("Content-Type", "")
    if kind.startswith("text/html") and not url.endswith((".html", ".htm")):
        raise UserError(
            f"{url} returns a web page instead of a file.",
            found=f"Content-Type {kind}",
            fix="open it in a browser; it may require a click, a login or waiting",
        )


# ------------------------------------------------------------------------------------------------------ git


def clone(url: str, folder: Path, *, commit: str | None = None, take: str | None = None, timeout: float = 3600) -> str:
    """Download one version of a git repository into an empty folder, without its history.

    Args:
        url: Address of the repository, or a local path.
        folder: Target folder of its files.
        commit: The commit to use; None means the newest one.
        take: The only folder of the repository to download, if the server supports that; None for all.
        timeout: Seconds for each step.

    Returns:
        The commit that was used, 40 hexadecimal digits.

    Raises:
        UserError: git is not installed, the repository or commit cannot be reached, or it does not contain `take`.
    """

    def git(*arguments: str) -> str:
        return _git(arguments, folder, url, timeout)

    folder.mkdir(parents=True, exist_ok=True)
    git("init", "--quiet")
    git("remote", "add", "origin", url)
    # checksums must not depend on this machine's line endings, and links in a repository must stay plain text
    for key, value in {"core.autocrlf": "false", "core.symlinks": "false", "core.fsmonitor": "false"}.items():
        git("config", key, value)
    if take is not None:
        git("sparse-checkout", "set", "--cone", take)
    partial = ["--filter=blob:none"] if take is not None else []
    git("fetch", "--quiet", "--depth=1", "--no-tags", *partial, "origin", commit or "HEAD")
    git("checkout", "--quiet", "--detach", "FETCH_HEAD")
    taken = git("rev-parse", "HEAD").strip()
    shutil.rmtree(folder / ".git")
    if take is not None and not (folder / take).is_dir():
        raise UserError(
            f"The repository {url} has no folder {take}.",
            found=f"commit {taken}",
            fix="the repository has changed: name an older commit in the catalog, or use a mirror",
        )
    return taken


def _git(arguments: tuple[str, ...], folder: Path, url: str, timeout: float) -> str:
    """Run one git command without any interactive prompt, and return its output."""
    outer = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"}  # set if a git hook started this program
    environment = {key: value for key, value in os.environ.items() if key not in outer}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    patience = ["-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60"]
    try:
        done = subprocess.run(
            ["git", *patience, *arguments],
            cwd=folder, env=environment, timeout=timeout, check=False, capture_output=True, text=True,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise UserError(f"Cannot fetch {url}: git is not installed.", fix="install git, or use a mirror") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"Cannot fetch {url}", found=f"not finished after {timeout:g} seconds", fix=_NETWORK) from error
    if done.returncode != 0:
        raise UserError(
            f"Cannot fetch {url}",
            expected=f"git {arguments[0]} to succeed",
            found=done.stderr.strip()[-500:] or f"exit code {done.returncode}",
            fix=_NETWORK,
        )
    return done.stdout
