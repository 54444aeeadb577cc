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


def brought(weight: Any, room: Any) -> Any:
    """Inside a kernel: the array, bf16 bits [rows, in], that has the rows."""
    raise NotImplementedError("for compiled code alone")


def where(weight: Any, row: Any, place: Any) -> Any:
    """Inside a kernel: the number in `brought` of what is `row` of the weight, or `place` of the room."""
    raise NotImplementedError("for compiled code alone")


def lies(weight: Any) -> Any:
    """Inside a kernel: the array whose rows are read from memory."""
    raise NotImplementedError("for compiled code alone")


@overload(bring, inline="always")
def _bring(weight, row, count, room, place):  # type: ignore[no-untyped-def]  # numba compares signatures
    if isinstance(weight, types.Array):
        return lambda weight, row, count, room, place: None  # noqa: ARG005  # numba compares signatures

    def unpack(weight, row, count, room, place):  # type: ignore[no-untyped-def]
        for i in range(count):
            unpack_row(weight, row + i, room, place + i)

    return unpack


@overload(brought, inline="always")
def _brought(weight, room):  # type: ignore[no-untyped-def]  # numba compares signatures
    if isinstance(weight, types.Array):
        return lambda weight, room: weight  # noqa: ARG005  # numba compares signatures
    return lambda weight, room: room  # noqa: ARG005  # numba compares signatures


@overload(where, inline="always")
def _where(weight, row, place):  # type: ignore[no-untyped-def]  # numba compares signatures
    if isinstance(weight, types.Array):
        return lambda weight, row, place: row  # noqa: ARG005  # numba compares signatures
    return lambda weight, row, place: place  # noqa: ARG005  # numba compares signatures


@overload(lies, inline="always")
def _lies(weight):  # type: ignore[no-untyped-def]  # numba compares signatures
    if isinstance(weight, types.Array):
        return lambda weight: weight
    return lambda weight: weight.codes
