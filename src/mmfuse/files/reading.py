"""Text files read as plain data, whoever wrote them: YAML, JSON and CSV.

A file that is truncated, repeats a key or is built to exhaust the reader gives one clear error, never half a value.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from mmfuse.errors import UserError
from mmfuse.words import number_of

_LARGEST = 16 << 20  # bytes of YAML, far more than the largest catalog
_UNFOLDED = 1_000_000  # values in a YAML file with its aliases expanded
_DEEPEST = 100  # levels of nesting, whatever recursion limit a library sets
_DEEPEST_LIBYAML = 2000  # levels that libyaml may read: it recurses without a check, and ends the process
_NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
_MISLEADING = re.compile(r"[-+]?0[0-9_]+|[-+]?[0-9][0-9_]*(:[0-9]+)+(\.[0-9_]*)?")


def read_yaml(path: Path) -> Any:
    """Read a YAML file with the safe loader; duplicate keys and aliases that expand without limit are errors.

    Raises:
        UserError: the file is missing or not such YAML.
    """
    if not path.is_file():
        raise UserError(f"File not found: {path}", fix="run the command in the project's root or name the file")
    if path.stat().st_size > _LARGEST:
        raise UserError(f"{path} is too large.", expected=f"at most {_LARGEST} bytes", found=path.stat().st_size)
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise UserError(f"{path} is not valid YAML.", found=error, fix="save it as UTF-8") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, what: str) -> Any:
    """Return the value of a YAML text, with the checks of `read_yaml`; `what` names the text in errors.

    Raises:
        UserError: the text is not such YAML.
    """
    try:
        # libyaml is seven times as fast, but its messages do not show the line, and it takes more tabs than the other
        if yaml.__with_libyaml__ and "\t" not in text and _depth_at_most(text) < _DEEPEST_LIBYAML:
            with contextlib.suppress(yaml.YAMLError, ValueError, OverflowError, RecursionError):
                return _value(yaml.CSafeLoader(text))
        return _value(yaml.SafeLoader(text))
    except RecursionError as error:
        raise UserError(f"{what} is not valid YAML.", found="it is nested too deeply", fix="correct it") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # such as an impossible date
        raise UserError(f"{what} is not valid YAML.", found=error, fix="correct the line given above") from error


def _depth_at_most(text: str) -> int:
    """Return a number of levels that a YAML text does not exceed.

    A level starts at a bracket, or at a column of its own, which a mapping may share with the list inside it.
    """
    return text.count("[") + text.count("{") + 2 * max(map(len, text.split("\n")))


def _value(loader: yaml.SafeLoader | yaml.CSafeLoader) -> Any:
    """Return the value of the only document, None if there is none."""
    node = loader.get_single_node()
    if node is None:
        return None
    _unfolded(node, {}, set())
    return loader.construct_document(node)


def lines_of(path: Path) -> dict[tuple[str | int, ...], int]:
    """Return the line of each key and each item of a YAML file, by the keys and indices that lead to it.

    The file must be one that `read_yaml` reads. Lines count from 1.
    """
    found: dict[tuple[str | int, ...], int] = {}

    def walk(node: yaml.Node | None, above: tuple[str | int, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                place = (*above, key.value)
                found.setdefault(place, key.start_mark.line + 1)
                walk(value, place)
        elif isinstance(node, yaml.SequenceNode):
            for number, value in enumerate(node.value):
                found.setdefault((*above, number), value.start_mark.line + 1)
                walk(value, (*above, number))

    walk(yaml.SafeLoader(path.read_text(encoding="utf-8")).get_single_node(), ())
    return found


def _unfolded(node: yaml.Node, known: dict[int, int], above: set[int]) -> int:
    """Return the number of values in a node with its aliases expanded; reject duplicate keys and misleading numbers."""
    if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS and _MISLEADING.fullmatch(node.value):
        base = 60 if ":" in node.value else 8
        raise yaml.YAMLError(
            f"{node.value} would be read as a number to base {base}: write it without leading zeros and colons, or in "
            f"quotes\n{node.start_mark}"
        )
    if id(node) in above:
        raise yaml.YAMLError(f"an alias refers to a node that contains it\n{node.start_mark}")
    if len(above) > _DEEPEST:
        raise yaml.YAMLError(f"it is nested too deeply: more than {_DEEPEST} levels\n{node.start_mark}")
    if id(node) in known or isinstance(node, yaml.ScalarNode):
        return known.get(id(node), 1)
    inner = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    if isinstance(node, yaml.MappingNode):
        seen: set[tuple[str, str]] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                raise yaml.YAMLError(f"the key {key.value!r} occurs twice in one block\n{key.start_mark}")
            seen.add((key.tag, key.value))
    total = 1 + sum(_unfolded(part, known, above | {id(node)}) for part in inner)
    if total > _UNFOLDED:
        raise yaml.YAMLError(f"its aliases expand to more than {_UNFOLDED} values\n{node.start_mark}")
    known[id(node)] = total
    return total


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file, in UTF-8 with or without a byte-order mark, or in UTF-16 with one.

    Raises:
        ValueError: it is in another encoding.
    """
    content = path.read_bytes()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if wide else "utf-8-sig").splitlines()


def read_json(path: Path, *, fix: str) -> dict[str, Any]:
    """Read a JSON file that holds an object, in which no key occurs twice and each number is finite.

    Raises:
        UserError: the file is missing, truncated or not such JSON; `fix` says how to create it again.
    """
    try:
        value = json.loads(_text(path, fix), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise damaged(path, "JSON", error, fix) from error
    if not isinstance(value, dict):
        raise damaged(path, "a JSON object", type(value).__name__, fix)
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def read_table(path: Path, columns: Sequence[str] = (), *, fix: str) -> list[dict[str, str]]:
    """Read a CSV file with a header into one dictionary for each row, all cells as text.

    Raises:
        UserError: the file is missing, lacks one of the columns, has one twice, or a row has more or fewer cells than
            the header, as in a truncated file; `fix` says how to create it again.
    """
    try:
        header, *rows = list(csv.reader(io.StringIO(_text(path, fix), newline=""), strict=True)) or [[]]
    except csv.Error as error:
        raise damaged(path, "CSV", error, fix) from error
    missing = [name for name in columns if name not in header]
    if missing or len(set(header)) != len(header):
        found = f"without {', '.join(missing)}" if missing else f"some twice: {', '.join(header)}"
        raise damaged(path, f"the columns {', '.join(columns)}" if missing else "each column once", found, fix)
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header) and row:
            raise damaged(path, f"{number_of(len(header), 'cell')} in each row", f"{len(row)} in row {number}", fix)
    return [dict(zip(header, row, strict=True)) for row in rows if row]


def _text(path: Path, fix: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"File not found: {path}", fix=fix) from error
    except ValueError as error:
        raise damaged(path, "UTF-8 text", error, fix) from error


def damaged(path: Path, expected: str, found: object, fix: str) -> UserError:
    """Return the error for a file with unexpected content; `fix` says how to create it again."""
    words = f"{type(found).__name__}: {found}" if isinstance(found, Exception) else found
    return UserError(
        f"Damaged file: {path}", expected=expected, found=f"{words} ({path.stat().st_size} bytes)", fix=fix
    )
