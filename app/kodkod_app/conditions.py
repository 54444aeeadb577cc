"""What a machine says of files for reasons that are not kodkod's, in one line with the way out."""

from __future__ import annotations

import errno
import sys

_CONDITIONS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


def told_condition(fault: BaseException) -> str | None:
    """The line; None for a fault of another kind."""
    if isinstance(fault, OSError) and fault.errno in _CONDITIONS and fault.filename is not None:
        return f"{fault.filename}: {fault.strerror}; make room or allow it, then try again"
    if _is_full_database(fault):
        return "no room is left on the disk for the session; make room, then go on with it"
    return None


def _is_full_database(fault: BaseException) -> bool:
    """Of a session's checkpoints. Where sqlite was never imported it is none of its faults."""
    sqlite = sys.modules.get("sqlite3")
    if sqlite is None or not isinstance(fault, sqlite.OperationalError):
        return False
    return bool(getattr(fault, "sqlite_errorcode", None) == sqlite.SQLITE_FULL)
