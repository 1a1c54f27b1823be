"""Are the images of a pair what they should be? A rule on their colours finds exchanged folders and colour palettes.

The difference between the largest and the smallest of the three channels, averaged over the pixels, measures how
colourful an image is. It is 0 in a grey image, also if that is stored in three channels; more than `COLOURED` grey
levels make an image coloured. If an image that should be grey is coloured, and the other one, which may be coloured, is
grey, the two seem to be exchanged. Otherwise the image seems to be shown in a palette of colours, as thermal cameras
show temperatures; its luminance is then not what was measured.

Two images that are both grey look the same when they are exchanged, so that is not found.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from mmfuse.data.images import Bytes
from mmfuse.words import number_of

COLOURED = 6.0  # grey levels
_SHOWN = 3  # names in a warning


def colourfulness(pixels: Bytes) -> float:
    """Return the mean difference between the largest and the smallest channel of an image, 0 to 255.

    Shape: (H, W) or (H, W, 3), uint8.
    """
    return float((pixels.max(axis=2) - pixels.min(axis=2)).mean()) if pixels.ndim == 3 else 0.0


@dataclass
class Colours:
    """The pairs whose colours contradict what their images should be.

    Args:
        grey: The sides, `a` and `b`, that should be grey, with what each of them shows.
    """

    grey: Mapping[str, str]
    pairs: int = 0
    exchanged: list[str] = field(default_factory=list)
    palette: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, images: Mapping[str, Bytes]) -> None:
        """Look at one pair: its name, and its images `a` and `b` before any conversion to grey."""
        self.pairs += 1
        coloured = [side for side, pixels in images.items() if colourfulness(pixels) > COLOURED]
        wrong = [side for side in coloured if side in self.grey]
        if wrong == coloured and len(wrong) == len(self.grey) == 1:
            self.exchanged.append(name)
        else:
            for side in wrong:
                self.palette.setdefault(side, []).append(name)

    def warn(self, what: str) -> None:
        """Print a warning about each kind of contradiction.

        Args:
            what: What the pairs are, such as the name of a dataset.
        """
        for side, meaning in self.grey.items():
            self._warn(
                what, self.exchanged, f"image {side} ({meaning}) has colours and the other image is grey",
                "if the two were exchanged, put them in the other order",
            )  # fmt: skip
            self._warn(
                what, self.palette.get(side, []), f"image {side} ({meaning}) has colours",
                "if they are a palette, use images whose grey is the measured value",
            )  # fmt: skip

    def _warn(self, what: str, names: list[str], found: str, fix: str) -> None:
        if names:
            listed = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
            print(
                f"warning: {what}: in {len(names)} of {number_of(self.pairs, 'pair')}, {found} ({listed}): {fix}",
                file=sys.stderr,
            )
