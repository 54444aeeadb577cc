"""Of faults that end several tasks at once, the one that is told."""

from __future__ import annotations


def first_fault(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first, out of however many groups."""
    fault = group.exceptions[0]
    return first_fault(fault) if isinstance(fault, BaseExceptionGroup) else fault
