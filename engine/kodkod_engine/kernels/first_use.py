"""Kernels are compiled at their first use and kept on disk: whoever waits for that can be told.

Both compilers say themselves when a kernel is on no disk: numba before it compiles one, Triton after it has.
"""

from __future__ import annotations

import gc
import importlib.util
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numba.core import event

_here = threading.local()
"""Of the thread: whom to tell and whom to ask, as `telling`."""


@contextmanager
def telling(tell: Callable[[], object], go_on: Callable[[], object] | None = None) -> Iterator[None]:
    """While it lasts this thread is listened to.

    Args:
        tell: called where it has to compile a kernel: once at most.
        go_on: called after each kernel that Triton compiled; what it raises breaks off what is done here.
    """
    _here.tell, _here.go_on = tell, go_on
    try:
        yield
    finally:
        _here.tell = _here.go_on = None


def listen_to_triton() -> None:
    """Hear of its kernels too; to be called where steps run on a GPU. Without Triton there is nothing to hear."""
    if importlib.util.find_spec("triton") is None:
        return
    from triton import knobs

    knobs.compilation.listener = _triton_compiled


def kernel_compiled() -> None:
    """Triton has compiled one that this thread waits for, itself or by others."""
    _compiles()
    go_on = getattr(_here, "go_on", None)
    if go_on is not None:
        go_on()


def _compiles() -> None:
    tell, _here.tell = getattr(_here, "tell", None), None
    if tell is not None:
        tell()


def _triton_compiled(*, cache_hit: bool, **_: Any) -> None:
    if not cache_hit:
        kernel_compiled()


class _NumbaCompiles(event.Listener):
    """What is loaded from disk is no such event. One thread compiles at a time; kernels that a kernel calls, within it.

    Nobody looks for garbage meanwhile: that takes a twelfth of the time, for next to nothing that it finds.
    """

    def __init__(self) -> None:
        self._depth, self._collects = 0, False

    def on_start(self, event: Any) -> None:
        del event
        _compiles()
        if self._depth == 0:
            self._collects = gc.isenabled()
            gc.disable()
        self._depth += 1

    def on_end(self, event: Any) -> None:
        del event
        self._depth -= 1
        if self._depth == 0 and self._collects:
            gc.enable()


event.register("numba:compile", _NumbaCompiles())
