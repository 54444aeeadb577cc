"""Files whose pages are weights: what happens to a file happens to the model."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable
from pathlib import Path

from kodkod_engine.errors import CheckpointCorrupt


class MappedFiles:
    """Holds the files open and tells when one was written to.

    Reading a page behind the end of a file that was cut short kills the process; a page that was written to is another
    weight. A file that was removed, or replaced by another under its name, stays as it was for whoever mapped it.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        """Remember how they are now."""
        opened = [(path, os.open(path, os.O_RDONLY)) for path in sorted(set(paths))]
        self._files = [(path, file, _stamp(file)) for path, file in opened]
        weakref.finalize(self, _close_all, [file for _, file in opened]).atexit = False

    def require_unchanged(self) -> None:
        """A microsecond per file; what is written after it is found the next time.

        Raises:
            CheckpointCorrupt: one was written to or cut short.
        """
        for path, file, stamp in self._files:
            if _stamp(file) != stamp:
                raise CheckpointCorrupt(
                    f"{path}: was written to while a model was mapped from it; fetch or convert it anew, load again"
                )


def _stamp(file: int) -> tuple[int, int]:
    facts = os.fstat(file)
    return facts.st_size, facts.st_mtime_ns


def _close_all(files: Iterable[int]) -> None:
    for file in files:
        os.close(file)
