"""Asking a constraint: what it answers is a caller's word, and is checked before it is believed."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from numbers import Integral

from kodkod_engine.api import Constraint
from kodkod_engine.constraints.token_mask import TokenMask


def ask_constraint(constraint: Constraint, generated_ids: Sequence[int], vocab_size: int) -> Collection[int] | None:
    """Ids that may follow, each once; None when anything may, whether it was said so or by naming all.

    Raises:
        ValueError: it allows nothing, what is no id, or an id outside the vocabulary.
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
    if not isinstance(allowed, TokenMask) and not all(issubclass(kind, Integral) for kind in set(map(type, allowed))):
        raise ValueError("it allows what is no whole number")
    ids = allowed if isinstance(allowed, Set) else frozenset(allowed)
    return ids if len(ids) < vocab_size else None


def num_unrestricted(
    constraint: Constraint, generated_ids: Sequence[int], ids: Sequence[int], stop_ids: Collection[int], vocab_size: int
) -> int:
    """How many of some ids, each chosen from all, a constraint lets stand: up to the first after which it speaks.

    Args:
        generated_ids: before them; after these it is silent.
        stop_ids: those that end the answer: after one of them it is not asked.

    Where the constraint fails, those before stand: it fails again when it is asked for a step, if it ever is.
    """
    said = list(generated_ids)
    for count, token_id in enumerate(ids[:-1], start=1):
        said.append(token_id)
        try:
            is_silent = token_id not in stop_ids and ask_constraint(constraint, said, vocab_size) is None
        except Exception:  # noqa: BLE001  # a caller's code
            is_silent = False
        if not is_silent:
            return count
    return len(ids)
