"""Kernels on all threads: a function whose parts are done side by side, compiled into the kernel that calls it.

What numba makes of a parallel loop is a function for its body, one more around that, and the loop itself, each
optimised and made machine code anew with all that it calls. Here one such loop, compiled once, calls every function.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from kodkod_engine.kernels.bf16 import INSIDE, KERNEL_OPTIONS
from kodkod_engine.kernels.inside import compiled_into, with_parameters

_VOID, _FLAG, _NUMBER = ir.VoidType(), ir.IntType(8), ir.IntType(64)
_BYTES = _FLAG.as_pointer()
_CODE = ir.FunctionType(_VOID, (_BYTES, _NUMBER))


def _generate_call(context: Any, builder: Any, _call: Any, values: Any) -> Any:
    code, arguments, part = values
    function = builder.inttoptr(code, _CODE.as_pointer())
    builder.call(function, [builder.inttoptr(arguments, _BYTES), part])
    return context.get_dummy_value()


def _typed_call(_typing: Any, code: Any, arguments: Any, part: Any) -> Any:
    return types.void(code, arguments, part), _generate_call


_call_code: Any = intrinsic(_typed_call)


@njit(**KERNEL_OPTIONS, **INSIDE)
def _run(code: int, arguments: int, parts: int) -> None:
    """Call machine code at an address for every part."""
    for part in prange(parts):
        _call_code(code, arguments, np.int64(part))


_RUN, _RUN_ARGUMENTS = types.Dispatcher(_run), (types.int64,) * 3


def _part_code(context: Any, module: Any, found: Any, kinds: Any, structure: Any) -> Any:
    """A function that takes its arguments from memory and leaves a mark behind them if it fails: one per kernel."""
    name = f"{found.llvm_func_name}.part"
    if name in module.globals:
        return module.globals[name]
    code = ir.Function(module, _CODE, name)
    code.linkage = "internal"
    builder = ir.IRBuilder(code.append_basic_block())
    place = builder.bitcast(code.args[0], structure.as_pointer())
    values = [builder.load(cgutils.gep_inbounds(builder, place, 0, index)) for index in range(len(kinds) - 1)]
    status, _ = context.call_internal_no_propagate(builder, found, types.void(*kinds), [*values, code.args[1]])
    with builder.if_then(status.is_error, likely=False):
        builder.store(_FLAG(1), cgutils.gep_inbounds(builder, place, 0, len(values)))
    builder.ret_void()
    return code


def in_parts(function: Callable[..., None]) -> Any:
    """A function whose last arguments are `parts` and `part`: called without the last one, on threads for each of them.

    Its arrays must not share memory, so that loops over them vectorise. Where a part fails, for it found no memory, the
    kernel does so too when all are done.
    """

    def generate(context: Any, builder: Any, call: Any, values: Any) -> Any:
        kinds = (*call.args, types.int64)
        found = compiled_into(context, function, kinds, are_apart=True)
        structure = ir.LiteralStructType([*(value.type for value in values), _FLAG])
        place = cgutils.alloca_once(builder, structure)
        for index, value in enumerate([*values, _FLAG(0)]):
            builder.store(value, cgutils.gep_inbounds(builder, place, 0, index))
        code = _part_code(context, builder.module, found, kinds, structure)
        run = _RUN.get_call_type(context.typing_context, _RUN_ARGUMENTS, {})
        addresses = [builder.ptrtoint(pointer, _NUMBER) for pointer in (code, place)]
        context.get_function(_RUN, run)(builder, [*addresses, values[-1]])
        has_failed = builder.load(cgutils.gep_inbounds(builder, place, 0, len(values)))
        with builder.if_then(cgutils.is_not_null(builder, has_failed), likely=False):
            context.call_conv.return_user_exc(builder, MemoryError, ("a part of a kernel found no memory",))
        return context.get_dummy_value()

    def typed(_typing: Any, *arguments: Any) -> Any:
        return types.void(*arguments), generate

    *parameters, _ = signature(function).parameters.values()
    return intrinsic(with_parameters(typed, function, parameters))
