"""What kinds of fault there are, and what one is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kodkod_app.nano.spans import Edit


class FaultKind(StrEnum):
    """What a person did wrong."""

    COMPARISON = "comparison"
    ARITHMETIC = "arithmetic"
    BOOLEAN = "boolean"
    NEGATION = "negation"
    """A `not` too many."""
    CONSTANT = "constant"
    OFF_BY_ONE = "off_by_one"
    WRONG_VARIABLE = "wrong_variable"
    WRONG_ATTRIBUTE = "wrong_attribute"
    SWAPPED_ARGUMENTS = "swapped_arguments"
    MISSING_RETURN = "missing_return"
    MISSING_AWAIT = "missing_await"
    MISSING_NOT = "missing_not"
    WRONG_DEFAULT = "wrong_default"
    DROPPED_STATEMENT = "dropped_statement"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault and its way back: `edit` applies to the sound source, `repair` to the broken one."""

    kind: FaultKind
    edit: Edit
    repair: Edit
