"""What every fusion method offers."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn


class FusionMethod(nn.Module):
    """A network (or a formula) that fuses two aligned images into one.

    A subclass sets `summary` and `source`, takes its options as keyword arguments, and defines `forward`. A trained
    method also names its training `parts` in order (a study may leave out `optional_parts`, the last ones), the
    `loss_terms` that each part's parameters must weight, and defines `part_modules` and `part_losses`; the training
    loop, resume, validation and checkpoints are written once, in `mmfuse.training`.
    """

    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    tasks: ClassVar[tuple[str, ...]] = ("ivif", "mif")
    parts: ClassVar[tuple[str, ...]] = ()
    optional_parts: ClassVar[tuple[str, ...]] = ()
    loss_terms: ClassVar[dict[str, tuple[str, ...]]] = {}

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Fuse two luminance images.

        Shape: a, b (B, 1, H, W) with H, W >= 16; returns (B, 1, H, W).
        Range: [0, 1] in and out.
        """
        raise NotImplementedError

    def part_modules(self, part: str) -> dict[str, nn.Module]:
        """Return the submodules that a part trains, by their attribute names; everything else is frozen."""
        raise NotImplementedError

    def part_losses(self, part: str, a: Tensor, b: Tensor, weights: dict[str, float]) -> dict[str, Tensor]:
        """Return a part's weighted loss terms for a batch; their sum is minimised.

        Args:
            part: One of `parts`.
            a: First modality, (B, 1, H, W) in [0, 1].
            b: Second modality, likewise.
            weights: Weight of each of the part's `loss_terms`.
        """
        raise NotImplementedError

    def deployed_modules(self) -> dict[str, nn.Module]:
        """Return the submodules that `forward` needs: what the last part's checkpoint holds."""
        return dict(self.named_children())
