"""Asking a constraint: what it answers is a caller's word, and is checked before it is believed."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set

from kodkod_engine.api import Constraint
from kodkod_engine.constraints.token_mask import TokenMask


def ask_constraint(constraint: Constraint, generated_ids: Sequence[int], vocab_size: int) -> Collection[int] | None:
    """Ids that may follow, each once; None when anything may, whether it was said so or by naming all.

    Raises:
        ValueError: it allows nothing, or an id outside the vocabulary.
        Exception: whatever the constraint raises.
    """
    allowed = constraint.allowed_ids(generated_ids)
    if allowed is None:
        return None
    if len(allowed) == 0:
        raise ValueError("it allows no token")
    lowest, highest = (0, allowed.max_id) if isinstance(allowed, TokenMask) else (min(allowed), max(allowed))
    if lowest < 0 or highest >= vocab_size:
        raise ValueError(f"it allows an id outside the vocabulary of {vocab_size}")
    ids = allowed if isinstance(allowed, Set) else frozenset(allowed)
    return ids if len(ids) < vocab_size else None
