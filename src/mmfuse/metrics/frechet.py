"""Mutual information of two 3x3 windows, each read as a distribution over its nine cells.

Two such distributions do not say which cell goes with which. So their joint distribution is made up: a mixture of
independence and of the strongest dependence that both allow (the bound of Frechet), with as much of the latter as
their correlation asks for.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmfuse.metrics.elementary import log_

CELLS = 9
_CUTS = CELLS - 1  # inside 0..1, of one distribution's cumulative sums
_TINY = 1e-300  # keeps logarithms and quotients finite; as a share of an entropy it is nothing


class Windows(NamedTuple):
    """Windows as distributions over their cells, which are numbered column by column."""

    cells: Tensor  # (9, S, n), as given
    share: Tensor  # (9, S, n), of each cell; all together 1
    entropy: Tensor  # (S, n), in nats
    place: Tensor  # (S, n), mean number of the cell
    spread: Tensor  # (S, n), standard deviation of that number
    contrast: Tensor  # (S, n), distance of the shares from equal ones


def describe(cells: Tensor) -> Windows:
    """Return windows as distributions: less their minimum, over their sum; equal shares where the window is constant.

    Shape: (9, S, n) for n windows of each of S images.
    """
    share = cells - cells.amin(dim=0)
    total = share.sum(dim=0)
    constant = total == 0
    if constant.any():
        share += constant
        total += CELLS * constant
    share /= total
    number = torch.arange(CELLS, dtype=share.dtype, device=share.device)[:, None, None]
    place = (number * share).sum(dim=0)
    spread = (number - place).square_().mul_(share).sum(dim=0).sqrt_()
    contrast = share.square().sum(dim=0).sub_(1 / CELLS).masked_fill_(constant, 0).sqrt_()
    return Windows(cells, share, -_negative_entropy(share), place, spread, contrast)


def _negative_entropy(shares: Tensor) -> Tensor:
    """Return the sum of x log x over the first dimension."""
    return log_(shares.clamp(min=_TINY)).mul_(shares).sum(dim=0)


def normalised_information(source: Windows, fused: Windows) -> Tensor:
    """Return the mutual information of windows over the mean of their entropies, 0..1; 1 for equal windows.

    Shape: windows of S sources (9, S, n), and of one fused image (9, 1, n), to (S, n).
    """
    product = source.contrast * fused.contrast  # (S, n)
    correlation = (source.share * fused.share).sum(dim=0).sub_(1 / CELLS).div_(product)
    correlation.masked_fill_(product == 0, 0)  # a constant window is correlated with nothing
    # the strongest negative dependence is the strongest positive one with the cells in reverse order
    positive = (correlation >= 0).to(correlation.dtype)  # products with 0 and 1 are faster than a choice
    share = torch.addcmul(fused.share * positive, fused.share.flip(0), 1 - positive)  # (9, S, n)
    place = fused.place * positive + (CELLS - 1 - fused.place) * (1 - positive)

    mass, number = _bound(source.share, share)  # (17, S, n) each
    independent = _product(source.share, share, number)
    covariance = _covariance(mass, number, source.place, place)
    # ASSUME: the bound alone at most; more would give negative shares
    needed = correlation.abs_() * (source.spread * fused.spread)
    dependence = (needed / covariance.clamp_(min=_TINY)).clamp_(max=1)
    rest = 1 - dependence

    # The entropy of independence alone is known. It changes only in the cells where the bound has mass.
    entropies = source.entropy + fused.entropy
    joint = rest * entropies - rest * rest.clamp(min=_TINY).log_()
    joint += _negative_entropy(independent.mul_(rest))
    joint -= _negative_entropy(independent.addcmul_(mass, dependence.expand_as(mass)))
    information = (2 * (entropies - joint) / entropies.clamp(min=_TINY)).clamp_(0, 1)
    # equal windows get their 1 from the formula, but for those without information or correlation
    doubtful = (entropies == 0) | (product == 0)
    if doubtful.any():
        equal = (source.cells == fused.cells).all(dim=0)
        information.masked_fill_(doubtful & equal, 1)
    return information


def _bound(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the joint distribution of the strongest positive dependence: its at most 17 cells with mass.

    The cumulative sums of both cut the range 0..1 into pieces; each piece is the mass of one cell in each distribution.

    Shape: (9, S, n) twice, to the masses and the cells' numbers in the first, (17, S, n) each. The numbers of a piece
    in the first and in the second add up to the piece's own number.
    """
    cuts = first.new_empty(2 * _CUTS, *first.shape[1:])
    # the first ones upwards, the second ones downwards, as `_merged` needs them
    cuts[0], cuts[-1] = first[0], second[0]
    for cell in range(1, _CUTS):
        torch.add(cuts[cell - 1], first[cell], out=cuts[cell])
        torch.add(cuts[-cell], second[cell], out=cuts[-cell - 1])
    # whose cut it is stands in the last bit, which is rounding anyway
    bits = cuts.view(torch.int64)
    bits[:_CUTS].bitwise_or_(1)
    bits[_CUTS:].bitwise_and_(-2)
    cuts = _merged(cuts)
    mass = cuts.new_empty(2 * _CUTS + 1, *cuts.shape[1:])
    mass[0], mass[-1] = cuts[0], (1 - cuts[-1]).clamp_(min=0)
    torch.sub(cuts[1:], cuts[:-1], out=mass[1:-1])
    number = torch.empty_like(mass, dtype=torch.int64)
    number[0] = 0
    torch.bitwise_and(cuts.view(torch.int64), 1, out=number[1:])
    for piece in range(2, len(number)):
        number[piece] += number[piece - 1]
    return mass, number


def _merged(cuts: Tensor) -> Tensor:
    """Sort values (16, S, n) of which the first half rises and the second half falls.

    Source: Batcher: Sorting networks and their applications, AFIPS Spring Joint Computer Conference 1968, 307, the
    bitonic sorter.
    """
    merged = torch.empty_like(cuts)
    step = _CUTS
    while step:
        low, high = cuts.unflatten(0, (-1, 2, step)).unbind(1)
        into_low, into_high = merged.unflatten(0, (-1, 2, step)).unbind(1)
        torch.minimum(low, high, out=into_low)
        torch.maximum(low, high, out=into_high)
        cuts, merged = merged, cuts
        step //= 2
    return cuts


def _product(first: Tensor, second: Tensor, number: Tensor) -> Tensor:
    """Return the product of both cells' shares for each piece: (9, S, n) twice and (17, S, n) to (17, S, n)."""
    windows = first[0].numel()
    column = torch.arange(windows, device=number.device).view_as(number[0])
    row = torch.arange(len(number), device=number.device)[:, None, None] * windows
    place = number * windows + column
    product = first.flatten().index_select(0, place.flatten())
    torch.sub(row + 2 * column, place, out=place)
    return product.mul_(second.flatten().index_select(0, place.flatten())).view(number.shape)


def _covariance(mass: Tensor, number: Tensor, place: Tensor, other_place: Tensor) -> Tensor:
    """Return the covariance of the cells' numbers under the bound, from its pieces (17, S, n), as (S, n)."""
    in_first = number.to(mass.dtype)
    piece = torch.arange(len(number), dtype=mass.dtype, device=mass.device)[:, None, None]
    in_second = (piece - other_place).sub_(in_first)  # less its mean
    return in_first.sub_(place).mul_(in_second).mul_(mass).sum(dim=0)
