"""The sandbox contract: a box that runs commands on one work tree.

What is a *result* and what is a *fault* is the heart of it:

- A command that exits with any code, is killed by a signal, runs out of memory, is not found, or runs past its
  time limit is a **result** (`ExecResult`). The model reads it and goes on.
- A box that cannot be built, has vanished, or cannot be spoken to is a **fault** (`errors.SandboxError`). The
  person reads it, and the run ends with exit code 5.

The work tree has the same absolute path inside the box and outside, so that a path in a traceback is the path of
the file. Nothing else of the user's is readable, and nothing outside the work tree and the box's own scratch
space is writable.

A command's processes end with it, background ones too. Scratch space (/tmp or TMPDIR, and the home folder) is the
box's own and lasts as long as the box.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable


class SandboxKind(StrEnum):
    """What `--sandbox` takes."""

    AUTO = "auto"
    DOCKER = "docker"
    BUBBLEWRAP = "bubblewrap"
    LANDLOCK = "landlock"
    NONE = "none"


class Channel(StrEnum):
    """Where a piece of output came from."""

    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one command may use."""

    timeout_s: float = 120.0
    """Wall-clock time; then the whole process tree is killed."""
    max_output_bytes: int = 1_000_000
    """Kept of each of stdout and stderr (head and tail, cut in the middle); the rest is counted and dropped."""
    memory_bytes: int = 4 * 1024**3
    pids: int = 512
    """Processes and threads at one time."""
    file_bytes: int = 2 * 1024**3
    """Largest file a command may write."""
    scratch_bytes: int = 2 * 1024**3
    """Size of the box's own writable space (/tmp and home)."""
    cpus: float = 0.0
    """Processors; 0 takes what the machine has."""


@dataclass(frozen=True, slots=True)
class ExecChunk:
    """A piece of output as it comes."""

    channel: Channel
    data: bytes


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How a command ended."""

    exit_code: int
    """The command's own; 128 + n when signal n ended it; 127 when it was not found; 124 on time-out."""
    stdout: bytes
    stderr: bytes
    stdout_bytes: int
    """Written in all, kept or not."""
    stderr_bytes: int
    duration_s: float
    timed_out: bool = False
    out_of_memory: bool = False
    """The memory limit ended it, where the box can tell."""

    @property
    def truncated(self) -> bool:
        """Whether some output was dropped."""
        return len(self.stdout) < self.stdout_bytes or len(self.stderr) < self.stderr_bytes


@dataclass(frozen=True, slots=True)
class BoxOptions:
    """How to build a box."""

    work_tree: Path
    """Absolute; mounted read-write at the same path."""
    limits: Limits = field(default_factory=Limits)
    network: bool = False
    read_only_paths: tuple[Path, ...] = ()
    """Further paths commands may read and execute from, such as the environment the project's tests run in."""
    env: Mapping[str, str] = field(default_factory=dict)
    """All that commands see, beside PATH, HOME, TMPDIR and LANG, which the box sets. Nothing is inherited."""


@runtime_checkable
class Sandbox(Protocol):
    """One box on one work tree. Used from one asyncio loop; commands may run side by side.

    Raises from every method: `SandboxError` when the box itself fails (see `errors`).
    """

    @property
    def name(self) -> str:
        """`docker`, `bubblewrap`, `landlock` or `none`."""
        ...

    @property
    def options(self) -> BoxOptions:
        """What the box was built from."""
        ...

    @property
    def note(self) -> str:
        """What the person should know of how the box was made; empty when there is nothing."""
        ...

    async def start(self) -> None:
        """Make the box ready. Idempotent."""
        ...

    async def exec(
        self,
        command: Sequence[str] | str,
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        timeout_s: float | None = None,
    ) -> ExecResult:
        """Run one command to its end.

        Args:
            command: an argument vector, or text for `bash -c` (`sh -c` where there is no bash).
            cwd: absolute, inside the work tree; the work tree itself when None.
            env: added to the box's own for this command.
            stdin: fed and closed; None gives an empty standard input.
            timeout_s: overrides the box's limit for this command.
        """
        ...

    def exec_stream(
        self,
        command: Sequence[str] | str,
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[ExecChunk | ExecResult]:
        """As `exec`, with output as it comes; the last item, and only it, is the `ExecResult`.

        Closing the iterator early (`aclose`, or cancelling the task) kills the whole process tree.
        """
        ...

    async def close(self) -> None:
        """Kill what runs and remove the box. Idempotent; also safe when `start` failed."""
        ...
