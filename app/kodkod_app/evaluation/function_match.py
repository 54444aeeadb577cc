"""Whether calls are those that were expected, by the rules of the Berkeley Function-Calling Leaderboard.

Each expected call gives the values accepted for each argument; an empty text among them means that the argument may be
left out. Names are compared exactly, texts without case, blanks and the signs , . / - _ * ^ and quotes, calls of one
turn in any order. Accepted values of another type than the declared one name variables (or the declaration is wrong): a
value of their type is right then, and compared exactly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kodkod_engine.messages import ToolCall, ToolSpec

Accepted = Mapping[str, Mapping[str, Sequence[Any]]]
_IGNORED = re.compile(r"[ ,./\-_*^]")
_OPTIONAL = ""


def mismatch(calls: Sequence[ToolCall], expected: Sequence[Accepted], specs: Sequence[ToolSpec]) -> str:
    """Why the calls are not the expected ones; empty where they are.

    Args:
        calls: of one turn.
        expected: one entry for each call; none: there must be no call.
        specs: of the functions.
    """
    if malformed := [call for call in calls if call.fault is not None]:
        return f"a call cannot be read: {malformed[0].fault}"
    if len(calls) != len(expected):
        return f"{len(calls)} calls where {len(expected)} are expected"
    by_name = {spec.name: spec for spec in specs}
    left = list(calls)
    for accepted in expected:
        reasons = [call_mismatch(call, accepted, by_name) for call in left]
        if "" not in reasons:
            return min(reasons, key=len) if len(expected) == 1 else f"no call is {_told(accepted)}: {reasons[0]}"
        left.pop(reasons.index(""))
    return ""


def call_mismatch(call: ToolCall, accepted: Accepted, specs: Mapping[str, ToolSpec]) -> str:
    """Why one call is not the expected one."""
    name, wanted = next(iter(accepted.items()))
    if call.name != name:
        return f"{call.name} was called, not {name}"
    schema = specs[name].parameters if name in specs else {}
    properties = schema.get("properties", {})
    if missing := [one for one in schema.get("required", ()) if one not in call.arguments]:
        return f"{name}: {', '.join(missing)} is missing"
    if unknown := [one for one in call.arguments if one not in wanted or one not in properties]:
        return f"{name}: {', '.join(unknown)} was not to be given"
    for argument, values in wanted.items():
        if argument in call.arguments:
            reason = _value_mismatch(call.arguments[argument], values, properties[argument].get("type", "string"))
        else:
            reason = "" if _OPTIONAL in values else "is missing"
        if reason:
            return f"{name}: {argument} {reason}"
    return ""


def _value_mismatch(given: Any, values: Sequence[Any], kind: str) -> str:
    answers = [value for value in values if value != _OPTIONAL]
    is_as_declared = not answers or _has_type(answers[0], kind)
    if not _has_type(given, kind) and (is_as_declared or type(given) is not type(answers[0])):
        return f"is {type(given).__name__}, not {kind}"
    fits = any(_equal(given, value) for value in values) if is_as_declared else given in values
    return "" if fits else f"is {given!r}"


def _has_type(value: Any, kind: str) -> bool:
    """An integer is a number too; a truth value is neither."""
    if isinstance(value, bool):
        return kind in ("boolean", "any")
    types: Mapping[str, tuple[type, ...]] = {
        "string": (str,),
        "integer": (int,),
        "number": (int, float),
        "float": (int, float),
        "boolean": (),
        "array": (list, tuple),
        "tuple": (list, tuple),
        "object": (dict,),
        "dict": (dict,),
    }
    return isinstance(value, types.get(kind, (object,)))


def _equal(given: Any, accepted: Any) -> bool:
    if isinstance(given, str) and isinstance(accepted, str):
        return standard(given) == standard(accepted)
    if isinstance(given, bool) or isinstance(accepted, bool):
        return given is accepted
    if isinstance(given, list | tuple) and isinstance(accepted, list | tuple):
        return len(given) == len(accepted) and all(map(_equal, given, accepted))
    if isinstance(given, Mapping) and isinstance(accepted, Mapping):
        return _equal_objects(given, accepted)
    return bool(given == accepted)


def _equal_objects(given: Mapping[str, Any], accepted: Mapping[str, Any]) -> bool:
    """Of an object each value is a list of accepted ones, as arguments are."""
    if set(given) - set(accepted):
        return False
    for key, values in accepted.items():
        choices = values if isinstance(values, list | tuple) else [values]
        if key not in given:
            if _OPTIONAL not in choices:
                return False
        elif not any(_equal(given[key], value) for value in choices) and not _equal(given[key], values):
            return False
    return True


def standard(text: str) -> str:
    """A text as texts are compared."""
    return _IGNORED.sub("", text).lower().replace("'", '"')


def _told(accepted: Accepted) -> str:
    name, wanted = next(iter(accepted.items()))
    return f"{name}({', '.join(f'{key}={next(iter(values))!r}' for key, values in wanted.items() if values)})"
