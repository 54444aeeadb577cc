"""Triton's interpreter without half of its work.

A launch lets the language's functions compute on the processor, for which it asks every name of the language what it
is, and so does each call of a function in a kernel, though most of them find everything done by the launch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType

import triton.language as tl
from triton.runtime import interpreter


class _InForce:
    """Which of the language's modules compute on the processor now."""

    modules: frozenset[str] = frozenset()


@cache
def _modules_of(function: Callable[..., object]) -> frozenset[str]:
    assert isinstance(function, FunctionType)
    return frozenset(value.__name__ for value in function.__globals__.values() if value is tl or value is tl.core)


def hasten() -> None:
    """Prepare each module once in a launch. To be called before a kernel is launched."""
    prepare = interpreter._patch_lang

    def once(function: Callable[..., object]) -> interpreter._LangPatchScope:
        modules = _modules_of(function)
        if modules and modules <= _InForce.modules:
            return interpreter._LangPatchScope()
        scope = prepare(function)
        scope.set_attr(_InForce, "modules", _InForce.modules | modules)
        return scope

    interpreter._patch_lang = once
