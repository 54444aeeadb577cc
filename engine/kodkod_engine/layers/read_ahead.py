"""Asking the system for table rows before they are read, so that the disk works on many at once.

What a step is about to read is asked for at once; what later steps of a prompt will read is asked for by a thread of
its own, while the step computes: hashing and asking for a thousand tokens' rows takes some ten milliseconds.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from kodkod_engine.layers.ngram_hash import NgramHasher

PIECE_TOKENS = 512
"""Hashed at a time by the thread."""

CAN_ASK = hasattr(os, "posix_fadvise")


@dataclass(frozen=True, slots=True)
class TablePlace:
    """Where a table's rows lie."""

    file: int
    """An open file."""
    offset: int
    row_bytes: int

    def ask(self, rows: Sequence[int]) -> None:
        """Tell the system that these rows will be read; returns before they are."""
        if not CAN_ASK:
            return
        for row in rows:
            place = self.offset + row * self.row_bytes
            os.posix_fadvise(self.file, place, self.row_bytes, os.POSIX_FADV_WILLNEED)


class ReadAhead:
    """Asks for the rows of windows to come; the last to use it closes the files."""

    def __init__(self, places: Sequence[TablePlace], hasher: NgramHasher) -> None:
        self.places = tuple(places)
        self._hasher = hasher
        # The thread starts with the first task, and is joined before the interpreter ends.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kodkod-rows")
        end = weakref.finalize(self, _leave, self._thread, {place.file for place in places})
        end.atexit = False  # the system closes files then, and the thread takes no more tasks

    def expect(self, windows: Tensor) -> None:
        """Ask for all rows of these windows, soon: int64 [tokens, 1 + context]. Returns at once."""
        if CAN_ASK:
            for piece in windows.split(PIECE_TOKENS):
                self._thread.submit(_ask, self.places, self._hasher, piece)

    def settle(self) -> None:
        """Wait until everything expected so far has been asked for."""
        self._thread.submit(int).result()


def _ask(places: Sequence[TablePlace], hasher: NgramHasher, windows: Tensor) -> None:
    for place, ids in zip(places, hasher.row_ids(windows).unbind(1), strict=True):
        place.ask(ids.unique().tolist())


def _leave(thread: ThreadPoolExecutor, files: set[int]) -> None:
    """Close the files behind whatever is still to be asked for; no waiting, since any thread may collect garbage."""
    thread.submit(_close_all, files)
    thread.shutdown(wait=False)


def _close_all(files: set[int]) -> None:
    for file in files:
        os.close(file)
