"""What a rehearsal compiles and leaves alone, with a compiler that only counts; a real one: `test_compiling`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import triton.compiler
import triton.language as tl
from triton import knobs
from triton.compiler import ASTSource
from triton.errors import TritonError
from triton.runtime.jit import JITFunction

from kodkod_engine.kernels.first_use import listen_to_triton, telling
from kodkod_engine.kernels.gpu import absent_device, rehearsal
from kodkod_engine.kernels.gpu.absent_device import acting
from kodkod_engine.kernels.gpu.rehearsal import is_rehearsal, rehearse
from kodkod_engine.kernels.gpu.tuning import Tuner

WAIT_S = 30.0
X = torch.zeros(16)


def _store(place, value: tl.constexpr):
    tl.store(place, value)


class Compiler:
    """Compiles a kernel by its constant: what was compiled, launched, and made ready to be launched."""

    def __init__(self) -> None:
        self.compiled: list[int] = []
        self.launched: list[int] = []
        self.ready: list[int] = []
        self.on_disk: set[int] = set()
        self.before: Callable[[int], object] = lambda _value: None

    def compile(self, src: Any, **_: Any) -> Any:
        (value,) = src.constants.values()
        is_known = value in self.on_disk
        if not is_known:
            src.make_ir()
            self.before(value)
            self.compiled.append(value)
        knobs.compilation.listener(cache_hit=is_known)

        def run(*_: Any) -> None:
            self.launched.append(value)

        facts = {"src": src, "metadata": value, "function": None, "packed_metadata": None, "run": run}
        return SimpleNamespace(**facts, launch_metadata=lambda *_: None)

    def make_ready(self, _src: object, value: int) -> None:
        self.ready.append(value)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    one = Compiler()
    monkeypatch.setattr(triton.compiler, "compile", one.compile)
    monkeypatch.setattr(ASTSource, "make_ir", lambda _source: None)
    monkeypatch.setattr(absent_device._Absent, "launcher_cls", staticmethod(one.make_ready), raising=False)
    monkeypatch.setattr(knobs.compilation, "listener", None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    listen_to_triton()
    with acting():
        yield one


@pytest.fixture
def launch() -> Callable[[int], object]:
    """Launches the kernel of a constant; kernels are new to each test."""
    kernel: Any = JITFunction(_store)
    return lambda value: kernel[(1,)](X, value=value)


def test_kernels_are_compiled_side_by_side_and_none_is_launched(compiler, launch):
    both_at_once = threading.Barrier(2)
    compiler.before = lambda _value: both_at_once.wait(WAIT_S)
    rehearse(lambda: [launch(1), launch(2), launch(1)])
    assert sorted(compiler.compiled) == sorted(compiler.ready) == [1, 2]
    assert not compiler.launched
    launch(1)
    launch(2)
    assert compiler.launched == [1, 2]
    assert len(compiler.compiled) == 2


def test_sources_are_read_one_at_a_time_and_not_while_work_reads_them(compiler, launch, monkeypatch):
    reading = threading.Lock()

    def read(_source: ASTSource) -> None:
        assert reading.acquire(blocking=False)
        time.sleep(0.01)
        reading.release()

    def work() -> None:
        with reading:
            for value in range(6):
                launch(value)
            time.sleep(0.1)

    monkeypatch.setattr(ASTSource, "make_ir", read)
    rehearse(work)
    assert sorted(compiler.compiled) == list(range(6))


def test_a_kernel_that_was_launched_before_is_not_launched_in_a_rehearsal(compiler, launch):
    launch(1)
    rehearse(lambda: launch(1))
    assert compiler.launched == [1]


def test_what_does_not_compile_is_left_for_its_launch_to_say(compiler, launch):
    def refuse(value: int) -> None:
        if value == 1:
            raise TritonError("not on this device")

    compiler.before = refuse
    rehearse(lambda: [launch(1), launch(2)])
    assert compiler.compiled == [2]
    with pytest.raises(TritonError, match="not on this device"):
        launch(1)


def test_other_threads_launch_as_ever(compiler, launch):
    def beside() -> None:
        other = threading.Thread(target=launch, args=(1,))
        other.start()
        other.join()

    launch(1)
    rehearse(beside)
    assert compiler.launched == [1, 1]


@pytest.mark.parametrize(("fault", "passes_on"), [(RuntimeError, False), (AttributeError, False), (SystemExit, True)])
def test_afterwards_kernels_are_launched_again_whatever_happened(compiler, launch, fault, passes_on):
    def fail() -> None:
        assert is_rehearsal()
        launch(2)
        raise fault("no room")

    with pytest.raises(fault) if passes_on else nullcontext():
        rehearse(fail)
    assert not is_rehearsal()
    launch(1)
    assert compiler.launched == [1]
    assert passes_on or 2 in compiler.compiled, "what it launched before it failed is compiled"


def test_whoever_waits_is_told_once_and_only_of_what_is_on_no_disk(compiler, launch):
    told: list[str] = []
    compiler.on_disk = {1}
    with telling(lambda: told.append(threading.current_thread().name)):
        rehearse(lambda: launch(1))
        assert told == []
        rehearse(lambda: [launch(2), launch(3)])
    assert told == [threading.current_thread().name]


def test_it_is_broken_off_after_the_kernels_that_are_being_compiled(compiler, launch, monkeypatch):
    is_shut = threading.Event()

    def shut(compilers: ThreadPoolExecutor, wait: bool = True, **options: bool) -> None:
        ThreadPoolExecutor.shutdown(compilers, wait=False, **options)
        is_shut.set()
        ThreadPoolExecutor.shutdown(compilers, wait=wait)

    def stop() -> None:
        raise InterruptedError

    monkeypatch.setattr(rehearsal._Compilers, "shutdown", shut)
    compiler.before = lambda value: value == 0 or is_shut.wait(WAIT_S)
    with telling(lambda: None, stop), pytest.raises(InterruptedError):
        rehearse(lambda: [launch(value) for value in range(50)])
    assert sorted(compiler.compiled) == [0, 1, 2]
    assert not [one for one in threading.enumerate() if one.name.startswith("kodkod-compiler")]
    launch(99)
    assert compiler.launched == [99]


# --- choices --------------------------------------------------------------------------------------------------------


@pytest.fixture
def tuner(monkeypatch: pytest.MonkeyPatch) -> Tuner:
    """Of a device by name, on which the second of three ways is the quickest."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr("kodkod_engine.kernels.gpu.tuning._milliseconds", lambda way, *_: abs(way - 2))
    return Tuner(torch.device("cuda"))


def test_a_rehearsal_takes_every_way_and_chooses_none(tuner, compiler, launch):
    def run(way: int) -> torch.Tensor:
        if way == 3:
            raise RuntimeError("no room")
        launch(way)
        return X

    rehearse(lambda: tuner.quickest("shape", (1, 2, 3), run))
    assert sorted(compiler.compiled) == [1, 2]
    assert not tuner.names()
    assert tuner.quickest("shape", (1, 2, 3), run) == 2
    rehearse(lambda: tuner.quickest("shape", (1, 4), run))
    assert sorted(compiler.compiled) == [1, 2]


def test_ways_are_compiled_side_by_side_before_they_are_timed(tuner, compiler, launch):
    both_at_once = threading.Barrier(2)
    compiler.before = lambda _value: both_at_once.wait(WAIT_S)

    def run(way: int) -> torch.Tensor:
        launch(way)
        return X

    assert tuner.quickest("shape", (1, 2), run) == 2
    assert sorted(compiler.compiled) == [1, 2]
