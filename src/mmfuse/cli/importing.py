"""`mmfuse import-weights`: convert the checkpoints that a method's authors publish into weights of this project."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmfuse import methods
from mmfuse.errors import UserError
from mmfuse.files.writing import sha256
from mmfuse.methods.base import FusionMethod
from mmfuse.progress import progress
from mmfuse.study.settings import merged
from mmfuse.training.checkpoints import WeightsCard, build, save_weights
from mmfuse.weights.foreign import Dictionary, dictionaries
from mmfuse.words import number_of

VARIANT = "as_published"  # of imported weights
GUIDE = "docs/how-to/import-published-weights.md"
_SHOWN = 40  # names in an error, over all its lines; at least 5 in each line
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class Form:
    """A network whose weights the authors published, without values.

    Args:
        number: Index of its options in the method's `published_options`.
        options: These options.
        own: All of its tensors by our names, on the device `meta`.
        groups: The authors' names in each group, each with ours.
        extras: Regular expressions of names that may be in the files but do not belong to the network.
        counted: Our names of the tensors that are parameters.
    """

    number: int
    options: Mapping[str, Any]
    own: Mapping[str, Tensor]
    groups: Mapping[str, Mapping[str, str]]
    extras: tuple[str, ...]
    counted: frozenset[str]

    def shape(self, group: str, name: str) -> tuple[int, ...]:
        """Return the shape that a tensor with one of the authors' names must have."""
        return tuple(self.own[self.groups[group][name]].shape)


@dataclass
class Match:
    """How dictionaries of tensors match a form.

    Args:
        placed: The dictionaries that match each group; a single one if all is well.
        strangers: The dictionaries that match none.
        problems: What is wrong in each placed dictionary: its group, the kind of problem, and the names.
        absent: The number of names in groups without a dictionary.
    """

    placed: dict[str, list[Dictionary]]
    strangers: list[Dictionary] = field(default_factory=list)
    problems: list[tuple[Dictionary, str, str, list[str]]] = field(default_factory=list)
    absent: int = 0

    @property
    def distance(self) -> tuple[int, int]:
        """The distance of the dictionaries from the form: the number of wrong names, then of those without a file."""
        strange = sum(len(dictionary.tensors) for dictionary in self.strangers)
        return strange + sum(len(names) for *_, names in self.problems), self.absent


def run(
    name: str,
    files: Sequence[Path],
    *,
    out: Path,
    task: str | None = None,
    changes: Mapping[str, Any] | None = None,
    every_name: bool = False,
) -> list[str]:
    """Import the checkpoints of one network, and return lines on what was read and written.

    Args:
        name: The method's name.
        files: The authors' files, in any order.
        out: The weights file to write.
        task: The task of the weights, ivif or mif; None for the one that the files suggest.
        changes: Options that differ from the authors' and change no tensor.
        every_name: Whether an error lists all names, however many.

    Raises:
        UserError: a file cannot be read, or the files do not have exactly the tensors of the network; the error names
            all that are missing, left over or of another shape.
    """
    forms = forms_of(name)
    if out.suffix != ".safetensors" or out.resolve() in {file.resolve() for file in files}:
        raise UserError(f"Cannot write {out}.", expected="a new file, NAME.safetensors", found=out)
    found = [dictionary for file in progress(files, "read", unit="files") for dictionary in dictionaries(file)]
    form, match = min(((form, _matched(form, found)) for form in forms), key=lambda pair: pair[1].distance)
    lines = list(_complaints(name, form, match, None if every_name else _SHOWN))
    if lines:
        raise UserError(
            f"These files are not the weights of {name}:\n" + "\n".join(f"  - {line}" for line in lines),
            expected=f"the published tensors of {', '.join(form.groups)}, each once",
            fix=f"give all files that {GUIDE} lists for {name}, as they were published",
        )
    chosen = dict(form.options) | _harmless(name, form, changes or {})
    alone = len({file.name for file in files}) == len(files)
    sources = {file.name if alone else file.as_posix(): sha256(file) for file in files}
    method = methods.load(name)
    known = method.published_tasks
    assumed = known[form.number] if form.number < len(known) else "ivif"
    part = method.last_part()
    card = WeightsCard(name, VARIANT, task or assumed, 0, part, chosen, complete=True, sources=sources)
    weights = {
        ours: _converted(match.placed[group][0].tensors[theirs], form.own[ours])
        for group, names in form.groups.items()
        for theirs, ours in names.items()
    }
    save_weights(out, weights, card)
    return [
        *_read(form, match),
        *(f"read {file}, SHA-256 {digest}" for file, digest in sources.items()),
        f"options: {', '.join(f'{key}={value}' for key, value in chosen.items())}",
        *_said(name, changes or {}),
        f"task: {card.task}" + ("" if task else ", assumed; --task chooses another"),
        f"wrote {out}: {number_of(len(weights), 'tensor')}, {_numbers(form, weights):,} parameters",
        f"apply it: mmfuse fuse A/ B/ OUT/ --weights {out}",
    ]


def forms_of(name: str) -> list[Form]:
    """Return the networks of a method whose weights its authors published.

    Raises:
        UserError: there is no such method, or none of its weights can be imported.
    """
    method = methods.load(name)
    if not method.published_options:
        known = [other for other in methods.available() if methods.load(other).published_options]
        raise UserError(
            f"No published weights of {name} can be imported.", expected=", ".join(known) or "no method", found=name
        )
    return [_form(name, number, options) for number, options in enumerate(method.published_options)]


def _form(name: str, number: int, options: Mapping[str, Any]) -> Form:
    network = _without_values(name, options)
    counted = frozenset(key for key, _ in network.named_parameters())
    extras = network.published_extras
    return Form(number, options, network.state_dict(), network.published_names(), extras, counted)


def _without_values(name: str, options: Mapping[str, Any]) -> FusionMethod:
    with torch.device("meta"):
        return build(name, options)


def _matched(form: Form, found: Sequence[Dictionary]) -> Match:
    """Assign each dictionary to the group whose names it has, and list what is wrong with it."""
    match = Match({group: [] for group in form.groups})
    for dictionary in found:
        group, shared = _closest(form, dictionary)
        if 2 * shared < len(form.groups[group]):
            match.strangers.append(dictionary)
        else:
            match.placed[group].append(dictionary)
            match.problems += _problems(form, group, dictionary)
    match.absent = sum(len(form.groups[group]) for group, placed in match.placed.items() if not placed)
    return match


def _closest(form: Form, dictionary: Dictionary) -> tuple[str, int]:
    """Return the group that shares the largest fraction of names with a dictionary, and the number of shared names.

    The fraction of all names of both decides, not the number: one network's names can be a subset of another's.
    """
    held = {name for name in dictionary.tensors if not _is_extra(form, name)}
    shared = {group: len(held & names.keys()) for group, names in form.groups.items()}
    best = max(form.groups, key=lambda group: shared[group] / len(held | form.groups[group].keys()))
    return best, shared[best]


def _is_extra(form: Form, name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in form.extras)


def _problems(form: Form, group: str, dictionary: Dictionary) -> Iterator[tuple[Dictionary, str, str, list[str]]]:
    names, tensors = form.groups[group], dictionary.tensors
    wrong: dict[str, list[str]] = {
        "missing": [f"{name} ({_size(form.shape(group, name))})" for name in names if name not in tensors],
        "left over": [name for name in tensors if name not in names and not _is_extra(form, name)],
        "of another shape": [],
        "of another kind": [],
        "not finite": [],
    }
    for name in (name for name in names if name in tensors):
        value, shape = tensors[name], form.shape(group, name)
        if tuple(value.shape) != shape:
            wrong["of another shape"].append(f"{name} ({_size(value.shape)}, not {_size(shape)})")
        elif not _is_usable(value, form.own[names[name]]):
            wrong["of another kind"].append(f"{name} ({value.dtype}, {value.layout})".replace("torch.", ""))
        elif not _converted(value, form.own[names[name]]).isfinite().all():
            wrong["not finite"].append(name)
    yield from ((dictionary, group, kind, listed) for kind, listed in wrong.items() if listed)


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _is_usable(value: Tensor, own: Tensor) -> bool:
    """Whether a tensor has plain numbers of the kind that the network expects, whatever their precision."""
    plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    return plain and value.dtype in (_FLOATS if own.dtype.is_floating_point else _WHOLE)


def _converted(value: Tensor, own: Tensor) -> Tensor:
    return value.detach().to(own.dtype, copy=True).contiguous()


def _complaints(name: str, form: Form, match: Match, shown: int | None) -> Iterator[str]:
    """Yield all that is wrong, one line each, with at most `shown` names, or all."""
    useful = {dictionary.file for placed in match.placed.values() for dictionary in placed}
    strange = {d.file: d for d in match.strangers if d.file not in useful}  # others come with what is needed
    for dictionary in strange.values():
        group, shared = _closest(form, dictionary)
        other = _other_method(name, dictionary)
        yield (
            f"{dictionary} fits nothing: it has {_listed(list(dictionary.tensors), 5)}; closest is {group}, of which "
            f"it has {shared} of {number_of(len(form.groups[group]), 'name')}"
            + (f". These are names of {other}" if other else "")
        )
    for group, placed in match.placed.items():
        if len(placed) > 1:
            yield f"{group} occurs {len(placed)} times: {', '.join(map(str, placed))}"
        if not placed:
            yield f"{group} has no file: expected {_listed(list(form.groups[group]), 3)}"
    each = None if shown is None else max(5, shown // max(1, len(match.problems)))
    for dictionary, group, kind, names in match.problems:
        yield f"{dictionary}, {group}: {len(names)} {kind}: {_listed(names, each)}"


def _listed(names: Sequence[str], shown: int | None) -> str:
    text = ", ".join(names[:shown])
    return text if shown is None or len(names) <= shown else f"{text} and {len(names) - shown} more"


def _other_method(name: str, dictionary: Dictionary) -> str | None:
    """Return the method whose published names a dictionary has, if there is one."""
    for other in methods.available():
        if other != name and methods.load(other).published_options:
            form = forms_of(other)[0]
            group, shared = _closest(form, dictionary)
            if 2 * shared >= len(form.groups[group]):
                return other
    return None


def _harmless(name: str, form: Form, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changed options with their new values.

    Raises:
        UserError: the method lacks an option or cannot use its value, or the change affects tensors.
    """
    if not changes:
        return {}
    options = merged(form.options, changes)
    told = ", ".join(f"{key}={value}" for key, value in changes.items())
    try:
        network = _without_values(name, options)
    except (RuntimeError, ValueError, TypeError, OverflowError, AttributeError) as error:
        raise UserError(f"{name} cannot be built with --network {told}.", found=error, fix="leave it out") from error
    changed = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    published = {key: tuple(value.shape) for key, value in form.own.items()}
    other = sorted(key for key in changed.keys() | published.keys() if changed.get(key) != published.get(key))
    if other or network.published_names() != form.groups:
        raise UserError(
            f"--network {told} gives a network with other tensors than the published ones.",
            expected="options that change no tensor",
            found=f"differences in {_listed(other, 5) or 'their names'}",
            fix="leave it out: published weights fit only the network with which they were trained",
        )
    return {key: options[key] for key in changes}


def _read(form: Form, match: Match) -> Iterator[str]:
    used = [dictionary for placed in match.placed.values() for dictionary in placed]
    for group, (dictionary, *_) in match.placed.items():
        held = {ours: form.own[ours] for ours in form.groups[group].values()}
        yield f"{group}: {number_of(len(held), 'tensor')}, {_numbers(form, held):,} parameters, from {dictionary}"
        ignored = [name for name in dictionary.tensors if name not in form.groups[group]]
        if ignored:
            yield f"  ignored, not part of the network: {_listed(ignored, 10)}"
        places = {other.place[:1] for other in used if other.file == dictionary.file}
        beside = [key for key in dictionary.beside if (key,) not in places]
        if beside:
            yield f"  not needed: {_listed(beside, 10)}"


def _numbers(form: Form, weights: Mapping[str, Tensor]) -> int:
    return sum(value.numel() for key, value in weights.items() if key in form.counted)


def _said(name: str, changes: Mapping[str, Any]) -> Iterator[str]:
    note = methods.load(name).published_note
    if note:
        yield note + (" This applies to the authors' options." if changes else "")
    if changes:
        yield f"changed from the authors' options: {', '.join(f'{key}={value}' for key, value in changes.items())}"
