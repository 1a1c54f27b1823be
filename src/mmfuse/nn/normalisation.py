"""Normalisation of feature maps by the name of its kind, so that a study can exchange one for another."""

from __future__ import annotations

from torch import nn

from mmfuse.errors import UserError


def normalisation(kind: str, channels: int, groups: int | str = 1) -> nn.Module:
    """Return a normalisation of feature maps, (B, channels, H, W) in and out.

    Args:
        kind: group, instance, batch or none. Instance norm is group norm with one channel a group: with weights and
            biases, without running statistics.
        channels: Channels of the feature map.
        groups: Number of groups for the kind `group`; "channels" makes each channel a group.

    Raises:
        UserError: the channels do not divide into these groups.
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
