"""Weights and training states on disk, in formats that run no code when they are read.

Weights are safetensors files that also contain the method and its options. A training state contains everything that
a killed job needs to resume exactly; `torch.load(weights_only=True)` reads it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mmfuse import methods
from mmfuse.errors import UserError
from mmfuse.files.writing import remove_leftovers, whole_file
from mmfuse.methods.base import FusionMethod
from mmfuse.words import number_of

_DIGEST = 32  # bytes of a SHA-256
_MOMENTS = "optimiser."  # prefix of the optimiser's tensors in a weights file


@dataclass(frozen=True)
class WeightsCard:
    """Metadata of a weights file; `sources` are the SHA-256 of the files from which weights were imported."""

    method: str
    variant: str
    task: str
    seed: int
    part: str
    network: dict[str, Any]
    complete: bool
    sources: dict[str, str] = field(default_factory=dict)


def weights_of(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the parameters and buffers of named modules as CPU copies under their full names."""
    return {
        f"{name}.{key}": value.detach().cpu().clone().contiguous()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }


def save_weights(path: Path, weights: Mapping[str, Tensor], card: WeightsCard) -> None:
    """Write weights atomically; equal weights give equal bytes."""
    said = asdict(card)
    if not card.sources:
        said.pop("sources")  # trained weights have none
    with whole_file(path) as temporary:
        save_file(dict(weights), temporary, metadata={"mmfuse": json.dumps(said, sort_keys=True)})


def read_weights(path: Path) -> tuple[dict[str, Tensor], WeightsCard]:
    """Read a weights file.

    Raises:
        UserError: the file is missing, damaged or not one of ours, or contains values that are not finite.
    """
    if not path.is_file():
        raise UserError(f"Weights not found: {path}", fix="train the method first, or name another file")
    try:
        with safe_open(path, framework="pt") as file:
            card = WeightsCard(**json.loads(file.metadata()["mmfuse"]))
            weights = {key: file.get_tensor(key) for key in file.keys() if not key.startswith(_MOMENTS)}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"Not a readable weights file: {path}",
            expected="a .safetensors file written by the stage `train`",
            found=f"{type(error).__name__}: {error}",
            fix="delete it and train again, or name another file",
        ) from error
    wrong = next((key for key, value in weights.items() if not value.isfinite().all()), None)
    if wrong is not None:
        raise UserError(
            f"The weights in {path} are broken.",
            expected="only finite numbers",
            found=f"other values in {wrong}",
            fix="delete it and train again, or name another file",
        )
    return weights, card


def read_moments(path: Path) -> dict[str, Tensor]:
    """Return the optimiser's moments at the end of a part's training, by name; see `moments_of`.

    Raises:
        UserError: the part did not keep its moments, or the file cannot be read.
    """
    read_weights(path)
    with safe_open(path, framework="pt") as file:
        found = {key: file.get_tensor(key) for key in file.keys() if key.startswith(_MOMENTS)}  # noqa: SIM118
    if not found:
        raise UserError(
            f"{path} contains no optimiser moments to continue with.",
            expected="weights of a part trained with `keep_moments: true`",
            fix="set it for that part and train the part again",
        )
    return found


def moments_of(state: Mapping[str, Any], names: Sequence[str]) -> dict[str, Tensor]:
    """Return an optimiser's state of each parameter, as CPU copies under flat names.

    Args:
        state: The optimiser's `state_dict()`.
        names: The names of its parameters, in the optimiser's order.
    """
    return {
        f"{_MOMENTS}{kind}.{names[index]}": torch.as_tensor(value).detach().cpu().clone()
        for index, values in state["state"].items()
        for kind, value in values.items()
    }


def with_moments(state: Mapping[str, Any], names: Sequence[str], moments: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return an optimiser's state with the given moments; parameters without moments start from zero.

    Raises:
        UserError: none of the parameters has moments.
    """
    kinds = {key.removeprefix(_MOMENTS).partition(".")[0] for key in moments}
    known = {
        index: {kind: moments[f"{_MOMENTS}{kind}.{name}"] for kind in kinds}
        for index, name in enumerate(names)
        if f"{_MOMENTS}{min(kinds)}.{name}" in moments
    }
    if not known:
        raise UserError(
            "No parameter of this part has moments to continue with.", expected="one of " + ", ".join(names[:3])
        )
    return {**state, "state": known}


def load_into(method: FusionMethod, path: Path) -> WeightsCard:
    """Load the weights of one part, or of a complete network, into a method.

    Raises:
        UserError: the file belongs to a network with other options.
    """
    weights, card = read_weights(path)
    own = method.state_dict()
    wrong = [key for key, value in weights.items() if key not in own or own[key].shape != value.shape]
    if wrong:
        raise UserError(
            f"The weights in {path} do not fit this network.",
            expected=f"{wrong[0]} of shape {tuple(own[wrong[0]].shape)}" if wrong[0] in own else f"no {wrong[0]}",
            found=f"{wrong[0]} of shape {tuple(weights[wrong[0]].shape)}, made with {card.network}",
            fix="use the options that the weights were trained with",
        )
    method.load_state_dict(weights, strict=False)
    return card


def _complete_after(card: WeightsCard) -> str:
    """Return the part whose weights are complete in the study that made incomplete ones."""
    method = methods.load(card.method)
    return method.parts[-1] if card.part == method.last_part() else method.last_part()


def load_method(path: Path) -> tuple[FusionMethod, WeightsCard]:
    """Build the network that a complete weights file belongs to, in eval mode.

    Raises:
        UserError: the file holds only an intermediate part, lacks a tensor, or cannot be read.
    """
    weights, card = read_weights(path)
    if not card.complete:
        raise UserError(
            f"{path} contains only the part {card.part!r} of {card.method}.",
            expected="the last part's weights",
            fix=f"name the weights of {_complete_after(card)!r}",
        )
    try:
        method = build(card.method, card.network)
    except (RuntimeError, ValueError, OverflowError, MemoryError, AttributeError) as error:
        raise UserError(
            f"No network can be built for the weights in {path}.",
            expected=f"options of {card.method}",
            found=f"{card.network}: {error}",
            fix="train again: the file was written by something other than the stage `train`",
        ) from error
    lacking = weights_of(method.deployed_modules()).keys() - weights.keys()
    if lacking:
        raise UserError(
            f"The weights in {path} do not fit this network.",
            expected=f"also {min(lacking)}",
            found=f"{number_of(len(weights), 'tensor')}, {len(lacking)} too few",
            fix="train again: the file was written by another version of the method",
        )
    load_into(method, path)
    return method.eval(), card


def build(name: str, network: Mapping[str, Any]) -> FusionMethod:
    """Build a method with the options of its parameter block.

    Raises:
        UserError: an option is unknown.
    """
    method = methods.load(name)
    try:
        return method(**network)
    except TypeError as error:
        raise UserError(
            f"Method {name} does not take these options.",
            found=f"{error}",
            fix=f"correct methods.{name}.network in params.yaml; `mmfuse list methods` shows the options",
        ) from error


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state atomically: the SHA-256 of what follows, then the state as torch writes it."""
    content = io.BytesIO()
    torch.save({**state, "torch": str(torch.__version__)}, content)
    # through a stream, which preserves the system's error; on a full disk, torch's own writer only reports an
    # unexpected position
    with whole_file(path) as temporary, temporary.open("wb") as stream:
        stream.write(hashlib.sha256(content.getbuffer()).digest())
        stream.write(content.getbuffer())


def is_whole(content: bytes) -> bool:
    """Whether the content of a training state is what was written."""
    return hashlib.sha256(content[_DIGEST:]).digest() == content[:_DIGEST]


def load_state(path: Path) -> dict[str, Any] | None:
    """Read a training state; return None if the training must restart from its beginning.

    This is so if the state is missing, if a single bit of it has changed since it was written, or if another version of
    torch wrote it, because the training would end with other weights.

    Also removes the incomplete newer state that a killed process may leave.
    """
    remove_leftovers(path)
    if not path.is_file():
        return None
    content = path.read_bytes()
    if not is_whole(content):
        return None
    try:
        state = torch.load(io.BytesIO(content[_DIGEST:]), map_location="cpu", weights_only=True)
    except Exception:  # not written by `save_state`: any error is possible
        return None
    if not isinstance(state, dict) or state.pop("torch", None) != str(torch.__version__):
        return None
    return state if "fingerprint" in state else None
