"""Functions that are compiled into the kernel that calls them, as if their code stood there once.

What one compiled function of numba calls is optimised and made machine code first by itself, then again in its caller,
and again in each caller of that: of a layer's innermost loops eight times over. These wait for the kernel, and their
code is in it once however often it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import update_wrapper, wraps
from inspect import Parameter, Signature, signature
from typing import Any
from weakref import WeakKeyDictionary

from numba import types
from numba.core import compiler
from numba.core.cpu_options import FastMathOptions
from numba.extending import intrinsic

from kodkod_engine.kernels.bf16 import FAST_MATH

Function = Callable[..., Any]

_compiled: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()
"""Of each kernel that is being compiled: what is in it, by function and the types of its arguments."""


def _flags(are_apart: bool) -> Any:
    """Those of `SERIAL_OPTIONS`, and no code of its own to be called by anybody else."""
    flags: Any = compiler.Flags()
    flags.nrt, flags.boundscheck, flags.fastmath = True, False, FastMathOptions(FAST_MATH)
    flags.noalias = are_apart
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    return flags


def compiled_into(context: Any, function: Function, arguments: Any, *, are_apart: bool = False) -> Any:
    """The function in the kernel that is being compiled; `are_apart` where no two of its arrays share memory."""
    library = context.active_code_library
    here = _compiled.setdefault(library, {})
    if (function, arguments) not in here:
        found = compiler.compile_internal(
            context.typing_context, context, library, function, arguments, types.void, _flags(are_apart), {}
        ).fndesc
        # Called and not copied, so that loops keep the registers: steps of one token took up to a tenth longer.
        library.get_function(found.llvm_func_name).add_function_attribute("noinline")
        here[function, arguments] = found
    return here[function, arguments]


def inside_of(choose: Callable[..., Function | None]) -> Any:
    """As numba's `overload`: chooses a function, without a result, by the types of arguments."""

    def typed(_typing: Any, *arguments: Any) -> Any:
        function = choose(*arguments)
        if function is None:
            return None

        def generate(context: Any, builder: Any, call: Any, values: Any) -> Any:
            found = compiled_into(context, function, call.args)
            context.call_internal(builder, found, call, values)
            return context.get_dummy_value()

        return types.void(*arguments), generate

    return intrinsic(with_parameters(typed, choose, signature(choose).parameters.values()))


def inside(function: Function) -> Any:
    """A function without a result for use inside kernels."""
    return inside_of(wraps(function)(lambda *_arguments: function))


def with_parameters(typed: Function, like: Function, parameters: Iterable[Parameter]) -> Any:
    """`typed`, which takes any arguments, as numba wants to see it: with those that kernels call it with."""
    first, *_ = signature(typed).parameters.values()
    typed.__signature__ = Signature([first, *parameters])  # type: ignore[attr-defined]  # as functools sets it
    return update_wrapper(typed, like, updated=())
