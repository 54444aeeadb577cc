"""What is given back is kept for the next step."""

from __future__ import annotations

import resource
import sys

import pytest
import torch

from kodkod_engine.core.heap import keep_freed_memory

PIECE_BYTES, PAGE_BYTES, STEPS = 40 << 20, 4096, 6


def fresh_pages() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_a_piece_that_comes_and_goes_is_not_asked_of_the_system_again():
    if not keep_freed_memory():
        pytest.skip("this C library cannot be told")
    torch.zeros(PIECE_BYTES, dtype=torch.uint8)
    before = fresh_pages()
    for _ in range(STEPS):
        torch.zeros(PIECE_BYTES, dtype=torch.uint8)
    assert fresh_pages() - before < STEPS * PIECE_BYTES // PAGE_BYTES / 2


def test_another_system_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
