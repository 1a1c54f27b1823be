"""`mmfuse params`: edits of the study's parameters that keep comments and are checked before they are written."""

from __future__ import annotations

import inspect
import itertools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mmfuse import methods
from mmfuse.errors import UserError, unknown_name
from mmfuse.files.editing import with_item, with_value
from mmfuse.files.reading import read_yaml
from mmfuse.files.writing import behind_link, whole_file
from mmfuse.study import plan
from mmfuse.study.parameters import flatten, load_parameters, project_root
from mmfuse.study.settings import assigned, merged, network_options, without_adaptive
from mmfuse.study.stages import jobs_of
from mmfuse.study.types import Parameters
from mmfuse.terminal import wrapped

app = typer.Typer(
    help="Change the study's parameters; comments stay, and a mistake changes nothing.", no_args_is_help=True
)
_File = Annotated[Path, typer.Option(help="The study's parameters.")]
_PARAMS = Path("params.yaml")
_INSTEAD = "set the expected key instead; an option for another part goes under that part, too"


@app.command(name="set")
def set_(
    values: Annotated[
        list[str],
        typer.Argument(metavar="KEY=VALUE...", help="Dotted keys with YAML values, such as study.seeds=[0,1]."),
    ],
    params: _File = _PARAMS,
) -> None:
    """Set parameters before a run; both engines then rerun exactly the jobs that depend on them."""
    changes = assigned(values)
    text, expected = _text(params), _values(params)
    for key, value in changes.items():
        *above, last = key.split(".")
        text = with_value(text, [*above, last], value)
        block = expected
        for step in above:
            block = block.setdefault(step, {})
        block[last] = value
    _write(params, text, expected)


@app.command()
def sweep(
    method: Annotated[str, typer.Argument(help="Method whose variants are made.")],
    values: Annotated[
        list[str],
        typer.Argument(metavar="KEY=[VALUE,...]...", help="Keys of the method's block, each with a list of values."),
    ],
    params: _File = _PARAMS,
) -> None:
    """Add a variant to the study for each combination of values, with the tasks of the method's variant `base`."""
    parameters = load_parameters(params)
    variants = _grid(parameters, method, assigned(values))
    entry = next((e for e in parameters["study"]["systems"] if (e["method"], e["variant"]) == (method, "base")), None)
    if entry is None:
        raise UserError(
            f"The study does not measure {method}.base.",
            expected=f"{method}.base under study.systems, which has the tasks of the sweep",
            found=", ".join(sorted({e["method"] for e in parameters["study"]["systems"]})),
        )
    known = parameters["methods"].get(method, {}).get("variants", {})
    systems = [{"method": method, "variant": name, "tasks": entry["tasks"]} for name in variants]
    new = [system for system in systems if system not in parameters["study"]["systems"]]
    text = _text(params)
    for name, changes in {**({} if known else {"base": {}}), **variants}.items():
        if known.get(name, changes) != changes:
            raise UserError(
                f"The variant {name} of {method} exists already.", expected=changes, found=known[name],
                fix="rename the existing variant",
            )  # fmt: skip
        if name not in known:
            text = with_value(text, ["methods", method, "variants", name], changes)
    for system in new:
        text = with_item(text, ["study", "systems"], system)
    expected = merged(_values(params), {"methods": {method: {"variants": {"base": {}, **known, **variants}}}})
    expected["study"]["systems"] += new
    _write(params, text, expected)


def _grid(parameters: Parameters, method: str, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the changes of each combination of values by the name of its variant, such as learning_rate_0p001.

    Raises:
        UserError: values are not a list, or two combinations have the same name.
    """
    for key, values in options.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{key} has no list of values.", expected=f"{key}=[VALUE,VALUE]", found=values)
        _check_known(parameters, method, key)
    short = {key: key.rpartition(".")[2] for key in options}
    if len(set(short.values())) < len(short):
        short = {key: key.replace(".", "_") for key in options}
    found: dict[str, dict[str, Any]] = {}
    for combination in itertools.product(*options.values()):
        chosen = dict(zip(options, combination, strict=True))
        name = "_".join(f"{short[key]}_{_word(value)}" for key, value in chosen.items()).lower()
        if name in found:
            raise UserError("Two variants of the sweep have the same name.", expected="different values", found=name)
        found[name] = _nested(chosen)
    return found


def _check_known(parameters: Parameters, method: str, key: str) -> None:
    """Check that a swept key is one of the method's block, or an option of its network, and has an effect.

    Raises:
        UserError: the method has no such parameter, or a part sets this option itself.
    """
    settings = plan.settings_of(parameters, method, "base")
    options = inspect.signature(methods.load(method)).parameters
    known = [*flatten(settings), *(f"network.{name}" for name in options)]
    if key not in known and not any(name.startswith(f"{key}.") for name in known):
        raise unknown_name(f"{method} has no parameter {key}.", key, known, "see docs/parameters.md")
    sets = _set_elsewhere(parameters, method, "base", key, own=True)
    if sets is not None:
        problem = f"{key} of {method} would have no effect, because another key decides."
        raise UserError(problem, expected=sets, found=key, fix=_INSTEAD)


def _check_effect(parameters: Parameters, changed: Sequence[str]) -> list[str]:
    """Check that each changed key of a method reaches the networks of the study; return warnings.

    Args:
        parameters: The changed parameters.
        changed: The dotted keys with a new value.

    Raises:
        UserError: in each variant that the study measures, another key sets the same option.
    """
    warnings = []
    for key in changed:
        top, _, below = key.partition(".")
        method, *rest = below.split(".")
        own = rest[:1] == ["variants"]
        option = ".".join(rest[2 * own :])
        if top != "methods" or not option:
            continue
        measured = [e["variant"] for e in parameters["study"]["systems"] if e["method"] == method]
        variants = [rest[1]] if own else list(dict.fromkeys(measured))
        if not {*variants} & {*measured}:
            named = ".".join([method, *variants])
            warnings.append(f"study.systems lacks {named}, so its parameters have no effect yet")
        sets = {v: _set_elsewhere(parameters, method, v, option, own=own) for v in variants}
        others = {v: f"methods.{method}.{other}" for v, other in sets.items() if other is not None}
        # that given weights do not change is as everybody expects
        here = {v: other for v, other in others.items() if not other.endswith(".weights")}
        if others and len(others) == len(variants):
            listed = ", ".join(dict.fromkeys((here or others).values()))
            problem = f"{key} would have no effect, because another key decides."
            raise UserError(problem, expected=listed, found=key, fix=_INSTEAD)
        warnings += [f"{key} has no effect in {method}.{v}, where {other} sets it" for v, other in here.items()]
    return list(dict.fromkeys(warnings))


def _set_elsewhere(parameters: Parameters, method: str, variant: str, option: str, *, own: bool) -> str | None:
    """Return the key that sets an option of a variant in place of the method's block; None if none does.

    Args:
        parameters: The study's parameters.
        method: The method.
        variant: Its variant.
        option: Dotted key in the method's block, or in the variant's changes of it, such as `network.width`.
        own: Whether it is in the variant's changes.

    Returns:
        The dotted key in the method's block: given weights, a change of the variant, or the option of a part.
    """
    changes = parameters["methods"].get(method, {}).get("variants", {}).get(variant, {})
    settings = plan.settings_of(parameters, method, variant)
    steps = option.split(".")

    def above(*keys: str) -> str:
        """Return a key, which may be one of the variant's changes."""
        return ".".join([*(["variants", variant] if _reaches(changes, keys) else []), *keys])

    if settings.get("weights") is not None and steps[0] != "weights":
        return above("weights")
    if not own and _reaches(changes, steps):
        return above(*steps)
    parts = settings.get("parts", {}) if steps[0] == "network" and steps[1:] else {}
    last = [part for part, block in parts.items() if steps[1] in block.get("network", {})][-1:]
    return above("parts", last[0], *steps[:2]) if last else None


def _reaches(block: Any, steps: Sequence[str]) -> bool:
    """Whether a block has a key, or a value in place of the blocks above it."""
    for step in steps:
        if not isinstance(block, Mapping):
            return True
        if step not in block:
            return False
        block = block[step]
    return True


def _word(value: Any) -> str:
    """Return a value as part of a name: 0.001 is 0p001, -1 is m1."""
    text = str(value).lower().replace("-", "m").replace(".", "p")
    return re.sub("[^a-z0-9]+", "_", text).strip("_") or "none"


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys as nested blocks."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        for step in reversed(key.split(".")):
            value = {step: value}  # noqa: PLW2901
        found = merged(found, value)
    return found


def _text(params: Path) -> str:
    """Return the text of the parameters, which are valid."""
    load_parameters(params)
    return params.read_bytes().decode("utf-8")


def _values(params: Path) -> Any:
    """Return the parameters as plain data in which no two blocks are the same object."""
    return json.loads(json.dumps(read_yaml(params)))


def _write(params: Path, text: str, expected: Any) -> None:
    """Check and write changed parameters, and print what has changed.

    Raises:
        UserError: they are not valid, or the edit would change more than it should; the file is unchanged.
    """
    before = load_parameters(params)
    with whole_file(behind_link(params)) as temporary:
        temporary.write_bytes(text.encode("utf-8"))
        try:
            after = load_parameters(temporary, project_root(params.parent))
            _check_networks(after)
            old, new = flatten(before), flatten(after)
            changed = [key for key in {**old, **new} if key not in old or key not in new or old[key] != new[key]]
            warnings = _check_effect(after, [key for key in changed if key in new])
        except UserError as error:
            raise UserError(f"{params} is unchanged. {error}".replace(str(temporary), str(params))) from error
        if after != expected:
            wanted = flatten(expected)
            others = [key for key, value in flatten(after).items() if key not in wanted or wanted[key] != value]
            raise UserError(
                f"{params} is unchanged: the edit would change other values, too.",
                expected="values that no alias (*NAME) or merge (<<) repeats elsewhere",
                found=", ".join(others),
                fix="edit the file by hand",
            )
    for key in changed:
        first, second = old.get(key, "none"), new.get(key, "none")
        if isinstance(first, list) and isinstance(second, list) and isinstance([*first, *second][0], Mapping):
            print("\n".join(wrapped(f"{key}: added {item}") for item in second if item not in first))
        else:
            print(wrapped(f"{key}: {first} -> {second}"))
    if jobs_of(before) != jobs_of(after):
        print("the study has other jobs now: run `mmfuse sync --write-dvc` before `dvc repro`")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def _check_networks(parameters: Parameters) -> None:
    """Build the network of each variant, without memory for its tensors, to check its options.

    Raises:
        UserError: a network does not have an option or cannot use its value.
    """
    import torch

    from mmfuse.training.checkpoints import build

    for method, block in parameters["methods"].items():
        for variant in block.get("variants", {"base": {}}):
            settings = plan.settings_of(parameters, method, variant)
            if "weights" in settings:
                continue  # their file has the options
            options = without_adaptive(network_options(settings))
            try:
                with torch.device("meta"):
                    build(method, options)
            except (ValueError, RuntimeError) as error:  # the latter from torch, such as for a negative size
                raise UserError(f"{method}.{variant} cannot be built.", found=f"{error} ({options})") from error
