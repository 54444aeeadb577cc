"""Work that is measured beside the engine runs where the engine computes, and fails where it was asked for."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from kodkod_engine import load_engine
from kodkod_engine.benchmark.completions import complete_together, on_engine_thread


@pytest.fixture(scope="module")
def engine(tiny_folder):
    with closing(load_engine(tiny_folder)) as opened:
        yield opened


def thread_name() -> str:
    return threading.current_thread().name


def test_work_runs_once_on_the_engines_thread(engine):
    names: list[str] = []
    on_engine_thread(engine, lambda: names.append(thread_name()))
    complete_together(engine, [(5, 6)], 3)
    assert names == ["kodkod-engine"]


def test_what_fails_is_raised_here_and_the_engine_goes_on(engine):
    with pytest.raises(ZeroDivisionError):
        on_engine_thread(engine, lambda: 1 // 0)
    assert on_engine_thread(engine, lambda: 7) == 7
    assert complete_together(engine, [(5, 6)], 2)[0].usage.generated_tokens == 2
