"""Weight rows as bf16 for use inside numba kernels: where they lie, or unpacked into room of a thread's own.

The room is made so small that what is unpacked stays in the second level cache until all tokens have met it.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import overload

from kodkod_engine.kernels.unpack_bf16 import unpack_row


def bring(weight: Any, row: Any, count: Any, room: Any, place: Any) -> None:
    """Inside a kernel: unpack `count` rows of a packed matrix to the room, bf16 bits [rows, in], from `place` on."""
    raise NotImplementedError("for compiled code alone")


def by_kind(weight: Any, plain: Any, packed: Any) -> Any:
    """Inside a kernel: `plain` for a weight of bf16 bits, whose rows are read where they lie; `packed` for another."""
    raise NotImplementedError("for compiled code alone")


def lies(weight: Any) -> Any:
    """Inside a kernel: the array whose rows are read from memory."""
    raise NotImplementedError("for compiled code alone")


def num_rows(weight: Any) -> Any:
    """Inside a kernel: of a matrix, bf16 bits or packed."""
    raise NotImplementedError("for compiled code alone")


@overload(num_rows, inline="always")
def _num_rows(weight):  # type: ignore[no-untyped-def]  # numba compares signatures
    if isinstance(weight, types.Array):
        return lambda weight: weight.shape[0]
    return lambda weight: weight.codes.shape[0]


@overload(bring, inline="always")
def _bring(weight, row, count, room, place):  # type: ignore[no-untyped-def]  # numba compares signatures
    if isinstance(weight, types.Array):
        return lambda weight, row, count, room, place: None  # noqa: ARG005  # numba compares signatures

    def unpack(weight, row, count, room, place):  # type: ignore[no-untyped-def]
        for i in range(count):
            unpack_row(weight, row + i, room, place + i)

    return unpack


@overload(by_kind, inline="always")
def _by_kind(weight, plain, packed):  # type: ignore[no-untyped-def]  # numba compares signatures
    if isinstance(weight, types.Array):
        return lambda weight, plain, packed: plain  # noqa: ARG005  # numba compares signatures
    return lambda weight, plain, packed: packed  # noqa: ARG005  # numba compares signatures


@overload(lies, inline="always")
def _lies(weight):  # type: ignore[no-untyped-def]  # numba compares signatures
    if isinstance(weight, types.Array):
        return lambda weight: weight
    return lambda weight: weight.codes
