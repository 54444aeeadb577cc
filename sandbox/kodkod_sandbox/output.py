"""What is kept of a command's output: the head and the tail, in memory that does not grow with what is written."""

from __future__ import annotations

from kodkod_sandbox.base import Channel, ExecChunk, ExecResult

TIMED_OUT = 124
"""The exit code of a command that ran past its time."""
_NOTE_BYTES = 64
"""Room for the line that says how much was cut."""


class BoundedOutput:
    """Keeps at most `max_bytes` of a stream: its first and its last half, and a line between that counts the gap."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._head = bytearray()
        self._tail = bytearray()
        self.total_bytes = 0
        """Written in all, kept or not."""

    def add(self, data: bytes) -> None:
        """Take the next piece."""
        self.total_bytes += len(data)
        room = self._max_bytes - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data[-self._max_bytes :] if self._max_bytes else b""
        if len(self._tail) > 2 * self._max_bytes:  # trimmed in strides: the cost per byte stays constant
            del self._tail[: -self._max_bytes]

    def kept(self) -> bytes:
        """All of it, or head, note and tail: never more than `max_bytes`."""
        if self.total_bytes <= self._max_bytes:
            return bytes(self._head)
        room = self._max_bytes - _NOTE_BYTES
        if room < 2:
            return bytes(self._head)
        head, tail = room // 2, room - room // 2
        last = (bytes(self._head) + bytes(self._tail))[-tail:] if len(self._tail) < tail else bytes(self._tail[-tail:])
        note = f"\n[... {self.total_bytes - room} bytes cut here ...]\n".encode()
        return bytes(self._head[:head]) + note + last


class KeptOutput:
    """Both outputs of one command, and its result when it has ended."""

    def __init__(self, max_bytes: int) -> None:
        self.stdout = BoundedOutput(max_bytes)
        self.stderr = BoundedOutput(max_bytes)

    def add(self, piece: ExecChunk) -> None:
        """Take the next piece."""
        (self.stdout if piece.channel is Channel.STDOUT else self.stderr).add(piece.data)

    def result(self, exit_code: int, duration_s: float, *, timed_out: bool, out_of_memory: bool) -> ExecResult:
        """How the command ended, with what was kept."""
        return ExecResult(
            exit_code=TIMED_OUT if timed_out else exit_code,
            stdout=self.stdout.kept(),
            stderr=self.stderr.kept(),
            stdout_bytes=self.stdout.total_bytes,
            stderr_bytes=self.stderr.total_bytes,
            duration_s=duration_s,
            timed_out=timed_out,
            out_of_memory=out_of_memory,
        )
