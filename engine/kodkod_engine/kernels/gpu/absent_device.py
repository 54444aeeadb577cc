"""Compiling kernels for a CUDA device where there is none: what the compiler refuses is found before a device is.

Triton's interpreter runs what its compiler would not take, and says nothing of registers and shared memory.
"""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.errors import OutOfResources
from triton.runtime.jit import JITFunction

WARP = 32
LIMITS = {"multiprocessor_count": 132, "max_num_regs": 65_536, "warpSize": WARP}
"""Of an H100 or H200, in numbers."""

SHARED_BYTES = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
"""What a program may have of shared memory, by compute capability (CUDA C++ Programming Guide, technical
specifications); 86, 89 and 120 are consumer cards."""

LABEL = re.compile(r"\s*(\.L_x_\d+):")
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+\S")
BRANCH = re.compile(r"\bBRA\b.*`\((\.L_x_\d+)\)")
"""As `nvdisasm` writes them."""

TOOLS = Path(triton.backends.nvidia.__file__).parent / "bin"


@dataclass(frozen=True)
class Program:
    """A kernel as one launch had it compiled."""

    module: str
    name: str
    count: int
    """Of the launch's grid."""
    warps: int
    shared_bytes: int
    binary: bytes

    def issued(self, turns: int = 1) -> int:
        """Instructions of all threads of all programs, a loop's as often as it turns."""
        total, looped = self._counted
        return (total + (turns - 1) * looped) * self.warps * WARP * self.count

    @cached_property
    def _counted(self) -> tuple[int, int]:
        """Instructions, and those between a label and a branch back to it."""
        labels, total, looped = dict[str, int](), 0, 0
        for line in self._tool("nvdisasm", "-c").splitlines():
            if label := LABEL.match(line):
                labels[label[1]] = total
            elif INSTRUCTION.search(line):
                total += 1
                branch = BRANCH.search(line)
                start = labels.get(branch[1], total) if branch else total
                looped += total - start if total - start > 1 else 0  # a program ends with a branch to itself
        return total, looped

    @cached_property
    def registers(self) -> int:
        """Of a thread."""
        return self._usage[0]

    @cached_property
    def spilled_bytes(self) -> int:
        """Of a thread: what found no room in registers."""
        return self._usage[1]

    @cached_property
    def _usage(self) -> tuple[int, int]:
        found = re.findall(r"REG:(\d+) STACK:(\d+)", self._tool("cuobjdump", "-res-usage"))[-1]
        return int(found[0]), int(found[1])

    def _tool(self, name: str, option: str) -> str:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.binary)
            file.flush()
            done = subprocess.run([TOOLS / name, option, file.name], capture_output=True, text=True, check=True)
        return done.stdout + done.stderr


@contextmanager
def compiling(capability: int = 90) -> Iterator[list[Program]]:
    """Inside, launches compile their kernels for a compute capability (90 is 9.0), and run nothing.

    Tensors may lie anywhere and are not read. Kernels must have been defined without Triton's interpreter. As on a
    device, one that wants more shared memory than there is raises `OutOfResources`.
    """
    programs: list[Program] = []
    compiled = JITFunction.run

    def compile_only(kernel: Any, *args: Any, grid: Any, **options: Any) -> Any:
        done = compiled(kernel, *args, grid=grid, **options | {"warmup": True})
        facts, module = done.metadata, kernel.__module__.rpartition(".")[2]
        if facts.shared > SHARED_BYTES[capability]:
            raise OutOfResources(facts.shared, SHARED_BYTES[capability], "shared memory")
        one = Program(module, kernel.__name__, math.prod(grid), facts.num_warps, facts.shared, done.asm["cubin"])
        programs.append(one)
        return done

    with acting(capability):
        JITFunction.run = compile_only  # for a while
        try:
            yield programs
        finally:
            JITFunction.run = compiled


@contextmanager
def acting(capability: int = 90) -> Iterator[None]:
    """Inside, Triton takes such a device for its own; a launch would fail."""
    before = driver._active
    driver.set_active(_Absent(capability))
    try:
        yield
    finally:
        driver._active = before


class _Absent:
    """As much of a driver as compiling asks for."""

    launcher_cls = staticmethod(lambda *_args: None)

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, WARP)
        limits = LIMITS | {"max_shared_mem": SHARED_BYTES[capability]}
        self.utils = SimpleNamespace(
            get_device_properties=lambda _device: limits, load_binary=lambda *_args: (1, 2, 0, 0, 1024)
        )

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")
