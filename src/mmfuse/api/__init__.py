"""What Python programs call, as `mmfuse.fuse` and `mmfuse.load`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmfuse.api.choosing import check_choice, chosen, network, shipped_weights
from mmfuse.data.arrays import Range, alike, as_bytes
from mmfuse.errors import UserError, UserTypeError, python_errors, unknown_name
from mmfuse.inference.fast_copy import for_inference
from mmfuse.inference.fusing import fuse_pair
from mmfuse.inference.memory import limit
from mmfuse.inference.task_rule import task_of_images
from mmfuse.methods.base import FusionMethod
from mmfuse.weights import shipped

if TYPE_CHECKING:
    from mmfuse.data.arrays import Image


@python_errors
def fuse(
    a: Image,
    b: Image,
    *,
    method: str | nn.Module | None = None,
    weights: str | Path | None = None,
    task: str | None = None,
    value_range: Range | None = None,
    memory: str | int | None = None,
) -> Image:
    """Fuse two aligned images, or two batches of images, as the command `mmfuse fuse` does.

    The luminance is fused. If one of the images has colour, the result has its chroma; if both have, that of `b`.
    Nothing is differentiated: call a network of `load` for gradients.

    Shape: NumPy arrays (H, W) or (H, W, 3), or tensors (C, H, W) or (B, C, H, W) with C 1 or 3; from 16 x 16
    pixels. The result has the same shape, with three channels if one of the images has three.
    Range: 0 to 255 for uint8, 0 to 65535 for uint16, 0 to 1 for floating-point values, or `value_range`; the result has
    the type and the range of the images.

    Args:
        a: Infrared image, MRI, or another first modality.
        b: Visible image, CT, PET, SPECT, or another second modality; of the kind, type and size of `a`.
        method: A training-free method, such as `laplacian`, or a network of `load`.
        weights: A weights file, or the name of shipped weights. Without method and weights, the task's default weights.
        task: `ivif` for infrared and visible images, `mif` for medical ones; by default it is found from the images.
        value_range: The values of black and white.
        memory: How much memory the process may use, such as `4 GiB` or a number of bytes; by default, most of what the
            machine has. Images that do not fit are fused in tiles.

    Returns:
        The fused image: a NumPy array, or a tensor on the device of the images.

    Raises:
        UserError: the images, the method or the weights cannot be used; also a ValueError or a TypeError.
    """
    room = limit(memory)
    (first, second), form = alike({"a": a, "b": b}, value_range)
    pairs = list(zip(first, second, strict=True))
    device = form.device or torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def find_task() -> str:
        levels = ([as_bytes(image, form.value_range) for image in pair] for pair in pairs)
        return task_of_images((f"pair {number}", a, b) for number, (a, b) in enumerate(levels))

    if isinstance(method, nn.Module):
        ready = for_inference(_checked(method, weights, task).to(device))
    else:
        choice = _choice(weights, method, task, find_task)
        stamp = choice.stat().st_mtime_ns if isinstance(choice, Path) and choice.is_file() else 0
        ready = _ready(choice, stamp, device)
    with _exact_products():
        results = [fuse_pair(ready, *pair, device, value_range=form.value_range, memory=room) for pair in pairs]
    return form.result(results)


@python_errors
def load(weights: str | Path | None = None, *, method: str | None = None, task: str | None = None) -> FusionMethod:
    """Return a network or a training-free method as a `torch.nn.Module` in eval mode, on the CPU.

    It takes two batches of luminance images, (B, 1, H, W) in [0, 1] with H and W from 16, and returns the same.

    Args:
        weights: A weights file, or the name of shipped weights.
        method: A training-free method instead of weights, such as `laplacian`.
        task: `ivif` or `mif`: without weights and method, the default weights of this task.

    Raises:
        UserError: the choice is not clear, or the weights cannot be used; also a ValueError.
    """

    def find_task() -> str:
        raise UserError(
            "Which network to load is not clear.",
            expected="weights, a method or a task",
            fix='choose a task, such as load(task="ivif"), or a name from `mmfuse list weights`',
        )

    return network(_choice(weights, method, task, find_task))


def _choice(
    weights: str | Path | None, method: str | None, task: str | None, find_task: Callable[[], str]
) -> Path | str:
    if task is not None and task not in shipped.TASKS:
        raise unknown_name(f"Unknown task {task!r}.", task, shipped.TASKS, "take one of these")
    given = None if weights is None else str(weights)
    return chosen(weights, method, task, lambda: shipped_weights(given, task, find_task))


@functools.lru_cache(maxsize=4)
def _ready(choice: Path | str, _stamp: int, device: torch.device) -> FusionMethod:
    """Return a network ready for inference; kept, because programs call `fuse` for one pair after the other."""
    return for_inference(network(choice).to(device))


def _checked(method: nn.Module, weights: str | Path | None, task: str | None) -> FusionMethod:
    if not isinstance(method, FusionMethod):
        raise UserTypeError(
            "This module is no fusion method.", expected="the name of a method, or a network of `mmfuse.load`",
            found=type(method).__name__, fix="call the module itself",
        )  # fmt: skip
    check_choice(weights, type(method).__name__, task)
    return method


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    """Disable TF32, as the command does, and restore the program's own setting."""
    switches: list[Any] = [torch.backends.cudnn, torch.backends.cuda.matmul]
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = False
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value
