"""Generate `src/mmfuse/study/types.py` and `docs/parameters.md` from the schema of `params.yaml`.

    python workflow/scripts/schema_types.py            # write
    python workflow/scripts/schema_types.py --check    # exit status 1 if a file does not match the schema

Each block of the schema becomes a `TypedDict` with its sentence, so that mypy reports an unknown key or a value of the
wrong type. At run time, the parameters stay plain dictionaries, as the engines read them.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

SCHEMA = Path("workflow/schemas/params.schema.yaml")
OUT, DOCS = Path("src/mmfuse/study/types.py"), Path("docs/parameters.md")
TOP = "Parameters"
_PLAIN = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
_WORDS = {
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "None": "null",
    "Any": "anything",
}
HEADER = '''"""The types of `params.yaml`, written by workflow/scripts/schema_types.py from its schema."""

# ruff: noqa: E501 - the schema's sentences

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict
'''
PAGE = """# Parameters

Every key of `params.yaml`, from its [schema](../workflow/schemas/params.schema.yaml). Unknown keys are refused. NAME
stands for a name of your own, `[]` for each item of a list. Written by `python workflow/scripts/schema_types.py`."""


class Types:
    """The classes that a schema needs, by name, in the order of their first use."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.definitions: Mapping[str, Any] = schema.get("$defs", {})
        self.classes: dict[str, str] = {}
        self.of(schema, TOP)

    def of(self, node: Any, name: str) -> str:
        """Return the type of a node; a block becomes a class called `name`."""
        if not isinstance(node, Mapping):
            return "Any"
        if "$ref" in node:
            target = str(node["$ref"]).rpartition("/")[2]
            return self.of(self.definitions[target], _camel(target))
        if "properties" in node and node.get("type") == "object":
            return self._block(node, name)
        every = [*node.get("oneOf", []), *node.get("anyOf", [])]
        choices = [choice for choice in every if set(choice) != {"required"}]
        if choices:
            return _union(self.of(choice, name) for choice in choices)
        values = node.get("enum", [node["const"]] if "const" in node else [])
        return f"Literal[{', '.join(map(repr, values))}]" if values else self._plain(node, name)

    def _plain(self, node: Mapping[str, Any], name: str) -> str:
        """Return the type of a node that is neither a block nor a choice."""
        kind = node.get("type", "any")
        if isinstance(kind, list):
            return _union(self.of({**node, "type": one}, name) for one in kind)
        if kind == "array":
            return f"list[{self.of(node.get('items'), name)}]"
        if kind == "object":
            inner = next(iter(node.get("patternProperties", {}).values()), node.get("additionalProperties"))
            return f"dict[str, {self.of(inner, name)}]"
        return _PLAIN.get(kind, "Any")

    def _block(self, node: Mapping[str, Any], name: str) -> str:
        if name in self.classes:
            return name
        self.classes[name] = ""  # reserves its position, before the blocks inside
        lines = [f"class {name}(TypedDict):", f'    """{_sentence(node, name)}"""', ""]
        for key, inner in node["properties"].items():
            kind = self.of(inner, f"{'' if name == TOP else name}{_camel(key)}")
            lines.append(f"    {key}: {kind if key in node.get('required', []) else f'NotRequired[{kind}]'}")
        self.classes[name] = "\n".join(lines)
        return name


def _union(kinds: Iterable[str]) -> str:
    """Return the union of types, each once, with None last."""
    return " | ".join(sorted(dict.fromkeys(kinds), key=lambda kind: kind == "None"))


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _sentence(node: Mapping[str, Any], name: str) -> str:
    text = str(node.get("description") or node.get("title") or name)
    return text if text.endswith(".") else f"{text}."


def written(schema: Mapping[str, Any]) -> str:
    """Return the module's text, formatted like the project's code."""
    text = "\n\n\n".join([HEADER.rstrip(), *Types(schema).classes.values()]) + "\n"
    command = ["ruff", "format", "--quiet", "--stdin-filename", str(OUT), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def listed(schema: Mapping[str, Any]) -> str:
    """Return the page of all keys: type, whether optional, and description; with a heading for each top-level block."""
    types, lines = Types(schema), [PAGE]

    def walk(node: Mapping[str, Any], path: str, name: str) -> None:
        for key, given in node.get("properties", {}).items():
            inner = {**types.definitions[str(given["$ref"]).rpartition("/")[2]], **given} if "$ref" in given else given
            place, kind = f"{path}{key}", types.of(given, f"{'' if name == TOP else name}{_camel(key)}")
            if not path:
                lines.append(f"\n## {key}\n\n{_sentence(inner, key)}\n")
            else:
                optional = "" if key in node.get("required", []) else ", may be left out"
                lines.append(f"- `{place}` ({_in_words(kind, types.classes)}{optional}): {_sentence(inner, key)}")
            for block, step in _blocks(inner, types.definitions):
                walk(block, f"{place}{step}.", _camel(key))

    walk(schema, "", TOP)
    return "\n".join(lines) + "\n"


def _in_words(kind: str, classes: Collection[str]) -> str:
    """Return a type in words."""
    for name in classes:
        kind = re.sub(rf"\b{name}\b", "block", kind)
    kind = re.sub(r"Literal\[(.*?)\]", lambda found: found[1].replace("'", "").replace(", ", " or "), kind)
    while "[" in kind:
        kind = re.sub(r"list\[([^\[\]]*)\]", r"list of \1", kind)
        kind = re.sub(r"dict\[str, ([^\[\]]*)\]", r"\1 by name", kind)
    return re.sub(r"\w+", lambda found: _WORDS.get(found[0], found[0]), kind).replace(" | ", " or ")


def _blocks(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], str]]:
    """Return the blocks of keys inside a node, and the step to each: none, `.NAME` of a mapping, `[]` of a list."""
    if "$ref" in node:
        node = definitions[str(node["$ref"]).rpartition("/")[2]]
    if "properties" in node:
        return [(node, "")]
    found = []
    for choice in node.get("oneOf", []):
        found += _blocks(choice, definitions)
    inner = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
    for value in (value for value in inner if isinstance(value, Mapping)):
        found += [(block, f".NAME{step}") for block, step in _blocks(value, definitions)]
    if isinstance(node.get("items"), Mapping):
        found += [(block, f"[]{step}") for block, step in _blocks(node["items"], definitions)]
    return found


def main() -> int:
    """Write the files, or compare them; return the exit status."""
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    status = 0
    for path, text in {OUT: written(schema), DOCS: listed(schema)}.items():
        if "--check" in sys.argv:
            same = path.is_file() and path.read_text(encoding="utf-8") == text
            print(f"{path} {'matches' if same else 'does not match'} {SCHEMA}")
            status |= not same
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
    return status


if __name__ == "__main__":
    sys.exit(main())
