"""How each kind of box is started around one command. Every function forks once and gives back the child.

Children report a fault of the box on a pipe that closes by itself when the command starts.
"""

# Importing pathlib would cost every command some milliseconds, so the launcher goes without.
# ruff: noqa: PTH114, PTH115

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from kodkod_sandbox.launcher import command, filesystem, kernel, namespaces
from kodkod_sandbox.launcher.cgroup import Cgroup
from kodkod_sandbox.launcher.spec import Identity, LaunchSpec

_OWN_PROCESSES = 4


class Started(NamedTuple):
    """A box that was started."""

    pid: int
    faults_fd: int
    """Read end: nothing, or why the box could not be built."""
    status_fd: int | None = None
    """Read end of bubblewrap's own account, which tells a failure of the command from one of bubblewrap."""

    def fault(self) -> str:
        """Why the box could not be built; empty when it could. Call once, after the child ended."""
        with os.fdopen(self.faults_fd, "rb") as pipe:
            fault = pipe.read().decode(errors="replace")
        if self.status_fd is not None:
            with os.fdopen(self.status_fd, "rb") as pipe:
                if b'"exit-code"' not in pipe.read() and not fault:
                    fault = "bubblewrap could not build the box"
        return fault


Builder = Callable[[LaunchSpec, Cgroup | None], Started]


def _fork(group: Cgroup | None, become: Callable[[], None]) -> Started:
    """Fork a child that joins the group and runs `become`, which must not return."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            kernel.die_with_parent(signal.SIGKILL)
            if group:
                group.join()
            become()
        except BaseException as fault:  # noqa: BLE001 - this process ends here, and its parent must learn why
            os.write(write_end, str(fault).encode())
        finally:
            os._exit(70)
    os.close(write_end)
    return Started(pid, read_end)


def start_none(spec: LaunchSpec, group: Cgroup | None) -> Started:
    """No isolation: limits only."""
    return _fork(group, lambda: _run_on_host(spec, group, locked=False))


def start_bare(spec: LaunchSpec, group: Cgroup | None) -> Started:
    """Landlock and the socket filter on the host's own file system; no namespaces."""
    return _fork(group, lambda: _run_on_host(spec, group, locked=True))


def _run_on_host(spec: LaunchSpec, group: Cgroup | None, *, locked: bool) -> NoReturn:
    # The limit counts all of a user's processes, so those that run already are added to the allowance.
    pids = command.threads_of_user(spec.identity.host_uid) + spec.pids + _OWN_PROCESSES
    command.set_limits(command.limits(spec, pids=pids, memory=group is None))
    command.choose_processors(spec.cpus)
    if locked:
        command.become_user(spec.identity)
        kernel.leave_keyring()
        command.lock(command.host_rules(spec), deny_sockets=not spec.network)
        kernel.drop_capabilities()
    command.run(spec)


def start_user(spec: LaunchSpec, group: Cgroup | None) -> Started:
    """Landlock in user, pid, mount, network and ipc namespaces, made without being root."""
    namespaces.enter_user_namespace(spec.identity.uid, spec.identity.gid)
    namespaces.forbid_user_namespaces()
    namespaces.leave_host(network=spec.network)
    return _fork(group, lambda: _be_init(spec, group, lambda: None))


def start_root(spec: LaunchSpec, group: Cgroup | None) -> Started:
    """As `start_user`, made by root: the command runs as another user, and the tree's owner is translated to it."""
    namespaces.leave_host(network=spec.network)

    def leave_root() -> None:
        command.become_user(spec.identity)
        kernel.show_memory()  # hidden by the change of user, and the map files of a hidden process are root's
        namespaces.enter_user_namespace(spec.identity.uid, spec.identity.gid)
        namespaces.forbid_user_namespaces()

    return _fork(group, lambda: _be_init(spec, group, leave_root))


def _be_init(spec: LaunchSpec, group: Cgroup | None, leave_root: Callable[[], None]) -> NoReturn:
    """Process 1 of the box: when it ends, the kernel ends every other process of the box."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    kernel.unshare(kernel.CLONE_NEWNS)
    filesystem.enter(spec)
    kernel.hide_memory()
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            leave_root()
            kernel.leave_keyring()
            command.set_limits(command.limits(spec, pids=spec.pids + _OWN_PROCESSES, memory=group is None))
            command.choose_processors(spec.cpus)
            kernel.drop_capabilities()
            command.lock(command.own_rules(spec), deny_sockets=False)
            command.run(spec)
        except BaseException as fault:  # noqa: BLE001 - this process ends here, and its parent must learn why
            os.write(write_end, str(fault).encode())
        finally:
            os._exit(70)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as faults:
        words = faults.read()
    if words:
        raise OSError(words.decode(errors="replace"))
    while True:
        ended, status = os.wait()
        if ended == pid:
            os._exit(exit_code(status))


def start_bubblewrap(spec: LaunchSpec, group: Cgroup | None) -> Started:
    """The bwrap program builds the box; limits are set from outside before it goes on."""
    info, block, status = os.pipe(), os.pipe(), os.pipe()
    for fd in (info[1], block[0], status[1]):
        os.set_inheritable(fd, True)

    def become() -> NoReturn:
        sources = _stage(spec) if spec.identity.is_translated else {}
        arguments = os.memfd_create("arguments", 0)
        os.write(arguments, "\0".join(bubblewrap_arguments(spec, sources)).encode())
        os.lseek(arguments, 0, os.SEEK_SET)
        fds = [f"{option}={fd}" for option, fd in (("info", info[1]), ("block", block[0]), ("json-status", status[1]))]
        options = [part for pair in fds for part in (f"--{pair.split('=')[0]}-fd", pair.split("=")[1])]
        command.become_user(spec.identity)
        kernel.leave_keyring()
        command.choose_processors(spec.cpus)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.umask(0o022)
        # No variable of the command's reaches bwrap itself: a library it names would be loaded outside the box.
        os.execve(_bwrap(), ["bwrap", *options, "--args", str(arguments), *spec.argv], {})

    started = _fork(group, become)
    for fd in (info[1], block[0], status[1]):
        os.close(fd)
    with os.fdopen(info[0], "rb") as pipe:
        account = pipe.read()
    if account:
        table = command.limits(spec, pids=spec.pids + _OWN_PROCESSES, memory=group is None)
        _limit_as(spec.identity, table, json.loads(account)["child-pid"])
    os.write(block[1], b".")
    os.close(block[1])
    return Started(started.pid, started.faults_fd, status[0])


def _limit_as(who: Identity, table: dict[int, int], pid: int) -> None:
    """Set another process's limits as its own user: root in a container need not have the right to."""
    helper = os.fork()
    if helper == 0:
        try:
            command.become_user(who)
            command.set_limits(table, pid)
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(helper, 0)[1] != 0:
        raise OSError("the limits of the box cannot be set")


def _bwrap() -> str:
    for folder in ("/usr/bin", "/usr/local/bin", "/bin"):
        if os.access(f"{folder}/bwrap", os.X_OK):
            return f"{folder}/bwrap"
    raise OSError("bwrap is not installed: install the package bubblewrap")


def _stage(spec: LaunchSpec) -> dict[str, str]:
    """Mount the tree with its owner translated where the box's user can reach it; where, by path."""
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    translation = filesystem.owner_translation(spec.identity, "/proc")
    sources = {}
    for number, (path, _) in enumerate(filesystem.shown_paths(spec)):
        sources[path] = f"{spec.scratch}/stage/{number}"
        filesystem.prepare(path, sources[path])
        kernel.bind(path, sources[path], 0, translation)
    return sources


def bubblewrap_arguments(spec: LaunchSpec, sources: dict[str, str]) -> list[str]:
    """The options that make bubblewrap's box the one of `filesystem`."""
    options = ["--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"]
    options += ["--share-net"] if spec.network else []
    options += ["--uid", str(spec.identity.uid), "--gid", str(spec.identity.gid), "--hostname", "kodkod", "--clearenv"]
    options += ["--cap-drop", "ALL"]
    for path in filesystem.system_folders():
        target = os.readlink(path) if os.path.islink(path) else ""
        options += ["--symlink", target, path] if target else ["--ro-bind", path, path]
    for path in filesystem.settings(spec.network):
        options += ["--ro-bind", path, path]
    options += _written_settings(spec)
    options += ["--proc", "/proc", "--dev", "/dev"]
    options += ["--size", str(filesystem.shared_memory_bytes(spec)), "--tmpfs", "/dev/shm"]
    options += ["--bind", f"{spec.scratch}/tmp", "/tmp", "--bind", f"{spec.scratch}/home", spec.home]
    options += ["--dir", "/run", "--symlink", "/tmp", "/var/tmp"]
    for path, writable in filesystem.shown_paths(spec):
        options += ["--bind" if writable else "--ro-bind", sources.get(path, path), path]
    options += ["--remount-ro", "/", "--chdir", spec.cwd]
    for name, value in spec.env.items():
        options += ["--setenv", name, value]
    return options


def _written_settings(spec: LaunchSpec) -> list[str]:
    options = []
    for path, text in filesystem.written_settings(spec.identity, spec.home).items():
        content = os.memfd_create(path, 0)
        os.write(content, text.encode())
        os.lseek(content, 0, os.SEEK_SET)
        options += ["--perms", "0644", "--ro-bind-data", str(content), path]
    return options


def exit_code(status: int) -> int:
    """The exit code of a wait status: the program's own, or 128 and the signal's number."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


BUILDERS: dict[str, Builder] = {
    "none": start_none,
    "bare": start_bare,
    "user": start_user,
    "root": start_root,
    "bubblewrap": start_bubblewrap,
}
