"""What every fusion method offers."""

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
    method also names its training `parts` in order (a study may leave out `optional_parts`, the last ones), the
    `loss_terms` that each part's parameters must weight, and defines `part_modules`, `part_outputs` and `part_terms`;
    the training loop, resume, validation and checkpoints are written once, in `mmfuse.training.loop`.
    `adaptive_options` names options that a study may leave to `found_options`. Parts named in `fused_parts` give an
    image `fused` and can weight the terms of `mmfuse.nn.further_losses` as well. A method whose authors publish weights
    also defines `published_options` and `published_names`, which `mmfuse import-weights` reads.
    """

    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    tasks: ClassVar[tuple[str, ...]] = ("ivif", "mif")
    parts: ClassVar[tuple[str, ...]] = ()
    optional_parts: ClassVar[tuple[str, ...]] = ()
    loss_terms: ClassVar[dict[str, tuple[str, ...]]] = {}
    fused_parts: ClassVar[tuple[str, ...]] = ()
    adaptive_options: ClassVar[tuple[str, ...]] = ()
    published_options: ClassVar[tuple[dict[str, Any], ...]] = ()  # of each network whose weights were published
    published_tasks: ClassVar[tuple[str, ...]] = ()  # the task of each of these, where it is known; else ivif
    published_note: ClassVar[str] = ""  # one sentence: what the output is with these options
    published_extras: ClassVar[
        tuple[str, ...]
    ] = ()  # regular expressions of names in these files that are no part of it

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
        """Return the parts whose `part_terms` take the masks of the training pairs as one more argument, `mask`."""
        return ()

    def part_outputs(self, part: str, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Return what a part's loss looks at, by name: fused or restored images, features.

        This is all of the network's work in training; it may run in mixed precision.

        Args:
            part: One of `parts`.
            a: First modality, (B, 1, H, W) in [0, 1].
            b: Second modality, likewise.
        """
        raise NotImplementedError

    def part_terms(self, part: str, outputs: Mapping[str, Tensor], a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Return a part's loss terms before their weights, one scalar for each of its `loss_terms`.

        A method with `masked_parts` takes one more argument, `mask`, (B, H, W) int64.

        Args:
            part: One of `parts`.
            outputs: What `part_outputs` gave.
            a: First modality, (B, 1, H, W) in [0, 1].
            b: Second modality, likewise.
        """
        raise NotImplementedError

    def full_precision_terms(
        self, part: str, outputs: Mapping[str, Tensor], a: Tensor, b: Tensor, *mask: Tensor
    ) -> dict[str, Tensor]:
        """Return `part_terms` in single precision at least, whatever the precision of the network's work.

        Losses are differences of nearly equal numbers: in bf16 the variance in SSIM is rounding alone, and the gradient
        points elsewhere (docs/decisions/0020-precision.md).
        """
        with torch.autocast(a.device.type, enabled=False):
            outputs = {name: at_least_single(value) for name, value in outputs.items()}
            return self.part_terms(part, outputs, at_least_single(a), at_least_single(b), *mask)

    def part_losses(
        self, part: str, a: Tensor, b: Tensor, weights: Mapping[str, float], *mask: Tensor
    ) -> dict[str, Tensor]:
        """Return a part's weighted loss terms for a batch; their sum is minimised.

        Args:
            part: One of `parts`.
            a: First modality, (B, 1, H, W) in [0, 1].
            b: Second modality, likewise.
            weights: Weight of each of the part's `loss_terms`, and for `fused_parts` of some of
                `mmfuse.nn.further_losses.TERMS`.
            mask: (B, H, W) int64, for `masked_parts` alone.
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
        """Return the values of options that say `adaptive`, found from training images before a part is trained.

        Args:
            names: Some of `adaptive_options`.
            batches: Random crops of training pairs, a and b (B, 1, H, W) in [0, 1]; the same ones for the same seed.
        """
        raise NotImplementedError

    def deployed_modules(self) -> dict[str, nn.Module]:
        """Return the submodules that `forward` needs: what the last part's checkpoint holds."""
        return dict(self.named_children())

    def published_names(self) -> dict[str, dict[str, str]]:
        """Return how the authors' checkpoints call this network's tensors.

        Returns:
            For each group of tensors that the authors save together (a file, or an entry of one), the group's name and
            a dictionary from the authors' name of a tensor, without a prefix `module.`, to its name in `state_dict()`.
        """
        return {}

    def names_below(self, modules: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Return the authors' name and ours of every tensor below modules that are named (theirs, ours)."""
        own = self.state_dict()
        return {
            f"{theirs}{key.removeprefix(ours)}": key
            for theirs, ours in modules
            for key in own
            if key.startswith(f"{ours}.")
        }
