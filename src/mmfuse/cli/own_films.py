"""`mmfuse fuse` for two films."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from mmfuse import __version__
from mmfuse.cli.own_images import GREY, memory_limit, shipped_choice
from mmfuse.data.catalog import FILMS
from mmfuse.data.colours import Colours
from mmfuse.data.images import Bytes
from mmfuse.data.names import Naming
from mmfuse.data.pairs import PLAIN, check_equal_sizes, common_size
from mmfuse.errors import UserError
from mmfuse.terminal import wrapped
from mmfuse.video.fusing import fuse_films, pairs_of
from mmfuse.video.timing import Film, Matched, match, read_film
from mmfuse.video.writing import WRITTEN, Quality, codec_of
from mmfuse.words import number_of


def are_films(*paths: Path) -> bool:
    """Return whether a command is about films: one of its paths has the suffix of a film and is not a folder."""
    return any(path.suffix.lower() in {*FILMS, *WRITTEN} and not path.is_dir() for path in paths)


def fuse_own_films(
    a: Path,
    b: Path,
    out: Path,
    *,
    weights: str | Path | None = None,
    method: str | None = None,
    task: str | None = None,
    allow_missing: bool = False,
    naming: Naming = PLAIN,
    resize_to: str | None = None,
    backend: str = "torch",
    precision: str = "fp32",
    memory: str | None = None,
    quality: Quality = "high",
    frames: int | None = None,
) -> None:
    """Fuse two films into the film OUT.

    Args:
        a: Film of the first modality.
        b: Film of the second modality.
        out: The film to write.
        weights: As in `own_images.fuse_folders`, like the other options that are not described here.
        method: A training-free method.
        task: `ivif` or `mif`; determined from the first frames if needed and not given.
        allow_missing: One film may be longer.
        naming: Has no effect on films.
        resize_to: `a` or `b`.
        backend: One of `inference.backends.BACKENDS`.
        precision: fp32, bf16 or auto.
        memory: As for images; larger frames are fused in tiles.
        quality: small, high or lossless.
        frames: Fuse only so many frames, from the first.

    Raises:
        UserError: a file is no film or damaged, the films differ in their times or sizes, or as for images.
    """
    from mmfuse.api.choosing import check_choice, chosen, network
    from mmfuse.fastconv.workspace import keep_freed_memory
    from mmfuse.inference.backends import prepared
    from mmfuse.inference.fusing import best_device, fuse_pair

    room = memory_limit(memory, backend)
    check_choice(weights, method, task)
    if naming != PLAIN:
        raise UserError("A pattern and --recursive have no effect on films.", fix="leave them out")
    codec_of(out, quality)
    first, second, matched = _films(a, b, out, allow_missing=allow_missing, resize_to=resize_to)
    matched = matched.first(frames)

    def start() -> Iterator[tuple[str, Bytes, Bytes]]:
        for _, one, two in pairs_of(first, second, matched.first(1), resize_to):
            yield "the first frames", one, two

    given = None if weights is None else str(weights)
    net = network(chosen(weights, method, task, lambda: shipped_choice(start, 1, given, task)))
    kind = type(net).__module__.rpartition(".")[2]
    device = best_device()
    if memory is None:
        keep_freed_memory()
    fuse, record = prepared(net.to(device), device, backend=backend, precision=precision)
    if precision == "auto":
        print(f"precision: {record['precision']}", file=sys.stderr)
    colours = Colours(GREY)
    fuse_films(
        first, second, matched, out, lambda one, two: fuse_pair(fuse, one, two, device, memory=room),
        quality=quality, resize_to=resize_to, comment=f"fused by mmfuse {__version__} ({kind})",
        look=lambda one, two: colours.add(f"frame {colours.pairs}", {"a": one, "b": two}),
    )  # fmt: skip
    print(f"fused film: {out} ({number_of(len(matched.b), 'frame')})")
    colours.warn("fuse")


def _films(a: Path, b: Path, out: Path, *, allow_missing: bool, resize_to: str | None) -> tuple[Film, Film, Matched]:
    """Read the descriptions of two films, check that they fit, and say what is left out."""
    for path in (a, b):
        if not path.exists():
            raise UserError(f"Film not found: {path}", fix="check the name and the folder")
    if a.samefile(b):
        raise UserError(
            "Both films are the same.", expected="films of two modalities", found=f"{a} and {b}", fix="give the other"
        )
    if out.exists() and (out.samefile(a) or out.samefile(b)):
        raise UserError("The fused film would overwrite its source.", found=out, fix="choose another output")
    first, second = read_film(a), read_film(b)
    images = common_size({"a": first.first, "b": second.first}, resize_to)
    check_equal_sizes((a, images["a"]), (b, images["b"]))
    matched = match(first, second, allow_missing=allow_missing)
    for film, used in ((first, matched.a), (second, matched.b)):
        left = len(film.stamps) - len(used)
        if left:
            print(wrapped(f"left out: {number_of(left, 'frame')} of {film.path} without counterpart"), file=sys.stderr)
    left_out = [f"the sound of {a}"] if first.sounds and second.sounds else []
    left_out += [f"{number_of(second.others, 'stream')} of {b} beside film and sound"] if second.others else []
    for line in left_out:
        print(wrapped(f"left out: {line}"), file=sys.stderr)
    return first, second, matched
