"""The system calls Python has no word for. Each raises OSError with the call's name; none keeps state."""

from __future__ import annotations

import ctypes
import errno
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_IDMAP = 0x00100000

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4

_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_MOUNT_SETATTR = 442

_SYS_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219}
_KEYCTL_JOIN_SESSION_KEYRING = 1

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def syscall(number: int, name: str, *args: object) -> int:
    """Any system call by number; the generic table's numbers above 423 are the same on every architecture."""
    return _checked(_libc.syscall(ctypes.c_long(number), *args), name)


def _checked(result: int, name: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def unshare(flags: int) -> None:
    """Leave the named namespaces for new ones."""
    _checked(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    _checked(
        _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()),
        f"mount on {target}",
    )


def unmount(target: str) -> None:
    """Detach what is mounted there, now or when its last user ends."""
    _checked(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def enter_root(new_root: str) -> None:
    """Make a mount the root of this mount namespace, and let go of the old one."""
    os.chdir(new_root)
    _checked(_libc.pivot_root(b".", b"."), "pivot_root")
    unmount(".")
    os.chdir("/")


def set_mount_attributes(fd: int, path: str, attributes: int, userns_fd: int = 0, recursive: bool = True) -> None:
    """mount_setattr(2): add attributes to a mount, by path or (with an empty path) by descriptor."""
    attr = _MountAttr(attributes, 0, 0, userns_fd)
    flags = (_AT_RECURSIVE if recursive else 0) | (0 if path else _AT_EMPTY_PATH)
    size = ctypes.c_size_t(ctypes.sizeof(attr))
    syscall(_SYS_MOUNT_SETATTR, f"mount_setattr {path}", fd, path.encode(), flags, ctypes.byref(attr), size)


def clone_mount(path: str) -> int:
    """A detached copy of what is seen at `path`, with all that is mounted below it. The caller closes it."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_RECURSIVE
    return syscall(_SYS_OPEN_TREE, f"open_tree {path}", _AT_FDCWD, path.encode(), flags)


def attach_mount(fd: int, target: str) -> None:
    """Put a detached mount at `target`."""
    syscall(_SYS_MOVE_MOUNT, f"move_mount {target}", fd, b"", _AT_FDCWD, target.encode(), _MOVE_MOUNT_F_EMPTY_PATH)


def bind(source: str, target: str, attributes: int, userns_fd: int = 0) -> None:
    """Show `source` at `target` too, with attributes that reach all that is mounted below."""
    fd = clone_mount(source)
    try:
        if userns_fd:
            attributes |= MOUNT_ATTR_IDMAP
        set_mount_attributes(fd, "", attributes, userns_fd)
        attach_mount(fd, target)
    finally:
        os.close(fd)


def _prctl(name: str, option: int, *args: object) -> None:
    padded = [*args, *[ctypes.c_ulong(0)] * (4 - len(args))]
    _checked(_libc.prctl(option, *padded), name)


def die_with_parent(signal: int) -> None:
    """Have the kernel send `signal` when the parent ends."""
    _prctl("PR_SET_PDEATHSIG", _PR_SET_PDEATHSIG, ctypes.c_ulong(signal))


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends."""
    _prctl("PR_SET_CHILD_SUBREAPER", _PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))


def hide_memory() -> None:
    """Refuse to be traced or read through /proc by processes of the same user."""
    _prctl("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, ctypes.c_ulong(0))


def show_memory() -> None:
    """Undo `hide_memory`, or what a change of user did."""
    _prctl("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, ctypes.c_ulong(1))


def forbid_new_privileges() -> None:
    """Set-user-id programs and file capabilities give nothing from here on."""
    _prctl("PR_SET_NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1))


def leave_keyring() -> None:
    """Hold no keys of the person's session: tickets and pass phrases are kept there, and children inherit them."""
    number = _SYS_KEYCTL.get(os.uname().machine)
    if number is None:
        return
    try:
        syscall(number, "keyctl", _KEYCTL_JOIN_SESSION_KEYRING, None)
    except OSError as fault:
        if fault.errno != errno.ENOSYS:  # a kernel without keys has none to lose
            raise


def install_filter(instructions: bytes) -> None:
    """Install a classic BPF program over system calls (eight bytes an instruction)."""
    program = _FilterProgram(len(instructions) // 8, instructions)
    _prctl("PR_SET_SECCOMP", _PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(program))


def drop_capabilities() -> None:
    """Empty every capability set, the bounding set first while that is still allowed."""
    for capability in range(_LAST_CAPABILITY + 1):
        if _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), *[ctypes.c_ulong(0)] * 3) < 0:
            break  # past the kernel's last one, or not ours to drop
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())), "capset")
