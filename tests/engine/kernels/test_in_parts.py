"""Functions compiled into the kernel that calls them, alone and side by side on threads."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit, types
from numba.core.errors import TypingError

from kodkod_engine.kernels import first_use
from kodkod_engine.kernels.in_parts import in_parts
from kodkod_engine.kernels.inside import inside, inside_of


@inside
def _double(values):
    for i in range(len(values)):
        values[i] *= 2


@inside_of
def _count(values, out):
    is_whole = isinstance(values.dtype, types.Integer)

    def count(values, out):
        out[0] += len(values)

    return count if is_whole else None


@in_parts
def _number(out, parts, part):
    for row in range(len(out) * part // parts, len(out) * (part + 1) // parts):
        out[row] += part
        _double(out[row : row + 1])


@in_parts
def _take_memory(sizes, out, parts, part):
    out[part] = len(np.empty(sizes[part], np.int8))


def test_it_is_called_wherever_a_kernel_says_so_and_compiled_with_it(monkeypatch):
    heard = []
    monkeypatch.setattr(first_use, "_compiles", lambda: heard.append(1))

    @njit
    def kernel(values, others):
        _double(values)
        _double(others)
        _double(values)

    values, others = np.arange(4), np.arange(4.0)
    kernel(values, others)
    assert values.tolist() == [0, 4, 8, 12]
    assert others.tolist() == [0, 2, 4, 6]
    assert heard == [1], "the kernel alone"


def test_it_is_chosen_by_the_types_of_its_arguments():
    @njit
    def kernel(values, out):
        _count(values, out)

    out = np.zeros(1, np.int64)
    kernel(np.arange(3), out)
    assert out[0] == 3
    with pytest.raises(TypingError, match="_count"):
        kernel(np.arange(3.0), out)


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_every_part_is_done_once(parts):
    @njit
    def kernel(out, parts):
        _number(out, parts)
        _number(out, parts)

    out = np.zeros(50, np.int64)
    kernel(out, parts)
    expected = [part for part in range(parts) for _ in range(50 * part // parts, 50 * (part + 1) // parts)]
    assert out.tolist() == [6 * part for part in expected]


def test_a_part_that_finds_no_memory_ends_the_kernel_and_it_can_be_called_again():
    @njit
    def kernel(sizes, out, parts):
        _take_memory(sizes, out, parts)
        out[0] = 5

    sizes, out = np.array([2, 1 << 60, 2]), np.zeros(3, np.int64)
    with pytest.raises(MemoryError, match="found no memory"):
        kernel(sizes, out, 3)
    assert out.tolist() == [2, 0, 2]
    sizes[1] = 3
    kernel(sizes, out, 3)
    assert out.tolist() == [5, 3, 2]
