"""The launcher's main line: build the box, watch it, end it when told to or when it takes too much, report."""

# Importing pathlib would cost every command some milliseconds, so the launcher goes without.
# ruff: noqa: PTH123

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from typing import NamedTuple

from kodkod_sandbox.launcher import kernel, tree
from kodkod_sandbox.launcher.builders import BUILDERS, Started, exit_code
from kodkod_sandbox.launcher.cgroup import Cgroup
from kodkod_sandbox.launcher.spec import LaunchSpec, Report
from kodkod_sandbox.launcher.watch import TICK_S, Verdict, Watch

_CANCELLED = Verdict("")


class _End(NamedTuple):
    """How the child ended: its wait status, or why it was not waited for."""

    status: int | None
    verdict: Verdict | None = None


def main(control_fd: int) -> None:
    """Serve one command over the control socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is kodkod's to understand
    os.umask(0o022)  # the box's user must come into what is made for the box
    with socket.socket(fileno=control_fd) as control:
        control.set_inheritable(False)
        with control.makefile("rb") as lines:
            line = lines.readline()
        if not line:
            return  # called off before it began
        spec = LaunchSpec.from_json(line)
        try:
            report = supervise(control, spec)
        except OSError as fault:
            report = Report(fault=str(fault))
        with contextlib.suppress(BrokenPipeError):  # kodkod is gone, and so is the box: nobody is left to tell
            control.sendall(report.to_json())


def supervise(control: socket.socket, spec: LaunchSpec) -> Report:
    """Run one box to its end.

    Raises:
        OSError: the box could not be built.
    """
    kernel.adopt_orphans()
    group = None if spec.kind == "none" else Cgroup.create(spec)
    try:
        watch = Watch(spec)
        started = BUILDERS[spec.kind](spec, group)
        _let_go_of_output()
        end = _wait(control, started, watch)
        tree.end_all()
        return _report(started, end, group)
    finally:
        tree.end_all()
        if group:
            group.close()


def _let_go_of_output() -> None:
    """The command's pipes end with the command, not with this process."""
    with open(os.devnull, "r+b") as null:
        for fd in range(3):
            os.dup2(null.fileno(), fd)


def _wait(control: socket.socket, started: Started, watch: Watch) -> _End:
    poller = select.poll()
    poller.register(control, select.POLLIN | select.POLLHUP)
    child = os.pidfd_open(started.pid)
    poller.register(child, select.POLLIN)
    try:
        while True:
            ready = {fd for fd, _ in poller.poll(TICK_S * 1000)}
            if (status := tree.reap().get(started.pid)) is not None:
                return _End(status)
            if control.fileno() in ready:
                return _End(None, _CANCELLED)
            if verdict := watch.look():
                return _End(None, verdict)
    finally:
        os.close(child)


def _report(started: Started, end: _End, group: Cgroup | None) -> Report:
    starved = group is not None and group.ran_out_of_memory()
    if end.status is None:
        verdict = end.verdict or _CANCELLED
        for fd in (started.faults_fd, started.status_fd):
            if fd is not None:
                os.close(fd)
        return Report(killed=True, out_of_memory=starved or verdict.out_of_memory, stopped=verdict.reason)
    if (fault := started.fault()) and not starved:
        return Report(fault=fault)
    return Report(exit_code(end.status), out_of_memory=starved)
