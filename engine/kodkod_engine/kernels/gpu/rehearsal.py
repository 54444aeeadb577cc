"""A rehearsal: what some work launches is compiled side by side, and nothing of it runs.

Triton compiles a kernel where it is first launched, a second or so on one core, and a device wants some hundred before
its first answer. Three quarters of a compilation and more leave Python's lock alone, so threads are enough.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import torch
import triton
from triton.compiler import ASTSource
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from kodkod_engine.kernels.first_use import kernel_compiled, telling

_rehearses: ContextVar[bool] = ContextVar("rehearses", default=False)

_rehearsal = threading.Lock()
"""One at a time, for Triton is changed meanwhile."""

_reading = threading.Lock()
"""Before Python 3.13 two threads may not make syntax trees at once; and with one that reads, others get to run."""


def is_rehearsal() -> bool:
    """Whether what is launched here only compiles, so that tensors hold anything."""
    return _rehearses.get()


def rehearse(work: Callable[[], object]) -> None:
    """Compile what the work launches. A kernel that does not compile is left for the launch that wants it, to say so,
    and so is work that fails here: nobody needs a rehearsal.

    Args:
        work: done with tensors that its kernels leave as they are; what is no kernel of Triton's does run.
    """
    with (
        _rehearsal,
        _Compilers() as compilers,
        _launching_nothing(),
        triton.AsyncCompileMode(compilers, ignore_errors=True) as kernels,
    ):
        try:
            with _reading, suppress(Exception):  # a launch reads its kernel too, to name it
                work()
            for _ in as_completed(kernels.raw_futures):
                compilers.tell()
        except BaseException:
            # What is being compiled ends, and is kept on disk; Triton would wait for the rest, which never does.
            compilers.shutdown(wait=False, cancel_futures=True)
            kernels.raw_futures.clear()
            raise


class _Compilers(ThreadPoolExecutor):
    """Threads that compile, and whether one has: what is on disk is read."""

    def __init__(self) -> None:
        super().__init__(torch.get_num_threads(), thread_name_prefix="kodkod-compiler")
        self._compiled = threading.Event()

    def submit(self, compile_one: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        return super().submit(self._compile, compile_one, *args, **options)

    def _compile(self, compile_one: Callable[..., Any], *args: Any, **options: Any) -> Any:
        with telling(self._compiled.set):
            kernel = compile_one(*args, **options)
        driver.active.launcher_cls(kernel.src, kernel.metadata)  # what starts it is compiled too, and kept on disk
        return kernel

    def tell(self) -> None:
        """Whoever waits for this thread."""
        if self._compiled.is_set():
            kernel_compiled()


@contextmanager
def _launching_nothing() -> Iterator[None]:
    """What this thread launches is compiled alone; other threads launch as ever."""
    launch, read = JITFunction.run, ASTSource.make_ir

    def compile_only(kernel: Any, *args: Any, **options: Any) -> Any:
        return launch(kernel, *args, **options | ({"warmup": True} if is_rehearsal() else {}))

    def read_alone(source: Any, *args: Any, **options: Any) -> Any:
        with _reading:
            return read(source, *args, **options)

    token = _rehearses.set(True)
    JITFunction.run, ASTSource.make_ir = compile_only, read_alone
    try:
        yield
    finally:
        JITFunction.run, ASTSource.make_ir = launch, read
        _rehearses.reset(token)
