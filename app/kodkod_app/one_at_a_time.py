"""What several workers need, in this process or in others, is made by one of them."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = ".making"


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold a folder, made if it is not there, while something is made in it; whoever comes meanwhile waits.

    The system lets go of it when the process ends, however it ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
