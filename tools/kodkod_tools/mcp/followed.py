"""Which JSON schemas of strangers a grammar follows: plain and small ones.

What it does not follow is checked all the same, when the call is made (`schemas.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PLAIN = frozenset(
    ("type", "description", "title", "default", "examples", "enum", "const", "items", "properties", "required",
     "additionalProperties", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems",
     "minLength", "maxLength", "anyOf", "$schema", "deprecated", "readOnly", "writeOnly")
)  # fmt: skip
"""Keywords a grammar is made of, or that do not matter to it."""
_MAX_NODES = 200
_MAX_DEPTH = 6
_MAX_COUNT = 1_000
"""Largest number of items, characters or choices that a grammar counts."""
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength")


def why_not_held(schema: Any) -> str:
    """Why a grammar does not follow a value's schema; empty when it does."""
    nodes = 0

    def look(node: Any, depth: int) -> str:
        nonlocal nodes
        nodes += 1
        if not isinstance(node, Mapping):
            return "" if isinstance(node, bool) else "it has a part that is no schema"
        if nodes > _MAX_NODES or depth > _MAX_DEPTH:
            return f"it has more than {_MAX_NODES} parts, or more than {_MAX_DEPTH} inside each other"
        if unknown := sorted(set(node) - _PLAIN):
            return f"it uses {unknown[0][:40]}"
        if any(isinstance(node.get(key), int | float) and node[key] > _MAX_COUNT for key in _COUNTS):
            return f"it counts beyond {_MAX_COUNT:,}"
        if any(len(node.get(key, ())) > _MAX_COUNT for key in ("enum", "anyOf")):
            return f"it has more than {_MAX_COUNT:,} choices"
        return next((reason for part in _parts(node) if (reason := look(part, depth + 1))), "")

    return look(schema, 1)


def _parts(node: Mapping[str, Any]) -> list[Any]:
    parts = [*node.get("properties", {}).values(), *node.get("anyOf", ())]
    return parts + [node[key] for key in ("items", "additionalProperties") if key in node]
