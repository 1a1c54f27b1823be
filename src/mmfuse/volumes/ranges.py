"""The values of a volume that become black and white: one range for all slices, so that they do not flicker."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmfuse.errors import UserError
from mmfuse.volumes.volume import Values, Volume
from mmfuse.words import number_of

FORMS = "auto, full, LO:HI or percentile:P, such as percentile:99.5"
AUTO = 99.5  # percentile, if the file states no display range
_BYTES = (0.0, 255.0)


class Choice(NamedTuple):
    """How a range is chosen: `auto`, `full`, `limits` with black and white, or `percentile` with one number."""

    kind: str
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True)
class Range:
    """Values that become black and white, and in words where they come from."""

    low: float
    high: float
    source: str
    inverted: bool = False

    def unit(self, values: Values) -> NDArray[np.float32]:
        """Return values as 0 (black) to 1 (white), clipped; values that are not finite become black."""
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = np.clip((values - self.low) / (self.high - self.low), 0, 1)
        if self.inverted:
            scaled = 1 - scaled
        return np.where(np.isfinite(values), scaled, 0).astype(np.float32)


def parsed(text: str) -> tuple[Choice, Choice]:
    """Return the ranges of the first and the second volume: one text for both, or two separated by a comma.

    Raises:
        UserError: it has another form.
    """
    parts = [part.strip() for part in text.split(",")]
    choices = [_choice(part) for part in parts]
    found = [choice for choice in choices if choice is not None]
    if len(found) != len(choices) or len(found) > 2:
        raise UserError(
            "The value range cannot be used.", expected=f"{FORMS}; two of them with a comma, one for each volume",
            found=text, fix="LO must be below HI, and P above 50 and at most 100",
        )  # fmt: skip
    return found[0], found[-1]


def _choice(text: str) -> Choice | None:
    if text in {"auto", "full"}:
        return Choice(text)
    number = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
    limits = re.fullmatch(f"({number}):({number})", text)
    if limits is not None:
        low, high = map(float, limits.groups())
        return Choice("limits", (low, high)) if low < high and np.isfinite(high - low) else None
    percentile = re.fullmatch(f"percentile:({number})", text)
    if percentile is not None and 50 < float(percentile[1]) <= 100:
        return Choice("percentile", (float(percentile[1]),))
    return None


def range_of(volume: Volume, choice: Choice) -> Range:
    """Return the value range of a whole volume.

    `auto` takes the display range of the file (a DICOM window, or cal_min and cal_max of NIfTI), if it lies within the
    values; else the percentiles of `percentile:99.5`, or all values if these percentiles are equal. A colour volume is
    read from 0 to 255. `percentile:P` goes from the (100 - P)th to the Pth percentile of all finite voxels.

    Raises:
        UserError: the volume has no finite voxel, all of its values are equal, or none lies within the range.
    """
    if volume.colour:
        return Range(*_BYTES, "colours of 8 bits")
    low, high = _extremes(volume)
    window = volume.window
    if choice.kind == "limits":
        low_limit, high_limit = choice.numbers
        if not (low_limit < high and high_limit > low):
            raise UserError(
                f"No value of {volume.name} lies within the range.",
                expected=f"a range that overlaps {low:g} to {high:g}",
                found=f"{low_limit:g}:{high_limit:g}",
                fix="choose another --range; values of DICOM are rescaled (CT is in Hounsfield units)",
            )
        return Range(low_limit, high_limit, "as given", volume.inverted)
    if choice.kind == "auto" and window is not None and window[0] < window[1] and window[0] < high and window[1] > low:
        return Range(*window, volume.window_source, volume.inverted)
    if choice.kind == "full":
        return Range(low, high, "smallest to largest value", volume.inverted)
    percentile = AUTO if choice.kind == "auto" else choice.numbers[0]
    first, last = _percentiles(volume, percentile)
    if first < last:
        source = f"percentiles {round(100 - percentile, 6):g} and {percentile:g}"
        return Range(first, last, source, volume.inverted)
    if choice.kind == "percentile":
        raise UserError(
            f"The percentiles of {volume.name} are equal.",
            expected=f"values that differ between percentile {round(100 - percentile, 6):g} and {percentile:g}",
            found=f"{first:g} for both; most voxels have this value",
            fix="choose --range full, or a percentile closer to 100",
        )
    return Range(low, high, "smallest to largest value, because the percentiles are equal", volume.inverted)


def _extremes(volume: Volume) -> tuple[float, float]:
    """Return the smallest and the largest finite value, and note the number of the others.

    Raises:
        UserError: there are less than two values.
    """
    low, high, strange = np.inf, -np.inf, 0
    for block in volume.blocks():
        good = np.isfinite(block)
        strange += block.size - int(np.count_nonzero(good))
        low = min(low, float(block.min(where=good, initial=np.inf)))
        high = max(high, float(block.max(where=good, initial=-np.inf)))
    if not low < high:
        raise UserError(
            f"The volume {volume.name} shows nothing.",
            expected="voxels with different values",
            found="no finite value" if low > high else f"{low:g} in every voxel",
            fix="check that this is the right file, and how it was written",
        )
    if strange:
        volume.notes.append(f"{number_of(strange, 'voxel')} without a value (NaN, infinite or padding) become black")
    return low, high


def _percentiles(volume: Volume, percentile: float) -> tuple[float, float]:
    """Return the (100 - P)th and the Pth percentile of the finite values; takes four bytes per voxel meanwhile."""
    values = np.empty(int(np.prod(volume.shape)), np.float32)
    filled = 0
    for block in volume.blocks():
        finite = block[np.isfinite(block)]
        values[filled : filled + finite.size] = finite
        filled += finite.size
    low, high = np.percentile(values[:filled], [100 - percentile, percentile], overwrite_input=True)
    return float(low), float(high)
