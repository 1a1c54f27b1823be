"""Writing a film frame by frame, completely or not at all.

The codec follows from the suffix and the quality. FFmpeg's exact routines convert the colours. Lossless films of equal
frames have equal frames; H.264's encoder does not give equal bytes each time, also with one thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from mmfuse.data.films import opened, pyav, readable
from mmfuse.data.images import Bytes
from mmfuse.errors import UserError
from mmfuse.files.writing import whole_file
from mmfuse.video.timing import Film, sound_streams

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Quality = Literal["small", "high", "lossless"]
Write = Callable[[int, Bytes], None]
WRITTEN = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
_THREADS = 4
_UNSPECIFIED, _LIMITED = 2, 1  # FFmpeg's numbers of a colour matrix and of a range


@dataclass(frozen=True)
class Codec:
    """An encoder with its options and pixel formats: for even sizes, and for odd ones."""

    name: str
    options: dict[str, str]
    even: str = "yuv420p"
    odd: str = "yuv444p"


def codec_of(path: Path, quality: Quality) -> Codec:
    """Return the codec for a film to write.

    Raises:
        UserError: films with this suffix are not written, or not without loss.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITTEN or path.is_dir():
        raise UserError(
            f"Cannot write the fused film to {path}.", expected=f"a name ending in {', '.join(WRITTEN)}",
            found="a folder" if path.is_dir() else suffix or "no suffix", fix="choose another name for the output",
        )  # fmt: skip
    if quality == "lossless":
        if suffix != ".mkv":
            raise UserError(
                f"Cannot write the film {path} without loss.", expected="a name ending in .mkv", found=suffix,
                fix="choose such a name, or --quality high",
            )  # fmt: skip
        return Codec("ffv1", {"level": "3"}, even="bgr0", odd="bgr0")
    if suffix == ".webm":
        options = {"deadline": "good", "cpu-used": "4", "row-mt": "1"}
        return Codec("libvpx-vp9", {"crf": "20" if quality == "high" else "36", **options})
    return Codec("libx264", {"crf": "17" if quality == "high" else "26", "preset": "medium"})


@contextlib.contextmanager
def film_writer(
    target: Path, like: Film, sound_of: Film, shape: tuple[int, int], quality: Quality, comment: str
) -> Iterator[Write]:
    """Provide a function that writes the next frame of a film, which gets its name when the block ends without error.

    The film has the times, the colour matrix and the shape of pixels of `like`.

    Args:
        target: The film to write.
        like: The film whose frames are shown at the same times.
        sound_of: The film whose sound is copied; it begins with `like`.
        shape: Height and width.
        quality: `small`, `high` or `lossless`.
        comment: A note in the file.

    Yields:
        `write(number, pixels)`: the number of the frame of `like` with the same time, and the (H, W) or (H, W, 3)
        image, uint8.

    Raises:
        UserError: the target cannot be written, or cannot hold the sound.
    """
    av = pyav()
    codec = codec_of(target, quality)
    with (
        whole_file(target) as temporary,
        av.open(str(temporary), "w", format=WRITTEN[target.suffix.lower()]) as out,
    ):
        _check_sounds(target, sound_of, out)
        out.metadata["comment"] = comment
        video = _stream(out, codec, like, shape)
        with contextlib.closing(_sound(sound_of, like, out)) as sound:
            waiting = next(sound, None)

            def sound_until(time: float) -> None:
                nonlocal waiting
                while waiting is not None and _time(waiting) <= time:
                    out.mux(waiting)
                    waiting = next(sound, None)

            last = 0

            def write(number: int, pixels: Bytes) -> None:
                nonlocal last
                last = number
                frame = _frame(pixels, video)
                frame.pts, frame.time_base = int(like.stamps[number]), like.unit
                frame.duration = _duration(like, number)
                out.mux(video.encode(frame))
                sound_until(float(frame.pts * like.unit))

            yield write
            out.mux(video.encode())
            whole = last == len(like.stamps) - 1
            sound_until(np.inf if whole else float((int(like.stamps[last]) + _duration(like, last)) * like.unit))


def _check_sounds(target: Path, film: Film, out: OutputContainer) -> None:
    wrong = [name for name in film.sounds if name not in out.supported_codecs]
    if wrong:
        raise UserError(
            f"The film {target} cannot hold the sound of {film.path}.",
            expected="a container that takes this sound", found=f"sound in {', '.join(wrong)}",
            fix="choose a name ending in .mkv",
        )  # fmt: skip


def _stream(out: OutputContainer, codec: Codec, like: Film, shape: tuple[int, int]) -> VideoStream:
    height, width = shape
    rate = Fraction(1 / like.interval).limit_denominator(1001)
    stream = cast("VideoStream", out.add_stream(codec.name, rate=rate, options=codec.options))
    stream.width, stream.height = width, height
    stream.pix_fmt = codec.even if height % 2 == width % 2 == 0 else codec.odd
    context = stream.codec_context
    context.thread_count, context.bit_rate = _THREADS, 0
    context.time_base = stream.time_base = like.unit
    context.sample_aspect_ratio = like.pixel
    if not stream.pix_fmt.startswith("bgr"):
        context.colorspace, _, context.color_primaries, context.color_trc = like.colours
        context.color_range = _LIMITED
    return stream


def _frame(pixels: Bytes, video: VideoStream) -> VideoFrame:
    """Return an image in the colours and pixel format of the film."""
    av = pyav()
    pixels = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    kind = av.video.reformatter.Interpolation
    exact = kind.BILINEAR | kind.ACCURATE_RND | kind.BITEXACT | kind.FULL_CHR_H_INT
    matrix = video.codec_context.colorspace
    target = {} if matrix == _UNSPECIFIED else {"dst_colorspace": matrix}
    return frame.reformat(format=video.pix_fmt, interpolation=exact, dst_color_range=_LIMITED, threads=1, **target)


def _duration(like: Film, number: int) -> int:
    """Return how long a frame is shown, in units of the film; the last one as long as the one before."""
    number = min(number, len(like.stamps) - 2)
    return int(like.stamps[number + 1] - like.stamps[number])


def _time(packet: Packet) -> float:
    return float((packet.dts if packet.dts is not None else packet.pts or 0) * packet.time_base)


def _sound(source: Film, like: Film, out: OutputContainer) -> Generator[Packet]:
    """Yield the packets of a film's sound as they are, shifted so that both films begin together."""
    if not source.sounds:
        return
    shift = like.stamps[0] * like.unit - source.stamps[0] * source.unit if source is not like else 0
    with opened(source.path) as film:
        found = sound_streams(film)
        streams = {one.index: out.add_stream_from_template(one) for one in found}
        with readable(source.path):
            for packet in film.demux(*found):
                if not packet.size:
                    continue
                later = round(shift / packet.time_base)
                packet.pts = None if packet.pts is None else packet.pts + later
                packet.dts = None if packet.dts is None else packet.dts + later
                packet.stream = streams[packet.stream_index]
                yield packet
