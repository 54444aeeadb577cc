"""With how many threads torch computes, where several engines, or an engine and others, share a process.

`torch.set_num_threads` counts for the thread that calls it, and is what every thread begins with that computes for the
first time afterwards. An engine keeps to one thread within most of its steps: another one that is loaded meanwhile
would keep to one for good.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_usual: dict[int, int] = {}
"""What threads go back to that keep to one at the moment, by their ids."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Have torch compute with the calling thread alone."""
    thread_id = threading.get_ident()
    if thread_id in _usual:
        yield
        return
    own = _usual[thread_id] = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(own)
        del _usual[thread_id]


def usual_threads() -> int:
    """What the calling thread computes with, or would if nobody kept to one thread just now."""
    own = torch.get_num_threads()
    return own if own > 1 else max([own, *_usual.values()])
