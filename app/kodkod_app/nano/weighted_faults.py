"""A fault in one function, with rare kinds as likely as the frequent ones.

In a whole file every kind finds a place, and `faults.plant` gives each the same chance; most single functions admit
few of them. Here a kind is the likelier the fewer functions admit it, so that many functions together have all kinds
about equally often.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from kodkod_app.nano.faults import Candidates, Fault, FaultKind

ADMITTED: Mapping[FaultKind, float] = {
    FaultKind.NEGATION: 0.93,
    FaultKind.DROPPED_STATEMENT: 0.62,
    FaultKind.WRONG_VARIABLE: 0.58,
    FaultKind.MISSING_RETURN: 0.51,
    FaultKind.SWAPPED_ARGUMENTS: 0.42,
    FaultKind.CONSTANT: 0.39,
    FaultKind.WRONG_ATTRIBUTE: 0.35,
    FaultKind.OFF_BY_ONE: 0.26,
    FaultKind.MISSING_NOT: 0.21,
    FaultKind.WRONG_DEFAULT: 0.15,
    FaultKind.COMPARISON: 0.14,
    FaultKind.BOOLEAN: 0.14,
    FaultKind.ARITHMETIC: 0.10,
    FaultKind.MISSING_AWAIT: 0.05,
}
"""Share of the corpus's short functions that admit each kind, by 3,000 of them; for `await` more, to keep it rare."""


def draw_weighted(candidates: Candidates, rng: Random) -> Fault | None:
    """One that was not drawn before; None when there are no more."""
    while kinds := candidates.kinds:
        (kind,) = rng.choices(kinds, [1 / ADMITTED[kind] for kind in kinds])
        if fault := candidates.draw(kind, rng):
            return fault
    return None
