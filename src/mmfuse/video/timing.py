"""The frames of a film with their times, and which frames of two films belong together."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmfuse.data.catalog import FILMS
from mmfuse.data.films import FilmReader, opened, readable
from mmfuse.data.images import Bytes
from mmfuse.errors import UserError
from mmfuse.words import number_of

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer

SAME = 0.002  # seconds: Matroska and WebM round times to milliseconds
_LOST = 0.5  # seconds by which a whole film may end before the length that its header states


@dataclass(frozen=True)
class Film:
    """What is known of a film before it is fused.

    Args:
        path: The file.
        first: The first frame as displayed, (H, W, 3) uint8 RGB.
        stamps: The time of each frame as displayed, in units of `unit`, increasing.
        unit: Seconds.
        colours: Matrix, range, primaries and transfer function of the colours, as FFmpeg's numbers.
        pixel: Width of a displayed pixel divided by its height.
        sounds: Names of the codecs of its sound.
        others: Number of other streams, such as subtitles, or sound in a codec that FFmpeg does not know.
    """

    path: Path
    first: Bytes
    stamps: NDArray[np.int64]
    unit: Fraction
    colours: tuple[int, int, int, int]
    pixel: Fraction
    sounds: tuple[str, ...]
    others: int

    @property
    def times(self) -> NDArray[np.float64]:
        """The time of each frame in seconds after the first one."""
        return (self.stamps - self.stamps[0]) * float(self.unit)

    @property
    def interval(self) -> float:
        """The usual time between two frames in seconds."""
        return float(np.median(np.diff(self.times)))

    def __str__(self) -> str:
        frames = number_of(len(self.stamps), "frame")
        return f"{self.path}: {frames}, {1 / self.interval:.4g} a second, the last one at {self.times[-1]:.3f} s"


def read_film(path: Path) -> Film:
    """Read a film's description, its times without decoding, and its first frame.

    Raises:
        UserError: the file is missing, not a film, damaged, cut off, of one frame only, or without times.
    """
    if path.suffix.lower() not in FILMS or path.is_dir():
        raise UserError(
            "A film can only be fused with a film.",
            expected=f"two films ({', '.join(FILMS)})",
            found=f"{path}, {'a folder' if path.is_dir() else 'a file of another type'}",
            fix="give two films, or images of both modalities",
        )
    with opened(path) as film:
        stream = film.streams.video[0]
        context = stream.codec_context
        if stream.disposition & type(stream.disposition).attached_pic:
            raise UserError(f"The file {path} contains no film.", expected="a film", found="sound with a picture")
        with readable(path):
            stamps = _stamps(path, film)
        unit = Fraction(stream.time_base or 1)
        ratio = Fraction(stream.sample_aspect_ratio or 1) or Fraction(1)
        colours = (context.colorspace, context.color_range, context.color_primaries, context.color_trc)
        stored = (context.height, context.width)
        sounds = tuple(one.codec_context.name for one in sound_streams(film))
        others = len(film.streams) - 1 - len(sounds)
    if len(stamps) < 2:
        raise UserError(
            f"The film {path} has too few frames.", expected="at least two", found=number_of(len(stamps), "frame"),
            fix="fuse single images as PNG files",
        )  # fmt: skip
    if (np.diff(stamps) <= 0).any():
        raise UserError(
            f"The film {path} has frames without a time of their own.",
            expected="increasing times", found="two frames at the same time", fix="export it again",
        )  # fmt: skip
    with FilmReader() as reader:
        first = reader.frame("a", path, 0)
    turned = stored[0] != stored[1] and first.shape[:2] == stored[::-1]
    number = (int(colours[0]), int(colours[1]), int(colours[2]), int(colours[3]))
    return Film(path, first, stamps, unit, number, 1 / ratio if turned else ratio, sounds, others)


def sound_streams(film: InputContainer) -> list[AudioStream]:
    """Return the streams of sound in codecs that FFmpeg knows; telephones add others."""
    return [one for one in film.streams.audio if one.codec_context is not None]


def _stamps(path: Path, film: InputContainer) -> NDArray[np.int64]:
    """Return the times of all frames, in the order in which they are displayed.

    Raises:
        UserError: the film is cut off, or has no times.
    """
    video = film.streams.video[0]
    stamps: list[int | None] = []
    orders: list[int | None] = []
    end = 0.0
    for packet in film.demux():
        if not packet.size or packet.is_corrupt:
            continue
        last = packet.pts if packet.pts is not None else packet.dts
        if last is not None:
            end = max(end, float((last + (packet.duration or 0)) * packet.time_base))
        if packet.stream_index == video.index and not packet.is_discard:
            stamps.append(packet.pts)
            orders.append(packet.dts)
    stated = video.frames  # zero if the file does not contain it
    length = ((film.start_time or 0) + (film.duration or 0)) / 1e6
    if (stated and len(stamps) < stated) or end < length - _LOST:
        raise UserError(
            f"The film {path} is cut off.",
            expected=number_of(stated, "frame") if stated else f"{length:.2f} s",
            found=number_of(len(stamps), "frame") if stated else f"{end:.2f} s",
            fix="copy, export or download it again",
        )
    known = next((every for every in (stamps, orders) if None not in every), None)
    if known is None:
        raise UserError(
            f"The film {path} has frames without a time.", expected="a time for each", fix="export it again"
        )
    return np.sort(np.array(known, np.int64))


@dataclass(frozen=True)
class Matched:
    """The numbers of the frames of two films that are shown at the same times."""

    a: NDArray[np.int64]
    b: NDArray[np.int64]

    def first(self, count: int | None) -> Matched:
        """Return the first frames alone; all of them if `count` is None."""
        return Matched(self.a[:count], self.b[:count])


def match(a: Film, b: Film, *, allow_missing: bool = False) -> Matched:
    """Match the frames of two films by their times, counted from the first frame of each.

    Each frame of the film with fewer frames needs a frame of the other one at the same time, within 2 ms and a quarter
    of the time between frames.

    Args:
        a: The first film.
        b: The second film.
        allow_missing: One film may be longer; its rest is left out.

    Raises:
        UserError: the films differ in their times or lengths.
    """
    swapped = len(a.stamps) > len(b.stamps)
    few, many = (b, a) if swapped else (a, b)
    near = min(SAME, few.interval / 4, many.interval / 4)
    wanted, there = few.times, many.times
    after = np.searchsorted(there, wanted).clip(1, len(there) - 1)
    chosen = after - (wanted - there[after - 1] < there[after] - wanted)
    fits = np.abs(there[chosen] - wanted) <= near
    shared = wanted <= there[-1] + near
    longer = max(a.times[-1], b.times[-1]) - min(a.times[-1], b.times[-1])
    cut = longer >= max(few.interval, many.interval) - near
    if not fits[shared].all() or fits.sum() < 2:
        number = int(np.argmax(~fits)) if not fits.all() else 1
        raise UserError(
            "The frames of the two films are not shown at the same times.",
            expected="equal frame rates, or a frame of one film at the time of each frame of the other",
            found=f"{a}; {b}; no counterpart for frame {number} of {few.path}, at {wanted[number]:.3f} s",
            fix="convert one of them to the frame rate of the other",
        )
    if cut and not allow_missing:
        raise UserError(
            "The two films differ in length.", expected="films that begin and end together", found=f"{a}; {b}",
            fix="cut the longer one; or explicitly allow missing frames (--allow-missing), which leaves out its end",
        )  # fmt: skip
    first, second = np.flatnonzero(fits), chosen[fits]
    return Matched(second, first) if swapped else Matched(first, second)
