"""What must stay out of a command's reach: the network, the user's files, other processes, more rights."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kodkod_sandbox.launcher import kernel
from kodkod_sandbox.probes.bench import Bench, ProbeList, expect

PROBES = ProbeList()
_LOOPBACK = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    with socket.create_connection(server.getsockname(), timeout=5) as client:
        server.accept()[0].sendall(b"hello")
        print(client.recv(5).decode())
"""
_CONNECT = """
import socket, sys
family, address = getattr(socket, sys.argv[1]), sys.argv[2]
where = (address, int(sys.argv[3])) if family == socket.AF_INET else address.replace("@", chr(0), 1)
with socket.socket(family, socket.SOCK_STREAM) as s:
    s.settimeout(3)
    s.connect(where)
    s.sendall(b"leak")
"""
_SEND = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    for address in sys.argv[2:]:
        try:
            s.sendto(b"leak", (address, int(sys.argv[1])))
        except OSError:
            pass
"""
_RESOLVE = """
import socket
print(socket.getaddrinfo("example.com", 80))
"""
_TRACE = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
reached = []
for pid in map(int, sys.argv[1:]):
    if libc.ptrace(0x4206, pid, None, None) == 0:  # PTRACE_SEIZE: stops nobody
        reached.append(("traced", pid))
    for name in ("mem", "environ"):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as f:
                f.read(0 if name == "mem" else 1)
                reached.append((name, pid))
        except OSError:
            pass
print(reached)
sys.exit(1 if reached else 0)
"""
_FIND_KEY = """
import ctypes, os, sys
keyctl = {"x86_64": 250}.get(os.uname().machine, 219)
libc = ctypes.CDLL(None, use_errno=True)
for ring in (-3, -4, -5):  # of the session, of the user, of the user's sessions
    libc.syscall(keyctl, 8, ring, -3)  # KEYCTL_LINK: what is linked into one's own session may be read
    if libc.syscall(keyctl, 10, ring, b"user", sys.argv[1].encode(), 0) > 0:  # KEYCTL_SEARCH
        sys.exit(f"found in {ring}")
"""


@PROBES.add
async def loopback_works(bench: Bench) -> None:
    """Programs can talk to themselves over 127.0.0.1, as many test suites do."""
    result = await bench.python(_LOOPBACK)
    expect(result.stdout == b"hello\n", result)


@PROBES.add
async def no_tcp(bench: Bench) -> None:
    """A service of the machine cannot be reached over TCP, by any of its addresses."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        server.settimeout(0.2)
        for address in _own_addresses():
            result = await bench.python(_CONNECT, "AF_INET", address, server.getsockname()[1])
            expect(result.exit_code != 0, f"connected to {address}")
        try:
            server.accept()[0].close()
        except TimeoutError:
            return
    expect(False, "a connection arrived")


@PROBES.add
async def no_udp(bench: Bench) -> None:
    """Nothing arrives over UDP either."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", 0))
        server.settimeout(0.2)
        await bench.python(_SEND, server.getsockname()[1], *_own_addresses())
        try:
            server.recv(16)
        except TimeoutError:
            return
    expect(False, "a datagram arrived")


@PROBES.add
async def no_dns(bench: Bench) -> None:
    """Names of the internet do not resolve."""
    result = await bench.python(_RESOLVE, timeout_s=15)
    expect(result.exit_code != 0, result)


@PROBES.add
async def no_abstract_socket(bench: Bench) -> None:
    """An abstract Unix socket of the machine cannot be reached."""
    name = f"kodkod-probe-{secrets.token_hex(4)}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{name}")
        server.listen()
        result = await bench.python(_CONNECT, "AF_UNIX", f"@{name}", 0)
    expect(result.exit_code != 0, "connected")


@PROBES.add
async def no_socket_file(bench: Bench) -> None:
    """A socket file outside the tree, such as Docker's or the session bus's, cannot be reached."""
    path = bench.outside / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        path.chmod(0o777)
        result = await bench.python(_CONNECT, "AF_UNIX", path, 0)
    path.unlink()
    expect(result.exit_code != 0, "connected")


@PROBES.add
async def no_docker_socket(bench: Bench) -> None:
    """The Docker daemon cannot be reached, where there is one: it would be a way to become root."""
    named = os.environ.get("DOCKER_HOST", "").removeprefix("unix://")
    for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/podman/podman.sock", named):
        if path.startswith("/") and Path(path).exists() and bench.target != "none":
            result = await bench.python(_CONNECT, "AF_UNIX", path, 0)
            expect(result.exit_code != 0, f"connected to {path}")


@PROBES.add
async def no_write_outside(bench: Bench) -> None:
    """Outside the tree and the scratch space nothing can be written, made, renamed, linked or removed."""
    mark = f"kodkod-probe-{secrets.token_hex(4)}"
    places = [bench.outside, bench.folder, Path.home(), Path("/etc"), Path("/usr"), Path("/var"), Path("/")]
    places = places[:2] if bench.target == "none" else places
    for place in places:
        await bench.sh(f"echo x >'{place}/{mark}'; mkdir '{place}/{mark}.d'; ln -s / '{place}/{mark}.l'")
        found = [name for name in (mark, f"{mark}.d", f"{mark}.l") if os.path.lexists(place / name)]
        for name in found:
            (place / name).rmdir() if name.endswith(".d") else (place / name).unlink()
        expect(not found, f"made {found} in {place}")
    await bench.sh(f"echo x >'{bench.secret}'; truncate -s 0 '{bench.secret}'; rm -rf '{bench.outside}'")
    bench.expect_untouched("by its path")


@PROBES.add
async def no_read_outside(bench: Bench) -> None:
    """A file beside the tree cannot be read, copied or linked to."""
    for text in ("cat '{}'", "cp '{}' copy && cat copy", "ln '{}' hard && cat hard"):
        await bench.expect_refused(text.format(bench.secret))


@PROBES.add
async def no_read_home(bench: Bench) -> None:
    """The user's home folder shows nothing but the way to what the box was given."""
    home = Path.home()
    if not home.is_dir():
        return
    given = [bench.tree, *bench.options.read_only_paths]
    ways = {path.relative_to(home).parts[0] for path in given if path.is_relative_to(home)}
    result = await bench.box.exec(["find", str(home), "-mindepth", "1", "-maxdepth", "1", "-printf", "%f\\n"])
    seen = set(result.stdout.decode().split("\n")) - {""} - ways
    expect(not seen & {path.name for path in home.iterdir()}, f"seen in {home}: {sorted(seen)[:5]}")


@PROBES.add
async def no_symlink_read(bench: Bench) -> None:
    """A symbolic link in the tree to something outside leads nowhere."""
    link = bench.tree / "link"
    link.symlink_to(bench.secret)
    try:
        await bench.expect_refused("cat link")
    finally:
        link.unlink()


@PROBES.add
async def no_symlink_write(bench: Bench) -> None:
    """Writing through a link in the tree does not reach outside."""
    await bench.sh(f"ln -sf '{bench.secret}' link; echo x >link; ln -sfn '{bench.outside}' folder; echo x >folder/made")
    bench.expect_untouched("through a link")
    made = bench.outside / "made"
    if made.exists():
        made.unlink()
        expect(False, "a file was made outside through a link")


@PROBES.add
async def no_parent_paths(bench: Bench) -> None:
    """`..` does not lead out of the tree."""
    await bench.expect_refused("cat ../outside/secret")
    await bench.sh("cd .. && echo x >outside/secret")
    bench.expect_untouched("through ..")


@PROBES.add
async def no_root_links(bench: Bench) -> None:
    """/proc/PID/root and /proc/PID/cwd do not lead out either."""
    await bench.expect_refused(f"cat /proc/*/root'{bench.secret}' /proc/*/cwd/../outside/secret 2>/dev/null")


@PROBES.add
async def no_foreign_processes(bench: Bench) -> None:
    """Processes outside the box are not to be seen."""
    bench.foreign_process()
    result = await bench.sh("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '")
    expect(b"98.7654" not in result.stdout, "a process of the machine is listed")


@PROBES.add
async def no_foreign_signals(bench: Bench) -> None:
    """Processes outside the box cannot be signalled."""
    await bench.sh(f"kill -9 {bench.foreign_process()}")
    expect(bench.foreign_process_lives(), "a process of the machine was killed")


@PROBES.add
async def no_ptrace(bench: Bench) -> None:
    """Processes outside the box cannot be traced, nor their memory or environment be read."""
    # The user's numbers mean nobody inside a box with processes of its own: nothing there has them.
    result = await bench.python(_TRACE, bench.foreign_process(), os.getpid())
    expect(result.exit_code == 0, result)


@contextmanager
def _key() -> Iterator[str]:
    """A key of the user's, in a session of its own; none where the kernel has none."""
    name = f"kodkod-{secrets.token_hex(4)}"
    add_key, keyctl = (248, 250) if os.uname().machine == "x86_64" else (217, 219)
    kernel.leave_keyring()
    keys: dict[int, int] = {}
    with suppress(OSError):
        for ring in (-3, -4):  # of the session, of the user
            keys[ring] = kernel.syscall(add_key, "add_key", b"user", name.encode(), b"secret", 6, ring)
    try:
        yield name
    finally:
        for ring, key in keys.items():
            kernel.syscall(keyctl, "keyctl", 9, key, ring)  # KEYCTL_UNLINK


@PROBES.add
async def no_keys(bench: Bench) -> None:
    """Keys that the kernel holds for the user's session cannot be found."""
    with _key() as name:
        result = await bench.python(_FIND_KEY, name)
    expect(result.exit_code == 0, result)


@PROBES.add
async def is_not_root(bench: Bench) -> None:
    """Commands are not root, not even in name, and have no capabilities."""
    result = await bench.sh("id -u; grep CapEff /proc/self/status | tr -d '[:space:]'")
    uid, capabilities = result.stdout.decode().split()
    expect(uid != "0", "commands run as root")
    expect(int(capabilities.partition(":")[2], 16) == 0, capabilities)


@PROBES.add
async def no_new_privileges(bench: Bench) -> None:
    """A set-user-id program gives its caller nothing."""
    text = 'grep NoNewPrivs /proc/self/status; cp "$(command -v id)" sid; chmod 6755 sid; ./sid -u; id -u; rm -f sid'
    result = await bench.sh(text)
    words = result.stdout.decode().split()
    expect(words[:2] == ["NoNewPrivs:", "1"], words)
    expect(words[2] == words[3], words)


@PROBES.add
async def no_mounting(bench: Bench) -> None:
    """Nothing can be mounted, not in a new user namespace either."""
    target = bench.outside if bench.target == "none" else bench.tree
    script = f"mount -t tmpfs none '{target}' && touch '{target}/mounted' && umount '{target}'"
    result = await bench.box.exec(["sh", "-c", f'unshare -m sh -c "{script}" || unshare -Urm sh -c "{script}"'])
    expect(result.exit_code != 0, result)


def _own_addresses() -> list[str]:
    """By which a service of this machine is reached from itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: asks the routing table for our own address
        except OSError:
            return ["127.0.0.1"]
        return ["127.0.0.1", probe.getsockname()[0]]
