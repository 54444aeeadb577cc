"""What a step takes is what the engine thread takes for it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from kodkod_engine.core import stopwatch
from kodkod_engine.core.stopwatch import Stopwatch

NAP_S = 0.02


def interruptions(monkeypatch: pytest.MonkeyPatch, *counts: int) -> None:
    """Of the thread, as the system counts them."""
    told: Iterator[int] = iter(counts)
    monkeypatch.setattr(stopwatch, "_interruptions", lambda: next(told))


def test_waiting_for_a_disk_or_a_device_counts(monkeypatch):
    interruptions(monkeypatch, 4, 4)
    watch = Stopwatch()
    time.sleep(NAP_S)
    assert watch.seconds() >= NAP_S


def test_being_put_aside_for_others_does_not(monkeypatch):
    interruptions(monkeypatch, 4, 5)
    watch = Stopwatch()
    time.sleep(NAP_S)
    assert 0 < watch.seconds() < NAP_S


def test_the_system_counts_them():
    assert stopwatch._interruptions() >= 0
