"""Compiling is heard of where a kernel is on no disk, by the thread that waits for it, and nowhere else."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from kodkod_engine.kernels.first_use import telling

KERNEL = "from numba import njit\n\n\n@njit(cache=True)\ndef double(value):\n    return 2 * value\n"
TRITON_KERNEL = """
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from kodkod_engine.kernels.first_use import listen_to_triton, telling

@triton.jit
def one(place):
    tl.store(place, 1)

listen_to_triton()
for _ in range(2):
    with telling(lambda: print("told")):
        triton.compile(ASTSource(one, {"place": "*fp32"}), target=GPUTarget("cuda", 90, 32))
    print("compiled")
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[[], ModuleType]:
    """A module with a kernel, loaded anew at each call; what it compiles is kept beside it."""
    path = tmp_path / "a_kernel.py"
    path.write_text(KERNEL, encoding="utf-8")

    def anew() -> ModuleType:
        spec = importlib.util.spec_from_file_location("a_kernel", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return anew


def test_a_kernel_that_is_compiled_is_told_and_one_from_disk_is_not(load):
    told: list[int] = []
    module = load()
    with telling(lambda: told.append(1)):
        assert module.double(2) == 4
        assert told == [1]
        assert module.double(2.5) == 5
        assert told == [1], "once"
    again = load()
    with telling(lambda: told.append(2)):
        assert (again.double(2), again.double(2.5)) == (4, 5)
    assert told == [1]


def test_what_another_thread_compiles_is_not_waited_for(load):
    told: list[int] = []
    with telling(lambda: told.append(1)):
        other = threading.Thread(target=load().double, args=(2,))
        other.start()
        other.join()
    assert told == []


def test_nobody_is_told_afterwards(load):
    told: list[int] = []
    with telling(lambda: told.append(1)):
        pass
    assert load().double(2) == 4
    assert told == []


def test_kernels_of_triton_are_told_too(tmp_path):
    pytest.importorskip("triton")
    script = tmp_path / "compile.py"
    script.write_text(TRITON_KERNEL, encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    own = {"TRITON_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, str(script)], env=kept | own, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["told", "compiled", "compiled"], done.stderr[-3000:]
