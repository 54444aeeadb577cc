"""How long the engine thread takes for something, whatever else the machine does meanwhile."""

from __future__ import annotations

import resource
import time


class Stopwatch:
    """Seconds on the wall clock, unless the thread was made to wait for others: then those in which it ran.

    Waiting of its own accord, for a disk or a device, is part of what a step takes. Being put aside is not.
    """

    def __init__(self) -> None:
        """Begin."""
        self._started, self._ran, self._interruptions = time.perf_counter(), time.thread_time(), _interruptions()

    def seconds(self) -> float:
        """Since the beginning."""
        if _interruptions() > self._interruptions:
            return time.thread_time() - self._ran
        return time.perf_counter() - self._started


def _interruptions() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
