"""The shape that the GPU benchmark takes: whole where it has room, with fewer table rows where not."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

# Not imported here: the tests of its kernels say first that it is to interpret them.
pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="the benchmark needs Triton")

BENCH = Path(__file__).parents[3] / "engine" / "bench"


@pytest.fixture(autouse=True)
def _beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))


@pytest.mark.parametrize(("memory_gb", "is_whole"), [(150.1, True), (85.0, False), (float("inf"), True)])
def test_tables_that_fit(memory_gb: float, is_whole: bool) -> None:
    from gpu_model import values_for, with_tables_that_fit

    wanted = values_for(None, is_smoke=False, is_dry=False)
    values, told = with_tables_that_fit(wanted, memory_gb * 1e9)
    assert (values == wanted) is is_whole
    assert bool(told) is not is_whole
    # Everything but the tables stays as it is published.
    assert {name for name in wanted if values[name] != wanted[name]} <= {"ngram_vocab_size_ratio"}


def test_few_tables_stay_as_they_are() -> None:
    from gpu_model import values_for, with_tables_that_fit

    for wanted in (values_for(2, is_smoke=True, is_dry=False), values_for(None, is_smoke=False, is_dry=True)):
        assert with_tables_that_fit(wanted, 24e9) == (wanted, "")
