"""Work beside the engine's thread that leaves no threads of its own behind.

Every thread that has torch compute in parallel gets OpenMP threads, which live as long as it does. While there are more
of them than cores, all of them sleep between operations: measuring the memory's rate on a main thread once made every
step after it a quarter longer, and so does packing weights there while they load.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def in_passing(work: Callable[[], Result], stop: Callable[[], object] | None = None) -> Result:
    """Do something on a thread that ends, and its OpenMP threads with it: as many as this thread would have.

    Args:
        work: may raise, as if it were called here.
        stop: called when whoever waits is interrupted; the work is to end soon after, which is waited for.
    """
    import torch

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(
        1, thread_name_prefix="kodkod-passing", initializer=torch.set_num_threads, initargs=(threads,)
    ) as passing:
        try:
            return passing.submit(work).result()
        except KeyboardInterrupt:
            if stop is not None:
                stop()
            raise
