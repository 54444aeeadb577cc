"""JSON schemas that a stranger wrote: checking values against them.

A schema is a small program. What would make it a costly one is not obeyed: patterns (a regular expression may take for
ever), references to other documents (they would be fetched), and more than a bounded number of steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from jsonschema import Draft6Validator, Draft7Validator, Draft201909Validator, Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

MAX_SCHEMA_CHARS = 16_000
MAX_DEPTH = 32
"""Levels of mappings and lists inside each other."""
MAX_STEPS = 20_000
"""Of one check; a plain schema of that length takes a few hundred."""
_MAX_FAULTS = 5
_MAX_FAULT_CHARS = 200
_NOT_OBEYED = ("pattern", "patternProperties", "format", "$dynamicRef", "contentSchema")

_NEWEST = Draft202012Validator
_OLDER = (Draft6Validator, Draft7Validator, Draft201909Validator)
"""Drafts in which keywords are the same but for lists of items. In those before them some mean something else."""

Keyword: TypeAlias = Callable[[Validator, Any, Any, Any], Iterator[ValidationError] | None]


class TooCostly(Exception):
    """A check took more steps than it may."""


class Checker:
    """Checks arguments against one schema."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """Take it.

        Raises:
            ValueError: it is no schema of arguments, or longer than may be.
        """
        if _depth_exceeds(schema, MAX_DEPTH):
            raise ValueError(f"its schema has more than {MAX_DEPTH} levels")
        length = len(json.dumps(schema, ensure_ascii=False))
        if length > MAX_SCHEMA_CHARS:
            raise ValueError(f"its schema has {length:,} characters, more than {MAX_SCHEMA_CHARS:,}")
        if schema.get("type") != "object":
            raise ValueError('its schema is not of type "object"')
        kind = _kind(schema)
        try:
            kind.check_schema(schema)
        except (SchemaError, RecursionError) as fault:
            raise ValueError(f"its schema is none ({_shown(getattr(fault, 'message', fault))})") from fault
        self._schema, self._kind = schema, kind

    def faults(self, arguments: Mapping[str, Any]) -> list[str]:
        """What is wrong with some arguments, a line each; empty when nothing is."""
        validator = _bounded(self._kind)(self._schema, registry=Registry())
        found: list[str] = []
        try:
            for error in validator.iter_errors(dict(arguments)):
                found.append(_told(error))
                if len(found) >= _MAX_FAULTS:
                    break
        except (TooCostly, RecursionError):
            found.append("the tool's own schema takes too long to check; it cannot be called")
        except Unresolvable:
            found.append("the tool's own schema refers to what is not in it; it cannot be called")
        except Exception as fault:  # noqa: BLE001  # the library's own: schemas that refer to no schema, numbers of any size
            found.append(_shown(f"this cannot be checked by the tool's own schema ({type(fault).__name__}: {fault})"))
        return found


def _depth_exceeds(value: Any, limit: int) -> bool:
    """Whether something lies deeper. Level by level, for it may be deeper than Python's own stack."""
    level = [value]
    for _ in range(limit + 1):
        nested = (part.values() if isinstance(part, Mapping) else part for part in level)
        level = [item for items in nested for item in items if isinstance(item, Mapping | list)]
        if not level:
            return False
    return True


def _kind(schema: Mapping[str, Any]) -> type[Validator]:
    """Of the draft that the schema says it is of; of the newest where it says none of those."""
    named = {"$schema": schema["$schema"]} if isinstance(schema.get("$schema"), str) else {}
    found: type[Validator] = validator_for(named, default=_NEWEST)
    return found if found in _OLDER else _NEWEST


def _bounded(kind: type[Validator]) -> type[Validator]:
    """A validator that counts its steps."""
    left = MAX_STEPS

    def counted(keyword: Keyword) -> Keyword:
        def check(validator: Validator, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
            nonlocal left
            left -= 1
            if left < 0:
                raise TooCostly
            yield from keyword(validator, value, instance, schema) or ()

        return check

    keywords = {name: counted(keyword) for name, keyword in kind.VALIDATORS.items()}
    ours = {"uniqueItems": _unique, **dict.fromkeys(_NOT_OBEYED, _passes)}
    bounded: type[Validator] = extend(kind, {**keywords, **ours})
    return bounded


def _passes(_validator: Validator, _value: Any, _instance: Any, _schema: Any) -> None:
    """For keywords that are not obeyed."""


def _unique(_validator: Validator, is_wanted: Any, items: Any, _schema: Any) -> Iterator[ValidationError]:
    """By what is written of each item: the library compares each with each."""
    if is_wanted and isinstance(items, list) and len({json.dumps(one, sort_keys=True) for one in items}) < len(items):
        yield ValidationError("an item is there more than once")


def _told(error: ValidationError) -> str:
    place = ".".join(str(part) for part in error.absolute_path)
    return _shown(f"{place}: {error.message}" if place else error.message)


def _shown(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= _MAX_FAULT_CHARS else f"{line[: _MAX_FAULT_CHARS - 1]}…"
