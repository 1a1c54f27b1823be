"""Check a file's content against its JSON schema: all mistakes at once, each with its line and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError, best_match

from mmfuse.errors import UserError, together, unknown_name
from mmfuse.files.reading import lines_of


def _pattern(validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    r"""Match a pattern as JSON Schema means it: `$` is the end of the text, in Python also before a last line break."""
    if validator.is_type(instance, "string") and not re.search(re.sub(r"\$$", r"\\Z", pattern), instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


_Validator = validators.extend(Draft202012Validator, {"pattern": _pattern})


def check_against_schema(value: Any, schema: Mapping[str, Any], what: str, file: Path | None = None) -> None:
    """Check a value read from YAML against a JSON schema.

    Args:
        value: The value.
        schema: The schema.
        what: The name of the value in messages, such as its file.
        file: The file that it was read from, for the line numbers of the mistakes.

    Raises:
        UserError: names each wrong key, what is allowed and, for an unknown key, the closest known one.
    """
    errors = [best_match([error]) for error in _Validator(schema).iter_errors(value)]
    if not errors:
        return
    lines = lines_of(file) if file else {}
    found: dict[tuple[int, str], UserError] = {}
    for error in errors:
        place = tuple(error.absolute_path)
        names: list[str | None] = [None]
        if error.validator == "additionalProperties" and isinstance(error.schema, Mapping):
            names = [*_unknown_keys(error.instance, error.schema)]
        for name in names:
            line = _line(lines, place if name is None else (*place, name))
            there = f"{what}, line {line}" if line else what
            problem = _mistake(error, there) if name is None else _unknown_key(error, name, there)
            found[line, problem.problem] = problem
    raise together(what, [found[key] for key in sorted(found)])


def _line(lines: Mapping[tuple[str | int, ...], int], place: tuple[str | int, ...]) -> int:
    """Return the line of a value, or of the innermost block around it with a known line; 0 if there is none."""
    return next((lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in lines), 0)


def _where(error: ValidationError) -> str:
    return ".".join(str(step) for step in error.absolute_path) or "(top level)"


def _mistake(error: ValidationError, what: str) -> UserError:
    fix = str(error.schema.get("description", "")) if isinstance(error.schema, Mapping) else ""
    if error.validator == "type" and isinstance(error.instance, str) and _is_number(error.instance):
        fix = f"write {float(error.instance)!r}: YAML 1.1 reads {error.instance} as text"
    found: Any = error.instance
    if error.validator == "required":
        found = ", ".join(map(str, found))
    return UserError(
        f"{what}: {_where(error)} is not valid.", expected=_expectation(error), found=found, fix=fix or None
    )


def _unknown_keys(block: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterable[str]:
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    return [key for key in map(str, block) if key not in known and not any(re.search(p, key) for p in patterns)]


def _unknown_key(error: ValidationError, unknown: str, what: str) -> UserError:
    schema: Any = error.schema
    known = [*schema.get("properties", {}), *schema.get("patternProperties", {})]
    return unknown_name(f"{what}: unknown key {unknown!r} in {_where(error)}.", unknown, known, "remove it")


def _expectation(error: ValidationError) -> str:
    return f"{error.validator}: {error.validator_value}" if error.validator != "required" else error.message


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
