"""The interface of all fusion methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmfuse.nn import further_losses
from mmfuse.nn.precision import at_least_single


class FusionMethod(nn.Module):
    """A network (or a formula) that fuses two aligned images into one.

    A subclass sets `summary` and `source`, takes its options as keyword arguments, and defines `forward`. A trained
    method also names its training `parts` in order (a study may leave out `optional_parts`, the last ones) and the
    `loss_terms` that the parameters must weight in each part, and defines `part_modules`, `part_outputs` and
    `part_terms`. Training loop, resume, validation and checkpoints are shared, in `mmfuse.training.loop`.
    `adaptive_options` names options whose values `found_options` can determine. Parts in `fused_parts` output an image
    `fused` and can also weight the terms of `mmfuse.nn.further_losses`. A method whose authors publish weights also
    defines `published_options` and `published_names`, which `mmfuse import-weights` reads.
    """

    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    tasks: ClassVar[tuple[str, ...]] = ("ivif", "mif")
    parts: ClassVar[tuple[str, ...]] = ()
    optional_parts: ClassVar[tuple[str, ...]] = ()
    loss_terms: ClassVar[dict[str, tuple[str, ...]]] = {}
    fused_parts: ClassVar[tuple[str, ...]] = ()
    adaptive_options: ClassVar[tuple[str, ...]] = ()
    multiple: int = 1  # tiles begin at multiples of it, such as 4 for a network with a quarter of the resolution
    published_options: ClassVar[tuple[dict[str, Any], ...]] = ()  # of each network with published weights
    published_tasks: ClassVar[tuple[str, ...]] = ()  # the task of each of these networks, if known; else ivif
    published_note: ClassVar[str] = ""  # one sentence about the output with these options
    published_extras: ClassVar[
        tuple[str, ...]
    ] = ()  # regular expressions of names in these files that do not belong to the network

    @classmethod
    def last_part(cls) -> str:
        """Return the part whose weights every study of a trained method makes last: none of the optional ones."""
        return next(part for part in reversed(cls.parts) if part not in cls.optional_parts)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Fuse two luminance images.

        Shape: a, b (B, 1, H, W) with H, W >= 16; returns (B, 1, H, W).
        Range: [0, 1] in and out.
        """
        raise NotImplementedError

    def reach(self) -> int | None:
        """Return how many pixels away from a pixel of the result the sources may affect it, along one axis.

        Means, maxima and attention over the whole image do not count: `mmfuse.inference.tiles` gathers them from all
        tiles, if they are layers of `mmfuse.inference.streamed`. None means that the method cannot fuse an image in
        tiles.
        """
        return None

    def part_modules(self, part: str) -> dict[str, nn.Module]:
        """Return the submodules that a part trains, by their attribute names; everything else is frozen."""
        raise NotImplementedError

    def masked_parts(self) -> tuple[str, ...]:
        """Return the parts whose `part_terms` take another argument, `mask`: the masks of the training pairs."""
        return ()

    def part_outputs(self, part: str, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Return the inputs of a part's loss by name: fused or restored images, features.

        This includes all of the network's work in training; it may run in mixed precision.

        Args:
            part: One of `parts`.
            a: First modality, (B, 1, H, W) in [0, 1].
            b: Second modality, likewise.
        """
        raise NotImplementedError

    def part_terms(self, part: str, outputs: Mapping[str, Tensor], a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Return a part's unweighted loss terms, one scalar for each of its `loss_terms`.

        A method with `masked_parts` takes another argument, `mask`, (B, H, W) int64.

        Args:
            part: One of `parts`.
            outputs: The result of `part_outputs`.
            a: First modality, (B, 1, H, W) in [0, 1].
            b: Second modality, likewise.
        """
        raise NotImplementedError

    def full_precision_terms(
        self, part: str, outputs: Mapping[str, Tensor], a: Tensor, b: Tensor, *mask: Tensor
    ) -> dict[str, Tensor]:
        """Return `part_terms` in at least single precision, regardless of the network's precision.

        Losses are differences of nearly equal numbers. In bf16, the variance in SSIM is only rounding error, and the
        gradient has the wrong direction (docs/decisions/0020-precision.md).
        """
        with torch.autocast(a.device.type, enabled=False):
            outputs = {name: at_least_single(value) for name, value in outputs.items()}
            return self.part_terms(part, outputs, at_least_single(a), at_least_single(b), *mask)

    def part_losses(
        self, part: str, a: Tensor, b: Tensor, weights: Mapping[str, float], *mask: Tensor
    ) -> dict[str, Tensor]:
        """Return a part's weighted loss terms for a batch; training minimises their sum.

        Args:
            part: One of `parts`.
            a: First modality, (B, 1, H, W) in [0, 1].
            b: Second modality, likewise.
            weights: Weight of each of the part's `loss_terms`, and for `fused_parts` also of some of
                `mmfuse.nn.further_losses.TERMS`.
            mask: (B, H, W) int64, only for `masked_parts`.
        """
        outputs = self.part_outputs(part, a, b)
        terms = self.full_precision_terms(part, outputs, a, b, *mask)
        further = [name for name in weights if name in further_losses.TERMS and name not in terms]
        if further:
            with torch.autocast(a.device.type, enabled=False):
                images = [at_least_single(image) for image in (outputs["fused"].mean(dim=1, keepdim=True), a, b)]
                terms |= {name: further_losses.TERMS[name](*images) for name in further}
        return {term: weights[term] * value for term, value in terms.items()}

    def found_options(self, names: Sequence[str], batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Any]:
        """Return values for options set to `adaptive`, found from training images before a part is trained.

        Args:
            names: Some of `adaptive_options`.
            batches: Random crops of training pairs, a and b (B, 1, H, W) in [0, 1]; the same for the same seed.
        """
        raise NotImplementedError

    def deployed_modules(self) -> dict[str, nn.Module]:
        """Return the submodules that `forward` needs and the last part's checkpoint holds."""
        return dict(self.named_children())

    def published_names(self) -> dict[str, dict[str, str]]:
        """Return the names of this network's tensors in the authors' checkpoints.

        Returns:
            For each group of tensors that the authors save together (a file, or an entry of one), the group's name and
            a dictionary from the authors' names of tensors, without a prefix `module.`, to those in `state_dict()`.
        """
        return {}

    def names_below(self, modules: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Return the authors' name and our name of each tensor in modules that are named (theirs, ours)."""
        own = self.state_dict()
        return {
            f"{theirs}{key.removeprefix(ours)}": key
            for theirs, ours in modules
            for key in own
            if key.startswith(f"{ours}.")
        }
