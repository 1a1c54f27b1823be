"""Whether an alignment can be trusted: how many blocks, each on its own, agree best where the map puts them.

The map was chosen for the sum over all blocks. If the images show the same and the map is right, the peak of most
blocks with edges lies at their place. If not, peaks lie anywhere in the window that was searched.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmfuse.alignment.refine import Surfaces

REACH = 8  # pixels at the resolution of the check: peaks are searched so far from their places
NEAR = 1.5  # pixels: a peak at most so far from its place agrees
_EVERY = 3  # blocks: the window of a block is about so wide, so that those counted are independent
_CHANCE = 1e-8  # how likely so many agreeing blocks may be by chance
_SHARE = 0.15  # least share of agreeing blocks
_RIVAL = 0.6  # largest evidence for another map, relative to the best
_FAINT = 0.05  # agreement: a block without a higher peak has no edges in common and is not counted


def agreeing(found: Sequence[Surfaces]) -> tuple[int, int, float]:
    """Return how many independent blocks agree with the map, how many there are, and the share expected by chance."""
    near = total = 0
    chance = 1.0
    for one in found:
        values = one.values[:, :, ::_EVERY, ::_EVERY][:, :, one.known[::_EVERY, ::_EVERY]]
        count = values.shape[0]
        reach = count // 2
        if not values.size:
            continue
        flat = values.reshape(count * count, -1)
        y, x = np.divmod(flat.argmax(axis=0), count)
        counted = flat.max(axis=0) > _FAINT
        near += int((counted & (np.hypot(y - reach, x - reach) <= NEAR)).sum())
        total += int(counted.sum())
        offsets = np.arange(count) - reach
        chance = float((np.hypot(*np.meshgrid(offsets, offsets)) <= NEAR).mean())
    return near, total, chance


def trusted(found: Sequence[Surfaces], evidence: Sequence[float]) -> tuple[bool, float]:
    """Return whether a map can be trusted, and the share of blocks that agree with it.

    So many blocks must agree that it cannot be chance, and the map must stand out: images without common content have
    several maps that are nearly as good.

    Args:
        found: The surfaces under the map.
        evidence: That for the map, and then that for the other maps of the search.
    """
    from scipy.stats import binom

    near, total, chance = agreeing(found)
    share = near / total if total else 0.0
    surely = total > 0 and float(binom.sf(near - 1, total, chance)) < _CHANCE
    alone = all(other <= _RIVAL * evidence[0] for other in evidence[1:])
    return surely and alone and share >= _SHARE, share
