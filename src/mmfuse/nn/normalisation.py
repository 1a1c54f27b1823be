"""Normalisation of feature maps, selected by name, so that a study can exchange one for another."""

from __future__ import annotations

from torch import nn

from mmfuse.errors import UserError


def normalisation(kind: str, channels: int, groups: int | str = 1) -> nn.Module:
    """Return a normalisation of feature maps, (B, channels, H, W) in and out.

    Args:
        kind: group, instance, batch or none. Instance norm is group norm with one channel per group: with weights and
            biases, without running statistics.
        channels: Channels of the feature map.
        groups: Number of groups for `group`; "channels" makes each channel a group.

    Raises:
        UserError: the number of groups does not divide the number of channels.
    """
    if kind == "none":
        return nn.Identity()
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    count = channels if kind == "instance" or groups == "channels" else groups
    if not isinstance(count, int) or count < 1 or channels % count:
        raise UserError(
            f"{channels} channels cannot be divided into these groups.",
            expected=f"a divisor of {channels}, or `channels`",
            found=groups,
            fix="choose a number of groups that divides the channels of every layer",
        )
    return nn.GroupNorm(count, channels)
