"""`mmfuse params`: edits of the study's parameters that keep comments and are checked before they are written."""

from __future__ import annotations

import inspect
import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mmfuse import methods
from mmfuse.errors import UserError, unknown_name
from mmfuse.files.editing import with_item, with_value
from mmfuse.files.reading import read_yaml
from mmfuse.files.writing import whole_file
from mmfuse.study import plan
from mmfuse.study.parameters import flatten, load_parameters
from mmfuse.study.settings import assigned, merged, network_options, without_adaptive
from mmfuse.study.stages import jobs_of
from mmfuse.study.types import Parameters

app = typer.Typer(
    help="Change the study's parameters; comments stay, and a mistake changes nothing.", no_args_is_help=True
)
_File = Annotated[Path, typer.Option(help="The study's parameters.")]
_PARAMS = Path("params.yaml")


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
    own = [f"parts.{part}.{key}" for part in settings.get("parts", {}) if key.startswith("network.")]
    if not {*own}.isdisjoint(known):
        raise UserError(
            f"{key} of {method} would have no effect.", expected=next(name for name in own if name in known),
            found=f"{key}, which this part sets itself", fix="give the key of the part",
        )  # fmt: skip


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
    with whole_file(params) as temporary:
        temporary.write_bytes(text.encode("utf-8"))
        try:
            after = load_parameters(temporary)
            _check_networks(after)
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
    old, new = flatten(before), flatten(after)
    for key in [key for key in {**old, **new} if key not in old or key not in new or old[key] != new[key]]:
        first, second = old.get(key, "none"), new.get(key, "none")
        if isinstance(first, list) and isinstance(second, list) and isinstance([*first, *second][0], Mapping):
            print("\n".join(f"{key}: added {item}" for item in second if item not in first))
        else:
            print(f"{key}: {first} -> {second}")
    if jobs_of(before) != jobs_of(after):
        print("the study has other jobs now: run `mmfuse sync --write-dvc` before `dvc repro`")


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
