"""Tiles of an image, for both exact methods of dense convolution (overlap-save and Winograd)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Tiles:
    """Outputs (B, H, W) of a convolution, cut into tiles of `tile` x `tile`."""

    batch: int
    height: int
    width: int
    kernel: int
    tile: int

    @property
    def length(self) -> int:
        """Inputs that a tile needs in one direction."""
        return self.tile + self.kernel - 1

    @property
    def down(self) -> int:
        """Tiles in one column."""
        return -(-self.height // self.tile)

    @property
    def across(self) -> int:
        """Tiles in one row."""
        return -(-self.width // self.tile)

    @property
    def rows(self) -> int:
        """Rows of tiles in the whole batch."""
        return self.batch * self.down

    def groups(self, most: int) -> Iterator[range]:
        """Yield the rows of tiles in groups of at most `most`, but at least one."""
        count = -(-self.rows // max(1, most))
        for number in range(count):
            yield range(self.rows * number // count, self.rows * (number + 1) // count)
