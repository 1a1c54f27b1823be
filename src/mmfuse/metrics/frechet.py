"""Mutual information of two 3x3 windows, each interpreted as a distribution over its nine cells.

Two such distributions do not determine their joint distribution. It is therefore constructed as a mixture of
independence and of the strongest dependence that both allow (the Frechet bound), with the share of the latter set by
their correlation.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from mmfuse.metrics.elementary import log

CELLS = 9
_CUTS = CELLS - 1  # of one distribution's cumulative sums, inside 0..1
_PIECES = 2 * _CUTS + 1
_TINY = 1e-300  # keeps logarithms and quotients finite; negligible as a share of an entropy
_SMALL = 1e-100  # also negligible, and its square is not below `_TINY`


class Windows(NamedTuple):
    """Windows as distributions over their cells, numbered column by column from -4 to 4."""

    cells: Tensor  # (9, S, n), as given
    share: Tensor  # (9, S, n), of each cell; they sum to 1
    entropy: Tensor  # (S, n), in nats
    place: Tensor  # (S, n), mean number of the cell
    square: Tensor  # (S, n), mean square of that number
    spread: Tensor  # (S, n), standard deviation of that number over that of the shares; 0 for equal shares

    def of(self, first: int, last: int) -> Windows:
        """Return the windows of some of the images."""
        return Windows(*(values[..., first : last + 1, :] for values in self))


def describe(cells: Tensor) -> Windows:
    """Return windows as distributions: minus their minimum, divided by their sum; uniform for a constant window.

    Shape: (9, S, n) for n windows of each of S images.
    """
    share = cells - cells.amin(dim=0)
    total = share.sum(dim=0)
    constant = total == 0
    if constant.any():
        share += constant
        total += CELLS * constant
    share *= total.reciprocal_()
    place, square = (_numbers(CELLS).to(share) @ share.flatten(1)).view(2, *total.shape)
    # the shares of a non-constant window have a variance of at least 1/648
    contrast = share.square().sum(dim=0).sub_(1 / CELLS).masked_fill_(constant, math.inf)
    spread = torch.addcmul(square, place, place, value=-1).clamp_(min=0).div_(contrast).sqrt_()
    entropy = log(share.clamp(min=_TINY)).mul_(share).sum(dim=0).neg_()
    return Windows(cells, share, entropy, place, square, spread)


@functools.cache
def _numbers(count: int) -> Tensor:
    """Return consecutive numbers with mean 0, and their squares, (2, count)."""
    number = torch.arange(count, dtype=torch.float64) - (count - 1) / 2
    return torch.stack([number, number.square()])


def normalised_information(source: Windows, fused: Windows) -> Tensor:
    """Return the mutual information of windows divided by the mean of their entropies, 0..1; 1 for equal windows.

    Shape: windows of S sources (9, S, n), and of one fused image (9, 1, n), to (S, n).
    """
    alike = (source.share * fused.share).sum(dim=0).sub_(1 / CELLS)  # (S, n), the covariance of the shares
    # the strongest negative dependence is the strongest positive one with reversed cells
    positive = (alike >= 0).to(alike.dtype)  # multiplying by 0 and 1 is faster than torch.where
    negative = 1 - positive
    downwards = torch.addcmul(fused.share * negative, fused.share.flip(0), positive)  # (9, S, n), the last cell first
    place = (positive - negative).mul_(fused.place)

    cuts = _cuts(source.share, downwards)  # (16, S, n)
    covariance = (
        _mean_square(cuts).sub_(source.square).sub_(fused.square).div_(2).addcmul_(source.place, place, value=-1)
    )
    spreads = source.spread * fused.spread
    # ASSUME: at most the bound alone; more would give negative shares
    dependence = alike.abs_().mul_(spreads).div_(covariance.clamp_(min=_TINY)).clamp_(max=1)
    rest = (1 - dependence).clamp_(min=_SMALL)

    # The entropy under independence is known. It changes only in the cells where the bound has mass.
    entropies = source.entropy + fused.entropy
    joint = torch.sub(entropies, rest.log()).mul_(rest)
    shares = _product(source.share, downwards, cuts).clamp_(min=_SMALL**2).mul_(rest)  # (17, S, n)
    joint += log(shares).mul_(shares).sum(dim=0)
    shares.addcmul_(_masses(cuts), dependence.expand_as(shares))
    joint -= log(shares).mul_(shares).sum(dim=0)
    information = entropies.sub(joint).mul_(2).div_(entropies.clamp(min=_TINY)).clamp_(0, 1)
    # the formula gives 1 for equal windows, except for those without information or correlation
    doubtful = spreads == 0
    if doubtful.any():
        equal = (source.cells == fused.cells).all(dim=0)
        information.masked_fill_(doubtful & equal, 1)
    return information


def _cuts(first: Tensor, second: Tensor) -> Tensor:
    """Return where the cumulative sums of two distributions cut the range 0..1, in order: (9, S, n) to (16, S, n).

    The second distribution is given with its last cell first.

    The last bit, which is rounding error anyway, marks the distribution of a cut: 1 for the first.

    Each piece between two cuts is the mass of one cell in each distribution, and thus of one cell of their joint
    distribution with the strongest positive dependence. The numbers of the cells in the first and in the second, from
    0, add up to the number of the piece.
    """
    cuts = first.new_empty(2 * _CUTS, *first.shape[1:])
    # the first ascending, the second descending, as `_merged` needs them
    cuts[0], cuts[-1] = first[0], second[-1]
    rows, of_first, of_second = cuts.unbind(), first.unbind(), second.unbind()
    for cell in range(1, _CUTS):
        torch.add(rows[cell - 1], of_first[cell], out=rows[cell])
        torch.add(rows[-cell], of_second[-cell - 1], out=rows[-cell - 1])
    bits = cuts.view(torch.int64)
    bits[:_CUTS].bitwise_or_(1)
    bits[_CUTS:].bitwise_and_(-2)
    return _merged(cuts)


def _merged(cuts: Tensor) -> Tensor:
    """Sort values (16, S, n) whose first half ascends and whose second half descends.

    Source: Batcher: Sorting networks and their applications, AFIPS Spring Joint Computer Conference 1968, 307, the
    bitonic sorter.
    """
    merged = torch.empty_like(cuts)
    step = _CUTS
    while step:
        halves = (-1, 2, step, *cuts.shape[1:])
        low, high = cuts.view(halves).unbind(1)
        into_low, into_high = merged.view(halves).unbind(1)
        torch.minimum(low, high, out=into_low)
        torch.maximum(low, high, out=into_high)
        cuts, merged = merged, cuts
        step //= 2
    return cuts


def _masses(cuts: Tensor) -> Tensor:
    """Return the lengths of the pieces between cuts (16, S, n), as (17, S, n)."""
    masses = cuts.new_empty(_PIECES, *cuts.shape[1:])
    masses[0] = cuts[0]
    torch.sub(cuts[1:], cuts[:-1], out=masses[1:-1])
    torch.sub(1, cuts[-1], out=masses[-1]).clamp_(min=0)
    return masses


def _mean_square(cuts: Tensor) -> Tensor:
    """Return the mean square of the sum of both cells' numbers, -8 to 8, over the pieces: (16, S, n) to (S, n)."""
    squares = _numbers(_PIECES)[1].to(cuts)
    # summation by parts of number^2 * mass, where masses are differences of cuts
    return squares[-1] + ((squares[:-1] - squares[1:]) @ cuts.flatten(1)).view_as(cuts[0])


def _product(first: Tensor, second: Tensor, cuts: Tensor) -> Tensor:
    """Return the product of both cells' shares for each piece, (17, S, n); arguments and result of `_cuts`."""
    windows = first[0].numel()
    is_first = cuts.view(torch.int64).to(torch.int32).bitwise_and_(1)  # half the memory traffic of 64-bit indices
    place = is_first.new_empty(_PIECES, *is_first.shape[1:])  # index of the cell among all shares
    torch.arange(windows, out=place[0].view(-1))
    rows = place.unbind()
    for before, row, passed in zip(rows, rows[1:], is_first.unbind(), strict=False):
        torch.add(before, passed, alpha=windows, out=row)
    product = first.flatten().index_select(0, place.flatten())
    # both cells' numbers add up to that of the piece, and the last cell of the second comes first
    from_end = torch.arange(_CUTS, _CUTS - _PIECES, -1, dtype=place.dtype, device=place.device)
    place += windows * from_end[:, None, None]
    return product.mul_(second.flatten().index_select(0, place.flatten())).view(place.shape)
