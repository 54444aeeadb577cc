"""One process at a time writes to a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kodkod_engine.errors import FolderBusy


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a folder; the system lets go of it when the process ends, however it ends.

    Nothing is left in the folder. A file system that cannot lock folders (some network ones) is used without.

    Raises:
        FolderBusy: another process holds it.
    """
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as fault:
            raise FolderBusy(
                f"{folder}: another process is writing to it; wait for it, or give another folder"
            ) from fault
        except OSError:
            pass
        yield
    finally:
        os.close(place)
