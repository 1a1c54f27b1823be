"""Fusing two films into a third one, with a few frames in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from mmfuse.data.films import FilmReader
from mmfuse.data.images import Bytes, luminance
from mmfuse.data.pairs import check_equal_sizes, common_size
from mmfuse.progress import progress
from mmfuse.video.timing import Film, Matched
from mmfuse.video.writing import Quality, film_writer


def pairs_of(a: Film, b: Film, matched: Matched, resize_to: str | None = None) -> Iterator[tuple[int, Bytes, Bytes]]:
    """Yield the frames that belong together: the number in `b`, and the images, (H, W, 3) uint8 RGB.

    Raises:
        UserError: a film is damaged, or the sizes differ.
    """
    with FilmReader() as reader:
        for first, second in zip(matched.a, matched.b, strict=True):
            images = {"a": reader.frame("a", a.path, int(first)), "b": reader.frame("b", b.path, int(second))}
            images = common_size(images, resize_to)
            check_equal_sizes((a.path, images["a"]), (b.path, images["b"]))
            yield int(second), images["a"], images["b"]


def fuse_films(
    a: Film,
    b: Film,
    matched: Matched,
    out: Path,
    fuse: Callable[[Bytes, Bytes], Bytes],
    *,
    quality: Quality = "high",
    resize_to: str | None = None,
    comment: str = "",
    look: Callable[[Bytes, Bytes], None] = lambda _a, _b: None,
) -> None:
    """Fuse two films; the result has the times and the chroma of the second one, and its sound or else the first one's.

    Args:
        a: The first film, whose luminance alone is used.
        b: The second film.
        matched: The frames that belong together.
        out: The film to write.
        fuse: Fuses two images, (H, W) and (H, W, 3), to (H, W) or (H, W, 3), uint8.
        quality: As in `writing.film_writer`.
        resize_to: `a` or `b`: resize the frames of the other film to the size of this one.
        comment: A note in the file.
        look: Gets each pair of frames before it is fused.

    Raises:
        UserError: a film is damaged, the sizes differ, or the target cannot be written.
    """
    images = common_size({"a": a.first, "b": b.first}, resize_to)
    check_equal_sizes((a.path, images["a"]), (b.path, images["b"]))
    height, width = images["b"].shape[:2]
    like = b if resize_to != "a" else replace(b, pixel=a.pixel)
    sound = b if b.sounds or not a.sounds else a
    with film_writer(out, like, sound, (height, width), quality, comment) as write:
        frames = pairs_of(a, b, matched, resize_to)
        for number, first, second in progress(frames, "fuse", total=len(matched.b), unit="frames"):
            look(first, second)
            write(number, fuse(luminance(first), second))
