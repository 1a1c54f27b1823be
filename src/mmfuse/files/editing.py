"""Edits of YAML text: one value is set, everything else keeps its bytes, comments and order included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import yaml

from mmfuse.errors import UserError


def with_value(text: str, keys: Sequence[str], value: Any) -> str:
    """Return a YAML text in which one value is set; missing blocks around it are added.

    Args:
        text: Valid YAML with a block at the top level.
        keys: The keys that lead to the value.
        value: Plain data.

    Raises:
        UserError: one of the keys above the value is not a block.
    """
    node: Any = _root(text)
    for depth, key in enumerate(keys):
        if not isinstance(node, yaml.MappingNode):
            where, whole = ".".join(keys[:depth]), ".".join(keys)
            raise UserError(f"{where} is not a block, so {whole} cannot be set.", fix=f"set {where} as a whole")
        found = next(((name, inner) for name, inner in node.value if name.value == key), None)
        if found is None:
            return _with_key(text, node, keys[depth:], value)
        name, node = found
    return _replaced(text, name, node, value)


def with_item(text: str, keys: Sequence[str], item: Any) -> str:
    """Return a YAML text in which an item is appended to the list at `keys`, which exists and is not empty."""
    node: Any = _root(text)
    for key in keys:
        node = next(inner for name, inner in node.value if name.value == key)
    if node.flow_style:
        end = _inner_end(text, node)
        return f"{text[:end]}, {_flow(item)}{text[end:]}"
    dash = text.rindex("-", 0, node.value[0].start_mark.index)
    indent = dash - (text.rfind("\n", 0, dash) + 1)
    return _with_line(text, _end(text, node), " " * indent + f"- {_flow(item)}")


def _root(text: str) -> yaml.Node | None:
    return yaml.SafeLoader(text).get_single_node()


def _flow(value: Any) -> str:
    written = yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False)
    return str(written).removesuffix("...\n").rstrip("\n")


def _end(text: str, node: yaml.Node) -> int:
    """Return where a value ends. The mark of a block is at the next value: empty lines and comments are cut off."""
    before = text[: node.end_mark.index].rstrip()
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        lines = before.split("\n")
        while lines[-1].lstrip()[:1] in {"", "#"}:
            lines.pop()
        before = "\n".join(lines)
    return len(before)


def _inner_end(text: str, node: yaml.CollectionNode) -> int:
    """Return where the last value inside brackets or braces ends."""
    return len(text[: node.end_mark.index - 1].rstrip())


def _replaced(text: str, name: yaml.Node, node: yaml.Node, value: Any) -> str:
    colon = text.index(":", name.end_mark.index) + 1
    start = max(colon, node.start_mark.index)
    if not text[colon:start].strip():  # a block starts on a line of its own
        start = colon
    end = max(start, _end(text, node))
    return f"{text[:start]} {_flow(value)}{text[end:]}"


def _with_key(text: str, block: yaml.MappingNode, keys: Sequence[str], value: Any) -> str:
    """Return the text with new keys at the end of a block."""
    if block.flow_style:
        for key in reversed(keys[1:]):
            value = {key: value}
        entry = _flow({keys[0]: value})[1:-1]
        end = _inner_end(text, block)
        return f"{text[:end]}{', ' if block.value else ''}{entry}{text[end:]}"
    indent = block.value[0][0].start_mark.column  # the block's own mark may be that of its anchor
    lines = [" " * (indent + 2 * depth) + f"{_flow(key)}:" for depth, key in enumerate(keys)]
    return _with_line(text, _end(text, block), "\n".join(lines) + f" {_flow(value)}")


def _with_line(text: str, end: int, line: str) -> str:
    """Return the text with a line after the one that contains the position `end`."""
    stop = text.find("\n", end)
    stop = len(text) if stop < 0 else stop
    return f"{text[:stop]}\n{line}{text[stop:]}"
