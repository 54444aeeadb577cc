"""Reading the small files that a project brings for us to heed, whatever lies in their place."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_small(path: Path, max_bytes: int, *, follows_links: bool = True) -> bytes:
    """The whole of a file.

    Raises:
        OSError: it is not there, larger, or no plain file: a pipe would be waited for, and a device may never end.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follows_links else os.O_NOFOLLOW)
    with os.fdopen(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no plain file", str(path))
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes:,} bytes", str(path))
    return data
