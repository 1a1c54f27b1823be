"""Write the types of `params.yaml` for type checkers, from its schema: `src/mmfuse/study/types.py`.

    python workflow/scripts/schema_types.py            # write
    python workflow/scripts/schema_types.py --check    # exit status 1 if the file is not what the schema gives

Each block of the schema becomes a `TypedDict` with its sentence, so that a key that does not exist, or a value of
another kind, is an error of `mypy`. At run time the parameters stay plain dictionaries, as the engines read them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

SCHEMA = Path("workflow/schemas/params.schema.yaml")
OUT = Path("src/mmfuse/study/types.py")
TOP = "Parameters"
_PLAIN = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
HEADER = '''"""The types of `params.yaml`, written by workflow/scripts/schema_types.py from its schema."""

# ruff: noqa: E501 - the schema's sentences

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict
'''


class Types:
    """The classes that a schema needs, by name, in the order in which they are first met."""

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
        return f"Literal[{', '.join(map(repr, node['enum']))}]" if "enum" in node else self._plain(node, name)

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
        self.classes[name] = ""  # its place, before those of the blocks inside
        lines = [f"class {name}(TypedDict):", f'    """{_sentence(node, name)}"""', ""]
        for key, inner in node["properties"].items():
            kind = self.of(inner, f"{'' if name == TOP else name}{_camel(key)}")
            lines.append(f"    {key}: {kind if key in node.get('required', []) else f'NotRequired[{kind}]'}")
        self.classes[name] = "\n".join(lines)
        return name


def _union(kinds: Iterable[str]) -> str:
    """Return the union of types, each once, None last."""
    return " | ".join(sorted(dict.fromkeys(kinds), key=lambda kind: kind == "None"))


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _sentence(node: Mapping[str, Any], name: str) -> str:
    text = str(node.get("description") or node.get("title") or name)
    return text if text.endswith(".") else f"{text}."


def written(schema: Mapping[str, Any]) -> str:
    """Return the module's text, formatted as the project's code is."""
    text = "\n\n\n".join([HEADER.rstrip(), *Types(schema).classes.values()]) + "\n"
    command = ["ruff", "format", "--quiet", "--stdin-filename", str(OUT), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def main() -> int:
    """Write the module, or compare it; return the exit status."""
    text = written(yaml.safe_load(SCHEMA.read_text(encoding="utf-8")))
    if "--check" in sys.argv:
        same = OUT.is_file() and OUT.read_text(encoding="utf-8") == text
        print(f"{OUT} is {'what' if same else 'not what'} {SCHEMA} gives")
        return 0 if same else 1
    OUT.write_text(text, encoding="utf-8")
    print(f"wrote {OUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
