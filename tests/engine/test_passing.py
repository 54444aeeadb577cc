"""Work on a thread that ends: its result, its faults, its OpenMP threads, and whoever is interrupted while it waits."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch

from kodkod_engine.passing import in_passing

TASKS = Path("/proc/self/task")
PATIENCE_S = 30


def test_results_and_faults_come_as_if_called_here() -> None:
    assert in_passing(lambda: threading.current_thread() is threading.main_thread()) is False
    with pytest.raises(ZeroDivisionError):
        in_passing(lambda: 1 // 0)


def test_its_thread_is_gone_afterwards() -> None:
    worker = in_passing(threading.current_thread)
    assert worker is not threading.current_thread()
    assert not worker.is_alive()


def settled_threads() -> int:
    """Of this process, when those that other tests left have ended."""
    counts = [0] * 20
    while len(set(counts)) > 1 or not counts[0]:
        time.sleep(0.02)
        counts = [*counts[1:], len(list(TASKS.iterdir()))]
    return counts[0]


@pytest.mark.skipif(not TASKS.is_dir(), reason="counts threads as Linux tells them")
def test_no_thread_is_left() -> None:
    values = torch.ones(1 << 22)
    before = settled_threads()
    while_it_computes = in_passing(lambda: (values.sum(), len(list(TASKS.iterdir())))[1])
    assert while_it_computes > before
    ends_s = time.monotonic() + PATIENCE_S
    while len(list(TASKS.iterdir())) > before and time.monotonic() < ends_s:
        time.sleep(0.01)
    assert len(list(TASKS.iterdir())) == before


def test_an_interruption_stops_the_work_and_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped, has_ended = threading.Event(), threading.Event()

    def work() -> None:
        assert stopped.wait(PATIENCE_S)
        has_ended.set()

    def interrupted(_waiting: Future[None]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        in_passing(work, stopped.set)
    assert has_ended.is_set()


def test_a_fault_of_the_work_needs_no_stop() -> None:
    with pytest.raises(OSError, match="no such file"):
        in_passing(Path("/no such file").stat, lambda: pytest.fail("it was stopped"))
