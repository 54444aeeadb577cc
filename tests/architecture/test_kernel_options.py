"""Every compiled kernel states how exact its sums are.

Numba takes what a function leaves open from whoever calls it first, and its disk cache hands that to everybody: the
same kernel then rounds otherwise, or loses NaN, by the order in which a process happened to call.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[2] / "engine" / "kodkod_engine" / "kernels"
STATED = {"KERNEL_OPTIONS", "SERIAL_OPTIONS"}


def _calls(source: str, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            yield node


def _is_stated(call: ast.Call) -> bool:
    spread = {one.value.id for one in call.keywords if one.arg is None and isinstance(one.value, ast.Name)}
    return bool(spread & STATED) or any(one.arg == "fastmath" for one in call.keywords)


def _is_overload_stated(call: ast.Call) -> bool:
    said = {one.arg: one.value for one in call.keywords}
    inline, options = said.get("inline"), said.get("jit_options")
    is_inlined = isinstance(inline, ast.Constant) and inline.value == "always"
    return is_inlined or (isinstance(options, ast.Name) and options.id in STATED)


@pytest.mark.parametrize("path", sorted(KERNELS.glob("*.py")), ids=lambda path: path.stem)
def test_a_kernel_states_its_options(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert "@njit\n" not in source
    open_calls = [call.lineno for call in _calls(source, "njit") if not _is_stated(call)]
    open_calls += [call.lineno for call in _calls(source, "overload") if not _is_overload_stated(call)]
    assert not open_calls, f"{path.name}, lines {open_calls}: fastmath is left to the first caller"
