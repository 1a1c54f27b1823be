"""Sequential reading of single frames of films, for datasets whose pairs are frames of two aligned films.

PyAV is imported only when a film is read, because no other dataset needs it. One thread decodes a film, and FFmpeg's
exact routines convert its colours, so that equal films give equal pixels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING

import numpy as np

from mmfuse.data.catalog import FILMS
from mmfuse.data.images import Bytes
from mmfuse.errors import UserError
from mmfuse.words import number_of

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame

_AGAIN = "delete it and download it again"


def frame_name(film: str, number: int) -> str:
    """Return the name of the pair that a frame of two films forms; frames are counted from zero."""
    return f"{film}_f{number:05d}"


def pyav() -> ModuleType:
    """Import PyAV, which reads films.

    Raises:
        UserError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(
            "Films cannot be read without the package `av` (PyAV).",
            expected="the environment of envs/requirements.lock",
            found=error,
            fix="make env, or: pip install av",
        ) from error
    return av


def count_frames(path: Path) -> int:
    """Return the number of frames of a film without decoding them.

    Raises:
        UserError: PyAV is not installed; or the film is missing, empty, damaged or truncated.
    """
    with _opened(path) as film:
        stated = film.streams.video[0].frames  # zero if the file does not contain it
        count = sum(1 for packet in film.demux(video=0) if packet.size and not packet.is_corrupt)
    if stated and count != stated:
        raise UserError(
            f"The film {path} is cut off.", expected=f"{number_of(stated, 'frame')}", found=count, fix=_AGAIN
        )
    if not count:
        raise UserError(f"The film {path} is empty.", expected="at least one frame", found="none", fix=_AGAIN)
    return count


class FilmReader:
    """Reads frames of films in order; at most one film per side is open, with one frame in memory.

    As a context manager, it closes the films at the end.
    """

    def __init__(self) -> None:
        self._films: dict[str, _Film] = {}

    def __enter__(self) -> FilmReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for film in self._films.values():
            film.close()
        self._films.clear()

    def frame(self, side: str, path: Path, number: int) -> Bytes:
        """Return one frame, (H, W, 3) uint8 RGB; going back to an earlier frame decodes the film again.

        Args:
            side: The image of the pair, `a` or `b`.
            path: The film.
            number: The number of the frame, counted from zero.

        Raises:
            UserError: PyAV is not installed; or the film is damaged, ends before this frame, or has more than 8 bits
                per channel.
        """
        film = self._films.get(side)
        if film is None or film.path != path or film.next > number:
            if film is not None:
                film.close()
            film = self._films[side] = _Film(path)
        return film.frame(number)


class _Film:
    """One film, decoded from its first frame on."""

    def __init__(self, path: Path) -> None:
        self.path, self.next = path, 0
        self._stack = contextlib.ExitStack()
        self._frames = self._decoded()
        self._error: UserError | None = None

    def _decoded(self) -> Iterator[VideoFrame]:
        container = self._stack.enter_context(_opened(self.path))
        yield from container.decode(video=0)

    def frame(self, number: int) -> Bytes:
        """Return a frame not yet passed; after an error, all later calls raise it again."""
        if self._error is not None:
            raise self._error
        try:
            with _readable(self.path):
                for frame in self._frames:
                    self.next += 1
                    if self.next > number:
                        return _pixels(self.path, frame)
            raise UserError(
                f"The film {self.path} is cut off.",
                expected=f"a frame {number}",
                found=f"{number_of(self.next, 'frame')}",
                fix=_AGAIN,
            )
        except UserError as error:
            self._error = error
            raise

    def close(self) -> None:
        self._stack.close()


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn errors of PyAV about a film into one clear error."""
    try:
        yield
    except (pyav().FFmpegError, OSError, ValueError) as error:
        raise UserError(
            f"Damaged or unreadable film: {path}",
            expected=f"a complete film ({', '.join(FILMS)})",
            found=f"{type(error).__name__}: {error} ({path.stat().st_size} bytes)",
            fix=_AGAIN,
        ) from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    """Open a film with the reader of its suffix, in one thread that stops at damage.

    FFmpeg's other readers are disabled for untrusted files, because some of them follow addresses in a file.
    """
    if not path.is_file():
        raise UserError(f"Film not found: {path}", fix="check the name and the folder")
    with _readable(path), pyav().open(str(path), format=FILMS[path.suffix.lower()]) as film:
        if not film.streams.video:
            raise UserError(f"The file {path} contains no film.", expected="a video stream", found="none", fix=_AGAIN)
        context = film.streams.video[0].codec_context
        context.thread_type, context.thread_count = "NONE", 1
        context.options = {"err_detect": "explode"}
        yield film


def _pixels(path: Path, frame: VideoFrame) -> Bytes:
    """Return a frame as (H, W, 3) RGB, turned as the film says: telephones turn films only for display."""
    depth = max(component.bits for component in frame.format.components)
    if depth > 8:
        raise UserError(
            f"Cannot use the film {path}.",
            expected="8 bits per channel",
            found=f"{depth} bits (pixel format {frame.format.name})",
            fix="convert it to 8 bits first; the scaling of its values is up to you",
        )
    kind = pyav().video.reformatter.Interpolation
    exact = kind.BILINEAR | kind.ACCURATE_RND | kind.BITEXACT | kind.FULL_CHR_H_INT
    pixels = np.asarray(frame.to_ndarray(format="rgb24", interpolation=exact, threads=1), np.uint8)
    quarters = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, quarters)) if quarters else pixels
