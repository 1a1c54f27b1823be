"""Options of the commands that read pairs of one's own images."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from mmfuse.data.names import Naming


class Side(StrEnum):
    """One of the two images of a pair."""

    a = "a"
    b = "b"


Pattern = Annotated[
    tuple[str, str] | None,
    typer.Option(metavar="A B", help="Names of the images in A and in B, such as '{name}_ir.png' '{name}_vis.png'."),
]
Recursive = Annotated[bool, typer.Option("--recursive", help="Also read subfolders.")]
ResizeTo = Annotated[
    Side | None, typer.Option(help="Resize the other image of each pair to the size of this one (same field of view).")
]


def naming(pattern: tuple[str, str] | None, recursive: bool, fused: str | None = None) -> Naming:
    """Return how images are named, from the options; `fused` is the pattern of fused images."""
    patterns = {} if pattern is None else {"a": pattern[0], "b": pattern[1]}
    return Naming(patterns | ({} if fused is None else {"fused": fused}), recursive)
