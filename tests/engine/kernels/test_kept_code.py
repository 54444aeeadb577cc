"""Kernels on disk are compiled anew when any of their sources has changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kodkod_engine.constraints import suffix_automaton
from kodkod_engine.kernels import kept_code, rms_norm

CALLED = "from numba import njit\n\n@njit(cache=True)\ndef number():\n    return {}\n"
CALLER = "from called import number\nfrom numba import njit\n\n@njit(cache=True)\ndef kernel():\n    return number()\n"
RUN = """
import sys
from pathlib import Path
from kodkod_engine.kernels import bf16, kept_code
kept_code.FOLDER = Path(sys.argv[1])
sys.path.insert(0, sys.argv[1])
import caller
print(caller.kernel(), sum(caller.kernel.stats.cache_hits.values()))
"""


def _run(folder: Path) -> str:
    return subprocess.run([sys.executable, "-c", RUN, str(folder)], check=True, capture_output=True, text=True).stdout


def test_what_a_kernel_calls_may_change_in_another_file(tmp_path: Path) -> None:
    (tmp_path / "caller.py").write_text(CALLER)
    (tmp_path / "called.py").write_text(CALLED.format(1))
    assert _run(tmp_path) == "1 0\n"
    assert _run(tmp_path) == "1 1\n"
    (tmp_path / "called.py").write_text(CALLED.format(2))
    assert _run(tmp_path) == "2 0\n"


def test_kernels_alone_are_stamped_so() -> None:
    outside = next(value for value in vars(suffix_automaton).values() if hasattr(value, "_cache"))
    stamps = [kernel._cache._impl.locator.get_source_stamp() for kernel in (rms_norm._kernel, outside)]
    assert stamps[0][1] == kept_code.sources_hash()
    assert not isinstance(stamps[1], tuple)
