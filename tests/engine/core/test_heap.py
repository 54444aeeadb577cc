"""What is given back is kept for the next step."""

from __future__ import annotations

import resource
import sys

import pytest
import torch

from kodkod_engine.core.heap import keep_freed_memory

PIECE_BYTES, PAGE_BYTES, STEPS = 40 << 20, 4096, 12
"""A piece is larger than any that glibc keeps by itself."""


def fresh_pages_of_a_step() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(PIECE_BYTES, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_a_piece_that_comes_and_goes_is_not_asked_of_the_system_each_time():
    if not keep_freed_memory():
        pytest.skip("this C library cannot be told")
    # Not every time: something small may have been put where the last one was.
    assert min(fresh_pages_of_a_step() for _ in range(STEPS)) < PIECE_BYTES // PAGE_BYTES / 10


def test_another_system_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
