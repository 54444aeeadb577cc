"""What happens behind the screen, on its way to it: put from any thread, taken by one consumer at the screen's pace."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Feed:
    """A queue that wakes its reader once, however much is put before it reads."""

    def __init__(self, wake: Callable[[], object] = lambda: None) -> None:
        """`wake` is called from the putting thread when the first item comes in."""
        self.wake = wake
        self._items: list[object] = []
        self._lock = threading.Lock()

    def put(self, item: object) -> None:
        """Add one; never blocks."""
        with self._lock:
            is_first = not self._items
            self._items.append(item)
        if is_first:
            self.wake()

    def take(self) -> list[object]:
        """All that was put since the last time, in order."""
        with self._lock:
            items, self._items = self._items, []
        return items
