"""The network that a user chooses: a training-free method, a weights file, or shipped weights by name or by task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mmfuse.errors import UserError
from mmfuse.methods.base import FusionMethod
from mmfuse.training.checkpoints import build, load_method
from mmfuse.weights import shipped


def check_choice(weights: str | Path | None, method: str | None, task: str | None) -> None:
    """Check that every choice has an effect.

    Raises:
        UserError: weights and a method, or a task where nothing depends on it.
    """
    if weights is not None and method is not None:
        raise UserError(
            "Both weights and a method are given.",
            expected="only weights, which include the method, or only a training-free method",
            found=f"weights {weights} and method {method}",
            fix="leave one of them out",
        )
    if task is not None and (method is not None or (weights is not None and is_file(weights))):
        raise UserError(
            "The task has no effect here.",
            expected="a task with shipped weights, among which it chooses",
            found=f"task {task} and " + (f"method {method}" if method else f"weights {weights}"),
            fix="leave the task out",
        )


def is_file(weights: str | Path) -> bool:
    """Return whether weights are given as a file, not as the name of shipped weights."""
    path = Path(weights)
    return isinstance(weights, Path) or path.suffix != "" or len(path.parts) != 1 or path.is_file()


def chosen(
    weights: str | Path | None, method: str | None, task: str | None, find_shipped: Callable[[], shipped.Shipped]
) -> Path | str:
    """Return what the user chose: a weights file, or the name of a training-free method.

    Args:
        weights: A weights file, or the name of shipped weights.
        method: A training-free method instead of weights.
        task: `ivif` or `mif`, if given.
        find_shipped: Chooses among the shipped weights, if neither a method nor a file is given.

    Raises:
        UserError: a choice has no effect, or the shipped weights cannot be used.
    """
    check_choice(weights, method, task)
    if method is not None:
        return method
    if weights is not None and is_file(weights):
        return Path(weights)
    return shipped.verified(find_shipped())


def network(choice: Path | str) -> FusionMethod:
    """Return the network of a weights file, or a training-free method by name, in eval mode.

    Raises:
        UserError: the weights cannot be used, or the method is unknown or needs weights.
    """
    if isinstance(choice, Path):
        return load_method(choice)[0]
    net = build(choice, {}).eval()
    if net.parts:
        raise UserError(
            f"{choice} needs trained weights.",
            expected="weights: a file, or a name from `mmfuse list weights`",
            fix=f"give its {net.last_part()}.safetensors below data/checkpoints, or choose a training-free method",
        )
    return net


def shipped_weights(name: str | None, task: str | None, find_task: Callable[[], str]) -> shipped.Shipped:
    """Return the shipped weights with a name, or the default ones of a task.

    Args:
        name: A name from `mmfuse list weights`.
        task: `ivif` or `mif`, if given.
        find_task: Determines the task; called only if the defaults of the tasks differ and it is not given.

    Raises:
        UserError: there are no such weights, or none for the task.
    """
    if name is not None:
        one = shipped.named(name)
        if task is not None and task not in one.tasks:
            raise UserError(
                f"The shipped weights {name} are not for this task.", expected=" or ".join(one.tasks), found=task,
                fix="leave the task or the weights out",
            )  # fmt: skip
        return one
    defaults = shipped.read_index().defaults
    one_for_all = len(defaults) == len(shipped.TASKS) and len(set(defaults.values())) == 1
    if task is None and defaults and not one_for_all:
        task = find_task()
    return shipped.default(task or shipped.TASKS[0])
