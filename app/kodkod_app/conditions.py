"""What a machine says of files for reasons that are not kodkod's, in one line with the way out."""

from __future__ import annotations

import errno
import sys

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""What is written to an open file fails by these, without the file's name."""
_CONDITIONS = (errno.EACCES, errno.EPERM, errno.EROFS, *_NO_ROOM)

_MAX_NAME_CHARS = 60
"""Shown of one that is too long."""


def told_condition(fault: BaseException) -> str | None:
    """The line; None for a fault of another kind."""
    if isinstance(fault, OSError) and fault.errno in _CONDITIONS and fault.filename is not None:
        return f"{fault.filename}: {fault.strerror}; make room or allow it, then try again"
    if isinstance(fault, OSError) and fault.errno == errno.ENAMETOOLONG:
        return f"{str(fault.filename)[:_MAX_NAME_CHARS]}…: no disk takes a name of this length; name another"
    if _is_full_database(fault) or (isinstance(fault, OSError) and fault.errno in _NO_ROOM):
        return "no room is left on the disk; make room, then go on"
    return None


def _is_full_database(fault: BaseException) -> bool:
    """Of a session's checkpoints. Where sqlite was never imported it is none of its faults."""
    sqlite = sys.modules.get("sqlite3")
    if sqlite is None or not isinstance(fault, sqlite.OperationalError):
        return False
    return bool(getattr(fault, "sqlite_errorcode", None) == sqlite.SQLITE_FULL)
