"""What every fusion method offers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

ADAPTIVE = "adaptive"  # the value of an option that a part finds from its training images


class FusionMethod(nn.Module):
    """A network (or a formula) that fuses two aligned images into one.

    A subclass sets `summary` and `source`, takes its options as keyword arguments, and defines `forward`. A trained
    method also names its training `parts` in order (a study may leave out `optional_parts`, the last ones), the
    `loss_terms` that each part's parameters must weight, and defines `part_modules` and `part_losses`; the training
    loop, resume, validation and checkpoints are written once, in `mmfuse.training`. `adaptive_options` names options
    that a study may leave to `found_options`.
    """

    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    tasks: ClassVar[tuple[str, ...]] = ("ivif", "mif")
    parts: ClassVar[tuple[str, ...]] = ()
    optional_parts: ClassVar[tuple[str, ...]] = ()
    loss_terms: ClassVar[dict[str, tuple[str, ...]]] = {}
    adaptive_options: ClassVar[tuple[str, ...]] = ()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Fuse two luminance images.

        Shape: a, b (B, 1, H, W) with H, W >= 16; returns (B, 1, H, W).
        Range: [0, 1] in and out.
        """
        raise NotImplementedError

    def part_modules(self, part: str) -> dict[str, nn.Module]:
        """Return the submodules that a part trains, by their attribute names; everything else is frozen."""
        raise NotImplementedError

    def masked_parts(self) -> tuple[str, ...]:
        """Return the parts whose `part_losses` take the masks of the training pairs as one more argument, `mask`."""
        return ()

    def part_losses(self, part: str, a: Tensor, b: Tensor, weights: dict[str, float]) -> dict[str, Tensor]:
        """Return a part's weighted loss terms for a batch; their sum is minimised.

        Args:
            part: One of `parts`.
            a: First modality, (B, 1, H, W) in [0, 1].
            b: Second modality, likewise.
            weights: Weight of each of the part's `loss_terms`.
        """
        raise NotImplementedError

    def found_options(self, names: Sequence[str], batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Any]:
        """Return the values of options that say `adaptive`, found from training images before a part is trained.

        Args:
            names: Some of `adaptive_options`.
            batches: Random crops of training pairs, a and b (B, 1, H, W) in [0, 1]; the same ones for the same seed.
        """
        raise NotImplementedError

    def deployed_modules(self) -> dict[str, nn.Module]:
        """Return the submodules that `forward` needs: what the last part's checkpoint holds."""
        return dict(self.named_children())
